"""A client's words as tokens, and tokens as words: with the tokenizer of the model's own folder.

Example:
    >>> text = Text.load(Path("shares/client"))
    >>> text.words(text.tokens("Hello"))
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from mitai.capsule.sources import FolderSource
from mitai.errors import CapsuleError, MpcError, ServeError
from mitai.mpc.models.config import MAX_CONFIG_BYTES
from mitai.serve.prompts import Prompts, load_tokenizer
from mitai.wire import parse_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class Tokens:
    """A text's tokens, and for each whether it belongs to the second of two texts (1), or not (0)."""

    ids: tuple[int, ...] = field(repr=False)
    types: tuple[int, ...] = field(default=(), repr=False)


class _Ends(msgspec.Struct):
    eos_token_id: int | list[int] | None = None


def read_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Read the tokenizer in a folder; nothing of it is executed.

    Raises:
        MpcError: `mpc.no-tokenizer`.
    """
    try:
        return load_tokenizer(FolderSource(folder))
    except (CapsuleError, ServeError) as error:
        raise MpcError("mpc.no-tokenizer", f"{folder}: {error.message}", hint=error.hint) from None


def end_tokens(folder: Path, tokenizer: PreTrainedTokenizerFast) -> frozenset[int]:
    """Return the ids that end an answer: of the tokenizer, and of the configurations in its folder."""
    ends = {tokenizer.eos_token_id}
    for name in ("config.json", "generation_config.json"):
        if (folder / name).exists():
            data = (folder / name).read_bytes()
            found = parse_json(data, _Ends, MAX_CONFIG_BYTES, "mpc.config", f"{name} is malformed").eos_token_id
            ends |= set(found) if isinstance(found, list) else {found}
    return frozenset(ends - {None})


def check_tokens(ids: Sequence[int], vocabulary: int) -> None:
    """Check that there are tokens, and that a model has them: another number could be read as something else.

    Raises:
        MpcError: `mpc.prompt-empty`, `mpc.no-tokenizer`.
    """
    if not ids:
        raise MpcError("mpc.prompt-empty", "there is no text to compute with", hint="give at least a word")
    if max(ids) >= vocabulary:
        raise MpcError("mpc.no-tokenizer", "the tokenizer in this folder is another model's")


class Text:
    """A tokenizer and its chat template, if it has one.

    Args:
        tokenizer: The model's.
        ends: Ids that end an answer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, ends: Collection[int]) -> None:
        self._tokenizer, self._ends, self._prompts = tokenizer, ends, Prompts(tokenizer, "model")

    @staticmethod
    def load(folder: Path) -> Text:
        """Read the tokenizer in a folder; see `read_tokenizer`."""
        tokenizer = read_tokenizer(folder)
        return Text(tokenizer, end_tokens(folder, tokenizer))

    def tokens(self, prompt: str, *, plain: bool) -> list[int]:
        """Return a prompt's tokens; a question of a conversation unless it is plain, or there is no template."""
        if plain or not self._prompts.has_template:
            return self._prompts.text(prompt)
        return self._prompts.chat([{"role": "user", "content": prompt}])

    def read(self, text: str, second: str | None = None) -> Tokens:
        """Return the tokens of a text, or of two that belong together, as a model that reads has them."""
        found = self._tokenizer(text, second, return_token_type_ids=True)
        return Tokens(tuple(found["input_ids"]), tuple(found["token_type_ids"]))

    def ends(self, token: int) -> bool:
        """Tell whether this token ends an answer."""
        return token in self._ends

    def words(self, tokens: list[int]) -> str:
        """Return the text of so many tokens; a character that is not whole yet is left out."""
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True)).rstrip("\ufffd")
