"""The gateway: the one public address, run by a host that nobody has to trust.

It forwards opaque bytes to replicas and broker and stores ciphertext objects. Nothing here holds a key: what it could
read, drop or change is exactly what the threat model grants the host, so nobody's safety may rest on this module.

- `/objects/CAPSULE/NAME`: ciphertext, written once with the upload token, readable by all (also in ranges).
- `/broker/…`: to the broker, prefix removed.  `/control/…`: to every replica, with the operator token only.
- everything else: to a replica. An evidence answer names its replica in `mitai-replica`; a request that repeats
  the header reaches the same one, because each replica has its own key.

Example:
    >>> python -m mitai.fleet.gateway --config gateway.toml
"""

from __future__ import annotations

import argparse
import hmac
import itertools
import re
import time
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO

import anyio.to_thread
import fsspec
import httpx2
import msgspec
import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from mitai.problem import problem

log = structlog.get_logger()

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{1,18})")
_HOP_BY_HOP = {
    "connection",
    "keep-alive",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "host",
    "proxy-authorization",
    "content-length",
}
_BLOCK_BYTES = 1 << 20
_METHODS = ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"]


class GatewayConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `gateway.toml` says; see `docs/configuration.md`."""

    replicas: dict[str, str]  # name → base URL
    broker: str
    objects: str  # fsspec URL of the object store
    upload_token: str
    operator_token: str
    host: str = "127.0.0.1"
    port: int = 8700
    capture: str = ""  # a file that records the traffic, to show what a host sees
    max_object_bytes: int = 1 << 40
    max_request_bytes: int = 64 << 20
    read_timeout_s: float = 600.0


def create_app(config: GatewayConfig, client: httpx2.AsyncClient | None = None) -> Starlette:
    """Return the ASGI app; `client` is for tests that play the replicas in memory."""
    return Gateway(config, client).app()


class Gateway:
    """Routes, object store and capture of one gateway."""

    def __init__(self, config: GatewayConfig, client: httpx2.AsyncClient | None) -> None:
        self._config = config
        self._client = client or httpx2.AsyncClient(
            timeout=httpx2.Timeout(10.0, read=config.read_timeout_s),
            limits=httpx2.Limits(max_connections=4096, max_keepalive_connections=64),
        )
        self._turn = itertools.count()
        self._capture = _Capture(Path(config.capture)) if config.capture else None
        self._files, self._root = fsspec.core.url_to_fs(config.objects)

    def app(self) -> Starlette:
        """Return the routes as one ASGI app."""
        routes = [
            Route("/healthz", self._health),
            Route("/objects/{capsule}/{name}", self._get_object, methods=["GET", "HEAD"]),
            Route("/objects/{capsule}/{name}", self._put_object, methods=["PUT"]),
            Route("/control/{path:path}", self._control, methods=["GET", "POST"]),
            Route("/broker/{path:path}", self._broker, methods=_METHODS),
            Route("/{path:path}", self._replica, methods=_METHODS),
        ]
        return Starlette(routes=routes)

    # -- health and control ----------------------------------------------------------------------------------

    async def _health(self, _: Request) -> Response:
        return JSONResponse({"status": "ok", "replicas": sorted(self._config.replicas)})

    async def _control(self, request: Request) -> Response:
        """Pass an operator's request to every replica; answer with what each said."""
        if not _bears(request, self._config.operator_token):
            return problem(
                401, "fleet.operator-token", "this address is for the operator: the operator token is missing or wrong"
            )
        try:
            body = await self._bounded_body(request, 1 << 20)
        except _TooLargeError:
            return problem(413, "fleet.request-too-large", "a control request is at most 1 MiB")
        answers: dict[str, object] = {}
        for name, url in self._config.replicas.items():
            try:
                answer = await self._client.request(
                    request.method,
                    f"{url}/control/{request.path_params['path']}",
                    content=body,
                    params=request.query_params,
                )
                answers[name] = {"status": answer.status_code, "body": msgspec.json.decode(answer.content)}
            except (httpx2.HTTPError, msgspec.DecodeError) as error:
                answers[name] = {
                    "status": 502,
                    "body": {"code": "fleet.replica-unreachable", "detail": type(error).__name__},
                }
        return JSONResponse(answers)

    # -- forwarding ------------------------------------------------------------------------------------------

    async def _broker(self, request: Request) -> Response:
        return await self._forward(request, {"broker": self._config.broker}, "/" + request.path_params["path"])

    async def _replica(self, request: Request) -> Response:
        wanted = request.headers.get("mitai-replica")
        replicas = self._config.replicas
        if wanted is not None and wanted not in replicas:
            return problem(
                421, "fleet.replica-gone", "the replica that this session was verified with is gone: verify again"
            )
        if wanted is None:  # start at the next in turn; the others stand in when it is down
            names = sorted(replicas)
            start = next(self._turn) % len(names)
            replicas = {name: replicas[name] for name in names[start:] + names[:start]}
        else:
            replicas = {wanted: replicas[wanted]}
        return await self._forward(request, replicas, request.url.path)

    async def _forward(self, request: Request, targets: dict[str, str], path: str) -> Response:
        headers = [(name, value) for name, value in request.headers.items() if name not in _HOP_BY_HOP]
        exchange = self._capture.start(request.method, path, headers) if self._capture else None
        try:
            body: bytes | None = None
            if request.method not in {"GET", "HEAD"}:
                # A retry at another replica needs the whole body; sealed requests are bounded, so it is read once.
                body = await self._bounded_body(request, self._config.max_request_bytes)
        except _TooLargeError:
            return problem(
                413, "fleet.request-too-large", f"a request is at most {self._config.max_request_bytes} bytes"
            )
        except ClientDisconnect:
            return Response(status_code=499)
        if exchange and body:
            exchange.request(body)
        for name, url in targets.items():
            upstream = self._client.build_request(
                request.method, url + path, params=request.query_params, headers=headers, content=body
            )
            try:
                answer = await self._client.send(upstream, stream=True)
            except httpx2.ConnectError:
                continue
            except httpx2.HTTPError as error:
                return problem(502, "fleet.replica-failed", f"{name} did not answer: {type(error).__name__}")
            kept = {key: value for key, value in answer.headers.items() if key.lower() not in _HOP_BY_HOP}
            kept["mitai-replica"] = name
            return StreamingResponse(_relay(answer, exchange), answer.status_code, kept)
        return problem(
            502, "fleet.replica-unreachable", f"none of {', '.join(targets)} can be reached: is it still starting?"
        )

    async def _bounded_body(self, request: Request, limit: int) -> bytes:
        parts, size = [], 0
        async for part in request.stream():
            size += len(part)
            if size > limit:
                raise _TooLargeError
            parts.append(part)
        return b"".join(parts)

    # -- ciphertext objects ----------------------------------------------------------------------------------

    async def _put_object(self, request: Request) -> Response:
        """Store an object once: bytes go to a temporary name, the last step is a rename."""
        if not _bears(request, self._config.upload_token):
            return problem(401, "fleet.upload-token", "storing an object needs the upload token")
        path = self._object_path(request)
        if path is None:
            return problem(400, "fleet.object-name", "object names are letters, digits, '.', '_' and '-', at most 128")
        if await anyio.to_thread.run_sync(self._files.exists, path):
            return problem(409, "fleet.object-exists", "this object is stored already; objects are never overwritten")
        temporary = f"{path}.{time.time_ns():x}.part"
        await anyio.to_thread.run_sync(lambda: self._files.makedirs(path.rsplit("/", 1)[0], exist_ok=True))
        size = 0
        file = await anyio.to_thread.run_sync(self._files.open, temporary, "wb")
        try:
            async for part in request.stream():
                size += len(part)
                if size > self._config.max_object_bytes:
                    raise _TooLargeError
                await anyio.to_thread.run_sync(file.write, part)
            await anyio.to_thread.run_sync(file.close)
            await anyio.to_thread.run_sync(self._files.mv, temporary, path)
        except (ClientDisconnect, _TooLargeError):
            file.close()
            self._files.rm(temporary)
            return problem(
                413,
                "fleet.object-too-large",
                f"the object is above {self._config.max_object_bytes} bytes or was cut off",
            )
        return JSONResponse({"size": size}, 201)

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


