"""The field F of integers modulo p = 2^64 − 2^32 + 1 and its extension K = F[X] / (X² − 7) (docs/spec/proof.md).

Arrays of F are numpy arrays of `uint64`, arrays of K have a last axis of 2; single elements of K are `K`, made of
Python's integers, which is quicker for one number at a time.

- Every element is canonical: below p. Functions expect that and return it.
- Multilinear extensions take the first coordinate for the most significant bit of an index.
- This module is the reference: the verifier computes with it, and compiled kernels are tested against it.

Example:
    >>> K(0, 1) * K(0, 1) == K(7)
    True
    >>> values(signed(np.array([-1, 2]))).tolist()
    [-1, 2]
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

P = 2**64 - 2**32 + 1
NON_RESIDUE = 7  # generates F*, and so is no square
_CACHED = 14  # the log of how many elements are worked on at once
MAX_LOG_GROUP = 32  # F* has groups of order 2^k up to here

Array = NDArray[np.uint64]

_LOW = np.uint64(0xFFFFFFFF)  # also 2^64 mod p
_HALF = np.uint64(32)
_P = np.uint64(P)
_NON_RESIDUE = np.array([NON_RESIDUE], np.uint64)


@dataclass(slots=True, unsafe_hash=True)
class K:
    """An element a + bX of the extension, or of F where b is 0.

    Never changed, though it is not frozen: Python would take twice as long for each.
    """

    a: int
    b: int = 0

    def __add__(self, other: K) -> K:
        """Return the sum."""
        return K((self.a + other.a) % P, (self.b + other.b) % P)

    def __sub__(self, other: K) -> K:
        """Return the difference."""
        return K((self.a - other.a) % P, (self.b - other.b) % P)

    def __mul__(self, other: K) -> K:
        """Return the product."""
        a, b, c, d = self.a, self.b, other.a, other.b
        return K((a * c + NON_RESIDUE * b * d) % P, (a * d + b * c) % P)

    def inverse(self) -> K:
        """Return 1 / self; there is none of zero, which gives zero."""
        norm = pow(self.a * self.a - NON_RESIDUE * self.b * self.b, P - 2, P)
        return K(self.a * norm % P, -self.b * norm % P)


ZERO, ONE = K(0), K(1)
Point = Sequence[K]


def signed(x: NDArray[np.int64]) -> Array:
    """Return the residues of integers of at most 2^62 in magnitude."""
    x = x.astype(np.int64, copy=False)
    words = np.asarray(x >> 63).view(np.uint64)  # all bits of what is negative
    words &= _P
    words += x.view(np.uint64)
    return words


def padded(x: NDArray[np.int64]) -> Array:
    """Return the residues of integers with all axes padded with zeros to powers of two, flat."""
    whole = np.zeros([1 << (size - 1).bit_length() for size in x.shape], np.uint64)
    whole[tuple(slice(size) for size in x.shape)] = signed(x)
    return whole.reshape(-1)


def values(x: Array) -> NDArray[np.int64]:
    """Return the integers of least magnitude that are these residues: the inverse of `signed`."""
    least: Array = np.where(x > np.uint64(P // 2), x - _P, x)
    return least.view(np.int64)


def lift(x: Array) -> Array:
    """Return elements of F (…) as elements of K (…, 2)."""
    return np.stack([x, np.zeros_like(x)], axis=-1)


def array(elements: Iterable[K]) -> Array:
    """Return single elements as an array (n, 2)."""
    return np.array([(x.a, x.b) for x in elements], np.uint64).reshape(-1, 2)


def elements(x: Array) -> list[K]:
    """Return an array (n, 2) as single elements."""
    return [K(a, b) for a, b in x.tolist()]


def is_canonical(x: Array) -> bool:
    """Return whether all words are below p."""
    return bool((x < _P).all())


def reduce(high: Array, low: Array) -> Array:
    """Return (2^64 · high + low) mod p for any words: 2^64 = 2^32 − 1 and 2^96 = −1 modulo p."""
    top, middle = high >> _HALF, (high & _LOW) * _LOW
    rest = low - top
    rest -= (low < top) * _LOW
    middle += rest
    middle += (middle < rest) * _LOW
    middle -= (middle >= _P) * _P
    return middle


def add(x: Array, y: Array) -> Array:
    """Return x + y, of F or of K."""
    return sub(x, _P - y)


def sub(x: Array, y: Array) -> Array:
    """Return x − y, of F or of K."""
    out: Array = x - y
    out += (x < y) * _P
    return out


def mul(x: Array, y: Array) -> Array:
    """Return x · y in F, element by element."""
    a, b, c, d = x & _LOW, x >> _HALF, y & _LOW, y >> _HALF
    low, one, other, high = a * c, a * d, b * c, b * d
    other += low >> _HALF
    one += other & _LOW
    high += other >> _HALF
    high += one >> _HALF
    return reduce(high, low & _LOW | one << _HALF)


def mul_k(x: Array, y: Array) -> Array:
    """Return x · y in K, element by element: (…, 2) times (…, 2)."""
    a, b, c, d = x[..., 0], x[..., 1], y[..., 0], y[..., 1]
    first, last = mul(a, c), mul(b, d)
    both = mul(add(a, b), add(c, d))
    return np.stack([add(first, mul(last, _NON_RESIDUE)), sub(sub(both, first), last)], axis=-1)


def scale(x: Array, by: Array) -> Array:
    """Return elements of K (…, 2) times elements of F (…)."""
    return mul(x, by[..., None])


def total(x: Array, axis: int = 0) -> Array:
    """Return the sum along an axis, of fewer than 2^32 elements."""
    low, high = (half.sum(axis, np.uint64) for half in (x & _LOW, x >> _HALF))
    return _from_halves(low, high)


def total_at(places: NDArray[np.int64], x: Array, size: int) -> Array:
    """Return for each place below `size` the sum of the elements (n, …) that go there, fewer than 2^32."""
    low, high = (np.zeros((size, *x.shape[1:]), np.uint64) for _ in range(2))
    np.add.at(low, places, x & _LOW)
    np.add.at(high, places, x >> _HALF)
    return _from_halves(low, high)


def running(x: Array) -> Array:
    """Return for each place along axis 0 the sum up to it, of fewer than 2^32 elements."""
    low, high = (np.cumsum(half, 0, np.uint64) for half in (x & _LOW, x >> _HALF))
    return _from_halves(low, high)


def _from_halves(low: Array, high: Array) -> Array:
    """Return low + 2^32 · high, for any words."""
    return add(reduce(high >> _HALF, high << _HALF), reduce(np.zeros_like(low), low))


def power(base: int, count: int) -> Array:
    """Return 1, base, base² …: `count` powers in F, a power of two."""
    out = np.ones(1, np.uint64)
    while out.size < count:
        out = np.concatenate([out, mul(out, np.array([pow(base, out.size, P)], np.uint64))])
    return out


def generator(log: int) -> int:
    """Return the element that generates the group of order 2^log."""
    return pow(NON_RESIDUE, (P - 1) >> log, P)


def equality(point: Point) -> Array:
    """Return eq(point, x) for all x: 2^n elements of K for n coordinates."""
    weights: Array = equalities([point])[0]
    return weights


def equalities(points: Sequence[Point]) -> Array:
    """Return `equality` of m points of as many coordinates: (m, 2^n, 2)."""
    coordinates = array(one for point in points for one in point).reshape(len(points), len(points[0]), 1, 2)
    out = np.broadcast_to(array([ONE]), (len(points), 1, 2))
    for place in reversed(range(coordinates.shape[1])):
        upper = mul_k(out, coordinates[:, place])
        out = np.concatenate([sub(out, upper), upper], axis=1)
    return out


def evaluate(table: Array, point: Point) -> K:
    """Return the multilinear extension at a point, of 2^n elements of F (2^n,) or of K (2^n, 2)."""
    times = mul_k if table.ndim == 2 else scale
    half = len(point) // 2  # the last coordinates first, for all of the first ones: less weights
    weights = equality(point[half:])[None]
    rows = np.array_split(table.reshape(1 << half, -1, *table.shape[1:]), 1 << max(0, len(point) - _CACHED))
    inner = np.concatenate([total(times(weights, part), axis=1) for part in rows])
    return elements(total(mul_k(equality(point[:half]), inner))[None])[0]


def equal(x: Point, y: Point) -> K:
    """Return eq(x, y) for two points: Π (1 − x_i − y_i + 2 x_i y_i), in plain integers."""
    a, b = 1, 0
    for one, other in zip(x, y, strict=True):
        c = 1 - one.a - other.a + 2 * (one.a * other.a + NON_RESIDUE * one.b * other.b)
        d = 2 * (one.a * other.b + one.b * other.a) - one.b - other.b
        a, b = (a * c + NON_RESIDUE * b * d) % P, (a * d + b * c) % P
    return K(a, b)


def bits(number: int, count: int) -> list[K]:
    """Return a number's bits as coordinates, the most significant first."""
    return [K(number >> place & 1) for place in reversed(range(count))]


