"""Control marks in what people write: a user who types `<|im_end|>` has typed text, not ended the turn.

A chat template puts a conversation into one string in which marks such as `<|im_start|>` part the turns, and a
tokenizer finds marks wherever they stand: a user, or a document that somebody pastes, could speak as the system. So
marks within a message are cut before the template sees it, and the pieces are tokenised one by one: none holds a whole
mark. Every character of a message stays, and one without marks is tokenised as ever.

Invariants:

- A mark is every token that the tokenizer calls special, and every added one that begins with a bracket.
- In an assistant's message `<think>` and `</think>` stay whole: templates cut earlier reasoning out by them.
- Marks that a template writes as plain words (`[INST]` of Llama 2, `### Human:`) are no tokens: a user can write them.

Example:
    >>> marks = Marks(tokenizer)
    >>> marks.encode(render([marks.cut(message) for message in messages]))
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_CUT = "\ufdd0"  # a Unicode noncharacter: no text holds it that is meant for others
_REASONING = {"<think>", "</think>"}


class Marks:
    """The control marks of one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer.backend_tokenizer
        added = tokenizer.added_tokens_decoder.values()
        marks = {
            token.content for token in added if token.special or token.content.lstrip().startswith(("<", "[", "{"))
        }
        self._marks = {mark for mark in marks if len(mark) > 1}
        self._sizes = sorted({len(mark) for mark in self._marks})
        self._firsts = re.compile("|".join(map(re.escape, sorted({mark[0] for mark in self._marks}))) or r"(?!)")

    def cut(self, message: Mapping[str, str]) -> dict[str, str]:
        """Return a message with every mark in its content cut behind the mark's first character."""
        marks = self._marks - _REASONING if message["role"] == "assistant" else self._marks

        def cut_mark(first: re.Match[str]) -> str:
            at = first.start()
            begins = any(first.string[at : at + size] in marks for size in self._sizes)
            return first[0] + _CUT if begins else first[0]

        return {**message, "content": self._firsts.sub(cut_mark, message["content"].replace(_CUT, ""))}

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a rendered conversation, no mark of which spans a cut."""
        pieces = (self._tokenizer.encode(piece, add_special_tokens=False).ids for piece in text.split(_CUT) if piece)
        return [token for ids in pieces for token in ids]
