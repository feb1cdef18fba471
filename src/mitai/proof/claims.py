"""The prover's half of joining claims on one array (docs/spec/proof.md, "Claims on one array")."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mitai.proof import field, kernels
from mitai.proof.field import ONE, Array, K, Point
from mitai.proof.sumcheck import prove_product
from mitai.proof.transcript import Prover
from mitai.proof.verify.claims import Claim, bind_claims, powers_sum

LOG_PART = 15


def prove_claims(transcript: Prover, array: Array, claims: Sequence[Claim]) -> Claim:
    """Join claims on an array of 2^n elements of F into the one that is returned, at a point of challenges."""
    log = len(array).bit_length() - 1
    bind_claims(transcript, claims)
    gamma = transcript.challenge("claims")
    weights = np.zeros((len(array), 2), np.uint64)
    by = ONE
    for claim in claims:
        _add_equality(weights[claim.offset : claim.offset + (1 << len(claim.point))], by, claim.point)
        by = by * gamma
    value = powers_sum(gamma, [claim.value for claim in claims])
    point, f, _ = prove_product(transcript, array, weights, value, [None] * log, own=True)
    return Claim(point, f)


def _add_equality(weights: Array, by: K, point: Point) -> None:
    """Add by · eq(point, x), part by part, each of which is a multiple of one that stays in the cache."""
    outer, inner = point[:-LOG_PART], point[-LOG_PART:]
    part = kernels.equality(inner)
    for start, factor in zip(range(0, len(weights), len(part)), field.elements(kernels.equality(outer)), strict=True):
        own = weights[start : start + len(part)]
        kernels.add_multiple(own, by * factor, part, own)
