"""The kernels of secure computation in numpy and torch alone, for machines without `mitai-native`.

They are also the reference that the compiled paths are tested against, bit by bit. Secret values select nothing here:
no branch, address or length depends on them. What each function computes is described in `mitai.mpc.kernels`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Ring = NDArray[np.uint64]
Planes = NDArray[np.uint8]
Turns = NDArray[np.uint32]
Real = NDArray[np.float64]
Word = TypeVar("Word", bound=np.unsignedinteger)
SINE = [(-1.0) ** i / math.factorial(2 * i + 1) for i in range(7, -1, -1)]
COSINE = [(-1.0) ** i / math.factorial(2 * i) for i in range(8, 0, -1)]
ROWS = 1 << 12  # elements that are worked on at a time


def matmul(a: NDArray[Word], b: NDArray[Word]) -> NDArray[Word]:
    """Multiply matrices through torch's products of signed integers, which wrap around."""
    import torch

    signed = np.dtype(f"i{a.dtype.itemsize}")
    factors = (torch.from_numpy(np.require(x, requirements=["C", "A", "W"]).view(signed)) for x in (a, b))
    product: NDArray[Word] = torch.matmul(*factors).numpy().view(a.dtype)
    return product


def one_hot(r: Ring, bits: int) -> Ring:
    """Set one bit for each element, by comparing it with every word's number."""
    words = np.arange(max(1, (1 << bits) // 64), dtype=np.uint64)
    hit = (r[:, None] >> np.uint64(6)) == words
    vectors: Ring = hit.astype(np.uint64) << (r[:, None] & np.uint64(63))
    return vectors


def sum_products(planes: Planes, sums: Sequence[Sequence[Sequence[int]]]) -> Planes:
    """Multiply and add up whole planes."""
    out = np.zeros((len(sums), planes.shape[1]), np.uint8)
    for number, terms in enumerate(sums):
        for term in terms:
            out[number] ^= np.bitwise_and.reduce(planes[list(term)], axis=0) if term else np.uint8(0xFF)
    return out


def add_waves(total: Ring, turns: Turns, circle: Real, scale: float, factors: Ring) -> None:
    """Multiply by waves of public turns and add up, some thousand at a time, which fit into a cache."""
    size = circle.shape[2]
    high, low = turns >> np.uint32(size.bit_length() - 1) & np.uint32(size - 1), turns & np.uint32(size - 1)
    for start in range(0, total.size, ROWS):
        rows = slice(start, start + ROWS)
        first, second = circle[0][:, high[rows]], circle[1][:, low[rows]]
        cosine = first[0] * second[0] - first[1] * second[1]
        sine = first[1] * second[0] + first[0] * second[1]
        for k, pair in enumerate(multiples(cosine, sine, len(factors) // 2)):
            for place, wave in enumerate(pair):
                whole = np.rint(wave * scale).astype(np.int64).view(np.uint64)
                whole *= factors[2 * k + place, rows]
                total[rows] += whole


def turn_waves(turns: Turns, a: Real, b: Real) -> Ring:
    """Turn waves by angles, some thousand at a time."""
    made = np.empty((2 * a.size, turns.size), np.int64)
    for start in range(0, turns.size, ROWS):
        rows = slice(start, start + ROWS)
        for k, (c, s) in enumerate(multiples(*wave_of(turns[rows]), a.size)):
            made[2 * k, rows] = np.rint(a[k] * c - b[k] * s)
            made[2 * k + 1, rows] = np.rint(a[k] * s + b[k] * c)
    return made.view(np.uint64)


def wave_of(turns: Turns) -> tuple[Real, Real]:
    """Return cosine and sine by Taylor's series around the nearest quarter of a turn, whose signs are multiplied in."""
    quarter = turns + np.uint32(1 << 29) >> np.uint32(30)
    x = (turns - (quarter << np.uint32(30))).view(np.int32) * (2 * math.pi / 2.0**32)
    y = x * x
    sine, cosine = (np.full_like(y, terms[0]) for terms in (SINE, COSINE))
    for s, c in zip(SINE[1:], COSINE[1:], strict=True):
        sine = sine * y + s
        cosine = cosine * y + c
    waves = np.stack([cosine * y + 1, sine * x])
    quarters = np.array([[(1, 0), (0, -1), (-1, 0), (0, 1)], [(0, 1), (1, 0), (0, -1), (-1, 0)]], np.float64)
    turned = np.einsum("oqi,qn,in->on", quarters, quarter == np.arange(4)[:, None], waves)
    return turned[0], turned[1]


def multiples(cosine: Real, sine: Real, count: int) -> Iterator[tuple[Real, Real]]:
    """Return cosines and sines of an angle times 1 to count, by Chebyshev's recurrence."""
    twice = cosine + cosine
    before, now = (np.ones_like(cosine), np.zeros_like(sine)), (cosine, sine)
    for _ in range(count):
        yield now
        before, now = now, (twice * now[0] - before[0], twice * now[1] - before[1])
