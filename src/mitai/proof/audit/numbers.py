"""How a step's numbers are written down: signed, little-endian, each with as many bytes as its range needs.

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

WORD = 8
PIECE = 1 << 18  # numbers


def width(value: Value) -> int:
    """Return how many bytes a number of this range takes."""
    return next(n for n in range(1, WORD + 1) if -(1 << 8 * n - 1) <= value.low and value.high < 1 << 8 * n - 1)


def size(value: Value) -> int:
    """Return how many bytes an array takes."""
    return value.size * width(value)


def pieces(array: Ints, value: Value) -> Iterator[bytes]:
    """Yield an array's bytes, some at a time."""
    flat, wide = np.ascontiguousarray(array).reshape(-1), width(value)
    for at in range(0, len(flat), PIECE):
        words = flat[at : at + PIECE].astype("<i8", copy=False).view(np.uint8).reshape(-1, WORD)
        yield words[:, :wide].tobytes()


def numbers(data: Iterable[bytes], value: Value) -> Ints:
    """Return the array whose bytes come in pieces of `PIECE` numbers; they may be outside of the range."""
    out, wide, at = np.empty(value.size, np.int64), width(value), 0
    above = 8 * (WORD - wide)
    for piece in data:
        count = len(piece) // wide
        words = np.ndarray((count,), "<i8", piece + bytes(WORD - wide), strides=(wide,))  # and bytes of the next ones
        out[at : at + count] = words << above >> above
        at += count
    return out.reshape(value.shape)
