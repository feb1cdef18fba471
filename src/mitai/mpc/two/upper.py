"""A bound on a row's largest number, without a tournament (`docs/spec/mpc.md`, "Upper"): five rounds for any length.

1. Open each number under a mask (4 bytes). The bucket of width 2 that a number is in is the difference of c's and r's,
   or one more: the dealer has shared a vector with a one at r's bucket, and turned by c's it has its one at x's.
2. Compare each number with both ends of the range.
3. Open both bits under masks. Vectors of what is in the range add up to a histogram of the row, modulo 2^8.
4. Open, for each bucket, how many numbers are there or above, under masks; a vector of 256 bits with a one at the mask
   says at the public place whether this is zero.
5. Make the bits into numbers: as many buckets have something there or above as lie below the result.

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
from mitai.mpc.two.bits import Planes, flip, pack, to_ring, unpack
from mitai.mpc.two.blank import blank
from mitai.mpc.two.compare import Signs
from mitai.mpc.two.core import Two
from mitai.mpc.two.masked import Opened, Words

Bytes = NDArray[np.uint8]

SIGN_BIT, DIGITS = 31, 3  # of comparisons, which are blurred by 1/8 below a border
BUCKETS = 128
WIDTH_BITS = FRACTION_BITS + 1
LOW = -(BUCKETS // 2 << WIDTH_BITS) + (1 << (WIDTH_BITS - 3))  # within the lowest bucket, blur included
HIGH = (BUCKETS // 2 - 1) << WIDTH_BITS  # where the highest bucket begins
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
        each = to_ring(engine, bits, counts.size, np.uint8).reshape(rows, parts, BUCKETS - 1)
        counts, parts = each.sum(1, dtype=np.uint8), 1
        bits = _nonzero(engine, counts)
    reached = to_ring(engine, bits, counts.size, np.uint64).reshape(*x.shape[:-1], BUCKETS - 1).sum(-1, keepdims=True)
    lowest = 1 - BUCKETS // 2 << WIDTH_BITS
    share = Secret(engine, (reached,), x.fraction).times(1 << WIDTH_BITS)
    return share + lowest / 2.0**FRACTION_BITS


def _histograms(engine: Two, x: Secret, rows: int, columns: int) -> Bytes:
    """Return, for parts of each row, how many numbers are in each bucket or above: [rows, parts, buckets - 1]."""
    opened = Opened.of(engine, x.parts[0])
    below = Signs(opened, sign_bit=SIGN_BIT, digits=DIGITS).below(LOW, HIGH)
    n, parts = opened.size, -(-columns // LONGEST)
    masks = engine.pads.random(below.shape, np.uint8)
    bits = engine.pads.given((n,), np.uint8, lambda: unpack(masks[0][1] ^ masks[1][1], n))
    places = cache(lambda: _places(opened.mask(), unpack(masks[0][0] ^ masks[1][0], n)))
    if not engine.offline:
        first = engine.role == 0
        above = below[1] ^ np.uint8(0xFF if first else 0)
        (shown,) = engine.open_xor(np.stack([below[0] ^ below[1], above]) ^ masks[0])
        inside, beyond = unpack(shown, n)
        largest = flip(beyond, bits, first=first).reshape(rows, columns)
        starts = (-(opened.c >> np.uint32(WIDTH_BITS)) - np.uint32(BUCKETS // 2)) % np.uint32(BUCKETS)
        counts = np.empty((rows, parts, BUCKETS), np.uint8)
    step = max(1, AT_ONCE // columns)
    for at in range(0, rows, step):
        some = slice(at * columns, min(n, (at + step) * columns))
        vectors = engine.pads.given((some.stop - some.start, 2 * BUCKETS), np.uint8, partial(_vectors, places, some))
        if engine.offline:
            continue
        turned = _turned(vectors, inside[some], starts[some]).reshape(-1, columns, BUCKETS)
        for part in range(parts):
            of_part = slice(part * LONGEST, (part + 1) * LONGEST)
            counts[at : at + step, part] = turned[:, of_part].sum(1, dtype=np.uint8)
            counts[at : at + step, part, -1] += largest[at : at + step, of_part].sum(1, dtype=np.uint8)
    if engine.offline:
        return blank((rows, parts, BUCKETS - 1), np.uint8)
    return np.cumsum(counts[..., :0:-1], axis=-1, dtype=np.uint8)


def _places(r: Words, bits: Bytes) -> Bytes:
    """Return minus the bucket of each mask, and 128 more where the bit is 0: where two vectors have their only one."""
    buckets = (-(r >> np.uint32(WIDTH_BITS)) % np.uint32(BUCKETS)).astype(np.uint8)
    places: Bytes = buckets + np.uint8(BUCKETS) * (bits ^ np.uint8(1))
    return places


def _vectors(places: Callable[[], Bytes], some: slice) -> Bytes:
    """Return two vectors side by side for some of the numbers."""
    return np.equal(places()[some, None], np.arange(2 * BUCKETS, dtype=np.uint8)).view(np.uint8)


def _turned(vectors: Bytes, chosen: Bytes, starts: Words) -> Bytes:
    """Return the chosen one of each pair of vectors, turned to begin at a public place."""
    picked = vectors.reshape(-1, 2, BUCKETS)[np.arange(len(vectors)), chosen]
    twice = np.concatenate([picked, picked], 1)
    windows = np.lib.stride_tricks.sliding_window_view(twice, BUCKETS, axis=1)
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
