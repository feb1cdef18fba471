"""The middleware against clients that are slow, lying, oversized or gone, over a wire that the test controls."""

from __future__ import annotations

import asyncio
import json
from hashlib import sha256

import pytest

from mitai.channel import bhttp, ehbp, outgoing
from mitai.channel.asgi import ChannelMiddleware, Limits
from mitai.channel.bhttp import RequestHead
from mitai.channel.exchange import EXCHANGE_HEADER
from mitai.channel.keys import KeyRing
from mitai.channel.ohttp import CHUNKED, ONE_SHOT, KeyConfig, RequestSealer
from mitai.channel.outgoing import EhbpOutgoing, OhttpOutgoing
from mitai.channel.replay import ReplayCache, format_date
from mitai.errors import ChannelError, KeysChangedError, ReplayError

NOW = 1_800_000_000.0
SECRET = "a-secret-that-must-not-leak"
GONE = object()  # on the wire: the client disconnects, within its request
LEAVES = object()  # on the wire: it disconnects after its request
SILENCE = object()  # on the wire: the client sends nothing any more


EVENTS = (b"data: 1\n\n", b"data: 22\n\n", b"", b"data: [DONE]\n\n")


class App:
    """An inner app that records what it sees and answers as its path says."""

    def __init__(self):
        self.scopes = []
        self.bodies = []
        self.disconnected = asyncio.Event()

    async def __call__(self, scope, receive, send):
        self.scopes.append(scope)
        await getattr(self, scope["path"].strip("/").replace("-", "_"))(scope, receive, send)

    async def read(self, receive):
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.disconnected.set()
                raise RuntimeError(SECRET)
            body += message["body"]
            more = message["more_body"]
        self.bodies.append(body)
        return body

    async def echo(self, scope, receive, send):
        body = await self.read(receive)
        headers = [
            (b"Content-Type", b"text/plain"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
            (b"Mitai-Refusal", b"x"),
            (b"mitai-exchange", b"forged"),
        ]
        await send({"type": "http.response.start", "status": 201, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def stream(self, scope, receive, send, pieces=EVENTS):
        await self.read(receive)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def split(self, scope, receive, send):
        await self.stream(scope, receive, send, (b"data: ", b"1\n\n", b"x" * 600_000))

    async def ignores_the_body(self, scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})

    async def answers_while_it_listens(self, scope, receive, send):
        async def listen():
            while (await receive())["type"] != "http.disconnect":
                pass

        listening = asyncio.ensure_future(listen())
        await asyncio.sleep(0)
        await self.ignores_the_body(scope, receive, send)
        listening.cancel()

    async def fails(self, scope, receive, send):
        await self.read(receive)
        raise RuntimeError(SECRET)

    async def fails_late(self, scope, receive, send):
        await self.read(receive)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"part", "more_body": True})
        raise RuntimeError(SECRET)

    async def says_nothing(self, scope, receive, send):
        await self.read(receive)

    async def body_before_start(self, scope, receive, send):
        await send({"type": "http.response.body", "body": b"x"})

    async def extra_messages(self, scope, receive, send):
        await self.read(receive)
        await send({"type": "http.response.debug"})
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"once"})
        await send({"type": "http.response.body", "body": b"twice"})

    async def answers_although_the_request_failed(self, scope, receive, send):
        while (await receive())["type"] != "http.disconnect":
            pass
        await self.ignores_the_body(scope, receive, send)

    async def waits(self, scope, receive, send):
        await self.read(receive)
        message = await receive()
        assert message["type"] == "http.disconnect"
        self.disconnected.set()
        with pytest.raises(OSError):  # noqa: PT011 - the ASGI specification says no more
            await send({"type": "http.response.start", "status": 200, "headers": []})

    async def hangs(self, scope, receive, send):
        await asyncio.sleep(3600)

    async def hangs_late(self, scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"part", "more_body": True})
        await asyncio.sleep(3600)


