"""The TPM's own structures: what a quote signs, its signature, and the public area of the key that signed.

Follows the TCG "TPM 2.0 Library Specification", part 2: TPMS_ATTEST (10.12.8), TPMS_QUOTE_INFO (10.12.1),
TPMT_SIGNATURE (11.3.4), TPMT_PUBLIC (12.2.4), TPMA_OBJECT (8.3), and part 1, section 16 (names). Big-endian throughout.

Invariants:

- Every structure is read to its last byte; unknown algorithms, reserved bits and oversized buffers are refused.
- Only a quote is accepted: the magic value and the type are what keep a restricted key's other signatures apart.

Example:
    >>> parse_quote(data).extra_data
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm

from mitai.attest.checks import Reader
from mitai.attest.eventlog.tcg import ALG_SHA1, ALG_SHA256, ALG_SHA384, ALG_SHA512, HASHES
from mitai.attest.x509 import PublicKey
from mitai.errors import AttestError, ParseError

MAX_STRUCTURE_BYTES = 4096
MAX_PCR_BANKS = 8
_GENERATED = 0xFF544347  # TPM_GENERATED_VALUE: "\xffTCG"
_ATTEST_QUOTE = 0x8018
_ENDORSEMENT = 0x4000000B  # TPM_RH_ENDORSEMENT
_ALG_RSA, _ALG_ECC, _ALG_NULL = 0x0001, 0x0023, 0x0010
_RSASSA, _RSAPSS, _ECDSA = 0x0014, 0x0016, 0x0018
_SCHEMES = {_RSASSA: "RSASSA", _RSAPSS: "RSAPSS", _ECDSA: "ECDSA"}
_CURVES: Mapping[int, ec.EllipticCurve] = {0x0003: ec.SECP256R1(), 0x0004: ec.SECP384R1(), 0x0005: ec.SECP521R1()}
_SIGNING_HASHES: Mapping[int, HashAlgorithm] = {ALG_SHA256: SHA256(), ALG_SHA384: SHA384(), ALG_SHA512: SHA512()}
_SIZES = {ALG_SHA1: 20, ALG_SHA256: 32, ALG_SHA384: 48, ALG_SHA512: 64}
MIN_RSA_BITS, MAX_RSA_BITS = 2048, 4096

# TPMA_OBJECT: what the key of a trustworthy quote must have, and what it must not.
_DEMANDED = {"fixedTPM": 1 << 1, "fixedParent": 1 << 4, "sensitiveDataOrigin": 1 << 5, "restricted": 1 << 16}
_DEMANDED |= {"sign": 1 << 18}
_FORBIDDEN = {"encryptedDuplication": 1 << 11, "decrypt": 1 << 17, "x509sign": 1 << 19}
_KNOWN_ATTRIBUTES = 0x000F0FF6  # the others are reserved


class Buffer(Reader):
    """A cursor over big-endian structures."""

    def number(self, size: int) -> int:
        """Return the next `size` bytes as a number."""
        return int.from_bytes(self.take(size), "big")

    def sized(self) -> bytes:
        """Return the next buffer with a 16-bit length before it (TPM2B)."""
        return self.take(self.number(2))


@dataclass(frozen=True, slots=True)
class Quote:
    """A TPMS_ATTEST of type quote."""

    signed: bytes
    qualified_signer: bytes
    extra_data: bytes  # the caller's
    clock_ms: int
    reset_count: int
    restart_count: int
    safe: bool  # whether the clock can't have gone back
    firmware_version: int
    selection: tuple[tuple[int, tuple[int, ...]], ...]  # (hash algorithm, registers) of each bank
    pcr_digest: bytes


@dataclass(frozen=True, slots=True)
class Signature:
    """A TPMT_SIGNATURE: a scheme, its hash, and the signature as `cryptography` takes it."""

    scheme: int
    hash_algorithm: int
    value: bytes  # RSA: as long as the modulus; ECDSA: DER


@dataclass(frozen=True, slots=True)
class PublicArea:
    """A TPMT_PUBLIC of an attestation key."""

    attributes: int
    scheme: int
    hash_algorithm: int
    key: PublicKey
    name: bytes  # algorithm of the name, then the digest over the whole structure


def parse_quote(data: bytes) -> Quote:
    """Parse TPMS_ATTEST; raise `ParseError` unless it is exactly one quote."""
    code = "attest.tpm-quote-malformed"
    reader = _buffer(data, "the TPM quote", code)
    if reader.number(4) != _GENERATED:
        raise ParseError(
            "attest.tpm-quote-magic-invalid", "these bytes were not made by a TPM: the magic value is missing"
        )
    kind = reader.number(2)
    if kind != _ATTEST_QUOTE:
        raise ParseError("attest.tpm-quote-type-unsupported", f"an attestation of type {kind:#06x} is no quote")
    signer, extra_data = reader.sized(), reader.sized()
    if len(signer) > 66 or len(extra_data) > 66:
        raise ParseError(code, "a buffer in the TPM quote is larger than any TPM makes it")
    clock, resets, restarts, safe = reader.number(8), reader.number(4), reader.number(4), reader.number(1)
    if safe > 1:
        raise ParseError(code, "a truth value in the TPM quote is neither yes nor no")
    firmware = reader.number(8)
    selection = _selection(reader, code)
    pcr_digest = reader.sized()
    reader.end()
    return Quote(data, signer, extra_data, clock, resets, restarts, safe == 1, firmware, selection, pcr_digest)


def _selection(reader: Buffer, code: str) -> tuple[tuple[int, tuple[int, ...]], ...]:
    count = reader.number(4)
    if count > MAX_PCR_BANKS:
        raise ParseError(code, f"the TPM quote selects registers of {count} banks")
    banks = []
    for _ in range(count):
        algorithm, size = reader.number(2), reader.number(1)
        if size > 4:
            raise ParseError(code, "a selection of registers is larger than any TPM has")
        bits = int.from_bytes(reader.take(size), "little")
        banks.append((algorithm, tuple(number for number in range(8 * size) if bits >> number & 1)))
    if len({algorithm for algorithm, _ in banks}) != count:
        raise ParseError(code, "the TPM quote selects registers of one bank twice")
    return tuple(banks)


def parse_signature(data: bytes) -> Signature:
    """Parse TPMT_SIGNATURE; raise `ParseError` unless it is exactly one of RSASSA, RSAPSS or ECDSA."""
    code = "attest.tpm-signature-malformed"
    reader = _buffer(data, "the TPM signature", code)
    scheme = reader.number(2)
    if scheme not in _SCHEMES:
        raise ParseError("attest.tpm-scheme-unsupported", f"a signature of scheme {scheme:#06x} is not supported")
    hash_algorithm = reader.number(2)
    if scheme == _ECDSA:
        r, s = reader.sized(), reader.sized()
        if max(len(r), len(s)) > 66:
            raise ParseError(code, "a number of the TPM signature is too large")
        value = encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big"))
    else:
        value = reader.sized()
    reader.end()
    return Signature(scheme, hash_algorithm, value)


def rsassa_signature(signature: bytes, hash_algorithm: int = ALG_SHA256) -> bytes:
    """Return the TPMT_SIGNATURE of a bare RSASSA signature, as some collectors hand it out."""
    return b"".join(number.to_bytes(2, "big") for number in (_RSASSA, hash_algorithm, len(signature))) + signature


def parse_public(data: bytes) -> PublicArea:
    """Parse TPMT_PUBLIC; raise `ParseError` unless it is exactly one signing key's, of RSA or on a NIST curve."""
    code = "attest.tpm-public-malformed"
    reader = _buffer(data, "the attestation key's public area", code)
    kind, name_algorithm, attributes = reader.number(2), reader.number(2), reader.number(4)
    if kind not in {_ALG_RSA, _ALG_ECC} or name_algorithm not in _SIZES:
        raise ParseError(code, "the attestation key is neither RSA nor on a curve, or its name has an unknown hash")
    if len(reader.sized()) not in {0, _SIZES[name_algorithm]}:
        raise ParseError(code, "the attestation key's policy is no digest")
    if reader.number(2) != _ALG_NULL:
        raise ParseError(code, "the attestation key has a cipher, as keys have that decrypt")
    scheme = reader.number(2)
    if scheme not in ({_RSASSA, _RSAPSS} if kind == _ALG_RSA else {_ECDSA}):
        raise ParseError(
            "attest.tpm-scheme-unsupported", f"an attestation key of scheme {scheme:#06x} is not supported"
        )
    hash_algorithm = reader.number(2)
    key = _rsa_key(reader, code) if kind == _ALG_RSA else _ecc_key(reader, code)
    reader.end()
    name = name_algorithm.to_bytes(2, "big") + hashlib.new(HASHES[name_algorithm], data).digest()
    return PublicArea(attributes, scheme, hash_algorithm, key, name)


