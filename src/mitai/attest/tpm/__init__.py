"""TPM 2.0: quotes over platform configuration registers, and whose TPM signed them. Pure Python, no TPM stack."""

from mitai.attest.tpm.composite import TpmEvidence, signed_part
from mitai.attest.tpm.rules import TpmRules
from mitai.attest.tpm.verify import appraise

__all__ = ["TpmEvidence", "TpmRules", "appraise", "signed_part"]
