"""Trustee's KBS protocol over HTTP: `POST /kbs/v0/auth`, `POST /kbs/v0/attest`, `GET /kbs/v0/resource/…`.

In the clear, unlike everything of ours: keys are sealed to the guest's attested key, and nothing else is secret.

Invariants:

- Bodies are read up to their limit, within a time, and no further.
- Errors have the protocol's form: a `type` of Trustee's and a `detail`, with our stable code in it.

Example:
    >>> public_routes(broker, folder) + kbs_routes(Kbs(broker, Endorser(PUBLIC)))
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import anyio
import structlog
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from mitai.broker.app import Room
from mitai.broker.kbs.messages import MAX_ATTESTATION_BYTES, MAX_REQUEST_BYTES
from mitai.broker.kbs.sessions import SESSION_S, Credential, Kbs
from mitai.errors import AttestError, DeniedError, MitaiError, ParseError

COOKIE: Final = "kbs-session-id"
MAX_HELD_BYTES: Final = 64 << 20
READ_WITHIN_S: Final = 30.0
Handler = Callable[[Request], Awaitable[Response]]

_TYPES: Final = "https://github.com/confidential-containers/kbs/errors/"
_STATUS: Final = {
    "broker.too-large": 413,
    "broker.too-slow": 408,
    "broker.rate-limited": 429,
    "broker.kbs-resource-unknown": 404,
    "broker.capsule-unknown": 404,
    "broker.nonce-used": 401,
    "broker.nonce-unknown": 401,
}
log = structlog.get_logger("mitai.broker")


def kbs_routes(kbs: Kbs, *, read_within_s: float = READ_WITHIN_S) -> list[Route | Mount]:
    """Return the protocol's routes."""
    room = Room(MAX_HELD_BYTES)

    @asynccontextmanager
    async def read(request: Request, limit: int) -> AsyncIterator[bytes]:
        async with AsyncExitStack() as held:
            try:
                with anyio.fail_after(read_within_s):
                    body = await held.enter_async_context(room.body(request, limit))
            except (TimeoutError, ClientDisconnect):
                raise ParseError("broker.too-slow", "the request did not arrive in time") from None
            yield body

    async def auth(request: Request) -> Response:
        async with read(request, MAX_REQUEST_BYTES) as body:
            cookie, challenge = kbs.auth(body)
        return _json(challenge, cookie)

    async def attest(request: Request) -> Response:
        cookie = request.cookies.get(COOKIE, "")
        async with read(request, MAX_ATTESTATION_BYTES) as body:
            return _json(await kbs.attest(cookie, body), cookie)

    async def resource(request: Request) -> Response:
        path = request.path_params
        return _json(await kbs.resource(_credential(request), path["repository"], path["kind"], path["tag"]))

    return [
        Route("/kbs/v0/auth", _answering(auth), methods=["POST"]),
        Route("/kbs/v0/attest", _answering(attest), methods=["POST"]),
        Route("/kbs/v0/resource/{repository}/{kind}/{tag}", _answering(resource), methods=["GET"]),
    ]


def _credential(request: Request) -> Credential:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return Credential(token=token.strip())
    return Credential(cookie=request.cookies.get(COOKIE, ""))


def _json(body: bytes, cookie: str | None = None) -> Response:
    response = Response(body, media_type="application/json", headers={"cache-control": "no-store"})
    if cookie is not None:
        response.set_cookie(COOKIE, cookie, max_age=int(SESSION_S), path="/kbs/v0", httponly=True, samesite="strict")
    return response


def _answering(handler: Handler) -> Handler:
    """Give every failure the protocol's form."""

    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except MitaiError as error:
            return _error(_status(error), _kind(error), f"{error.message} [{error.code}]")
        except SQLAlchemyError as error:
            log.error("storage failed", kind=type(error).__name__)
            return _error(503, "PluginInternalError", "the broker's database can't be read now [broker.storage]")
        except Exception as error:  # noqa: BLE001 - strangers see no traceback
            log.error("request failed", kind=type(error).__name__)
            return _error(500, "PluginInternalError", "the broker failed on this request [broker.internal]")

    return answer


def _status(error: MitaiError) -> int:
    known = _STATUS.get(error.code)
    if known is not None:
        return known
    if isinstance(error, AttestError | ParseError):
        return 401
    return 403 if isinstance(error, DeniedError) else 503


def _kind(error: MitaiError) -> str:
    if error.code == "broker.kbs-session-unknown":
        return "TokenNotFound"
    if _status(error) == 404:
        return "InvalidRequestPath"
    if isinstance(error, DeniedError):
        return "PolicyDeny"
    return "PluginInternalError" if _status(error) in {429, 503} else "AttestationError"


def _error(status: int, kind: str, detail: str) -> Response:
    return JSONResponse({"type": _TYPES + kind, "detail": detail}, status, headers={"cache-control": "no-store"})
