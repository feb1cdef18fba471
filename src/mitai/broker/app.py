"""The broker over HTTP: a Starlette app for what arrives sealed, and routes for what is public.

- Sealed: `POST /v1/challenge`, `/v1/release`, `/v1/commands`, `/v1/receipts`, `/v1/lease`, `/v1/derived`,
  `/v1/exports`; `GET /v1/capsules?page=N`, `/v1/capsules/ID`, `/v1/decisions?capsule=ID`,
  `/v1/lineage?capsule=ID`, `/v1/exports?capsule=ID`, `/v1/export?request=ID`, `/v1/proof?index=N`; `keys`' own:
  `POST /v1/root/challenge`, `/v1/root`, `GET /v1/recovery`.
- Public: `GET /ledger/checkpoint`, `/ledger/tile/…` (C2SP tlog-tiles), `/healthz`.

Invariants:

- Bodies are read up to their limit and no further; errors are problem documents with a stable code, never a traceback.
- Nothing that a request holds is logged.

Example:
    >>> app = Workload(attester, keyring, claims).app(create_app(broker), public_routes(broker, folder))
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import structlog
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import Lifespan

from mitai.broker import protocol
from mitai.broker.keys import Keys
from mitai.broker.recovering import MAX_SHARE_BYTES, Recovering
from mitai.broker.recovery import RecoveryAnswer
from mitai.broker.service import Broker
from mitai.errors import BrokerError, DeniedError, MitaiError, ParseError
from mitai.ledger.tiles import folder_reader
from mitai.problem import problem, problem_of

Handler = Callable[[Request], Awaitable[Response]]

_STATUS = {
    "broker.busy": 503,
    "broker.capsule-exists": 409,
    "broker.capsule-unknown": 404,
    "broker.clock-behind": 503,
    "broker.closed": 503,
    "broker.export-ended": 409,
    "broker.export-unknown": 404,
    "broker.export-voted": 409,
    "broker.full": 507,
    "broker.internal": 500,
    "broker.nonce-used": 409,
    "broker.outcome-unknown": 503,
    "broker.party-exists": 409,
    "broker.policy-changed": 409,
    "broker.rate-limited": 429,
    "broker.replayed": 409,
    "broker.standby": 503,
    "broker.state-conflict": 503,
    "broker.storage": 503,
    "broker.state-damaged": 500,
    "broker.state-lost": 500,
    "broker.too-large": 413,
    "ledger.index-out-of-range": 404,
}
_CHALLENGE_BYTES = 1024
MAX_HELD_BYTES = 256 << 20
log = structlog.get_logger("mitai.broker")


class Room:
    """Reads bodies, each up to its limit, and all that are held at a time up to `total` bytes."""

    def __init__(self, total: int) -> None:
        self._left = total

    @asynccontextmanager
    async def body(self, request: Request, limit: int) -> AsyncIterator[bytes]:
        """Give a request's body; it counts until the block ends."""
        body = bytearray()
        try:
            async for part in request.stream():
                body += part
                self._left -= len(part)
                if len(body) > limit:
                    raise ParseError("broker.too-large", f"a request to {request.url.path} has at most {limit} bytes")
                if self._left < 0:
                    raise BrokerError("broker.busy", "too many large requests at once", hint="try again in a minute")
            yield bytes(body)
        finally:
            self._left += len(body)


def create_app(broker: Broker, lifespan: Lifespan[Starlette] | None = None, keys: Keys | None = None) -> Starlette:
    """Return the app that serves sealed requests; `lifespan` is what runs beside it, `keys` gives the root key away."""
    room = Room(MAX_HELD_BYTES)

    async def challenge(request: Request) -> Response:
        async with room.body(request, _CHALLENGE_BYTES):
            return _json(broker.challenge())

    async def release(request: Request) -> Response:
        async with room.body(request, protocol.MAX_RELEASE_BYTES) as body:
            return _json(await broker.release(body))

    async def command(request: Request) -> Response:
        async with room.body(request, protocol.MAX_COMMAND_BYTES) as body:
            return _json(await broker.command(body))

    async def receipts(request: Request) -> Response:
        async with room.body(request, protocol.MAX_RECEIPTS_BYTES) as body:
            return _json(await broker.receipts(body))

    async def lease(request: Request) -> Response:
        async with room.body(request, protocol.MAX_LEASE_BYTES) as body:
            return _json(await broker.lease(body))

    async def derived(request: Request) -> Response:
        async with room.body(request, protocol.MAX_DERIVE_BYTES) as body:
            return _json(await broker.derived(body))

    async def capsules(request: Request) -> Response:
        return _json(await broker.capsules(_number(request, "page"), request.headers.get(protocol.QUERY_HEADER)))

    async def capsule(request: Request) -> Response:
        return _json(await broker.capsule(request.path_params["capsule"], request.headers.get(protocol.QUERY_HEADER)))

    async def decisions(request: Request) -> Response:
        capsule = request.query_params.get("capsule", "")
        return _json(await broker.decisions(capsule, request.headers.get(protocol.QUERY_HEADER)))

    async def export_command(request: Request) -> Response:
        async with room.body(request, protocol.MAX_EXPORT_BYTES) as body:
            return _json(await broker.export_command(body))

    async def exports(request: Request) -> Response:
        capsule = request.query_params.get("capsule", "")
        return _json(await broker.exports(capsule, request.headers.get(protocol.QUERY_HEADER)))

    async def export(request: Request) -> Response:
        asked = request.query_params.get("request", "")
        return _json(await broker.export(asked, request.headers.get(protocol.QUERY_HEADER)))

    async def lineage(request: Request) -> Response:
        capsule = request.query_params.get("capsule", "")
        return _json(await broker.lineage(capsule, request.headers.get(protocol.QUERY_HEADER)))

    async def proof(request: Request) -> Response:
        return _json(await broker.proof(_number(request, "index")))

    routes = [
        _post("/v1/challenge", challenge),
        _post("/v1/release", release),
        _post("/v1/commands", command),
        _post("/v1/receipts", receipts),
        _post("/v1/derived", derived),
        _post("/v1/lease", lease),
        _get("/v1/capsules", capsules),
        _get("/v1/capsules/{capsule}", capsule),
        _get("/v1/decisions", decisions),
        _post("/v1/exports", export_command),
        _get("/v1/exports", exports),
        _get("/v1/export", export),
        _get("/v1/lineage", lineage),
        _get("/v1/proof", proof),
    ]
    if keys is not None:
        routes += _key_routes(keys, room)
    return Starlette(routes=routes, exception_handlers=_HANDLERS, lifespan=lifespan)


