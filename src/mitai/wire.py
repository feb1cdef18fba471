"""JSON from strangers, read in one way everywhere: up to a limit, strictly as one type, or an error of the tree.

Types say the rest (`forbid_unknown_fields`, constraints, `__post_init__`). A message never quotes what was read.

Example:
    >>> parse_json(b'{"a": 1}', dict[str, int], 1 << 20, "doc.malformed", "these bytes are no table of numbers")
    {'a': 1}
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from mitai.errors import ParseError

T = TypeVar("T")


def parse_json(data: bytes | str, kind: type[T], limit_bytes: int, code: str, message: str) -> T:
    """Parse `data` as `kind`; raise `ParseError` with `code` on anything else or above the limit."""
    if len(data) > limit_bytes:
        raise ParseError(code, f"{len(data)} bytes are above the limit of {limit_bytes}")
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ParseError(code, message) from error
