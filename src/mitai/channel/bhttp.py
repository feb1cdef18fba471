"""Binary HTTP: a request or response as bytes that can be sealed.

Follows RFC 9292: known-length and indeterminate-length messages, informational responses, trailers, truncation of
empty tails, zero padding. Encoding never copies the content: it yields the head and the tail around it.

Invariants:

- Decoding is incremental and bounded: heads, fields and content each have a limit, checked before anything is stored.
- Whatever the bytes, the decoder returns events or raises `ParseError`; what arrives byte by byte is not parsed
  anew for each byte, but when the next element can be whole.
- A name or value that HTTP/2 would call malformed (RFC 9113 section 8.2.1) is refused: nothing is smuggled in.

Example:
    >>> head = encode_request(RequestHead(b"GET", b"https", b"example.com", b"/"), content_bytes=0)
    >>> decoder = Decoder("request")
    >>> decoder.feed(head), decoder.finish()
    ([RequestHead(method=b'GET', scheme=b'https', authority=b'example.com', path=b'/', fields=())], [])
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

from mitai.channel.hpke import Data
from mitai.errors import ParseError

Field = tuple[bytes, bytes]
Fields = tuple[Field, ...]
# Fields of a connection (RFC 9110 section 7.6.1), and those that the message's own framing replaces.
CONNECTION_FIELDS: Final = frozenset(
    (
        b"connection",
        b"content-length",
        b"expect",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
CHUNK_PREFIX_BYTES: Final = 4
_NOTHING: Final = memoryview(b"")
_WINDOW_BYTES: Final = 1024  # more than most heads have
END_OF_STREAM: Final = b"\x00\x00"  # ends indeterminate-length content, and an empty trailer section

_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 section 5.6.2, token
_METHOD: Final = _NAME
_VALUE: Final = re.compile(rb"(?![ \t])[^\x00\r\n]*(?<![ \t])")  # RFC 9113 section 8.2.1
_SCHEME: Final = re.compile(rb"[A-Za-z][A-Za-z0-9+\-.]*")
_AUTHORITY: Final = re.compile(rb"[^\x00-\x20@/?#\x7f-\xff]*")
_PATH: Final = re.compile(rb"/[^\x00-\x20#\x7f-\xff]*|\*")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a decoder accepts at most."""

    content_bytes: int = 32 << 20
    head_bytes: int = 64 << 10
    fields: int = 128
    informational: int = 16


DEFAULT_LIMITS: Final = Limits()


@dataclass(frozen=True, slots=True)
class RequestHead:
    """Control data and header fields of a request (section 3.4)."""

    method: bytes
    scheme: bytes
    authority: bytes
    path: bytes
    fields: Fields = ()


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """Status and header fields of a response, informational ones included (section 3.5)."""

    status: int
    fields: Fields = ()


@dataclass(frozen=True, slots=True)
class Trailers:
    """The trailer section, when there is one."""

    fields: Fields


Event = RequestHead | ResponseHead | Trailers | memoryview  # a memoryview is a piece of the content


# --- Encoding --------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=256)  # the same few lengths, over and over
def varint(value: int) -> bytes:
    """Encode an integer as RFC 9000 section 16 does, in as few bytes as possible."""
    if value < 0x40:
        return bytes((value,))
    if value < 0x4000:
        return (value | 0x4000).to_bytes(2)
    if value < 0x4000_0000:
        return (value | 0x8000_0000).to_bytes(4)
    return (value | 0xC000_0000_0000_0000).to_bytes(8)


def chunk_prefix(size: int) -> bytes:
    """Encode the length of a chunk of content, always on four bytes: padding is computed before the length is known."""
    return (size | 0x8000_0000).to_bytes(4)


def encode_request(head: RequestHead, *, content_bytes: int | None) -> bytes:
    """Return all that precedes the content; `content_bytes` is None where its length is not known yet."""
    control = (head.method, head.scheme, head.authority, head.path)
    prefix = b"\x02" if content_bytes is None else b"\x00"
    parts = b"".join([varint(len(part)) + part for part in control])
    return prefix + parts + _encode_section(head.fields, content_bytes)