def _key_routes(keys: Keys, room: Room) -> list[Route]:
    async def challenge(request: Request) -> Response:
        async with room.body(request, _CHALLENGE_BYTES):
            return _json(keys.challenge())

    async def root(request: Request) -> Response:
        async with room.body(request, protocol.MAX_RELEASE_BYTES) as body:
            return _json(await keys.share(body))

    async def recovery(_request: Request) -> Response:
        return _json(keys.shown())

    return [_post("/v1/root/challenge", challenge), _post("/v1/root", root), _get("/v1/recovery", recovery)]


def create_recovery_app(recovering: Recovering) -> Starlette:
    """Return the app of a broker that waits for its owners' shares."""
    room = Room(MAX_HELD_BYTES)

    async def take(request: Request) -> Response:
        async with room.body(request, MAX_SHARE_BYTES) as body:
            return _json(protocol.encode(await recovering.take(body)))

    async def show(_request: Request) -> Response:
        return _json(protocol.encode(RecoveryAnswer(plan=recovering.shares.plan, shares=recovering.document)))

    return Starlette(routes=[_post("/v1/recovery", take), _get("/v1/recovery", show)], exception_handlers=_HANDLERS)


def public_routes(broker: Broker, folder: Path) -> list[Route | Mount]:
    """Return the routes that need no seal: the published ledger and a sign of life."""
    read = folder_reader(folder)

    async def ledger(request: Request) -> Response:
        path = request.path_params["path"]
        data = read(path)
        if data is None:
            return problem(404, "broker.not-found", "the ledger has no such resource")
        if path == "checkpoint":
            return Response(data, media_type="text/plain; charset=utf-8", headers={"cache-control": "no-cache"})
        return Response(data, media_type="application/octet-stream", headers={"cache-control": _FOREVER})

    async def healthz(_request: Request) -> Response:
        return JSONResponse({"status": "ok", "ledger_size": broker.size})

    return [Route("/ledger/{path:path}", ledger), Route("/healthz", healthz)]


_FOREVER = "public, max-age=31536000, immutable"


def _post(path: str, handler: Handler) -> Route:
    return Route(path, handler, methods=["POST"])


def _get(path: str, handler: Handler) -> Route:
    return Route(path, handler, methods=["GET"])


def _number(request: Request, name: str) -> int:
    text = request.query_params.get(name, "")
    if not text.isdecimal() or not text.isascii() or len(text) > 18:
        raise ParseError("broker.malformed", f"`{name}` is a number")
    return int(text)


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json", headers={"cache-control": "no-store"})


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, MitaiError)  # noqa: S101 - registered for it
    status = _STATUS.get(error.code) or (403 if isinstance(error, DeniedError) else 400)
    return problem_of(status, error)


async def _http_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for it
    return problem(error.status_code, "broker.not-found", "the broker has no such method and path")


async def _failed(_request: Request, error: Exception) -> Response:
    log.error("request failed", kind=type(error).__name__)
    return problem(500, "broker.internal", "the broker failed on this request")


async def _no_storage(_request: Request, error: Exception) -> Response:
    log.error("storage failed", kind=type(error).__name__)
    return problem(503, "broker.storage", "the broker's database can't be read now", "try again, or ask its operator")


_HANDLERS = {MitaiError: _refused, HTTPException: _http_error, SQLAlchemyError: _no_storage, Exception: _failed}
