"""Sum-checks (docs/spec/proof.md, "Sum-check"): a claim on a sum becomes a claim on one term at a random point.

- Every sum is over bits of products of two arrays, weighted by eq in some of the bits: two numbers a round.
- The functions return claims that hold if what they were given holds, but for the error that they add.
"""

from __future__ import annotations

from collections.abc import Sequence

from mitai.errors import ProofError
from mitai.proof.field import ONE, K, P, Point
from mitai.proof.transcript import Verifier
from mitai.proof.verify import soundness

HALF = K((P + 1) // 2)


def check_rounds(transcript: Verifier, claim: K, weights: Sequence[K | None], work: int = 0) -> tuple[list[K], K]:
    """Check Σ_x w(x) g(x) = claim for some g of degree 2 in each variable.

    Args:
        transcript: where the messages come from.
        claim: the value of the sum.
        weights: for each variable z_i where w has the factor eq(z_i, x_i), or None where it has none.
        work: how many bits of it come before each challenge.

    Returns:
        The point r, and the value that g(r) has if the claim is true.
    """
    transcript.bind_claim(claim, (one for one in weights if one is not None))
    point: list[K] = []
    for weight in weights:
        linear, square = transcript.receive_elements("round", 2)
        transcript.work(work)
        r = transcript.challenge("round")
        share, z = (HALF, HALF) if weight is None else (ONE, weight)  # t(0) = share · claim − z · (t(1) − t(0))
        claim = transcript.weighted((share, claim), (r - z, linear), (r * r - z, square))
        point.append(r)
    transcript.error += soundness.rounds(len(weights))
    return point, claim


def check_product(transcript: Verifier, claim: K, weights: Sequence[K | None]) -> tuple[list[K], K, K]:
    """Check Σ_x w(x) a(x) b(x) = claim.

    Returns:
        The point r, and ã(r) and b̃(r) as the prover says: two claims.
    """
    point, value = check_rounds(transcript, claim, weights)
    a, b = transcript.receive_elements("factors", 2)
    error = ProofError("proof.product-refuted", "a sum of products is not what was claimed", step="sum-check")
    transcript.require_zero(a * b - value, error)
    return point, a, b


def check_matmul(
    transcript: Verifier, claim: K, *, batch: Point, row: Point, column: Point, inner: int
) -> tuple[tuple[list[K], K], tuple[list[K], K]]:
    """Check a claim on C = A B for a batch of matrices: that C̃(batch, row, column) = claim.

    Args:
        transcript: where the messages come from.
        claim: the value.
        batch: the coordinates of the batch's axes.
        row: those of rows of A.
        column: those of columns of B.
        inner: the number of bits of the inner axis.

    Returns:
        The claims on A (batch, rows, inner) and B (batch, inner, columns): each a point and a value.
    """
    point, a, b = check_product(transcript, claim, [*batch, *[None] * inner])
    which, k = point[: len(batch)], point[len(batch) :]
    return ([*which, *row, *k], a), ([*which, *k, *column], b)
