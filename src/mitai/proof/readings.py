"""What a model that reads says of a text, with a proof: BERT's class, or its embedding (docs/spec/proof-answer.md).

Invariants:

- What is checked follows from the card that the verifier trusts and the numbers that it sees, not from the file alone.

Example:
    >>> reading = prove_reading(prepared, [101, 7592, 102])
    >>> check_reading(Reading.parse(reading.encode()), model="5f1c…")
    (101.3, array([1.]))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
import numpy as np

from mitai.errors import ParseError, ProofError
from mitai.proof.answer import MAX_ANSWER_BYTES, Tokens
from mitai.proof.card import MAX_CARD_BYTES, ModelCard
from mitai.proof.graph import Graph, Real
from mitai.proof.operation import Ints
from mitai.proof.operations import Argmax
from mitai.proof.prepared import Prepared
from mitai.proof.proving import prove
from mitai.proof.verify.program import verify
from mitai.proof.verify.soundness import LEAST_BITS
from mitai.proof.verify.statement import Statement

_OUTPUT_BYTES = 8


class Reading(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A file that proves itself.

    Attributes:
        v: The format.
        card: The model's, as it is encoded.
        text: Tokens.
        outputs: The class, or the sum of all tokens' states: little-endian, 8 bytes a number.
        proof: All messages.
    """

    v: Literal["mitai proof reading v1"] = "mitai proof reading v1"
    card: Annotated[bytes, msgspec.Meta(max_length=MAX_CARD_BYTES)]
    text: Tokens
    outputs: bytes
    proof: bytes

    def encode(self) -> bytes:
        """Return the one encoding."""
        return msgspec.msgpack.encode(self)

    @staticmethod
    def parse(data: bytes) -> Reading:
        """Read a file.

        Raises:
            ParseError: `proof.answer-malformed`.
        """
        if len(data) > MAX_ANSWER_BYTES:
            raise ParseError("proof.answer-malformed", f"{len(data)} bytes are too many for a reading with its proof")
        try:
            reading = msgspec.msgpack.decode(data, type=Reading)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            raise ParseError("proof.answer-malformed", "these bytes are no reading with a proof") from None
        if reading.encode() != data:
            raise ParseError("proof.answer-malformed", "the reading is not in its one encoding")
        return reading

    def statement(self) -> tuple[Statement, Real]:
        """Return what has to be proven, and what the outputs stand for: a class, or the mean of all states.

        Raises:
            ParseError: The card is malformed.
            ProofError: The file's parts do not fit together.
        """
        card = ModelCard.parse(self.card)
        graph = card.reading(len(self.text))
        program = graph.program()
        [output] = program.outputs
        wanted = program.values[output.operand].shape
        fits = max(self.text) < card.reader.config.vocab_size
        if not fits or len(self.outputs) != _OUTPUT_BYTES * int(np.prod(wanted)):
            raise ProofError("proof.statement-invalid", "tokens or outputs are not such as the model has")
        said = np.frombuffer(self.outputs, "<i8").astype(np.int64).reshape(wanted)
        choices = {k: said for k, operation in enumerate(program.operations) if isinstance(operation, Argmax)}
        statement = Statement(
            program,
            bytes.fromhex(card.weights),
            {"tokens": _tokens(self.text)},
            {output.name: said},
            choices,
            uses=card.uses or 0,
        )
        return statement, _meant(graph, output.name, said, len(self.text))


def prove_reading(prepared: Prepared, text: Sequence[int]) -> Reading:
    """Read a text, and prove what came out.

    Raises:
        ProofError: `proof.out-of-range`: see `prove`. `proof.statement-invalid`: the text is too long.
    """
    card = prepared.card
    proof = prove(card.reading(len(text)).program(), {"tokens": _tokens(text)}, prepared.weights)
    [output] = proof.statement.outputs.values()
    return Reading(card=card.encode(), text=tuple(text), outputs=output.astype("<i8").tobytes(), proof=proof.messages)


def check_reading(reading: Reading, model: str, least_bits: int = LEAST_BITS) -> tuple[float, Real]:
    """Check that the model of this identity reads this text so, with so many bits of security.

    Returns:
        The security in bits; and the class, or the mean of all tokens' states.

    Raises:
        ProofError: `proof.model-differs`: it is another model's. Or the first check of the proof that does not hold.
        ParseError: The card is malformed.
    """
    identity = ModelCard.parse(reading.card).identity
    if identity != model:
        raise ProofError(
            "proof.model-differs",
            f"the reading is of model {identity}, not of the one that was asked for",
            step="model",
            hint="ask whoever publishes the model for its identity",
        )
    statement, meant = reading.statement()
    return verify(statement, reading.proof, least_bits), meant


def _tokens(text: Sequence[int]) -> Ints:
    return np.array(text, np.int64)


def _meant(graph: Graph, name: str, said: Ints, tokens: int) -> Real:
    real = np.ldexp(said.astype(np.float64), -graph.fractions[name]).reshape(-1)
    return real if name == "class" else real / tokens
