"""Parser of Nitro attestation documents.

Follows "Attestation process", sections "COSE_Sign1" and "Attestation document specification", of the AWS Nitro
Enclaves NSM API documentation: a COSE_Sign1 with ES384 (tagged or not) around a CBOR map of nine fields. The document
of an EC2 instance's NitroTPM is the same but for one field: `nitrotpm_pcrs` instead of `pcrs` (EC2 user guide,
"NitroTPM Attestation Document content").

Invariants:

- Every field has the type and size of AWS's specification; unknown fields, fields twice and trailing bytes are refused.
- The only digest is SHA-384, hence every PCR has 48 bytes.

Example:
    >>> document = parse_document(data)
    >>> document.pcrs[0].hex()
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from mitai.attest.cbor import Value, decode, expect
from mitai.attest.cose import ES384, Sign1, parse_sign1
from mitai.errors import ParseError

Source = Literal["enclave", "nitrotpm"]
MALFORMED = "attest.nitro-malformed"
MAX_DOCUMENT_BYTES = 16 << 10  # the NSM device answers with at most 12 KiB
_MAX_CA_CERTIFICATES = 8
_MAX_TIMESTAMP_MS = 253_402_300_799_999  # the end of the year 9999
_REGISTERS: dict[str, Source] = {"pcrs": "enclave", "nitrotpm_pcrs": "nitrotpm"}
_REQUIRED = {"module_id", "digest", "timestamp", "certificate", "cabundle"}
_OPTIONAL = {"public_key", "user_data", "nonce"}


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed attestation document; nothing of it is verified yet."""

    message: Sign1
    source: Source
    module_id: str
    timestamp: datetime
    pcrs: dict[int, bytes]
    certificate: bytes  # DER
    ca_bundle: tuple[bytes, ...]  # DER, root first
    public_key: bytes | None
    user_data: bytes | None
    nonce: bytes | None


def parse_document(data: bytes) -> Document:
    """Parse an attestation document, to its last byte; raise `ParseError`."""
    if len(data) > MAX_DOCUMENT_BYTES:
        raise ParseError(MALFORMED, f"an attestation document of {len(data)} bytes is above the limit")
    message = parse_sign1(data, "the attestation document", MALFORMED)
    if message.algorithm != ES384:
        raise ParseError(MALFORMED, f"the attestation document names COSE algorithm {message.algorithm}, not ES384")
    fields = expect(decode(message.payload, "the document's payload", MALFORMED), dict, "the payload", MALFORMED)
    registers = fields.keys() & _REGISTERS.keys()
    if len(registers) != 1 or not _REQUIRED <= fields.keys() <= _REQUIRED | registers | _OPTIONAL:
        raise ParseError(MALFORMED, "the document lacks a field, or has one that does not belong in it")
    (name,) = registers
    if fields["digest"] != "SHA384":
        raise ParseError(MALFORMED, "the document's digest is not SHA384")
    bundle = expect(fields["cabundle"], list, "cabundle", MALFORMED)
    if not 1 <= len(bundle) <= _MAX_CA_CERTIFICATES:
        raise ParseError(MALFORMED, f"the document has {len(bundle)} CA certificates")
    return Document(
        message=message,
        source=_REGISTERS[str(name)],
        module_id=_module_id(fields["module_id"]),
        timestamp=_timestamp(fields["timestamp"]),
        pcrs=_pcrs(fields[name]),
        certificate=_bytes("certificate", fields["certificate"], 1, 1024),
        ca_bundle=tuple(_bytes("cabundle", certificate, 1, 1024) for certificate in bundle),
        public_key=_optional("public_key", fields, 1),
        user_data=_optional("user_data", fields, 0),
        nonce=_optional("nonce", fields, 0),
    )


def _bytes(name: str, value: Value, least: int, most: int) -> bytes:
    data = expect(value, bytes, name, MALFORMED)
    if not least <= len(data) <= most:
        raise ParseError(MALFORMED, f"{name} has {len(data)} bytes, not {least} to {most}")
    return data


def _optional(name: str, fields: dict[int | str, Value], least: int) -> bytes | None:
    value = fields.get(name)
    return None if value is None else _bytes(name, value, least, 1024)


def _module_id(value: Value) -> str:
    text = expect(value, str, "module_id", MALFORMED)
    if not 1 <= len(text) <= 256 or not text.isascii() or not text.isprintable():
        raise ParseError(MALFORMED, "module_id is empty, too long or not plain text")
    return text


def _timestamp(value: Value) -> datetime:
    milliseconds = expect(value, int, "timestamp", MALFORMED)
    if not 0 < milliseconds <= _MAX_TIMESTAMP_MS:
        raise ParseError(MALFORMED, "the document's timestamp is not a time")
    return datetime.fromtimestamp(milliseconds // 1000, UTC).replace(microsecond=milliseconds % 1000 * 1000)


def _pcrs(value: Value) -> dict[int, bytes]:
    registers = expect(value, dict, "pcrs", MALFORMED)
    if not registers or not registers.keys() <= set(range(32)):
        raise ParseError(MALFORMED, "the document has no PCR, or one that is not numbered from 0 to 31")
    return {number: _bytes(f"PCR{number}", register, 48, 48) for number, register in registers.items()}
