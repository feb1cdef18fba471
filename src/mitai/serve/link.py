"""A replica's way to its key broker: evidence first, then sealed requests.

The host tells the replica which broker to use, and by which policy to verify it; the digest of that policy is in the
replica's claims, as `broker_policy_sha256`. Who trusts the replica's code can go further and pin its ledger.

- The model's key arrives sealed to the replica's own attested key, and the model's manifest is signed by its owner.
- It stays with one broker: the one whose ledger was in the first verified claims.
- What it tells the broker (its evidence, receipts) holds digests only.

Example:
    >>> link = BrokerLink("https://gateway.example/broker", policy)
    >>> link.post("/v1/challenge", b"{}")
"""

from __future__ import annotations

import httpx2
import msgspec

from mitai.attest import Claims, Policy
from mitai.bodies import bounded
from mitai.client.session import Session
from mitai.client.transport import OhttpTransport
from mitai.errors import MitaiError, ServeError
from mitai.problem import error_from

MAX_ANSWER_BYTES = 64 << 20


class BrokerLink:
    """Sealed requests to one broker.

    Args:
        url: The broker's address.
        policy: What its evidence must show.

    Raises:
        AttestError: The broker's evidence was refused.
        MitaiError: The broker can't be reached, or sends nonsense.
    """

    def __init__(self, url: str, policy: Policy) -> None:
        self._url = url.rstrip("/")
        self._session = Session(self._url, policy, workload="broker")
        ledger = self.claims.ledger
        if ledger is None:
            raise ServeError("serve.broker-without-ledger", "the key broker's claims name no ledger")
        # Another genuine broker, or a new one, is not this one: its ledger is asked for at every later verification.
        pinned = msgspec.structs.replace(policy.claims, ledger_vkey=ledger.vkey)
        self._session.policy = msgspec.structs.replace(policy, claims=pinned)
        self._http = httpx2.Client(transport=OhttpTransport(httpx2.HTTPTransport(), self._session, self._url))

    @property
    def claims(self) -> Claims:
        """What the broker says of itself: its ledger is among it."""
        return self._session.appraisal.claims

    @property
    def audience(self) -> str:
        """How signed structures name this broker."""
        return self.claims.extra.get("audience", "")

    def post(self, path: str, body: bytes, *, timeout_s: float = 60.0) -> bytes:
        """Send a sealed request; return the body of its answer, or raise the error that it tells."""
        headers = {"content-type": "application/json"}
        try:
            with self._http.stream(
                "POST", self._url + path, content=body, headers=headers, timeout=timeout_s
            ) as answer:
                content = bounded(answer, MAX_ANSWER_BYTES)
        except httpx2.HTTPError as error:
            raise _unreachable(error) from None
        if content is None:
            raise ServeError(
                "serve.broker-answer-too-large", f"the broker's answer is larger than {MAX_ANSWER_BYTES} bytes"
            )
        if answer.status_code != 200:
            raise error_from(ServeError, answer.status_code, content, code="serve.broker-refused", who="the key broker")
        return content

    def close(self) -> None:
        """Close the connections."""
        self._http.close()


def _unreachable(error: Exception) -> MitaiError:
    return ServeError(
        "serve.broker-unreachable",
        f"the key broker can't be reached ({type(error).__name__})",
        hint="is it up, and is its address right?",
    )
