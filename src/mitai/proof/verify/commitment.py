"""Commitments to arrays, and openings at a point (docs/spec/proof.md, "Commitments").

- Work and length of an opening follow from the array's size and the number of claims alone.
- Rows are combined with challenges that were drawn after the root was bound.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from operator import mul

import numpy as np
from numpy.typing import NDArray

from mitai.errors import ProofError
from mitai.proof import field
from mitai.proof.field import ONE, ZERO, Array, K
from mitai.proof.transcript import HASH_BYTES, Transcript, Verifier
from mitai.proof.verify import soundness
from mitai.proof.verify.claims import Claim, bind_claims, powers_sum
from mitai.proof.verify.soundness import LOG_BLOWUP, QUERIES
from mitai.proof.verify.sumcheck import check_rounds

MAX_LOG = 34
LEAF, NODE = b"\x00", b"\x01"  # first bytes of what is hashed


@dataclass(frozen=True)
class Shape:
    """How an array of 2^log elements is a matrix: 2^positions by 2^rows, whose rows are encoded."""

    positions: int
    rows: int

    @classmethod
    def of(cls, log: int) -> Shape:
        """Return the shape for a size."""
        if not 0 <= log <= MAX_LOG:
            raise ProofError("proof.statement-invalid", f"arrays of up to 2^{MAX_LOG} elements can be committed to")
        rows = max(0, (log - 6) // 2)
        return cls(log - rows, rows)

    @property
    def leaves(self) -> int:
        """The log of the number of encoded columns."""
        return self.positions + LOG_BLOWUP


def bind_root(transcript: Transcript, root: bytes, log: int) -> None:
    """Take in a root that the verifier knows, before anything is drawn that its opening depends on."""
    transcript.bind("commitment", bytes([log]) + root)


def check_openings(transcript: Verifier, root: bytes, log: int, claims: Sequence[Claim], work: int = 0) -> None:
    """Check claims on an array of 2^log elements behind a root, which was bound before anything of them was drawn.

    Work of so many bits comes before each challenge for a row, and before the places of columns.

    1. A challenge γ combines the claims: Σ_i γ^i Σ_c eq(outer_i, c) Σ_r eq(inner_i, r) f(c, r) is known.
    2. A sum-check over r leaves a point of challenges, at which the rows are combined.
    3. The prover says the combination; with it the sum has the value that is left.
    4. The combination is encoded, and compared with columns of the commitment.
    """
    shape = Shape.of(log)
    # 1. and 2. one claim, and one point
    rows, left, factors = check_fold(transcript, log, shape.positions, claims, work)
    # 3. what is left
    combined = transcript.receive_k("combination", 1 << shape.positions)
    values = _values(combined, claims, log, shape.positions)
    if sum(map(mul, factors, values), ZERO) != left:
        raise ProofError("proof.value-refuted", "a committed array has another value at a point", step="opening")
    # 4. the combination
    transcript.work(work)
    places = transcript.places("columns", QUERIES, shape.leaves)
    columns = transcript.receive("columns", len(places) << shape.rows).reshape(len(places), 1 << shape.rows)
    expected = field.encode(combined)[places]
    if not np.array_equal(field.total(field.scale(field.equality(rows), columns), axis=1), expected):
        raise ProofError("proof.column-refuted", "an encoded column is not a part of the combination", step="opening")
    _check_leaves(transcript, root, shape.leaves, places, columns)
    transcript.error += soundness.opening(shape.positions, shape.rows) / (1 << work)


def check_fold(
    transcript: Verifier, log: int, positions: int, claims: Sequence[Claim], work: int = 0
) -> tuple[list[K], K, list[K]]:
    """Check claims on a matrix of 2^positions by 2^(log − positions), whose rows are folded.

    Work of so many bits comes before each challenge for a row.

    Returns:
        A point of challenges at which rows are combined; then a value, and for each claim a factor: what is left to
        show is that the combination's values at the claims' positions, each times its factor, add up to the value.
    """
    if not claims:
        raise ProofError("proof.statement-invalid", "there are no claims to open")
    points = [claim.full_point(log)[positions:] for claim in claims]
    bind_claims(transcript, claims)
    gamma = transcript.challenge("claims")
    transcript.error += soundness.joined(len(claims))
    value = powers_sum(gamma, [claim.value for claim in claims])
    rows, left = check_rounds(transcript, value, [None] * (log - positions), work)
    factors, by = [], ONE
    for point in points:
        factors.append(by * field.equal(point, rows))
        by = by * gamma
    return rows, left, factors


def functional(claims: Sequence[Claim], factors: Sequence[K], log: int, positions: int) -> Array:
    """Return what the combination is multiplied with for the sum of its values, each times its factor."""
    out = np.zeros((1 << positions, 2), np.uint64)
    for chosen, places, weights in _parts(claims, log, positions):
        scaled = field.mul_k(weights, field.array([factors[number] for number in chosen])[:, None])
        part = field.total_at(places.reshape(-1), scaled.reshape(-1, 2), len(out))
        out = field.add(out, part)
    return out


def _values(combined: Array, claims: Sequence[Claim], log: int, positions: int) -> list[K]:
    """Return the combination's multilinear extension at each claim's position."""
    values = [ZERO] * len(claims)
    for chosen, places, weights in _parts(claims, log, positions):
        found = field.elements(field.total(field.mul_k(weights, combined[places]), axis=1))
        for number, value in zip(chosen, found, strict=True):
            values[number] = value
    return values


def _parts(claims: Sequence[Claim], log: int, positions: int) -> Iterator[tuple[list[int], NDArray[np.int64], Array]]:
    """Return positions and their weights for each claim, those with as many free bits of a position together."""
    rows = log - positions
    free = [max(len(claim.point) - rows, 0) for claim in claims]
    for count in set(free):
        chosen = [number for number, one in enumerate(free) if one == count]
        starts = np.array([claims[number].offset >> rows for number in chosen])
        points = [claims[number].full_point(log)[positions - count : positions] for number in chosen]
        yield chosen, starts[:, None] + np.arange(1 << count), field.equalities(points)


def _check_leaves(transcript: Verifier, root: bytes, log: int, places: list[int], columns: Array) -> None:
    """Check that columns are leaves of the tree, at the given places in order."""
    check_paths(transcript, root, log, dict(zip(places, leaf_hashes(columns), strict=True)))


def leaf_hashes(columns: Array) -> list[bytes]:
    """Return the hash of each of some columns (n, rows)."""
    return [sha256(LEAF + column.astype("<u8").tobytes()).digest() for column in columns]


def check_paths(transcript: Verifier, root: bytes, log: int, known: dict[int, bytes]) -> None:
    """Check hashes of leaves, by their places in order, against the root of a tree of 2^log leaves."""
    for _ in range(log):
        missing = [place ^ 1 for place in known if place ^ 1 not in known]
        said = transcript.receive_bytes("path", len(missing) * HASH_BYTES)
        known |= {place: said[HASH_BYTES * i : HASH_BYTES * (i + 1)] for i, place in enumerate(missing)}
        known = {
            place >> 1: sha256(NODE + known[place] + known[place ^ 1]).digest()
            for place in sorted(known)
            if place % 2 == 0
        }
    if known[0] != root:
        raise ProofError("proof.path-refuted", "columns are not in the tree of the commitment", step="opening")
