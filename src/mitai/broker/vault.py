"""Encryption of the broker's state at rest, and the digest that notices any row that is not the newest.

AES-256-GCM under keys that are derived from one root key, which is random; see `roots`.
The set digest is MSet-XOR-Hash (Clarke et al., "Incremental Multiset Hash Functions", ASIACRYPT 2003, section 4): the
XOR of a keyed hash of every row. It is itself kept only encrypted, which the construction needs.

Invariants:

- Every write of a row has a fresh random stamp; its key is derived from kind, tag and stamp, so it is used once.
- Kind, tag and stamp are associated data: a row moved, renamed or mixed from two versions does not open.
- Tags are HMACs of ids: the database shows how many rows there are and which one changed, nothing of what they are.
- A blob's key is derived from its tag, and so from its digest: the same content gives the same ciphertext, and other
  content has another key.

Example:
    >>> vault = Vault(root_key)
    >>> row = vault.seal("capsule", vault.tag("capsule", "c1"), b"state")
    >>> vault.open("capsule", row.tag, row.stamp, row.sealed)
    b'state'
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mitai.errors import BrokerError

STAMP_BYTES = 16
TAG_BYTES = 16
DIGEST_BYTES = 32
_NONCE = bytes(12)  # every key below encrypts exactly one message


@dataclass(frozen=True)
class Row:
    """A row as the database holds it."""

    tag: bytes
    stamp: bytes
    sealed: bytes


class Vault:
    """Seals and opens rows and blobs under one root key (32 bytes)."""

    def __init__(self, root: bytes) -> None:
        if len(root) != 32:
            raise BrokerError("broker.root-key", "the root key of the broker's state has 32 bytes")
        self._tags = _subkey(root, b"mitai broker tags v1")
        self._rows = _subkey(root, b"mitai broker rows v1")
        self._blobs = _subkey(root, b"mitai broker blobs v1")
        self._set = _subkey(root, b"mitai broker set v1")

    def tag(self, kind: str, identifier: str) -> bytes:
        """Return the database's name for a record or blob."""
        return _mac(self._tags, f"{kind}\x00{identifier}".encode())[:TAG_BYTES]

    def seal(self, kind: str, tag: bytes, data: bytes) -> Row:
        """Encrypt a row's new state under a fresh stamp."""
        stamp = secrets.token_bytes(STAMP_BYTES)
        name = _name(kind, tag, stamp)
        return Row(tag, stamp, AESGCM(_mac(self._rows, name)).encrypt(_NONCE, data, name))

    def open(self, kind: str, tag: bytes, stamp: bytes, sealed: bytes) -> bytes:
        """Decrypt the row that was sealed as `kind`, `tag` and `stamp`; raise `BrokerError` when it was not."""
        name = _name(kind, tag, stamp)
        try:
            return AESGCM(_mac(self._rows, name)).decrypt(_NONCE, sealed, name)
        except (InvalidTag, ValueError):
            raise BrokerError(
                "broker.state-damaged", f"a stored {kind} was changed, swapped, or sealed by another machine or code"
            ) from None

    def seal_blob(self, tag: bytes, data: bytes) -> bytes:
        """Encrypt the content that `tag` names: `tag("blob", SHA-256 in hex)`."""
        return AESGCM(_mac(self._blobs, tag)).encrypt(_NONCE, data, tag)

    def open_blob(self, tag: bytes, sealed: bytes) -> bytes:
        """Decrypt the content that `tag` names."""
        try:
            return AESGCM(_mac(self._blobs, tag)).decrypt(_NONCE, sealed, tag)
        except (InvalidTag, ValueError):
            raise BrokerError("broker.state-damaged", "stored content was changed or swapped") from None

    def element(self, tag: bytes, stamp: bytes) -> int:
        """Return a row's share of the set digest; combine with `^`."""
        return int.from_bytes(_mac(self._set, tag + stamp))


def _name(kind: str, tag: bytes, stamp: bytes) -> bytes:
    return b"%b\x00%b%b" % (kind.encode(), tag, stamp)


def _mac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, hashlib.sha256)


def _subkey(root: bytes, label: bytes) -> bytes:
    return _mac(root, label)
