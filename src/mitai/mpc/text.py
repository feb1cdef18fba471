"""A client's words as tokens, and tokens as words: with the tokenizer of the model's own folder.

Example:
    >>> text = Text.load(Path("shares/client"))
    >>> text.words(text.tokens("Hello"))
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from mitai.errors import MpcError
from mitai.mpc.models.config import MAX_CONFIG_BYTES
from mitai.serve.prompts import Prompts
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
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    try:
        found = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError):
        found = None
    if not isinstance(found, PreTrainedTokenizerFast):
        raise MpcError(
            "mpc.no-tokenizer", f"there is no tokenizer in {folder}", hint="put the model's tokenizer.json there"
        )
    return found


def end_tokens(folder: Path, tokenizer: PreTrainedTokenizerFast) -> frozenset[int]:
    """Return the ids that end an answer: of the tokenizer, and of the configurations in its folder."""
    ends = {tokenizer.eos_token_id}
    for name in ("config.json", "generation_config.json"):
        if (folder / name).exists():
            data = (folder / name).read_bytes()
            found = parse_json(data, _Ends, MAX_CONFIG_BYTES, "mpc.config", f"{name} is malformed").eos_token_id
            ends |= set(found) if isinstance(found, list) else {found}
    return frozenset(ends - {None})


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
