"""Segments: sizes, and the format read by an independent implementation of AES-GCM-HKDF streaming."""

from __future__ import annotations

import os

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256, SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from mitai.capsule import segments
from mitai.capsule.segments import CHUNK_BYTES, SEGMENT_BYTES, Place
from mitai.errors import CapsuleError

KEY = bytes(range(32))
FIRST = CHUNK_BYTES - 40 - 16  # plaintext bytes of the first chunk
REST = CHUNK_BYTES - 16  # and of every other one


def sealed(content: bytes, place: Place) -> bytes:
    made = bytearray(segments.sealed_size(len(content)))
    segments.seal(KEY, place, [content[start:end] for start, end in segments.cuts(len(content))], memoryview(made))
    return bytes(made)


def read_by_the_specification(key: bytes, associated: bytes, message: bytes) -> bytes:
    """Tink, "AES-GCM-HKDF Streaming AEAD": header is length ‖ salt ‖ prefix; nonce is prefix ‖ number ‖ last."""
    length, salt, prefix = message[0], message[1:33], message[33:40]
    assert length == 40
    cipher = AESGCM(HKDF(SHA256(), 32, salt, associated).derive(key))
    plain, position, number = b"", 0, 0
    while position < len(message):
        begin = 40 if number == 0 else position
        end = position + CHUNK_BYTES
        last = end >= len(message)
        nonce = prefix + number.to_bytes(4, "big") + (b"\1" if last else b"\0")
        plain += cipher.decrypt(nonce, message[begin:end], None)
        position, number = end, number + 1
    return plain


@pytest.mark.parametrize("size", [0, 1, 5, FIRST - 1, FIRST, FIRST + 1, FIRST + REST, FIRST + REST + 1, 3 << 20])
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
    segments.open_into(KEY, place, message[1:33], memoryview(message), memoryview(plain))
    assert plain == content


@pytest.mark.parametrize("change", [lambda m: m + b"x", lambda m: m[:-1], lambda m: m + m, lambda m: m[: FIRST + 56]])
def test_a_longer_or_shorter_message_does_not_open(change):
    place = Place(b"c" * 16, b"o" * 16, FIRST + 100, 0)
    message = sealed(bytes(FIRST + 100), place)
    plain = bytearray(b"x" * (FIRST + 100))
    with pytest.raises(CapsuleError) as caught:
        segments.open_into(KEY, place, message[1:33], memoryview(change(message)), memoryview(plain))
    assert caught.value.code == "capsule.object-damaged"
    assert not any(plain)


@pytest.mark.parametrize("position", [0, 1, 32])
def test_a_changed_header_is_another_segment(position):
    place = Place(b"c" * 16, b"o" * 16, 5, 0)
    message = bytearray(sealed(b"hello", place))
    salt = bytes(message[1:33])
    message[position] ^= 1
    with pytest.raises(CapsuleError) as caught:
        segments.open_into(KEY, place, salt, memoryview(message), memoryview(bytearray(5)))
    assert caught.value.code == "capsule.object-swapped"


def test_the_key_check_is_as_specified():
    expected = HKDFExpand(SHA512(), 32, b"x").derive(KEY)
    assert segments.key_check(KEY, bytes(16)) != expected
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
    assert (SEGMENT_BYTES, segments.offset(1)) == (16_776_920, 16 << 20)  # the numbers in the specification


def test_every_encryption_has_its_own_salt():
    place = Place(bytes(16), bytes(16), 5, 0)
    assert len({sealed(b"hello", place)[1:33] for _ in range(100)}) == 100


@pytest.mark.parametrize(
    "other",
    [
        Place(b"x" * 16, b"o" * 16, 5, 0),
        Place(b"c" * 16, b"x" * 16, 5, 0),
        Place(b"c" * 16, b"o" * 16, SEGMENT_BYTES + 5, 1),
    ],
)
def test_a_segment_opens_at_its_place_only(other):
    """Even with the salt granted, the context differs: the message does not open."""
    message = sealed(b"hello", Place(b"c" * 16, b"o" * 16, 5, 0))
    plain = bytearray(b"xxxxx")
    with pytest.raises(CapsuleError) as caught:
        segments.open_into(KEY, other, message[1:33], memoryview(message), memoryview(plain))
    assert caught.value.code == "capsule.object-damaged"
    assert plain == bytes(5)


def test_wiping_covers_every_byte():
    for size in (0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES - 1):
        buffer = bytearray(b"x" * size)
        segments.wipe(memoryview(buffer))
        assert not any(buffer)
