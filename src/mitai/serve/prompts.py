"""Texts and conversations as token ids: a model's tokenizer, its chat template, and its control marks.

Example:
    >>> prompts = Prompts(load_tokenizer(FolderSource(folder)), "tiny")
    >>> prompts.chat([{"role": "user", "content": "Who are you?"}])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mitai.capsule.sources import FileSource
from mitai.errors import ServeError
from mitai.serve.marks import Marks
from mitai.serve.weights import read_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast


def load_tokenizer(source: FileSource) -> PreTrainedTokenizerFast:
    """Read the tokenizer and the chat template of a model folder, sealed or plain; nothing of it is executed.

    Raises:
        ServeError: The folder has no tokenizer, or it does not load.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    if "tokenizer.json" not in source.names():
        hint = "save the tokenizer in its fast form (tokenizer.json)"
        raise ServeError("serve.model-file-missing", "the model folder has no tokenizer.json", hint=hint)
    settings = read_json(source, "tokenizer_config.json") if "tokenizer_config.json" in source.names() else {}
    for ignored in ("auto_map", "tokenizer_class", "tokenizer_file", "name_or_path", "backend", "is_local"):
        settings.pop(ignored, None)
    if "chat_template.jinja" in source.names():
        settings["chat_template"] = source.read("chat_template.jinja").decode("utf-8", errors="strict")
    _added_tokens(settings)
    content = source.read("tokenizer.json")
    kind: Any = PreTrainedTokenizerFast  # its constructor has no types
    try:
        tokenizer: PreTrainedTokenizerFast = kind(tokenizer_object=Tokenizer.from_str(content.decode()), **settings)
    except Exception as error:  # tokenizers raises bare Exception
        raise ServeError("serve.tokenizer-invalid", "the model folder's tokenizer does not load") from error
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()
    return tokenizer


def _added_tokens(settings: dict[str, Any]) -> None:
    """Bring special tokens from JSON to what the constructor takes; `tokenizer.json` already holds the added ones."""
    settings.pop("added_tokens_decoder", None)
    for name, value in list(settings.items()):
        if name.endswith("_token") and isinstance(value, dict):
            settings[name] = value.get("content")


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
