"""A service's addresses: the OpenAI API of `mitai.serve`, and beside it receipts, proofs, sessions and traces.

Follows `docs/spec/proof-service.md`.

Invariants:

- What a request asks for of its answer's proof is decided before the answer begins.
- Bodies are bounded; nothing of a request is in a log line or an error.
- Every site may call: no cookie means anything here, and who has no answer's id learns nothing of it.

Example:
    >>> uvicorn.run(create_service(ServiceConfig.read(Path("service.toml"))))
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, TypeVar

import anyio.to_thread
import msgspec
import structlog
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from mitai.errors import MitaiError, ServeError
from mitai.identity import Identity
from mitai.ledger.assurance import OneIn, Sample
from mitai.ledger.entry import Digest
from mitai.proof.service.config import ServiceConfig
from mitai.proof.service.engine import ASKED, Asked, ProvenEngine
from mitai.proof.service.page import TOKENIZER, Paged, offered
from mitai.proof.service.receipts import DRAW_HEADER, HEADER
from mitai.proof.service.store import SEED_S, Standing, Store
from mitai.proof.service.traces import MAX_CHALLENGE_BYTES, Shown, Traces
from mitai.serve.api import create_app, error_response
from mitai.serve.schema import RequestError, parse

log = structlog.get_logger(__name__)
SESSION_SHARE = 4  # a session holds at most one in so many places
_MAX_BODY_BYTES = 4096
_SESSION = re.compile(r"ps-[0-9a-f]{32}")
_DRAW = re.compile(r"([0-9a-f]{64}) ([0-9a-f]{64})")
T = TypeVar("T")


class Opening(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /v1/proof-sessions.

    Attributes:
        one_in: One answer in so many is drawn.
        commitment: To the seed that draws.
        answers: How many there will be at most.
    """

    one_in: OneIn
    commitment: Digest
    answers: Annotated[int, msgspec.Meta(ge=1, le=4096)]


