"""The server's end: an ASGI middleware that opens sealed requests for an app and seals its answers.

Serves `POST /ohttp` (chunked and one-shot Oblivious HTTP), EHBP requests on any path, and the key configuration at
`/.well-known/hpke-keys`. The app sees ordinary ASGI with `scope["mitai.exchange"]`; whatever is not sealed goes to
`public`, by default a 404.

Invariants:

- The app runs only after the request's head (EHBP: its first frame) was authenticated and admitted by the replay cache.
- An answer leaves sealed or not at all; errors that precede the keys are problem documents that hold no content.
- The request is read as the app asks for it, so that a slow app holds back its client; every wait has a limit.
- A client that goes away reaches the app as `http.disconnect`; what the app raises reaches nobody.

Example:
    >>> app = ChannelMiddleware(inner, KeyRing.generate(), limits=Limits(exchanges=64))
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Final
from urllib.parse import unquote_to_bytes

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mitai.channel import bhttp, ehbp, ohttp, problems
from mitai.channel.exchange import EXCHANGE_HEADER, REFUSAL_HEADER, Exchange
from mitai.channel.frames import MAX_CHUNK_BYTES
from mitai.channel.keys import KeyRing
from mitai.channel.replay import ReplayCache
from mitai.channel.sides import EhbpSide, OhttpSide, Side
from mitai.errors import ChannelError, MitaiError, ParseError

OHTTP_PATH: Final = "/ohttp"
EXCHANGE_KEY: Final = "mitai.exchange"

_OUR_FIELDS = frozenset((EXCHANGE_HEADER.encode(), REFUSAL_HEADER.encode()))  # an app can't set these

_log = structlog.get_logger("mitai.channel")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one server accepts; sizes are of the sealed bytes.

    Attributes:
        request_bytes: A whole request.
        one_shot_bytes: A one-shot message or an EHBP frame, which must be held in memory whole.
        chunk_bytes: Plaintext of one chunk.
        head_bytes: Method, path and fields of a request.
        fields: Number of fields.
        response_bytes: An answer to a one-shot request.
        idle_s: The wait for a request's head, for the client's next bytes, or for it to take ours.
        total_s: A whole exchange.
        exchanges: Exchanges at once.
    """

    request_bytes: int = 32 << 20
    one_shot_bytes: int = 4 << 20
    chunk_bytes: int = MAX_CHUNK_BYTES
    head_bytes: int = 64 << 10
    fields: int = 128
    response_bytes: int = 32 << 20
    idle_s: float = 30.0
    total_s: float = 3600.0
    exchanges: int = 1024


DEFAULT_LIMITS: Final = Limits()


