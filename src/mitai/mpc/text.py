"""A client's words as tokens, and tokens as words: with the tokenizer of the model's own folder.

Example:
    >>> text = Text.load(Path("shares/client"))
    >>> text.words(text.tokens("Hello"))
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from mitai.errors import MpcError
from mitai.mpc.models.config import MAX_CONFIG_BYTES
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
    """A tokenizer and its chat template, if it has one."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer

    @staticmethod
    def load(folder: Path) -> Text:
        """Read the tokenizer in a folder; see `read_tokenizer`."""
        return Text(read_tokenizer(folder))

    def tokens(self, prompt: str, *, plain: bool) -> list[int]:
        """Return a prompt's tokens; a question of a conversation unless it is plain, or there is no template."""
        if plain or not self._tokenizer.chat_template:
            return list(self._tokenizer(prompt)["input_ids"])
        messages = [{"role": "user", "content": prompt}]
        text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def read(self, text: str, second: str | None = None) -> Tokens:
        """Return the tokens of a text, or of two that belong together, as a model that reads has them."""
        found = self._tokenizer(text, second, return_token_type_ids=True)
        return Tokens(tuple(found["input_ids"]), tuple(found["token_type_ids"]))

    def ends(self, token: int) -> bool:
        """Tell whether this token ends an answer."""
        return bool(token == self._tokenizer.eos_token_id)

    def words(self, tokens: list[int]) -> str:
        """Return the text of so many tokens; a character that is not whole yet is left out."""
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True)).rstrip("\ufffd")
