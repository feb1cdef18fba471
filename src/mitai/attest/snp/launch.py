"""The measurement that an SEV-SNP guest will have, computed from its firmware, kernel and shape.

Follows "SEV Secure Nested Paging Firmware ABI Specification" (56860), section 8.17.2 (PAGE_INFO, by which each page is
folded into the launch digest), "AMD64 Architecture Programmer's Manual", volume 2, table B-4 (the save area of a
virtual processor), OVMF's SEV metadata (`OvmfPkg/ResetVector/X64/OvmfSevMetadata.asm`) and the order in which the
hypervisors QEMU, EC2 and Compute Engine add pages. The result is what `sev-snp-measure` computes for the same input.

Invariants:

- No files and no environment: bytes in, 48 bytes out.
- Firmware that is not understood (no SEV metadata, an unknown section) gives an error, never a wrong digest.

Example:
    >>> launch_digest(ovmf, vcpus=4, vcpu="EPYC-Milan", kernel=bzimage, initrd=initrd, cmdline="console=ttyS0").hex()
"""

from __future__ import annotations

import hashlib
import struct
import uuid
from dataclasses import dataclass

from mitai.attest.ovmf import MAX_FIRMWARE_BYTES, PAGE, SEV_METADATA, entries
from mitai.errors import AttestError, ParseError

MAX_SECTIONS = 64
MAX_VCPUS = 4096
VMMS = ("qemu", "ec2", "gce")
# Family, model and stepping of QEMU's processor models (target/i386/cpu.c), by name without the version behind it.
_MODELS = {
    "EPYC": (23, 1, 2),
    "EPYC-Rome": (23, 49, 0),
    "EPYC-Milan": (25, 1, 1),
    "EPYC-Genoa": (25, 17, 0),
    "EPYC-Turin": (26, 0, 0),
}
_MALFORMED = "attest.snp-firmware-malformed"
_HASH_TABLE = uuid.UUID("7255371f-3a3b-4b04-927b-1da6efa8d454")
_RESET_BLOCK = uuid.UUID("00f771de-1a7e-4fcb-890e-68c77e2fb44e")
_HASHES, _CMDLINE, _INITRD, _KERNEL = (
    uuid.UUID(text).bytes_le
    for text in (
        "9438d606-4f22-4cc9-b479-a793d411fd21",
        "97d02dd8-bd20-4c94-aa78-e7714d36ab2a",
        "44baf731-3a2f-4bd7-9af1-41e29169781d",
        "4de79437-abd2-427f-b835-d5b172d2045b",
    )
)
# Sections of OVMF's SEV metadata.
_SEC_MEM, _SECRETS, _CPUID, _SVSM_CAA, _KERNEL_HASHES = 1, 2, 3, 4, 0x10
# Types of pages in PAGE_INFO.
_NORMAL, _VMSA, _ZERO, _UNMEASURED, _SECRETS_PAGE, _CPUID_PAGE = 1, 2, 3, 4, 5, 6
_VMSA_ADDRESS = 0xFFFF_FFFF_F000
_RESET_VECTOR = 0xFFFF_FFF0


@dataclass(frozen=True, slots=True)
class _Section:
    address: int
    size: int
    kind: int


@dataclass(frozen=True, slots=True)
class _Firmware:
    """What OVMF says of itself behind its code."""

    sections: tuple[_Section, ...]
    hash_table: int | None  # guest address of the table of kernel hashes
    ap_reset: int | None  # where processors other than the first start


class _Digest:
    """The launch digest: each page is hashed together with all before it."""

    def __init__(self, seed: bytes) -> None:
        self.value = seed

    def add(self, kind: int, address: int, content: bytes | None = None) -> None:
        """Add a page, with its content where that is measured."""
        inner = bytes(48) if content is None else hashlib.sha384(content).digest()
        info = struct.pack("<HBBBBBBQ", 0x70, kind, 0, 0, 0, 0, 0, address)
        self.value = hashlib.sha384(self.value + inner + info).digest()

    def add_range(self, kind: int, address: int, size: int) -> None:
        """Add pages whose content is not measured."""
        for offset in range(0, size, PAGE):
            self.add(kind, address + offset)


