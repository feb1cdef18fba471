"""Real clients over real sockets: the stock `openai` client on our transports, `tinfoil-ehbp` against our server."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from contextlib import contextmanager

import httpx
import httpx2
import openai
import pytest
import uvicorn
from ehbp import Client as EhbpClient
from ehbp import EHBPTransport, KeyConfigMismatchError, ServerIdentity
from ehbp.identity import ServerIdentity as EhbpIdentity
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from mitai.channel import ChannelMiddleware, KeyRing, Limits
from mitai.client.transport import AsyncEhbpTransport, AsyncOhttpTransport, EhbpTransport, OhttpTransport
from mitai.errors import ChannelError, KeysChangedError

WORDS = ["con", "fid", "ential", " é", " 密态"]
PAUSE_S = 0.05


class Backend:
    """A tiny OpenAI-like server behind the channel, with its wire tapped."""

    def __init__(self, kem):
        self.ring = KeyRing.generate(kem, grace_s=0)
        self.exchanges = []
        self.disconnects = 0
        self.wire_bytes = b""
        app = Starlette(
            routes=[
                Route("/v1/chat/completions", self.chat, methods=["POST"]),
                Route("/v1/models", self.models),
                Route("/endless", self.endless, methods=["POST"]),
            ]
        )
        channel = ChannelMiddleware(app, self.ring, on_exchange=self.on_exchange, limits=Limits(idle_s=5))
        config = uvicorn.Config(self.tapped(channel), port=0, log_level="error", lifespan="off")
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)

    def tapped(self, app):
        async def tap(scope, receive, send):
            async def tapped_receive():
                message = await receive()
                self.wire_bytes += message.get("body", b"")
                return message

            async def tapped_send(message):
                self.wire_bytes += message.get("body", b"")
                await send(message)

            await app(scope, tapped_receive, tapped_send)

        return tap

    async def on_exchange(self, exchange):
        self.exchanges.append(exchange)

    async def models(self, request):
        return JSONResponse(
            {"object": "list", "data": [{"id": "demo", "object": "model", "created": 0, "owned_by": "x"}]}
        )

    async def chat(self, request: Request):
        body = json.loads(await request.body())
        assert request.headers["authorization"] == "Bearer key-of-the-user"

        def chunk(delta, finish=None):
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            return {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "demo", "choices": [choice]}

        async def events():
            for word in WORDS:
                yield f"data: {json.dumps(chunk({'content': word}), ensure_ascii=False)}\n\n"
                await asyncio.sleep(PAUSE_S)
            yield f"data: {json.dumps(chunk({}, 'stop'))}\n\n"
            yield "data: [DONE]\n\n"

        if body.get("stream"):
            return StreamingResponse(events(), media_type="text/event-stream")
        message = {"role": "assistant", "content": "".join(WORDS)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return JSONResponse(
            {"id": "c", "object": "chat.completion", "created": 0, "model": "demo", "choices": [choice]}
        )

    async def endless(self, request: Request):
        async def events():
            try:
                while True:
                    yield "data: more\n\n"
                    await asyncio.sleep(0.01)
            finally:
                self.disconnects += 1

        await request.body()
        return StreamingResponse(events(), media_type="text/event-stream")

    def __enter__(self):
        self.thread.start()
        while not self.server.started:
            time.sleep(0.005)
        self.url = f"http://127.0.0.1:{self.server.servers[0].sockets[0].getsockname()[1]}"
        return self

    def __exit__(self, *_):
        self.server.should_exit = True
        self.thread.join(10)


class Session:
    """Trusts the server's own ring, which here stands for a verification."""

    replica = "r1"

    def __init__(self, ring):
        self.ring = ring
        self.key_config = ring.current_config()
        self.renewals = 0

    def renew(self):
        self.renewals += 1
        self.key_config = self.ring.current_config()


class AsyncSession(Session):
    async def renew(self):
        super().renew()


@pytest.fixture(params=["x25519", "x-wing"])
def backend(request):
    with Backend(request.param) as backend:
        yield backend


@pytest.fixture
def x25519_backend():
    with Backend("x25519") as backend:
        yield backend


