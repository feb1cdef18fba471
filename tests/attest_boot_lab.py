"""Synthetic images: a TDVF, a kernel with an EFI stub, made byte by byte from their specifications."""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass

PAGE = 4096
FIRMWARE_BYTES = 16 * PAGE
TDX_METADATA = "e47a6535-984a-4798-865e-4685a7bf8ec2"
FOOTER = "96b582de-1fb2-45f7-baea-a366c55a082d"


@dataclass
class Piece:
    """One entry of the TDX metadata."""

    offset: int
    raw: int
    address: int
    size: int
    kind: int
    attributes: int

    def encode(self) -> bytes:
        return struct.pack("<IIQQII", self.offset, self.raw, self.address, self.size, self.kind, self.attributes)


# Code that is measured, variables that are only added, the hand-off block, memory that the guest adds itself.
PIECES = (
    Piece(4 * PAGE, 12 * PAGE, 0xFFFF_4000, 12 * PAGE, 0, 1),
    Piece(0, 4 * PAGE, 0xFFFF_0000, 4 * PAGE, 1, 0),
    Piece(0, 0, 0x80_9000, 2 * PAGE, 2, 0),
    Piece(0, 0, 0, 1 << 31, 4, 2),
)


def table_entry(guid: str, content: bytes) -> bytes:
    return content + struct.pack("<H", len(content) + 18) + uuid.UUID(guid).bytes_le


def firmware(
    pieces: tuple[Piece, ...] = PIECES,
    *,
    metadata: bytes | None = None,
    pointer: bytes | None = None,
    table: bytes | None = None,
    footer: bytes | None = None,
) -> bytes:
    """An image with recognisable bytes, the metadata in its last page and the table at its end."""
    image = bytearray((number * 31 + number // 256) % 251 for number in range(FIRMWARE_BYTES))
    body = b"".join(piece.encode() for piece in pieces)
    metadata = struct.pack("<4sIII", b"TDVF", 16 + len(body), 1, len(pieces)) + body if metadata is None else metadata
    start = FIRMWARE_BYTES - 2048
    image[start : start + len(metadata)] = metadata
    pointer = struct.pack("<I", 2048) if pointer is None else pointer
    entries = table_entry("00000000-0000-0000-0000-000000000001", b"other") + table_entry(TDX_METADATA, pointer)
    entries = entries if table is None else table
    whole = entries + (struct.pack("<H", len(entries) + 18) + uuid.UUID(FOOTER).bytes_le if footer is None else footer)
    image[-32 - len(whole) : -32] = whole
    return bytes(image)


@dataclass
class Kernel:
    """A bzImage with a PE header: setup header at 0x1f1, PE header at 0x40 as Linux has it."""

    protocol: int = 0x20F
    loadflags: int = 1
    xloadflags: int = 0x2B
    initrd_addr_max: int = 0x7FFF_FFFF
    magic: int = 0x20B
    directories: int = 6
    signature: bytes = b""
    trailing: bytes = b""
    sections: tuple[tuple[int, int], ...] = ((0x1000, 0x800), (0x600, 0xA00), (0, 0))  # (pointer, size), unsorted

    def encode(self) -> bytes:
        image = bytearray((number * 7 + number // 256) % 253 for number in range(0x1800))
        image[0:2], image[0x3C:0x40] = b"MZ", struct.pack("<I", 0x40)
        optional = 0x40 + 24
        image[0x40 : 0x40 + 24] = struct.pack("<4sHHIIIHH", b"PE\0\0", 0x8664, len(self.sections), 0, 0, 0, 160, 0x206)
        struct.pack_into("<H", image, optional, self.magic)
        struct.pack_into("<I", image, optional + 60, 0x600)
        directories = optional + (112 if self.magic == 0x20B else 96)
        struct.pack_into("<I", image, directories - 4, self.directories)
        struct.pack_into("<II", image, directories + 32, 0x1800 if self.signature else 0, len(self.signature))
        for index, (pointer, size) in enumerate(self.sections):
            struct.pack_into("<II", image, optional + 160 + 40 * index + 16, size, pointer)
        image[0x202:0x206] = b"HdrS"
        struct.pack_into("<H", image, 0x206, self.protocol)
        image[0x211] = self.loadflags
        struct.pack_into("<I", image, 0x22C, self.initrd_addr_max)
        struct.pack_into("<H", image, 0x236, self.xloadflags)
        return bytes(image) + self.trailing + self.signature