class Wire:
    """Both directions of one HTTP connection to the middleware."""

    def __init__(self, channel):
        self.channel = channel
        self.sent = []
        self.stuck_after = None  # messages that the client takes before it stops reading
        self.broken_after = None

    async def request(self, *pieces, method="POST", path="/ohttp", headers=(), content_type=CHUNKED.request_type):
        headers = [(b"content-type", content_type.encode()), *headers]
        scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b"",
                 "headers": headers, "asgi": {"version": "3.0"}}  # fmt: skip
        incoming = list(pieces)

        async def receive():
            await asyncio.sleep(0)
            if not incoming:
                await asyncio.sleep(3600)
            piece = incoming.pop(0)
            if piece is SILENCE:
                await asyncio.sleep(3600)
            if piece is GONE or piece is LEAVES:
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": bytes(piece), "more_body": incoming not in ([], [LEAVES])}

        async def send(message):
            if self.stuck_after is not None and len(self.sent) >= self.stuck_after:
                await asyncio.sleep(3600)
            if self.broken_after is not None and len(self.sent) >= self.broken_after:
                raise OSError("connection lost")
            self.sent.append(message)

        await self.channel(scope, receive, send)
        return self

    @property
    def status(self):
        return self.sent[0]["status"]

    @property
    def headers(self):
        return dict(self.sent[0]["headers"])

    @property
    def body(self):
        return b"".join(message["body"] for message in self.sent[1:])

    @property
    def ended(self):
        return (bool(self.sent) and self.sent[-1].get("more_body") is False) or self.sent[-1:] == [self.sent[0]] or (
            "more_body" not in self.sent[-1]
        )  # fmt: skip

    @property
    def problem(self):
        assert self.headers[b"content-type"] == b"application/problem+json"
        return json.loads(self.body)


@pytest.fixture
def app():
    return App()


@pytest.fixture
def ring():
    return KeyRing.generate()


@pytest.fixture
def channel(app, ring):
    return ChannelMiddleware(
        app, ring, limits=Limits(request_bytes=2 << 20, idle_s=0.05, total_s=0.3, exchanges=2), clock=lambda: NOW
    )


def sealed(ring, path="/echo", content=b"hello", fields=(), now=NOW, method=b"POST"):
    head = RequestHead(method, b"https", b"example.com", path.encode() + b"?a=1&b=%20", tuple(fields))
    return OhttpOutgoing(ring.current_config(), head, content, now=now)


def opened(out, wire):
    """Open the answer on the wire as a client would."""
    status, headers = wire.status, list(wire.sent[0]["headers"])
    assert not out.refusal(status, headers), wire.body
    content = [piece for message in wire.sent[1:] for piece in out.feed(message["body"])]
    content += out.finish()
    return b"".join(content)


# --- what goes well --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 5, 70_000, 1_000_000])
async def test_an_exchange(app, ring, channel, size):
    exchanges = []

    async def on_exchange(exchange):
        assert not wire.ended  # the client has not seen the end yet
        exchanges.append(exchange)

    channel.on_exchange = on_exchange
    out = sealed(ring, content=b"x" * size, fields=[(b"authorization", b"Bearer k"), (b"connection", b"x")])
    wire = Wire(channel)
    await wire.request(out.body)
    assert opened(out, wire) == b"x" * size
    assert out.head.status == 201
    assert wire.status == 200
    assert wire.headers[b"content-type"] == b"message/ohttp-chunked-res"
    (scope,) = app.scopes
    assert (scope["method"], scope["path"], scope["query_string"]) == ("POST", "/echo", b"a=1&b=%20")
    names = [name for name, _ in scope["headers"]]
    assert names == [b"host", b"authorization", b"date"]
    assert scope["client"] is None
    (exchange,) = exchanges
    assert exchange is scope["mitai.exchange"]
    assert exchange.request_sha256 == sha256(out.body).hexdigest() == out.exchange.request_sha256
    assert exchange.response_sha256 == sha256(wire.body).hexdigest() == out.exchange.response_sha256
    assert exchange.id == out.exchange.id
    assert dict(out.head.fields) == {b"content-type": b"text/plain", EXCHANGE_HEADER.encode(): exchange.id.encode()}
    assert b"hello" not in wire.body


