"""The OpenAI API over an engine: chat completions, completions, embeddings, models; an ASGI app.

Follows `docs/spec/openai-api.md`. The app knows nothing of encryption: `mitai.channel` puts it behind the sealed
channel.

Invariants:

- Prompts and answers are in memory only while their request runs; no log line, error or metric holds any of them.
- A client that goes away frees its place in the batch at once.
- Size, prompt, time and number of requests are bounded; what is above is refused with a status that says so.

Example:
    >>> app = create_app(lambda: engine, Limits(max_requests=64))
"""

from __future__ import annotations

import asyncio
import base64
import struct
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

import anyio.to_thread
import msgspec
import structlog
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from mitai.channel.asgi import EXCHANGE_KEY
from mitai.errors import MitaiError, ServeError
from mitai.serve.engine import Engine, GenerationRequest, ModelInfo, Step
from mitai.serve.fingerprints import Choice
from mitai.serve.render import ChatRenderer, CompletionRenderer, Renderer
from mitai.serve.schema import (
    Base,
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    RequestError,
    parse,
    texts_or_tokens,
    unsupported,
)

log = structlog.get_logger(__name__)
_OFFLOAD_BYTES = 32 << 10  # larger bodies are tokenised off the event loop
_STATUS = {
    "serve.not-deployed": 503,
    "serve.withdrawn": 403,
    "serve.engine-closed": 503,
    "serve.engine-failed": 500,
    "serve.timeout": 504,
}
T = TypeVar("T")


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one replica takes on.

    Attributes:
        max_body_bytes: Of a request.
        max_requests: Requests in progress, streaming and waiting ones together.
        max_prompt_tokens: Of one prompt; the model's context bounds it too.
        max_answer_tokens: Of one choice.
        max_choices: Prompts times `n` of one request.
        max_embeddings: Inputs of one embedding request.
        max_seconds: From the start of a request to the end of its answer.
    """

    max_body_bytes: int = 4 << 20
    max_requests: int = 256
    max_prompt_tokens: int = 1 << 20
    max_answer_tokens: int = 1 << 20
    max_choices: int = 16
    max_embeddings: int = 256
    max_seconds: float = 600.0


OnUsage = Callable[[str, str, datetime, int, int], None]
OnPrints = Callable[[str, Sequence[Choice]], None]


def create_app(
    engine: Callable[[], Engine | None],
    limits: Limits | None = None,
    *,
    on_usage: OnUsage | None = None,
    on_prints: OnPrints | None = None,
    check: Callable[[GenerationRequest], None] = lambda _: None,
) -> Starlette:
    """Return the API as an ASGI app.

    Args:
        engine: Returns the engine of this moment, or `None` while no model is deployed; raises why it may not be used.
        limits: What is refused.
        on_usage: Called before the end of a sealed answer is sent, with its exchange's id, the model's name as it was
            asked for, the time it started, and the tokens of prompt and answer.
        on_prints: Called before `on_usage` where the engine takes fingerprints, with the exchange's id and those of all
            choices.
        check: Raises `RequestError` for what this engine can't do, before an answer begins.
    """
    api = _Api(engine, limits or Limits(), on_usage, on_prints, check)
    routes = [
        Route("/v1/chat/completions", api.guarded(api.chat), methods=["POST"]),
        Route("/v1/completions", api.guarded(api.completion), methods=["POST"]),
        Route("/v1/embeddings", api.guarded(api.embeddings), methods=["POST"]),
        Route("/v1/models", api.guarded(api.models), methods=["GET"]),
        Route("/v1/models/{name:path}", api.guarded(api.models), methods=["GET"]),
    ]
    return Starlette(routes=routes, exception_handlers={404: _no_route, 405: _no_route})


Endpoint = Callable[[Request], Awaitable[Response]]


class _Api:
    """The endpoints and the count of what is in progress."""

    def __init__(
        self,
        engine: Callable[[], Engine | None],
        limits: Limits,
        on_usage: OnUsage | None,
        on_prints: OnPrints | None,
        check: Callable[[GenerationRequest], None],
    ) -> None:
        self._provider, self._limits, self._on_usage, self._check = engine, limits, on_usage, check
        self._on_prints = on_prints
        self._running = 0
        self._started = int(time.time())

    def guarded(self, endpoint: Endpoint) -> Endpoint:
        """Turn errors into OpenAI's error bodies, whatever happens."""

        async def answer(request: Request) -> Response:
            try:
                return await endpoint(request)
            except MitaiError as error:
                return error_response(error)
            except ClientDisconnect:
                return Response(status_code=499)  # nobody reads it
            except Exception as error:  # noqa: BLE001 - a traceback would hold the prompt
                log.error("request failed", kind=type(error).__name__)
                return error_response(ServeError("serve.internal", "the server failed while it worked on this request"))

        return answer

    # ------------------------------------------------------------------ endpoints

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        body = await self._body(request)
        wanted = parse(ChatRequest, body)
        engine = self._engine(wanted.model)
        wanted.refuse_unsupported()
        messages = [message.plain(at) for at, message in enumerate(wanted.messages)]
        prompt = await _offload(len(body), partial(engine.chat_prompt, messages))
        return await self._generate(request, engine, wanted, [prompt], ChatRenderer)

    async def completion(self, request: Request) -> Response:
        """POST /v1/completions."""
        body = await self._body(request)
        wanted = parse(CompletionRequest, body)
        engine = self._engine(wanted.model)
        wanted.refuse_unsupported()
        prompts = texts_or_tokens(wanted.prompt, "prompt", self._limits.max_choices)
        tokens = [await _offload(len(body), partial(_tokens, engine, prompt)) for prompt in prompts]
        return await self._generate(request, engine, wanted, tokens, CompletionRenderer)

    async def embeddings(self, request: Request) -> Response:
        """POST /v1/embeddings."""
        body = await self._body(request)
        wanted = parse(EmbeddingRequest, body)
        engine = self._engine(wanted.model)
        if wanted.dimensions is not None:
            raise unsupported("dimensions")
        inputs = texts_or_tokens(wanted.input, "input", self._limits.max_embeddings)
        prompts = [await _offload(len(body), partial(_tokens, engine, each)) for each in inputs]
        for prompt in prompts:
            self._check_prompt(engine, prompt, "input", room=0)
        started = datetime.now(UTC)
        with self._place():
            vectors = await _while_connected(
                request.receive, self._in_time(engine.embed(prompts, _adapter(engine, wanted.model)))
            )
        encode: Callable[[list[float]], object] = _base64 if wanted.encoding_format == "base64" else list
        counted = sum(map(len, prompts))
        content = {
            "object": "list",
            "data": [{"object": "embedding", "index": at, "embedding": encode(v)} for at, v in enumerate(vectors)],
            "model": wanted.model,
            "usage": {"prompt_tokens": counted, "total_tokens": counted},
        }
        self.used(request.scope, wanted.model, started, counted, 0)
        return _json(content)

    async def models(self, request: Request) -> Response:
        """GET /v1/models and /v1/models/NAME."""
        engine = self._provider()
        wanted = request.path_params.get("name")
        names = () if engine is None else (engine.info.name, *engine.info.adapters)
        known = {name: self._model(engine.info, name) for name in names} if engine is not None else {}
        if wanted is None:
            return _json({"object": "list", "data": list(known.values())})
        if wanted not in known:
            raise _no_model()
        return _json(known[wanted])

    def _model(self, info: ModelInfo, name: str) -> dict[str, object]:
        shown = {
            "id": name,
            "object": "model",
            "created": self._started,
            "owned_by": "mitai",
            "max_model_len": info.context_length,
        }
        return {**info.about, **shown, **({"parent": info.name} if name != info.name else {})}

    # ------------------------------------------------------------------ generating

    async def _generate(
        self, request: Request, engine: Engine, wanted: Base, prompts: list[list[int]], kind: type[Renderer]
    ) -> Response:
        n = wanted.n or 1
        if n * len(prompts) > self._limits.max_choices:
            raise RequestError(
                "serve.too-many-choices", f"at most {self._limits.max_choices} choices in one request", param="n"
            )
        for prompt in prompts:
            self._check_prompt(engine, prompt, kind.prompt_field, room=1)
        room = min(engine.info.context_length - max(map(len, prompts)), self._limits.max_answer_tokens)
        sampling = wanted.sampling(engine.info, room)
        renderer = kind(wanted.model, sum(map(len, prompts)), n * len(prompts), sampling)
        work = GenerationRequest(prompts, sampling, n, _adapter(engine, wanted.model), renderer.id)
        self._check(work)
        place = self._place()
        if wanted.stream:
            with_usage = wanted.stream_options is not None and wanted.stream_options.include_usage
            return _Stream(self, engine, work, renderer, with_usage=with_usage, place=place)
        started = datetime.now(UTC)
        with place:
            steps = await _while_connected(request.receive, self._in_time(_collect(engine, work)))
        used = sum({step.choice: step.tokens for step in steps}.values())
        answer = renderer.whole(steps, used)
        self.printed(request.scope, _prints(steps))
        self.used(request.scope, wanted.model, started, renderer.prompt_tokens, used)
        return Response(answer, media_type="application/json")

    def _check_prompt(self, engine: Engine, prompt: Sequence[int], param: str, *, room: int) -> None:
        bound = min(engine.info.context_length - room, self._limits.max_prompt_tokens)
        if not prompt:
            raise RequestError("serve.invalid-request", f"{param} is empty", param=param)
        if len(prompt) > bound:
            raise RequestError(
                "context_length_exceeded",
                f"the prompt has {len(prompt)} tokens; {bound} fit (context length {engine.info.context_length})",
                param=param,
            )
        if min(prompt) < 0 or max(prompt) >= engine.info.vocabulary:
            raise RequestError("serve.token-unknown", f"{param} holds a token id outside the vocabulary", param=param)

    def _engine(self, name: str) -> Engine:
        engine = self._provider()
        if engine is None:
            raise ServeError(
                "serve.not-deployed", "no model is deployed on this replica yet", hint="deploy one, or wait for it"
            )
        if name not in {engine.info.name, *engine.info.adapters}:
            raise _no_model()
        return engine

    async def _in_time(self, work: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self._limits.max_seconds):
                return await work
        except TimeoutError:
            raise self.late() from None

    def late(self) -> ServeError:
        """Return the error of an answer that took too long."""
        return ServeError("serve.timeout", f"the answer took longer than {self._limits.max_seconds:g} s")

    def used(self, scope: Scope, model: str, started: datetime, prompt_tokens: int, completion_tokens: int) -> None:
        """Tell what a sealed exchange used."""
        exchange = scope.get(EXCHANGE_KEY)
        if exchange is not None and self._on_usage is not None:
            self._on_usage(exchange.id, model, started, prompt_tokens, completion_tokens)

    def printed(self, scope: Scope, prints: Sequence[Choice]) -> None:
        """Hand on the fingerprints of a sealed exchange, if there are any."""
        exchange = scope.get(EXCHANGE_KEY)
        if prints and exchange is not None and self._on_prints is not None:
            self._on_prints(exchange.id, prints)

    @property
    def max_seconds(self) -> float:
        """The longest that a request may take."""
        return self._limits.max_seconds

    def _place(self) -> _Place:
        if self._running >= self._limits.max_requests:
            raise RequestError(
                "serve.too-many-requests",
                f"{self._running} requests are in progress",
                status=429,
                hint="try again in a second",
            )
        return _Place(self)

    def count(self, change: int) -> None:
        """Note that a request has started or ended."""
        self._running += change

    async def _body(self, request: Request) -> bytes:
        parts, size = [], 0
        async for part in request.stream():
            size += len(part)
            if size > self._limits.max_body_bytes:
                raise RequestError(
                    "serve.body-too-large", f"a request is at most {self._limits.max_body_bytes} bytes", status=413
                )
            parts.append(part)
        return b"".join(parts)


