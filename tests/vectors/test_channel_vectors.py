"""RFC 9180, X-Wing, RFC 9292, RFC 9458 and draft-ietf-ohai-chunked-ohttp: the published examples, byte for byte."""

from __future__ import annotations

import json
from itertools import accumulate, pairwise
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from mitai.channel import bhttp, hpke, ohttp
from mitai.channel.hpke import Aead, Kem, PrivateKey

FOLDER = Path(__file__).parent / "channel"


def load(name):
    return json.loads((FOLDER / name).read_text())


def unhex(value):
    return bytes.fromhex(value)


# --- RFC 9180 and X-Wing ---------------------------------------------------------------------------------------------


def assert_opens(context, vector, sequence_of):
    for message in vector["encryptions"]:
        sequence_of(context, message["sequence"])
        assert context.open(unhex(message["ct"]), unhex(message["aad"])) == unhex(message["pt"])
    for exported in vector["exports"]:
        value = context.export(unhex(exported["exporter_context"]), exported["L"])
        assert value == unhex(exported["exported_value"])


def skip_to(context, sequence):
    context._sequence = sequence  # what was between was not kept in the vectors


@pytest.mark.parametrize("vector", load("rfc9180.json"), ids=lambda v: Aead(v["aead_id"]).name)
def test_rfc9180_both_ends(vector):
    private = PrivateKey.from_seed(Kem.X25519, unhex(vector["skRm"]))
    assert private.public == unhex(vector["pkRm"])
    ephemeral = X25519PrivateKey.from_private_bytes(unhex(vector["skEm"]))
    assert hpke.encapsulate(Kem.X25519, private.public, ephemeral) == (
        unhex(vector["shared_secret"]),
        unhex(vector["enc"]),
    )
    info, aead = unhex(vector["info"]), Aead(vector["aead_id"])
    sender = hpke.setup_sender(Kem.X25519, private.public, info, aead, ephemeral=ephemeral)
    recipient = hpke.setup_recipient(private, sender.enc, info, aead)
    for message in vector["encryptions"]:
        skip_to(sender, message["sequence"])
        assert sender.seal(unhex(message["pt"]), unhex(message["aad"])) == unhex(message["ct"])
    assert_opens(recipient, vector, skip_to)
    assert sender.export(b"TestContext", 32) == recipient.export(b"TestContext", 32)


@pytest.mark.parametrize("vector", load("xwing.json"), ids=lambda v: Aead(v["aead_id"]).name)
def test_xwing_recipient(vector):
    private = PrivateKey.from_seed(Kem.X_WING, unhex(vector["skRm"]))
    assert private.public == unhex(vector["pkRm"])
    assert private.decapsulate(unhex(vector["enc"])) == unhex(vector["shared_secret"])
    recipient = hpke.setup_recipient(private, unhex(vector["enc"]), unhex(vector["info"]), Aead(vector["aead_id"]))
    assert_opens(recipient, vector, skip_to)


# --- RFC 9292 section 5 ----------------------------------------------------------------------------------------------

HELLO_FIELDS = (
    (b"user-agent", b"curl/7.16.3 libcurl/7.16.3 OpenSSL/0.9.7l zlib/1.2.3"),
    (b"host", b"www.example.com"),
    (b"accept-language", b"en, mi"),
)
HELLO = bhttp.RequestHead(b"GET", b"https", b"", b"/hello.txt", HELLO_FIELDS)


def decode(kind, data):
    decoder = bhttp.Decoder(kind)
    events = decoder.feed(data) + decoder.finish()
    content = b"".join(event for event in events if isinstance(event, memoryview))
    return [event for event in events if not isinstance(event, memoryview)], content


@pytest.mark.parametrize(("name", "cuttable"), [("known_length_request", 2), ("indeterminate_length_request", 12)])
def test_rfc9292_requests_and_their_truncations(name, cuttable):
    data = unhex(load("rfc9292.json")[name])
    for cut in range(cuttable + 1):
        assert decode("request", data[: len(data) - cut]) == ([HELLO], b"")


