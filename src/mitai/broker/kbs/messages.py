"""What travels in Trustee's KBS protocol, every message and its limits; and the key that answers are sealed to.

Follows "KBS Attestation Protocol" 0.4 (confidential-containers/trustee), RFC 8785 (canonical JSON), RFC 7518 (JWK and
the two key encryption algorithms) and RFC 7516 (JWE). `docs/spec/kbs.md` says what of it is served.

Invariants:

- The digest that the hardware must have signed is made of what was parsed: the key that is used is the key that it
  covers.
- A key is on P-256 or P-521 for ECDH-ES+A256KW, or RSA of 2048 to 4096 bits with exponent 65537 for RSA-OAEP-256.
  Nothing else: no PKCS #1 v1.5, no "none", no point off the curve. The algorithm follows the key, never a header.
- Unknown fields, other versions, trailing bytes and anything above a limit are refused.

Example:
    >>> attestation = parse_attestation(body)
    >>> attestation.report_digest(), attestation.recipient().seal(b"secret")
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import secrets
from dataclasses import dataclass
from typing import Literal

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.concatkdf import ConcatKDFHash
from cryptography.hazmat.primitives.keywrap import aes_key_wrap

from mitai.errors import ParseError
from mitai.wire import parse_json

VERSION = "0.4.0"
MAX_REQUEST_BYTES = 64 << 10
MAX_ATTESTATION_BYTES = 4 << 20  # evidence with logs, and bytes written as arrays of numbers
Tee = Literal["tdx", "sgx", "snp", "cca", "tpm", "az-tdx-vtpm", "az-snp-vtpm", "aztdxvtpm", "azsnpvtpm"]

_CODE = "broker.kbs-malformed"
_ECDH, _OAEP, _ENC = "ECDH-ES+A256KW", "RSA-OAEP-256", "A256GCM"
_CURVES = {"P-256": ec.SECP256R1, "P-521": ec.SECP521R1}
_RSA_BITS = range(2048, 4097)
_RSA_EXPONENT = 65537


class _Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """Members are written with dashes."""


class Request(_Message, frozen=True):
    """The first message: which protocol, which hardware."""

    version: str
    tee: Tee
    extra_params: msgspec.Raw = msgspec.Raw(b'""')  # what hashes the guest knows: SHA-384 is the protocol's own


class EcKey(_Message, frozen=True, tag_field="kty", tag="EC"):
    """A guest's public key (JWK)."""

    crv: Literal["P-256", "P-521"]
    alg: Literal["ECDH-ES+A256KW"]
    x: str
    y: str


class RsaKey(_Message, frozen=True, tag_field="kty", tag="RSA"):
    """A guest's public key (JWK)."""

    alg: Literal["RSA-OAEP-256"]
    n: str
    e: str


class RuntimeData(_Message, frozen=True):
    """What the hardware signs the digest of, with the additional evidence."""

    nonce: str
    tee_pubkey: EcKey | RsaKey


class CompositeEvidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Evidence of the machine, and of devices: JSON in a string."""

    primary_evidence: msgspec.Raw
    additional_evidence: Literal["", "{}"] = ""  # devices: not served


class Attestation(_Message, frozen=True):
    """Evidence over the challenge's nonce and the guest's key."""

    runtime_data: RuntimeData
    tee_evidence: CompositeEvidence
    init_data: msgspec.Raw = msgspec.Raw(b"null")  # not looked at: the digest that the hardware signed counts

    def key_json(self) -> bytes:
        """Return the guest's key as canonical JSON."""
        return _canonical(msgspec.to_builtins(self.runtime_data.tee_pubkey))

    def report_digest(self) -> bytes:
        """Return SHA-384 over the canonical JSON of key, nonce and additional evidence: 48 bytes."""
        runtime = {
            "tee-pubkey": msgspec.to_builtins(self.runtime_data.tee_pubkey),
            "nonce": self.runtime_data.nonce,
            "additional-evidence": self.tee_evidence.additional_evidence,
        }
        return hashlib.sha384(_canonical(runtime)).digest()

    def recipient(self) -> Recipient:
        """Return the guest's key for sealing; raise `ParseError` where it is no such key."""
        key = self.runtime_data.tee_pubkey
        try:
            return Recipient(_ec_key(key) if isinstance(key, EcKey) else _rsa_key(key))
        except ValueError as error:
            raise ParseError(_CODE, "the guest's key is not a public key of its kind") from error


