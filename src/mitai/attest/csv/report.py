"""Parser of Hygon CSV attestation reports, versions 1 to 3.

Follows the structures of Hygon's open tools (csv-rs, `api/guest/types.rs`). Version 1 is what every CSV firmware makes:
its fields are masked with a random word, `anonce`, and the signature covers the first 180 bytes as masked. Version 2
(extended, firmware build 2337 and later) adds the runtime measurement registers and masks nothing; version 3 names
its last 64 reserved bytes `host_data` and is otherwise the same, so here both are "extended".

Behind the signature comes the certificate of the signing key (PEK) and the chip's serial number with a MAC for the way
from the secure processor to the guest. Guests unmask these, and some erase the reserved bytes that the MAC covers.

Invariants:

- Exact sizes: a report alone, or padded with zeros to a page.
- Where the MAC can still be computed, it fits. It proves no origin: its key, `mnonce`, is in the report.

Example:
    >>> report = parse_report(data)
    >>> report.measure.hex()
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from cryptography.hazmat.primitives.hashes import SM3
from cryptography.hazmat.primitives.hmac import HMAC

from mitai.attest.checks import Reader
from mitai.attest.csv.certificates import (
    CHIP_CERTIFICATE_BYTES,
    MALFORMED,
    PEK,
    SM2_SIGNATURE,
    Signature,
    read_signature,
)
from mitai.errors import ParseError

PAGE_BYTES = 4096
SIGNER_BYTES = CHIP_CERTIFICATE_BYTES + 64 + 32 + 32  # PEK, serial number, reserved, MAC
V1_BYTES = 0x150 + SIGNER_BYTES
EXTENDED_BYTES = 0x490 + SIGNER_BYTES
POLICY_BITS = ("nodbg", "noks", "es", "nosend", "domain", "csv", "csv3", "asid_reuse")
_V1_SIGNED_BYTES = 180
_UNMASKED = bytes(4)
_PEK_VERSIONS = {(1).to_bytes(4, "little"), (2).to_bytes(4, "little")}


@dataclass(frozen=True, slots=True)
class Body:
    """What all versions begin with, unmasked."""

    user_pubkey_digest: bytes
    vm_id: bytes
    vm_version: bytes
    report_data: bytes
    mnonce: bytes
    measure: bytes
    policy: int

    @property
    def policy_bits(self) -> frozenset[str]:
        """Return the names of the guest policy's bits that are set."""
        return frozenset(name for bit, name in enumerate(POLICY_BITS) if self.policy >> bit & 1)


@dataclass(frozen=True, slots=True)
class Signer:
    """Who signed, as the report says: the PEK's certificate and the chip's serial number, which is not signed."""

    pek: bytes
    serial_number: str


@dataclass(frozen=True, slots=True)
class Report:
    """A parsed report, unmasked; nothing of it is verified yet."""

    extended: bool
    body: Body
    build: int  # of the firmware; 0 in version 1
    rtmrs: tuple[bytes, ...]
    host_data: bytes
    anonce: bytes  # the mask; not signed
    message: bytes  # what the signature covers
    signature: Signature
    signer: Signer

    @property
    def signed(self) -> bytes:
        """Return what names the evidence: the signed bytes, and the mask without which they say nothing."""
        return self.message + self.anonce


def parse_report(data: bytes) -> Report:
    """Parse a report of any version; raise `ParseError`."""
    extended = any(data[V1_BYTES:PAGE_BYTES])
    size = EXTENDED_BYTES if extended else V1_BYTES
    if len(data) not in {size, PAGE_BYTES} or any(data[size:]):
        raise ParseError(MALFORMED, f"{len(data)} bytes are not a CSV report, alone or padded to a page with zeros")
    return _extended(data[:size]) if extended else _version_1(data[:size])


def _version_1(data: bytes) -> Report:
    anonce = data[0xBC:0xC0]
    reader = Reader(data, "the report", MALFORMED)
    body = _body(_mask(reader.take(0xBC), anonce))
    reader.take(4)
    signature = read_signature(reader, PEK)
    signer = _signer(reader, anonce, body.mnonce)
    return Report(False, body, 0, (), b"", anonce, data[:_V1_SIGNED_BYTES], signature, signer)


def _extended(data: bytes) -> Report:
    reader = Reader(data, "the report", MALFORMED)
    body = _body(reader.take(0xBC))
    build = reader.u32()
    reader.take(16)  # version of the registers, reserved
    rtmrs = tuple(reader.take(32) for _ in range(5))
    reader.take(592)
    host_data = reader.take(64)
    message = data[: reader.offset]
    signature = read_signature(reader, PEK)
    signer = _signer(reader, _UNMASKED, body.mnonce)
    return Report(True, body, build, rtmrs, host_data, _UNMASKED, message, signature, signer)


def _body(clear: bytes) -> Body:
    reader = Reader(clear, "the report", MALFORMED)
    digest, vm_id, vm_version = reader.take(32), reader.take(16), reader.take(16)
    body = Body(digest, vm_id, vm_version, reader.take(64), reader.take(16), reader.take(32), reader.u32())
    if (reader.u32(), reader.u32()) != (PEK, SM2_SIGNATURE):
        raise ParseError(MALFORMED, "the report does not say that a PEK signed it with SM2")
    return body


def _signer(reader: Reader, anonce: bytes, mnonce: bytes) -> Signer:
    """Return PEK and serial number in the clear, and check the MAC over them as the firmware sent them."""
    identity, reserved, mac = reader.take(CHIP_CERTIFICATE_BYTES + 64), reader.take(32), reader.take(32)
    reader.end()
    unmasked = identity[:4] in _PEK_VERSIONS
    clear, sent = (identity, _mask(identity, anonce)) if unmasked else (_mask(identity, anonce), identity)
    erased = unmasked and not any(reserved)  # by the guest, which checked the MAC before: it can't be computed again
    if not erased and not hmac.compare_digest(_hmac_sm3(mnonce, sent + reserved), mac):
        raise ParseError("attest.csv-mac-mismatch", "the certificate or serial number in the report was changed")
    serial_number = clear[CHIP_CERTIFICATE_BYTES:].rstrip(b"\0")
    if not (serial_number.isascii() and serial_number.decode("latin-1").isprintable()):
        raise ParseError(MALFORMED, "the chip's serial number is not text")
    return Signer(clear[:CHIP_CERTIFICATE_BYTES], serial_number.decode("latin-1"))


def _mask(data: bytes, anonce: bytes) -> bytes:
    mask = anonce * (len(data) // 4)  # all lengths here are whole words
    return (int.from_bytes(data, "big") ^ int.from_bytes(mask, "big")).to_bytes(len(data), "big")


def _hmac_sm3(key: bytes, message: bytes) -> bytes:
    mac = HMAC(key, SM3())
    mac.update(message)
    return mac.finalize()
