"""Azure confidential VMs: a vTPM whose attestation key the processor's report vouches for (SEV-SNP and TDX)."""

from mitai.attest.azure.hcl import HclReport, parse_hcl_report
from mitai.attest.azure.rules import AzureRules
from mitai.attest.azure.verify import appraise

__all__ = ["AzureRules", "HclReport", "appraise", "parse_hcl_report"]