@pytest.mark.parametrize("step", [1, 50, 500])
async def test_a_request_in_pieces(ring, channel, step):
    channel.limits = Limits(idle_s=60)
    out = sealed(ring, content=b"hello")
    pieces = [out.body[at : at + step] for at in range(0, len(out.body), step)]
    wire = await Wire(channel).request(*pieces)
    assert opened(out, wire) == b"hello"


async def test_an_event_stream_is_padded_piece_by_piece(ring, channel):
    out = sealed(ring, "/stream")
    wire = await Wire(channel).request(out.body)
    content = opened(out, wire)
    lines = [line for line in content.split(b"\n") if line and not line.startswith(b":")]
    assert lines == [b"data: 1", b"data: 22", b"data: [DONE]"]
    sizes = [len(message["body"]) for message in wire.sent[1:]]
    overhead = 2 + 16  # the length of a chunk, and its tag
    nonce = 32
    assert sizes[0] == nonce + overhead + 512
    assert sizes[1] == sizes[2] == overhead + 512
    assert len(sizes) == 4
    assert wire.headers[b"incremental"] == b"?1"


async def test_pieces_that_end_within_an_event_stay_as_they_are(ring, channel):
    out = sealed(ring, "/split")
    content = opened(out, await Wire(channel).request(out.body))
    assert content.startswith(b"data: 1\n\n:")
    assert content.endswith(b"x" * 600_000)


async def test_whole_answers_have_sizes_of_buckets(ring, channel):
    sizes = set()
    for size in range(0, 400, 50):
        out = sealed(ring, content=b"x" * size)
        sizes.add((len(out.body), len((await Wire(channel).request(out.body)).body)))
    assert len(sizes) == 1


async def test_one_shot(ring, channel):
    def one_shot(path):
        sealer = RequestSealer(KeyConfig.decode(ring.current_config()), ONE_SHOT)
        head = RequestHead(b"POST", b"https", b"", path, ((b"date", format_date(NOW)),))
        return sealer, b"".join(sealer.seal_message(bhttp.encode_request(head, content_bytes=2), b"hi"))

    sealer, body = one_shot(b"/stream")
    wire = await Wire(channel).request(body, content_type=ONE_SHOT.request_type)
    assert wire.headers[b"content-type"] == b"message/ohttp-res"
    opener = sealer.response_opener(limit=1 << 20)
    plain = b"".join([*opener.feed(wire.body), *opener.finish()])
    assert b"data: 1\n\ndata: 22\n\ndata: [DONE]\n\n" in plain

    channel.limits = Limits(response_bytes=1000)
    sealer, body = one_shot(b"/split")
    wire = await Wire(channel).request(body, content_type=ONE_SHOT.request_type)
    opener = sealer.response_opener(limit=1 << 20)
    assert b"channel.app-failed" in b"".join([*opener.feed(wire.body), *opener.finish()])


async def test_what_the_app_did_not_read_is_digested_all_the_same(app, ring, channel):
    out = sealed(ring, "/ignores-the-body", content=b"x" * 600_000)
    pieces = [out.body[at : at + 100_000] for at in range(0, len(out.body), 100_000)]
    assert opened(out, await Wire(channel).request(*pieces)) == b"done"
    assert app.scopes[0]["mitai.exchange"].request_sha256 == sha256(out.body).hexdigest()


@pytest.mark.parametrize("count", [2, 3, 4, 5])
async def test_an_app_that_answers_while_it_still_listens(app, ring, channel, count):
    """As Starlette's StreamingResponse does: two readers, neither of which may wait for what the other got."""
    channel.limits = Limits(idle_s=60)
    out = sealed(ring, "/answers-while-it-listens", content=b"x" * 600_000)
    step = len(out.body) // count + 1
    pieces = [out.body[at : at + step] for at in range(0, len(out.body), step)]
    assert opened(out, await asyncio.wait_for(Wire(channel).request(*pieces), 5)) == b"done"
    assert app.scopes[0]["mitai.exchange"].request_sha256 == sha256(out.body).hexdigest()


