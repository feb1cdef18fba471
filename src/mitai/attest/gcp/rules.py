"""What a Compute Engine VM's vTPM must look like: the section `gcp` of an appraisal policy."""

from __future__ import annotations

from typing import Final

import msgspec

from mitai.attest.fields import POLICY_MALFORMED, check_hex
from mitai.errors import ParseError

# Google's roots for the endorsement and attestation keys of vTPMs.
# - CN=EK/AK CA Root, 2022-07-08 to 2122-07-08:
#   http://privateca-content-62d71773-0000-21da-852e-f4f5e80d7778.storage.googleapis.com/032bf9d39db4fa06aade/ca.crt
# - CN=tpm_ek_v1_cloud_host_root…, 2018-04-06 to 2118-04-06, of older machines:
#   https://pki.goog/cloud_integrity/tpm_ek_root_1.crt
GCE_ROOTS: Final = (
    "sha256:594759594b9b61524f6c8ef668f7177f7b9066bc0674f2f49fe9e052be78beb2",
    "sha256:9bd5285f8fb18502a7947e621ffd470266f49fcd3b73e19a190f690ad32a7caf",
)


class GcpRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rules for a Compute Engine vTPM; those of its quote are in [tpm], those of its hardware in [snp] or [tdx]."""

    roots: tuple[str, ...] = GCE_ROOTS
    hardware: tuple[str, ...] = ("snp", "tdx")  # reports beside the quote, one of which must be there; () asks for none
    projects: tuple[str, ...] = ()  # ids of projects; empty: any
    zones: tuple[str, ...] = ()
    instance_ids: tuple[str, ...] = ()  # decimal

    def __post_init__(self) -> None:
        for root in self.roots:
            check_hex("a root in [gcp]", root.removeprefix("sha256:"), 32)
        if not set(self.hardware) <= {"snp", "tdx"}:
            raise ParseError(POLICY_MALFORMED, "hardware in [gcp] is neither snp nor tdx")
        if not all(instance.isdecimal() for instance in self.instance_ids):
            raise ParseError(POLICY_MALFORMED, "an instance in [gcp] is not a number")
