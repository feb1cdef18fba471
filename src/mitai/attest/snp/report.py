"""The attestation report that AMD's secure processor signs.

Follows "SEV Secure Nested Paging Firmware ABI Specification" (56860), revisions 1.51 to 1.58: ATTESTATION_REPORT
(section 7.3), guest policy (4.3), PLATFORM_INFO and TCB_VERSION (2.2), and "Guest-Hypervisor Communication Block
Standardization" (56421), section 4.1.8, for the table of certificates beside the report.

Invariants:

- Exactly 1184 bytes, a version from 2 to 5, every reserved byte and bit as the specification demands it; but for
  PLATFORM_INFO, where firmware reports new features without a new version, and which the verifier's rules judge.
- A report that no VCEK or VLEK signed, or that the host asked for instead of the guest, is refused here.

Example:
    >>> report = parse_report(data)
    >>> report.measurement.hex(), report.policy_flags
"""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass

from mitai.errors import ParseError

REPORT_BYTES = 1184
SIGNED_BYTES = 0x2A0
VERSIONS = (2, 3, 4, 5)
MAX_TABLE_BYTES = 64 << 10
SIGNING_KEYS = {0: "vcek", 1: "vlek"}
POLICY_BITS = {
    "smt": 16,
    "migrate-ma": 18,
    "debug": 19,
    "single-socket": 20,
    "cxl-allow": 21,
    "mem-aes-256-xts": 22,
    "rapl-dis": 23,
    "ciphertext-hiding-dram": 24,
    "page-swap-disable": 25,
}
PLATFORM_BITS = {
    "smt": 0,
    "tsme": 1,
    "ecc": 2,
    "rapl-dis": 3,
    "ciphertext-hiding-dram": 4,
    "alias-check-complete": 5,
    "iommu-write-safe": 6,
    "tio": 7,
}
# The bytes of a TCB_VERSION, lowest first; None is reserved.
_LAYOUT = ("bootloader", "tee", None, None, None, None, "snp", "microcode")
TCB_LAYOUTS: dict[str, tuple[str | None, ...]] = {
    "Milan": _LAYOUT,
    "Genoa": _LAYOUT,
    "Turin": ("fmc", "bootloader", "tee", "snp", None, None, None, "microcode"),
}
# Family, first and last model (CPUID Fn0000_0001_EAX): Bergamo and Siena have Genoa's roots.
_CPUID = (
    (0x19, 0x00, 0x0F, "Milan"),
    (0x19, 0x10, 0x1F, "Genoa"),
    (0x19, 0xA0, 0xAF, "Genoa"),
    (0x1A, 0x00, 0x11, "Turin"),
)
_MALFORMED = "attest.snp-report-malformed"
_POLICY_MUST_BE_ONE = 1 << 17
_POLICY_KNOWN = 0xFFFF | _POLICY_MUST_BE_ONE | sum(1 << bit for bit in POLICY_BITS.values())
_ECDSA_P384_SHA384 = 1
_GUEST_VMPLS = 4
_REPORT = struct.Struct(
    "<IIQ16s16sII8sQII"  # to 0x50: version, guest SVN, policy, ids, VMPL, algorithm, TCB, platform, key information
    "64s48s32s48s48s32s32s"  # to 0x180: report data, measurement, host data, key digests, report ids
    "8s3s21s64s8s3sB3sB8sQQ152s"  # to 0x2A0: TCBs, CPUID, chip, firmware versions, mitigation vectors
    "72s72s368s"
)
_ENTRY = struct.Struct("<16sII")


@dataclass(frozen=True, slots=True)
class Firmware:
    """A version of the SEV firmware."""

    major: int
    minor: int
    build: int

    @property
    def version(self) -> tuple[int, int, int]:
        """Return the numbers in the order in which they weigh."""
        return self.major, self.minor, self.build

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.build}"


@dataclass(frozen=True, slots=True)
class Report:
    """An attestation report; names as in the specification. TCBs are the 8 bytes of a TCB_VERSION, lowest first."""

    signed: bytes
    signature: bytes  # r ‖ s, big-endian, 48 bytes each
    version: int
    guest_svn: int
    policy: int
    policy_flags: frozenset[str]
    family_id: bytes
    image_id: bytes
    vmpl: int
    current_tcb: bytes
    platform_info: int  # may have bits that no flag stands for
    platform_flags: frozenset[str]
    key_info: int  # whose parts are the next three
    signing_key: str  # `vcek` or `vlek`
    mask_chip_key: bool
    author_key_en: bool
    report_data: bytes
    measurement: bytes
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    report_id: bytes
    report_id_ma: bytes
    reported_tcb: bytes
    product: str | None  # from the processor's family and model; not in version 2
    chip_id: bytes  # zeros where the host masks it
    committed_tcb: bytes
    current: Firmware
    committed: Firmware
    launch_tcb: bytes
    launch_mit_vector: int | None  # from version 5 on
    current_mit_vector: int | None

    @property
    def policy_abi(self) -> tuple[int, int]:
        """Return the least version of the firmware's ABI that the guest's owner demands."""
        return self.policy >> 8 & 0xFF, self.policy & 0xFF