async def test_what_the_app_did_not_read_must_be_authentic_to_be_digested(app, ring, channel):
    out = sealed(ring, "/ignores-the-body", content=b"x" * 600_000)
    body = out.body[:-1] + bytes((out.body[-1] ^ 1,))
    wire = await Wire(channel).request(body[:300_000], body[300_000:])
    assert opened(out, wire) == b"done"
    assert app.scopes[0]["mitai.exchange"].request_sha256 is None


async def test_messages_that_an_app_should_not_send(ring, channel):
    out = sealed(ring, "/extra-messages")
    assert opened(out, await Wire(channel).request(out.body)) == b"once"
    out = sealed(ring, "/body-before-start")
    with pytest.raises(ChannelError):
        opened(out, await Wire(channel).request(out.body))


# --- rotation --------------------------------------------------------------------------------------------------------


async def test_an_old_key_is_honoured_then_refused(ring, channel, app):
    first, second = sealed(ring), sealed(ring)
    ring.rotate()
    assert opened(first, await Wire(channel).request(first.body)) == b"hello"
    ring._old.clear()
    wire = await Wire(channel).request(second.body)
    assert wire.status == 400
    assert wire.problem["type"] == "https://iana.org/assignments/http-problem-types#ohttp-key"
    assert second.refusal(wire.status, wire.sent[0]["headers"])
    assert isinstance(second.refused(wire.status, wire.body), KeysChangedError)
    assert len(app.scopes) == 1


async def test_the_same_key_id_with_another_key_looks_no_different(ring, channel, app):
    """A restarted server may reuse an id; and nobody learns whether the key or the bytes were wrong."""
    out = sealed(ring)
    ring._current = KeyRing.generate()._current
    object.__setattr__(ring._current.config, "key_id", out.body[0])
    wire = await Wire(channel).request(out.body)
    assert wire.problem["code"] == "channel.keys-changed"
    flipped = bytearray(sealed(ring).body)
    flipped[-1] ^= 1
    assert (await Wire(channel).request(flipped)).body == wire.body
    assert app.scopes == []


# --- replay ----------------------------------------------------------------------------------------------------------


async def test_a_replay_is_refused(app, ring, channel):
    sealer = RequestSealer(KeyConfig.decode(ring.current_config()))
    head = RequestHead(b"POST", b"https", b"", b"/echo", ((b"date", format_date(NOW)),))
    body = b"".join(sealer.seal_message(bhttp.encode_request(head, content_bytes=2), b"hi"))
    first, replay = sealed(ring), sealed(ring)
    first._opener, replay._opener = sealer.response_opener(), sealer.response_opener()
    assert opened(first, await Wire(channel).request(body)) == b"hi"
    with pytest.raises(ReplayError) as caught:
        opened(replay, await Wire(channel).request(body))
    assert caught.value.code == "channel.replayed"
    assert len(app.scopes) == 1


@pytest.mark.parametrize("offset", [-1000, 1000])
async def test_a_wrong_date_is_refused_under_the_seal(app, ring, channel, offset):
    out = sealed(ring, now=NOW + offset)
    wire = await Wire(channel).request(out.body)
    assert app.scopes == []
    with pytest.raises(ReplayError) as caught:
        opened(out, wire)
    assert caught.value.code == "channel.date"


async def test_a_full_replay_cache_refuses(app, ring, channel):
    channel.replay = ReplayCache(capacity=0)
    out = sealed(ring)
    with pytest.raises(ChannelError) as caught:
        opened(out, await Wire(channel).request(out.body))
    assert caught.value.code == "channel.replay-cache-full"
    assert app.scopes == []


# --- clients that lie ------------------------------------------------------------------------------------------------


async def code_of(out, channel, *pieces):
    wire = await Wire(channel).request(*pieces)
    with pytest.raises(ChannelError) as caught:
        opened(out, wire)
    return caught.value.code


async def test_a_cut_request_never_looks_complete(app, ring, channel):
    out = sealed(ring, content=b"x" * 600_000)
    wire = await Wire(channel).request(out.body[:300_000], out.body[300_000:400_000])
    assert app.bodies == []
    assert app.disconnected.is_set()
    with pytest.raises(ChannelError) as caught:
        opened(out, wire)
    assert caught.value.code == "channel.refused"
    assert app.scopes[0]["mitai.exchange"].request_sha256 is None


