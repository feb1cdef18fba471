"""Functions on an interval as sums of waves, which two parties evaluate on a masked number without a round.

Follows `docs/spec/mpc.md`, "Waves". A number opened as c = x + r is all that the parties need: by the addition theorem
cos k(c - r) is a sum of two products, each of a public wave of c and one of r, and a function that is a sum of waves
of x is a sum of products of public waves of c with numbers that the dealer knows. It shares these, with the function's
coefficients in them, so the parties multiply by waves and add up, whatever the function is.

- Only the dealer and party 0 use a function's coefficients. They are the same bits on every machine
  (`mitai.mpc.reproducible`), as are the waves: of integers and of single operations on doubles that IEEE 754 defines.
- The period is longer than the interval: what the sum does outside of it is free, and it converges quickly.

Example:
    >>> wave = fit(np.tanh, -4, 4)
    >>> wave.count, bool(np.abs(wave(np.array([0.5])) - np.tanh(0.5)) < 1e-4)
    (12, True)
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mitai.mpc import kernels
from mitai.mpc.portable import multiples, wave_of
from mitai.mpc.reproducible import LeastSquares, angle
from mitai.mpc.ring import FRACTION_BITS, Real, Ring

PUBLIC_BITS = 26  # of fraction, of public waves
DEALT_BITS = 22  # of fraction, of what the dealer shares
FRACTION = PUBLIC_BITS + DEALT_BITS  # of a sum of products
COUNTS = (*range(4, 17), 20, 24, 28, 32)
TURN_BITS = 22  # a public angle is so many bits of a turn
HALF_TURN_BITS = TURN_BITS // 2
NODES = 500  # of the interval, at which a function is fitted
RIDGE = 1e-8  # keeps the coefficients small
SPARE = 1.25  # a period is at least so many times the interval
LARGEST = 2.0**20  # of a coefficient
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

    def padded(self, count: int) -> Wave:
        """Return the same sum with more frequencies, whose coefficients are 0."""
        more = 0, count - self.count
        return Wave(self.period_bits, self.constant, np.pad(self.cosines, more), np.pad(self.sines, more))


def dealt(waves: Sequence[Wave], r: NDArray[np.uint32]) -> Ring:
    """Return what the dealer shares for each wave's masks [waves, n], for public cosines and sines in turn.

    All waves have as many frequencies: [2 · count, waves · n].
    """
    unit = 2.0**DEALT_BITS
    made = [
        kernels.turn_waves(masks << np.uint32(32 - wave.period_bits), wave.cosines * unit, wave.sines * unit)
        for wave, masks in zip(waves, r, strict=True)
    ]
    return made[0] if len(made) == 1 else np.concatenate(made, axis=1)


def combine(waves: Sequence[Wave], c: NDArray[np.uint32], share: Ring, *, first: bool) -> Ring:
    """Return shares [waves · n] of waves' values, with `FRACTION` bits of fraction, from opened numbers [waves, n]."""
    spare = np.array([[wave.period_bits - TURN_BITS] for wave in waves])
    turns = c >> np.maximum(spare, 0).astype(np.uint32) << np.maximum(-spare, 0).astype(np.uint32)
    turns &= np.uint32((1 << TURN_BITS) - 1)
    constants = [round(wave.constant * 2.0**FRACTION) % (1 << 64) if first else 0 for wave in waves]
    total = np.repeat(np.array(constants, np.uint64), c.shape[1])
    kernels.add_waves(total, turns.reshape(-1), circle(), 2.0**PUBLIC_BITS, share)
    return total


def fit(function: Callable[[Real], Real], low: float, high: float) -> Wave | None:
    """Return the shortest sum that is near a function, or None where even a long one is not.

    Near is within 2^-14, or 2^-18 of the largest value.
    """
    places, _ = angle((np.arange(NODES) + 0.5) / (2 * NODES))  # Chebyshev's
    units = np.rint(((low + high) / 2 + (high - low) / 2 * places) * 2.0**FRACTION_BITS)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        values = function(units / 2.0**FRACTION_BITS)
    if not np.isfinite(values).all():
        return None
    shortest = log2_above((high - low) * SPARE) + FRACTION_BITS
    sums = [_Sums(units, values, period_bits) for period_bits in range(shortest, min(shortest + 2, 33))]
    near = (wave for count in COUNTS for one in sums if (wave := one.near(count)) is not None)
    return next(near, None)


class _Sums:
    """Sums with one period, of more and more waves, that are as near to a function as they can be."""

    def __init__(self, units: Real, values: Real, period_bits: int) -> None:
        turns = units.astype(np.int64).astype(np.uint32) << np.uint32(32 - period_bits)
        waves = [np.stack(pair, 1) for pair in multiples(*wave_of(turns), COUNTS[-1])]
        matrix = np.concatenate([np.ones((len(units), 1)), *waves], 1)
        size = matrix.shape[1]
        ridge = RIDGE * math.sqrt(len(units)) * np.eye(size)
        self._scale, self._tolerance = float(np.abs(values).max()) or 1.0, tolerance(values)
        self._period_bits, self._nodes = period_bits, len(units)
        self._squares = LeastSquares(
            np.concatenate([matrix, ridge]), np.concatenate([values / self._scale, np.zeros(size)])
        )

    def near(self, count: int) -> Wave | None:
        """Return the nearest sum of so many frequencies, not fewer than before, if it is near enough."""
        self._squares.take(2 * count + 1)
        if np.abs(self._squares.residual()[: self._nodes]).max() * self._scale > self._tolerance:
            return None
        found = self._scale * self._squares.solution()
        wave = Wave(self._period_bits, float(found[0]), found[1::2], found[2::2])
        return wave if np.abs(found).max() < LARGEST else None


def log2_above(x: float) -> int:
    """Return the least n with x <= 2^n."""
    part, power = math.frexp(x)
    return power - (part == 0.5)


def tolerance(values: Real) -> float:
    """Return how near to a function is near enough."""
    return max(2.0**-14, float(np.abs(values).max()) * 2.0**-18)


@functools.cache
def circle() -> Real:
    """Return cosine and sine of a turn's 2^11 equal parts, and of the first 2^11 of its 2^22 parts: [2, 2, 2^11].

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
        tables.append(np.array([[float(x) / 2.0**PRECISION, float(y) / 2.0**PRECISION] for x, y in points]).T)
    return np.stack(tables)