def transform(x: Array) -> Array:
    """Evaluate polynomials at a group, coefficients along axis 0; place k is at g to the power of k with bits reversed.

    Other axes are other polynomials; an axis of K's two parts is like any other, as points are in F.
    """
    size = x.shape[0]
    group = power(generator(size.bit_length() - 1), size)
    half = size // 2
    while half:
        blocks = x.reshape(-1, 2, half, *x.shape[1:])
        upper, lower = blocks[:, 0], blocks[:, 1]
        twiddles = group[: size // 2 : size // (2 * half)].reshape(half, *[1] * (x.ndim - 1))
        x = np.stack([add(upper, lower), mul(sub(upper, lower), twiddles)], axis=1).reshape(x.shape)
        half //= 2
    return x


def encode(x: Array, size: int | None = None) -> Array:
    """Return the Reed–Solomon code of 4 · size places along axis 0, in the order of leaves (docs/spec/proof.md).

    Its size is the number of coefficients (rate 1/4) unless it is said: a power of two, for any number of them.
    """
    size = size or x.shape[0]
    one = [1] * (x.ndim - 1)
    cut = np.zeros((-(-x.shape[0] // size), size, *x.shape[1:]), np.uint64)
    out = []
    for s in range(4):
        shifts = power(pow(generator(size.bit_length() + 1), s, P), x.shape[0])[: x.shape[0]]
        cut.reshape(-1, *x.shape[1:])[: x.shape[0]] = mul(x, shifts.reshape(-1, *one))
        out.append(transform(total(cut) if len(cut) > 1 else cut[0]))  # X^size is the same at all places of a coset
    return np.concatenate(out)
