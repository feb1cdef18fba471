"""RTMR1 and RTMR2 of a Linux guest that the hypervisor boots directly: kernel, command line, initial RAM disk.

Follows the TCG PC Client Platform Firmware Profile as OVMF measures with TDX (PCR 2 to 5 go to RTMR1, PCR 8 and above
to RTMR2), the PE hash of "Windows Authenticode Portable Executable Signature Format", the Linux/x86 boot protocol, and
Linux's EFI stub (`drivers/firmware/efi/libstub`), which measures its load options and its initrd.

Which events are logged where, and what the hypervisor writes into the kernel's header before the firmware measures it,
differs between versions: a `Layout` names one combination; `docs/spec/release-manifest.md` says how each was checked.

Invariants:

- A kernel that is no EFI image, or whose sections lie outside of it, gives an error, never a wrong digest.

Example:
    >>> rtmr1(kernel, initrd, memory_bytes=4 << 30, layout=LAYOUTS["qemu"]).hex()
    >>> rtmr2(initrd, "console=ttyS0", layout=LAYOUTS["qemu"]).hex()
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from mitai.attest.refvalues.tdvf import PageOrder
from mitai.errors import ParseError

MAX_IMAGE_BYTES = 1 << 30
NO_RTMR = bytes(48)  # a register before the first event

_CODE = "attest.kernel-malformed"
_SEPARATOR = bytes(4)
_CALLING = b"Calling EFI Application from Boot Option"
_EXITING = (b"Exit Boot Services Invocation", b"Exit Boot Services Returned with Success")


@dataclass(frozen=True, slots=True)
class Layout:
    """How one generation of hypervisor and firmware builds and boots a TD."""

    page_order: PageOrder = "page"
    patched_kernel: bool = True  # QEMU fills in the kernel's setup header before the firmware measures it
    separator_in_rtmr1: bool = True  # or in RTMR0
    cmdline_suffix: str = " initrd=initrd"  # what OVMF adds to the command line


LAYOUTS = {
    "qemu": Layout(),  # QEMU 9 and later with OVMF up to 2025.02
    "qemu-8": Layout(page_order="section"),  # Intel's QEMU 8
    "qemu-8-ovmf-2023": Layout(page_order="section", separator_in_rtmr1=False),
    "ovmf-2025.05": Layout(patched_kernel=False),  # OVMF takes the kernel as it is
}


def rtmr1(kernel: bytes, initrd: bytes, *, memory_bytes: int, layout: Layout) -> bytes:
    """Return RTMR1 after boot: the kernel's image and the steps of the firmware.

    Args:
        kernel: The kernel's image (bzImage with EFI stub, or a unified kernel image), as given to the hypervisor.
        initrd: The initial RAM disk; empty: none.
        memory_bytes: The guest's memory; it matters below 2.75 GiB, where QEMU places the initrd by it.
        layout: Of hypervisor and firmware.
    """
    image = patch_kernel(kernel, len(initrd), memory_bytes) if layout.patched_kernel else kernel
    return rtmr1_of(authenticode(image), layout)


def rtmr1_of(kernel_digest: bytes, layout: Layout) -> bytes:
    """Return RTMR1 for a kernel of which the Authenticode digest (SHA-384) is known."""
    separator = [_SEPARATOR] if layout.separator_in_rtmr1 else []
    return extended([kernel_digest, *map(_sha384, [_CALLING, *separator, *_EXITING])])


def rtmr2(initrd: bytes, cmdline: str, *, layout: Layout) -> bytes:
    """Return RTMR2 after boot: command line, and initrd where there is one."""
    suffix = layout.cmdline_suffix if initrd else ""
    measured = [(cmdline + suffix + "\0").encode("utf-16-le"), *([initrd] if initrd else [])]
    return extended(map(_sha384, measured))


def extended(digests: Iterable[bytes]) -> bytes:
    """Return a register after these digests were extended into it, in order."""
    register = NO_RTMR
    for digest in digests:
        register = _sha384(register + digest)
    return register


def _sha384(data: bytes) -> bytes:
    return hashlib.sha384(data).digest()


def authenticode(image: bytes, algorithm: str = "sha384") -> bytes:
    """Return the digest of a PE image as EFI firmware measures it: without checksum and signatures."""
    if len(image) > MAX_IMAGE_BYTES:
        raise ParseError(_CODE, f"an image of {len(image)} bytes is above the limit")
    try:
        ranges = _hashed_ranges(image)
    except struct.error as error:
        raise ParseError(_CODE, "the image ends within its headers") from error
    # all before any: the last range begins where the sizes of the others end, so no byte is hashed many times
    if not all(0 <= start <= end <= len(image) for start, end in ranges):
        raise ParseError(_CODE, "a part of the image is outside of it")
    digest = hashlib.new(algorithm)
    for start, end in ranges:
        digest.update(memoryview(image)[start:end])
    return digest.digest()


def _hashed_ranges(image: bytes) -> list[tuple[int, int]]:
    """Steps 3 to 14 of "Calculating the PE Image Hash"."""
    (coff,) = struct.unpack_from("<I", image, 0x3C)
    if image[:2] != b"MZ" or image[coff : coff + 4] != b"PE\0\0":
        raise ParseError(_CODE, "the image is not an EFI application (a kernel needs CONFIG_EFI_STUB)")
    count, optional_size = struct.unpack_from("<H12xH", image, coff + 6)
    optional = coff + 24
    (magic,) = struct.unpack_from("<H", image, optional)
    if magic not in {0x10B, 0x20B}:
        raise ParseError(_CODE, f"a PE header of unknown kind {magic:#x}")
    (headers,) = struct.unpack_from("<I", image, optional + 60)
    directories = optional + (112 if magic == 0x20B else 96)
    (directory_count,) = struct.unpack_from("<I", image, directories - 4)
    checksum, security = optional + 64, directories + 4 * 8
    signatures = 0
    ranges = [(0, checksum)]
    if directory_count > 4:
        (signatures,) = struct.unpack_from("<I", image, security + 4)
        ranges += [(checksum + 4, security), (security + 8, headers)]
    else:
        ranges += [(checksum + 4, headers)]
    sections = [struct.unpack_from("<II", image, optional + optional_size + 40 * index + 16) for index in range(count)]
    used = headers
    for size, start in sorted((section for section in sections if section[0]), key=lambda section: section[1]):
        ranges.append((start, start + size))
        used += size
    return [*ranges, (used, len(image) - signatures)]


# The Linux/x86 boot protocol's setup header, and what QEMU's `x86_load_linux` writes there.
_LOW_MEMORY, _SMALL_LOW_MEMORY = 0x8000_0000, 0xB000_0000
_ACPI_BYTES = 0x28000
_LOADED_ABOVE_4G = 2  # of xloadflags
_REAL_MODE, _CMDLINE = 0x10000, 0x20000


def patch_kernel(kernel: bytes, initrd_bytes: int, memory_bytes: int) -> bytes:
    """Return the kernel with the setup header that QEMU leaves: loader, heap, command line and initrd addresses."""
    if len(kernel) < 0x1000 or kernel[0x202:0x206] != b"HdrS":
        raise ParseError(_CODE, "the image is no Linux kernel for x86")
    (protocol,) = struct.unpack_from("<H", kernel, 0x206)
    if protocol < 0x20C or not kernel[0x211] & 1:
        raise ParseError(_CODE, f"a kernel of boot protocol {protocol:#x} is too old, or is no bzImage")
    patched = bytearray(kernel)
    patched[0x210] = 0xB0  # type_of_loader: QEMU
    patched[0x211] |= 0x80  # loadflags: CAN_USE_HEAP
    struct.pack_into("<HH", patched, 0x224, _CMDLINE - _REAL_MODE - 0x200, 0)  # heap_end_ptr
    struct.pack_into("<I", patched, 0x228, _CMDLINE)  # cmd_line_ptr
    if initrd_bytes:
        low_memory = _SMALL_LOW_MEMORY if memory_bytes < _SMALL_LOW_MEMORY else _LOW_MEMORY
        below_4g = min(memory_bytes, low_memory)
        (initrd_addr_max,) = struct.unpack_from("<I", kernel, 0x22C)
        anywhere = kernel[0x236] & _LOADED_ABOVE_4G
        highest = min(0xFFFF_FFFF if anywhere else initrd_addr_max, below_4g - _ACPI_BYTES - 1)
        if initrd_bytes >= highest:
            raise ParseError(_CODE, f"an initrd of {initrd_bytes} bytes does not fit into the guest's memory")
        struct.pack_into("<II", patched, 0x218, (highest - initrd_bytes) & ~0xFFF, initrd_bytes)
    return bytes(patched)
