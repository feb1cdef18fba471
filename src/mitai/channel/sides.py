"""How one sealed exchange looks from the server, for each protocol: sealed bytes in and out, no I/O.

Both sides fill the pieces of an event stream to buckets with comments; Oblivious HTTP also pads whole messages.

Invariants:

- `head` is set only once something was authenticated that was sealed for this very request.
- Fields that belong to a connection never cross the seal, in either direction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from starlette.types import Scope

from mitai.channel import bhttp, ehbp, ohttp, problems
from mitai.channel.exchange import EXCHANGE_HEADER
from mitai.channel.frames import MAX_CHUNK_BYTES
from mitai.channel.padding import event_comment, padded_size
from mitai.channel.replay import ReplayCache, parse_date
from mitai.errors import ChannelError, MitaiError

_EHBP_FIELDS = frozenset((ehbp.ENC_HEADER.encode(), ehbp.NONCE_HEADER.encode()))
_EVENT_ENDS = (b"\n\n", b"\r\n\r\n", b"\r\r")


class Side(Protocol):
    """What the middleware needs of a protocol."""

    protocol: str
    announces_length: bool
    head: bhttp.RequestHead | None

    @property
    def authentic(self) -> bool:
        """Whether something was opened, so that a refusal can be sealed."""

    def feed(self, data: bytes) -> list[memoryview | bytes]:
        """Open further bytes of the request; return the content that they complete."""

    def finish(self) -> list[memoryview | bytes]:
        """Check that the request ended well; return the rest of its content."""

    def admit(self, replay: ReplayCache, now: float) -> None:
        """Raise unless this request is seen for the first time."""

    def start(self, status: int, fields: Iterable[bhttp.Field], exchange_id: str) -> tuple[int, list[bhttp.Field]]:
        """Begin the answer; return status and fields of the outer response."""

    def write(self, body: bytes, *, more: bool) -> bytes:
        """Seal a further piece of the answer."""

    def problem(self, error: MitaiError) -> tuple[int, bytes]:
        """Return status and body of a refusal that can't be sealed."""


class _EventPadding:
    """Fills the pieces of an event stream to buckets; leaves every other content as it is."""

    def __init__(self, fields: Iterable[bhttp.Field]) -> None:
        self._is_events = any(
            name == b"content-type" and value.lower().startswith(b"text/event-stream") for name, value in fields
        )

    def fill(self, body: bytes, overhead: int) -> bytes:
        """Return what to append to `body`, which goes out with `overhead` further bytes."""
        if not body or not self._is_events or not body.endswith(_EVENT_ENDS):
            return b""
        return event_comment(overhead + len(body))


class OhttpSide:
    """Oblivious HTTP, chunked or one-shot."""

    def __init__(self, opener: ohttp.RequestOpener, limits: bhttp.Limits, response_limit: int) -> None:
        self.protocol = "ohttp-chunked" if opener.form.chunked else "ohttp"
        self.announces_length = True
        self.head: bhttp.RequestHead | None = None
        self._opener = opener
        self._decoder = bhttp.Decoder("request", limits)
        self._response_limit = response_limit

    def feed(self, data: bytes) -> list[memoryview | bytes]:
        """Open chunks and decode what is in them."""
        return [content for chunk in self._opener.feed(data) for content in self._take(self._decoder.feed(chunk))]

    def finish(self) -> list[memoryview | bytes]:
        """Open the final chunk; a request that was cut is refused."""
        content = [content for chunk in self._opener.finish() for content in self._take(self._decoder.feed(chunk))]
        self._opener.check_key()  # a deployment that ended meanwhile has dropped it: this request was for the former
        return content + self._take(self._decoder.finish())

    @property
    def authentic(self) -> bool:
        """Whether a chunk was opened."""
        return self._opener.opened

    def _take(self, events: list[bhttp.Event]) -> list[memoryview | bytes]:
        for event in events:
            if isinstance(event, bhttp.RequestHead):
                self.head = event
        return [event for event in events if isinstance(event, memoryview)]

    def admit(self, replay: ReplayCache, now: float) -> None:
        """Admit by the encapsulated key and the sealed date."""
        fields = self.head.fields if self.head else ()
        replay.admit(self._opener.enc, date_s=parse_date(dict(fields).get(b"date", b"")), now=now)

    def start(self, status: int, fields: Iterable[bhttp.Field], exchange_id: str) -> tuple[int, list[bhttp.Field]]:
        """The outer response says nothing but what it is."""
        inner = [*_crossing(fields), (EXCHANGE_HEADER.encode(), exchange_id.encode())]
        self._response = bhttp.ResponseHead(status, tuple(inner))
        self._padding = _EventPadding(inner)
        self._sealer = self._opener.response_sealer()
        self._streaming = False
        self._collected: list[bytes] = []
        self._sealed_bytes = 0
        outer = [(b"content-type", self._opener.form.response_type.encode()), (b"cache-control", b"no-store")]
        return 200, outer + ([(b"incremental", b"?1")] if self._opener.form.chunked else [])

    def write(self, body: bytes, *, more: bool) -> bytes:
        """Seal the whole answer at once where it can be, piece by piece where it can't."""
        if not self._opener.form.chunked:
            self._collected.append(body)
            self._sealed_bytes += len(body)
            if self._sealed_bytes > self._response_limit:
                raise ChannelError("channel.too-large", "the answer is too large for a one-shot message")
            if more:
                return b""
            body = b"".join(self._collected)
        if not more and not self._streaming:
            head = bhttp.encode_response(self._response, content_bytes=len(body))
            size = len(head) + len(body)
            return b"".join(self._sealer.seal_message(head, body, bytes(padded_size(size) - size)))
        plaintext = self._piece(body)
        self._sealed_bytes += len(plaintext)
        if not more:
            size = self._sealed_bytes + len(bhttp.END_OF_STREAM)
            plaintext += bhttp.END_OF_STREAM + bytes(padded_size(size) - size)
        return self._seal(plaintext, final=not more)

    def _piece(self, body: bytes) -> bytes:
        """Return a chunk of indeterminate-length content, after the head if it is the first."""
        prefix = b"" if self._streaming else bhttp.encode_response(self._response, content_bytes=None)
        self._streaming = True
        body += self._padding.fill(body, len(prefix) + bhttp.CHUNK_PREFIX_BYTES)
        return prefix + bhttp.chunk_prefix(len(body)) + body if body else prefix

    def _seal(self, plaintext: bytes, *, final: bool) -> bytes:
        view = memoryview(plaintext)
        last = max(len(view) - 1, 0) // MAX_CHUNK_BYTES * MAX_CHUNK_BYTES
        whole = [self._sealer.seal(view[at : at + MAX_CHUNK_BYTES]) for at in range(0, last, MAX_CHUNK_BYTES)]
        rest = view[last:]
        return b"".join([*whole, self._sealer.seal(rest, final=final)]) if rest or final else b""

    def problem(self, error: MitaiError) -> tuple[int, bytes]:
        """RFC 9458 sections 5.2 and 5.3."""
        return problems.status_of(error), problems.encode(error)


