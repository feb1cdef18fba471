"""EHBP bodies: keys, order, damage, and what is refused."""

from __future__ import annotations

import pytest

from mitai.channel import ehbp
from mitai.channel.bhttp import RequestHead
from mitai.channel.hpke import Aead
from mitai.channel.keys import KeyRing
from mitai.channel.ohttp import KeyConfig
from mitai.channel.outgoing import EhbpOutgoing
from mitai.errors import ChannelError, KeysChangedError, ParseError


@pytest.fixture
def ring():
    return KeyRing.generate()


def sealer_of(ring):
    return ehbp.RequestSealer(KeyConfig.decode(ring.current_config()))


def opened(opener, *pieces):
    plain = b"".join(chunk for piece in pieces for chunk in opener.feed(piece))
    opener.finish()
    return plain


def refused(code, opener, *pieces, kind=ChannelError):
    with pytest.raises(kind) as caught:
        opened(opener, *pieces)
    assert caught.value.code == code
    for again in (lambda: opener.feed(b"\x00"), opener.finish):
        with pytest.raises(ChannelError):
            again()


@pytest.fixture(params=["request", "response"])
def stream(request, ring):
    """Three frames and a fresh opener for them, in each direction."""
    sealer = sealer_of(ring)
    opener = ehbp.RequestOpener(ring.live(), sealer.enc)
    frames = [sealer.seal(part) for part in (b"one", b"two", b"three")]
    if request.param == "request":
        return frames, opener
    opened(opener, *frames)
    nonce, answers = opener.response_sealer()
    return [answers.seal(part) for part in (b"one", b"two", b"three")], sealer.response_opener(nonce)


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_in_pieces(stream, step):
    frames, opener = stream
    wire = b"".join(frames)
    assert opened(opener, *(wire[at : at + step] for at in range(0, len(wire), step))) == b"onetwothree"


def test_empty_frames_are_ignored(stream):
    frames, opener = stream
    assert opened(opener, b"\x00" * 4, frames[0], b"\x00" * 8, *frames[1:], b"\x00" * 4) == b"onetwothree"


def test_reordered(stream):
    frames, opener = stream
    refused("channel.unopenable", opener, frames[0], frames[2], frames[1])


def test_duplicated(stream):
    frames, opener = stream
    refused("channel.unopenable", opener, frames[0], frames[0])


def test_cut_within_a_frame(stream):
    frames, opener = stream
    with pytest.raises(ChannelError) as caught:
        opened(opener, frames[0], frames[1][:-1])
    assert caught.value.code == "channel.truncated"


def test_cut_between_frames_can_not_be_told(stream):
    """A limit of the protocol; Oblivious HTTP has none such."""
    frames, opener = stream
    assert opened(opener, frames[0]) == b"one"


def test_a_frame_above_the_limit(ring):
    sealer = sealer_of(ring)
    opener = ehbp.RequestOpener(ring.live(), sealer.enc, limit=100)
    refused("channel.too-large", opener, sealer.seal(b"x" * 101)[:4])


def test_large_pieces_become_several_frames(ring):
    sealer = sealer_of(ring)
    wire = sealer.seal(b"x" * 1_000_000)
    assert opened(ehbp.RequestOpener(ring.live(), sealer.enc), wire) == b"x" * 1_000_000
    assert int.from_bytes(wire[:4]) == (256 << 10) + 16


def test_old_keys_are_tried_too(ring):
    sealer = sealer_of(ring)
    ring.rotate()
    ring.rotate()
    opener = ehbp.RequestOpener(ring.live(), sealer.enc)
    assert opened(opener, sealer.seal(b"hello")) == b"hello"
    assert opener.key is ring.live()[2]


def test_no_key_fits(ring):
    sealer = sealer_of(KeyRing.generate())
    opener = ehbp.RequestOpener(ring.live(), sealer.enc)
    refused("channel.keys-changed", opener, sealer.seal(b"hello"), kind=KeysChangedError)
    assert opener.key is None


def test_keys_of_another_kind_are_not_tried():
    config = KeyRing.generate()
    for other in (KeyRing.generate("x-wing"), KeyRing.generate(aeads=(Aead.AES_128_GCM,))):
        sealer = sealer_of(config)
        refused("channel.keys-changed", ehbp.RequestOpener(other.live(), sealer.enc), sealer.seal(b"x"))
        with pytest.raises(ParseError) as caught:
            sealer_of(other)
        assert caught.value.code == "channel.key-config-unsupported"


def test_a_body_that_holds_nothing(ring):
    for body in (b"", b"\x00" * 4):
        with pytest.raises(ChannelError) as caught:
            opened(ehbp.RequestOpener(ring.live(), sealer_of(ring).enc), body)
        assert caught.value.code == "channel.truncated"


def test_no_answer_before_the_request(ring):
    with pytest.raises(ChannelError):
        ehbp.RequestOpener(ring.live(), sealer_of(ring).enc).response_sealer()


def test_an_answer_belongs_to_its_request_and_nonce(ring):
    one, two = sealer_of(ring), sealer_of(ring)
    opener = ehbp.RequestOpener(ring.live(), one.enc)
    opened(opener, one.seal(b"q"))
    nonce, answers = opener.response_sealer()
    wire = answers.seal(b"a")
    refused("channel.unopenable", two.response_opener(nonce), wire)
    refused("channel.unopenable", one.response_opener(bytes(32)), wire)
    assert opened(one.response_opener(nonce), wire) == b"a"


def test_a_client_that_reads_before_there_is_a_nonce(ring):
    outgoing = EhbpOutgoing(ring.current_config(), RequestHead(b"POST", b"https", b"a", b"/", ()), b"q")
    with pytest.raises(ChannelError):
        outgoing.feed(b"x")
    with pytest.raises(ChannelError):
        outgoing.finish()
