"""Attestation: evidence in, claims out.

A measured process hands out `Evidence`; `verify` appraises it under a `Policy` and returns an `Appraisal`, or raises
`AttestError` with the step that failed. `mitai.attest.sim` stands in for the hardware where there is none.

Example:
    >>> appraisal = verify(Evidence.decode(body), Policy.from_toml(text), nonce=nonce, now=datetime.now(UTC))
    >>> appraisal.workload, appraisal.simulated
"""

from mitai.attest.dcap.collateral import Collateral, CollateralCache
from mitai.attest.evidence import (
    Attester,
    CapsuleClaim,
    Claims,
    Evidence,
    LedgerClaim,
    evidence_sha256,
    report_data,
)
from mitai.attest.policy import CapsulePin, ClaimRules, Policy, ReferenceValues, SgxRules, TcbRules, TdxRules
from mitai.attest.verify import Appraisal, QuoteAppraisal, verify, verify_quote

__all__ = [
    "Appraisal",
    "Attester",
    "CapsuleClaim",
    "CapsulePin",
    "ClaimRules",
    "Claims",
    "Collateral",
    "CollateralCache",
    "Evidence",
    "LedgerClaim",
    "Policy",
    "QuoteAppraisal",
    "ReferenceValues",
    "SgxRules",
    "TcbRules",
    "TdxRules",
    "evidence_sha256",
    "report_data",
    "verify",
    "verify_quote",
]