@contextmanager
def client_of(backend, transport=OhttpTransport):
    session = Session(backend.ring)
    with httpx2.Client(transport=transport(httpx2.HTTPTransport(), session, backend.url)) as http:
        base_url = backend.url + "/v1"
        yield session, openai.OpenAI(api_key="key-of-the-user", base_url=base_url, http_client=http, max_retries=0)


ASK = {"model": "demo", "messages": [{"role": "user", "content": "a private question"}]}


def assert_nothing_in_the_clear(backend):
    for text in ("private question", "key-of-the-user", "chat/completions", "ential", "密态"):
        assert text.encode() not in backend.wire_bytes


def assert_streamed(arrivals):
    """The words were PAUSE_S apart; had they been held back, they would have arrived together."""
    assert arrivals[-1] - arrivals[0] > PAUSE_S * (len(WORDS) - 1) * 0.6


def test_openai_client(backend):
    with client_of(backend) as (session, client):
        assert [model.id for model in client.models.list()] == ["demo"]
        assert client.chat.completions.create(**ASK).choices[0].message.content == "".join(WORDS)
        words, arrivals = [], []
        for chunk in client.chat.completions.create(**ASK, stream=True):
            if chunk.choices[0].delta.content:
                words.append(chunk.choices[0].delta.content)
                arrivals.append(time.monotonic())
        assert words == WORDS
        assert_streamed(arrivals)
        assert_nothing_in_the_clear(backend)

        backend.ring.rotate()  # without grace: the client must verify again, and does
        assert client.chat.completions.create(**ASK).choices[0].message.content == "".join(WORDS)
        assert session.renewals == 1


async def test_openai_async_client(backend):
    session = AsyncSession(backend.ring)
    transport = AsyncOhttpTransport(httpx2.AsyncHTTPTransport(), session, backend.url)
    async with httpx2.AsyncClient(transport=transport) as http:
        client = openai.AsyncOpenAI(
            api_key="key-of-the-user", base_url=backend.url + "/v1", http_client=http, max_retries=0
        )
        words, arrivals = [], []
        async for chunk in await client.chat.completions.create(**ASK, stream=True):
            if chunk.choices[0].delta.content:
                words.append(chunk.choices[0].delta.content)
                arrivals.append(time.monotonic())
        assert words == WORDS
        assert_streamed(arrivals)
        backend.ring.rotate()
        answers = await asyncio.gather(*(client.chat.completions.create(**ASK) for _ in range(8)))
        assert {answer.choices[0].message.content for answer in answers} == {"".join(WORDS)}
        assert session.renewals == 1
    assert_nothing_in_the_clear(backend)


def test_both_ends_know_the_digests_of_an_exchange(backend):
    with client_of(backend) as (_, client):
        raw = client.chat.completions.with_raw_response.create(**ASK)
        exchange = raw.http_response.extensions["mitai.exchange"]
        deadline = time.monotonic() + 5
        while not backend.exchanges and time.monotonic() < deadline:
            time.sleep(0.01)
        (served,) = backend.exchanges
        assert (exchange.id, exchange.request_sha256, exchange.response_sha256) == (
            served.id,
            served.request_sha256,
            served.response_sha256,
        )


def test_a_client_that_leaves_frees_its_slot(backend):
    http = httpx2.Client(transport=OhttpTransport(httpx2.HTTPTransport(), Session(backend.ring), backend.url))
    with http.stream("POST", backend.url + "/endless", content=b"go") as response:
        assert next(response.iter_raw()).startswith(b"data: more\n\n")
    deadline = time.monotonic() + 5
    while not backend.disconnects and time.monotonic() < deadline:
        time.sleep(0.01)
    assert backend.disconnects == 1
    http.close()


def test_a_server_that_dies_within_its_answer(x25519_backend):
    backend = x25519_backend
    http = httpx2.Client(transport=OhttpTransport(httpx2.HTTPTransport(), Session(backend.ring), backend.url))
    with http.stream("POST", backend.url + "/endless", content=b"go") as response:
        pieces = response.iter_raw()
        next(pieces)
        backend.server.force_exit = True
        backend.server.should_exit = True
        with pytest.raises(ChannelError) as caught:
            list(pieces)
    assert caught.value.code == "channel.truncated"
    http.close()


