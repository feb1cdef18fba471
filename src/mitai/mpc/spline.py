"""Functions of one number as piecewise polynomials on equal steps, with straight tails (`docs/spec/mpc.md`, "Splines").

A table is public: it says which function is computed, never at which point. It is the same bits on every machine, if
its function is (`mitai.mpc.reproducible`).

Example:
    >>> half = Spline.fit(lambda x: x / 2, low=-1, high=1, segments=4, degree=1)
    >>> half(np.array([0.25]))
    array([0.125])
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mitai.mpc.reproducible import LeastSquares, angle, power
from mitai.mpc.ring import Real


@dataclass(frozen=True, eq=False)
class Spline:
    """A function on [low, low + segments · step) by polynomials, and a line on either side.

    Attributes:
        low: Where the first segment begins; a multiple of `step`.
        step: Width of a segment; a power of two.
        coefficients: [segments, degree + 1], lowest first, in t = x - (low + i · step), 0 <= t < step.
        below: (a, b) of the line a + b · x left of the segments.
        above: The same for the right.
        source: The function that the polynomials were fitted to; a protocol may come nearer to it than they do.
    """

    low: float
    step: float
    coefficients: Real
    below: tuple[float, float]
    above: tuple[float, float]
    source: Callable[[Real], Real] | None = None

    def __post_init__(self) -> None:
        if not math.log2(self.step).is_integer() or not (self.low / self.step).is_integer():
            raise ValueError("a spline's step is a power of two, and its beginning a multiple of it")
        if self.segments & (self.segments - 1):
            raise ValueError("a spline has a power of two of segments")

    @property
    def segments(self) -> int:
        """The number of polynomials."""
        return len(self.coefficients)

    @property
    def degree(self) -> int:
        """The degree of each."""
        return int(self.coefficients.shape[1]) - 1

    @property
    def high(self) -> float:
        """Where the last segment ends."""
        return self.low + self.segments * self.step

    @classmethod
    def fit(
        cls,
        function: Callable[[Real], Real],
        *,
        low: float,
        high: float,
        segments: int,
        degree: int,
        below: tuple[float, float] = (0.0, 0.0),
        above: tuple[float, float] = (0.0, 0.0),
    ) -> Spline:
        """Fit each segment at its Chebyshev nodes, which is near the best polynomial of that degree."""
        step = (high - low) / segments
        places, _ = angle((np.arange(degree + 1) + 0.5) / (2 * degree + 2))
        nodes = (1 - places) / 2 * step
        powers = np.stack([nodes**0, *(math.prod([nodes] * k) for k in range(1, degree + 1))], 1)
        starts = low + step * np.arange(segments)
        values = function(starts[:, None] + nodes[None, :])
        fitted = LeastSquares(powers, values.T)
        fitted.take(degree + 1)
        return cls(low, step, np.ascontiguousarray(fitted.solution().T), below, above, function)

    def polynomials(self, x: Real, first: int = 0, end: int | None = None) -> Real:
        """Return the polynomials' values; beyond segments [first, end) the nearest one goes on."""
        last = (self.segments if end is None else end) - 1
        index = np.clip(np.floor((x - self.low) / self.step), first, last).astype(np.int64)
        t = x - (self.low + index * self.step)
        inner = np.zeros_like(t)
        for k in range(self.degree, -1, -1):
            inner = inner * t + self.coefficients[index, k]
        return inner

    def __call__(self, x: Real) -> Real:
        """Return the function's values, computed in the clear."""
        inner = self.polynomials(x)
        (a, b), (c, d) = self.below, self.above
        return np.where(x < self.low, a + b * x, np.where(x >= self.high, c + d * x, inner))


@dataclass(frozen=True)
class Octaves:
    """factor · x^exponent on [2^low, 2^high); what is smaller counts as 2^low.

    Attributes:
        exponent: -1, or -1/2 …
        factor: A positive number.
        low: The first octave begins at 2^low.
        high: The last one ends at 2^high.
        fraction: Bits of fraction of the result, 32 at most. The engine's window does not bound it.
    """

    exponent: float
    factor: float
    low: int
    high: int
    fraction: int

    def __call__(self, x: Real | float) -> Real:
        """Return the function's values, computed in the clear."""
        return np.asarray(self.factor * power(np.maximum(x, 2.0**self.low), self.exponent))
