"""What an Azure confidential VM must look like: the section `azure` of an appraisal policy."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from mitai.attest.fields import ANY, POLICY_MALFORMED, check_hex
from mitai.errors import ParseError

# The keys with which Microsoft signs the ID block of its paravisor on SEV-SNP (SHA-384, as reports have it). Without
# such a pin anybody with a machine of his own could start a paravisor that vouches for a TPM of his own.
MICROSOFT_ID_KEYS: Final = (
    "942fd93ebde6ea7a96efadeafc60f1c6b3d10e703b1dafd7555b92f7f3d32d0e006767648cba5b102af3d65756af4177",
    "0356215882a825279a85b300b0b742931d113bf7e32dde2e50ffde7ec743ca491ecdd7f336dc28a6e0b2bb57af7a44a3",
)
_VM_ID = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")


class AzureRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rules for an Azure vTPM; those of its quote are in [tpm], those of its hardware in [snp], [tdx] and [tcb]."""

    id_key_digests: tuple[str, ...] = MICROSOFT_ID_KEYS  # who signed the paravisor on SEV-SNP; or ("any",)
    mrtds: tuple[str, ...] = ()  # paravisors on TDX, where no signature is reported: none unless listed; or ("any",)
    allow_insecure_boot: bool = False
    allow_console: bool = True  # Azure's default; whether anybody can log in there is the guest's business
    vm_ids: tuple[str, ...] = ()  # allow-list of vmUniqueId; empty: any
    user_data: str = ANY  # 64 bytes in hex
    bind_user_data: bool = False  # the report data must be in the user data too: the hardware's report is then as fresh

    def __post_init__(self) -> None:
        for name in ("id_key_digests", "mrtds"):
            for value in getattr(self, name):
                check_hex(name, value, 48, any_allowed=True)
        check_hex("user_data", self.user_data, 64, any_allowed=True)
        if not all(_VM_ID.fullmatch(vm_id) for vm_id in self.vm_ids):
            raise ParseError(POLICY_MALFORMED, "an id in [azure] vm_ids is no UUID")