def _rsa_key(reader: Buffer, code: str) -> rsa.RSAPublicKey:
    bits, exponent, modulus = reader.number(2), reader.number(4), reader.sized()
    if bits != 8 * len(modulus):
        raise ParseError(code, "the attestation key's modulus is not as long as it says")
    return rsa_key(int.from_bytes(modulus, "big"), exponent or 65537, code)


def rsa_key(modulus: int, exponent: int, code: str) -> rsa.RSAPublicKey:
    """Return an RSA key of 2048 to 4096 bits with exponent 65537; refuse others."""
    if exponent != 65537 or not MIN_RSA_BITS <= modulus.bit_length() <= MAX_RSA_BITS or modulus % 2 == 0:
        raise ParseError(code, f"the attestation key is RSA of {modulus.bit_length()} bits, or of another exponent")
    return rsa.RSAPublicNumbers(exponent, modulus).public_key()


def _ecc_key(reader: Buffer, code: str) -> ec.EllipticCurvePublicKey:
    curve = _CURVES.get(reader.number(2))
    if curve is None or reader.number(2) != _ALG_NULL:
        raise ParseError(code, "the attestation key is on an unknown curve, or derives keys")
    x, y = reader.sized(), reader.sized()
    try:
        numbers = ec.EllipticCurvePublicNumbers(int.from_bytes(x, "big"), int.from_bytes(y, "big"), curve)
        return numbers.public_key()
    except ValueError as error:
        raise ParseError(code, "the attestation key is not a point of its curve") from error


