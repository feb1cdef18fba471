"""Many claims on one array become one (docs/spec/proof.md, "Claims on one array").

The array may hold arrays of several sizes, each at a multiple of its size (`places`): then it is one commitment to all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mitai.errors import ProofError
from mitai.proof.field import ZERO, K, Point, bits, equal
from mitai.proof.transcript import Transcript, Verifier
from mitai.proof.verify import soundness
from mitai.proof.verify.sumcheck import check_product


@dataclass(frozen=True)
class Claim:
    """That the 2^len(point) elements from `offset` on have the multilinear extension `value` at `point`."""

    point: Point
    value: K
    offset: int = 0

    def full_point(self, log: int) -> list[K]:
        """Return the point within the whole array of 2^log elements."""
        size = 1 << len(self.point)
        if len(self.point) > log or self.offset % size or not 0 <= self.offset < 1 << log:
            raise ProofError("proof.statement-invalid", "a claim is on elements that the array does not have")
        return [*bits(self.offset // size, log - len(self.point)), *self.point]


def places(logs: Sequence[int]) -> tuple[list[int], int]:
    """Place arrays of 2^log elements one after the other, the largest first.

    Returns:
        The offset of each array, in the order given, and the log of the size of the whole.
    """
    offsets, at = [0] * len(logs), 0
    for index in sorted(range(len(logs)), key=lambda index: -logs[index]):
        offsets[index] = at
        at += 1 << logs[index]
    return offsets, max(at - 1, 0).bit_length()


def check_claims(transcript: Verifier, log: int, claims: Sequence[Claim]) -> Claim:
    """Check claims on one array of 2^log elements; return the one that is left, at a point of challenges."""
    if not claims:
        raise ProofError("proof.statement-invalid", "there are no claims to join")
    points = [claim.full_point(log) for claim in claims]
    bind_claims(transcript, claims)
    gamma = transcript.challenge("claims")
    transcript.error += soundness.joined(len(claims))
    value = powers_sum(gamma, [claim.value for claim in claims])
    point, f, e = check_product(transcript, value, [None] * log)
    error = ProofError("proof.claims-refuted", "claims on one array were not combined as drawn", step="claims")
    transcript.require_zero(e - powers_sum(gamma, [equal(one, point) for one in points]), error)
    return Claim(point, f)


def bind_claims(transcript: Transcript, claims: Sequence[Claim]) -> None:
    """Bind claims, before anything is drawn to combine them."""
    for claim in claims:
        transcript.bind("offset", claim.offset.to_bytes(8, "little"))
        transcript.bind_claim(claim.value, claim.point)


def powers_sum(base: K, terms: Sequence[K]) -> K:
    """Return terms[0] + base · terms[1] + base² · terms[2] and so on."""
    out = ZERO
    for term in reversed(terms):
        out = out * base + term
    return out
