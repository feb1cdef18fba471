"""What a prover spends its time on: sums, folds and codes over the field F and its extension K.

Arrays are those of `mitai.proof.field`, which is also what runs here where there is nothing quicker: a "table" is an
array of 2^n elements of F (2^n,) or of K (2^n, 2). All results are the same bits on every path.

Example:
    >>> table = np.arange(4, dtype=np.uint64)
    >>> fold(table, field.K(5)).tolist()
    [[10, 0], [11, 0]]
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mitai.proof import field
from mitai.proof.field import Array, K, Point

Pair = tuple[Array, Array]


def equality(point: Point) -> Array:
    """Return eq(point, x) for all x, (2^n, 2)."""
    return field.equality(point)


def fold(table: Array, by: K) -> Array:
    """Bind the first variable of a table: lower half + by · (upper − lower half), (2^(n − 1), 2)."""
    lower, upper = _halves(table)
    factor = field.array([by])
    if table.ndim == 1:
        return field.add(field.lift(lower), field.scale(factor, field.sub(upper, lower)))
    return field.add(lower, field.mul_k(factor, field.sub(upper, lower)))


def half_sums(pairs: Sequence[Pair], weights: Array | None, *, upper: bool) -> tuple[K, K]:
    """Return Σ_x w(x) Σ_j a_j b_j over one half of the tables, and Σ_x w(x) Σ_j (difference of a_j's halves) (… b_j's).

    Args:
        pairs: tables a_j and b_j, all of 2^n elements.
        weights: (2^(n − 1), 2), or None for weights of 1.
        upper: whether the first sum is over the upper half, else over the lower one.
    """
    sums = []
    for pick in (lambda lower, higher: higher if upper else lower, lambda lower, higher: field.sub(higher, lower)):
        products = (_product(pick(*_halves(a)), pick(*_halves(b))) for a, b in pairs)
        whole = next(products)
        for product in products:
            whole = field.add(whole, product)
        sums.append(field.total(whole if weights is None else field.mul_k(whole, weights)))
    first, second = field.elements(np.stack(sums))
    return first, second


def halves_sum(weights: Array) -> Array:
    """Return the sum of both halves of a table: of weights eq(z, x), those without their first variable."""
    return field.add(*_halves(weights))


def add_multiple(table: Array, by: K, other: Array) -> Array:
    """Return table + by · other, in K."""
    return field.add(_lifted(table), field.mul_k(field.array([by]), _lifted(other)))


def add_fractions(p: Array, q: Array) -> Pair:
    """Return p_0 / q_0 + p_1 / q_1 for the halves of tables: p_0 q_1 + p_1 q_0 and q_0 q_1, in K."""
    (p0, p1), (q0, q1) = _halves(p), _halves(q)
    return field.add(_product(p0, q1), _product(p1, q0)), _product(q0, q1)


def contract(x: Array, weights: Array) -> Array:
    """Return Σ_i weights_i x[a, i, b] in K, (a, b, 2), for x of F (a, n, b) and weights (n, 2)."""
    return np.stack([field.total(field.mul(x, weights[:, part, None]), axis=1) for part in range(2)], axis=-1)


def encode(x: Array) -> Array:
    """Return the code of a matrix's rows: (2^b, rows) of F to (2^(b + 2), rows), as `field.encode`."""
    return field.encode(x)


def evaluate(table: Array, point: Point) -> K:
    """Return the multilinear extension of a table of F at a point."""
    rows = len(point) // 2
    inner = contract(table.reshape(1 << rows, -1, 1), equality(point[rows:]))
    return field.elements(field.total(field.mul_k(inner[:, 0], equality(point[:rows])))[None])[0]


def _halves(table: Array) -> Pair:
    half = len(table) // 2
    return table[:half], table[half:]


def _lifted(table: Array) -> Array:
    return field.lift(table) if table.ndim == 1 else table


def _product(a: Array, b: Array) -> Array:
    return field.mul_k(_lifted(a), _lifted(b))
