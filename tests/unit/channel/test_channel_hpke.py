"""HPKE contexts: what the vectors don't show."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from mitai.channel import hpke
from mitai.channel.hpke import Aead, Kem, PrivateKey
from mitai.errors import ChannelError, ParseError

KEMS = pytest.mark.parametrize("kem", list(Kem))


def pair(kem=Kem.X25519, aead=Aead.AES_256_GCM, info=b"info"):
    private = PrivateKey.generate(kem)
    sender = hpke.setup_sender(kem, private.public, info, aead)
    return private, sender, hpke.setup_recipient(private, sender.enc, info, aead)


@KEMS
@pytest.mark.parametrize("aead", list(Aead))
def test_many_messages_in_order(kem, aead):
    _, sender, recipient = pair(kem, aead)
    for i in range(3):
        assert recipient.open(sender.seal(b"message %d" % i, b"aad"), b"aad") == b"message %d" % i
    assert sender.export(b"x", 64) == recipient.export(b"x", 64)


def test_seal_into_is_seal():
    private, _, _ = pair()
    ephemeral = X25519PrivateKey.generate()
    one, two = (
        hpke.setup_sender(Kem.X25519, private.public, b"", Aead.AES_128_GCM, ephemeral=ephemeral) for _ in range(2)
    )
    buffer = bytearray(5 + 16)
    two.seal_into(b"hello", b"aad", memoryview(buffer))
    assert one.seal(b"hello", b"aad") == buffer


@pytest.mark.parametrize("aead", list(Aead))
def test_open_into_is_open(aead):
    private = PrivateKey.generate(Kem.X25519)
    sender = hpke.setup_sender(Kem.X25519, private.public, b"", aead)
    recipient = hpke.setup_recipient(private, sender.enc, b"", aead)
    first, second = sender.seal(b"first", b"aad"), sender.seal(b"second", b"aad")
    buffer = memoryview(bytearray(6))
    for bad, size in ((second, 6), (first[:-1], 4), (first, 6), (b"", 0), (first[:10], 0)):
        with pytest.raises(ChannelError) as caught:
            recipient.open_into(bad, b"aad", buffer[:size])
        assert caught.value.code == "channel.unopenable"
    recipient.open_into(first, b"aad", buffer[:5])
    assert buffer[:5] == b"first"
    assert recipient.open(second, b"aad") == b"second"


def test_order_matters_and_a_failure_does_not_advance():
    _, sender, recipient = pair()
    first, second = sender.seal(b"1"), sender.seal(b"2")
    with pytest.raises(ChannelError) as caught:
        recipient.open(second)
    assert caught.value.code == "channel.unopenable"
    assert recipient.open(first) == b"1"
    assert recipient.open(second) == b"2"


@pytest.mark.parametrize("data", [b"", b"x" * 15, b"x" * 16])
def test_too_short_for_a_tag(data):
    _, _, recipient = pair()
    with pytest.raises(ChannelError) as caught:
        recipient.open(data)
    assert caught.value.code == "channel.unopenable"


@KEMS
def test_another_info_or_key_opens_nothing(kem):
    private, sender, _ = pair(kem)
    sealed = sender.seal(b"secret")
    for other, info in ((private, b"other"), (PrivateKey.generate(kem), b"info")):
        with pytest.raises(ChannelError):
            hpke.setup_recipient(other, sender.enc, info, Aead.AES_256_GCM).open(sealed)


def test_another_encoding_of_the_encapsulated_key_opens_nothing():
    """X25519 ignores the top bit, so two encodings give one shared secret: the key schedule must tell them apart."""
    private, sender, _ = pair()
    twin = sender.enc[:-1] + bytes((sender.enc[-1] ^ 0x80,))
    with pytest.raises(ChannelError):
        hpke.setup_recipient(private, twin, b"info", Aead.AES_256_GCM).open(sender.seal(b"secret"))


def test_a_sequence_that_is_used_up_refuses():
    _, sender, recipient = pair()
    sender._sequence = recipient._sequence = (1 << 96) - 1
    for use in (sender.seal, recipient.open):
        with pytest.raises(ChannelError) as caught:
            use(b"x" * 20)
        assert caught.value.code == "channel.sequence-overflow"


@KEMS
def test_public_keys_of_wrong_length_or_low_order_are_refused(kem):
    for public in (b"", b"\x01" * 31, bytes(kem.public_bytes + 1), bytes(kem.public_bytes)):
        with pytest.raises(ParseError) as caught:
            hpke.encapsulate(kem, public)
        assert caught.value.code == "channel.key-malformed"


@KEMS
def test_encapsulated_keys_of_wrong_length_or_low_order_are_refused(kem):
    private = PrivateKey.generate(kem)
    for enc in (b"", bytes(kem.enc_bytes - 1), bytes(kem.enc_bytes + 1), bytes(kem.enc_bytes)):
        with pytest.raises(ChannelError) as caught:
            private.decapsulate(enc)
        assert caught.value.code == "channel.unopenable"


def test_an_ml_kem_key_out_of_range_is_refused():
    with pytest.raises(ParseError) as caught:
        hpke.encapsulate(Kem.X_WING, b"\xff" * 1184 + PrivateKey.generate(Kem.X25519).public)
    assert caught.value.code == "channel.key-malformed"


@KEMS
def test_seeds(kem):
    assert PrivateKey.from_seed(kem, b"s" * 32).public == PrivateKey.from_seed(kem, b"s" * 32).public
    with pytest.raises(ParseError):
        PrivateKey.from_seed(kem, b"s" * 31)


def test_a_private_key_does_not_print_itself():
    private = PrivateKey.from_seed(Kem.X25519, b"s" * 32)
    assert repr(private) == "PrivateKey(X25519)"


@pytest.mark.parametrize(
    ("salt", "key_material", "info", "block"),
    [
        (
            bytes(range(13)),
            b"\x0b" * 22,
            bytes(range(0xF0, 0xFA)),
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf",
        ),
        (
            bytes(range(0x60, 0xB0)),
            bytes(range(0x50)),
            bytes(range(0xB0, 0x100)),
            "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c",
        ),
        (b"", b"\x0b" * 22, b"", "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"),
    ],
)
def test_hkdf_of_rfc_5869(salt, key_material, info, block):
    """Appendices A.1 to A.3: the first block."""
    assert hpke.derive(salt, key_material, info, info) == [bytes.fromhex(block)] * 2
    assert hpke.expand(hpke.extract(salt, key_material), info, 64)[:32].hex() == block
