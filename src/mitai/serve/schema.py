"""What the OpenAI API takes, and what of it this server refuses; every field by name.

Follows `docs/spec/openai-api.md` (the OpenAI API reference of 2026, chat completions, completions and embeddings).

Invariants:

- A field that is not known is refused, and so is a known one that is not supported, unless it holds the value that
  changes nothing: no option is silently ignored that would change the answer.
- A refusal names the field, never its content.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from mitai.errors import ServeError
from mitai.serve.engine import ModelInfo, Sampling

Temperature = Annotated[float, Meta(ge=0, le=2)]
TopP = Annotated[float, Meta(gt=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Count = Annotated[int, Meta(ge=1, le=1 << 31)]
Seed = Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
StopString = Annotated[str, Meta(min_length=1, max_length=256)]
Stop = StopString | Annotated[list[StopString], Meta(max_length=4)] | None
Name = Annotated[str, Meta(max_length=256)]
Tokens = Annotated[list[int], Meta(min_length=1)]


class RequestError(ServeError):
    """A request that the API refuses, with the HTTP status and the field."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        step: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(code, message, step=step, hint=hint)
        self.status = status
        self.param = param


class StreamOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """`stream_options`; obfuscation is the channel's padding here, so its switch is accepted and changes nothing."""

    include_usage: bool = False
    include_obfuscation: bool | None = None


