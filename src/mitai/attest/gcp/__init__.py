"""Google Compute Engine: vTPM quotes under keys that Google certifies, with the processor's report beside them."""

from mitai.attest.gcp.rules import GcpRules
from mitai.attest.gcp.verify import appraise

__all__ = ["GcpRules", "appraise"]