async def test_an_app_that_answers_to_a_broken_request_is_not_heard(app, ring, channel):
    out = sealed(ring, "/answers-although-the-request-failed", content=b"x" * 600_000)
    body = bytearray(out.body)
    body[-1] ^= 1
    assert await code_of(out, channel, body[:300_000], body[300_000:]) == "channel.refused"


async def test_a_request_twice_as_big_as_allowed(app, ring, channel):
    out = sealed(ring, content=b"x" * (4 << 20))
    pieces = [out.body[at : at + 65536] for at in range(0, len(out.body), 65536)]
    assert await code_of(out, channel, *pieces) == "channel.too-large"
    assert app.bodies == []


async def test_a_request_that_announces_that_it_is_too_big(app, ring, channel):
    wire = await Wire(channel).request(b"", headers=[(b"content-length", b"4194304")])
    assert (wire.status, wire.problem["code"]) == (413, "channel.too-large")


async def test_heads_beyond_the_limits(app, ring, channel):
    many = sealed(ring, fields=[(b"f%d" % i, b"v") for i in range(200)])
    assert await code_of(many, channel, many.body) == "channel.too-large"
    long = sealed(ring, fields=[(b"f", b"v" * 70_000)])
    assert await code_of(long, channel, long.body) == "channel.too-large"
    assert app.scopes == []


async def test_a_sealed_request_that_is_no_http(app, ring, channel):
    for message in (b"\x07 nonsense", b"", b"\x00"):
        out = sealed(ring)
        sealer = RequestSealer(KeyConfig.decode(ring.current_config()))
        out._opener = sealer.response_opener()
        assert await code_of(out, channel, b"".join(sealer.seal_message(message))) == "channel.refused"
    assert app.scopes == []


async def test_a_request_without_a_date(app, ring, channel):
    out = sealed(ring)
    sealer = RequestSealer(KeyConfig.decode(ring.current_config()))
    out._opener = sealer.response_opener()
    head = bhttp.encode_request(RequestHead(b"GET", b"https", b"", b"/echo"), content_bytes=0)
    assert await code_of(out, channel, b"".join(sealer.seal_message(head))) == "channel.date"
    assert app.scopes == []


@pytest.mark.parametrize("body", [b"", b"\x00", b"\x00" * 39, bytes(range(256)) * 5])
async def test_nonsense(app, channel, body):
    wire = await Wire(channel).request(body)
    assert wire.status in (400, 413)
    assert app.scopes == []


@pytest.mark.parametrize(
    ("method", "content_type", "status"),
    [
        ("GET", CHUNKED.request_type, 405),
        ("POST", "application/json", 415),
        ("POST", "message/ohttp-chunked-req; x=y", 415),
        ("POST", "", 415),
    ],
)
async def test_requests_that_are_not_sealed(channel, method, content_type, status):
    wire = await Wire(channel).request(b"", method=method, content_type=content_type)
    assert wire.status == status


# --- clients that are slow or gone -----------------------------------------------------------------------------------


async def test_a_client_that_goes_silent_before_its_head(app, ring, channel):
    out = sealed(ring)
    wire = await Wire(channel).request(out.body[:50], SILENCE)
    assert (wire.status, wire.problem["code"]) == (408, "channel.idle")
    assert channel._active == 0


async def test_a_client_that_goes_silent_within_its_request(app, ring, channel):
    out = sealed(ring, content=b"x" * 600_000)
    assert await code_of(out, channel, out.body[:300_000], SILENCE) == "channel.idle"
    assert app.disconnected.is_set()


@pytest.mark.parametrize("cut", [0, 50, 300_000])
async def test_a_client_that_goes_away_within_its_request(app, ring, channel, cut):
    out = sealed(ring, content=b"x" * 600_000)
    wire = await Wire(channel).request(out.body[:cut], GONE)
    assert wire.sent == []
    assert app.bodies == []
    assert channel._active == 0


async def test_a_client_that_goes_away_before_its_answer(app, ring, channel):
    out = sealed(ring, "/waits")
    wire = await Wire(channel).request(out.body, LEAVES)
    assert app.disconnected.is_set()
    assert wire.sent == []
    assert channel._active == 0


