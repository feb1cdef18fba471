"""What a service signs for each answer before anybody knows whether it will be proven, and how a client checks it.

Follows `docs/spec/proof-service.md`, "Receipt".

Invariants:

- Digests are of tokens, under the answer's secret id: a proof can be compared with them, guesses of words can't.
- A receipt has one encoding and one signature: who could write it in other bytes could choose whether it is drawn.
- A receipt alone proves nothing. It says who answered what, and which proof is owed, or trace.

Example:
    >>> envelope = made(answer, terms, started, finished).sign(key)
    >>> opened(envelope, key.public, answer, terms).usage.completion_tokens
    24
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import msgspec
import numpy as np

from mitai.channel.exchange import Exchange
from mitai.errors import ProofError
from mitai.identity import Envelope, PublicKey
from mitai.ledger.assurance import CommitAndAudit, Proof, Sample
from mitai.ledger.receipt import ASSURED_LABEL, MAX_RECEIPT_BYTES, Receipt, Usage, verify_assured
from mitai.proof.answer import Answer, check_answer
from mitai.proof.audit.files import SCHEME
from mitai.proof.sampling import Agreed, commitment
from mitai.proof.verify.soundness import LEAST_BITS
from mitai.wire import parse_json

PROMPT_LABEL, DRAWN_LABEL = b"mitai proof prompt v1\0", b"mitai proof drawn prompt v1\0"
ANSWER_LABEL, SALT_LABEL = b"mitai proof tokens v1\0", b"mitai proof trace salt v1\0"

HEADER, DRAW_HEADER = "mitai-proof", "mitai-draw"  # of a request: what becomes of its answer

Promise = Literal["follows", "on-demand", "sampled"]
AnswerId = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9-]{0,64}\Z")]  # it becomes a part of addresses


@dataclass(frozen=True)
class Terms:
    """What is promised of an answer: by whom, and which proof.

    Attributes:
        model: Its name in the API.
        identity: The model's.
        promise: When the proof comes.
        sample: Where it is for a sample.
    """

    model: str
    identity: str
    promise: Promise = "on-demand"
    sample: Sample | None = None

    @property
    def assurance(self) -> Proof:
        """As receipts have it."""
        return Proof(identity=self.identity, promise=self.promise, sample=self.sample)


class Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a client keeps of one answer; its proof lies beside it.

    Attributes:
        v: The format.
        key: The service's, raw; whether it is the one that is known is for whoever checks to say.
        envelope: The receipt.
        id: The answer's: a secret, it fetches the words.
    """

    v: Literal["mitai proof receipt v1"] = "mitai proof receipt v1"
    key: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    envelope: Annotated[bytes, msgspec.Meta(max_length=MAX_RECEIPT_BYTES)]
    id: AnswerId

    def encode(self) -> bytes:
        """Return the JSON form."""
        return msgspec.json.format(msgspec.json.encode(self))

    @staticmethod
    def parse(data: bytes) -> Kept:
        """Read such a file.

        Raises:
            ParseError: `proof.receipt-malformed`.
        """
        return parse_json(data, Kept, 1 << 20, "proof.receipt-malformed", "this file holds no receipt of a service")


@dataclass(frozen=True)
class Said:
    """An answer, in tokens, and how it was to be drawn; its id is a secret of the service and its client."""

    id: str = field(repr=False)
    prompt: Sequence[int] = field(repr=False)
    answer: Sequence[int] = field(repr=False)
    agreed: Agreed | None = None

    @property
    def exchange(self) -> str:
        """Its public name."""
        return exchange_of(self.id)

    @property
    def digests(self) -> tuple[str, str]:
        """Of prompt and answer, as a receipt names them."""
        label, drawn = PROMPT_LABEL, b""
        if self.agreed is not None:
            label, drawn = DRAWN_LABEL, self.agreed.temperature.to_bytes(8, "little")
            drawn += bytes.fromhex(self.agreed.commitment or "") + (self.agreed.nonce or b"")
        return _digest(label, self.id, self.prompt, drawn), _digest(ANSWER_LABEL, self.id, self.answer)

    @property
    def salt(self) -> bytes:
        """What the root of its trace begins with: as secret as the id, and chosen by nobody."""
        return hashlib.sha256(SALT_LABEL + self.id.encode()).digest()


