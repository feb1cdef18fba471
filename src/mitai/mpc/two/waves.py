"""Functions on an interval as sums of waves, which two parties evaluate on a masked number without a round.

Follows `docs/spec/mpc.md`, "Waves". A number opened as c = x + r is all that the parties need: by the addition theorem
cos k(c - r) is a sum of two products, each of a public wave of c and one of r, and a function that is a sum of waves
of x is a sum of products of public waves of c with numbers that the dealer knows. It shares these, with the function's
coefficients in them, so the parties multiply by waves and add up, whatever the function is.

- Only the dealer and party 0 use a function's coefficients. What both parties have to compute alike, to the last bit,
  is made of integers and of single operations on doubles that IEEE 754 defines.
- The period is longer than the interval: what the sum does outside of it is free, and it converges quickly.

Example:
    >>> wave = fit(np.tanh, -4, 4)
    >>> wave.count, bool(np.abs(wave(np.array([0.5])) - np.tanh(0.5)) < 1e-4)
    (14, True)
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mitai.mpc.ring import FRACTION_BITS, Real, Ring

PUBLIC_BITS = 22  # of fraction, of public waves
DEALT_BITS = 26  # of fraction, of what the dealer shares
FRACTION = PUBLIC_BITS + DEALT_BITS  # of a sum of products
COUNTS = (4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32)
TURN_BITS = 22  # a public angle is so many bits of a turn
HALF_TURN_BITS = TURN_BITS // 2
SPARE = 1.25  # a period is at least so many times the interval
ROWS = 1 << 13  # elements at a time, which fit into a cache
PRECISION = 128


@dataclass(frozen=True, eq=False)
class Wave:
    """constant + sum over k of cosines[k - 1] · cos(k·w·x) + sines[k - 1] · sin(k·w·x), w = 2 pi / period.

    Attributes:
        period_bits: The period is 2^period_bits units of a fixed-point number.
        constant: As above.
        cosines: As above.
        sines: As above.
    """

    period_bits: int
    constant: float
    cosines: Real
    sines: Real

    @property
    def count(self) -> int:
        """The number of frequencies."""
        return len(self.cosines)

    @property
    def omega(self) -> float:
        """2 pi / period."""
        return 2 * math.pi / 2.0 ** (self.period_bits - FRACTION_BITS)

    def __call__(self, x: Real) -> Real:
        """Return its values."""
        angles = np.multiply.outer(x * self.omega, np.arange(1, self.count + 1))
        return np.asarray(self.constant + np.cos(angles) @ self.cosines + np.sin(angles) @ self.sines)

    def dealt(self, r: NDArray[np.uint32]) -> Ring:
        """Return what the dealer shares for each mask: [2 · count, n], for the public cosines and sines in turn."""
        made = np.empty((2 * self.count, r.size), np.uint64)
        unit = 2.0**DEALT_BITS
        for start in range(0, r.size, ROWS):
            rows = slice(start, start + ROWS)
            angle = (r[rows] & np.uint32((1 << self.period_bits) - 1)) * (2 * math.pi / 2.0**self.period_bits)
            waves = _multiples(np.cos(angle), np.sin(angle), self.count)
            for k, (cosine, sine) in enumerate(waves):
                a, b = self.cosines[k] * unit, self.sines[k] * unit
                made[2 * k, rows] = np.rint(a * cosine - b * sine).astype(np.int64).view(np.uint64)
                made[2 * k + 1, rows] = np.rint(a * sine + b * cosine).astype(np.int64).view(np.uint64)
        return made

    def combine(self, c: NDArray[np.uint32], share: Ring, *, first: bool) -> Ring:
        """Return a share of the values, with `FRACTION` bits of fraction, from the opened numbers and dealt shares."""
        total = np.full(c.size, round(self.constant * 2.0**FRACTION) % (1 << 64) if first else 0, np.uint64)
        for start in range(0, c.size, ROWS):
            rows = slice(start, start + ROWS)
            for k, pair in enumerate(public_waves(c[rows], self.period_bits, self.count)):
                for place, wave in enumerate(pair):
                    whole = np.rint(wave * 2.0**PUBLIC_BITS).astype(np.int64).view(np.uint64)
                    whole *= share[2 * k + place, rows]
                    total[rows] += whole
        return total


def fit(function: Callable[[Real], Real], low: float, high: float) -> Wave | None:
    """Return the shortest sum that is near a function, or None where even a long one is not.

    Near is within 2^-14, or 2^-18 of the largest value.
    """
    units = (high - low) * 2.0**FRACTION_BITS * SPARE
    for count in COUNTS:
        for period_bits in range(math.ceil(math.log2(units)), math.ceil(math.log2(units)) + 2):
            wave = _fitted(function, low, high, count, period_bits)
            if wave is not None:
                return wave
    return None


def _fitted(function: Callable[[Real], Real], low: float, high: float, count: int, period_bits: int) -> Wave | None:
    empty = Wave(period_bits, 0.0, np.zeros(count), np.zeros(count))
    nodes = (low + high) / 2 + (high - low) / 2 * np.cos(np.pi * (np.arange(2000) + 0.5) / 2000)
    angles = np.multiply.outer(nodes * empty.omega, np.arange(1, count + 1))
    matrix = np.concatenate([np.ones((len(nodes), 1)), np.cos(angles), np.sin(angles)], 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = function(nodes)
    if not np.isfinite(values).all():
        return None
    scale = float(np.abs(values).max()) or 1.0
    ridge = 1e-6 * math.sqrt(len(nodes)) * np.eye(2 * count + 1)  # keeps the coefficients small
    found = np.linalg.lstsq(
        np.concatenate([matrix, ridge]), np.concatenate([values / scale, np.zeros(2 * count + 1)]), rcond=None
    )[0]
    wave = Wave(period_bits, scale * found[0], scale * found[1 : count + 1], scale * found[count + 1 :])
    return wave if np.abs(wave(nodes) - values).max() <= max(2.0**-14, scale * 2.0**-18) else None


def public_waves(c: NDArray[np.uint32], period_bits: int, count: int) -> Iterator[tuple[Real, Real]]:
    """Return cosine and sine of the multiples of c's angle: the same bits on every machine."""
    if period_bits > TURN_BITS:
        turn = c >> np.uint32(period_bits - TURN_BITS)
    else:
        turn = c << np.uint32(TURN_BITS - period_bits)
    coarse, fine = circle()
    first = coarse[:, (turn >> np.uint32(HALF_TURN_BITS)) & np.uint32((1 << HALF_TURN_BITS) - 1)]
    second = fine[:, turn & np.uint32((1 << HALF_TURN_BITS) - 1)]
    cosine = first[0] * second[0] - first[1] * second[1]
    sine = first[1] * second[0] + first[0] * second[1]
    return _multiples(cosine, sine, count)