def launch_digest(
    ovmf: bytes,
    *,
    vcpus: int,
    vcpu: str | int,
    kernel: bytes | None = None,
    initrd: bytes = b"",
    cmdline: str = "",
    guest_features: int = 1,
    vmm: str = "qemu",
    ovmf_hash: bytes | None = None,
) -> bytes:
    """Return the MEASUREMENT (48 bytes) of a guest.

    Args:
        ovmf: The firmware; with `ovmf_hash` its last pages are enough.
        vcpus: How many virtual processors.
        vcpu: QEMU's name of their model, such as `EPYC-Milan-v2`, or their CPUID signature (Fn0000_0001_EAX).
        kernel: The kernel that the hypervisor loads, where its hash is measured; otherwise nothing of it is.
        initrd: The initial RAM disk that goes with it.
        cmdline: The kernel's command line.
        guest_features: SEV_FEATURES of the guest: 1 is SNP alone.
        vmm: Which hypervisor: `qemu`, `ec2` or `gce`.
        ovmf_hash: The digest after the firmware's pages, where they are not all at hand.

    Raises:
        ParseError: When the firmware is not OVMF with SEV metadata.
        AttestError: When a processor or hypervisor is unknown.
    """
    signature = vcpu if isinstance(vcpu, int) else vcpu_signature(vcpu)
    if vmm not in VMMS or not 1 <= vcpus <= MAX_VCPUS:
        raise AttestError(
            "attest.snp-launch-unsupported",
            f"the launch digest is known for {', '.join(VMMS)} and 1 to {MAX_VCPUS} processors",
        )
    seed = bytes(48) if ovmf_hash is None else ovmf_hash
    if not 0 <= guest_features < 1 << 64 or not 0 <= signature < 1 << 32 or len(seed) != 48:
        raise AttestError("attest.snp-launch-unsupported", "features, CPUID signature or known digest can't be")
    firmware = _parse_firmware(ovmf)
    digest = _Digest(seed)
    if ovmf_hash is None:
        for offset in range(0, len(ovmf), PAGE):
            digest.add(_NORMAL, (1 << 32) - len(ovmf) + offset, ovmf[offset : offset + PAGE])
    hashes = None if kernel is None else _kernel_hashes(firmware, kernel, initrd, cmdline)
    _add_sections(digest, firmware, hashes, vmm)
    if vcpus > 1 and firmware.ap_reset is None:
        raise ParseError(_MALFORMED, "the firmware does not say where further processors start")
    for number in range(vcpus):
        start = _RESET_VECTOR if number == 0 else firmware.ap_reset or 0
        digest.add(_VMSA, _VMSA_ADDRESS, _save_area(start, signature, guest_features, vmm))
    return digest.value


def vcpu_signature(model: str) -> int:
    """Return CPUID Fn0000_0001_EAX of a processor model of QEMU's."""
    name, _, suffix = model.rpartition("-")
    known = _MODELS.get(name if suffix == "IBPB" or (suffix[:1] == "v" and suffix[1:].isdigit()) else model)
    if known is None:
        raise AttestError("attest.snp-launch-unsupported", f"processor models are {', '.join(_MODELS)}")
    family, number, stepping = known
    return family - 15 << 20 | number >> 4 << 16 | 15 << 8 | (number & 15) << 4 | stepping


def _parse_firmware(ovmf: bytes) -> _Firmware:
    table = entries(ovmf, _MALFORMED)
    metadata = table.get(SEV_METADATA)
    if metadata is None:
        raise ParseError(_MALFORMED, "the firmware has no SEV metadata: it is not OVMF built for SEV-SNP")
    return _Firmware(
        _sections(ovmf, len(ovmf) - _u32(metadata)),
        _u32(table[_HASH_TABLE]) if _HASH_TABLE in table else None,
        _u32(table[_RESET_BLOCK]) if _RESET_BLOCK in table else None,
    )


def _u32(content: bytes) -> int:
    if len(content) < 4:
        raise ParseError(_MALFORMED, "an entry behind the firmware is too short")
    return int.from_bytes(content[:4], "little")


def _sections(ovmf: bytes, start: int) -> tuple[_Section, ...]:
    header = ovmf[start : start + 16] if start >= 0 else b""
    if len(header) != 16:
        raise ParseError(_MALFORMED, "the SEV metadata is outside of the firmware")
    magic, size, version, count = struct.unpack("<4sIII", header)
    body = ovmf[start + 16 : start + size]
    if magic != b"ASEV" or version != 1 or count > MAX_SECTIONS or len(body) != 12 * count:
        raise ParseError(_MALFORMED, "the SEV metadata is malformed")
    sections = tuple(_Section(*fields) for fields in struct.iter_unpack("<III", body))
    for section in sections:
        if section.kind not in {_SEC_MEM, _SECRETS, _CPUID, _SVSM_CAA, _KERNEL_HASHES}:
            raise ParseError(_MALFORMED, f"the SEV metadata has a section of unknown type {section.kind}")
        if section.address % PAGE or section.size % PAGE or section.size > MAX_FIRMWARE_BYTES:
            raise ParseError(_MALFORMED, "a section of the SEV metadata is not whole pages, or is above the limit")
    return sections


