"""Binary HTTP: a request or response as bytes that can be sealed.

Follows RFC 9292: known-length and indeterminate-length messages, informational responses, trailers, truncation of
empty tails, zero padding. Encoding never copies the content: it yields the head and the tail around it.

Invariants:

- Decoding is incremental and bounded: heads, fields and content each have a limit, checked before anything is stored.
- Whatever the bytes, the decoder returns events or raises `ParseError`; it looks at each byte once.
- A name or value that HTTP/2 would call malformed (RFC 9113 section 8.2.1) is refused: nothing is smuggled in.

Example:
    >>> head = encode_request(RequestHead(b"GET", b"https", b"example.com", b"/"), content_bytes=0)
    >>> decoder = Decoder("request")
    >>> decoder.feed(head), decoder.finish()
    ([RequestHead(method=b'GET', scheme=b'https', authority=b'example.com', path=b'/', fields=())], None)
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable
from dataclasses import dataclass
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
END_OF_STREAM: Final = b"\x00\x00"  # ends indeterminate-length content, and an empty trailer section

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 section 5.6.2, token
_METHOD = _NAME
_VALUE = re.compile(rb"(?![ \t])[^\x00\r\n]*(?<![ \t])")  # RFC 9113 section 8.2.1
_SCHEME = re.compile(rb"[A-Za-z][A-Za-z0-9+\-.]*")
_AUTHORITY = re.compile(rb"[^\x00-\x20@/?#\x7f-\xff]*")
_PATH = re.compile(rb"/[^\x00-\x20#\x7f-\xff]*|\*")


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
    return prefix + b"".join(varint(len(part)) + part for part in control) + _encode_section(head.fields, content_bytes)


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
    lines = b"".join(varint(len(name)) + name + varint(len(value)) + value for name, value in fields)
    return varint(len(lines)) + lines if known_length else lines + b"\x00"


# --- Decoding --------------------------------------------------------------------------------------------------------

Steps = Generator[None, None, None]  # suspended whenever it needs bytes that have not arrived


class Decoder:
    """Turns the bytes of one message, in pieces of any size, into heads, pieces of content, and trailers.

    Args:
        kind: What the message must be.
        limits: What is accepted at most.
    """

    def __init__(self, kind: Literal["request", "response"], limits: Limits = DEFAULT_LIMITS) -> None:
        self._kind = kind
        self._limits = limits
        self._data = memoryview(b"")  # what was fed and not read yet
        self._events: list[Event] = []
        self._budget = limits.head_bytes  # what the section being read may still hold
        self._may_end = False  # whether the message is complete if nothing more comes (section 3.8)
        self._steps = self._message()
        next(self._steps)

    def feed(self, data: Data) -> list[Event]:
        """Return what these further bytes complete; content pieces are views of `data`."""
        if len(data):
            self._data = memoryview(data)
            try:
                self._steps.send(None)
            except StopIteration:
                raise _invalid("it goes on after an error") from None
        events, self._events = self._events, []
        return events

    def finish(self) -> None:
        """Raise `ParseError` unless the message may end here."""
        if not self._may_end:
            raise ParseError("channel.bhttp-truncated", "a Binary HTTP message ends in the middle")

    def _message(self) -> Steps:
        yield
        framing = yield from self._integer()
        if framing not in ((0, 2) if self._kind == "request" else (1, 3)):
            raise _invalid(f"{framing} is not the framing indicator of a {self._kind}")
        known_length = framing < 2
        yield from self._request_head(known_length) if self._kind == "request" else self._response_head(known_length)
        self._may_end = True
        yield from self._content(known_length)
        self._may_end = True
        trailers = yield from self._section(known_length)
        if trailers:
            self._events.append(Trailers(trailers))
        self._may_end = True
        while True:
            if self._data.tobytes().count(0) != len(self._data):
                self._may_end = False
                raise _invalid("its padding is not zero")
            yield

    def _request_head(self, known_length: bool) -> Steps:
        method = yield from self._part(_METHOD)
        scheme = yield from self._part(_SCHEME)
        authority = yield from self._part(_AUTHORITY)
        path = yield from self._part(_PATH)
        fields = yield from self._section(known_length)
        self._events.append(RequestHead(method, scheme, authority, path, fields))

    def _response_head(self, known_length: bool) -> Steps:
        for _ in range(self._limits.informational + 1):
            status = yield from self._integer()
            if not 100 <= status <= 599:
                raise _invalid("its status is not between 100 and 599")
            fields = yield from self._section(known_length)
            self._events.append(ResponseHead(status, fields))
            if status >= 200:
                return
        raise _too_large("informational responses", self._limits.informational)

    def _content(self, known_length: bool) -> Steps:
        left = self._limits.content_bytes
        while True:
            self._budget = self._limits.head_bytes
            size = yield from self._integer()
            if size == 0:
                return
            if size > left:
                raise _too_large("content", self._limits.content_bytes)
            left -= size
            while size:
                while not self._data:
                    yield
                piece, self._data = self._data[:size], self._data[size:]
                size -= len(piece)
                self._events.append(piece)
            if known_length:
                return

    def _section(self, known_length: bool) -> Generator[None, None, Fields]:
        fields: list[Field] = []
        end = -1
        if known_length:
            size = yield from self._integer()
            end = self._budget - size
            if end < 0:
                raise _too_large("field section", self._limits.head_bytes)
        while self._budget != end:
            name_bytes = yield from self._integer()
            if name_bytes == 0 and not known_length:
                break
            if len(fields) == self._limits.fields:
                raise _too_large("number of fields", self._limits.fields)
            name = yield from self._take(name_bytes)
            value = yield from self._take((yield from self._integer()))
            if self._budget < end or not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
                raise _invalid("a field is malformed")
            fields.append((name.lower(), value))
        return tuple(fields)

    def _part(self, allowed: re.Pattern[bytes]) -> Generator[None, None, bytes]:
        part = yield from self._take((yield from self._integer()))
        if not allowed.fullmatch(part):
            raise _invalid("its control data are malformed")
        return part

    def _integer(self) -> Generator[None, None, int]:
        """Read a variable-length integer (RFC 9000 section 16)."""
        while not self._data:
            yield
        first = self._data[0]
        if first < 0x40:
            self._may_end = False
            self._budget -= 1
            self._data = self._data[1:]
            return first
        size = 1 << (first >> 6)
        raw = yield from self._take(size)
        return int.from_bytes(raw) & ((1 << (8 * size - 2)) - 1)

    def _take(self, size: int) -> Generator[None, None, bytes]:
        """Read `size` bytes of a head or field section, within the budget."""
        self._may_end = False
        self._budget -= size
        if self._budget < 0:
            raise _too_large("head", self._limits.head_bytes)
        taken = bytes(self._data[:size])
        self._data = self._data[size:]
        while len(taken) < size:
            yield
            missing = size - len(taken)
            taken += self._data[:missing]
            self._data = self._data[missing:]
        return taken


def _invalid(message: str) -> ParseError:
    return ParseError("channel.bhttp-invalid", f"not a Binary HTTP message: {message}")


def _too_large(what: str, limit: int) -> ParseError:
    return ParseError("channel.too-large", f"a Binary HTTP message exceeds the limit of {limit} for its {what}")
