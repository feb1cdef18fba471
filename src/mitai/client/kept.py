"""An answer that a user keeps in words, so that it can be computed again: request, answers, fingerprints, receipt.

Invariants:

- It holds what was asked and answered in the clear: `mitai chat --keep` writes it for its owner's eyes alone.
- Fingerprints belong to the receipt that names their digest, or are refused.

Example:
    >>> kept = KeptAnswer.decode(path.read_bytes())
    >>> receipt, appraisal = receipts.check(kept.proof, policy)
    >>> kept.checked_fingerprints(receipt)
"""

from __future__ import annotations

from hashlib import sha256
from typing import Annotated, Literal

import httpx2
import msgspec

from mitai.channel.exchange import Exchange
from mitai.client.chat import Answer
from mitai.client.receipts import Proof
from mitai.errors import ClientError, ParseError
from mitai.ledger.assurance import Fingerprint
from mitai.ledger.receipt import Receipt
from mitai.problem import error_from

MAX_KEPT_BYTES = 16 << 20


class Said(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One choice of an answer, and why it ended."""

    text: str
    finish: Literal["stop", "length"]


class KeptAnswer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request and its answers.

    Attributes:
        request: The body that was sent to the OpenAI API.
        answers: All choices, in their order.
        fingerprints: As the replica sent them; `None` where it takes none.
        proof: The receipt and what it takes to check it.
    """

    v: Literal["mitai kept answer v1"] = "mitai kept answer v1"
    request: msgspec.Raw
    answers: Annotated[tuple[Said, ...], msgspec.Meta(min_length=1, max_length=1024)]
    fingerprints: bytes | None
    proof: Proof

    def encode(self) -> bytes:
        """Return the JSON form."""
        return msgspec.json.encode(self)

    @staticmethod
    def decode(data: bytes) -> KeptAnswer:
        """Parse a kept answer; raise `ParseError` on anything else or above its limit."""
        if len(data) > MAX_KEPT_BYTES:
            raise ParseError("client.kept-malformed", f"a kept answer of {len(data)} bytes is above the limit")
        try:
            return msgspec.json.decode(data, type=KeptAnswer)
        except (msgspec.MsgspecError, UnicodeError, RecursionError, ValueError) as error:
            raise ParseError("client.kept-malformed", "this file is not an answer that mitai has kept") from error

    def checked_fingerprints(self, receipt: Receipt) -> bytes | None:
        """Return the fingerprints that a checked receipt names; `None` where it names none.

        Raises:
            ClientError: It names others, or there are none here (`client.fingerprints-differ`).
        """
        named = receipt.assurance(Fingerprint)
        if named is None:
            return None
        if self.fingerprints is None or sha256(self.fingerprints).hexdigest() != named.digest:
            raise ClientError(
                "client.fingerprints-differ", "these are not the fingerprints that the receipt names", step="digest"
            )
        return self.fingerprints


def keep(answer: Answer, proof: Proof, fingerprints: bytes | None) -> KeptAnswer:
    """Return what is kept of a chat's answer; raise `ClientError` when the server gave another reason for its end."""
    if answer.finish_reason not in {"stop", "length"}:
        raise ClientError("client.answer-malformed", "the server gave another reason for its answer's end")
    said = Said(answer.text, "stop" if answer.finish_reason == "stop" else "length")
    body = msgspec.Raw(msgspec.json.encode(answer.body))
    return KeptAnswer(request=body, answers=(said,), fingerprints=fingerprints, proof=proof)


def fetch_fingerprints(http: httpx2.Client, exchange: Exchange) -> bytes | None:
    """Fetch the fingerprints of an exchange, through the sealed channel; `None` where the replica takes none.

    Raises:
        ClientError: The replica refuses, or sends more than any fingerprints have.
    """
    answer = http.get(f"/v1/fingerprints/{exchange.id}")
    if answer.status_code == 404:
        return None
    if answer.status_code != 200 or len(answer.content) > MAX_KEPT_BYTES:
        raise error_from(
            ClientError, answer.status_code, answer.content, code="client.no-fingerprints", who="the replica"
        )
    return answer.content
