"""How a file becomes an encrypted object: segments of 16 MiB, each one an AES-GCM-HKDF streaming message.

Follows Tink's "AES-GCM-HKDF Streaming AEAD" (developers.google.com/tink/streaming-aead/aes_gcm_hkdf_streaming) with
AES-256-GCM, HKDF-SHA-256 and chunks of 1 MiB of ciphertext, and `docs/spec/capsule.md`, "Objects". It is the STREAM
construction of Hoang, Reyhanitabar, Rogaway and Vizár (2015). A segment stands alone, so that many can be sealed and
opened at once, in any order, on all processors: AES on a mebibyte lets go of the interpreter's lock.

Invariants:

- Every segment gets a fresh random salt, hence a fresh AES key, however often it is sealed again.
- A segment's place (capsule, object, file length, index) is in its key derivation: anywhere else it does not open.
- The manifest pins each salt and a check value of the data key; with the place they fix the segment's AES key.
- Plaintext is handed out only after its whole segment was authenticated; on a failure the destination is wiped.

Example:
    >>> place = Place(bytes(16), bytes(16), size=5, index=0)
    >>> sealed = memoryview(bytearray(object_size(5)))
    >>> seal(bytes(32), place, [b"hello"], sealed)
    >>> open_into(bytes(32), place, pinned(sealed), sealed, memoryview(plain := bytearray(5)))
    >>> plain
    bytearray(b'hello')
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from mitai.errors import CapsuleError

SEALED_BYTES = 16 << 20  # a full segment's ciphertext: header, chunks, tags
CHUNK_BYTES = 1 << 20  # of ciphertext, tag included; the first chunk's share of a segment includes the header
TAG_BYTES = 16
SALT_BYTES = 32
PREFIX_BYTES = 7  # of each nonce; after it the chunk's number in 4 bytes, and 1 for the last chunk
HEADER_BYTES = 1 + SALT_BYTES + PREFIX_BYTES  # its own length, salt, nonce prefix
SEGMENT_BYTES = SEALED_BYTES - HEADER_BYTES - SEALED_BYTES // CHUNK_BYTES * TAG_BYTES  # a full segment's plaintext
DATA_KEY_BYTES = 32
KEY_CHECK_BYTES = 32
ID_BYTES = 16

_SEGMENT_LABEL = b"mitai capsule segment v1"
_KEY_CHECK_LABEL = b"mitai capsule key check v1"
_ID_LABEL = b"mitai capsule id v1"


@dataclass(frozen=True)
class Place:
    """Where a segment belongs: capsule id (16 bytes), object id (16 bytes), the file's size in bytes, and the index."""

    capsule_id: bytes
    object_id: bytes
    size: int
    index: int

    @property
    def length(self) -> int:
        """How many plaintext bytes the segment has."""
        return plain_size(self.size, self.index)

    def context(self) -> bytes:
        """Return the context for the key derivation: fixed lengths, so that no two places share one."""
        return b"%b\0%b%b%b%b" % (
            _SEGMENT_LABEL,
            self.capsule_id,
            self.object_id,
            self.size.to_bytes(8, "big"),
            self.index.to_bytes(4, "big"),
        )


