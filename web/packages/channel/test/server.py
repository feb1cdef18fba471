"""A server behind `ChannelMiddleware` for the tests of the web client: python server.py KEM; prints its address."""

from __future__ import annotations

import asyncio
import json
import sys
import time

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from mitai.channel import ChannelMiddleware, KeyRing, Limits

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

    async def stream():
        for at in range(count):
            yield f"data: {at} é密态\n\n"
            await asyncio.sleep(0.05)

    return StreamingResponse(stream(), media_type="text/event-stream")


async def fail(_: Request) -> Response:
    """Break off in the middle of an answer."""

    async def stream():
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


async def remember(exchange) -> None:
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
    server = uvicorn.Server(uvicorn.Config(channel, port=0, log_level="critical", lifespan="off"))

    async def run() -> None:
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        print(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", flush=True)
        await asyncio.to_thread(sys.stdin.read)  # until our parent goes away
        server.should_exit = True
        await serving

    asyncio.run(run())


if __name__ == "__main__":
    main()
