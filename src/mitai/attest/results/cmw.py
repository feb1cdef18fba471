"""RATS conceptual message wrappers: evidence, endorsements and results with their media types, one or many.

Follows draft-ietf-rats-msg-wrap: records (`[type, value, ind]`), CBOR tags that stand for a CoAP content format, and
collections of them by label, in JSON or in CBOR.

Invariants:

- What is inside is bytes: nothing is parsed here, and a type is a claim of the sender until its parser agrees.
- Nesting, number of members and size are bounded; trailing bytes, unknown shapes and labels twice are refused.

Example:
    >>> decode(b'["application/eat+jwt","YQ"]')
    Record(type='application/eat+jwt', value=b'a', indicator=0)
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from mitai.attest import cbor
from mitai.errors import ParseError

MAX_BYTES: Final = 16 << 20
MAX_MEMBERS: Final = 64
MAX_DEPTH: Final = 4
TYPE_KEY: Final = "__cmwc_t"
_CODE: Final = "attest.cmw-malformed"
_FIRST_TAG: Final = 1668546817  # of CoAP content format 0 ; RFC 9277, section 4.3, says how the others follow
_LAST_TAG: Final = 1668612095  # of content format 65024
_Value = Callable[[object], bytes]

REFERENCE_VALUES, ENDORSEMENTS, EVIDENCE, RESULTS = 1, 2, 4, 8  # bits of an indicator


@dataclass(frozen=True, slots=True)
class Record:
    """One message; `type` is a media type or the number of a CoAP content format."""

    type: str | int
    value: bytes
    indicator: int = 0


@dataclass(frozen=True, slots=True)
class Collection:
    """Messages by label; `type` is a URI or object identifier, or nothing."""

    members: Mapping[str | int, Record | Collection]
    type: str = ""

    def records(self) -> Iterator[tuple[tuple[str | int, ...], Record]]:
        """Yield every record with the labels that lead to it."""
        for label, member in self.members.items():
            if isinstance(member, Record):
                yield (label,), member
            else:
                yield from (((label, *path), record) for path, record in member.records())


def decode(data: bytes) -> Record | Collection:
    """Parse a wrapper in JSON or CBOR; raise `ParseError` on anything else or above 16 MiB."""
    if len(data) > MAX_BYTES:
        raise ParseError(_CODE, f"a wrapper of {len(data)} bytes is above the limit")
    if data[:1] in {b"[", b"{"}:
        try:
            parsed = msgspec.json.decode(data)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise ParseError(_CODE, "a wrapper is not JSON") from error
        return _read(parsed, _json_value, 0)
    return _read(cbor.decode(data, "a wrapper", _CODE), _cbor_value, 0)


def encode_json(message: Record | Collection) -> bytes:
    """Return the JSON form."""
    return msgspec.json.encode(_json(message))


def encode_cbor(message: Record | Collection) -> bytes:
    """Return the CBOR form; records as arrays."""
    return cbor.encode(_cbor(message))


def _read(item: object, value: _Value, depth: int) -> Record | Collection:
    if depth > MAX_DEPTH:
        raise ParseError(_CODE, "a wrapper is nested too deeply")
    if isinstance(item, list):
        return _record(item, value)
    if isinstance(item, cbor.Tag) and value is _cbor_value:
        return _tagged(item)
    if not isinstance(item, dict):
        raise ParseError(_CODE, "a wrapper is neither a record nor a collection")
    kind = item.get(TYPE_KEY, "")
    labels = [label for label in item if label != TYPE_KEY]
    if not isinstance(kind, str) or not 1 <= len(labels) <= MAX_MEMBERS:
        raise ParseError(_CODE, f"a collection has 1 to {MAX_MEMBERS} members and, if any, a textual type")
    return Collection({label: _read(item[label], value, depth + 1) for label in labels}, kind)


def _record(item: list[object], value: _Value) -> Record:
    if not 2 <= len(item) <= 3:
        raise ParseError(_CODE, "a record has a type, a value and perhaps an indicator")
    kind, indicator = item[0], item[2] if len(item) == 3 else 0
    if not isinstance(kind, (str, int)) or not isinstance(indicator, int) or not 0 <= indicator <= 15:
        raise ParseError(_CODE, "a record's type is text or a number, its indicator four bits")
    if not (0 < len(kind) <= 256 if isinstance(kind, str) else 0 <= kind <= 0xFFFF):
        raise ParseError(_CODE, "a record's type is no media type and no content format")
    return Record(kind, value(item[1]), indicator)


def _tagged(tag: cbor.Tag) -> Record:
    row, column = divmod(tag.number - _FIRST_TAG, 256)
    if not _FIRST_TAG <= tag.number <= _LAST_TAG or column == 255:
        raise ParseError(_CODE, "a tag stands for no content format")
    return Record(row * 255 + column, _cbor_value(tag.value))


def _json_value(value: object) -> bytes:
    if not isinstance(value, str) or not value.isascii():
        raise ParseError(_CODE, "a record's value is not base64url")
    try:
        return base64.b64decode(value + "=" * (-len(value) % 4), b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise ParseError(_CODE, "a record's value is not base64url") from error


def _cbor_value(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise ParseError(_CODE, "a record's value is not a byte string")
    return value


def _json(message: Record | Collection) -> object:
    if isinstance(message, Record):
        value = base64.urlsafe_b64encode(message.value).rstrip(b"=").decode()
        return [message.type, value, *([message.indicator] if message.indicator else [])]
    named = {TYPE_KEY: message.type} if message.type else {}
    return named | {str(label): _json(member) for label, member in message.members.items()}


def _cbor(message: Record | Collection) -> cbor.Value:
    if isinstance(message, Record):
        return [message.type, message.value, *([message.indicator] if message.indicator else [])]
    named: dict[int | str, cbor.Value] = {label: _cbor(member) for label, member in message.members.items()}
    return named | ({TYPE_KEY: message.type} if message.type else {})
