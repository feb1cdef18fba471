"""Properties of the serve parts that parse or hold back: arbitrary bytes, arbitrary tokens, arbitrary distributions."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "serve"))

import torch
from serve_models import make_tokenizer

from mitai.errors import MitaiError, ParseError
from mitai.serve.adapters import Settings, parse_settings, parts_of
from mitai.serve.engine import Sampling, TokenLogprob
from mitai.serve.loading import load
from mitai.serve.sampling import Sampler, sample
from mitai.serve.schema import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    RequestError,
    parse,
    texts_or_tokens,
)
from mitai.serve.text import TextStream

TOKENIZER = make_tokenizer().backend_tokenizer
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**65), 2**65) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
chat_fields = sorted(ChatRequest.__struct_fields__)
chats = st.fixed_dictionaries(
    {"model": st.just("m"), "messages": st.just([{"role": "user", "content": "x"}]) | json_values},
    optional={name: json_values for name in chat_fields if name not in {"model", "messages"}},
)


def refused(error, secret=None):
    assert (error.status, error.code.partition(".")[0]) == (400, "serve")
    assert secret is None or secret not in error.diagnostics()


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_a_request_or_a_refusal(body):
    for kind in (ChatRequest, CompletionRequest, EmbeddingRequest):
        try:
            assert isinstance(parse(kind, body), kind)
        except RequestError as error:
            refused(error)


@given(chats)
def test_arbitrary_fields_are_a_request_or_a_refusal(fields):
    try:
        request = parse(ChatRequest, json.dumps(fields).encode())
        request.refuse_unsupported()
        for at, message in enumerate(request.messages):
            assert set(message.plain(at)) == {"role", "content"}
    except RequestError as error:
        refused(error)


@given(st.sampled_from(chat_fields), st.text(min_size=12, max_size=20, alphabet="qxzj0123"))
def test_a_refusal_never_quotes_a_value(field, secret):
    """Whatever field holds it: the message names the field, not what was in it."""
    for value in (secret, [secret], {"a": secret}, [{"role": secret, "content": secret}]):
        fields = {"model": "m", "messages": [{"role": "user", "content": "x"}], field: value}
        try:
            parse(ChatRequest, json.dumps(fields).encode()).refuse_unsupported()
        except RequestError as error:
            refused(error, secret)


@given(json_values)
def test_arbitrary_prompts(value):
    if isinstance(value, str | list):
        try:
            many = texts_or_tokens(value, "prompt", 8)
        except RequestError:
            return
        assert all(isinstance(each, str) or all(isinstance(token, int) for token in each) for each in many)


@given(st.text(max_size=60), st.lists(st.text(min_size=1, max_size=5), max_size=3))
def test_text_comes_out_whole_and_stops_exactly(text, stops):
    stream = TextStream(TOKENIZER, tuple(stops))
    pieces = []
    for token in TOKENIZER.encode(text).ids:
        piece, _ = stream.push(token)
        pieces.append(piece)
        assert "\ufffd" not in piece or "\ufffd" in text
        if stream.stopped:
            break
    else:
        pieces.append(stream.finish()[0])
    ids, found = TOKENIZER.encode(text).ids, []
    whole = TOKENIZER.decode(ids)
    for end in range(1, len(ids) + 1):  # the token with which a stop is whole ends it, whatever would have come
        seen = whole if end == len(ids) else TOKENIZER.decode(ids[:end]).rstrip("\ufffd")
        if found := [seen.index(stop) for stop in stops if stop in seen]:
            break
    assert "".join(pieces) == (whole[: min(found)] if found else whole.rstrip("\ufffd"))
    assert stream.stopped == bool(found)


@given(st.lists(st.integers(0, 299), max_size=30))
def test_any_tokens_give_the_decoders_text(tokens):
    """Bytes that are no characters too: nothing is lost, doubled or broken but an unfinished end."""
    stream = TextStream(TOKENIZER)
    pieces = [stream.push(token)[0] for token in tokens] + [stream.finish()[0]]
    assert "".join(pieces).rstrip("\ufffd") == TOKENIZER.decode(tokens).rstrip("\ufffd")


@given(st.text(max_size=30), st.lists(st.text(min_size=1, max_size=4), max_size=2))
def test_every_log_probability_comes_out_once(text, stops):
    stream, tokens, out = TextStream(TOKENIZER, tuple(stops)), TOKENIZER.encode(text).ids, []
    for at, token in enumerate(tokens):
        out += stream.push(token, TokenLogprob("", b"", float(at)))[1]
        if stream.stopped:
            break
    else:
        out += stream.finish()[1]
    assert [each.logprob for each in out] == [float(at) for at in range(len(out))]
    assert stream.stopped or len(out) == len(tokens)


@settings(max_examples=40)
@given(st.integers(2, 2000), st.floats(0.05, 1.0), st.floats(0.2, 2.0), st.integers(0, 2**32))
def test_a_draw_is_within_the_nucleus(size, top_p, temperature, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, size, generator=generator) * 4
    token = sample(
        logits.clone(), [Sampler(Sampling(max_tokens=1, temperature=temperature, top_p=top_p, seed=seed), 0)]
    )[0]
    probabilities = (logits[0] / temperature).softmax(dim=-1)
    likelier = probabilities[probabilities > probabilities[token]].sum()
    assert float(likelier) < top_p + 1e-4


def test_draws_have_the_models_distribution():
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    sampler = Sampler(Sampling(max_tokens=1, temperature=0.7, seed=5), 0)
    counts = [0] * 4
    for _ in range(4000):
        counts[sample(logits, [sampler])[0]] += 1
    for count, probability in zip(counts, (logits[0] / 0.7).softmax(dim=-1).tolist(), strict=True):
        assert abs(count / 4000 - probability) < 0.03


def test_a_vanishing_temperature_does_not_overflow():
    logits = torch.tensor([[100.0, 3e4, -3e4]], dtype=torch.bfloat16)
    assert sample(logits, [Sampler(Sampling(max_tokens=1, temperature=1e-30, top_p=0.5, seed=1), 0)]) == [1]


class Files:
    """A `FileSource` out of a dictionary."""

    def __init__(self, files):
        self.files = files

    def names(self):
        return tuple(sorted(self.files))

    def size(self, name):
        return len(self.files[name])

    def read(self, name):
        return self.files[name]

    def read_into(self, name, offset, buffer):
        buffer[:] = self.files[name][offset : offset + len(buffer)]


CONFIG = {"model_type": "llama", "vocab_size": 300, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
CONFIG |= {"num_attention_heads": 1, "num_key_value_heads": 1}
NAMES = ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors", "model.safetensors.index.json"]


def header(table):
    text = json.dumps(table).encode()
    return struct.pack("<Q", len(text)) + text


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.sampled_from(NAMES), st.binary(max_size=60) | json_values.map(lambda v: json.dumps(v).encode())),
    json_values.map(header) | st.binary(max_size=40),
    st.booleans(),
)
def test_arbitrary_folders_are_refused_with_the_trees_errors(files, weights, fill):
    if fill:
        files = {"config.json": json.dumps(CONFIG).encode(), "tokenizer.json": TOKENIZER.to_str().encode()} | files
        files["model.safetensors"] = weights
    with pytest.raises(MitaiError):
        load(Files(files))


LORA = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "mlp.down_proj"]}
MEANING = ("r", "lora_alpha", "target_modules", "use_rslora")


@given(st.sampled_from([field for field in Settings.__struct_fields__ if field not in MEANING]), json_values)
def test_a_member_of_an_adapters_configuration_changes_nothing_or_is_refused(name, value):
    try:
        settings_ = parse_settings(json.dumps(LORA | {name: value}).encode())
    except ParseError:
        return
    plain = parse_settings(json.dumps(LORA).encode())
    assert [getattr(settings_, each) for each in MEANING] == [getattr(plain, each) for each in MEANING]
    assert settings_.scale == plain.scale == 2.0


@given(st.text(max_size=20).filter(lambda name: name not in Settings.__struct_fields__), json_values)
def test_a_member_that_is_not_known_is_refused(name, value):
    with pytest.raises(ParseError) as caught:
        parse_settings(json.dumps(LORA | {name: value}).encode())
    assert len(str(caught.value)) < 200


@given(st.lists(st.tuples(st.sampled_from(["", "a", "b"]), st.integers(0, 4)), max_size=8))
def test_every_token_of_a_pack_sees_its_own_adapter(owners):
    """What the parts say, token by token, is who owns the token."""
    tokens = [name for name, count in owners for _ in range(count)]
    seen = [""] * len(tokens)
    for name, at in parts_of(owners):
        for token in range(len(tokens)) if at is None else at.tolist():
            assert seen[token] == ""
            seen[token] = name
    assert seen == tokens
