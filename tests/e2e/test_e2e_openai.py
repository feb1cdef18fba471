"""The stock `openai` client over our transport: sync, async, streaming; and what a client sees when things go wrong."""

from __future__ import annotations

import asyncio

import httpx2
import openai
import pytest

from mitai import client as mitai_client
from mitai.client.transport import EXCHANGE_EXTENSION, OhttpTransport
from mitai.errors import AttestError, ChannelError, ClientError

ASK = {"model": "demo", "messages": [{"role": "user", "content": "什么是 TEE？"}], "temperature": 0, "max_tokens": 60}


@pytest.fixture
def client(running):
    with mitai_client.http_client(running.gateway, running.policy) as http:
        yield openai.OpenAI(base_url=f"{running.gateway}/v1", api_key="unused", http_client=http, max_retries=0)


def test_sync(client):
    answer = client.chat.completions.create(**ASK)
    assert answer.choices[0].message.content
    assert answer.usage.completion_tokens > 0
    assert [model.id for model in client.models.list()] == ["demo"]


def test_streaming_equals_the_whole_answer(client):
    whole = client.chat.completions.create(**ASK).choices[0].message.content
    pieces = [
        part.choices[0].delta.content or ""
        for part in client.chat.completions.create(**ASK, stream=True)
        if part.choices
    ]
    assert "".join(pieces) == whole
    assert len([piece for piece in pieces if piece]) > 3


def test_embeddings_and_completions(client):
    vectors = client.embeddings.create(model="demo", input=["one", "two"]).data
    assert len(vectors) == 2
    assert abs(sum(x * x for x in vectors[0].embedding) - 1) < 1e-3
    assert (
        client.completions.create(model="demo", prompt="TEE", max_tokens=5, temperature=0).usage.completion_tokens == 5
    )


async def test_async_streams_side_by_side(running):
    async with mitai_client.async_http_client(running.gateway, running.policy) as http:
        client = openai.AsyncOpenAI(base_url=f"{running.gateway}/v1", api_key="unused", http_client=http)

        async def ask() -> str:
            stream = await client.chat.completions.create(**ASK, stream=True)
            return "".join([part.choices[0].delta.content or "" async for part in stream if part.choices])

        answers = await asyncio.gather(*(ask() for _ in range(8)))
    assert len(set(answers)) == 1


def test_every_option_through_the_sealed_channel(client):
    ask = client.chat.completions.create
    several = ask(**ASK | {"n": 3, "temperature": 1, "seed": 7})
    assert [choice.index for choice in several.choices] == [0, 1, 2]
    again = ask(**ASK | {"n": 3, "temperature": 1, "seed": 7})
    assert [choice.message.content for choice in again.choices] == [one.message.content for one in several.choices]
    whole = ask(**ASK).choices[0].message.content
    stopped = ask(**ASK, stop=whole[4:6]).choices[0]
    assert (stopped.message.content, stopped.finish_reason) == (whole[:4], "stop")
    assert ask(**ASK | {"max_tokens": 2}).choices[0].finish_reason == "length"
    logprobs = ask(**ASK, logprobs=True, top_logprobs=2).choices[0].logprobs.content
    assert all(len(each.top_logprobs) == 2 and each.logprob <= 0 for each in logprobs)
    chunks = list(ask(**ASK, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].usage.completion_tokens == ask(**ASK).usage.completion_tokens
    assert client.models.retrieve("demo").id == "demo"
    floats = client.embeddings.create(model="demo", input="one", encoding_format="float").data[0].embedding
    assert client.embeddings.create(model="demo", input="one").data[0].embedding == pytest.approx(floats, abs=1e-6)
    settings = {"model": "demo", "prompt": "TEE", "max_tokens": 5, "temperature": 0}
    pieces = [chunk.choices[0].text for chunk in client.completions.create(**settings, stream=True)]
    assert "".join(pieces) == client.completions.create(**settings).choices[0].text


def test_a_refusal_of_the_api_is_the_clients_own_error(client):
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(**ASK | {"model": "another"})
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as wrong:
        client.chat.completions.create(**ASK | {"temperature": 9})
    assert (wrong.value.param, wrong.value.code) == ("temperature", "serve.invalid-request")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("another")
    with pytest.raises(openai.BadRequestError) as long:
        client.chat.completions.create(**ASK | {"messages": [{"role": "user", "content": "word " * 9000}]})
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.APIStatusError) as large:
        client.chat.completions.create(**ASK | {"messages": [{"role": "user", "content": "word " * 1_000_000}]})
    assert large.value.status_code == 413


