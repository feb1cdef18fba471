"""Attestation results: a verdict in the formats that relying parties of other verifiers read.

EAR claims-sets (`ear`), signed as JWT (`tokens`), trustworthiness vectors (`ar4si`), and RATS conceptual message
wrappers for evidence (`cmw`).
"""

from mitai.attest.results.ar4si import Tier
from mitai.attest.results.ear import AttestationResult, Submodule
from mitai.attest.results.tokens import TokenTrust, accept, sign

__all__ = ["AttestationResult", "Submodule", "Tier", "TokenTrust", "accept", "sign"]