def test_rfc9292_requests_encode():
    vectors = load("rfc9292.json")
    known = bhttp.encode_request(HELLO, content_bytes=0) + bhttp.encode_trailers((), known_length=True)
    assert known.hex() == vectors["known_length_request"]
    streamed = bhttp.encode_request(HELLO, content_bytes=None) + bhttp.END_OF_STREAM
    assert (streamed + bytes(10)).hex() == vectors["indeterminate_length_request"]


def test_rfc9292_response_with_informational_responses():
    data = unhex(load("rfc9292.json")["indeterminate_length_response"])
    heads, content = decode("response", data)
    assert [head.status for head in heads] == [102, 103, 200]
    assert heads[0].fields == ((b"running", b'"sleep 15"'),)
    assert content == b"Hello World! My content includes a trailing CRLF.\r\n"
    encoded = bhttp.encode_response(heads[2], content_bytes=None, informational=heads[:2])
    assert encoded + bhttp.varint(len(content)) + content + bhttp.END_OF_STREAM == data


def test_rfc9292_response_with_trailers():
    data = unhex(load("rfc9292.json")["known_length_response"])
    heads, content = decode("response", data)
    assert heads == [bhttp.ResponseHead(200), bhttp.Trailers(((b"trailer", b"text"),))]
    assert content == b"This content contains CRLF.\r\n"
    encoded = bhttp.encode_response(bhttp.ResponseHead(200), content_bytes=len(content)) + content
    assert encoded + bhttp.encode_trailers(((b"trailer", b"text"),), known_length=True) == data


# --- RFC 9458 appendix A and draft-ietf-ohai-chunked-ohttp appendix A ------------------------------------------------


class Key:
    def __init__(self, config, private):
        self.config, self.private = config, private


def pieces(data, sizes):
    return [data[a:b] for a, b in pairwise([0, *accumulate(sizes)])]


@pytest.mark.parametrize(("name", "form"), [("rfc9458", ohttp.ONE_SHOT), ("chunked", ohttp.CHUNKED)])
def test_ohttp_exchange(name, form):
    v = load("ohttp.json")[name]
    private = PrivateKey.from_seed(Kem.X25519, unhex(v["gateway_secret"]))
    config = ohttp.KeyConfig.decode(unhex(v["key_config"]))
    assert config == ohttp.KeyConfig(1, Kem.X25519, private.public, (Aead.AES_128_GCM, Aead.CHACHA20_POLY1305))
    assert config.encode().hex() == v["key_config"]

    ephemeral = X25519PrivateKey.from_private_bytes(unhex(v["ephemeral_secret"]))
    client = ohttp.RequestSealer(config, form, ephemeral=ephemeral)
    chunks = pieces(unhex(v["request"]), v["request_chunks"])
    wire = b"".join(client.seal(chunk, final=i == len(chunks) - 1) for i, chunk in enumerate(chunks))
    assert wire.hex() == v["encapsulated_request"]

    server = ohttp.RequestOpener({1: Key(config, private)}.get, form)
    assert b"".join([*server.feed(wire), *server.finish()]) == unhex(v["request"])
    assert decode("request", unhex(v["request"])) == (
        [bhttp.RequestHead(b"GET", b"https", b"example.com", b"/")],
        b"",
    )

    sealer = server.response_sealer(nonce=unhex(v["response_nonce"]))
    chunks = pieces(unhex(v["response"]), v["response_chunks"])
    wire = b"".join(sealer.seal(chunk, final=i == len(chunks) - 1) for i, chunk in enumerate(chunks))
    assert wire.hex() == v["encapsulated_response"]
    opener = client.response_opener()
    assert b"".join([*opener.feed(wire), *opener.finish()]) == unhex(v["response"])
