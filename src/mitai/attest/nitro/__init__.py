"""AWS Nitro Enclaves: attestation documents in, what the Nitro hypervisor measured out.

The checks, in order and with their codes, are in `docs/spec/evidence-nitro.md`.
"""

from mitai.attest.nitro.document import Document, parse_document
from mitai.attest.nitro.rules import NitroRules
from mitai.attest.nitro.verify import appraise

__all__ = ["Document", "NitroRules", "appraise", "parse_document"]
