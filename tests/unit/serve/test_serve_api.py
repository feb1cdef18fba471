"""The API through the stock openai client, against a real uvicorn on loopback."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
import time

import httpx2
import openai
import pytest
from serve_platform import served

from mitai.errors import ServeError
from mitai.serve.api import Limits, create_app

CHAT = [{"role": "user", "content": "hello 世界"}]
LIMITS = Limits(max_requests=4, max_body_bytes=64 << 10, max_choices=8, max_prompt_tokens=300, max_embeddings=4)


@pytest.fixture(scope="module")
def server(engine):
    with served(create_app(lambda: engine, LIMITS)) as url:
        yield url


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0) as client:
        yield client


def ask(client, **more):
    return client.chat.completions.create(**{"model": "tiny", "messages": CHAT, "max_tokens": 9, "seed": 4} | more)


def text_of(chunks, choice=0):
    picked = [c for chunk in chunks for c in chunk.choices if c.index == choice]
    return "".join(c.delta.content or "" for c in picked), picked[-1].finish_reason


def test_chat(client):
    answer = ask(client)
    choice = answer.choices[0]
    assert (answer.object, answer.model, choice.message.role) == ("chat.completion", "tiny", "assistant")
    assert choice.finish_reason == "length"
    assert answer.usage.completion_tokens == 9
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 9
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}))
    assert text_of(chunks) == (choice.message.content, "length")
    assert chunks[0].choices[0].delta.role == "assistant"
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert (chunks[-1].choices, chunks[-1].usage) == ([], answer.usage)
    assert list(ask(client, stream=True))[-1].usage is None


def test_several_choices(client):
    answer = ask(client, n=3, temperature=1)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert answer.usage.completion_tokens == 27
    chunks = list(ask(client, n=3, temperature=1, stream=True))
    for choice in answer.choices:
        assert text_of(chunks, choice.index)[0] == choice.message.content


def test_roles_and_text_parts(client, engine):
    parts = [{"type": "text", "text": "hello "}, {"type": "text", "text": "世界"}]
    messages = [
        {"role": "developer", "content": "be kind"},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "go on"},
    ]
    plain = [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "hello 世界"},
        *messages[2:],
    ]
    assert ask(client, messages=messages).usage.prompt_tokens == len(engine.chat_prompt(plain))


def test_stop_and_max_completion_tokens(client):
    whole = ask(client, max_tokens=40).choices[0].message.content
    stop = whole[3:6]
    answer = ask(client, max_tokens=40, stop=[stop, "never there"]).choices[0]
    assert (answer.message.content, answer.finish_reason) == (whole[: whole.index(stop)], "stop")
    assert text_of(ask(client, max_tokens=40, stop=stop, stream=True)) == (whole[: whole.index(stop)], "stop")
    assert ask(client, max_tokens=None, max_completion_tokens=3).usage.completion_tokens == 3


def test_log_probabilities(client):
    logprobs = ask(client, logprobs=True, top_logprobs=2, temperature=0).choices[0].logprobs.content
    assert len(logprobs) == 9
    assert all(len(each.top_logprobs) == 2 and each.logprob <= 0 for each in logprobs)
    assert all(each.logprob == each.top_logprobs[0].logprob for each in logprobs)  # the likeliest was taken
    assert bytes(logprobs[0].bytes).decode() == logprobs[0].token
    chunks = ask(client, logprobs=True, top_logprobs=2, temperature=0, stream=True)
    streamed = [each for c in chunks for p in c.choices if p.logprobs for each in p.logprobs.content]
    assert streamed == logprobs
    assert ask(client, logprobs=True).choices[0].logprobs.content[0].top_logprobs == []
    assert ask(client).choices[0].logprobs is None


def test_completions(client, engine):
    settings = {"model": "tiny", "max_tokens": 6, "temperature": 0}
    answer = client.completions.create(prompt="hello world", logprobs=2, **settings)
    assert answer.object == "text_completion"
    logprobs = answer.choices[0].logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.top_logprobs) == 6
    assert logprobs.text_offset[0] == 0
    ids = engine.tokenize("hello world")
    both = client.completions.create(prompt=[ids, ids], n=2, **settings)
    assert [choice.text for choice in both.choices] == [answer.choices[0].text] * 4
    assert [choice.index for choice in both.choices] == [0, 1, 2, 3]
    assert client.completions.create(prompt=ids, **settings).choices[0].text == answer.choices[0].text
    chunks = list(client.completions.create(prompt="hello world", stream=True, **settings))
    assert "".join(chunk.choices[0].text for chunk in chunks) == answer.choices[0].text
    assert chunks[-1].choices[0].finish_reason == "length"


def test_embeddings(client, engine):
    texts = ["hello", "机密计算"]
    plain = client.embeddings.create(model="tiny", input=texts, encoding_format="float")
    packed = client.embeddings.create(model="tiny", input=texts)  # the client asks for base64
    for one, other in zip(plain.data, packed.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
        assert sum(x * x for x in one.embedding) == pytest.approx(1, abs=1e-4)
    assert plain.usage.prompt_tokens == sum(len(engine.tokenize(text)) for text in texts)
    tokens = client.embeddings.create(model="tiny", input=engine.tokenize("hello"), encoding_format="float")
    assert tokens.data[0].embedding == plain.data[0].embedding
    raw = client.embeddings.with_raw_response.create(model="tiny", input="hello", encoding_format="base64")
    encoded = base64.b64decode(json.loads(raw.text)["data"][0]["embedding"])
    assert struct.unpack(f"<{len(encoded) // 4}f", encoded) == pytest.approx(plain.data[0].embedding)


def test_models(client, engine):
    (model,) = client.models.list().data
    assert model.id == "tiny"
    assert client.models.retrieve("tiny").max_model_len == engine.info.context_length
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("another")


async def test_asynchronous_client(server):
    async with openai.AsyncOpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0) as client:
        answers = await asyncio.gather(*(ask(client, seed=at) for at in range(4)))
        for at, answer in enumerate(answers):
            stream = await ask(client, seed=at, stream=True)
            chunks = [chunk async for chunk in stream]
            assert text_of(chunks)[0] == answer.choices[0].message.content


BAD = [
    ({"temperature": 2.1}, "temperature", "serve.invalid-request"),
    ({"temperature": -0.1}, "temperature", "serve.invalid-request"),
    ({"top_p": 0}, "top_p", "serve.invalid-request"),
    ({"top_p": "1"}, "top_p", "serve.invalid-request"),
    ({"n": 0}, "n", "serve.invalid-request"),
    ({"n": 9}, "n", "serve.invalid-request"),
    ({"max_tokens": 0}, "max_tokens", "serve.invalid-request"),
    ({"top_logprobs": 21, "logprobs": True}, "top_logprobs", "serve.invalid-request"),
    ({"top_logprobs": 2}, "top_logprobs", "serve.invalid-request"),
    ({"stop": ["a"] * 5}, "stop", "serve.invalid-request"),
    ({"stop": ""}, "stop", "serve.invalid-request"),
    ({"seed": 1 << 63}, "seed", "serve.invalid-request"),
    ({"presence_penalty": 2.5}, "presence_penalty", "serve.invalid-request"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "serve.invalid-request"),
    ({"messages": []}, "messages", "serve.invalid-request"),
    ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role", "serve.invalid-request"),
    ({"messages": [{"role": "user", "content": None}]}, "messages[0].content", "serve.invalid-request"),
    ({"extra_body": {"no_such_field": 1}}, "no_such_field", "serve.invalid-request"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", "serve.unsupported-parameter"),
    ({"tool_choice": "required"}, "tool_choice", "serve.unsupported-parameter"),
    ({"response_format": {"type": "json_object"}}, "response_format", "serve.unsupported-parameter"),
    ({"logit_bias": {"5": 1}}, "logit_bias", "serve.unsupported-parameter"),
    ({"store": True}, "store", "serve.unsupported-parameter"),
    ({"modalities": ["audio"]}, "modalities", "serve.unsupported-parameter"),
    ({"reasoning_effort": "low"}, "reasoning_effort", "serve.unsupported-parameter"),
    ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "messages[0].role", None),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content", None),
    ({"messages": [{"role": "user", "content": "word " * 400}]}, "messages", "context_length_exceeded"),
]


@pytest.mark.parametrize(("change", "param", "code"), BAD, ids=[param for _, param, _ in BAD])
def test_what_is_wrong_is_refused_by_name(client, change, param, code):
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, **change)
    body = refused.value.body
    assert body["type"] == "invalid_request_error"
    assert body["param"] == param
    assert body["code"] == (code or "serve.unsupported-parameter")
    with pytest.raises(openai.BadRequestError):  # and just so before a stream starts
        ask(client, stream=True, **{key: value for key, value in change.items() if key != "stream_options"} | (
            {} if "stream_options" not in change else {"n": 0}))  # fmt: skip


def test_what_changes_nothing_is_accepted(client):
    ask(client, tools=[], tool_choice="none", logit_bias={}, response_format={"type": "text"}, store=False, user="me",
        metadata={"a": "b"}, service_tier="auto", modalities=["text"], frequency_penalty=0, n=1)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"echo": True}, "echo"),
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"logprobs": 6}, "logprobs"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": [1 << 40]}, "prompt"),
        ({"prompt": [10**6]}, "prompt"),
        ({"prompt": ["a"] * 9}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": ["a"] * 5, "n": 2}, "n"),
    ],
)
def test_wrong_completions(client, change, param):
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(**{"model": "tiny", "prompt": "hello"} | change)
    assert refused.value.body["param"] == param


def test_wrong_embeddings(client):
    for change in ({"dimensions": 8}, {"input": []}, {"input": ["a"] * 5}, {"input": ""}, {"encoding_format": "x"}):
        with pytest.raises(openai.BadRequestError):
            client.embeddings.create(**{"model": "tiny", "input": "hello"} | change)


def test_an_unknown_model_and_address(client, server):
    with pytest.raises(openai.NotFoundError) as refused:
        ask(client, model="gpt-9")
    assert refused.value.body["code"] == "model_not_found"
    assert httpx2.get(f"{server}/v1/files").json()["error"]["code"] == "serve.no-route"
    assert httpx2.get(f"{server}/v1/completions").status_code == 405
    assert httpx2.post(f"{server}/v1/completions", content=b"{").json()["error"]["code"] == "serve.malformed-json"
    assert httpx2.post(f"{server}/v1/completions", content=b"[" * 60_000).status_code == 400


def test_a_large_body_is_refused(client):
    with pytest.raises(openai.APIStatusError) as refused:
        ask(client, messages=[{"role": "user", "content": "x" * (70 << 10)}])
    assert refused.value.status_code == 413


async def running(engine, count):
    for _ in range(500):
        if len(engine._answering) + len(engine._reading) + len(engine._waiting) == count:
            return
        engine._inbox.put(None)
        await asyncio.sleep(0.01)
    raise AssertionError


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_frees_its_place(server, engine, stream):
    body = {"model": "tiny", "messages": CHAT, "max_tokens": 480, "n": 2, "stream": stream, "seed": 1}
    host, port = server.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    content = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(content)}\r\n\r\n".encode()
    writer.write(head + content)
    await running(engine, 2)
    if stream:
        assert b"200 OK" in await reader.readline()
    writer.close()
    await writer.wait_closed()
    await running(engine, 0)


async def test_too_many_requests(server, engine):
    async with openai.AsyncOpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0) as client:
        streams = [await ask(client, stream=True, max_tokens=480) for _ in range(LIMITS.max_requests)]
        with pytest.raises(openai.RateLimitError) as refused:
            await ask(client)
        assert refused.value.response.headers["retry-after"] == "1"
        for stream in streams:
            await stream.close()
        await running(engine, 0)
        await ask(client)


def test_an_answer_that_takes_too_long(engine):
    with (
        served(create_app(lambda: engine, Limits(max_seconds=0.001))) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        with pytest.raises(openai.APIStatusError) as refused:
            ask(client, max_tokens=400)
        assert refused.value.status_code == 504
        with pytest.raises(openai.APIError) as cut:
            list(ask(client, max_tokens=400, stream=True))
        assert cut.value.code == "serve.timeout"


def test_no_engine_yet():
    with (
        served(create_app(lambda: None)) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        assert client.models.list().data == []
        with pytest.raises(openai.InternalServerError) as refused:
            ask(client)
        assert refused.value.status_code == 503
        assert refused.value.body["code"] == "serve.not-deployed"


class Broken:
    """An engine that fails with the prompt in its error."""

    def __init__(self, engine):
        self.info, self.tokenize, self.chat_prompt = engine.info, engine.tokenize, engine.chat_prompt

    async def generate(self, request):
        if request.sampling.max_tokens > 5:
            raise RuntimeError("secret prompt")
        raise ServeError("serve.engine-failed", "the engine failed")
        yield

    async def embed(self, prompts):
        raise RuntimeError("secret prompt")


def test_an_engine_that_fails_tells_nothing(engine, capfd):
    with (
        served(create_app(lambda: Broken(engine))) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        for change in ({}, {"max_tokens": 3}):
            with pytest.raises(openai.InternalServerError) as failed:
                ask(client, **change)
            assert "secret" not in str(failed.value.body)
            with pytest.raises(openai.APIError) as cut:
                list(ask(client, stream=True, **change))
            assert "secret" not in str(cut.value.body)
        with pytest.raises(openai.InternalServerError):
            client.embeddings.create(model="tiny", input="x")
    out, err = capfd.readouterr()
    assert "secret" not in out + err
    assert "RuntimeError" in out + err  # its kind is logged


def test_event_overhead_is_small(engine):
    """A stream event costs microseconds: the renderer encodes the text only."""
    from mitai.serve.engine import Sampling, Step
    from mitai.serve.render import ChatRenderer

    event = ChatRenderer("tiny", 5, 1, Sampling(max_tokens=5)).events(with_usage=True)
    step = Step(0, "hello", 1)
    event(step)
    start = time.perf_counter()
    for _ in range(1000):
        event(step)
    assert time.perf_counter() - start < 0.1
