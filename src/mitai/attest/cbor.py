"""Strict CBOR for signed evidence: the part of RFC 8949 that attestation tokens use, and nothing else.

Integers, byte and text strings, arrays, maps, tags, false, true and null. What a general decoder would let through
(floats, "undefined", chunked strings, keys twice, unknown simple values) is refused. Lengths need not be in their
shortest form, and arrays and maps may be of indefinite length: signatures cover bytes as received, and what was
received is never encoded again.

Invariants:

- The decoder ends at the last byte: trailing bytes are refused.
- A map has no key twice, and only integers and text as keys.
- Work is linear in the input; the number of items and their nesting are bounded, hence memory is too.

Example:
    >>> decode(bytes.fromhex("a2016161026162"), "an example", "attest.example-malformed")
    {1: 'a', 2: 'b'}
    >>> encode([1, b"a"]).hex()
    '82014161'
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from mitai.errors import ParseError

MAX_DEPTH = 16
MAX_ITEMS = 1 << 16  # an item takes a hundred times the memory of its byte
_SIMPLE = {20: False, 21: True, 22: None}
_INDEFINITE = 31


@dataclass(frozen=True, slots=True)
class Tag:
    """A tagged item."""

    number: int
    value: Value


Value = int | bytes | str | bool | None | list["Value"] | dict[int | str, "Value"] | Tag
T = TypeVar("T")


def decode(data: bytes, what: str, code: str) -> Value:
    """Return the one item that `data` is; raise `ParseError(code)` naming `what` on anything else."""
    decoder = _Decoder(data, what, code)
    value = decoder.item(0)
    if decoder.offset != len(data):
        raise decoder.error(f"is followed by {len(data) - decoder.offset} bytes that do not belong to it")
    return value


def expect(value: Value, kind: type[T], what: str, code: str) -> T:
    """Return `value` when its type is exactly `kind` (a boolean is no integer); raise `ParseError(code)` otherwise."""
    if type(value) is not kind:
        raise ParseError(code, f"{what} is not of the type that it should be")
    return value


def encode(value: Value) -> bytes:
    """Return the encoding of a value with every length in its shortest form, maps in their own order."""
    match value:
        case bool() | None:
            return {False: b"\xf4", True: b"\xf5", None: b"\xf6"}[value]
        case int():
            return _head(0, value) if value >= 0 else _head(1, -1 - value)
        case bytes():
            return _head(2, len(value)) + value
        case str():
            return _head(3, len(value.encode())) + value.encode()
        case list():
            return _head(4, len(value)) + b"".join(map(encode, value))
        case dict():
            return _head(5, len(value)) + b"".join(encode(key) + encode(inner) for key, inner in value.items())
        case _:
            return _head(6, value.number) + encode(value.value)


def _head(major: int, argument: int) -> bytes:
    if argument < 24:
        return bytes([major << 5 | argument])
    info = next(info for info in (24, 25, 26, 27) if argument < 1 << (8 << (info - 24)))
    return bytes([major << 5 | info]) + argument.to_bytes(1 << (info - 24), "big")


class _Decoder:
    def __init__(self, data: bytes, what: str, code: str) -> None:
        self._data = data
        self._what = what
        self._code = code
        self._items = 0
        self.offset = 0

    def error(self, why: str) -> ParseError:
        return ParseError(self._code, f"{self._what} {why}")

    def _take(self, size: int) -> bytes:
        start, self.offset = self.offset, self.offset + size
        if self.offset > len(self._data):
            raise self.error(f"ends {self.offset - len(self._data)} bytes early")
        return self._data[start : self.offset]

    def _head(self) -> tuple[int, int | None]:
        """Return major type and argument (RFC 8949, section 3); None stands for an indefinite length."""
        initial = self._take(1)[0]
        major, info = initial >> 5, initial & 0x1F
        if info < 24:
            return major, info
        if info <= 27 and major != 7:
            return major, int.from_bytes(self._take(1 << (info - 24)), "big")
        if info == _INDEFINITE and major in {4, 5}:
            return major, None
        raise self.error("holds an item of a kind that is not allowed in it")

    def item(self, depth: int) -> Value:
        self._items += 1
        if depth > MAX_DEPTH or self._items > MAX_ITEMS:
            raise self.error("is nested too deeply, or holds too many items")
        major, argument = self._head()
        match major, argument:
            case 0, int(number):
                return number
            case 1, int(number):
                return -1 - number
            case 2, int(size):
                return self._take(size)
            case 3, int(size):
                return self._text(size)
            case 4, _:
                return self._array(argument, depth + 1)
            case 5, _:
                return self._map(argument, depth + 1)
            case 6, int(number):
                return Tag(number, self.item(depth + 1))
            case 7, int(number) if number in _SIMPLE:
                return _SIMPLE[number]
        raise self.error("holds an item of a kind that is not allowed in it")

    def _text(self, size: int) -> str:
        try:
            return self._take(size).decode()
        except UnicodeDecodeError:
            raise self.error("holds text that is not UTF-8") from None

    def _more(self, count: int | None, done: int) -> bool:
        """Return whether another element follows; eat the break that ends an indefinite length."""
        if count is not None:
            return done < count
        if self._data[self.offset : self.offset + 1] == b"\xff":
            self.offset += 1
            return False
        return True

    def _array(self, count: int | None, depth: int) -> list[Value]:
        values: list[Value] = []
        while self._more(count, len(values)):
            values.append(self.item(depth))
        return values

    def _map(self, count: int | None, depth: int) -> dict[int | str, Value]:
        entries: dict[int | str, Value] = {}
        while self._more(count, len(entries)):
            key = self.item(depth)
            if isinstance(key, bool) or not isinstance(key, (int, str)):
                raise self.error("has a map key that is neither a number nor text")
            if key in entries:
                raise self.error("has a map key twice")
            entries[key] = self.item(depth)
        return entries