def encode_response(
    head: ResponseHead, *, content_bytes: int | None, informational: Iterable[ResponseHead] = ()
) -> bytes:
    """Return all that precedes the content; `content_bytes` is None where its length is not known yet."""
    prefix = b"\x03" if content_bytes is None else b"\x01"
    interim = b"".join(varint(r.status) + _encode_fields(r.fields, content_bytes is not None) for r in informational)
    return prefix + interim + varint(head.status) + _encode_section(head.fields, content_bytes)


def encode_trailers(fields: Fields, *, known_length: bool) -> bytes:
    """Return what follows known-length content, or the terminator of a stream and its trailers."""
    return (b"" if known_length else b"\x00") + _encode_fields(fields, known_length)


def _encode_section(fields: Fields, content_bytes: int | None) -> bytes:
    section = _encode_fields(fields, content_bytes is not None)
    return section if content_bytes is None else section + varint(content_bytes)


def _encode_fields(fields: Fields, known_length: bool) -> bytes:
    lines = b"".join([varint(len(name)) + name + varint(len(value)) + value for name, value in fields])
    return varint(len(lines)) + lines if known_length else lines + b"\x00"


# --- Decoding --------------------------------------------------------------------------------------------------------


class Decoder:
    """Turns the bytes of one message, in pieces of any size, into heads, pieces of content, and trailers.

    Args:
        kind: What the message must be.
        limits: What is accepted at most.
    """

    def __init__(self, kind: Literal["request", "response"], limits: Limits = DEFAULT_LIMITS) -> None:
        self._kind = kind
        self._limits = limits
        self._stage = Decoder._head  # reads what it can, returns the rest; unbound, so that there is no cycle
        self._known_length = False
        self._informational = 0
        self._left = limits.content_bytes  # content that may still come
        self._chunk = 0  # of which this much in the chunk that has begun
        self._partial = b""  # the beginning of something that has not arrived whole
        self._needed = 0  # and how long it must grow before it is looked at again
        self._may_end = False  # whether the message is complete if nothing more comes (section 3.8)
        self._events: list[Event] = []

    def feed(self, data: Data) -> list[Event]:
        """Return what these further bytes complete; content pieces are views of `data`."""
        rest = memoryview(data)
        if self._partial and rest:
            self._may_end = False
            missing = max(self._needed - len(self._partial), 0)
            self._partial += rest[:missing]
            if len(self._partial) < self._needed:
                return []
            rest, self._partial = memoryview(self._partial + rest[missing:]), b""
        try:
            while rest:
                rest = self._stage(self, rest)
        except _ShortError as short:
            self._check_head(short.needed)
            self._partial, self._needed, self._may_end = bytes(rest), short.needed, short.may_end
        except ParseError:
            self._stage = Decoder._refuse_all
            self._may_end = False
            raise
        events, self._events = self._events, []
        return events

    def finish(self) -> list[Event]:
        """Return what waited for bytes that may be missing; raise `ParseError` unless the message may end here."""
        events = self.feed(b"\x00") if self._partial and self._may_end else []
        if not self._may_end:
            raise ParseError("channel.bhttp-truncated", "a Binary HTTP message ends in the middle")
        return events

    # Each stage reads something whole and returns what follows it, or raises `_ShortError` and is called again.

    def _head(self, data: memoryview) -> memoryview:
        reader = _Reader(data)
        framing = reader.integer()
        if framing not in ((0, 2) if self._kind == "request" else (1, 3)):
            raise _invalid(f"{framing} is not the framing indicator of a {self._kind}")
        self._known_length = framing < 2
        if self._kind == "response":
            self._stage = Decoder._response_head
            return data[reader.at :]
        control = [reader.matching(pattern) for pattern in (_METHOD, _SCHEME, _AUTHORITY, _PATH)]
        fields = self._section(reader)
        self._events.append(RequestHead(control[0], control[1], control[2], control[3], fields))
        self._stage, self._may_end = Decoder._content, True
        return data[reader.at :]

    def _response_head(self, data: memoryview) -> memoryview:
        reader = _Reader(data)
        status = reader.integer()
        if not 100 <= status <= 599:
            raise _invalid("its status is not between 100 and 599")
        fields = self._section(reader)
        self._events.append(ResponseHead(status, fields))
        if status >= 200:
            self._stage, self._may_end = Decoder._content, True
        elif (informational := self._informational + 1) > self._limits.informational:
            raise _too_large("informational responses", self._limits.informational)
        else:
            self._informational = informational
        return data[reader.at :]

    def _content(self, data: memoryview) -> memoryview:
        if self._chunk == 0:
            reader = _Reader(data)
            self._chunk = reader.integer()
            self._left -= self._chunk
            if self._left < 0:
                raise _too_large("content", self._limits.content_bytes)
            data = data[reader.at :]
            self._may_end = self._chunk == 0
            if self._chunk == 0:
                self._stage = Decoder._trailers
                return data
        size = self._chunk
        if len(data) < size:  # nothing but content
            self._chunk = size - len(data)
            if data:
                self._events.append(data)
            return _NOTHING
        self._events.append(data[:size])
        self._chunk = 0
        if self._known_length:
            self._stage, self._may_end = Decoder._trailers, True
        return data[size:]

    def _trailers(self, data: memoryview) -> memoryview:
        reader = _Reader(data)
        fields = self._section(reader)
        if fields:
            self._events.append(Trailers(fields))
        self._stage, self._may_end = Decoder._padding, True
        return data[reader.at :]

    def _padding(self, data: memoryview) -> memoryview:
        if not bytes(len(data)).startswith(data):
            raise _invalid("its padding is not zero")
        return data[:0]

    def _refuse_all(self, data: memoryview) -> memoryview:
        raise _invalid(f"it goes on for {len(data)} bytes after an error")

    def _section(self, reader: _Reader) -> Fields:
        """Read a field section: of the length that precedes it, or up to a zero."""
        if reader.at == reader.size:
            raise _ShortError(reader.at + 1, may_end=True)
        size = reader.integer() if self._known_length else None
        end = None if size is None else reader.at + size
        if end is not None:
            self._check_head(end)
            reader.require(end)
        fields: list[Field] = []
        while reader.at != end:
            name = reader.string()
            if not name and end is None:
                break
            value = reader.string()
            if len(fields) == self._limits.fields:
                raise _too_large("number of fields", self._limits.fields)
            if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value) or (end is not None and reader.at > end):
                raise _invalid("a field is malformed")
            fields.append((name.lower(), value))
        self._check_head(reader.at)
        return tuple(fields)

    def _check_head(self, size: int) -> None:
        if size > self._limits.head_bytes:
            raise _too_large("head", self._limits.head_bytes)


