"""The table that OVMF keeps behind its code: what the firmware says of itself to a hypervisor, by GUID.

Follows `OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm` of edk2: the table ends 32 bytes before the end of the image;
each entry is content, whole size (16 bits) and GUID, read from the last to the first; the last has the table's size.

Example:
    >>> entries(firmware, "attest.tdvf-malformed").get(TDX_METADATA)
"""

from __future__ import annotations

import struct
import uuid

from mitai.errors import ParseError

PAGE = 4096
MAX_FIRMWARE_BYTES = 64 << 20
TDX_METADATA = uuid.UUID("e47a6535-984a-4798-865e-4685a7bf8ec2")
SEV_METADATA = uuid.UUID("dc886566-984a-4798-a75e-5585a7bf67cc")
_FOOTER = uuid.UUID("96b582de-1fb2-45f7-baea-a366c55a082d")
_TABLE_END = 32
_ENTRY = struct.Struct("<H16s")


def entries(firmware: bytes, code: str) -> dict[uuid.UUID, bytes]:
    """Return the entries' contents; raise `ParseError(code)` on anything else than whole pages with such a table."""
    if not PAGE <= len(firmware) <= MAX_FIRMWARE_BYTES or len(firmware) % PAGE:
        raise ParseError(code, f"firmware of {len(firmware)} bytes is not whole pages, or is above the limit")
    end = len(firmware) - _TABLE_END
    size, guid = _ENTRY.unpack_from(firmware, end - _ENTRY.size)
    start = end - size
    if uuid.UUID(bytes_le=guid) != _FOOTER or not _ENTRY.size <= size <= end:
        raise ParseError(code, "the firmware does not end like OVMF")
    end -= _ENTRY.size
    found: dict[uuid.UUID, bytes] = {}
    while end > start:
        size, guid = _ENTRY.unpack_from(firmware, end - _ENTRY.size) if end - start >= _ENTRY.size else (0, b"")
        name = uuid.UUID(bytes_le=guid) if size else None
        if name is None or not _ENTRY.size <= size <= end - start or name in found:
            raise ParseError(code, "the table behind the firmware is malformed")
        found[name] = firmware[end - size : end - _ENTRY.size]
        end -= size
    return found
