"""Attention of all heads at once, with a cache of keys and values that grows by blocks (`docs/spec/mpc.md`, "Models").

Which places a place sees is public; how long each prompt really is within its bucket is not: a client's secret bits
say which places are padding.

Invariants:

- The length of the cache is a multiple of `CONTEXT`, so that all but one in `CONTEXT` steps have the same shapes.
- Queries go in blocks of `QUERIES`, or fewer where that makes more than `SCORES` scores: memory for scores is bounded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mitai.mpc.engine import Secret, concatenate
from mitai.mpc.nonlinear import REACH, Mask, quad_softmax, read, softmax

CONTEXT = 64
QUERIES = 128
SCORES = 1 << 20  # at a time


@dataclass(frozen=True)
class Attention:
    """What is public of it.

    Attributes:
        heads: Of the queries.
        groups: Heads of keys and values; a divisor of `heads`.
        shift: Scores are divided by 2^shift; the rest of 1 / sqrt(size) is in the weights (`query_scale`).
        reach: Scores are within ± this.
        quad: Whether MPCFormer's 2Quad stands in for softmax.
    """

    heads: int
    groups: int
    shift: int
    reach: float = REACH
    quad: bool = False

    def __call__(
        self, queries: Secret, keys: Secret, values: Secret, visible: Mask | None = None, hidden: Secret | None = None
    ) -> Secret:
        """Return what each place gets.

        Args:
            queries: [batch, heads, n, size].
            keys: [batch, groups, m, size].
            values: The same.
            visible: [n, m], which places each sees.
            hidden: [batch, m], bits that are 1 where nobody sees a place.

        Returns:
            [batch, n, heads · size], with all bits of its fraction: the layer that follows cuts its own product back.
        """
        (batch, heads, n, _), m = queries.shape, keys.shape[2]
        size = max(min(QUERIES, SCORES // (batch * heads * m)), 1)
        blocks = []
        for start in range(0, n, size):
            rows = slice(start, min(start + size, n))
            seen = None if visible is None else visible[rows]
            end = m if seen is None or n <= size else int(np.flatnonzero(seen.any(0))[-1]) + 1
            blocks.append(
                self._rows(
                    queries[:, :, rows],
                    keys[:, :, :end],
                    values[:, :, :end],
                    None if seen is None else seen[:, :end],
                    None if hidden is None else hidden[:, :end],
                )
            )
        return concatenate(blocks, 1)

    def _rows(
        self, queries: Secret, keys: Secret, values: Secret, visible: Mask | None, hidden: Secret | None
    ) -> Secret:
        batch, heads, n, size = queries.shape
        shared = heads // self.groups  # queries' heads that have the same keys stand as rows below one another
        queries = queries.reshape(batch, self.groups, shared * n, size)
        engine = queries.engine
        products = engine.matmul(read(queries, 0), read(keys, 0).swap())
        scores = read(products, queries.fraction + keys.fraction + self.shift)
        if hidden is not None:
            hidden = hidden.reshape(batch, 1, 1, -1)
        if visible is not None:
            visible = np.tile(visible, (shared, 1))
        if self.quad:
            shares = quad_softmax(engine.truncate(scores), visible, hidden)
        else:
            shares = softmax(scores, visible, hidden, self.reach)
        got = read(engine.matmul(read(shares, 0), read(values, 0)), shares.fraction + values.fraction)
        got = got.reshape(batch, heads, n, size)
        return got.transpose(0, 2, 1, 3).reshape(batch, n, heads * size)


def query_scale(size: int) -> tuple[float, int]:
    """Return a factor for the weights of queries, in [1, 2), and a shift, which together make 1 / sqrt(size)."""
    shift = ((size - 1).bit_length() + 1) // 2
    return 2.0**shift / math.sqrt(size), shift


def split_heads(x: Secret, heads: int) -> Secret:
    """Return [batch, n, heads · size] as [batch, heads, n, size]."""
    batch, n, width = x.shape
    return x.reshape(batch, n, heads, width // heads).transpose(0, 2, 1, 3)


def place(cache: Secret | None, new: Secret, at: int) -> Secret:
    """Return a cache [batch, heads, length, size] with new places from `at` on, lengthened by zeros where needed."""
    batch, heads, n, size = new.shape
    length = -(-(at + n) // CONTEXT) * CONTEXT
    rest = new[:, :, :1].times(0).broadcast_to((batch, heads, length - at - n, size))
    return concatenate((new, rest) if cache is None else (cache[:, :, :at], new, rest), 2)


def causal(n: int, m: int, at: int = 0) -> Mask:
    """Return [n, m]: which of m places the n places from `at` on see."""
    return np.arange(m)[None, :] <= at + np.arange(n)[:, None]