class _ShortError(Exception):
    """More bytes are needed: `needed` in all, from where the stage began; `may_end` if they may also be missing."""

    def __init__(self, needed: int, *, may_end: bool = False) -> None:
        super().__init__()
        self.needed = needed
        self.may_end = may_end


class _Reader:
    """Reads integers and strings one after the other."""

    def __init__(self, data: memoryview) -> None:
        self._view = data
        self._data = data[:_WINDOW_BYTES].tobytes()  # the beginning: bytes are cut faster than views
        self.size = len(data)
        self.at = 0

    def require(self, end: int) -> None:
        if end > self.size:
            raise _ShortError(end)
        if end > len(self._data):
            self._data = self._view[: 2 * end].tobytes()

    def integer(self) -> int:
        """Read a variable-length integer (RFC 9000 section 16)."""
        start = self.at
        self.require(start + 1)
        first = self._data[start]
        if first < 0x40:
            self.at = start + 1
            return first
        size = 1 << (first >> 6)
        return int.from_bytes(self._take(size)) & ((1 << (8 * size - 2)) - 1)

    def string(self) -> bytes:
        """Read a length, and as many bytes."""
        data, at = self._data, self.at
        if at < len(data) and (size := data[at]) < 0x40:
            part = data[at + 1 : at + 1 + size]
            if len(part) == size:
                self.at = at + 1 + size
                return part
        return self._take(self.integer())

    def _take(self, size: int) -> bytes:
        start, end = self.at, self.at + size
        self.require(end)
        self.at = end
        return self._data[start:end]

    def matching(self, allowed: re.Pattern[bytes]) -> bytes:
        part = self.string()
        if not allowed.fullmatch(part):
            raise _invalid("its control data are malformed")
        return part


def _invalid(message: str) -> ParseError:
    return ParseError("channel.bhttp-invalid", f"not a Binary HTTP message: {message}")


def _too_large(what: str, limit: int) -> ParseError:
    return ParseError("channel.too-large", f"a Binary HTTP message exceeds the limit of {limit} for its {what}")
