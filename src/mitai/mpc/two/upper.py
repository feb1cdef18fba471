"""A bound on a row's largest number, without a tournament (`docs/spec/mpc.md`, "Upper"): three rounds for any length.

1. Open each number under a mask (4 bytes). The bucket of width 2 that a number is in is the difference of c's and r's,
   or one more: the dealer has shared a vector with a one at r's bucket, and turned by c's it has its one at x's. These
   vectors add up to a histogram of the row, modulo 2^8. Buckets go round a range of 512, of which numbers that count
   are in a half.
2. Open, for each bucket, how many numbers are there or above, under masks; a vector of 256 bits with a one at the mask
   says at the public place whether this is zero.
3. Make the bits into numbers: as many buckets have something there or above as lie below the result.

A row of more than 255 numbers is counted in parts that are put together in two more rounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial

import numpy as np
from numpy.typing import NDArray

from mitai.mpc import kernels
from mitai.mpc.engine import Secret
from mitai.mpc.ring import FRACTION_BITS
from mitai.mpc.two.bits import Planes, pack, to_ring
from mitai.mpc.two.blank import blank
from mitai.mpc.two.core import Two
from mitai.mpc.two.masked import Opened

Bytes = NDArray[np.uint8]

WIDTH_BITS = FRACTION_BITS + 1
ROUND = 256  # buckets of the whole range
FIRST, BUCKETS = -62, 127  # that are counted: numbers from -126 to 128; what is below lies in none of them
LONGEST = 255  # what a byte can count
AT_ONCE = 1 << 13  # numbers whose vectors are made and added up at a time, which fit into a cache


def upper(engine: Two, x: Secret) -> Secret:
    """Return a number that is at least the largest of each row, and above it by at most 4 (module)."""
    if x.fraction != FRACTION_BITS:
        raise ValueError("numbers of the engine's own fraction are bounded")
    columns = x.shape[-1]
    rows, parts = x.size // max(columns, 1), -(-columns // LONGEST)
    if not 0 < parts <= LONGEST:
        raise ValueError(f"rows of {columns} numbers can't be bounded")
    counts = _histograms(engine, x, rows, columns)
    bits = _nonzero(engine, counts)
    while parts > 1:
        each = to_ring(engine, bits, counts.size, np.uint8).reshape(rows, parts, BUCKETS)
        counts, parts = each.sum(1, dtype=np.uint8), 1
        bits = _nonzero(engine, counts)
    reached = to_ring(engine, bits, counts.size, np.uint64).reshape(*x.shape[:-1], BUCKETS).sum(-1, keepdims=True)
    share = Secret(engine, (reached,), x.fraction).times(1 << WIDTH_BITS)
    return share + 2.0 * FIRST


def _histograms(engine: Two, x: Secret, rows: int, columns: int) -> Bytes:
    """Return, for parts of each row, how many numbers are in each bucket or above: [rows, parts, buckets]."""
    opened = Opened.of(engine, x.parts[0])
    parts = -(-columns // LONGEST)
    places = cache(lambda: (-(opened.mask() >> np.uint32(WIDTH_BITS)) % np.uint32(ROUND)).astype(np.uint8))
    if not engine.offline:
        starts = (np.uint32(FIRST % ROUND) - (opened.c >> np.uint32(WIDTH_BITS))) % np.uint32(ROUND)
        counts = np.empty((rows, parts, BUCKETS), np.uint8)
    step = max(1, AT_ONCE // columns)
    for at in range(0, rows, step):
        some = slice(at * columns, min(x.size, (at + step) * columns))
        vectors = engine.pads.given((some.stop - some.start, ROUND), np.uint8, partial(_vectors, places, some))
        if engine.offline:
            continue
        turned = _turned(vectors, starts[some]).reshape(-1, columns, BUCKETS)
        for part in range(parts):
            turned_part = turned[:, part * LONGEST : (part + 1) * LONGEST]
            counts[at : at + step, part] = turned_part.sum(1, dtype=np.uint8)
    if engine.offline:
        return blank((rows, parts, BUCKETS), np.uint8)
    return np.cumsum(counts[..., ::-1], axis=-1, dtype=np.uint8)


def _vectors(places: Callable[[], Bytes], some: slice) -> Bytes:
    """Return vectors with ones at the places of some of the numbers."""
    return np.equal(places()[some, None], np.arange(ROUND, dtype=np.uint8)).view(np.uint8)


def _turned(vectors: Bytes, starts: NDArray[np.uint32]) -> Bytes:
    """Return the counted part of each vector, which begins at a public place and may go round its end."""
    windows = np.lib.stride_tricks.sliding_window_view(
        np.concatenate([vectors, vectors[:, : BUCKETS - 1]], 1), BUCKETS, axis=1
    )
    turned: Bytes = windows[np.arange(len(vectors)), starts]
    return turned


def _nonzero(engine: Two, counts: Bytes) -> Planes:
    """Return a plane of whether counts are not zero; one round, a byte each."""
    shape = (math.prod(counts.shape),)
    masks = engine.pads.random(shape, np.uint8)
    given = engine.pads.given(
        (*shape, 4), np.uint64, lambda: kernels.one_hot((masks[0] + masks[1]).astype(np.uint64), 8), xor=True
    )
    if engine.offline:
        return blank((-(-shape[0] // 8),), np.uint8)
    (c,) = engine.open(counts.reshape(shape) + masks[0])
    word = given[np.arange(len(c)), c >> np.uint8(6)]
    zero = (word >> (c & np.uint8(63)).astype(np.uint64) & np.uint64(1)).astype(np.uint8)
    return pack(zero ^ np.uint8(engine.role == 0))
