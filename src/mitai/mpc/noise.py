"""Random numbers of other distributions than the uniform one, from the operating system's generator.

Example:
    >>> gumbel((2, 3)).shape
    (2, 3)
"""

from __future__ import annotations

import math
import secrets

import numpy as np

from mitai.mpc.ring import Real


def gumbel(shape: tuple[int, ...]) -> Real:
    """Draw from the standard Gumbel distribution, between -3.7 and 37."""
    words = np.frombuffer(secrets.token_bytes(8 * math.prod(shape)), np.uint64).reshape(shape)
    uniform = ((words >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53
    return np.asarray(-np.log(-np.log(uniform)), np.float64)