class Reveal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /v1/proof-sessions/ID/reveal."""

    seed: Digest


def create_service(config: ServiceConfig, state_key: bytes) -> Starlette:
    """Return the service as an ASGI app, whose state is sealed under a key (32 bytes).

    Raises:
        MitaiError: There is no prepared model, tokenizer or key where the configuration says.
    """
    store = Store(config, state_key)
    key = Identity.load(Path(config.key))
    engine = ProvenEngine(config, store, key)
    api = create_app(lambda: engine, engine.limits, check=engine.check)
    own = _Own(store, Traces(engine.prepared, store, key.public, config), config)
    routes = [
        Route("/v1/receipts/{id}", _guarded(own.receipt), methods=["GET"]),
        Route("/v1/proofs/{id}", _guarded(own.proof), methods=["GET"]),
        Route("/v1/proofs/{id}", _guarded(own.ask), methods=["POST"]),
        Route("/v1/traces/{id}", _guarded(own.committed), methods=["GET"]),
        Route("/v1/traces/{id}", _guarded(own.trace), methods=["POST"]),
        Route("/v1/proof-seeds", _guarded(own.seed), methods=["POST"]),
        Route("/v1/proof-sessions", _guarded(own.open), methods=["POST"]),
        Route("/v1/proof-sessions/{id}/reveal", _guarded(own.reveal), methods=["POST"]),
        Route("/v1/tokenizer", _guarded(own.tokenizer), methods=["GET"]),
        Route("/healthz", _guarded(own.health), methods=["GET"]),
        Mount("/", _Asking(api)),
    ]
    cors = Middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["GET", "POST"], allow_headers=["*"])
    card, unaudited = engine.prepared.card, config.unaudited or bool(engine.prepared.card.uses)
    offer = offered(Path(config.prepared), config.name, card.identity, key.public.key_id, unaudited=unaudited)
    return Starlette(routes=routes, middleware=[Middleware(Paged, offer), cors])


class _Asking:
    """ASGI middleware: tells the engine what a request's header says of its answer's proof."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "http":
            try:
                ASKED.set(asked(Headers(scope=scope)))
            except RequestError as error:
                await error_response(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def asked(headers: Headers) -> Asked:
    """Return what a request's headers ask for; raise `RequestError` for what they must not say."""
    value, draw = headers.get(HEADER, "on-demand"), headers.get(DRAW_HEADER)
    drawn = None
    if draw is not None:
        if not (found := _DRAW.fullmatch(draw)):
            raise RequestError(
                "serve.invalid-request", f"{DRAW_HEADER} is a seed's commitment and a nonce", param=DRAW_HEADER
            )
        drawn = found[1], bytes.fromhex(found[2])
    if _SESSION.fullmatch(value):
        return Asked("sampled", value, drawn)
    if value not in {"on-demand", "follows"}:
        raise RequestError("serve.invalid-request", f"{HEADER} is on-demand, follows, or a session's id", param=HEADER)
    return Asked("follows" if value == "follows" else "on-demand", "", drawn)


class _Own:
    """The addresses that OpenAI's API does not have."""

    def __init__(self, store: Store, traces: Traces, config: ServiceConfig) -> None:
        self._store, self._traces, self._config = store, traces, config

    async def receipt(self, request: Request) -> Response:
        """GET /v1/receipts/ID."""
        said, envelope = await _off(self._store.get, request.path_params["id"])
        return _json({"envelope": envelope, "prompt": said.prompt, "answer": said.answer})

    async def proof(self, request: Request) -> Response:
        """GET /v1/proofs/ID."""
        standing = await _off(self._store.look, request.path_params["id"])
        if standing.state == "kept":
            hint = "ask for it: POST to this address"
            raise RequestError("proof.not-asked", "nobody has asked for a proof of this answer", status=404, hint=hint)
        if standing.state == "failed":
            raise RequestError("proof.failed", "this answer could not be proven", status=500, hint="ask again")
        if standing.state != "done":
            return _standing(standing)
        size, parts = await _off(self._store.proof, request.path_params["id"])
        return Shown(parts, size=size)

    async def ask(self, request: Request) -> Response:
        """POST /v1/proofs/ID."""
        return _standing(await _off(self._store.ask, request.path_params["id"]))

    async def committed(self, request: Request) -> Response:
        """GET /v1/traces/ID."""
        committed = await _off(self._traces.committed, request.path_params["id"])
        return Response(committed.encode(), media_type="application/octet-stream")

    async def trace(self, request: Request) -> Response:
        """POST /v1/traces/ID."""
        return await self._traces.show(request.path_params["id"], await _body(request, MAX_CHALLENGE_BYTES))

    async def seed(self, _: Request) -> Response:
        """POST /v1/proof-seeds."""
        return _json({"commitment": await _off(self._store.seed), "seconds": SEED_S}, 201)

    async def open(self, request: Request) -> Response:
        """POST /v1/proof-sessions."""
        wanted = parse(Opening, await _body(request))
        if wanted.one_in < self._config.least_one_in:
            least = f"one answer in {self._config.least_one_in} at most is drawn here"
            raise RequestError(
                "serve.invalid-request", least, param="one_in", hint="or have every answer proven: follows"
            )
        config = self._config
        answers = min(wanted.answers, config.session_answers, -(-config.places // SESSION_SHARE) * wanted.one_in)
        sample = Sample(one_in=wanted.one_in, commitment=wanted.commitment)
        name = await _off(self._store.open_session, sample, answers)
        return _json({"id": name, "answers": answers, "seconds": self._config.session_s}, 201)

    async def reveal(self, request: Request) -> Response:
        """POST /v1/proof-sessions/ID/reveal."""
        wanted = parse(Reveal, await _body(request))
        answers, drawn = await _off(self._store.reveal, request.path_params["id"], bytes.fromhex(wanted.seed))
        return _json({"answers": answers, "drawn": drawn})

    async def tokenizer(self, _: Request) -> Response:
        """GET /v1/tokenizer."""
        return FileResponse(Path(self._config.prepared) / TOKENIZER, media_type="application/json")

    async def health(self, _: Request) -> Response:
        """GET /healthz."""
        return _json(await _off(self._store.counts))


def _guarded(endpoint: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """Turn errors into OpenAI's error bodies."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except MitaiError as error:
            return error_response(error)
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it
        except Exception as error:  # noqa: BLE001 - a traceback could hold a prompt
            log.error("request failed", kind=type(error).__name__)
            return error_response(ServeError("serve.internal", "the server failed while it worked on this request"))

    return answer


async def _body(request: Request, limit: int = _MAX_BODY_BYTES) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > limit:
            raise RequestError("serve.body-too-large", f"a request is at most {limit} bytes here", status=413)
    return bytes(body)


async def _off(function: Callable[..., T], *arguments: object) -> T:
    """Call something that waits for the disk, off the event loop."""
    return await anyio.to_thread.run_sync(partial(function, *arguments))


def _standing(standing: Standing) -> Response:
    if standing.state == "done":
        return _json({"state": "done"})
    return _json(asdict(standing), 202)


def _json(content: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status, media_type="application/json")
