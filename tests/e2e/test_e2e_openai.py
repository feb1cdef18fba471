"""The stock `openai` client over our transport: sync, async, streaming; and what a client sees when things go wrong."""

from __future__ import annotations

import asyncio

import httpx2
import openai
import pytest

from mitai import client as mitai_client
from mitai.client.transport import EXCHANGE_EXTENSION
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


def test_a_refusal_of_the_api_is_the_clients_own_error(client):
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(**ASK | {"model": "another"})
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(**ASK | {"temperature": 9})


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
