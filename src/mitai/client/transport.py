"""httpx2 transports that seal every request to a key that was verified, and open the answers as they stream in.

For the stock `openai` client, or any other that takes an httpx2 client. All but the I/O is in `mitai.channel.outgoing`.

Invariants:

- Nothing is ever sent in the clear, and no answer that is not sealed is ever returned.
- A request for another origin than the one that was verified is refused: its headers may hold somebody else's secrets.
- A request is sent again only when the server said that it does not hold the key, and only to another, verified key.

Example:
    >>> transport = OhttpTransport(httpx2.HTTPTransport(), session, "https://gateway.example")
    >>> openai.OpenAI(base_url="https://gateway.example/v1", http_client=httpx2.Client(transport=transport))
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator
from typing import Protocol, cast

import httpx2

from mitai.channel import bhttp
from mitai.channel.exchange import Exchange
from mitai.channel.outgoing import MAX_REFUSAL_BYTES, EhbpOutgoing, OhttpOutgoing, Outgoing
from mitai.errors import ChannelError, KeysChangedError

EXCHANGE_EXTENSION = "mitai.exchange"
REPLICA_HEADER = b"mitai-replica"
_OHTTP_PATH = "/ohttp"
_BROKEN = (httpx2.ReadError, httpx2.RemoteProtocolError)


class Verified(Protocol):
    """What was learnt by verifying a server."""

    @property
    def key_config(self) -> bytes:
        """The key configuration in its attested claims."""

    @property
    def replica(self) -> str | None:
        """The replica that was verified, for the gateway to find it again."""


class Session(Verified, Protocol):
    """A verified server that can be verified anew."""

    def renew(self) -> None:
        """Verify the server again; raise if it does not hold."""


class AsyncSession(Verified, Protocol):
    """A verified server that can be verified anew."""

    async def renew(self) -> None:
        """Verify the server again; raise if it does not hold."""


class _Sealing:
    """What the four transports share: it turns a request into an outgoing exchange."""

    def __init__(self, session: Verified, base_url: str, clock: Callable[[], float], *, oblivious: bool) -> None:
        self._session = session
        self._base = httpx2.URL(base_url.rstrip("/"))
        self._clock = clock
        self._oblivious = oblivious

    def seal(self, request: httpx2.Request) -> tuple[Outgoing, httpx2.Request]:
        """Return the exchange, and the request that goes on the wire."""
        head = bhttp.RequestHead(
            request.method.encode("ascii"),
            request.url.raw_scheme,
            request.url.netloc,
            self._inner_path(request.url),
            tuple((name.lower(), value) for name, value in request.headers.raw if name.lower() != b"host"),
        )
        outgoing: Outgoing
        if self._oblivious:
            outgoing = OhttpOutgoing(self._session.key_config, head, request.content, now=self._clock())
            url = self._base.copy_with(path=self._base.path.rstrip("/") + _OHTTP_PATH)
            method = "POST"
        else:
            outgoing = EhbpOutgoing(self._session.key_config, head, request.content)
            url, method = request.url, request.method
        replica = self._session.replica
        fields = [*outgoing.fields, (REPLICA_HEADER, replica.encode())] if replica else outgoing.fields
        outer = httpx2.Request(method, url, headers=fields, content=outgoing.body, extensions=request.extensions)
        return outgoing, outer

    def _inner_path(self, url: httpx2.URL) -> bytes:
        prefix = self._base.raw_path.rstrip(b"/")
        same_origin = (url.scheme, url.host, url.port) == (self._base.scheme, self._base.host, self._base.port)
        if not same_origin or not url.raw_path.startswith(prefix + b"/"):
            raise ChannelError(
                "channel.other-origin",
                "a request for another address than the verified one was not sent",
                hint=f"this client talks to {self._base} only",
            )
        return url.raw_path[len(prefix) :]


def _response(outgoing: Outgoing, stream: httpx2.SyncByteStream | httpx2.AsyncByteStream) -> httpx2.Response:
    if outgoing.head is None:
        raise ChannelError("channel.truncated", "the answer ends before its head")
    exchange: Exchange = outgoing.exchange
    return httpx2.Response(
        outgoing.head.status,
        headers=list(outgoing.head.fields),
        stream=stream,
        extensions={EXCHANGE_EXTENSION: exchange},
    )


def _fields(response: httpx2.Response) -> list[bhttp.Field]:
    return [(name.lower(), value) for name, value in response.headers.raw]


def _cut(error: Exception) -> ChannelError:
    """A connection that breaks within an answer."""
    return ChannelError(
        "channel.truncated",
        f"the connection broke within the answer ({type(error).__name__})",
        hint="the server or somebody on the way went away; try again",
    )


# --- synchronous -----------------------------------------------------------------------------------------------------


class _SyncStream(httpx2.SyncByteStream):
    def __init__(
        self, early: list[bytes], opened: Generator[list[bytes], None, None], close: Callable[[], None]
    ) -> None:
        self._early, self._opened, self._close = early, opened, close

    def __iter__(self) -> Iterator[bytes]:
        yield from self._early
        for content in self._opened:
            yield from content

    def close(self) -> None:
        self._opened.close()
        self._close()


class _SyncTransport(httpx2.BaseTransport):
    def __init__(self, inner: httpx2.BaseTransport, session: Session, sealing: _Sealing) -> None:
        self._inner = inner
        self._session = session
        self._sealing = sealing

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Seal, send, and return the opened answer; verify again and retry once if the server's keys changed."""
        request.read()
        sealed_to = self._session.key_config
        try:
            return self._exchange(request)
        except KeysChangedError:
            if self._session.key_config == sealed_to:
                self._session.renew()
            if self._session.key_config == sealed_to:
                raise
            return self._exchange(request)

    def _exchange(self, request: httpx2.Request) -> httpx2.Response:
        outgoing, outer = self._sealing.seal(request)
        response = self._inner.handle_request(outer)
        try:
            if outgoing.refusal(response.status_code, _fields(response)):
                raise outgoing.refused(response.status_code, self._read_refusal(response))
            opened = self._open(outgoing, response)
            early: list[bytes] = []
            while outgoing.head is None and (content := next(opened, None)) is not None:
                early += content
            return _response(outgoing, _SyncStream(early, opened, response.close))
        except BaseException:
            response.close()
            raise

    @staticmethod
    def _open(outgoing: Outgoing, response: httpx2.Response) -> Generator[list[bytes], None, None]:
        try:
            for piece in cast("httpx2.SyncByteStream", response.stream):
                yield outgoing.feed(piece)
        except _BROKEN as error:
            raise _cut(error) from error
        yield outgoing.finish()

    @staticmethod
    def _read_refusal(response: httpx2.Response) -> bytes:
        body = b""
        for piece in cast("httpx2.SyncByteStream", response.stream):
            body += piece
            if len(body) > MAX_REFUSAL_BYTES:
                break
        return body

    def close(self) -> None:
        """Close the inner transport."""
        self._inner.close()