async def test_a_client_that_stops_reading(app, ring, channel):
    wire = Wire(channel)
    wire.stuck_after = 2
    await wire.request(sealed(ring, "/stream").body)
    assert len(wire.sent) == 2
    assert channel._active == 0


async def test_a_connection_that_breaks_under_the_answer(app, ring, channel):
    for path in ("/stream", "/fails"):
        wire = Wire(channel)
        wire.broken_after = 0
        await wire.request(sealed(ring, path).body)
        assert wire.sent == []
    assert channel._active == 0


async def test_an_app_that_hangs(app, ring, channel):
    out = sealed(ring, "/hangs")
    assert await code_of(out, channel, out.body) == "channel.timeout"
    out = sealed(ring, "/hangs-late")
    assert await code_of(out, channel, out.body) == "channel.truncated"


async def test_too_many_at_once(app, ring, channel):
    hanging = [asyncio.ensure_future(Wire(channel).request(sealed(ring, "/hangs").body)) for _ in range(2)]
    await asyncio.sleep(0.01)
    wire = await Wire(channel).request(sealed(ring).body)
    assert (wire.status, wire.problem["code"]) == (503, "channel.busy")
    await asyncio.gather(*hanging)
    out = sealed(ring)
    assert opened(out, await Wire(channel).request(out.body)) == b"hello"


# --- apps that fail --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/fails", "/says-nothing", "/no-such-handler"])
async def test_an_app_that_fails_says_nothing_to_the_client(ring, channel, path, capsys):
    out = sealed(ring, path)
    assert await code_of(out, channel, out.body) == "channel.app-failed"
    assert SECRET not in "".join(capsys.readouterr())


async def test_an_app_that_fails_within_its_answer(ring, channel, capsys):
    out = sealed(ring, "/fails-late")
    assert await code_of(out, channel, out.body) == "channel.truncated"
    assert SECRET not in "".join(capsys.readouterr())


async def test_a_receipt_that_fails_does_not_take_the_answer_with_it(ring, channel, capsys):
    async def on_exchange(exchange):
        raise RuntimeError(SECRET)

    channel.on_exchange = on_exchange
    out = sealed(ring)
    assert opened(out, await Wire(channel).request(out.body)) == b"hello"
    assert SECRET not in "".join(capsys.readouterr())


# --- EHBP ------------------------------------------------------------------------------------------------------------


def ehbp_sealed(ring, path="/echo", content=b"hello"):
    head = RequestHead(b"POST", b"https", b"", path.encode(), ((b"x-note", b"clear"), (b"content-length", b"9")))
    return EhbpOutgoing(ring.current_config(), head, content)


async def ehbp_wire(channel, out, *pieces, path="/echo"):
    return await Wire(channel).request(*(pieces or [out.body]), path=path, headers=out.fields)


@pytest.mark.parametrize("size", [1, 70_000, 1_000_000])
async def test_ehbp_exchange(app, ring, channel, size):
    out = ehbp_sealed(ring, content=b"x" * size)
    wire = await ehbp_wire(channel, out)
    assert opened(out, wire) == b"x" * size
    assert wire.status == 201
    assert b"content-length" not in wire.headers
    scope = app.scopes[0]
    assert scope["path"] == "/echo"
    assert [name for name, _ in scope["headers"]] == [b"content-type", b"x-note"]
    assert scope["mitai.exchange"].protocol == "ehbp"
    assert scope["mitai.exchange"].request_sha256 == out.exchange.request_sha256
    assert scope["mitai.exchange"].response_sha256 == out.exchange.response_sha256


async def test_ehbp_event_streams_are_padded(ring, channel):
    out = ehbp_sealed(ring, "/stream")
    wire = await ehbp_wire(channel, out, path="/stream")
    assert [len(m["body"]) for m in wire.sent[1:]] == [4 + 16 + 512] * 3 + [0]
    assert b"data: 22\n\n" in opened(out, wire)


