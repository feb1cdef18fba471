"""The gateway: the one public address, run by a host that nobody has to trust.

It forwards opaque bytes to replicas and broker and stores ciphertext objects. Nothing here holds a key: what it could
read, drop or change is exactly what the threat model grants the host, so nobody's safety may rest on this module.

- `/`, `/console` and the files beside them: the page for browsers, with `/mitai.json`, what the host offers to it.
- `/objects/CAPSULE/NAME`: ciphertext, written once with the upload token, readable by all (also in ranges).
- `/broker/…`: to the broker, prefix removed; of several broker processes to the one that leads (`leader`), and while
  none does a request waits a few seconds.  `/control/…`: to every replica, with the operator token only.
- `/control/train/…`: to the training worker, likewise.  `/train/.well-known/mitai/evidence`: that worker's evidence.
- everything else: to a replica. An evidence answer names its replica in `mitai-replica`; a request that repeats
  the header reaches the same one, because each replica has its own key. When that one is gone, the client is told to
  verify again, and so finds another.

Paths are forwarded only when they are plain (no empty, `.` or `..` segment, nothing percent-encoded beyond letters,
digits and `.`, `_`, `~`, `-`, `:`, `@`), so that no spelling of `/control` takes another way.

Example:
    >>> python -m mitai.fleet.gateway --config gateway.toml
"""

from __future__ import annotations

import argparse
import asyncio
import hmac
import itertools
import os
import re
import sys
import time
from base64 import b64encode
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Annotated, cast

import anyio
import anyio.to_thread
import fsspec
import httpx2
import msgspec
import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from mitai.errors import FleetError, MitaiError
from mitai.fleet.cors import BrowserRules, guests
from mitai.fleet.leader import ROLE_STANDBY, Leaders
from mitai.problem import problem
from mitai.process import log_to_stderr
from mitai.web.page import Page, installed_page
from mitai.web.site import Offer, Site

log = structlog.get_logger()

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{1,18})")
_SEGMENT = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._~:@-]+")
_OWN_SEGMENTS = {"broker", "control", "healthz", "objects", "train"}  # never forwarded to a replica as they are
_HOP_BY_HOP = {  # RFC 9110 §7.6.1, and what the next request writes afresh
    b"connection",
    b"keep-alive",
    b"proxy-connection",
    b"transfer-encoding",
    b"te",
    b"trailer",
    b"upgrade",
    b"host",
    b"proxy-authorization",
    b"content-length",
}
_BLOCK_BYTES = 1 << 20
_MAX_CONTROL_BYTES = 1 << 20
_METHODS = ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"]

_LEADER_WITHIN_S = 5.0  # how long a request waits for a broker process that leads

Headers = list[tuple[bytes, bytes]]
Target = tuple[str, str, asyncio.Event | None]  # name, base URL, and of a broker process: set when it leads no more
Token = Annotated[str, msgspec.Meta(min_length=16)]  # an empty token would be no lock at all


class GatewayConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `gateway.toml` says; see `docs/configuration.md`."""

    replicas: dict[str, str]  # name → base URL
    broker: str | tuple[str, ...]  # base URL, or those of all broker processes on one database
    objects: str  # a folder or any other fsspec URL, for ciphertext objects
    upload_token: Token  # for storing objects; at least 16 characters
    operator_token: Token  # for `/control/…`; at least 16 characters
    host: str = "127.0.0.1"  # address to listen on
    port: int = 8700  # port to listen on
    capture: str = ""  # a file that records the traffic, to show what a host sees; answers are held in memory
    max_object_bytes: int = 1 << 40  # of one object
    max_request_bytes: int = 64 << 20  # of one forwarded request; each is held in memory until it is sent
    read_timeout_s: float = 600.0  # how long a replica may be silent
    page: str = ""  # a folder with the page for browsers; the installed one by default
    policy: str = ""  # a file: the appraisal policy that the page is offered
    releases: tuple[str, ...] = ()  # files: signed release manifests that the page is offered
    train: str = ""  # base URL of the training worker, where there is one

    @staticmethod
    def load(path: Path) -> GatewayConfig:
        """Read `gateway.toml`; raise `FleetError` when it is missing or says something else."""
        try:
            return msgspec.toml.decode(path.read_bytes(), type=GatewayConfig)
        except OSError as error:
            raise FleetError("fleet.config", f"{path} can't be read ({type(error).__name__})") from error
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise FleetError("fleet.config", f"{path}: {error}", hint="see docs/configuration.md") from error

    def __repr__(self) -> str:
        return f"GatewayConfig(replicas={sorted(self.replicas)}, host={self.host!r}, port={self.port})"  # no token


def create_app(config: GatewayConfig, transport: httpx2.AsyncBaseTransport | None = None) -> Starlette:
    """Return the ASGI app; `transport` is for tests that play the replicas in memory."""
    return Gateway(config, transport).app()


class Gateway:
    """Routes, object store and capture of one gateway."""

    def __init__(self, config: GatewayConfig, transport: httpx2.AsyncBaseTransport | None) -> None:
        self._config = config
        # A transport, not a client: nothing is added, remembered (cookies), followed or sent through a proxy.
        self._transport = transport or httpx2.AsyncHTTPTransport(
            trust_env=False, limits=httpx2.Limits(max_connections=4096, max_keepalive_connections=64)
        )
        self._timeout = httpx2.Timeout(10.0, read=config.read_timeout_s).as_dict()
        self._turn = itertools.count()
        self._brokers = Leaders(_named(config.broker), self._transport)
        self._capture = _Capture(Path(config.capture)) if config.capture else None
        self._files, self._root = fsspec.core.url_to_fs(config.objects)
        self._storing: set[str] = set()  # paths that are being written now
        self._site = _site(config)

    def app(self) -> Starlette:
        """Return the routes as one ASGI app."""
        routes = [
            Route("/healthz", self._health),
            Route("/objects/{capsule}/{name}", self._get_object, methods=["GET", "HEAD"]),
            Route("/objects/{capsule}/{name}", self._put_object, methods=["PUT"]),
            Route("/control/train/{path:path}", self._train_control, methods=["GET", "POST"]),
            Route("/train/.well-known/mitai/evidence", self._train_evidence),
            Route("/control/{path:path}", self._control, methods=["GET", "POST"]),
            Route("/broker/{path:path}", self._broker, methods=_METHODS),
            Route("/{path:path}", self._replica, methods=_METHODS),
        ]
        return Starlette(
            routes=routes,
            middleware=[Middleware(BrowserRules)],
            lifespan=self._lifespan,
            exception_handlers={HTTPException: _refused},
        )

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        async with self._brokers:
            yield
        await self._transport.aclose()
        if self._capture:
            self._capture.close()

    # -- health and control ----------------------------------------------------------------------------------

    async def _health(self, _: Request) -> Response:
        return JSONResponse({"status": "ok", "replicas": sorted(self._config.replicas)})

    async def _control(self, request: Request) -> Response:
        """Pass an operator's request to every replica; answer with what each said."""
        path = "/control/" + request.path_params["path"]
        body = await self._operators(request, path)
        if isinstance(body, Response):
            return body
        answers: dict[str, object] = {}

        async def ask(name: str, url: str) -> None:
            answers[name] = await self._control_one(request, url, path, body)

        async with anyio.create_task_group() as group:
            for name, url in self._config.replicas.items():
                group.start_soon(ask, name, url)
        return JSONResponse({name: answers[name] for name in sorted(answers)})

    async def _train_control(self, request: Request) -> Response:
        """Pass an operator's request to the training worker."""
        path = "/control/" + request.path_params["path"]
        body = await self._operators(request, path)
        if isinstance(body, Response):
            return body
        if not self._config.train:
            return _no_worker()
        told = await self._control_one(request, self._config.train, path, body)
        return JSONResponse(told["body"], cast("int", told["status"]))

    async def _operators(self, request: Request, path: str) -> Response | bytes:
        """Return the body of an operator's request, or why it is refused."""
        if not _bears(request, self._config.operator_token):
            return problem(
                401,
                "fleet.operator-token",
                "this address is for the operator: the operator token is missing or wrong",
                "ask the gateway's operator for it",
            )
        if not _is_plain(path):
            return _bad_path()
        try:
            return await _bounded(request.stream(), _MAX_CONTROL_BYTES)
        except _TooLargeError:
            return problem(413, "fleet.request-too-large", "a control request is at most 1 MiB")
        except ClientDisconnect:
            return Response(status_code=499)

    async def _control_one(self, request: Request, url: str, path: str, body: bytes) -> dict[str, object]:
        """Ask one replica; a replica that fails, lies or floods spoils only its own entry."""
        headers = [(name, value) for name, value in _forwarded(request.headers.raw) if name.lower() != b"authorization"]
        try:
            answer = await self._transport.handle_async_request(self._upstream(request, url, path, headers, body))
            try:
                told = msgspec.json.decode(await _bounded(answer.aiter_raw(), _MAX_CONTROL_BYTES))
            finally:
                await answer.aclose()
        except (httpx2.HTTPError, _TooLargeError, msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            failed = {"code": "fleet.replica-unreachable", "detail": type(error).__name__.strip("_")}
            return {"status": 502, "body": failed}
        return {"status": answer.status_code, "body": told}

    # -- forwarding ------------------------------------------------------------------------------------------

    async def _train_evidence(self, request: Request) -> Response:
        """Forward this one path of the training worker: what else it has is for operators."""
        if not self._config.train:
            return _no_worker()
        return await self._forward(request, _each({"train": self._config.train}), "/.well-known/mitai/evidence")

    async def _broker(self, request: Request) -> Response:
        wanted = request.headers.get("mitai-replica")
        pinned = wanted if wanted in self._brokers.urls else None
        several = _replica_gone if pinned else _no_leader
        unreachable = several if len(self._brokers.urls) > 1 else None
        path = "/" + request.path_params["path"]
        return await self._forward(request, self._leaders_in_turn(pinned), path, unreachable)

    async def _leaders_in_turn(self, pinned: str | None) -> AsyncIterator[Target]:
        """Give the leader, and the next when the one given did not take the request; none but `pinned`, if given."""
        if len(self._brokers.urls) == 1:
            for name, url in self._brokers.urls.items():
                yield name, url, None
            return
        until = time.monotonic() + _LEADER_WITHIN_S
        while leader := await self._brokers.find(until - time.monotonic()):
            if pinned not in {None, leader.name}:
                return
            yield leader.name, leader.url, leader.gone
            self._brokers.lost(leader)

    async def _replica(self, request: Request) -> Response:
        path = request.scope["path"]
        if path.split("/")[1] in _OWN_SEGMENTS:
            return problem(404, "fleet.not-found", "there is nothing at this address for this method")
        if file := self._site.answer(request):
            return file
        wanted = request.headers.get("mitai-replica")
        replicas = self._config.replicas
        if wanted is not None:
            pinned = {name: url for name, url in replicas.items() if name == wanted}
            return await self._forward(request, _each(pinned), path, unreachable=_replica_gone)
        names = sorted(replicas)  # start at the next in turn; the others stand in when it is down
        start = next(self._turn) % max(len(names), 1)
        in_turn = {name: replicas[name] for name in names[start:] + names[:start]}
        return await self._forward(request, _each(in_turn), path)

    async def _forward(
        self,
        request: Request,
        targets: AsyncIterator[Target],
        path: str,
        unreachable: Callable[[], Response] | None = None,
    ) -> Response:
        """Send the request to the first target that takes it, and stream its answer back."""
        if not _is_plain(path):
            return _bad_path()
        headers = _forwarded(request.headers.raw)
        exchange = self._capture.start(request.method, request.url.path, headers) if self._capture else None
        try:
            body: bytes | None = None
            if request.method not in {"GET", "HEAD"}:
                # A retry at another replica needs the whole body; sealed requests are bounded, so it is read once.
                body = await _bounded(request.stream(), self._config.max_request_bytes)
        except _TooLargeError:
            return problem(
                413, "fleet.request-too-large", f"a request is at most {self._config.max_request_bytes} bytes"
            )
        except ClientDisconnect:
            return Response(status_code=499)
        if exchange and body:
            exchange.request(body)
        tried = []
        async for name, url, gone in targets:
            tried.append(name)
            try:
                answer = await self._answer(self._upstream(request, url, path, headers, body), gone)
            except (httpx2.ConnectError, httpx2.ConnectTimeout, _StandsByError):
                continue  # nothing was sent or nothing was done: another may have it
            except httpx2.HTTPError as error:
                if gone and body is None:
                    continue  # reading again changes nothing
                return problem(502, "fleet.replica-failed", f"{name} did not answer: {type(error).__name__}")
            response = StreamingResponse(_relay(answer, exchange), answer.status_code)
            told = guests(_forwarded(answer.headers.raw))
            response.raw_headers = [(key, value) for key, value in told if key != b"mitai-replica"]
            response.raw_headers.append((b"mitai-replica", name.encode()))
            return response
        if unreachable:
            return unreachable()
        return problem(
            502, "fleet.replica-unreachable", f"none of {', '.join(tried)} can be reached: is it still starting?"
        )

    async def _answer(self, request: httpx2.Request, gone: asyncio.Event | None) -> httpx2.Response:
        """Send a request; where `gone` is given, to a broker process: wait no longer than it leads."""
        if gone is None:
            return await self._transport.handle_async_request(request)
        sending = asyncio.create_task(self._transport.handle_async_request(request))
        leaving = asyncio.create_task(gone.wait())
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                raise httpx2.ReadError("this broker process leads no more")
        finally:
            leaving.cancel()
            sending.cancel()
        if ROLE_STANDBY in sending.result().headers.raw:
            await sending.result().aclose()
            raise _StandsByError
        return sending.result()

    def _upstream(self, request: Request, url: str, path: str, headers: Headers, body: bytes | None) -> httpx2.Request:
        query = request.scope["query_string"].decode("latin-1")
        address = url + path + (f"?{query}" if query else "")
        return httpx2.Request(
            request.method, address, headers=headers, content=body, extensions={"timeout": self._timeout}
        )

    # -- ciphertext objects ----------------------------------------------------------------------------------

    async def _put_object(self, request: Request) -> Response:
        """Store an object once: bytes go to a temporary name, the last step is a rename."""
        if not _bears(request, self._config.upload_token):
            return problem(
                401,
                "fleet.upload-token",
                "storing an object needs the upload token: it is missing or wrong",
                "ask the gateway's operator for it",
            )
        path = self._object_path(request)
        if path is None:
            return problem(400, "fleet.object-name", "object names are letters, digits, '.', '_' and '-', at most 128")
        if path in self._storing:
            return _object_exists()
        self._storing.add(path)
        try:
            if await anyio.to_thread.run_sync(self._files.exists, path):
                return _object_exists()
            return JSONResponse({"size": await self._store(request, path)}, 201)
        except _TooLargeError:
            return problem(413, "fleet.object-too-large", f"an object is at most {self._config.max_object_bytes} bytes")
        except ClientDisconnect:
            return Response(status_code=499)
        except OSError as error:
            log.error("object not stored", path=path, error=type(error).__name__, errno=error.errno)
            return problem(507, "fleet.object-store", "the object could not be stored: is the disk full?")
        finally:
            self._storing.discard(path)

    async def _store(self, request: Request, path: str) -> int:
        """Write the body under a temporary name, then rename; leave nothing behind when that fails."""
        temporary, size = f"{path}.{time.time_ns():x}.part", 0
        await anyio.to_thread.run_sync(lambda: self._files.makedirs(path.rsplit("/", 1)[0], exist_ok=True))
        file = await anyio.to_thread.run_sync(self._files.open, temporary, "wb")
        try:
            try:
                async for part in request.stream():
                    size += len(part)
                    if size > self._config.max_object_bytes:
                        raise _TooLargeError
                    await anyio.to_thread.run_sync(file.write, part)
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(file.close)
            await anyio.to_thread.run_sync(self._files.mv, temporary, path)
        except BaseException:  # also when the server stops in the middle
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._files.rm, temporary)
            raise
        return size

    async def _get_object(self, request: Request) -> Response:
        path = self._object_path(request)
        if path is None or not await anyio.to_thread.run_sync(self._files.exists, path):
            return problem(404, "fleet.object-missing", "there is no such object here")
        size = int(await anyio.to_thread.run_sync(self._files.size, path))
        start, end, status = 0, size, 200
        headers = {"accept-ranges": "bytes", "content-type": "application/octet-stream"}
        if wanted := _RANGE.fullmatch(request.headers.get("range", "")):
            start, end, status = int(wanted[1]), min(int(wanted[2]) + 1, size), 206
            if start >= size or end <= start:
                return problem(416, "fleet.object-range", f"the object has {size} bytes")
            headers["content-range"] = f"bytes {start}-{end - 1}/{size}"
        headers["content-length"] = str(end - start)
        if request.method == "HEAD":
            return Response(None, status, headers)
        return StreamingResponse(self._blocks(path, start, end), status, headers)

    async def _blocks(self, path: str, start: int, end: int) -> AsyncIterator[bytes]:
        file = await anyio.to_thread.run_sync(self._files.open, path, "rb")
        with file:
            await anyio.to_thread.run_sync(file.seek, start)
            while start < end:
                block = await anyio.to_thread.run_sync(file.read, min(_BLOCK_BYTES, end - start))
                if not block:
                    return
                start += len(block)
                yield block

    def _object_path(self, request: Request) -> str | None:
        capsule, name = request.path_params["capsule"], request.path_params["name"]
        if not (_NAME.fullmatch(capsule) and _NAME.fullmatch(name)):
            return None
        return f"{self._root}/{capsule}/{name}"


