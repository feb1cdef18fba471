"""A server behind `ChannelMiddleware` for the tests of the web client: python server.py KEM; prints its address."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from mitai.channel import ChannelMiddleware, Exchange, KeyRing, Limits

RING = KeyRing.generate("x-wing" if sys.argv[1] == "x-wing" else "x25519")
EXCHANGES: list[dict[str, object]] = []
CLOCK_OFFSET_S = 0.0


async def echo(request: Request) -> Response:
    """Answer with the request."""
    body = await request.body()
    seen = json.dumps({"method": request.method, "url": str(request.url), "headers": dict(request.headers)})
    return Response(body, headers={"x-seen": seen.encode().hex(), "content-type": "application/octet-stream"})


async def events(request: Request) -> Response:
    """Stream as many events as the body says, with a pause after each."""
    count = int(await request.body())

    async def stream() -> AsyncIterator[str]:
        for at in range(count):
            yield f"data: {at} é密态\n\n"
            await asyncio.sleep(0.05)

    return StreamingResponse(stream(), media_type="text/event-stream")


async def fail(_: Request) -> Response:
    """Break off in the middle of an answer."""

    async def stream() -> AsyncIterator[bytes]:
        yield b"begun"
        raise RuntimeError

    return StreamingResponse(stream())


async def status(request: Request) -> Response:
    """Answer with a status alone."""
    return Response(status_code=int(request.path_params["code"]))


async def control(request: Request) -> Response:
    """In the clear: rotate the key, set the clock, tell what was exchanged."""
    global CLOCK_OFFSET_S  # noqa: PLW0603 - a server for tests
    command = await request.json()
    if "rotate" in command:
        RING.rotate(grace_s=0)
    CLOCK_OFFSET_S = float(command.get("clock_offset_s", 0))
    return JSONResponse({"key_config": RING.current_config().hex(), "exchanges": EXCHANGES})


async def remember(exchange: Exchange) -> None:
    """Keep what the server knows of an exchange."""
    EXCHANGES.append(
        {
            "id": exchange.id,
            "name": exchange.name,
            "request": exchange.request_sha256,
            "response": exchange.response_sha256,
        }
    )


def main() -> None:
    """Serve until told to stop."""
    app = Starlette(
        routes=[
            Route("/v1/echo", echo, methods=["GET", "POST", "PUT", "DELETE"]),
            Route("/v1/events", events, methods=["POST"]),
            Route("/v1/fail", fail),
            Route("/v1/status/{code}", status),
        ]
    )
    public = Starlette(routes=[Route("/control", control, methods=["POST"])])
    channel = ChannelMiddleware(
        app,
        RING,
        public=public,
        on_exchange=remember,
        limits=Limits(idle_s=5),
        clock=lambda: time.time() + CLOCK_OFFSET_S,
    )
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(channel, log_level="critical", lifespan="off"))
    threading.Thread(target=stop_when_orphaned, args=(server,), daemon=True).start()
    sys.stdout.write(f"http://127.0.0.1:{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    server.run(sockets=[listener])


def stop_when_orphaned(server: uvicorn.Server) -> None:
    """Wait for the end of our input, which comes when our parent ends, however that happens."""
    sys.stdin.read()
    server.should_exit = True


if __name__ == "__main__":
    main()