async def test_ehbp_with_an_old_key_and_with_none(app, ring, channel):
    first, second = ehbp_sealed(ring), ehbp_sealed(ring)
    ring.rotate()
    assert opened(first, await ehbp_wire(channel, first)) == b"hello"
    ring._old.clear()
    wire = await ehbp_wire(channel, second)
    assert (wire.status, wire.problem["type"]) == (422, ehbp.KEY_PROBLEM_TYPE)
    assert isinstance(second.refused(wire.status, wire.body), KeysChangedError)
    assert len(app.scopes) == 1


async def test_ehbp_replay(app, ring, channel):
    out = ehbp_sealed(ring)
    opened(out, await ehbp_wire(channel, out))
    again = ehbp_sealed(ring)
    again.body, again.fields, again._sealer = out.body, out.fields, out._sealer
    wire = await ehbp_wire(channel, again)
    assert wire.status == 409
    assert json.loads(opened(again, wire))["code"] == "channel.replayed"
    assert len(app.scopes) == 1


@pytest.mark.parametrize("value", [b"", b"zz" * 32, b"aa" * 31, b"aa" * 33, b" ".join([b"aa"] * 32)])
async def test_ehbp_headers_that_are_refused(app, channel, value):
    headers = [(ehbp.ENC_HEADER.encode(), value)] if value else [(ehbp.ENC_HEADER.encode(), b"aa" * 32)] * 2
    wire = await Wire(channel).request(b"x", path="/echo", headers=headers)
    assert (wire.status, wire.problem["code"]) == (400, "channel.ehbp-header")
    assert app.scopes == []


@pytest.mark.parametrize("body", [b"", b"\x00\x00\x00\x00"])
async def test_ehbp_without_a_body(app, ring, channel, body):
    wire = await ehbp_wire(channel, ehbp_sealed(ring), body)
    assert (wire.status, wire.problem["code"]) == (400, "channel.truncated")
    assert app.scopes == []


async def test_ehbp_cut_within_a_frame(app, ring, channel):
    out = ehbp_sealed(ring, content=b"x" * 600_000)
    wire = await ehbp_wire(channel, out, out.body[:300_000])
    assert wire.status == 400
    assert json.loads(opened(out, wire))["code"] == "channel.truncated"
    assert app.bodies == []


async def test_ehbp_app_that_fails_within_its_answer_breaks_the_connection(ring, channel, capsys):
    out = ehbp_sealed(ring, "/fails-late")
    with pytest.raises(ChannelError) as caught:
        await ehbp_wire(channel, out, path="/fails-late")
    assert caught.value.code == "channel.cut"
    assert SECRET not in "".join(capsys.readouterr())


# --- the rest --------------------------------------------------------------------------------------------------------


async def test_the_key_configuration(ring, channel):
    wire = await Wire(channel).request(b"", method="GET", path=ehbp.KEYS_PATH)
    assert (wire.status, wire.headers[b"content-type"]) == (200, b"application/ohttp-keys")
    assert wire.body == ring.current_config()
    assert (await Wire(channel).request(b"", path=ehbp.KEYS_PATH)).status == 405


async def test_what_is_not_sealed_is_not_served(app, channel):
    wire = await Wire(channel).request(b"", path="/echo")
    assert (wire.status, wire.problem["code"]) == (404, "channel.not-found")
    assert app.scopes == []


async def test_a_public_app(app, ring):
    public = App()
    wire = await Wire(ChannelMiddleware(app, ring, public=public)).request(b"hello", path="/echo")
    assert (wire.status, wire.body) == (201, b"hello")
    assert app.scopes == []


async def test_websockets_are_closed_and_lifespan_reaches_the_app(ring):
    sent, seen = [], []

    async def app(scope, receive, send):
        seen.append(scope["type"])

    async def send(message):
        sent.append(message)

    channel = ChannelMiddleware(app, ring)
    await channel({"type": "lifespan"}, None, send)
    await channel({"type": "websocket", "path": "/ohttp", "headers": []}, None, send)
    assert seen == ["lifespan"]
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_the_client_reads_no_more_of_a_refusal_than_it_must():
    assert outgoing.MAX_REFUSAL_BYTES <= 64 << 10