def _site(config: GatewayConfig) -> Site:
    """Return the page and what is offered to it; no files where none are built."""
    page = Page.load(Path(config.page)) if config.page else installed_page()
    if page is None:
        log.info("no page is built here: browsers are served nothing")
    offer = Offer.read(Path(config.policy), tuple(map(Path, config.releases))) if config.policy else None
    return Site(page, offer)


async def _each(targets: Mapping[str, str]) -> AsyncIterator[Target]:
    for name, url in targets.items():
        yield name, url, None


def _named(brokers: str | tuple[str, ...]) -> dict[str, str]:
    if isinstance(brokers, str):
        return {"broker": brokers}
    return {f"broker-{number}": url for number, url in enumerate(brokers)}


class _StandsByError(Exception):
    """A broker process that does not lead: it did nothing."""


class _TooLargeError(Exception):
    """A body above its limit."""


class _Capture:
    """The traffic as the host sees it: one JSON line an exchange, bodies in base64."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._file: IO[bytes] = os.fdopen(descriptor, "ab", buffering=0)

    def start(self, method: str, path: str, headers: Headers) -> _CapturedExchange:
        shown = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
        return _CapturedExchange(self._file, method, path, shown)

    def close(self) -> None:
        self._file.close()


class _CapturedExchange:
    def __init__(self, file: IO[bytes], method: str, path: str, headers: list[tuple[str, str]]) -> None:
        self._file = file
        self._head = {"time": time.time(), "method": method, "path": path, "headers": headers}
        self._request = b""
        self._response: list[bytes] = []

    def request(self, body: bytes) -> None:
        self._request = body

    def response(self, part: bytes) -> None:
        self._response.append(part)

    def finish(self, status: int) -> None:
        parts = [b64encode(part).decode() for part in self._response]
        row = self._head | {"status": status, "request": b64encode(self._request).decode(), "response": parts}
        try:
            self._file.write(msgspec.json.encode(row) + b"\n")
        except OSError as error:  # the record is for show: traffic goes on without it
            log.error("exchange not captured", error=type(error).__name__, errno=error.errno)


async def _relay(answer: httpx2.Response, exchange: _CapturedExchange | None) -> AsyncIterator[bytes]:
    """Pass the answer on as it arrives; a broken upstream breaks the client's stream too, which the client detects."""
    try:
        async for part in answer.aiter_raw():
            if exchange:
                exchange.response(part)
            yield part
    finally:
        with anyio.CancelScope(shield=True):  # a client that left frees the replica too
            await answer.aclose()
        if exchange:
            exchange.finish(answer.status_code)


