"""NVIDIA device reports: one SPDM exchange, GET_MEASUREMENTS and its signed answer, from a GPU or an NVSwitch.

Follows DMTF DSP0274 "SPDM" 1.1, sections 10.11 (GET_MEASUREMENTS, MEASUREMENTS); the opaque data are NVIDIA's list of
(type, length, value), whose types are those of NVIDIA's own verifiers. Hopper, Blackwell and LS10 use one layout.

Invariants:

- Every length is checked, no field comes twice, and nothing follows the signature but alignment padding: at most three
  zero bytes, which some drivers add.
- `signed` is request ‖ response without its signature: all that is reported here is inside it.
- An unknown version of SPDM or of the opaque data is refused; opaque types that a newer firmware adds are ignored.

Example:
    >>> report = parse_report(data)
    >>> report.text(Opaque.DRIVER_VERSION), report.measurements[1].hex()
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from mitai.attest.checks import Reader
from mitai.errors import ParseError

MAX_REPORT_BYTES = 64 << 10
NONCE_BYTES = 32
_SIGNATURE_BYTES = 96  # ECDSA P-384, r ‖ s
_MAX_PADDING = 3
_MAX_TEXT = 64
_CODE = "attest.nvidia-report-malformed"

_SPDM_11 = 0x11
_GET_MEASUREMENTS = 0xE0
_MEASUREMENTS = 0x60
_SIGNED = 0x01  # request attributes: a signature is wanted
_ALL_BLOCKS = 0xFF
_DMTF = 0x01  # measurement specification
_BLOCK = struct.Struct("<BBHBH")  # index, specification, size of the rest; kind and size of the value


class Opaque(IntEnum):
    """Types of opaque data that are used here."""

    DRIVER_VERSION = 3
    VBIOS_VERSION = 6
    NVDEC0_STATUS = 11
    CHIP_SKU = 15
    PROJECT = 17
    PROJECT_SKU = 18
    FWID = 20
    PROTECTED_PCIE_STATUS = 21
    PDI = 22  # of a GPU: the switches at its links; of a switch: its own
    SWITCH_LOCK_STATUS = 25
    SWITCH_GPU_PDIS = 26
    OPAQUE_VERSION = 34
    CHIP_INFO = 35
    FEATURE_FLAG = 36


@dataclass(frozen=True, slots=True)
class Report:
    """A parsed report; nothing in it counts before its signature was checked."""

    nonce: bytes  # the requester's, 32 bytes
    measurements: Mapping[int, bytes]  # by index as reference manifests count: SPDM's index less one
    opaque: Mapping[int, bytes]
    signed: bytes
    signature: bytes

    def text(self, kind: Opaque) -> str:
        """Return a field as text; refuse anything but a little printable ASCII before its NULs."""
        try:
            text = self.opaque[kind].rstrip(b"\0").decode("ascii")
        except (KeyError, UnicodeDecodeError):
            text = ""
        if not text.isprintable() or not 0 < len(text) <= _MAX_TEXT:
            raise ParseError(_CODE, f"the report's field {kind.name} is missing or not text")
        return text

    def number(self, kind: Opaque) -> int | None:
        """Return a little-endian number, or nothing where the field is missing."""
        value = self.opaque.get(kind)
        return None if value is None else int.from_bytes(value, "little")


def parse_report(data: bytes) -> Report:
    """Parse request and response, to the last byte; raise `ParseError` on anything else."""
    if len(data) > MAX_REPORT_BYTES:
        raise ParseError(_CODE, f"a report of {len(data)} bytes is above the limit")
    reader = Reader(data, "the report", _CODE)
    nonce, slot = _request(reader)
    _header(reader, _MEASUREMENTS)
    if reader.take(2) != bytes([0, slot]):
        raise ParseError(_CODE, "the response answers for another certificate slot than the request named")
    blocks = reader.take(1)[0]
    measurements = _measurements(Reader(reader.take(_u24(reader)), "the measurement record", _CODE), blocks)
    reader.take(NONCE_BYTES)  # the responder's own
    opaque = _opaque(Reader(reader.take(reader.u16()), "the opaque data", _CODE))
    signed = data[: reader.offset]
    signature = reader.take(_SIGNATURE_BYTES)
    if reader.left > _MAX_PADDING or any(reader.rest()):
        raise ParseError(_CODE, "the signature is followed by bytes that do not belong to the report")
    return Report(nonce, measurements, opaque, signed, signature)


def _header(reader: Reader, message: int) -> None:
    version, code = reader.take(2)
    if version != _SPDM_11:
        raise ParseError(
            "attest.nvidia-report-version-unsupported", f"a report of SPDM version 0x{version:02x}, expected 0x11"
        )
    if code != message:
        raise ParseError(_CODE, f"an SPDM message of code 0x{code:02x}, expected 0x{message:02x}")


def _request(reader: Reader) -> tuple[bytes, int]:
    """Return nonce and certificate slot of a request for all measurements, signed."""
    _header(reader, _GET_MEASUREMENTS)
    if reader.take(2) != bytes([_SIGNED, _ALL_BLOCKS]):
        raise ParseError(_CODE, "the request does not ask for all measurements under a signature")
    nonce = reader.take(NONCE_BYTES)
    return nonce, reader.take(1)[0]


def _u24(reader: Reader) -> int:
    return int.from_bytes(reader.take(3), "little")


def _measurements(reader: Reader, blocks: int) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    for _ in range(blocks):
        # what was measured (`_kind`) does not matter: reference manifests name indexes only
        index, specification, size, _kind, value_size = _BLOCK.unpack(reader.take(_BLOCK.size))
        value = reader.take(value_size)
        if specification != _DMTF or size != value_size + 3 or index == 0 or index - 1 in found:
            raise ParseError(_CODE, f"measurement block {index} is repeated, or not as DMTF specifies")
        found[index - 1] = value
    reader.end()
    return found


def _opaque(reader: Reader) -> dict[int, bytes]:
    fields: dict[int, bytes] = {}
    while reader.left:
        kind = reader.u16()
        value = reader.take(reader.u16())
        if kind in fields:
            raise ParseError(_CODE, f"the opaque data hold field {kind} twice")
        fields[kind] = value
    version = int.from_bytes(fields.get(Opaque.OPAQUE_VERSION, b""), "little")
    if version > 1:
        raise ParseError(
            "attest.nvidia-opaque-version-unsupported", f"opaque data of version {version}, expected 0 or 1"
        )
    return fields


def vbios_version(report: Report) -> str:
    """Return a GPU's VBIOS version as people write it, such as 96.00.9F.00.01, from its little-endian words."""
    raw = report.opaque.get(Opaque.VBIOS_VERSION, b"")
    if len(raw) != 8:
        raise ParseError(_CODE, "the report's VBIOS version is missing or not 8 bytes")
    return ".".join(f"{byte:02X}" for byte in (*raw[3::-1], raw[4]))


def pdis(raw: bytes) -> frozenset[str]:
    """Return the device ids of a list of 8-byte ids, in hex; all zeros or ones mean that nothing is there."""
    ids = {raw[start : start + 8].hex() for start in range(0, len(raw), 8)}
    return frozenset(ids - {"00" * 8, "ff" * 8})
