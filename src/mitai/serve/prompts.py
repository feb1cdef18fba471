"""Texts and conversations as token ids: a model's tokenizer, its chat template, and its control marks.

Example:
    >>> prompts = Prompts(tokenizer, "tiny")
    >>> prompts.chat([{"role": "user", "content": "Who are you?"}])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mitai.errors import ServeError
from mitai.serve.marks import Marks

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast


class Prompts:
    """What turns a request's words into a model's tokens.

    Args:
        tokenizer: The model's.
        model: Its name, for errors.

    Attributes:
        has_template: Whether `chat` works.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, model: str) -> None:
        self._chat, self._model, self._marks = tokenizer, model, Marks(tokenizer)
        self.tokenizer: Tokenizer = tokenizer.backend_tokenizer
        self.has_template = bool(tokenizer.chat_template)

    def text(self, text: str) -> list[int]:
        """Return the token ids of a plain prompt, with what the tokenizer puts around it."""
        ids: list[int] = self.tokenizer.encode(text).ids
        return ids

    def chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Return the token ids of a conversation in the model's template; see `Engine.chat_prompt`."""
        if not self.has_template:
            raise ServeError(
                "serve.no-chat-template",
                f"model {self._model} has no chat template",
                hint="use /v1/completions, or add a chat_template.jinja to the model folder",
            )
        try:
            text = self._chat.apply_chat_template(
                [self._marks.cut(message) for message in messages], tokenize=False, add_generation_prompt=True
            )
        except Exception as error:  # a template raises what it likes
            raise ServeError(
                "serve.template-refused", "the model's chat template does not take this conversation"
            ) from error
        return self._marks.encode(str(text))
