"""Event logs made by hand: TCG2, CCEL, the older kind, IMA and dstack."""

from __future__ import annotations

import hashlib
import json
import struct

from mitai.attest.eventlog.details import Variable
from mitai.attest.eventlog.secureboot import EFI_GLOBAL

HASHES = {4: "sha1", 11: "sha256", 12: "sha384"}
SEPARATOR, ACTION, IPL, VARIABLE, VARIABLE_BOOT, EFI_ACTION = 4, 5, 0x0D, 0x80000001, 0x80000002, 0x80000007
DSTACK = 0x08000001


def header(*banks: int) -> bytes:
    """Return the Spec ID event."""
    sizes = {4: 20, 11: 32, 12: 48, 0x12: 32}
    data = b"Spec ID Event03\0" + bytes(8) + struct.pack("<I", len(banks))
    data += b"".join(struct.pack("<HH", bank, sizes[bank]) for bank in banks) + b"\0"
    return struct.pack("<II20sI", 0, 3, bytes(20), len(data)) + data


def event(register: int, kind: int, data: bytes, *, banks=(11,), measured: bytes | None = None) -> bytes:
    """Return an event whose digests are those of `measured`, or of its data."""
    content = data if measured is None else measured
    digests = b"".join(struct.pack("<H", bank) + hashlib.new(HASHES[bank], content).digest() for bank in banks)
    return struct.pack("<III", register, kind, len(banks)) + digests + struct.pack("<I", len(data)) + data


def no_action(data: bytes, register: int = 0, banks=(11,)) -> bytes:
    zeros = b"".join(struct.pack("<H", bank) + bytes(hashlib.new(HASHES[bank]).digest_size) for bank in banks)
    return struct.pack("<III", register, 3, len(banks)) + zeros + struct.pack("<I", len(data)) + data


def legacy(register: int, kind: int, data: bytes) -> bytes:
    return struct.pack("<II20sI", register, kind, hashlib.sha1(data).digest(), len(data)) + data


def secure_boot_variable(value: bytes = b"\1", name: str = "SecureBoot") -> bytes:
    return Variable(EFI_GLOBAL, name, value).encode()


def boot(register: int = 7, *, banks=(11,), value: bytes = b"\1") -> bytes:
    """Return the events that tell of secure boot: the variable, then the separator."""
    return event(register, VARIABLE, secure_boot_variable(value), banks=banks) + event(
        register, SEPARATOR, bytes(4), banks=banks
    )


def pcrs_of(log: bytes, bank: int = 11) -> dict[int, bytes]:
    """Return 24 registers as they are after the log, by an independent replay."""
    size = hashlib.new(HASHES[bank]).digest_size
    registers = {number: bytes(size) for number in range(24)}
    offset = 32 + struct.unpack_from("<I", log, 28)[0]
    while offset < len(log):
        register, kind, count = struct.unpack_from("<III", log, offset)
        offset += 12
        for _ in range(count):
            algorithm = struct.unpack_from("<H", log, offset)[0]
            length = {4: 20, 11: 32, 12: 48}[algorithm]
            digest = log[offset + 2 : offset + 2 + length]
            offset += 2 + length
            if algorithm == bank and kind != 3:
                registers[register] = hashlib.new(HASHES[bank], registers[register] + digest).digest()
        offset += 4 + struct.unpack_from("<I", log, offset)[0]
    return registers


def ima_ng(
    path: str, digest: bytes, algorithm: str = "sha256", *, template: str = "ima-ng", extra: bytes = b""
) -> tuple:
    """Return (template name, template data, text of the line's last fields) of one measured file."""
    first = f"{algorithm}:".encode() + b"\0" + digest
    parts = [first, path.encode() + b"\0"] + ([extra] if template in {"ima-sig", "ima-sigv2", "ima-buf"} else [])
    data = b"".join(struct.pack("<I", len(part)) + part for part in parts)
    text = f"{algorithm}:{digest.hex()} {path}" + (f" {extra.hex()}" if len(parts) == 3 else "")
    return template, data, text


def ima_text(*entries: tuple, pcr: int = 10) -> bytes:
    return b"".join(
        f"{pcr:2d} {hashlib.sha1(data).hexdigest()} {template} {text}\n".encode() for template, data, text in entries
    )


def ima_binary(*entries: tuple, pcr: int = 10) -> bytes:
    log = b""
    for template, data, _ in entries:
        name = template.encode()
        log += struct.pack("<I20sI", pcr, hashlib.sha1(data).digest(), len(name)) + name
        log += struct.pack("<I", len(data)) + data
    return log


def ima_pcr(*entries: tuple, bank: str = "sha256") -> bytes:
    value = bytes(hashlib.new(bank).digest_size)
    for _, data, _ in entries:
        value = hashlib.new(bank, value + hashlib.new(bank, data).digest()).digest()
    return value


def dstack_event(name: str, payload: bytes, **changes) -> dict:
    content = struct.pack("<I", DSTACK) + b":" + name.encode() + b":" + payload
    digest = hashlib.sha384(content).hexdigest()
    fields = {"imr": 3, "event_type": DSTACK, "digest": digest, "event": name, "event_payload": payload.hex()}
    return {**fields, **changes}


def dstack_log(*events: dict) -> bytes:
    return json.dumps(list(events)).encode()


def rtmr3(*contents: bytes) -> bytes:
    """Return RTMR[3] after these were measured."""
    value = bytes(48)
    for content in contents:
        value = hashlib.sha384(value + hashlib.sha384(content).digest()).digest()
    return value
