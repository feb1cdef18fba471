"""The prover's half of look-ups (docs/spec/proof.md, "Look-ups"); `mitai.proof.verify.lookups` says what is shown.

Example, without the commitments that a proof needs:
    >>> table = Table(np.arange(16))
    >>> column = Column((np.array([3, 3, 7]),), (3,))
    >>> claims, of_counts = prove_lookups(Prover(), [column], table, count([column], table))
    >>> [[claim.value == field.evaluate(column.arrays[0], claim.point) for claim in one] for one in claims]
    [[True]]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mitai.errors import ProofError
from mitai.proof import field, kernels
from mitai.proof.field import ONE, ZERO, Array, K
from mitai.proof.kernels import Pair
from mitai.proof.sumcheck import prove_rounds
from mitai.proof.transcript import Prover
from mitai.proof.verify.claims import Claim
from mitai.proof.verify.lookups import Table, bind_statement, logs


class Column:
    """Entries to look up: an array of integers for each component of the table.

    Attributes:
        shape: the true shape.
    """

    def __init__(self, components: Sequence[NDArray[np.int64]], shape: Sequence[int]) -> None:
        self.shape = tuple(shape)
        self.components = tuple(component.reshape(self.shape) for component in components)

    @cached_property
    def arrays(self) -> tuple[Array, ...]:
        """The residues, each padded with zeros to powers of two and flat."""
        return tuple(field.padded(component) for component in self.components)

    @property
    def inside(self) -> Array:
        """1 within the true shape, 0 in the padding."""
        ones = np.zeros([1 << log for log in logs(self.shape)], np.uint64)
        ones[tuple(slice(size) for size in self.shape)] = 1
        return ones.reshape(-1)


def count(columns: Sequence[Column], table: Table) -> Array:
    """Return how often each entry of a table is looked up, as elements of F; refuse entries that it does not have."""
    counts = np.zeros(1 << table.log, np.int64)
    for column in columns:
        places = column.components[0].reshape(-1) - table.lo
        if len(column.components) != len(table.components) or not ((places >= 0) & (places < table.size)).all():
            raise ProofError("proof.not-in-table", "a number to look up is not in the table")
        for values, looked in zip(table.components, column.components, strict=True):
            if (field.values(values)[places] != looked.reshape(-1)).any():
                raise ProofError("proof.not-in-table", "a number is not what the table has for another")
        counts += np.bincount(places, minlength=len(counts))
    return counts.astype(np.uint64)


def prove_lookups(
    transcript: Prover, columns: Sequence[Column], table: Table, counts: Array, work: int = 0
) -> tuple[list[list[Claim]], Claim]:
    """Prove that all entries of columns are in a table.

    Args:
        transcript: where messages go; columns and counts are committed to, and their roots bound.
        columns: what is looked up.
        table: the table.
        counts: how often each of its entries is, as `count` returns.
        work: how many bits of it come before the challenges.

    Returns:
        For each column a claim for each component, as an array of its own (offset 0); then the claim on counts.
    """
    offsets, log = bind_statement(transcript, [column.shape for column in columns], table)
    transcript.work(work)
    alpha, beta = transcript.challenges("look-ups", 2)
    numerators = np.zeros(1 << log, np.uint64)
    parts = [slice(offset, offset + len(column.arrays[0])) for column, offset in zip(columns, offsets, strict=True)]
    for column, part in zip(columns, parts, strict=True):
        numerators[part] = column.inside

    def denominators() -> Array:
        out = np.empty((1 << log, 2), np.uint64)
        out[...] = field.array([alpha])
        for column, part in zip(columns, parts, strict=True):
            _subtract_entries(alpha, beta, column.arrays, out[part])
        return out

    point = prove_fractions(transcript, numerators, denominators)
    claims = []
    for column in columns:
        own = point[log - sum(logs(column.shape)) :]
        claims.append([Claim(own, kernels.evaluate(one, own)) for one in column.arrays])
    transcript.send_elements("columns", *(claim.value for one in claims for claim in one))
    point = prove_fractions(transcript, counts, lambda: _subtract_entries(alpha, beta, table.components))
    return claims, Claim(point, kernels.evaluate(counts, point))


def _subtract_entries(alpha: K, beta: K, components: Sequence[Array], out: Array | None = None) -> Array:
    """Return α − x_0 − β x_1 − β² x_2 and so on."""
    factors = [ZERO - ONE]
    for _ in components[1:]:
        factors.append(factors[-1] * beta)
    return kernels.combine(alpha, factors, components, out)


def prove_fractions(transcript: Prover, p: Array, denominators: Callable[[], Array]) -> list[K]:
    """Prove the sum of fractions p / q, which is sent; return the point at which the leaves are claimed.

    Args:
        transcript: where messages go.
        p: numerators, of F.
        denominators: makes q, of K, twice: at the top of the tree the leaves' would be in the way.
    """
    layer, above = (p, denominators()), list[Pair]()
    while len(layer[1]) > 1:
        layer = kernels.add_fractions(*layer)
        above.append(layer)
    (top,), (bottom,) = (field.elements(x if x.ndim == 2 else field.lift(x)) for x in layer)
    transcript.send_elements("sum", top, bottom)
    point: list[K] = []
    while above:
        above.pop()
        numerators, q = above[-1] if above else (p, denominators())
        half = len(q) // 2
        by = transcript.challenge("layer")
        upper = numerators[half:] if numerators.ndim == 2 else None
        mixture = kernels.add_multiple(numerators[half:], by, q[half:], upper)
        pairs = [(numerators[:half], q[half:]), (q[:half], mixture)]
        left, [(p0, q1), (q0, mixed)] = prove_rounds(transcript, pairs, top + by * bottom, point, own=True)
        p1 = mixed - by * q1
        transcript.send_elements("halves", p0, p1, q0, q1)
        r = transcript.challenge("half")
        point = [r, *left]
        top, bottom = p0 + r * (p1 - p0), q0 + r * (q1 - q0)
    return point
