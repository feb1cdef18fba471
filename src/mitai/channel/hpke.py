"""HPKE contexts: seal many messages to a public key, open them, export secrets.

Follows RFC 9180 (base mode, HKDF-SHA256) with DHKEM(X25519, HKDF-SHA256) and, against quantum computers, X-Wing
(draft-connolly-cfrg-xwing-kem: ML-KEM-768 with X25519). `cryptography` ships one-shot HPKE only; streams need a context
and the exporter.

Invariants:

- A context's nonce is never used twice: the sequence number grows with every message and overflow is an error.
- `open` advances only after the tag was verified, and every failure is the same error, whatever its cause.
- The encapsulated key is bound into the key schedule, so that no other encoding of it opens the same messages.

Example:
    >>> key = PrivateKey.generate(Kem.X25519)
    >>> sender = setup_sender(Kem.X25519, key.public, b"example", Aead.AES_256_GCM)
    >>> setup_recipient(key, sender.enc, b"example", Aead.AES_256_GCM).open(sender.seal(b"hello"))
    b'hello'
"""

from __future__ import annotations

import hashlib
import secrets
from enum import IntEnum
from functools import lru_cache
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from mitai.channel import compiled
from mitai.errors import ChannelError, ParseError

KDF_HKDF_SHA256: Final = 0x0001
TAG_BYTES: Final = 16
NONCE_BYTES: Final = 12  # Nn of every AEAD below
SHARED_BYTES: Final = 32  # Nsecret of both KEMs, and Nh of SHA-256

Data = bytes | bytearray | memoryview

_SHA256: Final = hashes.SHA256()
_VERSION: Final = b"HPKE-v1"
_DHKEM_SUITE_ID: Final = b"KEM\x00\x20"
_XWING_LABEL: Final = b"\\.//^\\"
_MLKEM_PUBLIC_BYTES: Final = 1184
_MLKEM_CIPHERTEXT_BYTES: Final = 1088
_X25519_BYTES: Final = 32
_MAX_SEQUENCE: Final = (1 << 8 * NONCE_BYTES) - 1


class Kem(IntEnum):
    """KEM identifiers (RFC 9180 section 7.1 and the IANA registry)."""

    X25519 = 0x0020
    X_WING = 0x647A
    __hash__ = int.__hash__  # an enumeration's own is slow, and these are keys of a cache

    @property
    def public_bytes(self) -> int:
        """Length of a public key (Npk)."""
        return _X25519_BYTES if self is Kem.X25519 else _MLKEM_PUBLIC_BYTES + _X25519_BYTES

    @property
    def enc_bytes(self) -> int:
        """Length of an encapsulated key (Nenc)."""
        return _X25519_BYTES if self is Kem.X25519 else _MLKEM_CIPHERTEXT_BYTES + _X25519_BYTES


class Aead(IntEnum):
    """AEAD identifiers (RFC 9180 section 7.3)."""

    AES_128_GCM = 0x0001
    AES_256_GCM = 0x0002
    CHACHA20_POLY1305 = 0x0003
    __hash__ = int.__hash__

    @property
    def key_bytes(self) -> int:
        """Length of a key (Nk)."""
        return 16 if self is Aead.AES_128_GCM else 32


# --- HKDF-SHA256 (RFC 5869) ------------------------------------------------------------------------------------------


def extract(salt: bytes, key_material: bytes) -> bytes:
    """HKDF-Extract; `salt` may be empty."""
    return HKDF.extract(_SHA256, salt or None, key_material)


def expand(pseudorandom_key: bytes, info: bytes, length: int) -> bytes:
    """HKDF-Expand to `length` bytes, at most 255 blocks."""
    if length <= SHARED_BYTES:  # one block: HMAC, as HKDF-Extract is, without the object for more
        return HKDF.extract(_SHA256, pseudorandom_key, info + b"\x01")[:length]
    return HKDFExpand(_SHA256, length, info).derive(pseudorandom_key)


def _derive(salt: bytes, key_material: bytes, *infos: bytes) -> list[bytes]:
    """HKDF-Extract, then HKDF-Expand to one block of 32 bytes for each info."""
    prk = extract(salt, key_material)
    return [expand(prk, info, SHARED_BYTES) for info in infos]


derive: Final = compiled.derive or _derive


def _labeled_extract(suite_id: bytes, salt: bytes, label: bytes, key_material: bytes) -> bytes:
    return extract(salt, _VERSION + suite_id + label + key_material)


def _labeled_info(suite_id: bytes, label: bytes, info: bytes, length: int) -> bytes:
    return length.to_bytes(2) + _VERSION + suite_id + label + info


def _labeled_expand(suite_id: bytes, prk: bytes, label: bytes, info: bytes, length: int) -> bytes:
    return expand(prk, _labeled_info(suite_id, label, info, length), length)


