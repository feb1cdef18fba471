"""How a file becomes an encrypted object: segments of 16 MiB, each one C2SP chunked-encryption message.

Follows c2sp.org/chunked-encryption v1 in its Cobblestone-256 form (HKDF-Expand with SHA-512, AES-256-GCM, chunks of
16 KiB), as `cryptography` ships it, and `docs/spec/capsule.md`, "Objects". A segment stands alone, so that many can be
sealed and opened at once, in any order.

Invariants:

- Every segment gets a fresh random salt, hence a fresh AES key and nonce, however often it is sealed again.
- A segment's place (capsule, object, file length, index) is in its key derivation: anywhere else it does not open.
- Plaintext is handed out only after its whole segment was authenticated; on a failure the destination is wiped.

Example:
    >>> place = Place(bytes(16), bytes(16), size=5, index=0)
    >>> sealed = bytearray()
    >>> header = seal(bytes(32), place, [b"hello"], sealed.extend)
    >>> len(sealed) == object_size(5)
    True
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from cryptography.cobblestone import Cobblestone256Decryptor, Cobblestone256Encryptor
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from mitai.errors import CapsuleError

SEGMENT_BYTES = 16 << 20
BLOCK_BYTES = 256 << 10  # what is read, encrypted and written at once: it stays in the processor's cache
CHUNK_BYTES = 16 << 10
TAG_BYTES = 16
SALT_BYTES = 24
HEADER_BYTES = SALT_BYTES + 32  # salt, key commitment
DATA_KEY_BYTES = 32
KEY_CHECK_BYTES = 32

_SEGMENT_LABEL = b"mitai capsule segment v1"
_KEY_CHECK_LABEL = b"mitai capsule key check v1"
_ENCRYPT_ROOM = BLOCK_BYTES + BLOCK_BYTES // 1024 + 16456  # from the documentation of `update_into`
_DECRYPT_ROOM = 16400


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
    """Return the ciphertext bytes of a segment of `plain` bytes: header, chunks, a last chunk that is always short."""
    return HEADER_BYTES + plain + TAG_BYTES * (plain // CHUNK_BYTES + 1)


def offset(index: int) -> int:
    """Return where segment `index` starts in its object."""
    return index * sealed_size(SEGMENT_BYTES)


def object_size(size: int) -> int:
    """Return the bytes of the whole object of a file of `size` bytes."""
    last = count(size) - 1
    return offset(last) + sealed_size(plain_size(size, last))


def key_check(data_key: bytes, capsule_id: bytes) -> bytes:
    """Return the value in the manifest that tells a wrong data key at once."""
    return HKDFExpand(SHA256(), KEY_CHECK_BYTES, _KEY_CHECK_LABEL + b"\0" + capsule_id).derive(data_key)


def seal(
    data_key: bytes,
    place: Place,
    blocks: Iterable[bytes | memoryview],
    write: Callable[[memoryview], object],
) -> bytes:
    """Encrypt one segment from blocks of at most `BLOCK_BYTES` and return its header (salt and commitment)."""
    encryptor = Cobblestone256Encryptor(data_key, place.context())
    room = bytearray(_ENCRYPT_ROOM)
    header = b""
    with memoryview(room) as sealed:
        for block in blocks:
            made = encryptor.update_into(block, sealed)
            header = header or bytes(sealed[:made][:HEADER_BYTES])
            write(sealed[:made])
    rest = encryptor.finalize()
    write(memoryview(rest))
    return header or rest[:HEADER_BYTES]


def open_into(
    data_key: bytes,
    place: Place,
    commitment: bytes,
    blocks: Iterable[bytes],
    plain: memoryview,
) -> None:
    """Decrypt one segment into `plain`, which has exactly its size, or wipe `plain` and raise `CapsuleError`.

    Args:
        data_key: The capsule's key.
        place: Where the manifest says that this segment belongs.
        commitment: The segment's key commitment, from the manifest.
        blocks: The whole ciphertext; the first block holds the header.
        plain: Destination.

    Raises:
        CapsuleError: `capsule.object-swapped` when another object, segment or revision lies here;
            `capsule.object-damaged` when its bytes were changed.
    """
    try:
        _open_into(data_key, place, commitment, blocks, plain)
    except BaseException:
        wipe(plain)
        raise


def _open_into(data_key: bytes, place: Place, commitment: bytes, blocks: Iterable[bytes], plain: memoryview) -> None:
    decryptor = Cobblestone256Decryptor(data_key, place.context())
    done, size = 0, len(plain)
    first = True
    try:
        for block in blocks:
            if first:
                check_header(bytes(block[:HEADER_BYTES]), place, commitment)
                first = False
            if size - done >= len(block) + _DECRYPT_ROOM:
                done += decryptor.update_into(block, plain[done:])
            else:
                made = decryptor.update(block)
                plain[done : done + len(made)] = made
                done += len(made)
        made = decryptor.finalize()
        plain[done : done + len(made)] = made
    except InvalidTag as error:
        raise damaged(place) from error


def check_header(header: bytes, place: Place, commitment: bytes) -> None:
    """Raise `capsule.object-swapped` unless a segment's header carries the commitment that the manifest pins."""
    if not hmac.compare_digest(header[SALT_BYTES:HEADER_BYTES], commitment):
        raise CapsuleError(
            "capsule.object-swapped",
            f"segment {place.index} of object {place.object_id.hex()} is not the one that the manifest names",
            step="commitment",
            hint="it comes from another object, place or revision",
        )


def wipe(buffer: memoryview) -> None:
    """Overwrite a buffer with zeros."""
    zeros = bytes(min(BLOCK_BYTES, len(buffer)))
    for position in range(0, len(buffer), BLOCK_BYTES):
        part = buffer[position : position + BLOCK_BYTES]
        part[:] = zeros[: len(part)]


def damaged(place: Place) -> CapsuleError:
    """Return the error for a segment whose bytes do not authenticate."""
    return CapsuleError(
        "capsule.object-damaged",
        f"segment {place.index} of object {place.object_id.hex()} does not authenticate: bytes were changed",
        step="decryption",
    )