class ChannelMiddleware:
    """Puts `app` behind the channel.

    Args:
        app: Serves what was sealed.
        keyring: The keys to open with.
        public: Serves what was not sealed; by default nothing is.
        limits: What is accepted.
        replay: The memory of requests seen.
        on_exchange: Awaited when an answer is complete, before the client sees its end: a receipt is made in time.
        clock: Seconds since 1970, for the dates of requests.
    """

    def __init__(
        self,
        app: ASGIApp,
        keyring: KeyRing,
        *,
        public: ASGIApp | None = None,
        limits: Limits = DEFAULT_LIMITS,
        replay: ReplayCache | None = None,
        on_exchange: Callable[[Exchange], Awaitable[None]] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.app = app
        self.keyring = keyring
        self.public = public or _nothing
        self.limits = limits
        self.replay = replay or ReplayCache()
        self.on_exchange = on_exchange
        self.clock = clock
        self._active = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http" and scope["path"] == OHTTP_PATH:
            await self._ohttp(scope, receive, send)
        elif scope["type"] == "http" and scope["path"] == ehbp.KEYS_PATH:
            await self._keys(scope, send)
        elif scope["type"] == "http" and _header(scope, ehbp.ENC_HEADER):
            await self._ehbp(scope, receive, send)
        else:
            await self.public(scope, receive, send)

    async def _ohttp(self, scope: Scope, receive: Receive, send: Send) -> None:
        media_type = _header(scope, "content-type")
        form = next((f for f in (ohttp.CHUNKED, ohttp.ONE_SHOT) if f.request_type.encode() == media_type), None)
        if scope["method"] != "POST":
            await refuse(send, ChannelError("channel.method", "sealed requests are sent with POST"))
        elif form is None:
            await refuse(send, ChannelError("channel.media-type", "this is no media type of an encapsulated request"))
        else:
            chunk_bytes = self.limits.chunk_bytes if form.chunked else self.limits.one_shot_bytes
            opener = ohttp.RequestOpener(self.keyring.find, form, limit=chunk_bytes)
            limits = bhttp.Limits(self.limits.request_bytes, self.limits.head_bytes, self.limits.fields)
            await self._serve(OhttpSide(opener, limits, self.limits.response_bytes), scope, receive, send)

    async def _ehbp(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            side = EhbpSide(scope, self.keyring.live, limit=self.limits.one_shot_bytes)
        except MitaiError as error:
            await refuse(send, error)
        else:
            await self._serve(side, scope, receive, send)

    async def _serve(self, side: Side, scope: Scope, receive: Receive, send: Send) -> None:
        if self._active >= self.limits.exchanges:
            await refuse(send, ChannelError("channel.busy", "the server is at its limit", hint="try again"))
            return
        self._active += 1
        try:
            await _Run(self, side, scope, receive, send).run()
        finally:
            self._active -= 1

    async def _keys(self, scope: Scope, send: Send) -> None:
        if scope["method"] != "GET":
            await refuse(send, ChannelError("channel.method", "the key configuration is read with GET"))
            return
        config = self.keyring.current_config()
        await _whole(send, 200, ohttp.KEYS_MEDIA_TYPE.encode(), config)


class _GoneError(OSError):
    """The client went away, or takes nothing; OSError as the ASGI specification wants it."""


class _Run:
    """One exchange, from the first sealed byte in to the last one out."""

    def __init__(self, channel: ChannelMiddleware, side: Side, scope: Scope, receive: Receive, send: Send) -> None:
        self._channel = channel
        self._limits = channel.limits
        self._side = side
        self._scope = scope
        self._wire_receive = receive
        self._wire_send = send
        self._exchange = Exchange(side.protocol)
        # the request
        self._request_digest = sha256()
        self._received_bytes = 0
        self._content: list[memoryview | bytes] = []
        self._pulling = asyncio.Lock()
        self._complete = False  # the request was read and authenticated to its end
        self._delivered = False  # and the app has seen that
        self._failure: MitaiError | None = None
        self._gone = False
        # the answer
        self._response_digest = sha256()
        self._head: tuple[int, list[bhttp.Field]] | None = None  # as the app gave it, until the first piece of the body
        self._outer: Message = {}
        self._started = False
        self._finished = False

    async def run(self) -> None:
        """Serve the exchange; raise only what tells the server to cut the connection."""
        try:
            async with asyncio.timeout(self._limits.total_s):
                if await self._admitted():
                    await self._run_app()
        except _GoneError:
            return
        except TimeoutError:
            self._failure = ChannelError("channel.timeout", "the exchange took longer than the server allows")
        if self._finished or self._gone:
            return
        if not self._started:
            await self._refuse(self._failure or ChannelError("channel.app-failed", "the server failed"))
        else:
            await self._cut()

    async def _admitted(self) -> bool:
        """Read until the request's head is authenticated; refuse what can't be opened or was seen before."""
        try:
            _check_announced(self._scope, self._limits.request_bytes)
            await self._read_head()
            self._side.admit(self._channel.replay, self._channel.clock())
        except MitaiError as error:
            if self._side.authentic:
                self._failure = error
                return False
            await self._refuse_plain(error)
            return False
        return True

    async def _read_head(self) -> None:
        """Read until the head is there; whoever trickles holds a place for one idle time only."""
        try:
            async with asyncio.timeout(self._limits.idle_s):
                while self._side.head is None and not self._complete:
                    await self._pull()
        except TimeoutError:
            raise ChannelError("channel.idle", "the request's head took too long to arrive") from None

    async def _run_app(self) -> None:
        try:
            await self._channel.app(self._inner_scope(), self._receive, self._send)
        except _GoneError:
            self._gone = True
        except Exception as error:  # noqa: BLE001 - the text of an app's error may hold content: it must reach nobody
            if not self._gone:
                _log.error("channel.app-failed", exchange=self._exchange.name, error=type(error).__name__)

    def _inner_scope(self) -> Scope:
        head = self._side.head
        if head is None:
            raise ParseError("channel.bhttp-truncated", "the request has no head")
        target, _, query = head.path.partition(b"?")
        return {
            "type": "http",
            "asgi": self._scope.get("asgi", {"version": "3.0"}),
            "http_version": "1.1",
            "method": head.method.decode("ascii"),
            "scheme": "https",
            "path": unquote_to_bytes(target).decode("utf-8", "replace"),
            "raw_path": target,
            "query_string": query,
            "root_path": "",
            "headers": _inner_headers(head),
            "client": None,  # a relay's address says nothing, a client's is not ours to know
            "server": self._scope.get("server"),
            "state": self._scope.get("state", {}),
            EXCHANGE_KEY: self._exchange,
        }

    # --- the request -------------------------------------------------------------------------------------------------

    async def _pull(self) -> None:
        """Read one piece from the wire and open what it completes; an app may answer while it still reads."""
        async with self._pulling:
            if not self._complete:
                await self._pull_alone()

    async def _pull_alone(self) -> None:
        try:
            async with asyncio.timeout(self._limits.idle_s):
                message = await self._wire_receive()
        except TimeoutError:
            raise ChannelError("channel.idle", "the client sent nothing for too long") from None
        if message["type"] == "http.disconnect":
            self._gone = True
            raise _GoneError
        body = message.get("body", b"")
        self._received_bytes += len(body)
        if self._received_bytes > self._limits.request_bytes:
            raise _too_large(self._limits.request_bytes)
        self._request_digest.update(body)
        self._content += self._side.feed(body)
        if not message.get("more_body", False):
            self._content += self._side.finish()
            self._complete = True
            self._exchange.request_sha256 = self._request_digest.hexdigest()

    async def _receive(self) -> Message:
        """ASGI `receive` for the app."""
        try:
            while not (self._content or self._complete or self._failure or self._gone):
                await self._pull()
        except MitaiError as error:
            self._failure = error
        except _GoneError:
            pass
        if self._failure or self._gone:
            return {"type": "http.disconnect"}
        if self._delivered:
            return await self._disconnected()
        body, self._content = b"".join(self._content), []
        self._delivered = self._complete
        return {"type": "http.request", "body": body, "more_body": not self._complete}

    async def _disconnected(self) -> Message:
        while (message := await self._wire_receive())["type"] != "http.disconnect":
            pass
        self._gone = not self._finished
        return message

    async def _drain(self) -> None:
        """Read what the app did not ask for, so that the request's digest is known."""
        try:
            while not self._complete:
                await self._pull()
                self._content.clear()
        except MitaiError as error:
            self._failure = error

    # --- the answer --------------------------------------------------------------------------------------------------

    async def _send(self, message: Message) -> None:
        """ASGI `send` for the app."""
        if self._gone:
            raise _GoneError
        if self._finished or (self._failure and not self._started):
            return
        if message["type"] == "http.response.start":
            fields = message.get("headers", ())
            self._head = (message["status"], [field for field in fields if field[0].lower() not in _OUR_FIELDS])
        elif message["type"] == "http.response.body":
            await self._write(message.get("body", b""), more=message.get("more_body", False))

    async def _write(self, body: bytes, *, more: bool, refusal: bool = False) -> None:
        if self._head is not None:
            status, fields = self._side.start(*self._head, exchange_id=self._exchange.id)
            self._outer = {"type": "http.response.start", "status": status, "headers": fields}
            self._head = None
        if not more and not refusal:
            await self._drain()
        wire = self._side.write(body, more=more)
        self._response_digest.update(wire)
        if not self._started and (wire or not more):
            if not more and self._side.announces_length:
                self._outer["headers"].append((b"content-length", b"%d" % len(wire)))
            self._started = True
            await self._to_wire(self._outer)
        if more and wire:
            await self._to_wire({"type": "http.response.body", "body": wire, "more_body": True})
        elif not more:
            await self._complete_answer(wire, refusal=refusal)

    async def _complete_answer(self, wire: bytes, *, refusal: bool) -> None:
        self._exchange.response_sha256 = self._response_digest.hexdigest()
        on_exchange = self._channel.on_exchange
        if on_exchange and not refusal:
            await self._to_wire({"type": "http.response.body", "body": wire, "more_body": True})
            wire = b""
            try:
                await on_exchange(self._exchange)
            except Exception as error:  # noqa: BLE001 - the answer was given; its receipt's failure is not the client's
                _log.error("channel.on-exchange-failed", exchange=self._exchange.name, error=type(error).__name__)
        self._finished = True
        await self._to_wire({"type": "http.response.body", "body": wire, "more_body": False})

    async def _to_wire(self, message: Message) -> None:
        try:
            await _Within(self._wire_send(message), self._limits.idle_s)
        except (OSError, TimeoutError):
            self._gone = True
            raise _GoneError from None

    # --- refusals ----------------------------------------------------------------------------------------------------

    async def _refuse_plain(self, error: MitaiError) -> None:
        """Refuse what can't be opened; whether the key or the bytes are wrong is not told."""
        if error.code == "channel.unopenable":
            error = ohttp.keys_changed()
        self._finished = True
        status, body = self._side.problem(error)
        await _whole(self._wire_send, status, problems.MEDIA_TYPE.encode(), body)

    async def _refuse(self, error: MitaiError) -> None:
        """Refuse under the seal."""
        status = problems.status_of(error)
        fields = [(b"content-type", problems.MEDIA_TYPE.encode()), (REFUSAL_HEADER.encode(), error.code.encode())]
        self._head = (status, fields)
        try:
            await self._write(problems.encode(error), more=False, refusal=True)
        except _GoneError:
            return

    async def _cut(self) -> None:
        """End an answer that can't be completed, so that the client sees that it was cut."""
        if self._side.announces_length:  # Oblivious HTTP: the final chunk is missing, which the client detects
            await self._to_wire({"type": "http.response.body", "body": b"", "more_body": False})
        else:  # EHBP has no authenticated end: only a broken connection tells
            raise ChannelError("channel.cut", "an answer could not be completed")


class _Within:
    """Awaits with a time limit that costs nothing where nothing waits: a timer is set at the first suspension only."""

    def __init__(self, awaitable: Awaitable[None], seconds: float) -> None:
        self._steps, self._seconds = awaitable.__await__(), seconds

    def __await__(self) -> Generator[object, None, None]:
        try:
            waits_for = next(self._steps)
        except StopIteration:
            return
        yield from self._rest(waits_for).__await__()

    async def _rest(self, waits_for: object) -> None:
        async with asyncio.timeout(self._seconds):
            await _Suspended(waits_for, self._steps)


class _Suspended:
    """The rest of an awaitable that was begun already."""

    def __init__(self, waits_for: object, steps: Generator[object, None, None]) -> None:
        self._waits_for, self._steps = waits_for, steps

    def __await__(self) -> Generator[object, None, None]:
        waits_for = self._waits_for
        while True:  # `yield from self._steps`, but for its first value, which is known
            try:
                yield waits_for
            except BaseException as error:  # noqa: BLE001 - a cancellation is the awaitable's to handle
                step = partial(self._steps.throw, error)
            else:
                step = partial(next, self._steps)
            try:
                waits_for = step()
            except StopIteration:
                return


async def refuse(send: Send, error: MitaiError) -> None:
    """Answer with a problem document in the clear."""
    await _whole(send, problems.status_of(error), problems.MEDIA_TYPE.encode(), problems.encode(error))


async def _whole(send: Send, status: int, media_type: bytes, body: bytes) -> None:
    headers = [
        (b"content-type", media_type),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _header(scope: Scope, name: str) -> bytes:
    wanted = name.encode()
    return next((bytes(value) for key, value in scope["headers"] if key == wanted), b"")


def _check_announced(scope: Scope, limit: int) -> None:
    """Refuse a request that says itself that it is too large."""
    announced = _header(scope, "content-length")
    if announced.isdigit() and int(announced[:20]) > limit:
        raise _too_large(limit)


def _too_large(limit: int) -> ChannelError:
    return ChannelError("channel.too-large", f"a sealed request exceeds the limit of {limit} bytes")


def _inner_headers(head: bhttp.RequestHead) -> list[bhttp.Field]:
    fields = [field for field in head.fields if field[0] not in bhttp.CONNECTION_FIELDS]
    has_host = any(name == b"host" for name, _ in fields)
    return fields if has_host or not head.authority else [(b"host", head.authority), *fields]


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001 - an ASGI app
    """The default `public` app: nothing is served in the clear."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
    else:
        await refuse(send, ChannelError("channel.not-found", "nothing is served here unless the request is sealed"))
