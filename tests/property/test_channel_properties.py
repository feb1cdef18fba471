"""Properties: what is flipped is refused, what is parsed is a value or an error of the tree, pieces don't matter."""

from __future__ import annotations

import contextlib
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mitai.channel import bhttp, compiled, ehbp, hpke, ohttp, problems
from mitai.channel.bhttp import Decoder, Limits, RequestHead, ResponseHead, Trailers
from mitai.channel.keys import KeyRing
from mitai.channel.ohttp import CHUNKED, ONE_SHOT, KeyConfig, RequestOpener, RequestSealer
from mitai.channel.outgoing import EhbpOutgoing, OhttpOutgoing
from mitai.channel.replay import parse_date
from mitai.errors import ChannelError, MitaiError, ReplayError

RINGS = {kem: KeyRing.generate(kem) for kem in ("x25519", "x-wing")}
CONFIGS = {kem: KeyConfig.decode(ring.current_config()) for kem, ring in RINGS.items()}
KEMS = pytest.mark.parametrize("kem", list(RINGS))
FORMS = pytest.mark.parametrize("form", [CHUNKED, ONE_SHOT], ids=["chunked", "one-shot"])
HEAD = RequestHead(b"POST", b"https", b"a", b"/x", ())


def in_pieces(data, cuts):
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in pairwise(edges)]


def read(opener, *pieces):
    plain = [chunk for piece in pieces for chunk in opener.feed(piece)]
    return b"".join(plain + list(opener.finish()))


def open_body(opener, data):
    opener.feed(data)
    opener.finish()


# --- flip any byte ---------------------------------------------------------------------------------------------------


@KEMS
@FORMS
@settings(max_examples=60)
@given(position=st.integers(0), mask=st.integers(1, 255))
def test_a_flipped_request_is_refused(kem, form, position, mask):
    wire = bytearray(b"".join(RequestSealer(CONFIGS[kem], form).seal_message(b"x" * 50, chunk_bytes=20)))
    wire[position % len(wire)] ^= mask
    with pytest.raises(ChannelError):
        read(RequestOpener(RINGS[kem].find, form), bytes(wire))


@KEMS
@FORMS
@settings(max_examples=60)
@given(position=st.integers(0), mask=st.integers(1, 255))
def test_a_flipped_answer_is_refused(kem, form, position, mask):
    sealer, opener = RequestSealer(CONFIGS[kem], form), RequestOpener(RINGS[kem].find, form)
    read(opener, *sealer.seal_message(b"q"))
    wire = bytearray(b"".join(opener.response_sealer().seal_message(b"x" * 50, chunk_bytes=20)))
    wire[position % len(wire)] ^= mask
    with pytest.raises(ChannelError):
        read(sealer.response_opener(), bytes(wire))


def test_every_byte_of_a_small_exchange():
    sealer = RequestSealer(CONFIGS["x25519"])
    wire = b"".join(sealer.seal_message(b"hello"))
    for position in range(len(wire)):
        for mask in (1, 0x80):
            flipped = wire[:position] + bytes((wire[position] ^ mask,)) + wire[position + 1 :]
            with pytest.raises(ChannelError):
                read(RequestOpener(RINGS["x25519"].find), flipped)


@settings(max_examples=150)
@given(position=st.integers(0), mask=st.integers(1, 255), answer=st.booleans())
def test_a_flipped_ehbp_body_is_refused(position, mask, answer):
    sealer = ehbp.RequestSealer(CONFIGS["x25519"])
    wire = sealer.seal(b"x" * 20) + sealer.seal(b"y" * 20)
    opener = ehbp.RequestOpener(RINGS["x25519"].live(), sealer.enc)
    if answer:
        list(opener.feed(wire))
        nonce, answers = opener.response_sealer()
        wire = answers.seal(b"x" * 20) + answers.seal(b"y" * 20)
        opener = sealer.response_opener(nonce)
    flipped = bytearray(wire)
    flipped[position % len(wire)] ^= mask
    with pytest.raises(ChannelError):
        open_body(opener, bytes(flipped))


@settings(max_examples=60)
@given(position=st.integers(0), mask=st.integers(1, 255))
def test_a_flipped_key_configuration_is_refused_or_another_one(position, mask):
    encoded = bytearray(RINGS["x25519"].current_config())
    encoded[position % len(encoded)] ^= mask
    with contextlib.suppress(MitaiError):
        assert KeyConfig.decode(bytes(encoded)) != CONFIGS["x25519"]


# --- pieces don't matter ---------------------------------------------------------------------------------------------

NAMES = st.from_regex(rb"[a-z][a-z0-9-]{0,8}", fullmatch=True)
VALUES = st.from_regex(rb"([!-~]([ -~]{0,10}[!-~])?)?", fullmatch=True)
FIELDS = st.lists(st.tuples(NAMES, VALUES), max_size=5).map(tuple)


@given(FIELDS, st.binary(max_size=200), FIELDS, st.booleans(), st.lists(st.integers(0), max_size=8), st.integers(0, 20))
def test_bhttp_round_trip_in_any_pieces(fields, content, trailers, known_length, cuts, padding):
    head = ResponseHead(200, fields)
    if known_length:
        size, body = len(content), content
    else:
        size, body = None, bhttp.varint(len(content)) + content if content else b""
    data = bhttp.encode_response(head, content_bytes=size) + body
    data += bhttp.encode_trailers(trailers, known_length=known_length) + bytes(padding)
    decoder = Decoder("response")
    events = [event for piece in in_pieces(data, cuts) for event in decoder.feed(piece)] + decoder.finish()
    assert events[0] == head
    assert b"".join(event for event in events if isinstance(event, memoryview)) == content
    assert [event for event in events if isinstance(event, Trailers)] == ([Trailers(trailers)] if trailers else [])


