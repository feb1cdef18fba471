"""Answers with a proof: the likeliest token after the other, or one that was drawn, and one proof for all of them.

Follows `docs/spec/proof-answer.md`. An answer is proven at once: the program reads prompt and answer, and says the
token that follows after each place of the answer; those are the answer itself, one place later.

Invariants:

- What is checked follows from the card that the verifier trusts and the tokens that it sees, never from the file alone.
- A file that is accepted says nothing beyond: this model answers this prompt so.
- An answer that was drawn is no answer for somebody who did not agree to that.

Example:
    >>> answer = prove_answer(prepared, prompt, count=16)
    >>> check_answer(Answer.parse(answer.encode()), model="5f1c…")
    101.2
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import msgspec
import numpy as np

from mitai.errors import ParseError, ProofError
from mitai.proof.card import MAX_CARD_BYTES, MAX_TOKENS, ModelCard
from mitai.proof.models.generate import Generation
from mitai.proof.operation import Ints
from mitai.proof.operations import Argmax
from mitai.proof.prepared import Prepared
from mitai.proof.program import Program
from mitai.proof.proving import prove
from mitai.proof.sampling import Agreed, Sampling, differs
from mitai.proof.verify.program import verify
from mitai.proof.verify.soundness import LEAST_BITS
from mitai.proof.verify.statement import Statement

MAX_ANSWER_BYTES = 1 << 28

Token = Annotated[int, msgspec.Meta(ge=0, lt=1 << 20)]
Tokens = Annotated[tuple[Token, ...], msgspec.Meta(min_length=1, max_length=MAX_TOKENS)]


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A file that proves itself.

    Attributes:
        v: The format.
        card: The model's, as it is encoded.
        prompt: Tokens.
        answer: Tokens.
        proof: All messages.
        sampling: How tokens were drawn; absent where they are the likeliest.
    """

    v: Literal["mitai proof answer v1"] = "mitai proof answer v1"
    card: Annotated[bytes, msgspec.Meta(max_length=MAX_CARD_BYTES)]
    prompt: Tokens
    answer: Tokens
    proof: bytes
    sampling: Sampling | msgspec.UnsetType = msgspec.UNSET

    def encode(self) -> bytes:
        """Return the one encoding."""
        return msgspec.msgpack.encode(self)

    @staticmethod
    def parse(data: bytes) -> Answer:
        """Read a file.

        Raises:
            ParseError: `proof.answer-malformed`.
        """
        if len(data) > MAX_ANSWER_BYTES:
            raise ParseError("proof.answer-malformed", f"{len(data)} bytes are too many for an answer with its proof")
        try:
            answer = msgspec.msgpack.decode(data, type=Answer)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            raise ParseError("proof.answer-malformed", "these bytes are no answer with a proof") from None
        if answer.encode() != data:
            raise ParseError("proof.answer-malformed", "the answer is not in its one encoding")
        return answer


def generate(
    prepared: Prepared, prompt: list[int], count: int, emit: Callable[[int], bool], sampling: Sampling | None = None
) -> list[int]:
    """Return up to so many tokens of an answer; `emit` gets each, and says whether there shall be more."""
    card = prepared.card
    generation = Generation(card.model, card.reaches, prepared.weights.arrays)
    noise = sampling.noise(card.identity, prompt, card.model.vocabulary) if sampling else None
    answer: list[int] = []
    following = prompt
    while len(answer) < count:
        place = len(answer)
        token = generation.step(following, noise.rows(place, place + 1) if noise else None).token
        answer.append(token)
        following = [token]
        if not emit(token):
            break
    return answer


def prove_answer(prepared: Prepared, prompt: list[int], answer: list[int], sampling: Sampling | None = None) -> Answer:
    """Prove an answer that `generate` gave.

    Raises:
        ProofError: `proof.answer-differs`: the model answers otherwise. `proof.out-of-range`: see `prove`.
    """
    card = prepared.card
    program = card.program(len(prompt), len(answer), drawn=sampling is not None)
    wanted = {"token": np.array(answer, np.int64)}
    proof = prove(program, _inputs(card, prompt, answer, sampling), prepared.weights, wanted=wanted)
    return Answer(
        card=card.encode(),
        prompt=tuple(prompt),
        answer=tuple(answer),
        proof=proof.messages,
        sampling=sampling or msgspec.UNSET,
    )


def check_answer(answer: Answer, model: str, agreed: Agreed | None = None, least_bits: int = LEAST_BITS) -> float:
    """Check that the model of this identity answers this prompt so; return the security in bits.

    Args:
        answer: With its proof.
        model: The identity.
        agreed: How it was to be drawn; None if its tokens have to be the likeliest.
        least_bits: Of security, which it has to have.

    Raises:
        ProofError: `proof.model-differs`: it is another model's. `proof.sampling-differs`: its tokens were chosen in
            another way than agreed. `proof.too-few-bits`. Or the first check of the proof that does not hold.
        ParseError: The card is malformed.
    """
    return verify(claimed(answer, model, agreed), answer.proof, least_bits)


def claimed(answer: Answer, model: str, agreed: Agreed | None = None) -> Statement:
    """Return what an answer's proof has to prove, if it is the model's and was drawn as agreed; raise otherwise."""
    card = ModelCard.parse(answer.card)
    if card.identity != model:
        raise ProofError(
            "proof.model-differs",
            f"the answer is of model {card.identity}, not of the one that was asked for",
            step="model",
            hint="ask whoever publishes the model for its identity",
        )
    sampling = answer.sampling or None
    if (sampling is None) != (agreed is None):
        raise differs("the answer was drawn" if sampling else "the answer was not drawn, its tokens are the likeliest")
    if sampling and agreed:
        agreed.require(sampling)
    return statement(answer, card)


def statement(answer: Answer, card: ModelCard) -> Statement:
    """Return what an answer's proof has to prove."""
    sampling = answer.sampling or None
    program = card.program(len(answer.prompt), len(answer.answer), drawn=sampling is not None)
    if max(*answer.prompt, *answer.answer) >= card.model.vocabulary:
        raise ProofError("proof.statement-invalid", "a token is not in the model's vocabulary")
    said = np.array(answer.answer, np.int64)
    return Statement(
        program,
        bytes.fromhex(card.weights),
        _inputs(card, answer.prompt, answer.answer, sampling),
        {"token": said},
        {_choice(program): said},
        uses=card.uses or 0,
    )


def _inputs(
    card: ModelCard, prompt: Sequence[int], answer: Sequence[int], sampling: Sampling | None
) -> dict[str, Ints]:
    inputs: dict[str, Ints] = {"tokens": np.array([*prompt, *answer[:-1]], np.int64)}
    if sampling:
        inputs["noise"] = sampling.noise(card.identity, prompt, card.model.vocabulary).rows(0, len(answer))
    return inputs


def _choice(program: Program) -> int:
    return next(number for number, one in enumerate(program.operations) if isinstance(one, Argmax))
