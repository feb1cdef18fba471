"""A chat completion as a stream of words: the little of the OpenAI API that `mitai chat` needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import httpx2
import msgspec

from mitai.channel.exchange import Exchange
from mitai.client.transport import EXCHANGE_EXTENSION
from mitai.errors import ClientError, MitaiError
from mitai.problem import error_from


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta = msgspec.field(default_factory=_Delta)
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int


class _Chunk(msgspec.Struct):
    id: str = ""
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: dict[str, object] | None = None  # the last event of an answer that failed half-way


class _ErrorBody(msgspec.Struct):
    error: dict[str, object]


@dataclass
class Answer:
    """One streamed answer; the other fields are set once the stream has ended."""

    client: httpx2.Client
    body: dict[str, object]
    text: str = ""
    finish_reason: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    exchange: Exchange | None = None
    id: str = ""

    def __iter__(self) -> Iterator[str]:
        """Yield the pieces of text as they arrive; raise `ClientError` when the server fails before its end."""
        with self.client.stream("POST", "/v1/chat/completions", json=self.body) as answer:
            if answer.status_code != 200:
                raise refusal(answer.status_code, answer.read())
            self.exchange = answer.extensions.get(EXCHANGE_EXTENSION)
            for line in answer.iter_lines():
                if line.startswith("data: ") and line != "data: [DONE]":
                    yield from self._chunk(line[6:])
        if self.finish_reason is None:
            raise ClientError("client.answer-incomplete", "the server ended its answer before it was complete")

    def _chunk(self, data: str) -> Iterator[str]:
        try:
            chunk = msgspec.json.decode(data, type=_Chunk)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise ClientError("client.answer-malformed", "the server's stream is not a chat completion") from error
        if chunk.error is not None:
            raise refusal(500, data.encode())
        self.id = chunk.id or self.id
        if chunk.usage:
            self.prompt_tokens, self.completion_tokens = chunk.usage.prompt_tokens, chunk.usage.completion_tokens
        for choice in chunk.choices:
            self.finish_reason = choice.finish_reason or self.finish_reason
            if choice.delta.content:
                self.text += choice.delta.content
                yield choice.delta.content


def chat(client: httpx2.Client, messages: Sequence[dict[str, str]], model: str, **options: object) -> Answer:
    """Return the answer to `messages`, to be iterated; `options` are those of the OpenAI API."""
    body = {"model": model, "messages": list(messages), "stream": True, "stream_options": {"include_usage": True}}
    return Answer(client, body | options)


def models(client: httpx2.Client) -> list[str]:
    """Return the names of the models that the server offers."""
    answer = client.get("/v1/models")
    if answer.status_code != 200:
        raise refusal(answer.status_code, answer.content)
    try:
        return [str(entry["id"]) for entry in answer.json()["data"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ClientError("client.answer-malformed", "the server's list of models can't be read") from error


def refusal(status: int, body: bytes) -> MitaiError:
    """Return the error in an OpenAI-style body, which wraps the fields of a problem document."""
    try:
        fields = msgspec.json.decode(body, type=_ErrorBody).error
        body = msgspec.json.encode({"code": fields.get("code") or "", "detail": fields.get("message") or ""})
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        pass  # a problem document as it stands, or nonsense; `error_from` takes both
    return error_from(ClientError, status, body, code="client.refused", who="the server")
