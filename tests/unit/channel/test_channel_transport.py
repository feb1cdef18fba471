"""The transports against servers that lie: whatever the outer response is, nothing is accepted in the clear."""

from __future__ import annotations

import asyncio
import json

import httpx2
import pytest

from mitai.channel.asgi import ChannelMiddleware
from mitai.channel.keys import KeyRing
from mitai.channel.problems import OHTTP_KEY_TYPE
from mitai.client.transport import AsyncEhbpTransport, AsyncOhttpTransport, EhbpTransport, OhttpTransport
from mitai.errors import AttestError, ChannelError, KeysChangedError, MitaiError

URL = "https://gateway.example"
SEALED = {"content-type": "message/ohttp-chunked-res"}


class Session:
    replica = None

    def __init__(self, ring, *, renewal_fails=False):
        self.ring = ring
        self.key_config = ring.current_config()
        self.renewals = 0
        self.renewal_fails = renewal_fails

    def renew(self):
        self.renewals += 1
        if self.renewal_fails:
            raise AttestError("attest.refused", "another machine")
        self.key_config = self.ring.current_config()


class AsyncSession(Session):
    async def renew(self):
        super().renew()


async def _app(scope, receive, send):
    body = (await receive())["body"]
    answer = json.dumps(
        {"path": scope["path"], "host": dict(scope["headers"]).get(b"host", b"").decode(), "n": len(body)}
    )
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": answer.encode()})


class Server:
    """An inner transport that runs the middleware, and lets a test change what it answers."""

    def __init__(self, ring, change=None):
        self.channel = ChannelMiddleware(_app, ring)
        self.change = change or (lambda response: response)
        self.requests = []

    def __call__(self, request):
        return asyncio.run(self.answer(request))

    async def answer(self, request):
        self.requests.append(request)
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(self.channel)) as client:
            answer = await client.request(request.method, request.url, headers=request.headers, content=request.content)
        response = httpx2.Response(answer.status_code, headers=answer.headers.raw, content=answer.content)
        return self.change(response)


class Either:
    """One test body for the sync and the async transport."""

    def __init__(self, asynchronous, ring):
        self.asynchronous, self.ring = asynchronous, ring

    def get(self, server, url=URL + "/v1/x", *, base=URL, session=None, ehbp=False, content=b"hi"):
        if not self.asynchronous:
            self.session = session or Session(self.ring)
            kind = EhbpTransport if ehbp else OhttpTransport
            with httpx2.Client(transport=kind(httpx2.MockTransport(server), self.session, base)) as client:
                return client.post(url, content=content)
        self.session = AsyncSession(self.ring, renewal_fails=bool(session and session.renewal_fails))

        async def run():
            kind = AsyncEhbpTransport if ehbp else AsyncOhttpTransport
            inner = httpx2.MockTransport(getattr(server, "answer", server))
            async with httpx2.AsyncClient(transport=kind(inner, self.session, base)) as client:
                return await client.post(url, content=content)

        return asyncio.run(run())

    def refused(self, code, *args, kind=ChannelError, **kwargs):
        with pytest.raises(kind) as caught:
            self.get(*args, **kwargs)
        assert isinstance(caught.value, MitaiError)
        assert caught.value.code == code


@pytest.fixture
def ring():
    return KeyRing.generate(grace_s=0)


@pytest.fixture(params=["sync", "async"])
def either(request, ring):
    return Either(request.param == "async", ring)


def answering(status, body=b"", **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda request: httpx2.Response(status, headers=named, content=body)


def test_the_outer_request_says_nothing(either, ring):
    server = Server(ring)
    answer = either.get(server, URL + "/v1/x?secret=1")
    assert answer.json() == {"path": "/v1/x", "host": "gateway.example", "n": 2}
    (request,) = server.requests
    assert (request.method, str(request.url)) == ("POST", URL + "/ohttp")
    assert set(request.headers) == {"content-type", "incremental", "host", "content-length"}
    assert answer.extensions["mitai.exchange"].response_sha256


def test_a_base_with_a_path(either, ring):
    server = Server(ring)
    moved = httpx2.URL(URL + "/ohttp")

    async def behind_a_gateway(request):
        assert str(request.url) == URL + "/broker/ohttp"
        return await server.answer(httpx2.Request("POST", moved, headers=request.headers, content=request.content))

    def sync(request):
        return asyncio.run(behind_a_gateway(request))

    inner = behind_a_gateway if either.asynchronous else sync
    assert either.get(inner, URL + "/broker/v1/x", base=URL + "/broker/").json()["path"] == "/v1/x"


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("https://other.example/v1", URL),
        ("http://gateway.example/v1", URL),
        ("https://gateway.example:444/v1", URL),
        (URL + "/v1", URL + "/broker"),
        (URL + "/brokers/v1", URL + "/broker"),
    ],
)
def test_other_origins_are_refused_before_anything_is_sent(either, ring, url, base):
    server = Server(ring)
    for ehbp in (False, True):
        either.refused("channel.other-origin", server, url, base=base, ehbp=ehbp)
    assert server.requests == []