@KEMS
@settings(max_examples=40)
@given(message=st.binary(max_size=300), chunk=st.integers(1, 100), cuts=st.lists(st.integers(0), max_size=8))
def test_ohttp_round_trip_in_any_pieces(kem, message, chunk, cuts):
    sealer, opener = RequestSealer(CONFIGS[kem]), RequestOpener(RINGS[kem].find)
    wire = b"".join(sealer.seal_message(message, chunk_bytes=chunk))
    assert read(opener, *in_pieces(wire, cuts)) == message


# --- arbitrary bytes -------------------------------------------------------------------------------------------------


@settings(max_examples=400)
@given(st.binary(max_size=80), st.sampled_from(["request", "response"]), st.lists(st.integers(0), max_size=4))
@example(b"\x00\x03GET\x05https\x00\x01/", "request", [])
@example(b"\x02\x03GET\x05https\x00\x01/\x00\x00\x00", "request", [3, 9])
@example(b"\xc0" * 9, "request", [1])
def test_bhttp_parses_or_refuses(data, kind, cuts):
    decoder = Decoder(kind, Limits(content_bytes=50, head_bytes=60, fields=3, informational=2))
    with contextlib.suppress(MitaiError):
        for piece in in_pieces(data, cuts):
            for event in decoder.feed(piece):
                assert isinstance(event, (RequestHead, ResponseHead, Trailers, memoryview))
        decoder.finish()


@settings(max_examples=400)
@given(st.binary(max_size=60))
def test_what_bhttp_accepts_does_not_depend_on_the_pieces(data):
    def parse(pieces):
        decoder = Decoder("request", Limits(content_bytes=50, head_bytes=60, fields=3))
        try:
            events = [event for piece in pieces for event in decoder.feed(piece)] + decoder.finish()
        except MitaiError as error:
            return error.code
        content = b"".join(event for event in events if isinstance(event, memoryview))
        return [event for event in events if not isinstance(event, memoryview)], content

    data = b"\x00\x03GET\x05https\x00\x01/" + data
    assert parse([data]) == parse([data[i : i + 1] for i in range(len(data))])


@given(st.binary(max_size=120))
@example(bytes.fromhex("010020"))
def test_key_configurations_parse_or_are_refused(data):
    for decode in (KeyConfig.decode, ohttp.decode_keys):
        with contextlib.suppress(MitaiError):
            decode(data)


@KEMS
@given(st.binary(max_size=200), st.booleans())
def test_nothing_that_was_not_sealed_opens(kem, data, with_header):
    header = b"".join(RequestSealer(CONFIGS[kem]).seal_message())[: 7 + CONFIGS[kem].kem.enc_bytes]
    with pytest.raises(ChannelError):
        read(RequestOpener(RINGS[kem].find), header + data if with_header else data)


@given(st.binary(max_size=200), st.binary(min_size=32, max_size=32))
def test_no_ehbp_body_that_was_not_sealed_opens(data, enc):
    opener = ehbp.RequestOpener(RINGS["x25519"].live(), enc)
    with pytest.raises(ChannelError):
        open_body(opener, data)


@given(st.binary(max_size=300), st.integers(100, 599))
def test_a_client_survives_any_answer(data, status):
    for outgoing, media_type in (
        (OhttpOutgoing(RINGS["x25519"].current_config(), HEAD, b"q", now=1e9), b"message/ohttp-chunked-res"),
        (EhbpOutgoing(RINGS["x25519"].current_config(), HEAD, b"q"), b"application/json"),
    ):
        fields = [(b"content-type", media_type), (b"ehbp-response-nonce", b"aa" * 32)]
        if outgoing.refusal(status, fields):
            assert isinstance(outgoing.refused(status, data), ChannelError)
        else:
            with contextlib.suppress(MitaiError):
                outgoing.feed(data)
                outgoing.finish()
                assert data == b"" or not data.strip(b"\x00")  # EHBP: nothing but empty frames


@given(st.binary(max_size=100))
def test_problem_documents_and_dates_parse_or_are_refused(data):
    assert isinstance(problems.decode(data), problems.Problem)
    with contextlib.suppress(ReplayError):
        parse_date(data)


@pytest.mark.skipif(compiled.derive is None, reason="mitai-channel is not installed, or older than these sources")
@given(st.binary(max_size=200), st.binary(max_size=200), st.lists(st.binary(max_size=200), max_size=5))
def test_both_ways_to_derive_give_the_same_keys(salt, key_material, infos):
    assert compiled.derive(salt, key_material, *infos) == hpke._derive(salt, key_material, *infos)


@pytest.mark.skipif(compiled.derive is None, reason="mitai-channel is not installed, or older than these sources")
@given(st.lists(st.one_of(st.binary(max_size=3), st.text(max_size=3), st.none(), st.integers()), max_size=5))
def test_what_is_not_bytes_is_refused(arguments):
    if len(arguments) < 2 or not all(isinstance(argument, bytes) for argument in arguments):
        with pytest.raises(TypeError):
            compiled.derive(*arguments)
