"""Secrets cut in two by their owners, and put together by those who may read a result.

Example:
    >>> from mitai.mpc.ring import encode
    >>> values = encode([1.5, -2.0])
    >>> bool((join(*split(values)) == values).all())
    True
"""

from __future__ import annotations

import secrets

import numpy as np

from mitai.mpc import kernels
from mitai.mpc.ring import Ring


def split(values: Ring) -> tuple[Ring, Ring]:
    """Return two arrays of which each by itself is uniformly random, and that add up to the values."""
    first = kernels.prg(secrets.token_bytes(16), 0, 0, values.size).reshape(values.shape)
    return first, np.subtract(values, first, out=np.empty(values.shape, np.uint64))


def join(first: Ring, second: Ring) -> Ring:
    """Add up both parties' shares."""
    if first.shape != second.shape:
        raise ValueError(f"shares of shapes {first.shape} and {second.shape}")
    return np.add(first, second, out=np.empty(first.shape, np.uint64))