class _TooLargeError(Exception):
    """A body above its limit."""


class _Capture:
    """The traffic as the host sees it: one JSON line an exchange, bodies in base64."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: IO[bytes] = path.open("ab", buffering=0)

    def start(self, method: str, path: str, headers: list[tuple[str, str]]) -> _CapturedExchange:
        return _CapturedExchange(self._file, method, path, headers)


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
        self._file.write(msgspec.json.encode(row) + b"\n")


async def _relay(answer: httpx2.Response, exchange: _CapturedExchange | None) -> AsyncIterator[bytes]:
    """Pass the answer on as it arrives; a broken upstream breaks the client's stream too, which the client detects."""
    try:
        async for part in answer.aiter_raw():
            if exchange:
                exchange.response(part)
            yield part
    finally:
        await answer.aclose()
        if exchange:
            exchange.finish(answer.status_code)


def _bears(request: Request, token: str) -> bool:
    given = request.headers.get("authorization", "")
    return hmac.compare_digest(given.encode(), f"Bearer {token}".encode())


def main() -> None:
    """Run the gateway that `--config` describes until it is told to stop."""
    parser = argparse.ArgumentParser(prog="python -m mitai.fleet.gateway", description="The untrusted gateway.")
    parser.add_argument("--config", type=Path, required=True)
    config = msgspec.toml.decode(parser.parse_args().config.read_bytes(), type=GatewayConfig)
    app: ASGIApp = create_app(config)
    log.info("gateway starts", host=config.host, port=config.port, replicas=sorted(config.replicas))
    uvicorn.run(app, host=config.host, port=config.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