# --- KEMs ------------------------------------------------------------------------------------------------------------


class PrivateKey:
    """A recipient's key pair; `public` is its encoding as it goes into a key configuration."""

    def __init__(self, kem: Kem, x25519: X25519PrivateKey, mlkem: MLKEM768PrivateKey | None = None) -> None:
        self.kem = kem
        self._x25519 = x25519
        self._mlkem = mlkem
        self.public = (mlkem.public_key().public_bytes_raw() if mlkem else b"") + x25519.public_key().public_bytes_raw()

    @staticmethod
    def generate(kem: Kem) -> PrivateKey:
        """Make a fresh key pair."""
        return PrivateKey.from_seed(kem, secrets.token_bytes(32))

    @staticmethod
    def from_seed(kem: Kem, seed: bytes) -> PrivateKey:
        """Rebuild a key pair: an X25519 scalar, or the 32-byte decapsulation key of X-Wing (section 5.2)."""
        if len(seed) != 32:
            raise ParseError("channel.key-malformed", f"a private key has 32 bytes, not {len(seed)}")
        if kem is Kem.X25519:
            return PrivateKey(kem, X25519PrivateKey.from_private_bytes(seed))
        expanded = hashlib.shake_256(seed).digest(96)
        x25519 = X25519PrivateKey.from_private_bytes(expanded[64:])
        return PrivateKey(kem, x25519, MLKEM768PrivateKey.from_seed_bytes(expanded[:64]))

    def decapsulate(self, enc: bytes) -> bytes:
        """Return the shared secret; raise `ChannelError` for an encoding that can't be one."""
        if len(enc) != self.kem.enc_bytes:
            raise _unopenable()
        try:
            x25519_enc = enc[-_X25519_BYTES:]
            shared = self._x25519.exchange(X25519PublicKey.from_public_bytes(x25519_enc))
            if self._mlkem is None:
                return _dhkem_secret(shared, enc, self.public)
            return _xwing_secret(
                self._mlkem.decapsulate(enc[:-_X25519_BYTES]), shared, x25519_enc, self.public[-_X25519_BYTES:]
            )
        except ValueError as error:  # an all-zero X25519 result
            raise _unopenable() from error

    def __repr__(self) -> str:
        return f"PrivateKey({self.kem.name})"


def encapsulate(kem: Kem, public: bytes, ephemeral: X25519PrivateKey | None = None) -> tuple[bytes, bytes]:
    """Return (shared secret, encapsulated key) for a public key; `ephemeral` is for test vectors only."""
    if len(public) != kem.public_bytes:
        raise ParseError("channel.key-malformed", f"a {kem.name} public key has {kem.public_bytes} bytes")
    ephemeral = ephemeral or X25519PrivateKey.generate()
    x25519_enc = ephemeral.public_key().public_bytes_raw()
    x25519_public = public[-_X25519_BYTES:]
    try:
        shared = ephemeral.exchange(_recipient(x25519_public))
        if kem is Kem.X25519:
            return _dhkem_secret(shared, x25519_enc, public), x25519_enc
        mlkem_shared, mlkem_enc = MLKEM768PublicKey.from_public_bytes(public[:_MLKEM_PUBLIC_BYTES]).encapsulate()
    except ValueError as error:
        raise ParseError("channel.key-malformed", "this is not a public key that can be sealed to") from error
    return _xwing_secret(mlkem_shared, shared, x25519_enc, x25519_public), mlkem_enc + x25519_enc


_recipient = lru_cache(maxsize=64)(X25519PublicKey.from_public_bytes)  # few, and each is sealed to many times


def _dhkem_secret(shared: bytes, enc: bytes, public: bytes) -> bytes:
    """RFC 9180 section 4.1, ExtractAndExpand."""
    info = _labeled_info(_DHKEM_SUITE_ID, b"shared_secret", enc + public, SHARED_BYTES)
    return derive(b"", _VERSION + _DHKEM_SUITE_ID + b"eae_prk" + shared, info)[0]


def _xwing_secret(mlkem_shared: bytes, x25519_shared: bytes, x25519_enc: bytes, x25519_public: bytes) -> bytes:
    """draft-connolly-cfrg-xwing-kem section 5.3, Combiner."""
    return hashlib.sha3_256(mlkem_shared + x25519_shared + x25519_enc + x25519_public + _XWING_LABEL).digest()


# --- Sequences of messages -------------------------------------------------------------------------------------------


