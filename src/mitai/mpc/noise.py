"""Random numbers of other distributions than the uniform one: the same bits on every machine, from the same bytes.

Example:
    >>> gumbel((2, 3)).shape
    (2, 3)
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable

import numpy as np

from mitai.mpc.reproducible import log
from mitai.mpc.ring import Real


def gumbel(shape: tuple[int, ...], draw: Callable[[int], bytes] = secrets.token_bytes) -> Real:
    """Draw from the standard Gumbel distribution, between -3.7 and 37, out of so many random bytes."""
    words = np.frombuffer(draw(8 * math.prod(shape)), np.uint64).reshape(shape)
    uniform = ((words >> np.uint64(12)).astype(np.float64) + 0.5) / 2.0**52  # exact, so never 0 or 1
    return -log(-log(uniform))
