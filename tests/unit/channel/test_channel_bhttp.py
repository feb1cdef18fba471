"""Binary HTTP: framing of every kind, limits, truncation, and what is refused."""

from __future__ import annotations

import dataclasses
import gc

import pytest

from mitai.channel import bhttp
from mitai.channel.bhttp import Decoder, Limits, RequestHead, ResponseHead, Trailers, varint
from mitai.errors import ParseError

REQUEST = RequestHead(b"POST", b"https", b"example.com", b"/a?b=c", ((b"accept", b"*/*"), (b"x-empty", b"")))
RESPONSE = ResponseHead(200, ((b"content-type", b"text/plain"),))
START = b"\x00\x03GET\x05https\x00\x01/"  # a known-length request up to its fields


def decode(kind, data, step=None, limits=bhttp.DEFAULT_LIMITS):
    decoder = Decoder(kind, limits)
    events = []
    for at in range(0, len(data), step or max(len(data), 1)):
        events += decoder.feed(data[at : at + (step or len(data))])
    events += decoder.finish()
    content = b"".join(event for event in events if isinstance(event, memoryview))
    return [event for event in events if not isinstance(event, memoryview)], content


def refused(kind, data, code, limits=bhttp.DEFAULT_LIMITS):
    for step in (1, None):
        with pytest.raises(ParseError) as caught:
            decode(kind, data, step, limits)
        assert caught.value.code == code


@pytest.mark.parametrize(
    ("value", "encoded"),
    [(0, "00"), (63, "3f"), (64, "4040"), (16383, "7fff"), (16384, "80004000"), (1 << 30, "c000000040000000")],
)
def test_integers(value, encoded):
    assert varint(value).hex() == encoded
    reader = bhttp._Reader(memoryview(bytes.fromhex(encoded)))
    assert reader.integer() == value


@pytest.mark.parametrize("step", [1, 2, 7, None])
@pytest.mark.parametrize("known_length", [True, False])
@pytest.mark.parametrize("trailers", [(), ((b"digest", b"x"),)])
@pytest.mark.parametrize("content", [b"", b"hello" * 40])
def test_round_trip(step, known_length, trailers, content):
    if known_length:
        size, body = len(content), content
    else:
        size, body = None, b"".join(varint(len(p)) + p for p in (content[:50], content[50:]) if p)
    end = bhttp.encode_trailers(trailers, known_length=known_length)
    expected = [Trailers(trailers)] if trailers else []
    request = bhttp.encode_request(REQUEST, content_bytes=size) + body + end
    assert decode("request", request, step) == ([REQUEST, *expected], content)
    response = bhttp.encode_response(RESPONSE, content_bytes=size, informational=[ResponseHead(103)]) + body + end
    assert decode("response", response + bytes(9), step) == ([ResponseHead(103), RESPONSE, *expected], content)


@pytest.mark.parametrize("path_bytes", [*range(1000, 1030), 40_000])
@pytest.mark.parametrize("known_length", [True, False])
def test_heads_longer_than_what_is_looked_at_first(path_bytes, known_length):
    head = dataclasses.replace(REQUEST, path=b"/" * path_bytes, fields=((b"x", b"y" * 2000), (b"z", b"")))
    data = bhttp.encode_request(head, content_bytes=0 if known_length else None)
    assert decode("request", data) == ([head], b"")


def test_a_decoder_goes_when_its_last_user_does():
    """What it holds of a request must not wait for the garbage collector."""
    gc.collect()
    gc.disable()
    try:
        decoder = Decoder("request")
        decoder.feed(START + b"\x00\x05hel")
        del decoder
        assert gc.collect() == 0  # nothing was left for it
    finally:
        gc.enable()


def test_a_chunk_prefix_is_an_integer_on_four_bytes():
    data = bhttp.encode_response(RESPONSE, content_bytes=None) + bhttp.chunk_prefix(2) + b"hi" + bhttp.END_OF_STREAM
    assert decode("response", data, 1) == ([RESPONSE], b"hi")


def test_content_is_not_copied():
    data = START + b"\x00\x05hello"
    pieces = [e for e in Decoder("request").feed(data) if isinstance(e, memoryview)]
    assert [piece.obj is data for piece in pieces] == [True]


@pytest.mark.parametrize("step", [1, None])
def test_every_truncation_point(step):
    """A message may end before a length, as if that were zero (section 3.8), and nowhere else."""
    whole = bhttp.encode_request(REQUEST, content_bytes=3) + b"abc" + b"\x00"
    control = 1 + sum(1 + len(part) for part in (b"POST", b"https", b"example.com", b"/a?b=c"))
    no_fields = dataclasses.replace(REQUEST, fields=())
    allowed = {
        control: ([no_fields], b""),
        len(whole) - 5: ([REQUEST], b""),
        len(whole) - 1: ([REQUEST], b"abc"),
        len(whole): ([REQUEST], b"abc"),
    }
    for cut in range(len(whole) + 1):
        if cut in allowed:
            assert decode("request", whole[:cut], step) == allowed[cut]
        else:
            refused("request", whole[:cut], "channel.bhttp-truncated")