class EhbpSide:
    """EHBP: method, path and fields are those of the outer request."""

    def __init__(self, scope: Scope, live: Callable[[], Iterable[ohttp.GatewayKey]], *, limit: int) -> None:
        values = [value for name, value in scope["headers"] if name == ehbp.ENC_HEADER.encode()]
        if len(values) != 1:
            raise ChannelError("channel.ehbp-header", "there must be exactly one encapsulated key")
        enc = ehbp.decode_hex_header(values[0], 32)
        self.protocol = "ehbp"
        self.announces_length = False
        self.head: bhttp.RequestHead | None = None
        self._scope = scope
        self._live = live
        self._opener = ehbp.RequestOpener(live(), enc, limit=limit)

    def feed(self, data: bytes) -> list[memoryview | bytes]:
        """Open frames; the first one that fits proves the encapsulated key."""
        content = self._opener.feed(data)
        if self.head is None and self._opener.key is not None:
            self.head = self._outer_head()
        return list(content)

    def finish(self) -> list[memoryview | bytes]:
        """Check that the body ended between frames and held something, and that its key is still honoured."""
        self._opener.finish()
        if not any(key is self._opener.key for key in self._live()):  # as for Oblivious HTTP
            raise ohttp.keys_changed()
        return []

    def admit(self, replay: ReplayCache, now: float) -> None:  # noqa: ARG002 - EHBP seals no date
        """Admit by the encapsulated key, once in the life of the key that it fits."""
        replay.admit_for_life(self._opener.key, self._opener.enc)

    @property
    def authentic(self) -> bool:
        """Whether a frame was opened."""
        return self._opener.key is not None

    def _outer_head(self) -> bhttp.RequestHead:
        scope = self._scope
        query = scope.get("query_string", b"")
        path = scope.get("raw_path") or scope["path"].encode()
        fields = [field for field in _crossing(scope["headers"]) if field[0] not in _EHBP_FIELDS]
        return bhttp.RequestHead(
            scope["method"].encode(), b"https", b"", path + (b"?" + query if query else b""), tuple(fields)
        )

    def start(self, status: int, fields: Iterable[bhttp.Field], exchange_id: str) -> tuple[int, list[bhttp.Field]]:
        """The outer response is the answer but for its body."""
        outer = [*_crossing(fields), (EXCHANGE_HEADER.encode(), exchange_id.encode())]
        self._padding = _EventPadding(outer)
        nonce, self._sealer = self._opener.response_sealer()
        return status, [*outer, (ehbp.NONCE_HEADER.encode(), nonce.hex().encode())]

    def write(self, body: bytes, *, more: bool) -> bytes:  # noqa: ARG002 - EHBP has no final frame
        """Seal a piece as a frame."""
        return self._sealer.seal(body + self._padding.fill(body, 0))

    def problem(self, error: MitaiError) -> tuple[int, bytes]:
        """SPEC.md section 5.4.2."""
        if error.code != "channel.keys-changed":
            return problems.status_of(error), problems.encode(error)
        return 422, problems.encode(error, status=422, problem_type=ehbp.KEY_PROBLEM_TYPE)


def _crossing(fields: Iterable[bhttp.Field]) -> list[bhttp.Field]:
    """Return the fields that belong to the message, not to a connection, as HTTP/2 would write them."""
    return [
        (name.lower(), value.strip(b" \t")) for name, value in fields if name.lower() not in bhttp.CONNECTION_FIELDS
    ]
