"""The prover's half of look-ups (docs/spec/proof.md, "Look-ups"); `mitai.proof.verify.lookups` says what is shown.

Example, without the commitments that a proof needs:
    >>> table = Table(np.arange(16))
    >>> column = Column((np.array([3, 3, 7]),), (3,))
    >>> claims, of_counts = prove_lookups(Prover(), [column], table, count([column], table))
    >>> [[claim.value == field.evaluate(column.arrays[0], claim.point) for claim in one] for one in claims]
    [[True]]
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mitai.errors import ProofError
from mitai.proof import field, kernels
from mitai.proof.field import ONE, Array, K
from mitai.proof.sumcheck import prove_rounds
from mitai.proof.transcript import Prover
from mitai.proof.verify.claims import Claim
from mitai.proof.verify.lookups import Table, bind_statement, logs


class Column:
    """Entries to look up: an array of integers for each component of the table.

    Attributes:
        shape: the true shape.
        arrays: the residues, each padded with zeros to powers of two and flat.
    """

    def __init__(self, components: Sequence[NDArray[np.int64]], shape: Sequence[int]) -> None:
        self.shape = tuple(shape)
        padding = [(0, (1 << log) - size) for size, log in zip(self.shape, logs(self.shape), strict=True)]
        self.components = tuple(component.reshape(self.shape) for component in components)
        self.arrays = tuple(field.signed(np.pad(component, padding)).reshape(-1) for component in self.components)

    @property
    def inside(self) -> Array:
        """1 within the true shape, 0 in the padding."""
        ones = np.zeros([1 << log for log in logs(self.shape)], np.uint64)
        ones[tuple(slice(size) for size in self.shape)] = 1
        return ones.reshape(-1)


def count(columns: Sequence[Column], table: Table) -> Array:
    """Return how often each entry of a table is looked up, as elements of F; refuse entries that it does not have."""
    entries = np.stack([field.values(component) for component in table.components], axis=-1)
    places = {tuple(entry): place for place, entry in reversed(list(enumerate(entries.tolist())))}
    counts = np.zeros(1 << table.log, np.uint64)
    for column in columns:
        looked = np.stack([component.reshape(-1) for component in column.components], axis=-1)
        different, often = np.unique(looked, axis=0, return_counts=True)
        try:
            counts[[places[tuple(entry)] for entry in different.tolist()]] += often.astype(np.uint64)
        except KeyError as error:
            raise ProofError("proof.not-in-table", "a number to look up is not in the table") from error
    return counts


def prove_lookups(
    transcript: Prover, columns: Sequence[Column], table: Table, counts: Array
) -> tuple[list[list[Claim]], Claim]:
    """Prove that all entries of columns are in a table.

    Args:
        transcript: where messages go; columns and counts are committed to, and their roots bound.
        columns: what is looked up.
        table: the table.
        counts: how often each of its entries is, as `count` returns.

    Returns:
        For each column a claim for each component, as an array of its own (offset 0); then the claim on counts.
    """
    offsets, log = bind_statement(transcript, [column.shape for column in columns], table)
    alpha, beta = transcript.challenges("look-ups", 2)
    numerators = np.zeros(1 << log, np.uint64)
    entries = np.zeros((1 << log, 2), np.uint64)
    for column, offset in zip(columns, offsets, strict=True):
        part = slice(offset, offset + len(column.arrays[0]))
        numerators[part] = column.inside
        entries[part] = _entries(column.arrays, beta)
    point = prove_fractions(transcript, numerators, _below(alpha, entries))
    claims = []
    for column in columns:
        own = point[log - sum(logs(column.shape)) :]
        claims.append([Claim(own, kernels.evaluate(one, own)) for one in column.arrays])
    transcript.send_elements("columns", *(claim.value for one in claims for claim in one))
    point = prove_fractions(transcript, counts, _below(alpha, _entries(table.components, beta)))
    return claims, Claim(point, kernels.evaluate(counts, point))


def _entries(components: Sequence[Array], beta: K) -> Array:
    """Return x_0 + β x_1 + β² x_2 and so on."""
    by, out = ONE, field.lift(components[0])
    for component in components[1:]:
        by = by * beta
        out = kernels.add_multiple(out, by, component)
    return out


def _below(alpha: K, entries: Array) -> Array:
    """Return α − x for all entries x."""
    return field.sub(field.array([alpha]), entries)


def prove_fractions(transcript: Prover, p: Array, q: Array) -> list[K]:
    """Prove the sum of fractions p / q, which is sent; return the point at which the leaves are claimed."""
    layers = [(p, q)]
    while len(layers[-1][1]) > 1:
        layers.append(kernels.add_fractions(*layers[-1]))
    (top,), (bottom,) = (field.elements(x if x.ndim == 2 else field.lift(x)) for x in layers.pop())
    transcript.send_elements("sum", top, bottom)
    point: list[K] = []
    while layers:
        p, q = layers.pop()
        half = len(q) // 2
        by = transcript.challenge("layer")
        pairs = [(p[:half], q[half:]), (q[:half], kernels.add_multiple(p[half:], by, q[half:]))]
        left, [(p0, q1), (q0, mixed)] = prove_rounds(transcript, pairs, top + by * bottom, point)
        p1 = mixed - by * q1
        transcript.send_elements("halves", p0, p1, q0, q1)
        r = transcript.challenge("half")
        point = [r, *left]
        top, bottom = p0 + r * (p1 - p0), q0 + r * (q1 - q0)
    return point