def count(size: int) -> int:
    """Return how many segments a file of `size` bytes has; an empty file has one, empty."""
    return max(1, -(-size // SEGMENT_BYTES))


def plain_size(size: int, index: int) -> int:
    """Return how many plaintext bytes segment `index` of a file of `size` bytes holds."""
    return min(SEGMENT_BYTES, size - index * SEGMENT_BYTES)


def sealed_size(plain: int) -> int:
    """Return the ciphertext bytes of a segment of `plain` bytes: header, and a tag for each chunk."""
    return HEADER_BYTES + plain + TAG_BYTES * count_chunks(plain)


def count_chunks(plain: int) -> int:
    """Return how many chunks a segment of `plain` bytes has; an empty one has one, empty."""
    return max(1, -(-(HEADER_BYTES + plain) // (CHUNK_BYTES - TAG_BYTES)))


def cuts(plain: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of the plaintext of each chunk of a segment of `plain` bytes; there is at least one."""
    start, end = 0, min(plain, CHUNK_BYTES - TAG_BYTES - HEADER_BYTES)
    yield start, end
    while end < plain:
        start, end = end, min(plain, end + CHUNK_BYTES - TAG_BYTES)
        yield start, end


def offset(index: int) -> int:
    """Return where segment `index` starts in its object."""
    return index * SEALED_BYTES


def object_size(size: int) -> int:
    """Return the bytes of the whole object of a file of `size` bytes."""
    last = count(size) - 1
    return offset(last) + sealed_size(plain_size(size, last))


def new_id(data_key: bytes, owner: bytes) -> bytes:
    """Return the id of the capsule that begins with this data key: nobody else can make one of the same id.

    Args:
        data_key: The capsule's first.
        owner: The raw public key of who seals it.
    """
    return HKDFExpand(SHA256(), ID_BYTES, _ID_LABEL + b"\0" + owner).derive(data_key)


def key_check(data_key: bytes, capsule_id: bytes) -> bytes:
    """Return the value in the manifest that tells a wrong data key at once."""
    return HKDFExpand(SHA256(), KEY_CHECK_BYTES, _KEY_CHECK_LABEL + b"\0" + capsule_id).derive(data_key)


def seal(data_key: bytes, place: Place, blocks: Iterable[bytes | memoryview], sealed: memoryview) -> None:
    """Encrypt one segment from blocks as `cuts` has them into `sealed`, which has exactly its size."""
    header = bytes([HEADER_BYTES]) + secrets.token_bytes(SALT_BYTES + PREFIX_BYTES)
    cipher, last = _cipher(data_key, place, header), count_chunks(place.length) - 1
    sealed[:HEADER_BYTES] = header
    end = HEADER_BYTES
    for number, block in enumerate(blocks):
        start, end = end, end + len(block) + TAG_BYTES
        cipher.encrypt_into(_nonce(header, number, last), block, None, sealed[start:end])


def open_into(data_key: bytes, place: Place, commitment: bytes, sealed: memoryview, plain: memoryview) -> None:
    """Decrypt one segment into `plain`, which has exactly its size, or wipe `plain` and raise `CapsuleError`.

    Args:
        data_key: The capsule's key.
        place: Where the manifest says that this segment belongs.
        commitment: The segment's salt, from the manifest.
        sealed: The whole segment, in memory that nobody else can write to.
        plain: Destination.

    Raises:
        CapsuleError: `capsule.object-swapped` when another object, segment or revision lies here;
            `capsule.object-damaged` when its bytes were changed.
    """
    try:
        _open_into(data_key, place, commitment, sealed, plain)
    except BaseException:
        wipe(plain)
        raise


def _open_into(data_key: bytes, place: Place, commitment: bytes, sealed: memoryview, plain: memoryview) -> None:
    if len(sealed) != sealed_size(len(plain)):
        raise damaged(place)
    header, sealed = bytes(sealed[:HEADER_BYTES]), sealed[HEADER_BYTES:]
    check_header(header, place, commitment)
    cipher, last = _cipher(data_key, place, header), count_chunks(len(plain)) - 1
    try:
        for number, (start, end) in enumerate(cuts(len(plain))):
            chunk = sealed[start + number * TAG_BYTES : end + (number + 1) * TAG_BYTES]
            cipher.decrypt_into(_nonce(header, number, last), chunk, None, plain[start:end])
    except InvalidTag as error:
        raise damaged(place) from error


def _cipher(data_key: bytes, place: Place, header: bytes) -> AESGCM:
    salt = header[1 : 1 + SALT_BYTES]
    return AESGCM(HKDF(SHA256(), 32, salt, place.context()).derive(data_key))


def _nonce(header: bytes, number: int, last: int) -> bytes:
    return header[1 + SALT_BYTES :] + number.to_bytes(4, "big") + bytes([number == last])


def check_header(header: bytes, place: Place, commitment: bytes) -> None:
    """Raise `capsule.object-swapped` unless a segment's header carries the salt that the manifest pins."""
    if header[:1] != bytes([HEADER_BYTES]) or not hmac.compare_digest(pinned(header), commitment):
        raise CapsuleError(
            "capsule.object-swapped",
            f"segment {place.index} of object {place.object_id.hex()} is not the one that the manifest names",
            step="commitment",
            hint="it comes from another object, place or revision",
        )


def pinned(sealed: bytes | memoryview) -> bytes:
    """Return what the manifest pins of a segment: the salt, which with data key and place fixes the AES key."""
    return bytes(sealed[1 : 1 + SALT_BYTES])


def wipe(buffer: memoryview) -> None:
    """Overwrite a buffer with zeros."""
    zeros = bytes(min(CHUNK_BYTES, len(buffer)))
    for position in range(0, len(buffer), CHUNK_BYTES):
        part = buffer[position : position + CHUNK_BYTES]
        part[:] = zeros[: len(part)]


def damaged(place: Place) -> CapsuleError:
    """Return the error for a segment whose bytes do not authenticate."""
    return CapsuleError(
        "capsule.object-damaged",
        f"segment {place.index} of object {place.object_id.hex()} does not authenticate: bytes were changed",
        step="decryption",
    )
