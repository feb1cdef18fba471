"""The PCK certificate: which platform, at which security version.

Follows "Intel SGX PCK Certificate and Certificate Revocation List Profile Specification" 1.5, section 1.3.5 (the SGX
extension, OID 1.2.840.113741.1.13.1).

Invariants:

- The extension is read as strict DER: definite minimal lengths, no trailing bytes, no field twice.
- FMSPC, PCEID, all sixteen component SVNs and the PCE SVN must be there; a PPID that is not names no machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cryptography import x509

from mitai.attest.x509 import Certificate
from mitai.errors import AttestError, ParseError

SGX_EXTENSION = x509.ObjectIdentifier("1.2.840.113741.1.13.1")
_SGX_OID = bytes.fromhex("2a864886f84d010d01")  # the same, DER-encoded: the fields' identifiers begin with it
_SEQUENCE, _OID, _OCTETS, _INTEGER = 0x30, 0x06, 0x04, 0x02
_UNREADABLE = (x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, ValueError)


@dataclass(frozen=True, slots=True)
class PckTcb:
    """What the PCK certificate says about its platform."""

    fmspc: bytes  # 6 bytes: family, model, stepping, platform, custom SKU
    pce_id: bytes  # 2 bytes
    component_svns: tuple[int, ...]  # 16
    pce_svn: int
    cpu_svn: bytes
    ppid: bytes  # 16 bytes that name the processor; or none


def pck_tcb(leaf: Certificate) -> PckTcb:
    """Read the SGX extension of a PCK certificate."""
    try:
        extension = leaf.parsed.extensions.get_extension_for_oid(SGX_EXTENSION).value
    except _UNREADABLE as error:
        raise AttestError("attest.pck-extension-malformed", f"{leaf.common_name!r} has no SGX extension") from error
    return parse_sgx_extension(extension.value if isinstance(extension, x509.UnrecognizedExtension) else b"")


def parse_sgx_extension(data: bytes) -> PckTcb:
    """Parse the extension's value."""
    fields = _fields(data, _SGX_OID)
    tcb_prefix = _SGX_OID + b"\x02"
    tcb = _fields_of(_field(fields, b"\x02", _SEQUENCE), tcb_prefix)
    svns = tuple(_number(_field(tcb, bytes([number]), _INTEGER), 255) for number in range(1, 17))
    return PckTcb(
        fmspc=_sized(_field(fields, b"\x04", _OCTETS), 6),
        pce_id=_sized(_field(fields, b"\x03", _OCTETS), 2),
        component_svns=svns,
        pce_svn=_number(_field(tcb, b"\x11", _INTEGER), 65535),
        cpu_svn=_sized(_field(tcb, b"\x12", _OCTETS), 16),
        ppid=_ppid(fields.get(b"\x01")),
    )


_Fields = dict[bytes, tuple[int, bytes]]  # the last part of the OID: (tag, value)


def _fields(data: bytes, prefix: bytes) -> _Fields:
    elements = list(_elements(data))
    if len(elements) != 1 or elements[0][0] != _SEQUENCE:
        raise _malformed("it is not one sequence")
    return _fields_of(elements[0][1], prefix)


def _fields_of(content: bytes, prefix: bytes) -> _Fields:
    fields: _Fields = {}
    for tag, value in _elements(content):
        pair = list(_elements(value))
        if tag != _SEQUENCE or len(pair) != 2 or pair[0][0] != _OID or not pair[0][1].startswith(prefix):
            raise _malformed("a field is not a pair of identifier and value")
        name = pair[0][1][len(prefix) :]
        if name in fields:
            raise _malformed("a field is there twice")
        fields[name] = pair[1]
    return fields


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (tag, content) of the DER elements in `data`."""
    offset = 0
    while offset < len(data):
        head = data[offset : offset + 4]
        if len(head) < 2:
            raise _malformed("it is truncated")
        tag, length, start = head[0], head[1], offset + 2
        if length >= 0x80:
            size = length & 0x7F
            length = int.from_bytes(head[2 : 2 + size], "big")
            start += size
            if size not in {1, 2} or length < (0x80 if size == 1 else 0x100):  # too little is left: also too small
                raise _malformed("a length is not minimal")
        offset = start + length
        if offset > len(data):
            raise _malformed("it is truncated")
        yield tag, data[start:offset]


def _field(fields: _Fields, name: bytes, tag: int) -> bytes:
    found = fields.get(name)
    if found is None or found[0] != tag:
        raise _malformed(f"field {name.hex()} is missing or of another type")
    return found[1]


def _ppid(field: tuple[int, bytes] | None) -> bytes:
    tag, value = field or (_OCTETS, b"")
    return value if tag == _OCTETS and len(value) == 16 and any(value) else b""


def _sized(value: bytes, size: int) -> bytes:
    if len(value) != size:
        raise _malformed(f"a field has {len(value)} bytes, not {size}")
    return value


def _number(value: bytes, limit: int) -> int:
    number = int.from_bytes(value, "big", signed=True)
    minimal = len(value) == 1 or (len(value) > 1 and not (value[0] == 0 and value[1] < 0x80))
    if not minimal or not 0 <= number <= limit:
        raise _malformed("a number is out of range")
    return number


def _malformed(why: str) -> ParseError:
    return ParseError("attest.pck-extension-malformed", f"the SGX extension of the PCK certificate: {why}")
