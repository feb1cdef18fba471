"""The prover's half of sum-checks; `mitai.proof.verify.sumcheck` says what is shown (docs/spec/proof.md, "Sum-check").

Claims that are handed in must be true: from a wrong one comes a proof that is refused.

Example:
    >>> a, b = np.arange(4, dtype=np.uint64), np.ones(4, np.uint64)
    >>> point, value_a, value_b = prove_product(Prover(), a, b, K(6), [None, None])
    >>> value_a == field.evaluate(a, point)
    True
"""

from __future__ import annotations

from collections.abc import Sequence

from mitai.proof import field, kernels
from mitai.proof.field import ONE, ZERO, Array, K, P, Point
from mitai.proof.kernels import Pair
from mitai.proof.transcript import Prover
from mitai.proof.verify.sumcheck import HALF


def prove_rounds(
    transcript: Prover, pairs: Sequence[Pair], claim: K, weights: Sequence[K | None], *, own: bool = False
) -> tuple[list[K], list[tuple[K, K]]]:
    """Prove Σ_x w(x) Σ_j a_j(x) b_j(x) = claim.

    Args:
        transcript: where messages go.
        pairs: tables a_j and b_j of F or K, each of 2^len(weights) elements.
        claim: the sum.
        weights: for each variable z_i where w has the factor eq(z_i, x_i), or None where it has none.
        own: whether tables of K may be overwritten; a table must not be there twice then.

    Returns:
        The point r and the tables' extensions there, a pair of values for each pair. They were not sent.
    """
    transcript.bind_claim(claim, (one for one in weights if one is not None))
    point: list[K] = []
    left, times = _weights(weights[1:])
    for index, weight in enumerate(weights):
        at_one = weight == ZERO  # then the claim says nothing about the other half
        known, square = kernels.half_sums(pairs, left, upper=at_one)
        if left is not None and times != ONE:
            known, square = known * times, square * times
        if weight is None:
            linear = claim - known - known - square
        elif at_one:
            linear = known - claim - square
        else:
            linear = (claim - known) * weight.inverse() - square
        constant = claim if at_one else known
        transcript.send_elements("round", linear, square)
        r = transcript.challenge("round")
        claim = constant + r * (linear + r * square)
        pairs = [(kernels.fold(a, r, own=own), kernels.fold(b, r, own=own)) for a, b in pairs]
        own = True  # these were made here
        if left is not None and index + 1 < len(weights):
            left = kernels.halves_sum(left)
            times = times * HALF if weights[index + 1] is None else times
        point.append(r)
    return point, [(_only(a), _only(b)) for a, b in pairs]


def prove_batch(transcript: Prover, a: Array, b: Array, claim: K, rounds: int, *, work: int = 0) -> list[K]:
    """Prove Σ_x Σ_j a_j(x) b_j(x) = claim for tables (2^rounds, pairs) of K, flat; return the point.

    Before each challenge comes work of so many bits.
    """
    transcript.bind_claim(claim, [])
    point: list[K] = []
    for _ in range(rounds):
        known, square = kernels.half_sums([(a, b)], None, upper=False)
        linear = claim - known - known - square
        transcript.send_elements("round", linear, square)
        transcript.work(work)
        r = transcript.challenge("round")
        claim = known + r * (linear + r * square)
        a, b = (kernels.fold(table, r, own=True) for table in (a, b))
        point.append(r)
    return point


def prove_product(
    transcript: Prover, a: Array, b: Array, claim: K, weights: Sequence[K | None], *, own: bool = False
) -> tuple[list[K], K, K]:
    """Prove Σ_x w(x) a(x) b(x) = claim; return the point r, ã(r) and b̃(r), which were sent (see `prove_rounds`)."""
    point, [(value_a, value_b)] = prove_rounds(transcript, [(a, b)], claim, weights, own=own)
    transcript.send_elements("factors", value_a, value_b)
    return point, value_a, value_b


def prove_matmul(
    transcript: Prover, a: Array, b: Array, claim: K, *, batch: Point, row: Point, column: Point
) -> tuple[tuple[list[K], K], tuple[list[K], K]]:
    """Prove a claim on C = A B for a batch of matrices: that C̃(batch, row, column) = claim.

    Args:
        transcript: where messages go.
        a: (batch, rows, inner) of F, all powers of two.
        b: (batch, inner, columns) of F.
        claim: the value.
        batch: the coordinates of the batch's axes.
        row: those of rows of A.
        column: those of columns of B.

    Returns:
        The claims on A and on B: each a point and a value.
    """
    inner = a.shape[2]
    left = kernels.contract(a, kernels.equality(row)).reshape(-1, 2)
    right = kernels.contract(b.reshape(-1, b.shape[2], 1), kernels.equality(column)).reshape(-1, 2)
    weights = [*batch, *[None] * (inner.bit_length() - 1)]
    point, value_a, value_b = prove_product(transcript, left, right, claim, weights, own=True)
    which, k = point[: len(batch)], point[len(batch) :]
    return ([*which, *row, *k], value_a), ([*which, *k, *column], value_b)


def _weights(variables: Sequence[K | None]) -> tuple[Array | None, K]:
    """Return a table and a factor: weights of all bits of some variables; None where all of them are 1.

    A weight of 1 is 2 · eq(1/2, x).
    """
    free = sum(one is None for one in variables)
    if free == len(variables):
        return None, ONE
    return kernels.equality([HALF if one is None else one for one in variables]), K(pow(2, free, P))


def _only(table: Array) -> K:
    [value] = field.elements(table if table.ndim == 2 else field.lift(table))
    return value