def exchange_of(answer_id: str) -> str:
    """Return the public name of an answer."""
    return Exchange("proof", answer_id).name


def made(said: Said, terms: Terms, started: str, finished: str, root: bytes | None = None) -> Receipt:
    """Return the receipt of an answer, to be signed; times are UTC, `YYYY-MM-DDThh:mm:ssZ`, the root is its trace's."""
    request_sha256, response_sha256 = said.digests
    traced = (CommitAndAudit(identity=terms.identity, trace=root.hex(), scheme=SCHEME),) if root else ()
    return Receipt(
        v=ASSURED_LABEL,
        exchange=said.exchange,
        request_sha256=request_sha256,
        response_sha256=response_sha256,
        model=terms.model,
        capsules=(),
        policies=(),
        usage=Usage(prompt_tokens=len(said.prompt), completion_tokens=len(said.answer)),
        evidence_sha256=None,
        started=started,
        finished=finished,
        assurances=(*traced, terms.assurance),
    )


def opened(envelope: bytes, key: PublicKey, said: Said | None, terms: Terms) -> Receipt:
    """Return a receipt when it is this service's, about this answer (where it is known), on these terms.

    Raises:
        MitaiError: It is not signed by this key, or is no receipt.
        ProofError: `proof.receipt-differs`: it says something else.
    """
    receipt, assurance = verify_assured(envelope, Proof, receipt_key=key)
    decoded = Envelope.decode(envelope)
    if decoded.encode() != envelope or [one.keyid for one in decoded.signatures] != [key.key_id]:
        raise _differs("it is not in its one encoding")
    if said is not None:
        named = receipt.exchange, receipt.request_sha256, receipt.response_sha256
        if named != (said.exchange, *said.digests):
            raise _differs("it is about another answer")
    if receipt.model != terms.model or assurance.identity != terms.identity:
        raise _differs("it is about another model")
    if assurance != terms.assurance:
        raise _differs("it promises something else")
    traced(receipt, terms.identity)
    return receipt


def traced(receipt: Receipt, identity: str) -> CommitAndAudit | None:
    """Return what a receipt says of the answer's trace, if anything.

    Raises:
        ProofError: `proof.receipt-differs`: it is about another model, or a scheme that is not known.
    """
    found = receipt.assurance(CommitAndAudit)
    if found and (found.identity, found.scheme) != (identity, SCHEME):
        raise _differs("its trace is of another model or scheme")
    return found


def proven(answer_id: str, receipt: Receipt, identity: str, data: bytes, least_bits: int = LEAST_BITS) -> float:
    """Check that a proof is about the answer of a receipt that was opened, and holds; return its bits.

    Args:
        answer_id: The answer's.
        receipt: The answer's.
        identity: The model's.
        data: A file.
        least_bits: Of security, which it has to have.

    Raises:
        ProofError: `proof.receipt-differs`; or the proof does not hold.
        ParseError: It is no proof.
    """
    answer = Answer.parse(data)
    return check_answer(answer, identity, agreed_for(answer_id, receipt, answer), least_bits)


def agreed_for(answer_id: str, receipt: Receipt, answer: Answer) -> Agreed | None:
    """Return how the answer of a receipt was to be drawn, if this is that answer.

    Raises:
        ProofError: `proof.receipt-differs`: it is another one.
    """
    agreed = None
    if drawn := answer.sampling or None:
        agreed = Agreed(drawn.temperature, drawn.nonce, commitment(drawn.seed))
    said = Said(answer_id, answer.prompt, answer.answer, agreed)
    if (said.exchange, *said.digests) != (receipt.exchange, receipt.request_sha256, receipt.response_sha256):
        raise _differs("it is about another answer than the one that is shown")
    return agreed


def _digest(label: bytes, answer_id: str, tokens: Sequence[int], drawn: bytes = b"") -> str:
    return hashlib.sha256(label + answer_id.encode() + b"\0" + drawn + np.array(tokens, "<u4").tobytes()).hexdigest()


def _differs(why: str) -> ProofError:
    return ProofError(
        "proof.receipt-differs",
        f"the receipt does not fit: {why}",
        step="receipt",
        hint="don't rely on this answer; ask the service's operator",
    )