class AeadSequence:
    """An AEAD key with a nonce that counts messages (RFC 9180 section 5.2); one direction only."""

    def __init__(self, aead: Aead, key: bytes, base_nonce: bytes) -> None:
        self._cipher = ChaCha20Poly1305(key) if aead is Aead.CHACHA20_POLY1305 else AESGCM(key)
        self._base_nonce = int.from_bytes(base_nonce)
        self._sequence = 0

    def _nonce(self) -> bytes:
        if self._sequence >= _MAX_SEQUENCE:
            raise ChannelError("channel.sequence-overflow", "this context has sealed all the messages that it may")
        return (self._base_nonce ^ self._sequence).to_bytes(NONCE_BYTES)

    def seal(self, plaintext: Data, aad: bytes = b"") -> bytes:
        """Return the next message's ciphertext and tag."""
        ciphertext = self._cipher.encrypt(self._nonce(), plaintext, aad)
        self._sequence += 1
        return ciphertext

    def seal_into(self, plaintext: Data, aad: bytes, buffer: memoryview) -> None:
        """Write the next message's ciphertext and tag into `buffer`, which is 16 bytes longer than the plaintext."""
        self._cipher.encrypt_into(self._nonce(), plaintext, aad, buffer)
        self._sequence += 1

    def open(self, ciphertext: Data, aad: bytes = b"") -> bytes:
        """Return the next message; raise `ChannelError` if it is not exactly the one that was sealed."""
        try:
            plaintext = self._cipher.decrypt(self._nonce(), ciphertext, aad)
        except (InvalidTag, ValueError):
            raise _unopenable() from None
        self._sequence += 1
        return plaintext

    def open_into(self, ciphertext: Data, aad: bytes, buffer: memoryview) -> None:
        """Write the next message into `buffer`, which is 16 bytes shorter; its bytes mean nothing if this raises."""
        try:
            self._cipher.decrypt_into(self._nonce(), ciphertext, aad, buffer)
        except (InvalidTag, ValueError):
            raise _unopenable() from None
        self._sequence += 1


class _Schedule(NamedTuple):
    """The inputs of the key schedule that no key goes into."""

    secret: bytes
    key: bytes
    base_nonce: bytes
    exporter: bytes


class Context(AeadSequence):
    """A sending or receiving context: a sequence of messages and an exporter; `enc` goes from sender to recipient."""

    def __init__(self, kem: Kem, aead: Aead, shared: bytes, info: bytes, enc: bytes) -> None:
        """KeySchedule in mode_base (RFC 9180 section 5.1)."""
        self.enc = enc
        self._suite_id = _suite_id(kem, aead)
        schedule = _schedule(kem, aead, info)
        key, base_nonce, self._exporter_secret = derive(
            shared, schedule.secret, schedule.key, schedule.base_nonce, schedule.exporter
        )
        super().__init__(aead, key[: aead.key_bytes], base_nonce[:NONCE_BYTES])

    def export(self, context: bytes, length: int) -> bytes:
        """Return a secret that both ends share, for `context` (RFC 9180 section 5.3)."""
        return _labeled_expand(self._suite_id, self._exporter_secret, b"sec", context, length)


def _suite_id(kem: Kem, aead: Aead) -> bytes:
    return b"HPKE" + kem.to_bytes(2) + KDF_HKDF_SHA256.to_bytes(2) + aead.to_bytes(2)


@lru_cache(maxsize=64)
def _schedule(kem: Kem, aead: Aead, info: bytes) -> _Schedule:
    """Prepare the key schedule for all contexts of one key configuration (RFC 9180 section 5.1)."""
    suite_id = _suite_id(kem, aead)
    psk_id_hash = _labeled_extract(suite_id, b"", b"psk_id_hash", b"")
    context = b"\x00" + psk_id_hash + _labeled_extract(suite_id, b"", b"info_hash", info)  # mode_base
    return _Schedule(
        _VERSION + suite_id + b"secret",
        _labeled_info(suite_id, b"key", context, aead.key_bytes),
        _labeled_info(suite_id, b"base_nonce", context, NONCE_BYTES),
        _labeled_info(suite_id, b"exp", context, SHARED_BYTES),
    )


def setup_sender(
    kem: Kem, public: bytes, info: bytes, aead: Aead, *, ephemeral: X25519PrivateKey | None = None
) -> Context:
    """SetupBaseS (RFC 9180 section 5.1.1); `ephemeral` is for test vectors only."""
    shared, enc = encapsulate(kem, public, ephemeral)
    return Context(kem, aead, shared, info, enc)


def setup_recipient(private: PrivateKey, enc: bytes, info: bytes, aead: Aead) -> Context:
    """SetupBaseR (RFC 9180 section 5.1.1)."""
    return Context(private.kem, aead, private.decapsulate(enc), info, enc)


def _unopenable() -> ChannelError:
    """One error for every cause, so that nobody learns which check failed."""
    return ChannelError("channel.unopenable", "this message was not sealed to this key, or was changed on its way")