class Unsteady(httpx2.HTTPTransport):
    """A network that fails as often as it is told to, and then works."""

    def __init__(self, error, failures):
        super().__init__()
        self.error, self.failures = error, failures

    def handle_request(self, request):
        self.failures -= 1
        if self.failures >= 0:
            raise self.error("no", request=request)
        return super().handle_request(request)


@pytest.mark.parametrize(
    ("error", "seen"),
    [
        (httpx2.ConnectError, openai.APIConnectionError),
        (httpx2.ReadError, openai.APIConnectionError),
        (httpx2.ReadTimeout, openai.APITimeoutError),
    ],
)
def test_a_network_that_fails_is_the_clients_own_error_and_is_tried_again(running, error, seen):
    session = mitai_client.connect(running.gateway, running.policy)
    for failures, retries in ((1, 0), (2, 2)):
        transport = OhttpTransport(Unsteady(error, failures), session, running.gateway)
        with httpx2.Client(transport=transport) as http:
            client = openai.OpenAI(
                base_url=f"{running.gateway}/v1", api_key="unused", http_client=http, max_retries=retries
            )
            if retries:
                assert client.chat.completions.create(**ASK).choices[0].message.content  # sealed anew: no replay
            else:
                with pytest.raises(seen):
                    client.chat.completions.create(**ASK)


def test_a_time_limit_is_the_clients_own_error(client):
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.0001).chat.completions.create(**ASK)
    assert client.chat.completions.create(**ASK).choices[0].message.content


def test_an_answer_that_is_left_frees_its_place(client):
    long = ASK | {"temperature": 2, "max_tokens": 400, "seed": 1}
    for _ in range(40):  # more than answer at once
        with client.chat.completions.create(**long, stream=True) as stream:
            next(iter(stream))
    assert client.with_options(timeout=20).chat.completions.create(**ASK).choices[0].message.content


async def test_an_answer_that_is_cancelled(running):
    async with mitai_client.async_http_client(running.gateway, running.policy) as http:
        client = openai.AsyncOpenAI(base_url=f"{running.gateway}/v1", api_key="unused", http_client=http, max_retries=0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await client.chat.completions.create(**ASK | {"n": 8, "temperature": 2, "max_tokens": 400})
        with pytest.raises(openai.APITimeoutError):
            await client.with_options(timeout=0.0001).chat.completions.create(**ASK)
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.create(**ASK | {"model": "another"})
        assert (await client.chat.completions.create(**ASK)).choices[0].message.content


def test_a_machine_that_does_not_hold_gets_nothing(running):
    with pytest.raises(AttestError) as refused:
        mitai_client.http_client(running.gateway, type(running.policy)())
    assert refused.value.step


def test_the_broker_is_not_taken_for_a_replica(running):
    with pytest.raises(ClientError) as refused:
        mitai_client.http_client(f"{running.gateway}/broker", running.policy)
    assert refused.value.code == "client.other-workload"


def test_nothing_is_sent_to_another_address(running):
    with mitai_client.http_client(running.gateway, running.policy) as http, pytest.raises(ChannelError) as refused:
        http.get("http://127.0.0.1:9/v1/models")
    assert refused.value.code == "channel.other-origin"


def test_the_api_is_not_reachable_in_the_clear(running):
    answer = httpx2.post(f"{running.gateway}/v1/chat/completions", json=ASK)
    assert answer.status_code in {403, 404}
    assert b"choices" not in answer.content


def test_a_response_names_its_exchange(running):
    with mitai_client.http_client(running.gateway, running.policy) as http:
        answer = http.get("/v1/models")
    exchange = answer.extensions[EXCHANGE_EXTENSION]
    assert len(exchange.request_sha256) == len(exchange.response_sha256) == 64
