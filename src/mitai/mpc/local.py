"""HTTP clients whose requests an ASGI app of this very process answers, streams included: no address, no socket.

The app runs in an event loop with a thread of its own, so that a client that is not asynchronous can wait for it, and
one that is can do so from any loop.

Invariants:

- Whatever address a request names, it goes to the app and nowhere else.
- A response that is closed early is a client that left: the app hears it.
- An answer that the app did not end is an error, never a short answer.
- What failed is not asked again by itself: a party that makes a run fail would see, by what follows, that it did.

Example:
    >>> httpx2.Client(transport=Local(app), base_url="http://parties.invalid").get("/v1/models")
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import Future
from contextvars import ContextVar
from typing import Any, Final, TypeVar

import httpx2
from starlette.types import ASGIApp, Message, Scope

from mitai.channel.exchange import EXCHANGE_HEADER, Exchange
from mitai.client.transport import EXCHANGE_EXTENSION

T = TypeVar("T")
EXCHANGE: Final[ContextVar[Exchange]] = ContextVar("exchange")  # set while the app answers a request


class Local(httpx2.BaseTransport):
    """The transport of an `httpx2.Client`."""

    def __init__(self, app: ASGIApp) -> None:
        self._loop = _Loop(app)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Have the app answer."""
        call = _Call(self._loop, request, request.read())
        try:
            return call.response(self._loop.run(call.next()).result())
        except BaseException:
            call.leave()
            raise

    def close(self) -> None:
        """End what is in progress."""
        self._loop.close()


class AsyncLocal(httpx2.AsyncBaseTransport):
    """The transport of an `httpx2.AsyncClient`."""

    def __init__(self, app: ASGIApp) -> None:
        self._loop = _Loop(app)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Have the app answer."""
        call = _Call(self._loop, request, await request.aread())
        try:
            return call.response(await asyncio.wrap_future(self._loop.run(call.next())))
        except BaseException:
            call.leave()
            raise

    async def aclose(self) -> None:
        """End what is in progress."""
        self._loop.close()


class _Loop:
    """An event loop in a thread of its own."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="mitai-mpc-api", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def close(self) -> None:
        if self.loop.is_closed():
            return
        self.run(self._cancel_all()).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    @staticmethod
    async def _cancel_all() -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


class _Call(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    """One request on its way through the app; as a stream, the body of its answer."""

    def __init__(self, loop: _Loop, request: httpx2.Request, body: bytes) -> None:
        self._loop, self._request = loop, request
        self._body: bytes | None = body
        self._read_s = request.extensions.get("timeout", {}).get("read")
        self._told: asyncio.Queue[Message | None] = asyncio.Queue()
        self._left = asyncio.Event()
        self._exchange = Exchange("local")
        loop.run(self._answer())

    async def next(self) -> Message:
        """Return what the app says next; in the app's loop."""
        try:
            async with asyncio.timeout(self._read_s):
                message = await self._told.get()
        except TimeoutError:
            raise httpx2.ReadTimeout("there was no answer in time", request=self._request) from None
        if message is None:
            raise httpx2.ReadError("the answer broke off", request=self._request)
        return message

    def leave(self) -> None:
        """Tell the app that nobody reads on."""
        if not self._loop.loop.is_closed():
            self._loop.loop.call_soon_threadsafe(self._left.set)

    def response(self, start: Message) -> httpx2.Response:
        """Return the response that has begun."""
        extensions = {EXCHANGE_EXTENSION: self._exchange}
        headers = [*start["headers"], (EXCHANGE_HEADER.encode(), self._exchange.id.encode())]
        if start["status"] >= 500:
            headers.append((b"x-should-retry", b"false"))  # what the `openai` client obeys
        return httpx2.Response(start["status"], headers=headers, stream=self, extensions=extensions)

    def __iter__(self) -> Iterator[bytes]:
        more = True
        while more:
            message = self._loop.run(self.next()).result()
            yield message.get("body", b"")
            more = message.get("more_body", False)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        more = True
        while more:
            message = await asyncio.wrap_future(self._loop.run(self.next()))
            yield message.get("body", b"")
            more = message.get("more_body", False)

    def close(self) -> None:
        self.leave()

    async def aclose(self) -> None:
        self.leave()

    async def _answer(self) -> None:
        EXCHANGE.set(self._exchange)
        url = self._request.url
        scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": self._request.method,
            "scheme": url.scheme,
            "path": url.path,
            "raw_path": url.raw_path.split(b"?")[0],
            "query_string": url.query,
            "root_path": "",
            "headers": [(name.lower(), value) for name, value in self._request.headers.raw],
            "client": None,
            "server": None,
        }
        try:
            await self._loop.app(scope, self._receive, self._told.put)
        finally:
            self._told.put_nowait(None)

    async def _receive(self) -> Message:
        if (body := self._body) is not None:
            self._body = None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}
