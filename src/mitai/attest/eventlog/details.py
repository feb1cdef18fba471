"""What events say about themselves, for people, and what of it their digests prove.

Follows the TCG "PC Client Platform Firmware Profile" 1.06, section 10.2 (event data), and the UEFI specification 2.10,
section 10 (device paths). GRUB and systemd log the strings that they measure with a prefix or a final NUL.

Invariants:

- Nothing here decides: an event's kind is not measured, and data counts as proven only where `measured` returns it.
- `describe` never fails: data that is malformed is shown as nothing.

Example:
    >>> describe(event).variable.name, measured(event, ALG_SHA384) is not None
    ('SecureBoot', True)
"""

from __future__ import annotations

import hashlib
import struct
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

from mitai.attest.checks import Reader
from mitai.attest.eventlog.tcg import EV_EVENT_TAG, Event, hash_of
from mitai.errors import ParseError

EV_SEPARATOR, EV_ACTION, EV_PLATFORM_CONFIG_FLAGS, EV_IPL = 0x04, 0x05, 0x0A, 0x0D
EV_EFI_VARIABLE_DRIVER_CONFIG = 0x80000001
EV_EFI_VARIABLE_BOOT = 0x80000002
EV_EFI_ACTION = 0x80000007
KINDS = {
    0x00: "EV_PREBOOT_CERT",
    0x01: "EV_POST_CODE",
    0x03: "EV_NO_ACTION",
    EV_SEPARATOR: "EV_SEPARATOR",
    EV_ACTION: "EV_ACTION",
    EV_EVENT_TAG: "EV_EVENT_TAG",
    0x07: "EV_S_CRTM_CONTENTS",
    0x08: "EV_S_CRTM_VERSION",
    0x09: "EV_CPU_MICROCODE",
    EV_PLATFORM_CONFIG_FLAGS: "EV_PLATFORM_CONFIG_FLAGS",
    0x0B: "EV_TABLE_OF_DEVICES",
    0x0C: "EV_COMPACT_HASH",
    EV_IPL: "EV_IPL",
    0x0E: "EV_IPL_PARTITION_DATA",
    0x0F: "EV_NONHOST_CODE",
    0x10: "EV_NONHOST_CONFIG",
    0x11: "EV_NONHOST_INFO",
    0x12: "EV_OMIT_BOOT_DEVICE_EVENTS",
    EV_EFI_VARIABLE_DRIVER_CONFIG: "EV_EFI_VARIABLE_DRIVER_CONFIG",
    EV_EFI_VARIABLE_BOOT: "EV_EFI_VARIABLE_BOOT",
    0x80000003: "EV_EFI_BOOT_SERVICES_APPLICATION",
    0x80000004: "EV_EFI_BOOT_SERVICES_DRIVER",
    0x80000005: "EV_EFI_RUNTIME_SERVICES_DRIVER",
    0x80000006: "EV_EFI_GPT_EVENT",
    EV_EFI_ACTION: "EV_EFI_ACTION",
    0x80000008: "EV_EFI_PLATFORM_FIRMWARE_BLOB",
    0x80000009: "EV_EFI_HANDOFF_TABLES",
    0x8000000A: "EV_EFI_PLATFORM_FIRMWARE_BLOB2",
    0x8000000B: "EV_EFI_HANDOFF_TABLES2",
    0x8000000C: "EV_EFI_VARIABLE_BOOT2",
    0x80000010: "EV_EFI_HCRTM_EVENT",
    0x800000E0: "EV_EFI_VARIABLE_AUTHORITY",
    0x800000E1: "EV_EFI_SPDM_FIRMWARE_BLOB",
    0x800000E2: "EV_EFI_SPDM_FIRMWARE_CONFIG",
}
_VARIABLES = {EV_EFI_VARIABLE_DRIVER_CONFIG, EV_EFI_VARIABLE_BOOT, 0x8000000C, 0x800000E0}
_IMAGES = {0x80000003, 0x80000004, 0x80000005}
_NAMED = {0x8000000A, 0x8000000B}  # a counted description, then addresses or tables
_GRUB_PREFIXES = (b"grub_cmd: ", b"kernel_cmdline: ", b"module_cmdline: ")
_CODE = "attest.event-data-malformed"