class OhttpTransport(_SyncTransport):
    """Sends every request as chunked Oblivious HTTP to `BASE_URL/ohttp`.

    Args:
        inner: Carries the sealed requests.
        session: The verified server.
        base_url: Its address; only requests below it are sent.
        clock: Seconds since 1970, for the sealed date.
    """

    def __init__(
        self, inner: httpx2.BaseTransport, session: Session, base_url: str, *, clock: Callable[[], float] = time.time
    ) -> None:
        super().__init__(inner, session, _Sealing(session, base_url, clock, oblivious=True))


class EhbpTransport(_SyncTransport):
    """Sends every request with its body sealed as EHBP; method, path and headers stay readable.

    Args:
        inner: Carries the sealed requests.
        session: The verified server.
        base_url: Its address; only requests below it are sent.
    """

    def __init__(self, inner: httpx2.BaseTransport, session: Session, base_url: str) -> None:
        super().__init__(inner, session, _Sealing(session, base_url, time.time, oblivious=False))


# --- asynchronous ----------------------------------------------------------------------------------------------------


class _AsyncStream(httpx2.AsyncByteStream):
    def __init__(
        self, early: list[bytes], opened: AsyncGenerator[list[bytes], None], close: Callable[[], Awaitable[None]]
    ) -> None:
        self._early, self._opened, self._close = early, opened, close

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._early:
            yield piece
        async for content in self._opened:
            for piece in content:
                yield piece

    async def aclose(self) -> None:
        await self._opened.aclose()
        await self._close()


class _AsyncTransport(httpx2.AsyncBaseTransport):
    def __init__(self, inner: httpx2.AsyncBaseTransport, session: AsyncSession, sealing: _Sealing) -> None:
        self._inner = inner
        self._session = session
        self._sealing = sealing

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Seal, send, and return the opened answer; verify again and retry once if the server's keys changed."""
        await request.aread()
        sealed_to = self._session.key_config
        try:
            return await self._exchange(request)
        except KeysChangedError:
            if self._session.key_config == sealed_to:
                await self._session.renew()
            if self._session.key_config == sealed_to:
                raise
            return await self._exchange(request)

    async def _exchange(self, request: httpx2.Request) -> httpx2.Response:
        outgoing, outer = self._sealing.seal(request)
        response = await self._inner.handle_async_request(outer)
        try:
            if outgoing.refusal(response.status_code, _fields(response)):
                raise outgoing.refused(response.status_code, await self._read_refusal(response))
            opened = self._open(outgoing, response)
            early: list[bytes] = []
            while outgoing.head is None and (content := await anext(opened, None)) is not None:
                early += content
            return _response(outgoing, _AsyncStream(early, opened, response.aclose))
        except BaseException:
            await response.aclose()
            raise

    @staticmethod
    async def _open(outgoing: Outgoing, response: httpx2.Response) -> AsyncGenerator[list[bytes], None]:
        try:
            async for piece in cast("httpx2.AsyncByteStream", response.stream):
                yield outgoing.feed(piece)
        except _BROKEN as error:
            raise _cut(error) from error
        yield outgoing.finish()

    @staticmethod
    async def _read_refusal(response: httpx2.Response) -> bytes:
        body = b""
        async for piece in cast("httpx2.AsyncByteStream", response.stream):
            body += piece
            if len(body) > MAX_REFUSAL_BYTES:
                break
        return body

    async def aclose(self) -> None:
        """Close the inner transport."""
        await self._inner.aclose()


class AsyncOhttpTransport(_AsyncTransport):
    """`OhttpTransport` for an `httpx2.AsyncClient`."""

    def __init__(
        self,
        inner: httpx2.AsyncBaseTransport,
        session: AsyncSession,
        base_url: str,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(inner, session, _Sealing(session, base_url, clock, oblivious=True))


class AsyncEhbpTransport(_AsyncTransport):
    """`EhbpTransport` for an `httpx2.AsyncClient`."""

    def __init__(self, inner: httpx2.AsyncBaseTransport, session: AsyncSession, base_url: str) -> None:
        super().__init__(inner, session, _Sealing(session, base_url, time.time, oblivious=False))
