"""Ed25519 identities and DSSE envelopes: who says what.

Follows DSSE 1.0 (github.com/secure-systems-lab/dsse): the signature covers the exact payload bytes together with
their type, so that a signed manifest can't be passed off as a signed command.

Invariants:

- A party is its public key; `key_id` is SHA-256 over the 32 raw bytes, in hex.
- Payload bytes are verified and used as received, never parsed and written again.
- A key under which one signature would fit any message (a point of small order) is refused.
- `Envelope.open` raises or returns the payload; there is no boolean to forget.

Example:
    >>> alice = Identity.generate()
    >>> envelope = alice.sign(b'{"v":1}', "application/vnd.mitai.example+json")
    >>> envelope.open("application/vnd.mitai.example+json", alice.public)
    b'{"v":1}'
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from mitai.errors import MitaiError, ParseError

MAX_ENVELOPE_BYTES = 64 << 20  # a manifest of a million files is smaller

# Points of order 8 and below, sign bit cleared, canonical or not: under such a "key" one signature fits any message
# (Chalkias, Garillot, Nikolaenko, "Taming the many EdDSAs", section 5).
_SMALL_ORDER = frozenset(
    bytes.fromhex(point)
    for point in (
        "00" * 32,
        "01" + "00" * 31,
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "ec" + "ff" * 30 + "7f",
        "ed" + "ff" * 30 + "7f",
        "ee" + "ff" * 30 + "7f",
    )
)


class Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One signature of a DSSE envelope; `keyid` is a hint, never a proof."""

    sig: bytes
    keyid: str = ""


class Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"payload_type": "payloadType"}):
    """A DSSE envelope as it travels: payload and signatures in base64."""

    payload: bytes
    payload_type: str
    signatures: tuple[Signature, ...]

    @staticmethod
    def decode(data: bytes) -> Envelope:
        """Parse the JSON form; raise `ParseError` on anything else or above 64 MiB."""
        if len(data) > MAX_ENVELOPE_BYTES:
            raise ParseError(
                "identity.envelope-too-large", f"a signed envelope of {len(data)} bytes is above the limit"
            )
        try:
            return msgspec.json.decode(data, type=Envelope)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise ParseError("identity.envelope-malformed", "these bytes are not a DSSE envelope") from error

    def encode(self) -> bytes:
        """Return the JSON form."""
        return msgspec.json.encode(self)

    def signed_bytes(self) -> bytes:
        """Return the bytes that a signature covers; for signers that are no identities of ours."""
        return _pre_authentication_encoding(self.payload_type, self.payload)

    def open(self, payload_type: str, *signers: PublicKey) -> bytes:
        """Return the payload when one of `signers` signed it as `payload_type`; raise `MitaiError` if none did."""
        if self.payload_type != payload_type:
            raise MitaiError(
                "identity.payload-type", f"signed as {self.payload_type[:80]!r} where {payload_type!r} is expected"
            )
        message = self.signed_bytes()
        if not any(signer.signed(message, signature.sig) for signer in signers for signature in self.signatures[:16]):
            raise MitaiError(
                "identity.signature-invalid",
                "no signature of the expected signer fits these bytes",
                hint="they were changed, or somebody else signed them",
            )
        return self.payload


class PublicKey:
    """The public half of an identity: 32 raw Ed25519 bytes."""

    def __init__(self, raw: bytes) -> None:
        if len(raw) != 32:
            raise ParseError("identity.key-malformed", f"an Ed25519 public key has 32 bytes, not {len(raw)}")
        if raw[:31] + bytes([raw[31] & 0x7F]) in _SMALL_ORDER:
            raise ParseError("identity.key-malformed", "under this Ed25519 key one signature would fit any message")
        self.raw = raw
        self._key = Ed25519PublicKey.from_public_bytes(raw)

    @property
    def key_id(self) -> str:
        """SHA-256 over the raw key, in hex: the party's name everywhere."""
        return hashlib.sha256(self.raw).hexdigest()

    def signed(self, message: bytes, signature: bytes) -> bool:
        """Tell whether `signature` is this key's over `message` (callers raise; see `verify`)."""
        try:
            self._key.verify(signature, message)
        except InvalidSignature:
            return False
        return True

    def verify(self, message: bytes, signature: bytes) -> None:
        """Raise `MitaiError` unless `signature` is this key's over `message`."""
        if not self.signed(message, signature):
            raise MitaiError("identity.signature-invalid", f"the signature is not that of key {self.key_id[:16]}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PublicKey) and self.raw == other.raw

    def __hash__(self) -> int:
        return hash(self.raw)

    def __repr__(self) -> str:
        return f"PublicKey({self.key_id[:16]}…)"


class Identity:
    """A party's Ed25519 key pair."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = PublicKey(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))

    @property
    def key_id(self) -> str:
        """The public key's id."""
        return self.public.key_id

    @staticmethod
    def generate() -> Identity:
        """Make a fresh identity."""
        return Identity(Ed25519PrivateKey.generate())

    @staticmethod
    def from_seed(seed: bytes) -> Identity:
        """Rebuild an identity from its 32-byte seed."""
        if len(seed) != 32:
            raise ParseError("identity.key-malformed", f"an Ed25519 seed has 32 bytes, not {len(seed)}")
        return Identity(Ed25519PrivateKey.from_private_bytes(seed))

    def seed(self) -> bytes:
        """Return the 32-byte seed, to be sealed by whoever stores it."""
        return self._key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())

    @staticmethod
    def load(path: Path) -> Identity:
        """Read a PKCS #8 PEM file written by `save`."""
        try:
            key = load_pem_private_key(path.read_bytes(), password=None)
        except FileNotFoundError:
            raise ParseError("identity.key-missing", f"there is no identity at {path}") from None
        except (ValueError, TypeError) as error:
            raise ParseError("identity.key-malformed", f"{path} holds no private key in PEM") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise ParseError("identity.key-malformed", f"{path} holds a key that is not Ed25519")
        return Identity(key)

    def save(self, path: Path) -> None:
        """Write PKCS #8 PEM, readable by its owner only; refuse to overwrite."""
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

    def sign_bytes(self, message: bytes) -> bytes:
        """Return the raw 64-byte signature; for formats with their own domain separation (signed notes)."""
        return self._key.sign(message)

    def sign(self, payload: bytes, payload_type: str) -> Envelope:
        """Return a DSSE envelope over `payload`."""
        signature = self._key.sign(_pre_authentication_encoding(payload_type, payload))
        return Envelope(payload, payload_type, (Signature(signature, self.key_id),))


def _pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """DSSE protocol.md, "PAE"."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
