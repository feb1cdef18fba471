"""What everybody may know of a model whose answers are proven: its card, whose digest is the model's identity.

Follows `docs/spec/proof-answer.md`. From a card follow the programs of all answers: a verifier needs no weights.

Example:
    >>> card = ModelCard.parse(Path("prepared/card.json").read_bytes())
    >>> card.identity, card.program(prompt=12, answer=8).digest
    ('5f1c…', b'...')
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Annotated, Literal

import msgspec

from mitai.errors import ParseError, ProofError
from mitai.mpc.models.config import MAX_CONFIG_BYTES, BertConfig, Gpt2Config, LlamaConfig, parse_config
from mitai.proof.graph import Graph
from mitai.proof.models.bert import Bert
from mitai.proof.models.decoder import Decoder
from mitai.proof.models.gpt2 import Gpt2
from mitai.proof.models.llama import Llama
from mitai.proof.program import Program
from mitai.proof.verify.hiding import MAX_USES
from mitai.wire import parse_json

LABEL = b"mitai proof model v1\0"
MAX_CARD_BYTES = 4 << 20
MAX_TOKENS = 4096  # of prompt and answer together
MAX_INSPECTED = 1 << 26  # numbers in the program of a card that nobody checked: a few seconds

Reach = Annotated[int, msgspec.Meta(ge=-64, le=62)]


class ModelCard(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, dict=True):
    """A model.

    Attributes:
        v: The format.
        config: The text of its Hugging Face `config.json`.
        reaches: How large its numbers become, by name, as calibration found.
        weights: Root of the commitment to its weights, in hex.
        tokenizer: SHA-256 of its `tokenizer.json`, in hex; empty if it has none.
        uses: How many proofs its commitment hides it in; absent where proofs are succinct ones, which hide nothing.
    """

    v: Literal["mitai proof model v1"] = "mitai proof model v1"
    config: Annotated[str, msgspec.Meta(max_length=MAX_CONFIG_BYTES)]
    reaches: dict[str, Reach]
    weights: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    tokenizer: Annotated[str, msgspec.Meta(pattern="^([0-9a-f]{64})?$")] = ""
    uses: Annotated[int, msgspec.Meta(ge=1, le=MAX_USES)] | msgspec.UnsetType = msgspec.UNSET

    def encode(self) -> bytes:
        """Return the one encoding."""
        return msgspec.json.encode(self, order="sorted")

    @staticmethod
    def parse(data: bytes) -> ModelCard:
        """Read an encoded card.

        Raises:
            ParseError: `proof.card-malformed`.
        """
        card = parse_json(data, ModelCard, MAX_CARD_BYTES, "proof.card-malformed", "this is no card of a model")
        if card.encode() != data:
            raise ParseError("proof.card-malformed", "the card is not in its one encoding")
        return card

    @cached_property
    def identity(self) -> str:
        """SHA-256 over label and encoding, in hex."""
        return hashlib.sha256(LABEL + self.encode()).hexdigest()

    @cached_property
    def model(self) -> Decoder:
        """What writes the programs of a model that generates.

        Raises:
            MitaiError: The configuration is of no family that does so and is proven here.
        """
        return decoder(self.config.encode())

    @cached_property
    def reader(self) -> Bert:
        """What writes the programs of a model that reads.

        Raises:
            MitaiError: The configuration is of no family that does so and is proven here.
        """
        found = family(self.config.encode())
        if not isinstance(found, Bert):
            raise ProofError("proof.model-unsupported", "the model generates, and does not read")
        return found

    def reading(self, tokens: int) -> Graph:
        """Return the program that reads a text of so many tokens, with its fractions.

        Raises:
            ProofError: There are too few or too many of them, or the calibration is of another model.
        """
        if not 1 <= tokens <= min(MAX_TOKENS, self.reader.config.max_position_embeddings):
            raise ProofError("proof.statement-invalid", "the text has more tokens than the model reads, or none")
        with _follows():
            return self.reader.write(Graph(self.reaches), tokens)

    @property
    def declared(self) -> Program:
        """A program that has all its weights."""
        generates = isinstance(family(self.config.encode()), Decoder)
        return self.program(1, 1) if generates else self.reading(1).program()

    def program(self, prompt: int, answer: int, *, drawn: bool = False) -> Program:
        """Return the program in which an answer of so many tokens follows a prompt of so many.

        Args:
            prompt: How many tokens.
            answer: The same.
            drawn: Whether tokens are drawn with noise, and not the likeliest.

        Raises:
            ProofError: There are too few or too many of them, or the calibration is of another model.
        """
        if prompt < 1 or answer < 1 or prompt + answer > MAX_TOKENS:
            raise ProofError("proof.statement-invalid", f"prompt and answer have 2 to {MAX_TOKENS} tokens together")
        graph = Graph(self.reaches)
        with _follows():
            return self.model.write(graph, prompt + answer - 1, answers=answer, keep=False, drawn=drawn).program()


@contextmanager
def _follows() -> Iterator[None]:
    try:
        yield
    except (ValueError, OverflowError):  # shifts by less than nothing, numbers that are no integers
        raise ProofError("proof.program-invalid", "no program follows from the reaches of the card") from None


_GENERATE = "gpt2, llama and qwen2 are; of bert, classes and embeddings"


class _Family(msgspec.Struct):
    model_type: str = ""


def decoder(config: bytes) -> Decoder:
    """Return the model that generates which a `config.json` describes.

    Raises:
        MitaiError: It is malformed, or of another family.
    """
    found = family(config)
    if isinstance(found, Bert):
        raise ProofError("proof.model-unsupported", "the model reads, and does not generate", hint=_GENERATE)
    return found


def family(config: bytes) -> Decoder | Bert:
    """Return the model that a `config.json` describes.

    Raises:
        MitaiError: It is malformed, or of another family.
    """
    code, message = "proof.model-unsupported", "the model's configuration is not usable"
    kind = parse_json(config, _Family, MAX_CONFIG_BYTES, code, message).model_type
    if kind == "bert":
        return Bert(parse_config(config, BertConfig))
    if kind == "gpt2":
        return Gpt2(parse_config(config, Gpt2Config))
    if kind in {"llama", "qwen2"}:
        return Llama(parse_config(config, LlamaConfig))
    raise ProofError(code, "answers of models of this family are not proven", hint=_GENERATE)