@pytest.mark.parametrize("status", [200, 201, 302, 404, 500])
def test_an_answer_in_the_clear_is_never_accepted(either, status):
    either.refused("channel.refused", answering(status, b"hello", content_type="text/html"))
    either.refused("channel.refused", answering(status, b"hello", content_type="text/html"), ehbp=True)
    if status != 200:
        either.refused("channel.refused", answering(status, b"", **SEALED))


@pytest.mark.parametrize("body", [b"", b"x", b"x" * 100, b"\x00" * 100])
def test_an_answer_that_was_not_sealed_for_us(either, body):
    with pytest.raises(ChannelError):
        either.get(answering(200, body, **SEALED))


def test_a_refusal_that_never_ends_is_not_read_to_its_end(either):
    read = []

    class Endless(httpx2.SyncByteStream, httpx2.AsyncByteStream):
        def __iter__(self):
            while True:
                read.append(1)
                yield b"x" * 10_000

        async def __aiter__(self):
            while True:
                read.append(1)
                yield b"x" * 10_000

    either.refused("channel.refused", lambda request: httpx2.Response(500, stream=Endless()))
    assert len(read) < 5


@pytest.mark.parametrize(
    ("problem", "code"),
    [
        ({"code": "channel.busy"}, "channel.busy"),
        ({"code": "channel.too-large"}, "channel.too-large"),
        ({"code": "made.up"}, "channel.refused"),
        ({"code": 7}, "channel.refused"),
        ([], "channel.refused"),
    ],
)
def test_problem_documents(either, problem, code):
    body = json.dumps(problem).encode()
    either.refused(code, answering(400, body, content_type="application/problem+json"))


def test_changed_keys_are_verified_and_the_request_is_sent_once_more(either, ring):
    server = Server(ring)
    session = Session(ring)
    ring.rotate()
    if either.asynchronous:
        either.ring = type("Old", (), {"current_config": lambda self: session.key_config})()

        class Renewing(AsyncSession):
            async def renew(self):
                self.renewals += 1
                self.key_config = ring.current_config()

        async def run():
            renewing = Renewing(either.ring)
            transport = AsyncOhttpTransport(httpx2.MockTransport(server.answer), renewing, URL)
            async with httpx2.AsyncClient(transport=transport) as client:
                return renewing, await client.post(URL + "/v1/x", content=b"hi")

        session, answer = asyncio.run(run())
    else:
        answer = either.get(server, session=session)
    assert answer.json()["n"] == 2
    assert session.renewals == 1
    assert len(server.requests) == 2


def test_a_key_that_stays_the_same_is_not_tried_again(either):
    calls = []

    def forged(request):
        calls.append(request)
        return httpx2.Response(400, json={"type": OHTTP_KEY_TYPE})

    either.refused("channel.keys-changed", forged, kind=KeysChangedError)
    assert (len(calls), either.session.renewals) == (1, 1)


def test_a_renewal_that_fails_is_what_the_caller_sees(either, ring):
    session = Session(ring, renewal_fails=True)
    forged = answering(400, json.dumps({"type": OHTTP_KEY_TYPE}).encode())
    either.refused("attest.refused", forged, session=session, kind=AttestError)


@pytest.mark.parametrize("keep", [0, 10, 40, -1])
def test_an_answer_that_is_cut(either, ring, keep):
    def cut(response):
        return httpx2.Response(200, headers=response.headers.raw[:1], content=response.content[:keep])

    with pytest.raises(ChannelError):
        either.get(Server(ring, cut))


def test_a_connection_that_breaks_within_the_answer(either, ring):
    class Breaking(httpx2.SyncByteStream, httpx2.AsyncByteStream):
        def __init__(self, data):
            self.data = data

        def __iter__(self):
            yield self.data[:50]
            raise httpx2.RemoteProtocolError("peer closed connection")

        async def __aiter__(self):
            for piece in (self.data[:50],):
                yield piece
            raise httpx2.ReadError("peer closed connection")

    def broken(response):
        return httpx2.Response(200, headers=SEALED, stream=Breaking(response.content))

    either.refused("channel.truncated", Server(ring, broken))


@pytest.mark.parametrize("nonces", [[], ["zz" * 32], ["aa" * 31], ["aa" * 32] * 2])
def test_ehbp_nonces(either, nonces):
    def answer(request):
        return httpx2.Response(200, headers=[("ehbp-response-nonce", nonce) for nonce in nonces], content=b"")

    with pytest.raises(MitaiError):
        either.get(answer, ehbp=True)


def test_ehbp_exchange(either, ring):
    server = Server(ring)
    answer = either.get(server, URL + "/v1/x", ehbp=True)
    assert answer.json()["n"] == 2
    assert str(server.requests[0].url) == URL + "/v1/x"
    assert server.requests[0].content != b"hi"
    either.refused("channel.ehbp-bodyless", server, ehbp=True, content=b"")


def test_ehbp_needs_x25519(either):
    either.ring = KeyRing.generate("x-wing")
    either.refused("channel.key-config-unsupported", answering(200), ehbp=True, kind=MitaiError)


def test_the_replica_is_named(ring):
    server = Server(ring)
    session = Session(ring)
    session.replica = "r7"
    Either(False, ring).get(server, session=session)
    assert server.requests[0].headers["mitai-replica"] == "r7"