async def _bounded(stream: AsyncIterable[bytes], limit: int) -> bytes:
    parts, size = [], 0
    async for part in stream:
        size += len(part)
        if size > limit:
            raise _TooLargeError
        parts.append(part)
    return b"".join(parts)


def _forwarded(headers: Headers) -> Headers:
    """Return the end-to-end headers: without hop-by-hop ones and those that `Connection` names."""
    listed = {
        token.strip().lower() for name, value in headers if name.lower() == b"connection" for token in value.split(b",")
    }
    return [(name, value) for name, value in headers if name.lower() not in _HOP_BY_HOP | listed]


def _is_plain(path: str) -> bool:
    return path == "/" or (path.startswith("/") and all(map(_SEGMENT.fullmatch, path[1:].split("/"))))


def _no_worker() -> Response:
    return problem(404, "fleet.no-train-worker", "there is no training worker here", "start one: mitai up --train")


def _bad_path() -> Response:
    return problem(400, "fleet.path", "this path is not written plainly: no empty or dot segments, no odd characters")


def _object_exists() -> Response:
    return problem(409, "fleet.object-exists", "this object is stored already; objects are never overwritten")


def _replica_gone() -> Response:
    """The key that the request was sealed to is out of reach: the same to a client as a key that was dropped."""
    return problem(421, "channel.keys-changed", "the replica that this session was verified with is gone: verify again")


def _no_leader() -> Response:
    return problem(503, "fleet.no-leader", "none of the broker processes leads at this time", "try again in a second")


async def _refused(_: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return problem(status, "fleet.not-found", "there is nothing at this address for this method")


def _bears(request: Request, token: str) -> bool:
    given = request.headers.get("authorization", "")
    return hmac.compare_digest(given.encode(), f"Bearer {token}".encode())


def main() -> None:
    """Run the gateway that `--config` describes until it is told to stop."""
    parser = argparse.ArgumentParser(prog="python -m mitai.fleet.gateway", description="The untrusted gateway.")
    parser.add_argument("--config", type=Path, required=True)
    log_to_stderr()
    try:
        config = GatewayConfig.load(parser.parse_args().config)
        app: ASGIApp = create_app(config)
    except MitaiError as error:
        sys.exit(error.diagnostics())
    except OSError as error:
        sys.exit(f"the gateway can't start: {error}")
    log.info("gateway starts", host=config.host, port=config.port, replicas=sorted(config.replicas))
    # h11 bounds a request's head (64 KiB); uvicorn's other parser keeps whatever a client sends.
    uvicorn.run(app, host=config.host, port=config.port, log_level="warning", access_log=False, http="h11")


if __name__ == "__main__":
    main()
