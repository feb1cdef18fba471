"""The prover's half of joining claims on one array (docs/spec/proof.md, "Claims on one array")."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mitai.proof import kernels
from mitai.proof.field import ONE, Array
from mitai.proof.sumcheck import prove_product
from mitai.proof.transcript import Prover
from mitai.proof.verify.claims import Claim, bind_claims, powers_sum


def prove_claims(transcript: Prover, array: Array, claims: Sequence[Claim]) -> Claim:
    """Join claims on an array of 2^n elements of F into the one that is returned, at a point of challenges."""
    log = len(array).bit_length() - 1
    bind_claims(transcript, claims)
    gamma = transcript.challenge("claims")
    weights = np.zeros((len(array), 2), np.uint64)
    by = ONE
    for claim in claims:
        part = slice(claim.offset, claim.offset + (1 << len(claim.point)))
        kernels.add_multiple(weights[part], by, kernels.equality(claim.point), weights[part])
        by = by * gamma
    value = powers_sum(gamma, [claim.value for claim in claims])
    point, f, _ = prove_product(transcript, array, weights, value, [None] * log)
    return Claim(point, f)