class _Place:
    """One of the `max_requests`; taken when made, given back once."""

    def __init__(self, api: _Api) -> None:
        self._api: _Api | None = api
        api.count(1)

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        if self._api is not None:
            self._api.count(-1)
            self._api = None

    __del__ = __exit__  # a response that was never started (its client left before) gives it back too


class _Stream(Response):
    """Server-sent events: one per step and choice, then usage where it was asked for, then `[DONE]`."""

    def __init__(
        self, api: _Api, engine: Engine, work: GenerationRequest, renderer: Renderer, *, with_usage: bool, place: _Place
    ) -> None:
        super().__init__(media_type="text/event-stream")
        self._api, self._engine, self._work, self._renderer = api, engine, work, renderer
        self._with_usage, self._place = with_usage, place

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope, self._started = scope, datetime.now(UTC)
        with self._place:
            headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            try:
                await _while_connected(receive, self._events(send))
            except ClientDisconnect:
                return

    async def _events(self, send: Send) -> None:
        try:
            async with asyncio.timeout(self._api.max_seconds):
                await self._steps(send)
        except TimeoutError:
            await self._fail(send, self._api.late())
        except ServeError as error:
            await self._fail(send, error)
        except OSError:
            raise ClientDisconnect from None
        except Exception as error:  # noqa: BLE001 - a traceback would hold the answer
            log.error("stream failed", kind=type(error).__name__)
            await self._fail(send, ServeError("serve.internal", "the server failed while it worked on this request"))

    async def _steps(self, send: Send) -> None:
        event = self._renderer.events(with_usage=self._with_usage)
        last_steps: dict[int, Step] = {}
        async with aclosing(self._engine.generate(self._work)) as steps:
            async for step in steps:
                last_steps[step.choice] = step
                if data := event(step):
                    await send({"type": "http.response.body", "body": data, "more_body": True})
        used = sum(step.tokens for step in last_steps.values())
        last = self._renderer.usage_event(used) if self._with_usage else b""
        model = self._work.adapter or self._engine.info.name
        self._api.printed(self._scope, _prints(last_steps.values()))
        self._api.used(self._scope, model, self._started, self._renderer.prompt_tokens, used)
        await send({"type": "http.response.body", "body": last + b"data: [DONE]\n\n", "more_body": False})

    async def _fail(self, send: Send, error: ServeError) -> None:
        """End the stream with an error event, which clients raise; the status line has long been sent."""
        body = b"data: " + msgspec.json.encode(_error_body(error)) + b"\n\n"
        await send({"type": "http.response.body", "body": body, "more_body": False})


