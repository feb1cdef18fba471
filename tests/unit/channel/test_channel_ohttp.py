"""Oblivious HTTP: key configurations, and what happens to messages that were changed, cut, reordered or mixed up."""

from __future__ import annotations

import pytest

from mitai.channel import ohttp
from mitai.channel.frames import FrameReader
from mitai.channel.hpke import Aead, Kem
from mitai.channel.keys import KeyRing
from mitai.channel.ohttp import CHUNKED, ONE_SHOT, KeyConfig, RequestOpener, RequestSealer
from mitai.errors import ChannelError, KeysChangedError, ParseError

FORMS = pytest.mark.parametrize("form", [CHUNKED, ONE_SHOT], ids=["chunked", "one-shot"])


@pytest.fixture
def ring():
    return KeyRing.generate()


def client(ring, form=CHUNKED):
    return RequestSealer(KeyConfig.decode(ring.current_config()), form)


def read(opener, *pieces):
    plain = [chunk for piece in pieces for chunk in opener.feed(piece)]
    return b"".join(plain + list(opener.finish()))


def refused(opener, *pieces, code="channel.unopenable"):
    with pytest.raises(ChannelError) as caught:
        read(opener, *pieces)
    assert caught.value.code == code
    for again in (lambda: list(opener.feed(b"x")), lambda: list(opener.finish())):
        with pytest.raises(ChannelError):
            again()


# --- key configurations ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kem", list(Kem))
def test_key_config_round_trip(kem):
    config = KeyConfig(7, kem, b"p" * kem.public_bytes, (Aead.AES_256_GCM, Aead.CHACHA20_POLY1305))
    assert KeyConfig.decode(config.encode()) == config
    assert ohttp.decode_keys(ohttp.encode_keys([config.encode()] * 2)) == [config, config]


def test_algorithms_that_we_lack_are_left_out():
    config = bytes.fromhex("010020" + "aa" * 32 + "000c000200010001ffff00010002")
    assert KeyConfig.decode(config).aeads == (Aead.AES_256_GCM,)
    unknown_kem = bytes.fromhex("010010") + b"p" * 65 + bytes.fromhex("000400010001")
    assert ohttp.decode_keys(ohttp.encode_keys([unknown_kem, config])) == [KeyConfig.decode(config)]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ("", "channel.key-config-unsupported"),
        ("01", "channel.key-config-unsupported"),
        ("010010" + "aa" * 65 + "000400010002", "channel.key-config-unsupported"),
        ("010020" + "aa" * 32 + "000400020002", "channel.key-config-unsupported"),
        ("010020" + "aa" * 32 + "00040001ffff", "channel.key-config-unsupported"),
        ("010020" + "aa" * 31, "channel.key-config-malformed"),
        ("010020" + "aa" * 32, "channel.key-config-malformed"),
        ("010020" + "aa" * 32 + "00", "channel.key-config-malformed"),
        ("010020" + "aa" * 32 + "0000", "channel.key-config-malformed"),
        ("010020" + "aa" * 32 + "0003000100", "channel.key-config-malformed"),
        ("010020" + "aa" * 32 + "000800010002", "channel.key-config-malformed"),
        ("010020" + "aa" * 32 + "00040001000200", "channel.key-config-malformed"),
    ],
)
def test_key_configs_that_are_refused(data, code):
    with pytest.raises(ParseError) as caught:
        KeyConfig.decode(bytes.fromhex(data))
    assert caught.value.code == code


@pytest.mark.parametrize("data", ["00", "0029", "0001", "0002aa", "002a010020" + "aa" * 32 + "00040001000200"])
def test_key_lists_that_are_refused(data):
    with pytest.raises(ParseError) as caught:
        ohttp.decode_keys(bytes.fromhex(data))
    assert caught.value.code == "channel.key-config-malformed"


# --- exchanges -------------------------------------------------------------------------------------------------------


@FORMS
@pytest.mark.parametrize("kem", ["x25519", "x-wing"])
@pytest.mark.parametrize("step", [1, 100, 1 << 20])
def test_exchange(form, kem, step):
    ring = KeyRing.generate(kem)
    sealer, opener = client(ring, form), RequestOpener(ring.find, form)
    wire = b"".join(sealer.seal_message(b"head", b"c" * 3000, bytes(10), chunk_bytes=1000))
    pieces = [wire[at : at + step] for at in range(0, len(wire), step)]
    assert read(opener, *pieces) == b"head" + b"c" * 3000 + bytes(10)
    answer = opener.response_sealer()
    wire = b"".join(answer.seal_message(b"answer" * 500, chunk_bytes=1000))
    pieces = [wire[at : at + step] for at in range(0, len(wire), step)]
    assert read(sealer.response_opener(), *pieces) == b"answer" * 500


def test_equal_chunks_hide_where_the_parts_end(ring):
    def lengths(*parts):
        return [len(wire) for wire in client(ring).seal_message(*parts, chunk_bytes=64)]

    assert lengths(b"h" * 10, b"c" * 150) == lengths(b"h" * 150, b"", b"c" * 10)


def test_chunks_that_are_kept_stay_as_they_were(ring):
    """On either end, whether a chunk is kept whole or in part; memory is used again only for those that are let go."""
    message = bytes(range(256)) * 4
    sealed, opened, kept = bytearray(), bytearray(), []
    opener = RequestOpener(ring.find)
    for at, wire in enumerate(client(ring).seal_message(message, chunk_bytes=100)):
        sealed += wire
        for chunk in opener.feed(wire):
            opened += chunk
            kept += [(wire, bytes(wire)), (chunk[3:5], bytes(chunk[3:5]))] if at % 3 else []
    opened += b"".join(opener.finish())
    assert opened == message == read(RequestOpener(ring.find), sealed)
    assert kept
    assert all(view == was for view, was in kept)


