"""A replica's way to its key broker: evidence first, then sealed requests.

The host tells the replica which broker to use, so a replica can't know that it is the right one; it need not:

- the model's key arrives sealed to the replica's own attested key, and the model's manifest is signed by its owner;
- what it tells the broker (its evidence, receipts) holds digests only;
- its claims name the ledger that it writes to and the capsule that it opened, and its clients check both.

With a policy the broker is verified like any other machine, before anything is sent to it.

Example:
    >>> link = BrokerLink("https://gateway.example/broker", policy)
    >>> link.post("/v1/challenge", b"{}")
"""

from __future__ import annotations

import secrets

import httpx2

from mitai.attest import Claims, Evidence, Policy
from mitai.client.session import Session
from mitai.client.transport import OhttpTransport
from mitai.errors import MitaiError, ServeError
from mitai.problem import error_from
from mitai.workload import EVIDENCE_PATH

MAX_EVIDENCE_BYTES = 8 << 20
MAX_ANSWER_BYTES = 64 << 20


class BrokerLink:
    """Sealed requests to one broker.

    Args:
        url: The broker's address.
        policy: What its evidence must show; `None` takes its word.

    Raises:
        AttestError: The broker's evidence was refused.
        MitaiError: The broker can't be reached, or sends nonsense.
    """

    def __init__(self, url: str, policy: Policy | None) -> None:
        self._url = url.rstrip("/")
        self._plain = httpx2.Client(timeout=30.0)
        try:
            self._session = self._verify(policy)
        except BaseException:
            self._plain.close()
            raise
        self._http = httpx2.Client(
            transport=OhttpTransport(httpx2.HTTPTransport(), self._session, self._url), timeout=60.0
        )

    def _verify(self, policy: Policy | None) -> Session | _Unverified:
        if policy is None:
            return _Unverified(self._url, self._plain)
        return Session(self._url, policy, workload="broker", http=self._plain)

    @property
    def claims(self) -> Claims:
        """What the broker says of itself: its ledger is among it."""
        return self._session.appraisal.claims if isinstance(self._session, Session) else self._session.claims

    def post(self, path: str, body: bytes) -> bytes:
        """Send a sealed request; return the body of its answer, or raise the error that it tells."""
        try:
            with self._http.stream(
                "POST", self._url + path, content=body, headers={"content-type": "application/json"}
            ) as answer:
                content = _bounded(answer, MAX_ANSWER_BYTES)
        except httpx2.HTTPError as error:
            raise _unreachable(error) from None
        if answer.status_code != 200:
            raise error_from(ServeError, answer.status_code, content, code="serve.broker-refused", who="the key broker")
        return content

    def close(self) -> None:
        """Close the connections."""
        self._http.close()
        self._plain.close()


class _Unverified:
    """The broker's key as its evidence says, without a look at the quote."""

    replica: str | None = None

    def __init__(self, url: str, http: httpx2.Client) -> None:
        self._url, self._http = url, http
        self.renew()

    @property
    def key_config(self) -> bytes:
        return self.claims.key_config

    def renew(self) -> None:
        try:
            nonce = secrets.token_hex(32)
            with self._http.stream("GET", self._url + EVIDENCE_PATH, params={"nonce": nonce}) as answer:
                body = _bounded(answer, MAX_EVIDENCE_BYTES)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise _unreachable(error) from None
        if answer.status_code != 200:
            raise error_from(ServeError, answer.status_code, body, code="serve.broker-refused", who="the key broker")
        self.claims = Claims.decode(Evidence.decode(body).claims)


def _bounded(answer: httpx2.Response, limit: int) -> bytes:
    body = bytearray()
    for part in answer.iter_bytes():
        body += part
        if len(body) > limit:
            raise ServeError("serve.broker-answer-too-large", f"the broker's answer is larger than {limit} bytes")
    return bytes(body)


def _unreachable(error: Exception) -> MitaiError:
    return ServeError(
        "serve.broker-unreachable",
        f"the key broker can't be reached ({type(error).__name__})",
        hint="is it up, and is its address right?",
    )
