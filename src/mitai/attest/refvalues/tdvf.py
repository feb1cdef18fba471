"""MRTD computed from a firmware image: what a TDX module measures while a TD is built from a TDVF.

Follows "Intel TDX Virtual Firmware Design Guide" (344991), section 11 (metadata), and "Intel TDX Module Base
Architecture Specification" (348549), section on MRTD: SHA-384 over one buffer of 128 bytes for each page added
(`MEM.PAGE.ADD`), and one such buffer and 256 bytes of content for each chunk measured (`MR.EXTEND`).

Invariants:

- The image says what is added and measured; a section outside of it, an unknown type or attribute gives an error,
  never a wrong digest.
- The order of pages is the hypervisor's: `page` (each page is added and measured, then the next: KVM since Linux 6.16,
  QEMU since 9.0) or `section` (all pages of a section are added, then measured: Intel's QEMU 8 and before).

Example:
    >>> mrtd(Path("OVMF.fd").read_bytes()).hex()
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Literal

from mitai.attest.ovmf import MAX_FIRMWARE_BYTES, PAGE, TDX_METADATA, entries
from mitai.errors import ParseError

MAX_SECTIONS = 64
BFV, CFV, TD_HOB, TEMP_MEMORY, PERMANENT_MEMORY, PAYLOAD, PAYLOAD_PARAMETERS = range(7)
MEASURED, ADDED_BY_GUEST = 1, 2  # attributes: MR.EXTEND, PAGE.AUG
PageOrder = Literal["page", "section"]

_CODE = "attest.tdvf-malformed"
_CHUNK = 256
_SECTION = struct.Struct("<IIQQII")


@dataclass(frozen=True, slots=True)
class Section:
    """A piece of the image and where it goes in the TD's memory."""

    offset: int  # in the image
    raw_size: int
    address: int  # in the guest
    size: int  # in the guest: what is above raw_size is zero
    kind: int
    attributes: int


def parse_tdvf(firmware: bytes) -> tuple[Section, ...]:
    """Return the sections of a TDVF image; raise `ParseError` when it has no TDX metadata or they are malformed."""
    pointer = entries(firmware, _CODE).get(TDX_METADATA)
    if pointer is None:
        raise ParseError(_CODE, "the firmware has no TDX metadata: it is not built for TDX")
    start = len(firmware) - int.from_bytes(pointer, "little") if len(pointer) == 4 else -1
    header = firmware[start : start + 16] if start >= 0 else b""
    if len(header) != 16:
        raise ParseError(_CODE, "the TDX metadata is outside of the firmware")
    magic, size, version, count = struct.unpack("<4sIII", header)
    body = firmware[start + 16 : start + size]
    if magic != b"TDVF" or version != 1 or not 0 < count <= MAX_SECTIONS or len(body) != count * _SECTION.size:
        raise ParseError(_CODE, "the TDX metadata is malformed")
    sections = tuple(Section(*fields) for fields in _SECTION.iter_unpack(body))
    for section in sections:
        _check(section, len(firmware))
    return sections


def _check(section: Section, image_bytes: int) -> None:
    if section.kind > PAYLOAD_PARAMETERS or section.attributes & ~(MEASURED | ADDED_BY_GUEST):
        raise ParseError(_CODE, f"a section has the unknown type {section.kind} or attributes {section.attributes:#x}")
    if section.attributes == MEASURED | ADDED_BY_GUEST:
        raise ParseError(_CODE, "a section can't be both measured and added by the guest")
    if section.offset + section.raw_size > image_bytes or section.raw_size > section.size:
        raise ParseError(_CODE, "a section is outside of the firmware, or larger there than in memory")
    by_host = not section.attributes & ADDED_BY_GUEST
    too_large = by_host and section.size > MAX_FIRMWARE_BYTES
    if section.address % PAGE or section.size % PAGE or too_large or section.address + section.size > 1 << 52:
        raise ParseError(_CODE, "a section is not whole pages of the guest's memory, or is above the limit")


def mrtd(firmware: bytes, order: PageOrder = "page") -> bytes:
    """Return MRTD (48 bytes) of a TD that is built from this image.

    Args:
        firmware: The whole image, as given to the hypervisor.
        order: How the hypervisor adds pages; see above.
    """
    digest = hashlib.sha384()
    for section in parse_tdvf(firmware):
        if section.attributes & ADDED_BY_GUEST:
            continue
        content = firmware[section.offset : section.offset + section.raw_size].ljust(section.size, b"\0")
        pages = range(0, section.size, PAGE)
        # each batch of pages is added, then measured
        for batch in [pages] if order == "section" else [[page] for page in pages]:
            for page in batch:
                digest.update(_buffer(b"MEM.PAGE.ADD", section.address + page))
            for page in batch if section.attributes & MEASURED else ():
                for chunk in range(page, page + PAGE, _CHUNK):
                    digest.update(_buffer(b"MR.EXTEND", section.address + chunk))
                    digest.update(content[chunk : chunk + _CHUNK])
    return digest.digest()


def _buffer(name: bytes, address: int) -> bytes:
    return struct.pack("<16sQ104x", name, address)