def parse_report(data: bytes) -> Report:
    """Parse a report of version 2 to 5; raise `ParseError` on anything else, its reserved bits included."""
    if len(data) != REPORT_BYTES:
        raise ParseError(_MALFORMED, f"an SEV-SNP report has {REPORT_BYTES} bytes, not {len(data)}")
    fields = _REPORT.unpack(data)
    (version, guest_svn, policy, family_id, image_id, vmpl, algorithm, current_tcb, platform, key_info, r0) = fields[
        :11
    ]
    (report_data, measurement, host_data, id_key, author_key, report_id, report_id_ma) = fields[11:18]
    (reported_tcb, cpuid, r1, chip_id, committed_tcb, current, r2, committed, r3, launch_tcb) = fields[18:28]
    launch_mit, current_mit, r4, r, s, r5 = fields[28:]
    if version not in VERSIONS:
        raise ParseError("attest.snp-report-version-unsupported", f"an SEV-SNP report of version {version}")
    reserved = [r0, *r1, r2, r3, *r4, *r5, *r[48:], *s[48:], key_info >> 5]
    reserved += cpuid if version == 2 else ()
    reserved += (launch_mit, current_mit) if version < 5 else ()
    if any(reserved):
        raise ParseError(_MALFORMED, "a reserved part of the SEV-SNP report is not zero")
    if algorithm != _ECDSA_P384_SHA384:
        raise ParseError("attest.snp-signature-algorithm-unsupported", "the report names another signature algorithm")
    if vmpl >= _GUEST_VMPLS:
        raise ParseError("attest.snp-vmpl-invalid", "the report was not requested by a guest at VMPL 0 to 3")
    return Report(
        signed=data[:SIGNED_BYTES],
        signature=r[47::-1] + s[47::-1],
        version=version,
        guest_svn=guest_svn,
        policy=policy,
        policy_flags=_policy_flags(policy),
        family_id=family_id,
        image_id=image_id,
        vmpl=vmpl,
        current_tcb=current_tcb,
        platform_info=platform,
        platform_flags=frozenset(name for name, bit in PLATFORM_BITS.items() if platform >> bit & 1),
        key_info=key_info,
        signing_key=_signing_key(key_info >> 2 & 7),
        mask_chip_key=bool(key_info & 2),
        author_key_en=bool(key_info & 1),
        report_data=report_data,
        measurement=measurement,
        host_data=host_data,
        id_key_digest=id_key,
        author_key_digest=author_key,
        report_id=report_id,
        report_id_ma=report_id_ma,
        reported_tcb=reported_tcb,
        product=None if version == 2 else _product(cpuid[0], cpuid[1]),
        chip_id=chip_id,
        committed_tcb=committed_tcb,
        current=Firmware(*current[::-1]),
        committed=Firmware(*committed[::-1]),
        launch_tcb=launch_tcb,
        launch_mit_vector=launch_mit if version >= 5 else None,
        current_mit_vector=current_mit if version >= 5 else None,
    )


def _signing_key(selector: int) -> str:
    if selector == 7:
        raise ParseError("attest.snp-unsigned", "the report says that no key signed it")
    if selector not in SIGNING_KEYS:
        raise ParseError("attest.snp-signing-key-unsupported", f"the report names signing key {selector}")
    return SIGNING_KEYS[selector]


def _policy_flags(policy: int) -> frozenset[str]:
    if not policy & _POLICY_MUST_BE_ONE or policy & ~_POLICY_KNOWN:
        raise ParseError("attest.snp-policy-reserved", "a reserved bit of the guest's policy is not as it must be")
    return frozenset(name for name, bit in POLICY_BITS.items() if policy >> bit & 1)


def _product(family: int, model: int) -> str:
    for known_family, first, last, product in _CPUID:
        if family == known_family and first <= model <= last:
            return product
    raise ParseError("attest.snp-product-unknown", f"a processor of family {family:#x}, model {model:#x}")


def tcb_components(product: str, tcb: bytes) -> dict[str, int]:
    """Return the security versions in a TCB_VERSION by name, as that product orders them."""
    return {name: level for name, level in zip(TCB_LAYOUTS[product], tcb, strict=True) if name is not None}


def parse_certificate_table(data: bytes) -> dict[str, bytes]:
    """Return the blobs of an extended report's table by GUID; the host filled it, so only their signatures count."""
    code = "attest.snp-certificate-table-malformed"
    if len(data) > MAX_TABLE_BYTES:
        raise ParseError(code, f"a table of certificates of {len(data)} bytes is above the limit")
    blobs: dict[str, bytes] = {}
    taken = 0  # entries may not overlap, or a small table would become a large answer
    for start in range(0, len(data) - _ENTRY.size + 1, _ENTRY.size):
        guid, offset, size = _ENTRY.unpack_from(data, start)
        if not any(guid) and not offset and not size:
            return blobs
        name = str(uuid.UUID(bytes=guid))
        taken += size
        if name in blobs or offset + size > len(data) or taken > len(data):
            raise ParseError(code, "an entry of the table of certificates is double, or more than the table holds")
        blobs[name] = data[offset : offset + size]
    raise ParseError(code, "the table of certificates has no end")