@dataclass(frozen=True, slots=True)
class Variable:
    """A UEFI variable as an event holds it (UEFI_VARIABLE_DATA)."""

    vendor: str
    name: str
    data: bytes

    def encode(self) -> bytes:
        """Return UEFI_VARIABLE_DATA: what is measured."""
        name = self.name.encode("utf-16-le")
        return uuid.UUID(self.vendor).bytes_le + struct.pack("<QQ", len(name) // 2, len(self.data)) + name + self.data


@dataclass(frozen=True, slots=True)
class Details:
    """An event in words. Unproven, unless `measured` says otherwise."""

    kind: str
    text: str = ""
    variable: Variable | None = None
    device_path: tuple[str, ...] = ()


def describe(event: Event) -> Details:
    """Return an event in words."""
    kind = KINDS.get(event.kind, f"{event.kind:#010x}")
    try:
        if event.kind in _VARIABLES:
            variable = parse_variable(event.data)
            return Details(kind, variable.name, variable=variable)
        if event.kind in _IMAGES:
            path = _image_device_path(event.data)
            return Details(kind, "/".join(path), device_path=path)
        return Details(kind, _text(event))
    except ParseError:
        return Details(kind)


def measured(event: Event, algorithm: int) -> bytes | None:
    """Return the bytes that the event's digest covers, where its data tells them; otherwise nothing."""
    digest, name = event.digests.get(algorithm), hash_of(algorithm)
    return next((data for data in _candidates(event) if hashlib.new(name, data).digest() == digest), None)


def _candidates(event: Event) -> Iterator[bytes]:
    yield event.data
    if event.kind == EV_IPL:
        yield event.data.rstrip(b"\0")
        yield event.data.removesuffix(b"\0\0")
        for prefix in _GRUB_PREFIXES:
            if event.data.startswith(prefix):
                yield event.data.removeprefix(prefix).partition(b"\0")[0]
    elif event.kind == EV_EFI_VARIABLE_BOOT:
        try:
            yield parse_variable(event.data).data
        except ParseError:
            return
    elif event.kind == EV_EVENT_TAG:
        yield event.data[8:]


def parse_variable(data: bytes) -> Variable:
    """Parse UEFI_VARIABLE_DATA; raise `ParseError` on anything else."""
    reader = Reader(data, "a measured UEFI variable", _CODE)
    vendor = uuid.UUID(bytes_le=reader.take(16))
    name_length = reader.u32() | reader.u32() << 32
    data_length = reader.u32() | reader.u32() << 32
    try:
        name = reader.take(2 * name_length).decode("utf-16-le")
    except UnicodeDecodeError as error:
        raise ParseError(_CODE, "the name of a measured UEFI variable is not UTF-16") from error
    content = reader.take(data_length)
    reader.end()
    return Variable(str(vendor), name, content)


def _text(event: Event) -> str:
    data = event.data
    if event.kind in _NAMED:
        data = data[1 : 1 + data[0]] if data else b""
    elif event.kind == EV_EVENT_TAG:
        data = data[8:]
    elif event.kind == EV_SEPARATOR:
        return "" if data == bytes(4) else data.hex()
    if len(data) >= 4 and data[1] == 0 == data[3]:
        return _printable(data[: len(data) & ~1].decode("utf-16-le", "replace").rstrip("\0"))
    return _printable(data.partition(b"\0")[0].decode("utf-8", "replace"))


def _printable(text: str) -> str:
    """Return text that is safe on a terminal; nothing where most of it is no text."""
    shown = "".join(letter if letter.isprintable() and letter != "\ufffd" else " " for letter in text)
    return shown.strip()[:1024] if sum(letter == " " for letter in shown) * 2 <= len(shown) else ""


def _image_device_path(data: bytes) -> tuple[str, ...]:
    """Return the device path of UEFI_IMAGE_LOAD_EVENT, node by node."""
    reader = Reader(data, "an image load event", _CODE)
    reader.take(24)  # location, length, link-time address
    length = reader.u32() | reader.u32() << 32
    path = Reader(reader.take(length), "a device path", _CODE)
    nodes = []
    while path.left:
        kind, subtype = path.take(2)
        size = path.u16()
        if size < 4:
            raise ParseError(_CODE, "a node of a device path is shorter than its head")
        content = path.take(size - 4)
        if (kind, subtype) == (0x7F, 0xFF):
            break
        nodes.append(_node(kind, subtype, content))
    return tuple(nodes)


def _node(kind: int, subtype: int, data: bytes) -> str:
    """Return a node in UEFI's text form; kinds that boot chains seldom have are shown in hex."""
    match kind, subtype, len(data):
        case 1, 1, 2:
            return f"Pci({data[1]:#x},{data[0]:#x})"
        case 2, 1, 8:
            hid, uid = struct.unpack("<II", data)
            return f"PciRoot({uid:#x})" if hid == 0x0A0341D0 else f"Acpi({hid:#010x},{uid:#x})"
        case 4, 1, 38:
            number, start, blocks = struct.unpack("<IQQ", data[:20])
            return f"HD({number},GPT,{str(uuid.UUID(bytes_le=data[20:36])).upper()},{start:#x},{blocks:#x})"
        case 4, 3, size if size >= 16:
            return f"VenMedia({str(uuid.UUID(bytes_le=data[:16])).upper()})"
        case 4, 4, _:
            return f"File({_printable(data.decode('utf-16-le', 'replace').rstrip(chr(0)))})"
        case 4, (6 | 7) as number, 16:
            return f"{'FvFile' if number == 6 else 'Fv'}({str(uuid.UUID(bytes_le=data)).upper()})"
        case _:
            return f"Path({kind},{subtype},{data[:64].hex()})"
