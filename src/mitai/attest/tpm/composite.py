"""What a TPM hands out as evidence: quote, signature, register values, and what ties its key to a machine.

The format is written down in `docs/spec/evidence-tpm.md`. It travels in `Hardware.quote`; certificates travel beside it
in `Hardware.endorsements`.

Invariants:

- Unknown fields, unknown versions and oversized input are refused.
- `signed_part` is what identifies evidence: the quote alone, whose extra data is the caller's.
"""

from __future__ import annotations

import msgspec

from mitai.errors import ParseError
from mitai.wire import parse_json

MAX_COMPOSITE_BYTES = 12 << 20  # an IMA list makes most of it
_CODE = "attest.tpm-evidence-malformed"


class TpmEvidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The JSON object that travels as the quote; byte strings are in base64."""

    v: int = 1
    quote: bytes  # TPMS_ATTEST
    signature: bytes  # TPMT_SIGNATURE
    pcrs: tuple[bytes, ...]  # values, in the order in which the quote selects them
    report_data: bytes = b""  # where it is longer than a TPM takes: then the quote's extra data is its SHA-256 or -384
    ak_public: bytes = b""  # TPMT_PUBLIC of the attestation key
    ak_spki: bytes = b""  # or only its SubjectPublicKeyInfo, in DER
    hcl_report: bytes = b""  # Azure: what the paravisor says about its vTPM
    hardware_quote: bytes = b""  # a TDX quote or an SNP report beside the TPM's
    ima_log: bytes = b""

    def __post_init__(self) -> None:
        if self.v != 1:
            raise ParseError("attest.tpm-evidence-version-unsupported", f"TPM evidence of version {self.v}, expected 1")
        if len(self.pcrs) > 8 * 32 or any(len(value) > 64 for value in self.pcrs):
            raise ParseError(_CODE, "the TPM evidence holds more or larger registers than a TPM has")

    def encode(self) -> bytes:
        """Return the JSON form."""
        return msgspec.json.encode(self)

    @staticmethod
    def decode(data: bytes) -> TpmEvidence:
        """Parse TPM evidence; raise `ParseError` on anything else or above 12 MiB."""
        return parse_json(data, TpmEvidence, MAX_COMPOSITE_BYTES, _CODE, "these bytes are not TPM evidence")


def signed_part(quote: bytes) -> bytes:
    """Return the bytes of a composite that its TPM signed."""
    return TpmEvidence.decode(quote).quote
