"""Arm CCA: attestation tokens of realms in, what platform and realm measured out.

The checks, in order and with their codes, are in `docs/spec/evidence-cca.md`.
"""

from mitai.attest.cca.rules import (
    CcaRules,
    PlatformReference,
    RealmReference,
    ReferenceComponent,
    TrustAnchor,
    anchor_from_jwk,
    anchors_from_tastore,
    references_from_rvstore,
)
from mitai.attest.cca.token import Token, parse_token
from mitai.attest.cca.verify import appraise

__all__ = [
    "CcaRules",
    "PlatformReference",
    "RealmReference",
    "ReferenceComponent",
    "Token",
    "TrustAnchor",
    "anchor_from_jwk",
    "anchors_from_tastore",
    "appraise",
    "parse_token",
    "references_from_rvstore",
]