@FORMS
def test_an_empty_message_is_its_final_chunk(ring, form):
    assert read(RequestOpener(ring.find, form), *client(ring, form).seal_message()) == b""


def test_the_ciphers_of_a_configuration():
    for aead in Aead:
        ring = KeyRing.generate(aeads=(aead,))
        sealer, opener = client(ring), RequestOpener(ring.find)
        assert read(opener, *sealer.seal_message(b"q")) == b"q"
        assert read(sealer.response_opener(), *opener.response_sealer().seal_message(b"a")) == b"a"


def chunks(sealer):
    header_and_first = sealer.seal(b"one")
    return [header_and_first, sealer.seal(b"two"), sealer.seal(b"three"), sealer.seal(b"end", final=True)]


@pytest.fixture(params=["request", "response"])
def stream(request, ring):
    """Four chunks and a fresh opener for them, in each direction."""
    sealer = client(ring)
    if request.param == "request":
        return chunks(sealer), RequestOpener(ring.find)
    opener = RequestOpener(ring.find)
    read(opener, *sealer.seal_message(b"q"))
    return chunks(opener.response_sealer()), sealer.response_opener()


def test_untouched(stream):
    wire, opener = stream
    assert read(opener, *wire) == b"onetwothreeend"


def test_reordered(stream):
    wire, opener = stream
    refused(opener, wire[0], wire[2], wire[1], wire[3])


def test_duplicated(stream):
    wire, opener = stream
    refused(opener, wire[0], wire[1], wire[1], wire[2], wire[3])


def test_removed(stream):
    wire, opener = stream
    refused(opener, wire[0], wire[2], wire[3])


def test_appended(stream):
    wire, opener = stream
    refused(opener, *wire, b"\x00")


def test_appended_chunk(stream):
    wire, opener = stream
    refused(opener, *wire, wire[1])


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_cut_between_chunks(stream, kept):
    wire, opener = stream
    refused(opener, *wire[:kept], code="channel.truncated")


def test_cut_anywhere(ring):
    wire = b"".join(chunks(client(ring)))
    for cut in range(len(wire)):
        with pytest.raises(ChannelError) as caught:
            read(RequestOpener(ring.find), wire[:cut])
        assert caught.value.code in ("channel.truncated", "channel.unopenable")


def test_a_chunk_that_claims_to_be_final(stream):
    wire, opener = stream
    middle = bytes(wire[1])
    refused(opener, wire[0], b"\x00" + middle[1:])


def test_a_final_chunk_that_claims_not_to_be(stream):
    wire, opener = stream
    final = bytes(wire[3])
    refused(opener, *wire[:3], bytes((len(final) - 1,)) + final[1:])


def test_an_empty_chunk_that_is_not_final(stream, ring):
    sealer = client(ring)
    refused(RequestOpener(ring.find), sealer.seal(b""))


def test_a_chunk_above_the_limit(ring):
    wire = client(ring).seal(b"x" * 101)
    refused(RequestOpener(ring.find, limit=100), wire[:60], code="channel.too-large")
    final = b"".join(client(ring).seal_message(b"x" * 101))
    refused(RequestOpener(ring.find, limit=100), final, code="channel.too-large")
    assert read(RequestOpener(ring.find, limit=101), final) == b"x" * 101


def test_a_one_shot_message_is_no_chunked_one(ring):
    for sealed_as, opened_as in ((CHUNKED, ONE_SHOT), (ONE_SHOT, CHUNKED)):
        wire = b"".join(client(ring, sealed_as).seal_message(b"q" * 200))
        with pytest.raises(ChannelError):
            read(RequestOpener(ring.find, opened_as), wire)


def test_an_answer_opens_only_for_its_request(ring):
    one, two = client(ring), client(ring)
    opener = RequestOpener(ring.find)
    read(opener, *one.seal_message(b"q"))
    answer = b"".join(opener.response_sealer().seal_message(b"a"))
    refused(two.response_opener(), answer)
    assert read(one.response_opener(), answer) == b"a"


def test_two_answers_to_one_request_have_different_keys(ring):
    opener = RequestOpener(ring.find)
    read(opener, *client(ring).seal_message(b"q"))
    assert opener.response_sealer().seal(b"a") != opener.response_sealer().seal(b"a")


def test_no_answer_before_the_request(ring):
    opener = RequestOpener(ring.find)
    assert opener.enc == b""
    with pytest.raises(ChannelError):
        opener.response_sealer()


@pytest.mark.parametrize("at", range(7))
def test_unknown_key_or_suite(ring, at):
    wire = bytearray(b"".join(client(ring).seal_message(b"q")))
    wire[at] ^= 0x40
    with pytest.raises(KeysChangedError) as caught:
        list(RequestOpener(ring.find).feed(wire))
    assert caught.value.code == "channel.keys-changed"


def test_an_unknown_key_is_refused_at_the_first_byte(ring):
    key_id = KeyConfig.decode(ring.current_config()).key_id
    with pytest.raises(KeysChangedError):
        list(RequestOpener(ring.find).feed(bytes((key_id ^ 1,))))


def test_frames_on_eight_bytes():
    reader = FrameReader("varint")
    assert [bytes(f) for f in reader.feed(bytes.fromhex("c000000000000011") + b"x" * 17)] == [b"x" * 17]


def test_an_announced_frame_is_refused_before_it_arrives():
    with pytest.raises(ChannelError) as caught:
        list(FrameReader("varint").feed(b"\xff" * 8))
    assert caught.value.code == "channel.too-large"