async def _collect(engine: Engine, work: GenerationRequest) -> list[Step]:
    """Return all steps of an answer."""
    steps: list[Step] = []
    async with aclosing(engine.generate(work)) as source:
        async for step in source:
            steps.append(step)  # noqa: PERF401 - the generator must be closed by us
    return steps


def _prints(steps: Iterable[Step]) -> list[Choice]:
    """Return the fingerprints of all choices, in their order."""
    return [step.prints for step in sorted(steps, key=lambda step: step.choice) if step.prints is not None]


async def _while_connected(receive: Receive, work: Awaitable[T]) -> T:
    """Await `work`; cancel it when the client goes away, and raise `ClientDisconnect`."""
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect
    finally:
        watch.cancel()
        task.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _offload(size: int, function: Callable[[], list[int]]) -> list[int]:
    if size < _OFFLOAD_BYTES:
        return function()
    return await anyio.to_thread.run_sync(function)


def _tokens(engine: Engine, prompt: str | list[int]) -> list[int]:
    return engine.tokenize(prompt) if isinstance(prompt, str) else prompt


def _base64(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _json(content: object) -> Response:
    return Response(msgspec.json.encode(content), media_type="application/json")


def _adapter(engine: Engine, model: str) -> str:
    """Return the adapter that a model's name stands for; empty for the model itself."""
    return model if model != engine.info.name else ""


def _no_model() -> RequestError:
    return RequestError("model_not_found", "this replica does not serve that model", status=404, param="model")


async def _no_route(_request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    what = "there is nothing at this address" if status == 404 else "this address does not take that method"
    return error_response(RequestError("serve.no-route", what, status=status))


def error_response(error: MitaiError) -> Response:
    """Return an error as OpenAI's clients expect it."""
    status = error.status if isinstance(error, RequestError) else _STATUS.get(error.code, 0)
    status = status or (400 if error.code in {"serve.template-refused", "serve.no-chat-template"} else 500)
    headers = {"retry-after": "1"} if status in {429, 503} else None
    return Response(msgspec.json.encode(_error_body(error, status)), status, headers, "application/json")


def _error_body(error: MitaiError, status: int = 500) -> dict[str, object]:
    kind = {403: "permission_error", 429: "rate_limit_error"}.get(
        status, "invalid_request_error" if status < 500 else "server_error"
    )
    param = error.param if isinstance(error, RequestError) else None
    fields = {"message": error.message, "type": kind, "param": param, "code": error.code}
    return {"error": fields | ({"hint": error.hint} if error.hint else {})}
