"""How a step's numbers are written down: signed, little-endian, in 1, 2, 4 or 8 bytes each, as their range needs.

The range is that of the program, so both sides know the length before anything is read.

Example:
    >>> value = Value((3,), -200, 200)
    >>> b"".join(pieces(np.array([1, -2, 200]), value)).hex(), size(value)
    ('0100feffc800', 6)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from mitai.proof.operation import Ints, Value

PIECE = 1 << 18  # numbers


def width(value: Value) -> int:
    """Return how many bytes a number of this range takes."""
    return next(n for n in (1, 2, 4, 8) if -(1 << 8 * n - 1) <= value.low and value.high < 1 << 8 * n - 1)


def size(value: Value) -> int:
    """Return how many bytes an array takes."""
    return value.size * width(value)


def pieces(array: Ints, value: Value) -> Iterator[bytes]:
    """Yield an array's bytes, some at a time."""
    flat, kind = np.ascontiguousarray(array).reshape(-1), f"<i{width(value)}"
    for at in range(0, len(flat), PIECE):
        yield flat[at : at + PIECE].astype(kind, copy=False).tobytes()


def numbers(data: Iterable[bytes], value: Value) -> Ints:
    """Return the array whose bytes come in pieces of `PIECE` numbers; they may be outside of the range."""
    out, kind, at = np.empty(value.size, np.int64), f"<i{width(value)}", 0
    for piece in data:
        part = np.frombuffer(piece, kind)
        out[at : at + len(part)] = part
        at += len(part)
    return out.reshape(value.shape)
