"""The OpenAI API in front of parties: the stock client, what is refused, and parties that fail."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from functools import partial

import httpx2
import numpy as np
import openai
import pytest
import torch
import transformers

from mitai import demo_model
from mitai.errors import MitaiError, MpcError
from mitai.fleet.processes import free_port
from mitai.identity import Identity
from mitai.mpc.kept import Kept
from mitai.mpc.local import AsyncLocal, Local
from mitai.mpc.openai import BASE_URL, async_http_client, greet, http_client
from mitai.mpc.parties import deal, serve
from mitai.mpc.setup import FILE, Side, configure_here
from mitai.mpc.sharing import SIDES, split_model

CHAT = {"model": "model", "messages": [{"role": "user", "content": "What?"}]}
WORDS = [64, 65, 66, 2, 70, 71]  # an answer of three tokens, its end, and what comes after it
LENGTHS = {"prompt_tokens": [8, 24], "new_tokens": [3, 6], "sampling": ["greedy", "sampled"]}


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A tiny Llama with the demo model's tokenizer and template."""
    folder = tmp_path_factory.mktemp("llama")
    torch.manual_seed(58)  # whose answers are clear: 0.3 between the best logits
    config = transformers.LlamaConfig(
        vocab_size=2560,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        eos_token_id=2,
        initializer_range=0.4,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((demo_model.path() / name).read_bytes())
    return folder


@pytest.fixture(scope="module")
def cut(llama, tmp_path_factory):
    """The model as folders of all sides."""
    out = tmp_path_factory.mktemp("cut") / "cut"
    split_model(llama, out)
    configure_here(out, (free_port(), free_port()), **LENGTHS)
    return out


@pytest.fixture
def client(cut):
    with http_client(cut / "client", within_s=60) as http:
        yield openai.OpenAI(base_url=f"{BASE_URL}/v1", api_key="unused", http_client=http, max_retries=0)


class Parties:
    """What answers in place of two parties: tokens, and what happens between them."""

    def __init__(self, monkeypatch, tokens=WORDS, fails_at=None, pause_s=0.0):
        self.tokens, self.fails_at, self.pause_s = tokens, fails_at, pause_s
        self.asked, self.told, self.ended = [], 0, threading.Event()
        monkeypatch.setattr("mitai.mpc.openai.ask", self.ask)

    def ask(self, credentials, peers, offer, question, values, *, within_s):
        self.asked.append((question.task.name, question.sampling))
        self.told = 0
        assert sum(1 for _ in values) > 1
        return Fake(self.answer(question.task.tokens))

    def answer(self, count):
        self.daemon = threading.current_thread().daemon
        try:
            for number in range(count):
                time.sleep(self.pause_s)
                if number == self.fails_at:
                    raise MpcError("mpc.link-lost", "the other side went away")
                self.told += 1
                yield np.atleast_1d(np.array(self.tokens[number], float))
        finally:
            self.ended.set()


class Fake:
    """In place of `mitai.mpc.clients.Answer`."""

    receipts, keys = {"p0": b"signed"}, {"p0": Identity.generate().public}

    def __init__(self, steps):
        self.steps = steps

    def __iter__(self):
        return self.steps


def text_of(*tokens):
    tokenizer = transformers.AutoTokenizer.from_pretrained(demo_model.path())
    return tokenizer.decode(tokens)


@pytest.fixture(scope="module")
def three(cut):
    """The two parties and the dealer, as threads."""
    errors, loaded = {}, threading.Semaphore(0)

    def run(side, own):
        own = type(own)(**{**vars(own), "note": lambda said: "is loaded" in said and loaded.release()})
        try:
            if side.role == "dealer":
                deal(own, side.peers, side.offer)
            else:
                serve(own, side.peers, side.offer, side.folder.shares(side.offer), side.folder.path / "tapes")
        except MitaiError as error:
            errors[side.role] = error

    for role in SIDES[:3]:
        side = Side.open(cut / role)
        threading.Thread(target=run, args=(side, side.own()), daemon=True).start()
    for _ in range(2):
        assert loaded.acquire(timeout=100), errors
    yield
    assert not errors


def expected(llama, prompt, count):
    model = transformers.LlamaForCausalLM.from_pretrained(llama)
    with torch.no_grad():
        ids = model.generate(torch.tensor([prompt]), max_new_tokens=count, do_sample=False, eos_token_id=None)
    return ids[0, len(prompt) :].tolist()


def test_parties_answer_the_stock_client(three, client, llama, cut):
    prompt = [5, 9, 300, 41]
    settings = {"model": "model", "prompt": prompt, "max_tokens": 3, "temperature": 0}
    answer = client.completions.create(**settings)
    assert answer.choices[0].text == text_of(*expected(llama, prompt, 3)).rstrip("\ufffd")
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (4, 3)
    pieces = [chunk.choices[0].text for chunk in client.completions.create(**settings, stream=True)]
    assert "".join(pieces) == answer.choices[0].text
    sampled = client.chat.completions.with_raw_response.create(**CHAT, temperature=0.8, max_tokens=2)
    assert sampled.parse().usage.completion_tokens <= 2
    kept = Kept.decode(client.get(f"/receipts/{sampled.headers['mitai-exchange']}", cast_to=httpx2.Response).content)
    receipts = kept.check({role: peer.key_id for role, peer in Side.open(cut / "client").peers.items()})
    assert [(role, receipt.task, receipt.temperature) for role, receipt in receipts.items()] == [
        ("p0", "generate 24 3 sampled", 0.8),
        ("p1", "generate 24 3 sampled", 0.8),
    ]


async def test_parties_answer_the_asynchronous_client(three, cut):
    assert greet(Side.open(cut / "client")) == {"p0": None, "p1": None}
    async with async_http_client(cut / "client") as http:
        client = openai.AsyncOpenAI(base_url=f"{BASE_URL}/v1", api_key="unused", http_client=http, max_retries=0)
        whole, stream = await asyncio.gather(
            client.chat.completions.create(**CHAT, max_tokens=3),
            client.chat.completions.create(**CHAT, max_tokens=3, stream=True),
        )
        pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert "".join(pieces) == whole.choices[0].message.content


def test_an_answer_ends_at_its_end_token_and_the_run_is_heard_to_its_end(client, monkeypatch):
    parties = Parties(monkeypatch)
    answer = client.chat.completions.create(**CHAT)
    assert answer.choices[0].message.content == text_of(64, 65, 66)
    assert (answer.choices[0].finish_reason, answer.usage.completion_tokens) == ("stop", 4)
    assert parties.told == len(WORDS)
    ((task, sampling),) = parties.asked
    assert (task, sampling.temperature) == ("generate 24 6 greedy", 0)
    chunks = list(client.chat.completions.create(**CHAT, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == text_of(64, 65, 66)
    assert chunks[-1].usage.completion_tokens == 4
    assert parties.told == len(WORDS)


def test_stop_strings_and_lengths_are_the_clients_own(client, monkeypatch):
    parties = Parties(monkeypatch)
    stopped = client.chat.completions.create(**CHAT, stop=text_of(65)).choices[0]
    assert (stopped.message.content, stopped.finish_reason) == (text_of(64), "stop")
    assert parties.told == len(WORDS)
    short = client.chat.completions.create(**CHAT, max_completion_tokens=2).choices[0]
    assert (short.message.content, short.finish_reason) == (text_of(64, 65), "length")
    assert parties.told == 3  # the shortest answer that they give
    assert [task for task, _ in parties.asked] == ["generate 24 6 greedy", "generate 24 3 greedy"]
    client.completions.create(model="model", prompt=[5, 6], max_tokens=500, temperature=2)
    task, sampling = parties.asked[-1]
    assert (task, sampling.temperature) == ("generate 8 6 sampled", 2)


@pytest.mark.parametrize(
    ("wish", "param", "code"),
    [
        ({"seed": 1}, "seed", "serve.unsupported-parameter"),
        ({"logprobs": True}, "logprobs", "serve.unsupported-parameter"),
        ({"presence_penalty": 1}, "presence_penalty", "serve.unsupported-parameter"),
        ({"frequency_penalty": -1}, "frequency_penalty", "serve.unsupported-parameter"),
        ({"logit_bias": {"5": 1}}, "logit_bias", "serve.unsupported-parameter"),
        ({"n": 2}, "n", "serve.too-many-choices"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", "serve.unsupported-parameter"),
        ({"temperature": 0.01}, "temperature", "serve.unsupported-parameter"),
        ({"temperature": 1, "top_p": 0.5}, "top_p", "serve.unsupported-parameter"),
        ({"temperature": 3}, "temperature", "serve.invalid-request"),
        ({"messages": [{"role": "user", "content": "word " * 30}]}, "messages", "context_length_exceeded"),
        ({"extra_body": {"nonsense": 1}}, "nonsense", "serve.invalid-request"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_can_not_be_had_is_refused_by_name_and_nobody_is_asked(client, monkeypatch, wish, param, code, stream):
    parties = Parties(monkeypatch)
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**CHAT | wish, stream=stream)
    assert (refused.value.param, refused.value.code) == (param, code)
    assert not parties.asked


def test_what_is_not_there(client, monkeypatch):
    parties = Parties(monkeypatch)
    assert [model.id for model in client.models.list()] == ["model"]
    for ask in (
        partial(client.embeddings.create, model="model", input="x"),
        partial(client.chat.completions.create, **CHAT | {"model": "gpt-4"}),
        partial(client.models.retrieve, "gpt-4"),
        partial(client.get, "/elsewhere", cast_to=object),
        partial(client.get, f"/receipts/{'0' * 32}", cast_to=object),
    ):
        with pytest.raises(openai.NotFoundError):
            ask()
    with pytest.raises(openai.BadRequestError):
        client.post("/chat/completions", content=b"{", cast_to=object)
    assert not parties.asked


async def test_more_questions_than_parties_hold_wait_for_each_other(cut, monkeypatch):
    parties = Parties(monkeypatch, pause_s=0.01)
    running, most, answer = 0, [], parties.answer

    def counted(count):
        nonlocal running
        running += 1
        most.append(running)
        yield from answer(count)
        running -= 1

    monkeypatch.setattr(parties, "answer", counted)
    async with async_http_client(cut / "client") as http:
        asked = [http.post("/v1/chat/completions", json=CHAT) for _ in range(5)]
        told = await asyncio.gather(*asked)
    assert {answer.status_code for answer in told} == {200}
    assert (max(most) <= 2, len(most)) == (True, 5)


@pytest.mark.parametrize("fails_at", [0, 2, 5])
def test_a_party_that_goes_away_ends_the_answer_with_an_error(client, monkeypatch, fails_at):
    Parties(monkeypatch, tokens=[64] * 6, fails_at=fails_at)
    with pytest.raises(openai.InternalServerError) as whole:
        client.chat.completions.create(**CHAT)
    assert whole.value.code == "mpc.link-lost"
    seen = []
    with pytest.raises(openai.APIError) as streamed:
        seen.extend(client.chat.completions.create(**CHAT, stream=True))
    assert streamed.value.code == "mpc.link-lost"
    assert all(chunk.choices[0].finish_reason is None for chunk in seen)


def test_what_failed_is_not_asked_again_by_itself(cut, monkeypatch):
    parties = Parties(monkeypatch, fails_at=1)
    with http_client(cut / "client") as http:
        client = openai.OpenAI(base_url=f"{BASE_URL}/v1", api_key="unused", http_client=http)  # it would try again
        with pytest.raises(openai.InternalServerError):
            client.chat.completions.create(**CHAT)
    assert len(parties.asked) == 1


@pytest.mark.parametrize("token", [2560, -1, 1e300])
def test_shares_that_add_up_to_no_token(client, monkeypatch, token):
    Parties(monkeypatch, tokens=[64, token, 65, 66, 67, 68])
    with pytest.raises(openai.InternalServerError) as refused:
        client.chat.completions.create(**CHAT)
    assert refused.value.code == "mpc.answer-malformed"
    with pytest.raises(openai.APIError):
        list(client.chat.completions.create(**CHAT, stream=True))


def test_a_failure_of_the_program_tells_nothing(client, monkeypatch, capsys):
    def steps():
        raise RuntimeError("the secret question")
        yield

    monkeypatch.setattr("mitai.mpc.openai.ask", lambda *_, **__: Fake(steps()))
    with pytest.raises(openai.InternalServerError) as refused:
        client.chat.completions.create(**CHAT)
    assert refused.value.code == "serve.internal"
    assert "secret" not in str(refused.value) + "".join(capsys.readouterr())


def test_who_leaves_is_heard_of_by_nobody(client, monkeypatch):
    """A stream that is closed, and a client that loses patience: the run is listened to all the same."""
    parties = Parties(monkeypatch, pause_s=0.02)
    with client.chat.completions.create(**CHAT, stream=True) as stream:
        next(iter(stream))
    assert parties.ended.wait(20)
    assert parties.told == len(WORDS)
    parties.ended.clear()
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.01).chat.completions.create(**CHAT)
    assert parties.ended.wait(20)
    assert parties.told == len(WORDS)


def test_a_process_stays_until_the_run_has_ended(cut, monkeypatch):
    parties = Parties(monkeypatch, pause_s=0.05)
    wish = CHAT | {"stream": True}
    with http_client(cut / "client") as http, http.stream("POST", "/v1/chat/completions", json=wish) as answer:
        next(answer.iter_raw())
    assert parties.ended.wait(20)
    assert parties.told == len(WORDS)
    assert not parties.daemon  # the interpreter waits for it


@pytest.fixture
def changed(cut, tmp_path):
    """Return a client's folder whose party.toml has other words in place of some."""

    def change(*pairs):
        folder = tmp_path / "client"
        shutil.copytree(cut / "client", folder, dirs_exist_ok=True)
        text = (cut / "client" / FILE).read_text()
        for before, after in pairs:
            assert before in text
            text = text.replace(before, after)
        (folder / FILE).write_text(text)
        return folder

    return change


def test_an_answer_ends_at_any_token_that_the_models_configurations_name(changed, monkeypatch):
    Parties(monkeypatch)
    folder = changed()
    (folder / "generation_config.json").write_text('{"eos_token_id": [65, 9]}')
    with http_client(folder) as http:
        answer = http.post("/v1/completions", json={"model": "model", "prompt": "a"}).json()
    assert (answer["choices"][0]["text"], answer["choices"][0]["finish_reason"]) == (text_of(64), "stop")
    (folder / "generation_config.json").write_text('{"eos_token_id": "x"}')
    with pytest.raises(MitaiError):
        http_client(folder)


def test_several_choices_where_parties_go_on_with_several_prompts_at_once(changed, monkeypatch):
    parties = Parties(monkeypatch)
    parties.tokens = [[64, 65], [2, 66], [70, 67], [70, 68], [70, 69], [70, 2]]
    with http_client(changed(("prompt_tokens", "batch = 2\nprompt_tokens"))) as http:
        client = openai.OpenAI(base_url=f"{BASE_URL}/v1", api_key="unused", http_client=http, max_retries=0)
        answer = client.chat.completions.create(**CHAT, n=2)
        texts = [choice.message.content for choice in answer.choices]
        assert texts == [text_of(64), text_of(65, 66, 67, 68, 69)]
        assert answer.usage.completion_tokens == 8
        several = client.completions.create(model="model", prompt=["a", "b c"], max_tokens=3)
        assert [choice.text for choice in several.choices] == [text_of(64), text_of(65, 66, 67)]
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(**CHAT, n=3)
    assert [task for task, _ in parties.asked] == ["generate 24 6 greedy 2", "generate 8 3 greedy 2"]


def test_parties_that_are_not_there(changed, cut):
    port = f":{Side.open(cut / 'p0').own().listen.port}"
    with pytest.raises(MpcError):  # such a port does not exist
        http_client(changed((port, ":123456")))
    with http_client(changed((port, ":1"), ("prompt_tokens", 'model = "other"\nprompt_tokens')), within_s=0.2) as http:
        answer = http.post("/v1/chat/completions", json=CHAT | {"model": "other"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "mpc.peer-absent")
    for wrong in (http_client, lambda folder: greet(Side.open(folder))):
        with pytest.raises(MpcError) as refused:
            wrong(cut / "p0")
        assert refused.value.code == "mpc.config"


# -- an app in this process ----------------------------------------------------------------------------------


async def app(scope, receive, send):
    """Say what came, in pieces; break off or fail where the path says so."""
    body = (await receive())["body"]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-path", scope["path"].encode())]})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    if scope["path"] == "/fails":
        raise RuntimeError
    if scope["path"] == "/waits":
        assert (await receive())["type"] == "http.disconnect"
        LEFT.set()
        return
    await send({"type": "http.response.body", "body": scope["query_string"]})


LEFT = threading.Event()


def test_an_app_answers_in_this_process():
    with httpx2.Client(transport=Local(app), base_url="http://anywhere.invalid") as http:
        answer = http.post("/a/b?c=d", content=b"hello ")
        assert (answer.text, answer.headers["x-path"]) == ("hello c=d", "/a/b")
        for path in ("/fails", "/waits"):
            with pytest.raises((httpx2.ReadError, httpx2.ReadTimeout)):
                http.post(path, content=b"x", timeout=0.1)
        assert LEFT.wait(20)


async def test_an_app_answers_asynchronously():
    async with httpx2.AsyncClient(transport=AsyncLocal(app), base_url="http://anywhere.invalid") as http:
        answers = await asyncio.gather(*(http.post("/", content=b"%d" % number) for number in range(5)))
        assert [answer.text for answer in answers] == list("01234")
        with pytest.raises(httpx2.ReadError):
            await http.post("/fails", content=b"x")
        LEFT.clear()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await http.post("/waits", content=b"x")
        assert LEFT.wait(20)
