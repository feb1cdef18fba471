"""Functions of floating-point numbers that give the same bits on every machine.

Libraries' `exp`, their sums and their linear algebra differ in the last bits by processor, version and number of
threads. Sides that compare what they computed need all of it alike, so it is done here with nothing but what IEEE 754
defines to the last bit: sums, products, quotients and roots of two numbers each, in an order that is written down.

- Arrays go through numpy element by element; nothing is left to its sums or products of matrices.
- Errors are a few units of the last place; that is not the point here.

Example:
    >>> float(exp(np.array([1.0]))[0]).hex()
    '0x1.5bf0a8b14576ap+1'
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from mitai.mpc import portable
from mitai.mpc.ring import Real

_LN2 = Fraction("0.693147180559945309417232121458176568075500134360255")
_LN2_HIGH = round(_LN2 * 2**32) / 2**32  # times a small integer it is exact
_LN2_LOW = float(_LN2 - Fraction(_LN2_HIGH))
_PER_LN2 = float(1 / _LN2)
_EXP_TERMS, _LOG_TERMS, _ERF_TERMS = 15, 13, 130
_FLAT = 6.0  # erf is 1 from here on
_FAR = 2046  # powers of two beyond are 0 or infinite


def exp(x: Real) -> Real:
    """Return e^x."""
    power = np.rint(x * _PER_LN2)
    rest = (x - power * _LN2_HIGH) - power * _LN2_LOW
    total = np.ones_like(rest)
    for k in range(_EXP_TERMS, 0, -1):
        total = total * rest / k + 1
    return np.ldexp(total, np.clip(power, -_FAR, _FAR).astype(np.int32))


def log(x: Real) -> Real:
    """Return the natural logarithm, by the series of the inverse hyperbolic tangent."""
    part, power = np.frexp(x)
    small = part < math.sqrt(0.5)
    part, power = np.where(small, part + part, part), power - small
    ratio = (part - 1) / (part + 1)
    square = ratio * ratio
    total = np.zeros_like(ratio)
    for k in range(2 * _LOG_TERMS + 1, 0, -2):
        total = total * square + 1 / k
    return np.asarray(power * _LN2_HIGH + (power * _LN2_LOW + 2 * ratio * total))


def power(x: Real, exponent: float | Real) -> Real:
    """Return x^exponent, for positive x; the reciprocal and that of the root without a detour."""
    if isinstance(exponent, float) and exponent in {-1.0, -0.5}:
        return np.asarray(1 / (x if exponent == -1.0 else np.sqrt(x)))
    return exp(exponent * log(x))


def tanh(x: Real) -> Real:
    """Return the hyperbolic tangent."""
    small = exp(-2 * np.abs(x))
    return np.copysign((1 - small) / (1 + small), x)


def erf(x: Real) -> Real:
    """Return the error function, by 2/√π e^(-x²) Σ 2^k x^(2k + 1) / (1 · 3 · 5 … (2k + 1))."""
    near = np.clip(x, -_FLAT, _FLAT)
    square = near * near
    total = np.ones_like(near)
    for k in range(2 * _ERF_TERMS + 1, 1, -2):
        total = total * (2 * square) / k + 1
    return np.asarray(2 / math.sqrt(math.pi) * exp(-square) * near * total)


def angle(turns: Real) -> tuple[Real, Real]:
    """Return cosines and sines of parts of a turn, taken to the next multiple of 2^-32."""
    whole = np.rint((turns - np.floor(turns)) * 2.0**32).astype(np.uint64).astype(np.uint32)  # a whole turn is 0
    cosine, sine = portable.wave_of(whole.reshape(-1))
    return cosine.reshape(turns.shape), sine.reshape(turns.shape)


class LeastSquares:
    """The combination of a matrix' columns that is nearest to given values, for more and more of its columns.

    By the modified Gram-Schmidt process, with the values as a last column (Björck, *Numerical Methods for Least Squares
    Problems*, 1996, section 2.4).

    Args:
        matrix: [rows, columns]; its columns have to be independent.
        values: [rows] or [rows, several].
    """

    def __init__(self, matrix: Real, values: Real) -> None:
        self._work = np.column_stack([matrix, values])
        self._columns, self._shape = matrix.shape[1], values.shape[1:]
        self._found: list[Real] = []

    def take(self, count: int) -> None:
        """Use the first `count` columns from now on."""
        for k in range(len(self._found), count):
            column, rest = self._work[:, k, None], self._work[:, k + 1 :]
            along = total(column * rest) / total(column * column)
            rest -= column * along
            self._found.append(along)

    def solution(self) -> Real:
        """Return the coefficients of the columns that are used, [columns] or [columns, several]."""
        count = len(self._found)
        found = np.stack([along[self._columns - 1 - k :] for k, along in enumerate(self._found)])
        for k in range(count - 2, -1, -1):
            found[k] -= total(self._found[k][: count - 1 - k, None] * found[k + 1 :])
        return found.reshape(count, *self._shape)

    def residual(self) -> Real:
        """Return what is left of the values."""
        return self._work[:, self._columns :].reshape(-1, *self._shape)


def total(x: Real) -> Real:
    """Return the sum along the first axis, by halves."""
    while len(x) > 1:
        half = len(x) // 2
        x = np.concatenate([x[:half] + x[half : 2 * half], x[2 * half :]])
    first: Real = x[0]
    return first