def test_a_stream_must_have_its_terminator_once_it_has_content():
    head = bhttp.encode_request(REQUEST, content_bytes=None)
    assert decode("request", head) == ([REQUEST], b"")
    refused("request", head + b"\x03abc", "channel.bhttp-truncated")
    assert decode("request", head + b"\x03abc\x00") == ([REQUEST], b"abc")


@pytest.mark.parametrize("step", [1, None])
def test_messages_without_field_sections(step):
    assert decode("request", START, step) == ([RequestHead(b"GET", b"https", b"", b"/")], b"")
    assert decode("response", b"\x01\x40\xc8", step) == ([ResponseHead(200)], b"")
    refused("response", b"\x01\x40\x66", "channel.bhttp-truncated")  # an informational response alone


@pytest.mark.parametrize(
    "data",
    [
        b"\x01\x40\xc8",  # a response where a request is expected
        b"\x04",
        b"\xff" * 9,
        b"\x00\x00\x05https\x00\x01/\x00",  # no method
        b"\x00\x04GE T\x05https\x00\x01/\x00",
        b"\x00\x03GET\x00\x00\x01/\x00",  # no scheme
        b"\x00\x03GET\x05https\x03a@b\x01/\x00",  # user information
        b"\x00\x03GET\x05https\x00\x00\x00",  # no path
        b"\x00\x03GET\x05https\x00\x03a/b\x00",
        b"\x00\x03GET\x05https\x00\x04/a#b\x00",
        START + b"\x04\x00\x02ab",  # empty name
        START + b"\x05\x01:\x02ab",  # pseudo-field
        START + b"\x05\x01a\x02b\n",
        START + b"\x05\x01a\x02\rb",
        START + b"\x05\x01a\x02b\x00",
        START + b"\x05\x01a\x02 b",
        START + b"\x05\x01a\x02b\t",
        START + b"\x04\x01a\x02bc",  # a field that reaches beyond its section
        START + b"\x00\x00\x00\x01",  # padding that is not zero
    ],
)
def test_invalid_requests(data):
    refused("request", data, "channel.bhttp-invalid")


@pytest.mark.parametrize("status", [0, 99, 600, 16384])
def test_invalid_status(status):
    refused("response", b"\x01" + varint(status) + b"\x00", "channel.bhttp-invalid")


def test_a_request_is_no_response():
    refused("response", START + b"\x00", "channel.bhttp-invalid")


LIMITS = Limits(content_bytes=100, head_bytes=200, fields=3, informational=2)


def fields(*sizes):
    return tuple((b"f%d" % i, b"v" * size) for i, size in enumerate(sizes))


@pytest.mark.parametrize("known_length", [True, False])
def test_limits(known_length):
    def request(fields=(), content=b"", trailers=()):
        head = RequestHead(b"GET", b"https", b"", b"/", fields)
        size, body = (len(content), content) if known_length else (None, varint(len(content)) + content)
        body = body if content else b""
        end = bhttp.encode_trailers(trailers, known_length=known_length)
        return bhttp.encode_request(head, content_bytes=size) + body + end

    assert decode("request", request(fields(50, 50, 50), b"c" * 100, fields(50, 50, 50)), 1, LIMITS)[1] == b"c" * 100
    refused("request", request(fields(1, 1, 1, 1)), "channel.too-large", LIMITS)
    refused("request", request(fields(100, 100)), "channel.too-large", LIMITS)
    refused("request", request((), b"c" * 101), "channel.too-large", LIMITS)
    refused("request", request((), b"", fields(1, 1, 1, 1)), "channel.too-large", LIMITS)
    refused("request", request((), b"", fields(300)), "channel.too-large", LIMITS)


def test_a_stream_is_limited_over_all_its_chunks():
    head = bhttp.encode_request(REQUEST, content_bytes=None)
    refused("request", head + (b"\x33" + b"c" * 51) * 2 + b"\x00", "channel.too-large", LIMITS)


def test_an_announced_length_is_refused_before_it_arrives():
    decoder = Decoder("request", LIMITS)
    with pytest.raises(ParseError) as caught:
        decoder.feed(b"\x00" + varint(1 << 40))
    assert caught.value.code == "channel.too-large"


def test_too_many_informational_responses():
    data = bhttp.encode_response(RESPONSE, content_bytes=0, informational=[ResponseHead(103)] * 3)
    refused("response", data, "channel.too-large", LIMITS)


def test_nothing_follows_an_error():
    decoder = Decoder("request")
    with pytest.raises(ParseError):
        decoder.feed(b"\x07")
    with pytest.raises(ParseError) as caught:
        decoder.feed(b"\x00")
    assert caught.value.code == "channel.bhttp-invalid"
    with pytest.raises(ParseError):
        decoder.finish()


def test_names_arrive_in_lower_case():
    assert decode("request", START + b"\x04\x01A\x01b")[0][0].fields == ((b"a", b"b"),)