def _add_sections(digest: _Digest, firmware: _Firmware, hashes: bytes | None, vmm: str) -> None:
    # EC2 adds the page of CPUID values last.
    last = [section for section in firmware.sections if section.kind == _CPUID and vmm == "ec2"]
    for section in [each for each in firmware.sections if each not in last] + last:
        if section.kind == _SECRETS:
            digest.add(_SECRETS_PAGE, section.address)
        elif section.kind == _CPUID:
            digest.add(_CPUID_PAGE, section.address)
        elif section.kind == _KERNEL_HASHES and hashes is not None:
            if section.size != PAGE:
                raise ParseError(_MALFORMED, "the firmware's section for kernel hashes is not one page")
            digest.add(_NORMAL, section.address, hashes)
        elif section.kind == _SEC_MEM and vmm == "gce":
            digest.add_range(_UNMEASURED, section.address, section.size)
        else:
            digest.add_range(_ZERO, section.address, section.size)


def _kernel_hashes(firmware: _Firmware, kernel: bytes, initrd: bytes, cmdline: str) -> bytes:
    """Return the page with the hashes that QEMU writes and OVMF compares."""
    if firmware.hash_table is None or not any(section.kind == _KERNEL_HASHES for section in firmware.sections):
        raise ParseError(_MALFORMED, "a kernel was given, but this firmware does not measure kernels")
    hashes = b"".join(
        guid + struct.pack("<H", 50) + hashlib.sha256(content).digest()
        for guid, content in ((_CMDLINE, cmdline.encode() + b"\0"), (_INITRD, initrd), (_KERNEL, kernel))
    )
    table = _HASHES + struct.pack("<H", 18 + len(hashes)) + hashes
    offset = firmware.hash_table % PAGE
    if offset + len(table) > PAGE:
        raise ParseError(_MALFORMED, "the table of kernel hashes does not fit into its page")
    return bytes(offset) + table + bytes(PAGE - offset - len(table))


def _save_area(start: int, signature: int, guest_features: int, vmm: str) -> bytes:
    """Return the page with the registers of a virtual processor when it starts."""
    area = bytearray(PAGE)
    code, stack, task = 0x9B, 0x93, 0x8B
    if vmm == "ec2":
        code, stack, task = 0x9A if start == _RESET_VECTOR else 0x9B, 0x92, 0x83
    segments = (
        (0, 0x93, 0),  # ES
        (0xF000, code, start & 0xFFFF_0000),  # CS
        (0, stack, 0),  # SS
        (0, 0x93, 0),  # DS
        (0, 0x93, 0),  # FS
        (0, 0x93, 0),  # GS
        (0, 0, 0),  # GDTR
        (0, 0x82, 0),  # LDTR
        (0, 0, 0),  # IDTR
        (0, task, 0),  # TR
    )
    for number, (selector, attributes, base) in enumerate(segments):
        struct.pack_into("<HHIQ", area, 16 * number, selector, attributes, 0xFFFF, base)
    registers = {
        0x0D0: 0x1000,  # EFER: SVME
        0x148: 0x40,  # CR4: MCE
        0x158: 0x10,  # CR0: ET
        0x160: 0x400,  # DR7
        0x168: 0xFFFF_0FF0,  # DR6
        0x170: 0x2,  # RFLAGS
        0x178: start & 0xFFFF,  # RIP
        0x268: 0x0007_0106 if vmm == "gce" else 0x0007_0406_0007_0406,  # PAT
        0x310: signature if vmm == "qemu" else 0x600,  # RDX
        0x3B0: guest_features,  # SEV_FEATURES
        0x3E8: 0x1,  # XCR0
    }
    for offset, value in registers.items():
        struct.pack_into("<Q", area, offset, value)
    if vmm == "qemu":
        struct.pack_into("<I", area, 0x408, 0x1F80)  # MXCSR
        struct.pack_into("<H", area, 0x410, 0x37F)  # x87 control word
    return bytes(area)
