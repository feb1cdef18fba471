"""Segments: sizes, and the format read by an independent implementation of C2SP chunked-encryption."""

from __future__ import annotations

import os

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from mitai.capsule import segments
from mitai.capsule.segments import BLOCK_BYTES, CHUNK_BYTES, HEADER_BYTES, SEGMENT_BYTES, Place
from mitai.errors import CapsuleError

KEY = bytes(range(32))


def sealed(content: bytes, place: Place) -> bytes:
    made = bytearray()
    blocks = [content[at : at + BLOCK_BYTES] for at in range(0, len(content), BLOCK_BYTES)]
    header = segments.seal(KEY, place, blocks, made.extend)
    assert header == made[:HEADER_BYTES]
    return bytes(made)


def read_by_the_specification(key: bytes, context: bytes, message: bytes) -> bytes:
    """c2sp.org/chunked-encryption, "Key derivation", "Message chunking", "AEAD usage", with SHA-512 and AES-256-GCM."""
    salt, commitment, rest = message[:24], message[24:56], message[56:]
    info = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0" + salt + context
    derived = HKDFExpand(SHA512(), 32 + 12 + 32, info).derive(key)
    assert derived[44:] == commitment
    cipher, base = AESGCM(derived[:32]), int.from_bytes(derived[32:44], "big")
    plain = b""
    for number in range(len(rest) // (CHUNK_BYTES + 16) + 1):
        chunk = rest[number * (CHUNK_BYTES + 16) : (number + 1) * (CHUNK_BYTES + 16)]
        plain += cipher.decrypt((base ^ number).to_bytes(12, "big"), chunk, None)
    assert len(chunk) < CHUNK_BYTES + 16
    return plain


@pytest.mark.parametrize("size", [0, 1, 5, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, BLOCK_BYTES, BLOCK_BYTES + 9])
def test_an_independent_reader_of_the_specification_reads_a_segment(size):
    content = os.urandom(size)
    place = Place(b"c" * 16, b"o" * 16, size, 0)
    context = (
        b"mitai capsule segment v1\0" + b"c" * 16 + b"o" * 16 + size.to_bytes(8, "big") + bytes(4)
    )  # docs/spec/capsule.md
    message = sealed(content, place)
    assert read_by_the_specification(KEY, context, message) == content
    assert len(message) == segments.sealed_size(size) == segments.object_size(size)
    plain = bytearray(size)
    blocks = [message[at : at + BLOCK_BYTES] for at in range(0, len(message), BLOCK_BYTES)]
    segments.open_into(KEY, place, message[24:56], blocks, memoryview(plain))
    assert plain == content


def test_the_key_check_is_as_specified():
    expected = HKDFExpand(SHA512(), 32, b"x").derive(KEY)
    assert segments.key_check(KEY, bytes(16)) != expected
    from cryptography.hazmat.primitives.hashes import SHA256

    assert segments.key_check(KEY, b"i" * 16) == HKDFExpand(
        SHA256(), 32, b"mitai capsule key check v1\0" + b"i" * 16
    ).derive(KEY)


@pytest.mark.parametrize(
    ("size", "count"),
    [(0, 1), (1, 1), (SEGMENT_BYTES - 1, 1), (SEGMENT_BYTES, 1), (SEGMENT_BYTES + 1, 2), (5 * SEGMENT_BYTES, 5)],
)
def test_sizes(size, count):
    assert segments.count(size) == count
    assert sum(segments.plain_size(size, index) for index in range(count)) == size
    parts = [segments.sealed_size(segments.plain_size(size, index)) for index in range(count)]
    assert [segments.offset(index) for index in range(count)] == [sum(parts[:index]) for index in range(count)]
    assert segments.object_size(size) == sum(parts)
    assert segments.offset(1) == 16_793_672  # the number in the specification


def test_every_encryption_has_its_own_salt():
    place = Place(bytes(16), bytes(16), 5, 0)
    assert len({sealed(b"hello", place)[:24] for _ in range(100)}) == 100


@pytest.mark.parametrize(
    "other",
    [
        Place(b"x" * 16, b"o" * 16, 5, 0),
        Place(b"c" * 16, b"x" * 16, 5, 0),
        Place(b"c" * 16, b"o" * 16, SEGMENT_BYTES + 5, 1),
    ],
)
def test_a_segment_opens_at_its_place_only(other):
    """Even with the commitment granted, the context differs: the message does not open."""
    message = sealed(b"hello", Place(b"c" * 16, b"o" * 16, 5, 0))
    plain = bytearray(b"xxxxx")
    with pytest.raises(CapsuleError) as caught:
        segments.open_into(KEY, other, message[24:56], [message], memoryview(plain))
    assert caught.value.code == "capsule.object-damaged"
    assert plain == bytes(5)


def test_wiping_covers_every_byte():
    for size in (0, 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES - 1):
        buffer = bytearray(b"x" * size)
        segments.wipe(memoryview(buffer))
        assert not any(buffer)