class Base(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Fields of both completion endpoints."""

    model: Name
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    n: Annotated[int, Meta(ge=1, le=8)] | None = None
    max_tokens: Count | None = None
    stop: Stop = None
    seed: Seed | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    logit_bias: dict[str, Any] | None = None
    user: Name | None = None  # names an end user; nothing here uses it

    def refuse_unsupported(self) -> None:
        """Raise `RequestError` for a supported client's unsupported wish."""
        if self.logit_bias:
            raise unsupported("logit_bias")
        if self.stream_options is not None and not self.stream:
            raise RequestError("serve.invalid-request", "stream_options needs stream: true", param="stream_options")

    def answer_tokens(self) -> int | None:
        """Return the wished bound on the answer."""
        return self.max_tokens

    def sampling(self, info: ModelInfo, room: int) -> Sampling:
        """Return the engine's parameters; what is not given comes from the model's generation config."""
        return Sampling(
            max_tokens=min(self.answer_tokens() or room, room),
            temperature=info.temperature if self.temperature is None else self.temperature,
            top_p=info.top_p if self.top_p is None else self.top_p,
            seed=self.seed,
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            logprobs=self.wanted_logprobs(),
            frequency_penalty=self.frequency_penalty or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
        )

    def wanted_logprobs(self) -> int | None:
        """Return how many alternatives are to be reported; `None` reports no log probabilities."""
        return None


class ContentPart(Struct, frozen=True):
    """A part of a message's content; only text is taken."""

    type: str
    text: str | None = None


class Message(Struct, frozen=True, forbid_unknown_fields=True):
    """A turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[ContentPart] | None = None
    name: Name | None = None
    refusal: str | None = None
    annotations: list[Any] | None = None
    audio: Any = None
    tool_calls: Any = None
    tool_call_id: Any = None
    function_call: Any = None

    def plain(self, at: int) -> dict[str, str]:
        """Return role and text for a chat template; `developer` is what `system` is called elsewhere."""
        where = f"messages[{at}]"
        if self.role in {"tool", "function"} or self.tool_calls or self.tool_call_id or self.function_call:
            raise unsupported(f"{where}.role" if self.role in {"tool", "function"} else f"{where}.tool_calls")
        if self.audio:
            raise unsupported(f"{where}.audio")
        if self.content is None:
            raise RequestError("serve.invalid-request", f"{where}.content is missing", param=f"{where}.content")
        role = "system" if self.role == "developer" else self.role
        if isinstance(self.content, str):
            return {"role": role, "content": self.content}
        for part in self.content:
            if part.type != "text" or part.text is None:
                raise unsupported(f"{where}.content", "only text parts are")
        return {"role": role, "content": "".join(part.text or "" for part in self.content)}


class ResponseFormat(Struct, frozen=True):
    """`response_format`; only `text` is supported."""

    type: str


class ChatRequest(Base, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Meta(min_length=1, max_length=4096)]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    store: bool | None = None
    metadata: dict[str, str] | None = None
    service_tier: Literal["auto", "default"] | None = None
    safety_identifier: Name | None = None
    prompt_cache_key: Name | None = None  # there is no prefix cache that it could name
    prompt_cache_retention: Name | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    functions: list[Any] | None = None
    function_call: Any = None
    modalities: list[str] | None = None
    audio: Any = None
    prediction: Any = None
    reasoning_effort: Any = None
    verbosity: Any = None
    web_search_options: Any = None
    moderation: Any = None
    prompt_cache_options: Any = None

    def refuse_unsupported(self) -> None:
        """Raise `RequestError` for a wish that can't be met."""
        super().refuse_unsupported()
        for field in [
            "tools",
            "functions",
            "function_call",
            "audio",
            "prediction",
            "reasoning_effort",
            "verbosity",
            "web_search_options",
            "moderation",
            "prompt_cache_options",
            "store",
        ]:
            if getattr(self, field):
                raise unsupported(field)
        if self.tool_choice not in {None, "none", "auto"} if isinstance(self.tool_choice, str | None) else True:
            raise unsupported("tool_choice")
        if self.response_format is not None and self.response_format.type != "text":
            raise unsupported("response_format", "only {'type': 'text'} is")
        if self.modalities not in (None, ["text"]):
            raise unsupported("modalities", "only ['text'] is")
        if self.top_logprobs is not None and not self.logprobs:
            raise RequestError("serve.invalid-request", "top_logprobs needs logprobs: true", param="top_logprobs")

    def answer_tokens(self) -> int | None:
        """Return the wished bound on the answer; the newer name wins."""
        return self.max_completion_tokens or self.max_tokens

    def wanted_logprobs(self) -> int | None:
        """See `Base.wanted_logprobs`."""
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionRequest(Base, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """POST /v1/completions; a prompt is text or token ids, one or several."""

    prompt: str | list[Any]
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None

    def refuse_unsupported(self) -> None:
        """Raise `RequestError` for a wish that can't be met."""
        super().refuse_unsupported()
        if self.echo:
            raise unsupported("echo")
        if self.suffix:
            raise unsupported("suffix")
        if self.best_of not in {None, 1, self.n}:
            raise unsupported("best_of")

    def wanted_logprobs(self) -> int | None:
        """See `Base.wanted_logprobs`."""
        return self.logprobs


class EmbeddingRequest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """POST /v1/embeddings."""

    model: Name
    input: str | list[Any]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    user: Name | None = None


def texts_or_tokens(value: str | list[Any], param: str, limit: int) -> list[str | list[int]]:
    """Return the prompts that `value` stands for: a text, token ids, or a list of either."""
    if isinstance(value, str):
        return [value]
    try:
        many: list[str | list[int]] = msgspec.convert(value, list[str] | None) or []
    except msgspec.ValidationError:
        try:
            many = [msgspec.convert(value, Tokens)]
        except msgspec.ValidationError:
            try:
                many = list(msgspec.convert(value, list[Tokens]))
            except msgspec.ValidationError:
                raise RequestError(
                    "serve.invalid-request", f"{param} is a text, token ids, or a list of either", param=param
                ) from None
    if not 1 <= len(many) <= limit:
        raise RequestError(
            "serve.invalid-request", f"{param} holds {len(many)} prompts; 1 to {limit} are taken", param=param
        )
    return many


S = TypeVar("S")


def parse(kind: type[S], body: bytes) -> S:
    """Parse a request body; raise `RequestError` with the field at fault."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        # msgspec says what was expected and where; it quotes the names of unknown fields, which are the client's own
        reason = str(error)
        where = reason.rpartition(" - at `$")[2].rstrip("`").lstrip(".") if " - at `$" in reason else None
        unknown = re.search(r"unknown field `([^`]{1,64})", reason)
        param = where or (unknown[1] if unknown else None)
        what = reason.partition(" - at ")[0]
        if "enum value" in what or "Invalid value" in what:
            what = "Invalid value"
        raise RequestError("serve.invalid-request", what if not param else f"{what} ({param})", param=param) from None
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise RequestError("serve.malformed-json", "the body is not JSON") from None


def unsupported(field: str, but: str = "") -> RequestError:
    """Return the refusal of a field of OpenAI's API that this server does not implement."""
    extra = f" ({but})" if but else ""
    return RequestError("serve.unsupported-parameter", f"{field} is not supported here{extra}", param=field)
