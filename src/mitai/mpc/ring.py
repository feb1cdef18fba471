"""Fixed-point numbers in the ring of integers modulo 2^64 (`docs/spec/mpc.md`, "Numbers").

A real number x stands as round(x · 2^fraction), negative ones in two's complement. Sums and products of such integers
are numpy's own on `uint64`, which wrap around; a product has the fractions of both factors added.

Example:
    >>> decode(encode(-1.5))
    array(-1.5)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Ring = NDArray[np.uint64]
Real = NDArray[np.float64]

FRACTION_BITS = 16
WINDOW_BITS = 31  # a number at rest, fraction included, lies in [-2^30, 2^30): +-16384 with 16 bits of fraction


def encode(values: ArrayLike, fraction: int = FRACTION_BITS) -> Ring:
    """Return real numbers of magnitude below 2^(63 - fraction) as ring elements, rounded to the nearest."""
    scaled = np.array(values, np.float64, order="C")
    scaled *= 2.0**fraction
    np.rint(scaled, out=scaled)
    return scaled.astype(np.int64).view(np.uint64)


def decode(values: Ring, fraction: int = FRACTION_BITS) -> Real:
    """Return the real numbers that ring elements stand for."""
    return np.asarray(values, np.uint64).view(np.int64).astype(np.float64) / 2.0**fraction
