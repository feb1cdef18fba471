"""Attestation: evidence in, claims out.

A measured process hands out `Evidence`; `verify` appraises it under a `Policy` and returns an `Appraisal`, or raises
`AttestError` with the step that failed. `mitai.attest.sim` stands in for the hardware where there is none.

Example:
    >>> appraisal = verify(Evidence.decode(body), Policy.from_toml(text), nonce=nonce, now=datetime.now(UTC))
    >>> appraisal.workload, appraisal.simulated
"""

from mitai.attest.cache import VerifiedCache
from mitai.attest.dcap.collateral import Collateral
from mitai.attest.dcap.rules import TcbRules
from mitai.attest.evidence import (
    Attester,
    CapsuleClaim,
    Claims,
    Evidence,
    LedgerClaim,
    report_data,
)
from mitai.attest.machine import Hardware, Machine
from mitai.attest.policy import CapsulePin, ClaimRules, Policy, ReferenceValues
from mitai.attest.sgx.rules import SgxRules
from mitai.attest.tdx.rules import TdxRules
from mitai.attest.tees import evidence_sha256
from mitai.attest.verify import Appraisal, verify, verify_hardware, verify_quote

__all__ = [
    "Appraisal",
    "Attester",
    "CapsuleClaim",
    "CapsulePin",
    "ClaimRules",
    "Claims",
    "Collateral",
    "Evidence",
    "Hardware",
    "LedgerClaim",
    "Machine",
    "Policy",
    "ReferenceValues",
    "SgxRules",
    "TcbRules",
    "TdxRules",
    "VerifiedCache",
    "evidence_sha256",
    "report_data",
    "verify",
    "verify_hardware",
    "verify_quote",
]