def qualified_primary_name(public: PublicArea) -> bytes:
    """Return the qualified name of a primary key of the endorsement hierarchy: what a quote calls its signer."""
    name_algorithm = public.name[:2]
    data = _ENDORSEMENT.to_bytes(4, "big") + public.name
    return name_algorithm + hashlib.new(HASHES[int.from_bytes(name_algorithm, "big")], data).digest()


def check_attributes(public: PublicArea) -> None:
    """Raise `AttestError` unless the key was made in its TPM, stays there, and signs only what the TPM itself made."""
    if public.attributes & ~_KNOWN_ATTRIBUTES:
        raise AttestError("attest.tpm-key-attributes-refused", "the attestation key has a reserved attribute")
    missing = ", ".join(name for name, bit in _DEMANDED.items() if not public.attributes & bit)
    extra = ", ".join(name for name, bit in _FORBIDDEN.items() if public.attributes & bit)
    if missing or extra:
        raise AttestError(
            "attest.tpm-key-attributes-refused",
            f"the attestation key's attributes: {missing or 'none'} missing, {extra or 'none'} too much",
            hint="a key that is not restricted to the TPM's own statements can sign a forged quote",
        )


def verify_quote_signature(quote: Quote, signature: Signature, key: PublicKey) -> None:
    """Raise `AttestError` unless the key signed the quote, with SHA-256 or better."""
    hash_algorithm = _SIGNING_HASHES.get(signature.hash_algorithm)
    if hash_algorithm is None:
        raise AttestError(
            "attest.tpm-hash-refused", f"a quote signed with hash {signature.hash_algorithm:#06x} is refused"
        )
    try:
        if isinstance(key, rsa.RSAPublicKey) and signature.scheme != _ECDSA:
            scheme: padding.AsymmetricPadding = padding.PKCS1v15()
            if signature.scheme == _RSAPSS:
                scheme = padding.PSS(padding.MGF1(hash_algorithm), padding.PSS.AUTO)
            key.verify(signature.value, quote.signed, scheme, hash_algorithm)
            return
        if isinstance(key, ec.EllipticCurvePublicKey) and signature.scheme == _ECDSA:
            key.verify(signature.value, quote.signed, ec.ECDSA(hash_algorithm))
            return
    except InvalidSignature as error:
        raise AttestError(
            "attest.tpm-signature-invalid", "the quote is not signed by its attestation key: a byte of it was changed"
        ) from error
    raise AttestError(
        "attest.tpm-signature-invalid", "the quote's signature is of another kind than its attestation key"
    )


def _buffer(data: bytes, what: str, code: str) -> Buffer:
    if len(data) > MAX_STRUCTURE_BYTES:
        raise ParseError(code, f"{what} of {len(data)} bytes is above the limit")
    return Buffer(data, what, code)
