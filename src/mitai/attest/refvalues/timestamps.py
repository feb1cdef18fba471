"""RFC 3161 timestamps: an authority of the trusted root saw a signature at a time.

Follows RFC 3161 section 2.4.2, RFC 5652 sections 5.3 to 5.6 (CMS signed data) and RFC 5816 (digest of the certificate),
for what Sigstore's authorities issue: one signer, ECDSA, signed attributes, no extensions.

Invariants:

- The authority's certificate is the trusted root's own, never one that the timestamp carries.
- DER is read strictly, and each structure member by member: what is not expected is refused.

Example:
    >>> verify_timestamp(token, signature, root)
    datetime.datetime(2026, 5, 13, 19, 23, 33, tzinfo=datetime.timezone.utc)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm
from cryptography.x509.oid import ExtendedKeyUsageOID

from mitai.attest.refvalues.fulcio import PROFILE, read_extensions
from mitai.attest.refvalues.trusted_root import Authority, TrustedRoot
from mitai.attest.x509 import Certificate, verify_chain
from mitai.errors import AttestError, MitaiError, ParseError

MAX_TOKEN_BYTES = 64 << 10
_INTEGER, _OCTETS, _OID, _TIME, _SEQUENCE, _SET, _TAGGED = 0x02, 0x04, 0x06, 0x18, 0x30, 0x31, 0xA0
_SIGNED_DATA = bytes.fromhex("2a864886f70d010702")
_TIMESTAMP_INFO = bytes.fromhex("2a864886f70d0109100104")
_CONTENT_TYPE = bytes.fromhex("2a864886f70d010903")
_MESSAGE_DIGEST = bytes.fromhex("2a864886f70d010904")
_SIGNING_CERTIFICATE_V2 = bytes.fromhex("2a864886f70d010910022f")
_HASHES: dict[bytes, HashAlgorithm] = {
    bytes.fromhex("608648016503040201"): SHA256(),
    bytes.fromhex("608648016503040202"): SHA384(),
    bytes.fromhex("608648016503040203"): SHA512(),
}


def verify_timestamp(token: bytes, message: bytes, root: TrustedRoot) -> datetime:
    """Return when an authority of the trusted root saw `message`, or raise `AttestError` or `ParseError`.

    1. The token is a granted timestamp of one signer.
    2. It is about the message.
    3. The signed attributes are about that content and, where they name one, that certificate.
    4. An authority of the trusted root signed them, and was valid at that time.
    """
    # 1
    content, digest_name, attributes, signature = _open(token)
    algorithm = _hash(digest_name)
    # 2
    moment, imprint_name, imprint = _info(content)
    if imprint != hashlib.new(_hash(imprint_name).name, message).digest():
        raise AttestError("attest.sigstore-timestamp-invalid", "the timestamp is about another signature")
    # 3
    named = _attributes(attributes)
    if (named.get(_CONTENT_TYPE), named.get(_MESSAGE_DIGEST)) != (
        _encode(_OID, _TIMESTAMP_INFO),
        _encode(_OCTETS, hashlib.new(algorithm.name, content).digest()),
    ):
        raise AttestError(
            "attest.sigstore-timestamp-invalid", "the signed attributes of the timestamp are about other content"
        )
    # 4
    signed = _encode(_SET, attributes)
    for authority in root.timestamp_authorities:
        if authority.window.covers(moment) and _signed(authority, signed, signature, algorithm, moment):
            _check_certificate(authority.chain[0], named.get(_SIGNING_CERTIFICATE_V2))
            return moment
    raise AttestError(
        "attest.sigstore-timestamp-invalid", "no timestamp authority of the trusted root signed this timestamp"
    )


def _signed(authority: Authority, message: bytes, signature: bytes, algorithm: HashAlgorithm, moment: datetime) -> bool:
    leaf = authority.chain[0]
    try:
        verify_chain(authority.chain, "sigstore", moment, PROFILE)
        purposes = read_extensions(leaf).get_extension_for_class(x509.ExtendedKeyUsage).value
        leaf.ec_key.verify(signature, message, ec.ECDSA(algorithm))
    except (MitaiError, InvalidSignature, x509.ExtensionNotFound):
        return False
    return list(purposes) == [ExtendedKeyUsageOID.TIME_STAMPING]


def _check_certificate(leaf: Certificate, attribute: bytes | None) -> None:
    """ESSCertIDv2 with its default algorithm, SHA-256: SEQUENCE { SEQUENCE { SEQUENCE { OCTET STRING, … } } }."""
    if attribute is None:
        return
    match _members(_only(_SEQUENCE, _only(_SEQUENCE, _only(_SEQUENCE, attribute)))):
        case [(4, digest), *_] if digest == hashlib.sha256(leaf.der).digest():
            return
    raise AttestError("attest.sigstore-timestamp-invalid", "the timestamp names another certificate than its signer's")


def _open(token: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    """Return content, digest algorithm, signed attributes and signature of a timestamp response."""
    if len(token) > MAX_TOKEN_BYTES:
        raise _malformed()
    match _members(_only(_SEQUENCE, token)):
        case [(0x30, status), (0x30, content_info)] if _members(status)[:1] in ([(2, b"\0")], [(2, b"\1")]):
            pass
        case _:
            raise _malformed()
    match _members(content_info):
        case [(6, kind), (0xA0, signed_data)] if kind == _SIGNED_DATA:
            pass
        case _:
            raise _malformed()
    match _members(_only(_SEQUENCE, signed_data)):
        case [(2, b"\3"), (0x31, digests), (0x30, content_part), (0x31, signers)]:
            pass
        case [(2, b"\3"), (0x31, digests), (0x30, content_part), (0xA0, _), (0x31, signers)]:  # certificates: not used
            pass
        case _:
            raise _malformed()
    match _members(content_part), _members(_only(_SEQUENCE, signers)):
        case (
            [(6, kind), (0xA0, octets)],
            [(2, b"\1"), (0x30, _), (0x30, digest), (0xA0, attributes), (0x30, _), (4, signature)],
        ) if kind == _TIMESTAMP_INFO and digest == _only(_SEQUENCE, digests):
            return _only(_OCTETS, octets), digest, attributes, signature
    raise _malformed()


def _info(content: bytes) -> tuple[datetime, bytes, bytes]:
    """Return time, hash algorithm and hash of TSTInfo; what may follow the time is accuracy, nonce and a name."""
    match _members(_only(_SEQUENCE, content)):
        case [(2, b"\1"), (6, _), (0x30, imprint), (2, _), (0x18, time), *more]:
            match _members(imprint):
                case [(0x30, algorithm), (4, digest)] if {tag for tag, _ in more} <= {0x30, 0x01, 0x02, 0xA0}:
                    return _time(time), algorithm, digest
    raise _malformed()


def _time(text: bytes) -> datetime:
    try:
        return datetime.strptime(text.decode("ascii"), "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
    except (ValueError, UnicodeDecodeError) as error:
        raise _malformed() from error


def _hash(algorithm: bytes) -> HashAlgorithm:
    match _members(algorithm):
        case [(6, name)] | [(6, name), (5, b"")] if name in _HASHES:
            return _HASHES[name]
    raise _malformed()


def _attributes(data: bytes) -> dict[bytes, bytes]:
    """Return each signed attribute's one value, by its type."""
    found: dict[bytes, bytes] = {}
    for tag, attribute in _members(data):
        match tag, _members(attribute) if tag == _SEQUENCE else []:
            case (0x30, [(6, name), (0x31, value)]) if name not in found:
                found[name] = value
            case _:
                raise _malformed()
    return found


def _members(data: bytes) -> list[tuple[int, bytes]]:
    """Return tag and content of DER elements that follow each other; tags of one byte, lengths in their only form."""
    return list(_elements(data))


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset < len(data):
        head = data[offset : offset + 2]
        if len(head) < 2 or head[0] & 0x1F == 0x1F:
            raise _malformed()
        width = head[1] & 0x7F if head[1] & 0x80 else 0
        start = offset + 2 + width
        size = int.from_bytes(data[offset + 2 : start], "big") if width else head[1]
        content = data[start : start + size]
        if width > 4 or len(content) != size or data[offset:start] != _encode(head[0], content)[: start - offset]:
            raise _malformed()
        yield head[0], content
        offset = start + size


def _only(tag: int, data: bytes) -> bytes:
    """Return the content of the one element in `data`."""
    match _members(data):
        case [(found, content)] if found == tag:
            return content
    raise _malformed()


def _encode(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 128:
        return bytes([tag, size]) + content
    width = (size.bit_length() + 7) // 8
    return bytes([tag, 0x80 | width]) + size.to_bytes(width, "big") + content


def _malformed() -> ParseError:
    return ParseError("attest.sigstore-timestamp-malformed", "the timestamp is not one that RFC 3161 describes")