def test_keys_that_do_not_change_are_not_tried_again(x25519_backend):
    """Whoever forges "unknown key" answers can't make the client send a request twice to the same key."""
    session = Session(KeyRing.generate())
    http = httpx2.Client(transport=OhttpTransport(httpx2.HTTPTransport(), session, x25519_backend.url))
    with pytest.raises(KeysChangedError):
        http.post(x25519_backend.url + "/v1/models")
    assert session.renewals == 1
    http.close()


# --- EHBP ------------------------------------------------------------------------------------------------------------


def test_tinfoil_client_against_our_server(x25519_backend):
    backend = x25519_backend
    client = EhbpClient.discover(backend.url)
    headers = {"authorization": "Bearer key-of-the-user"}
    answer = client.request("POST", "/v1/chat/completions", json_body=ASK, headers=headers)
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"] == "".join(WORDS)
    assert b"private question" not in backend.wire_bytes

    words, arrivals = [], []
    body = json.dumps({**ASK, "stream": True})
    with client.stream("POST", "/v1/chat/completions", body=body, headers=headers) as stream:
        for piece in stream:
            for line in piece.decode().splitlines():
                if line.startswith("data: {"):
                    words += [json.loads(line[6:])["choices"][0]["delta"].get("content")]
                    arrivals.append(time.monotonic())
    assert [word for word in words if word] == WORDS
    assert_streamed(arrivals)
    assert "密态".encode() not in backend.wire_bytes

    backend.ring.rotate()
    with pytest.raises(KeyConfigMismatchError):
        client.request("POST", "/v1/chat/completions", json_body=ASK, headers=headers)
    client.close()


def test_tinfoil_transport_with_a_large_body(x25519_backend):
    identity = ServerIdentity.unmarshal_public_config(x25519_backend.ring.current_config())
    http = httpx.Client(transport=EHBPTransport(identity))
    ask = {"model": "demo", "messages": [{"role": "user", "content": "x" * 1_000_000}]}
    headers = {"authorization": "Bearer key-of-the-user"}
    answer = http.post(x25519_backend.url + "/v1/chat/completions", json=ask, headers=headers)
    assert answer.json()["choices"][0]["message"]["content"] == "".join(WORDS)
    http.close()


def test_tinfoil_reads_our_key_configuration(x25519_backend):
    config = x25519_backend.ring.current_config()
    assert EhbpIdentity.unmarshal_public_config(config).marshal_public_config() == config


def test_our_ehbp_client_against_our_server(x25519_backend):
    backend = x25519_backend
    with client_of(backend, EhbpTransport) as (session, client):
        assert client.chat.completions.create(**ASK).choices[0].message.content == "".join(WORDS)
        words = [c.choices[0].delta.content for c in client.chat.completions.create(**ASK, stream=True)]
        assert [word for word in words if word] == WORDS
        backend.ring.rotate()
        assert client.chat.completions.create(**ASK).choices[0].message.content == "".join(WORDS)
        assert session.renewals == 1
        assert b"private question" not in backend.wire_bytes
        assert "密态".encode() not in backend.wire_bytes
        with pytest.raises(ChannelError) as caught:
            client.models.list()  # has no body to seal: it is not sent
        assert caught.value.code == "channel.ehbp-bodyless"


async def test_our_async_ehbp_client(x25519_backend):
    backend = x25519_backend
    transport = AsyncEhbpTransport(httpx2.AsyncHTTPTransport(), AsyncSession(backend.ring), backend.url)
    async with httpx2.AsyncClient(transport=transport) as http:
        backend.ring.rotate()
        headers = {"authorization": "Bearer key-of-the-user"}
        answer = await http.post(backend.url + "/v1/chat/completions", json=ASK, headers=headers)
        assert answer.json()["choices"][0]["message"]["content"] == "".join(WORDS)
        assert answer.extensions["mitai.exchange"] == backend.exchanges[0]
