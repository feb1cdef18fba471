"""The prover's half of commitments: an array is encoded and hashed, and opened at points (docs/spec/proof.md).

Example:
    >>> array = np.arange(1024, dtype=np.uint64)
    >>> committed = commit(array)
    >>> prover = Prover()
    >>> bind_root(prover, committed.root, 10)
    >>> point = prover.challenges("point", 10)
    >>> claim = Claim(point, field.evaluate(array, point))
    >>> open_claims(prover, committed, [claim])
    >>> verifier = Verifier(prover.proof)
    >>> bind_root(verifier, committed.root, 10)
    >>> verifier.challenges("point", 10) == point
    True
    >>> check_openings(verifier, committed.root, 10, [claim])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field as member

import numpy as np
from numpy.typing import NDArray

from mitai.proof import kernels
from mitai.proof.field import ONE, Array
from mitai.proof.sumcheck import prove_batch
from mitai.proof.transcript import HASH_BYTES, Prover
from mitai.proof.verify.claims import Claim, bind_claims, powers_sum
from mitai.proof.verify.commitment import LEAF, NODE, Shape
from mitai.proof.verify.soundness import QUERIES


@dataclass(frozen=True)
class Commitment:
    """A root, and what its prover keeps: four times the array, and the tree.

    Attributes:
        root: what the verifier gets.
        array: the 2^log elements of F.
        code: the encoded columns (leaves, rows).
        levels: hashes of the tree, from the leaves up to the root.
    """

    root: bytes
    array: Array = member(repr=False)
    code: Array = member(repr=False)
    levels: list[NDArray[np.uint8]] = member(repr=False)

    @property
    def log(self) -> int:
        """The log of the array's size."""
        return len(self.array).bit_length() - 1


def commit(array: Array) -> Commitment:
    """Commit to an array of 2^n elements of F."""
    shape = Shape.of(len(array).bit_length() - 1)
    code = kernels.encode(array.reshape(1 << shape.positions, 1 << shape.rows))
    levels = tree(code)
    return Commitment(levels[-1].tobytes(), array, code, levels)


def tree(code: Array) -> list[NDArray[np.uint8]]:
    """Return the hashes of a tree over encoded columns (leaves, rows), from the leaves up to the root, (n, 32) each."""
    return tree_over(column_hashes(code))


def column_hashes(code: Array) -> NDArray[np.uint8]:
    """Return the hashes of encoded columns (leaves, rows), as (leaves, 32)."""
    return kernels.hashes(LEAF, np.ascontiguousarray(code.astype("<u8", copy=False)).view(np.uint8))


def tree_over(leaves: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """Return the levels of a tree over hashes (2^n, 32)."""
    levels = [leaves]
    while len(levels[-1]) > 1:
        levels.append(kernels.hashes(NODE, levels[-1].reshape(-1, 2 * HASH_BYTES)))
    return levels


def open_claims(transcript: Prover, commitment: Commitment, claims: Sequence[Claim]) -> None:
    """Show true claims on the array (`check_openings`)."""
    shape = Shape.of(commitment.log)
    size = 1 << shape.rows
    matrix = commitment.array.reshape(1, 1 << shape.positions, size)
    bind_claims(transcript, claims)
    gamma = transcript.challenge("claims")
    count = 1 << (len(claims) - 1).bit_length()
    sums, weights = np.zeros((2, size, count, 2), np.uint64)
    by, nothing = ONE, np.zeros(size, np.uint64)
    for i, claim in enumerate(claims):
        point = claim.full_point(commitment.log)
        own = max(len(claim.point) - shape.rows, 0)
        first = claim.offset >> shape.rows
        outer = kernels.equality(point[shape.positions - own : shape.positions])
        sums[:, i] = kernels.contract(matrix[:, first : first + (1 << own)], outer)[0]
        weights[:, i] = kernels.add_multiple(nothing, by, kernels.equality(point[shape.positions :]))
        by = by * gamma
    value = powers_sum(gamma, [claim.value for claim in claims])
    rows = prove_batch(transcript, sums.reshape(-1, 2), weights.reshape(-1, 2), value, shape.rows)
    columns = commitment.array.reshape(1 << shape.positions, size, 1)
    transcript.send("combination", kernels.contract(columns, kernels.equality(rows))[:, 0])
    places = transcript.places("columns", QUERIES, shape.leaves)
    transcript.send("columns", commitment.code[places])
    send_paths(transcript, commitment.levels, places)


def send_paths(transcript: Prover, levels: Sequence[NDArray[np.uint8]], places: Sequence[int]) -> None:
    """Say what is missing for the root of a tree, beside its leaves at some places."""
    for level in levels[:-1]:
        missing = sorted({place ^ 1 for place in places} - set(places))
        transcript.send_bytes("path", level[missing].tobytes())
        places = sorted({place >> 1 for place in places})