@dataclass(frozen=True)
class Recipient:
    """A guest's public key."""

    key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey

    def seal(self, plaintext: bytes) -> bytes:
        """Return a JWE in flattened JSON that only the guest opens."""
        cek, iv = AESGCM.generate_key(256), secrets.token_bytes(12)
        header: dict[str, object]
        if isinstance(self.key, rsa.RSAPublicKey):
            header = {"alg": _OAEP, "enc": _ENC}
            wrapped = self.key.encrypt(cek, padding.OAEP(padding.MGF1(SHA256()), SHA256(), None))
        else:
            ephemeral = ec.generate_private_key(self.key.curve)
            header = {"alg": _ECDH, "enc": _ENC, "epk": _jwk(ephemeral.public_key())}
            kek = ConcatKDFHash(SHA256(), 32, _other_info()).derive(ephemeral.exchange(ec.ECDH(), self.key))
            wrapped = aes_key_wrap(kek, cek)
        # Guests write the header again before they authenticate it, so it is as their serializer writes it.
        protected = _b64(json.dumps(header, separators=(",", ":")).encode())
        sealed = AESGCM(cek).encrypt(iv, plaintext, protected.encode())
        parts = {"encrypted_key": wrapped, "iv": iv, "ciphertext": sealed[:-16], "tag": sealed[-16:]}
        return msgspec.json.encode({"protected": protected} | {name: _b64(part) for name, part in parts.items()})


def parse_request(body: bytes) -> Request:
    """Parse the first message; raise `ParseError` on anything else, another protocol version included."""
    request = parse_json(body, Request, MAX_REQUEST_BYTES, _CODE, "this is not a request of the KBS protocol")
    if request.version != VERSION:
        raise ParseError(
            "broker.kbs-version", f"KBS protocol version {request.version[:40]!r}: this broker speaks {VERSION}"
        )
    return request


def parse_attestation(body: bytes) -> Attestation:
    """Parse the second message; raise `ParseError` on anything else."""
    return parse_json(body, Attestation, MAX_ATTESTATION_BYTES, _CODE, "this is not an attestation of the KBS protocol")


def _canonical(value: object) -> bytes:
    """Write JSON as RFC 8785 does, for objects of strings with ASCII names."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _ec_key(key: EcKey) -> ec.EllipticCurvePublicKey:
    curve = _CURVES[key.crv]()
    x, y = _fixed(key.x, curve.key_size), _fixed(key.y, curve.key_size)
    return ec.EllipticCurvePublicNumbers(x, y, curve).public_key()


def _rsa_key(key: RsaKey) -> rsa.RSAPublicKey:
    modulus, exponent = int.from_bytes(_unb64(key.n)), int.from_bytes(_unb64(key.e))
    if modulus.bit_length() not in _RSA_BITS or exponent != _RSA_EXPONENT:
        raise ValueError("another size or exponent")
    return rsa.RSAPublicNumbers(exponent, modulus).public_key()


def _fixed(text: str, bits: int) -> int:
    data = _unb64(text)
    if len(data) != (bits + 7) // 8:
        raise ValueError("a coordinate of another length")
    return int.from_bytes(data)


def _jwk(key: ec.EllipticCurvePublicKey) -> dict[str, str]:
    numbers, size = key.public_numbers(), (key.curve.key_size + 7) // 8
    name = next(name for name, curve in _CURVES.items() if isinstance(key.curve, curve))
    return {"crv": name, "kty": "EC", "x": _b64(numbers.x.to_bytes(size)), "y": _b64(numbers.y.to_bytes(size))}


def _other_info() -> bytes:
    """Return RFC 7518 section 4.6.2: algorithm, no party information, 256 bits of key."""
    return len(_ECDH).to_bytes(4) + _ECDH.encode() + bytes(8) + (256).to_bytes(4)


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _unb64(text: str) -> bytes:
    """Read canonical base64url without padding."""
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError("not base64url") from error
    if _b64(data) != text:
        raise ValueError("not canonical base64url")
    return data
