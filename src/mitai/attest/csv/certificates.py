"""Hygon's certificates: the formats of HRK and HSK, and of CEK and PEK.

Follows the structures of Hygon's open tools (csv-rs, `certs/ca` and `certs/csv`; "Hygon CSV Technical Manual"): little
endian, fixed size, SM2 keys with the issuer's user id, no window of validity.

Invariants:

- Exact sizes; the only algorithm is SM2 with SM3; what no signature covers is zero.
- A certificate is issued by the role that its signature names and, where it names a key id, by that key.

Example:
    >>> hsk = parse_ca_certificate(data[:832], "HSK")
    >>> verify_issued(hsk, HYGON_ROOT)
"""

from __future__ import annotations

from dataclasses import dataclass

from mitai.attest.checks import Reader
from mitai.attest.csv.sm2 import PublicKey
from mitai.errors import AttestError, ParseError

MALFORMED = "attest.csv-malformed"
CA_CERTIFICATE_BYTES = 832
CHIP_CERTIFICATE_BYTES = 2084
HRK, HSK, OCA, PEK, CEK = 0, 0x13, 0x1001, 0x1002, 0x1004  # usages
SM2_SIGNATURE = 4
_NO_SIGNATURE = 0x1000
_CURVE_SM2 = 3
_NAMES = {HRK: "HRK", HSK: "HSK", PEK: "PEK", CEK: "CEK"}
_NO_KEY_ID = bytes(16)


@dataclass(frozen=True, slots=True)
class Signature:
    """r and s, and the role that made them."""

    usage: int
    r: int
    s: int


@dataclass(frozen=True, slots=True)
class Issuer:
    """A key that signs: its role, its user id and, for HRK and HSK, its key id."""

    usage: int
    key: PublicKey
    user_id: bytes
    key_id: bytes = _NO_KEY_ID

    @property
    def name(self) -> str:
        """Return the role's name."""
        return _NAMES.get(self.usage, f"usage {self.usage:#x}")


@dataclass(frozen=True, slots=True)
class Certificate:
    """A parsed certificate; nothing of it is verified yet."""

    subject: Issuer
    signer_id: bytes
    signed: bytes
    signatures: tuple[Signature, ...]


def parse_ca_certificate(data: bytes, what: str) -> Certificate:
    """Parse the format of HRK and HSK (832 bytes)."""
    reader = Reader(data, what, MALFORMED)
    _version(reader, what, (1,))
    key_id, signer_id, usage = reader.take(16), reader.take(16), reader.u32()
    reader.take(24)
    key, user_id = _key(reader, what), _user_id(reader, what)
    reader.take(108)
    signed = data[: reader.offset]
    signature = read_signature(reader, HRK)
    _zero(reader.take(112), what)
    reader.end()
    return Certificate(Issuer(usage, key, user_id, key_id), signer_id, signed, (signature,))


def parse_chip_certificate(data: bytes, what: str) -> Certificate:
    """Parse the format of CEK and PEK (2084 bytes); one of its two signatures may be missing."""
    reader = Reader(data, what, MALFORMED)
    _version(reader, what, (1, 2))
    reader.take(4)  # firmware's version, reserved
    usage, algorithm = reader.u32(), reader.u32()
    if algorithm != SM2_SIGNATURE:
        raise ParseError(MALFORMED, f"the key of {what} is not for SM2 signatures")
    key, user_id = _key(reader, what), _user_id(reader, what)
    signer_id = reader.take(16)
    reader.take(608)
    signed = data[: reader.offset]
    signatures = [_slot(reader, what) for _ in range(2)]
    reader.end()
    return Certificate(
        Issuer(usage, key, user_id), signer_id, signed, tuple(found for found in signatures if found is not None)
    )


def read_signature(reader: Reader, usage: int) -> Signature:
    """Read r and s, 72 bytes each."""
    return Signature(usage, int.from_bytes(reader.take(72), "little"), int.from_bytes(reader.take(72), "little"))


def verify_issued(certificate: Certificate, issuer: Issuer) -> None:
    """Raise `AttestError` unless `issuer` signed the certificate in its role."""
    if certificate.signer_id not in {_NO_KEY_ID, issuer.key_id}:
        raise AttestError("attest.csv-chain-invalid", f"{certificate.subject.name} names another {issuer.name}")
    if not any(
        signature.usage == issuer.usage
        and issuer.key.signed(issuer.user_id, certificate.signed, signature.r, signature.s)
        for signature in certificate.signatures
    ):
        raise AttestError("attest.csv-chain-invalid", f"{certificate.subject.name} is not signed by {issuer.name}")


def _version(reader: Reader, what: str, known: tuple[int, ...]) -> None:
    version = reader.u32()
    if version not in known:
        raise ParseError(MALFORMED, f"{what} has version {version}")


def _key(reader: Reader, what: str) -> PublicKey:
    curve, x, y = reader.u32(), reader.take(72), reader.take(72)
    if curve != _CURVE_SM2:
        raise ParseError(MALFORMED, f"the key of {what} is not on the SM2 curve")
    try:
        return PublicKey.from_coordinates(int.from_bytes(x, "little"), int.from_bytes(y, "little"))
    except ValueError as error:
        raise ParseError(MALFORMED, f"the key of {what} is not a point of the SM2 curve") from error


def _user_id(reader: Reader, what: str) -> bytes:
    size, field = reader.u16(), reader.take(254)
    if size > len(field):
        raise ParseError(MALFORMED, f"the user id of {what} is longer than its field")
    return field[:size]


def _slot(reader: Reader, what: str) -> Signature | None:
    usage, algorithm = reader.u32(), reader.u32()
    signature = read_signature(reader, usage)
    _zero(reader.take(368), what)
    if usage == _NO_SIGNATURE:
        if algorithm or signature.r or signature.s:
            raise ParseError(MALFORMED, f"{what} has something in the place of a missing signature")
        return None
    if algorithm != SM2_SIGNATURE:
        raise ParseError(MALFORMED, f"a signature of {what} is not SM2 with SM3")
    return signature


def _zero(data: bytes, what: str) -> None:
    if any(data):
        raise ParseError(MALFORMED, f"{what} has something in bytes that no signature covers")
