"""The section of an appraisal policy for AMD SEV-SNP."""

from __future__ import annotations

import msgspec

from mitai.attest.fields import ANY, POLICY_MALFORMED, check_hex
from mitai.attest.snp.report import PLATFORM_BITS, POLICY_BITS, SIGNING_KEYS, TCB_LAYOUTS
from mitai.errors import ParseError

CHIP_ID_BYTES = 64


class SnpTcb(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Security versions by component; `fmc` counts on Turin only."""

    fmc: int = 0
    bootloader: int = 0
    tee: int = 0
    snp: int = 0
    microcode: int = 0

    def __post_init__(self) -> None:
        if not all(0 <= level <= 0xFF for level in msgspec.structs.astuple(self)):
            raise ParseError(POLICY_MALFORMED, "a security version is not from 0 to 255")


class SnpRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an SEV-SNP guest and its machine must look like; an empty list of what is allowed pins nothing."""

    products: tuple[str, ...] = ("Milan", "Genoa", "Turin")
    signing_keys: tuple[str, ...] = ("vcek", "vlek")
    csp_ids: tuple[str, ...] = ()  # whose VLEKs are allowed
    denied_chip_ids: tuple[str, ...] = ()  # 64 bytes in hex (Turin: 8 bytes and zeros)
    allow_masked_chip_key: bool = False
    crl_required: bool = False
    min_tcb: dict[str, SnpTcb] = {}  # by product; of the reported, hence also the committed and current TCB
    min_launch_tcb: dict[str, SnpTcb] = {}
    min_firmware: tuple[int, int, int] = (0, 0, 0)  # major, minor, build; of what is committed
    allow_provisional_firmware: bool = True  # current is newer than committed: the host may go back to committed
    policy_required: tuple[str, ...] = ()
    policy_forbidden: tuple[str, ...] = ("debug", "migrate-ma")
    min_policy_abi: tuple[int, int] = (0, 0)
    platform_required: tuple[str, ...] = ()
    platform_forbidden: tuple[str, ...] = ()
    allow_unknown_platform_bits: bool = False  # bits of PLATFORM_INFO that this version does not know
    max_vmpl: int = 3
    min_guest_svn: int = 0
    family_id: str = ANY
    image_id: str = ANY
    host_data: str = ANY
    id_key_digests: tuple[str, ...] = ()
    author_key_digests: tuple[str, ...] = ()
    launch_mitigations: int = 0  # bits that LAUNCH_MIT_VECTOR must have (report version 5)
    current_mitigations: int = 0

    def __post_init__(self) -> None:
        for name, known in (
            ("products", TCB_LAYOUTS),
            ("signing_keys", SIGNING_KEYS.values()),
            ("min_tcb", TCB_LAYOUTS),
            ("min_launch_tcb", TCB_LAYOUTS),
            ("policy_required", POLICY_BITS),
            ("policy_forbidden", POLICY_BITS),
            ("platform_required", PLATFORM_BITS),
            ("platform_forbidden", PLATFORM_BITS),
        ):
            for value in getattr(self, name):
                if value not in known:
                    raise ParseError(POLICY_MALFORMED, f"{name} knows {', '.join(known)}; not {value[:32]!r}")
        for name, size in (("family_id", 16), ("image_id", 16), ("host_data", 32)):
            check_hex(name, getattr(self, name), size, any_allowed=True)
        for digest in (*self.id_key_digests, *self.author_key_digests):
            check_hex("id_key_digests or author_key_digests", digest, 48)
        for chip_id in self.denied_chip_ids:
            check_hex("denied_chip_ids", chip_id, CHIP_ID_BYTES)
        numbers = (*self.min_firmware, *self.min_policy_abi, self.max_vmpl, self.min_guest_svn)
        if min(*numbers, self.launch_mitigations, self.current_mitigations) < 0:
            raise ParseError(POLICY_MALFORMED, "a number in [snp] is negative")