def _multiples(cosine: Real, sine: Real, count: int) -> Iterator[tuple[Real, Real]]:
    """Return cosines and sines of an angle times 1 to count, by Chebyshev's recurrence."""
    twice = cosine + cosine
    before, now = (np.ones_like(cosine), np.zeros_like(sine)), (cosine, sine)
    for _ in range(count):
        yield now
        before, now = now, (twice * now[0] - before[0], twice * now[1] - before[1])


@functools.cache
def circle() -> tuple[Real, Real]:
    """Return cosine and sine of a turn's 2^11 equal parts, and of the first 2^11 of its 2^22 parts, [2, 2^11] each.

    They come from integer square roots and products alone, since libraries' sines differ in their last bits.
    """
    cosine, sine, parts = 0, 1 << PRECISION, 4  # a quarter
    tables = []
    for size in (1 << HALF_TURN_BITS, 1 << TURN_BITS):
        while parts < size:
            cosine = math.isqrt(((1 << PRECISION) + cosine) << (PRECISION - 1))
            sine = (sine << (PRECISION - 1)) // cosine
            parts *= 2
        points = [(1 << PRECISION, 0)]
        for _ in range((1 << HALF_TURN_BITS) - 1):
            x, y = points[-1]
            points.append(((x * cosine - y * sine) >> PRECISION, (x * sine + y * cosine) >> PRECISION))
        tables.append(np.array([[float(x) / 2.0**PRECISION, float(y) / 2.0**PRECISION] for x, y in points]).T.copy())
    return tables[0], tables[1]
