"""What prover and auditor exchange: an answer with its trace's root, and what is asked for (docs/spec/audit.md).

Example:
    >>> committed = Committed.parse(Path("answer.committed").read_bytes())
    >>> claimed(committed.unproven, model="5f1c…").outputs["token"]
    array([5, 17])
    >>> Challenge.parse(b'{"steps":[3,70],"v":"mitai proof challenge v1"}').steps
    (3, 70)
"""

from __future__ import annotations

from hashlib import sha256
from itertools import pairwise
from typing import Annotated, Literal

import msgspec

from mitai.errors import ParseError, ProofError
from mitai.ledger.assurance import CommitAndAudit
from mitai.proof.answer import Answer, Tokens
from mitai.proof.card import MAX_CARD_BYTES, ModelCard
from mitai.proof.program import MAX_OPERATIONS
from mitai.proof.sampling import Sampling
from mitai.proof.transcript import HASH_BYTES
from mitai.proof.verify.statement import Statement
from mitai.wire import parse_json

LABEL = b"mitai proof trace v1\0"
MAGIC = b"mitai proof trace v1\n"  # the first bytes of what a prover sends
SCHEME = 1  # in receipts
SALT_BYTES = 32
MAX_COMMITTED_BYTES = MAX_CARD_BYTES + (1 << 16)
MAX_CHALLENGE_BYTES = 1 << 20

Digest = Annotated[bytes, msgspec.Meta(min_length=HASH_BYTES, max_length=HASH_BYTES)]
Step = Annotated[int, msgspec.Meta(ge=0, lt=MAX_OPERATIONS)]


class Committed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An answer, and the root over the trace that led to it.

    Attributes:
        v: The format.
        card: The model's, as it is encoded.
        prompt: Tokens.
        answer: Tokens.
        salt: What hides the answer from whoever has the root alone.
        root: Over statement and trace.
        sampling: How tokens were drawn; absent where they are the likeliest.
    """

    v: Literal["mitai proof committed v1"] = "mitai proof committed v1"
    card: Annotated[bytes, msgspec.Meta(max_length=MAX_CARD_BYTES)]
    prompt: Tokens
    answer: Tokens
    salt: Digest
    root: Digest
    sampling: Sampling | msgspec.UnsetType = msgspec.UNSET

    def __repr__(self) -> str:
        """Return it without prompt and answer."""
        return f"Committed(root={self.root.hex()!r})"

    def encode(self) -> bytes:
        """Return the one encoding."""
        return msgspec.msgpack.encode(self)

    @staticmethod
    def parse(data: bytes) -> Committed:
        """Read a file.

        Raises:
            ParseError: `proof.committed-malformed`.
        """
        if len(data) > MAX_COMMITTED_BYTES:
            raise ParseError("proof.committed-malformed", f"{len(data)} bytes are too many for an answer and a root")
        try:
            read = msgspec.msgpack.decode(data, type=Committed)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            raise ParseError("proof.committed-malformed", "these bytes are no answer with a trace's root") from None
        if read.encode() != data:
            raise ParseError("proof.committed-malformed", "the answer is not in its one encoding")
        return read

    @property
    def assurance(self) -> CommitAndAudit:
        """What a receipt promises of it."""
        return CommitAndAudit(identity=ModelCard.parse(self.card).identity, trace=self.root.hex(), scheme=SCHEME)

    @property
    def unproven(self) -> Answer:
        """The answer, without any proof."""
        return Answer(card=self.card, prompt=self.prompt, answer=self.answer, proof=b"", sampling=self.sampling)


class Challenge(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which steps an auditor wants to see: their places among all steps, ascending."""

    v: Literal["mitai proof challenge v1"] = "mitai proof challenge v1"
    steps: Annotated[tuple[Step, ...], msgspec.Meta(min_length=1, max_length=MAX_OPERATIONS)]

    def encode(self) -> bytes:
        """Return the one encoding."""
        return msgspec.json.encode(self, order="sorted")

    @staticmethod
    def parse(data: bytes) -> Challenge:
        """Read one.

        Raises:
            ParseError: `proof.challenge-malformed`.
        """
        code, message = "proof.challenge-malformed", "this asks for no steps of a trace"
        challenge = parse_json(data, Challenge, MAX_CHALLENGE_BYTES, code, message)
        if challenge.encode() != data:
            raise ParseError(code, "the challenge is not in its one encoding")
        return challenge


def asked(challenge: Challenge | None, count: int) -> tuple[int, ...]:
    """Return the places that a challenge of a trace of so many steps asks for: without one, all.

    Raises:
        ProofError: `proof.challenge-invalid`: they are not there, or not in ascending order.
    """
    if challenge is None:
        return tuple(range(count))
    if challenge.steps[-1] >= count or any(a >= b for a, b in pairwise(challenge.steps)):
        raise ProofError("proof.challenge-invalid", f"a challenge is of steps below {count}, in ascending order")
    return challenge.steps


def root_of(statement: Statement, salt: bytes, steps: bytes) -> bytes:
    """Return the root that is published: over what is claimed, and over the root of the steps' tree.

    Raises:
        ProofError: `proof.audit-unsupported`.
    """
    if statement.weights is None or statement.given is not None or statement.kept is not None:
        raise ProofError(
            "proof.audit-unsupported", "traces are of programs with weights, and nothing else that is secret"
        )
    public = [array for _, array in sorted(statement.inputs.items())] + [*statement.choices.values()]
    digests = [sha256(array.astype("<i8").tobytes()).digest() for array in public]
    return sha256(b"".join([LABEL, salt, statement.program.digest, statement.weights, *digests, steps])).digest()
