"""BERT, GPT-2, Llama and Qwen2 in fixed point, against transformers in floating point."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import AttentionInterface, LlamaForCausalLM
from transformers import BertConfig as TorchBert
from transformers import GPT2Config as TorchGpt2
from transformers import LlamaConfig as TorchLlama
from transformers import Qwen2Config as TorchQwen2

from mitai import demo_model
from mitai.errors import MitaiError, MpcError, ParseError
from mitai.mpc.clear import ClearEngine
from mitai.mpc.generate import begin, generate, prompts
from mitai.mpc.models import arrays, attention, decoder
from mitai.mpc.models.arrays import Arrays, Tensors
from mitai.mpc.models.config import LlamaConfig, parse_config
from mitai.mpc.models.llama import Llama
from mitai.mpc.sampling import Sampling
from mitai.mpc.three_local import run as run_three
from mitai.mpc.two.local import run
from mpc_rig import CountingEngine, Named, floats, ours, random_model

SMALL = {
    "vocab_size": 101, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96,
}  # fmt: skip
MANY = {"vocab_size": 1001, "hidden_size": 32}  # of which four are looked up together
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
DECODERS = {
    "gpt2": (
        "gpt2",
        TorchGpt2(n_embd=64, n_layer=2, n_head=4, vocab_size=101, n_positions=64, bos_token_id=0, eos_token_id=0),
    ),
    "llama": ("llama", TorchLlama(**SMALL)),
    "llama-3": ("llama", TorchLlama(**SMALL, num_key_value_heads=2, tie_word_embeddings=True, rope_parameters=LLAMA3)),
    "qwen2": ("qwen2", TorchQwen2(**SMALL, num_key_value_heads=2)),
    "many-tokens": ("qwen2", TorchQwen2(**SMALL | MANY, num_key_value_heads=2, tie_word_embeddings=True)),
    "many-untied": ("llama", TorchLlama(**SMALL | MANY, num_key_value_heads=2)),
    "odd-heads": ("llama", TorchLlama(**SMALL | {"num_attention_heads": 2, "head_dim": 24})),
}
PROMPTS = [[5, 6, 7, 8], [9, 10, 11, 12, 13, 14, 15], [3]]
DEVIATIONS = {"": 0.15}


def loaded(model, engine=None, **members):
    """Return our model and its weights, of a transformers model."""
    program = ours(model, **members)
    return program, program.load(Arrays(engine or ClearEngine(), "model", program.arrays(Named(model))))


def generated(program, weights, ids, length, count, engine=None):
    """Return tokens [batch, count] that our model generates."""
    engine = engine or ClearEngine()
    client = Arrays(engine, "client", prompts(program, ids, length, count))
    steps = generate(program, weights, client, batch=len(ids), length=length, tokens=count, sampling=Sampling())
    result = np.array([engine.reveal(step) for step in steps]).T.astype(int).tolist()
    client.end()
    return result


def expected(model, prompt, count):
    """Return the tokens that transformers generates."""
    with torch.no_grad():
        made = model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=count, min_new_tokens=count, do_sample=False, pad_token_id=0,
        )  # fmt: skip
    return made[0, len(prompt) :].tolist()


# --- models that generate ---


@pytest.mark.parametrize("name", DECODERS)
def test_logits_and_greedy_tokens(name):
    model = random_model(*DECODERS[name], DEVIATIONS)
    engine = ClearEngine()
    program, weights = loaded(model, engine)
    state = begin(program, weights, Arrays(engine, "client", prompts(program, PROMPTS, 8, 1)), batch=3, length=8)
    with torch.no_grad():
        wanted = np.array([floats(model(torch.tensor([prompt])).logits)[0, -1] for prompt in PROMPTS])
    assert np.abs(engine.reveal(state.logits) - wanted).max() < 5e-3
    assert generated(program, weights, PROMPTS, 8, 5) == [expected(model, prompt, 5) for prompt in PROMPTS]


@pytest.mark.parametrize("name", ["gpt2", "qwen2"])
def test_long_contexts_go_by_blocks(name, monkeypatch):
    monkeypatch.setattr(attention, "CONTEXT", 4)
    monkeypatch.setattr(attention, "QUERIES", 3)
    monkeypatch.setattr(arrays, "BLOCK_WORDS", 400)
    monkeypatch.setattr(decoder, "INNER", 400)
    model = random_model(*DECODERS[name], DEVIATIONS)
    program, weights = loaded(model)
    prompt = list(range(1, 15))
    assert generated(program, weights, [prompt], 16, 7) == [expected(model, prompt, 7)]


@pytest.mark.parametrize("name", ["gpt2", "qwen2"])
def test_blocks_bound_what_is_in_memory_and_change_nothing(name, monkeypatch):
    model, engine = random_model(*DECODERS[name], DEVIATIONS), CountingEngine()
    program, weights = loaded(model, engine)
    logits, largest = [], []
    for scores, inner in ((1 << 20, 1 << 20), (2048, 2000)):
        monkeypatch.setattr(attention, "SCORES", scores)
        monkeypatch.setattr(decoder, "INNER", inner)
        engine.calls.clear()
        client = Arrays(engine, "client", prompts(program, [list(range(1, 40))], 40, 1))
        logits.append(engine.reveal(begin(program, weights, client, batch=1, length=40).logits))
        largest.append(max(np.prod(shape) for name, shape, *_ in engine.calls if name == "spline"))
    assert (logits[0] == logits[1]).all()
    assert largest[0] > 3000
    assert largest[1] <= 2048


@pytest.mark.parametrize("together", [run, run_three])
def test_rows_are_looked_up_by_parties(together):
    """A client's own, and that of a token that was chosen, whoever computes."""
    table = np.random.default_rng(4).normal(size=(50, 3))
    tokens = np.array([[0], [37], [49]])
    fold = arrays.fold_of(50, 3)
    assert fold == 4

    def program(engine):
        weight, _ = Arrays(engine, "model", [arrays.folded(table, fold)]).tied(13, 3, fold)
        rows = arrays.embed(Arrays(engine, "client", arrays.one_hot(tokens, 13, fold)), weight, 3, fold)
        return engine.reveal(rows)

    for result in together(program).results:
        assert np.abs(result - table[tokens[:, 0]]).max() < 4 * 2.0**-16


def test_both_parts_of_a_look_up_are_about_as_long():
    shapes = (151936, 896), (32000, 4096), (128256, 4096), (101, 64)
    assert [arrays.fold_of(*shape) for shape in shapes] == [16, 2, 4, 1]


def test_the_program_depends_on_nothing_secret():
    model = random_model(*DECODERS["gpt2"], DEVIATIONS)
    program, named = ours(model), Named(model)
    traces = []
    for prompt in ([1], list(range(1, 9))):
        engine = CountingEngine()
        fresh = program.load(Arrays(engine, "model", program.arrays(named)))
        generated(program, fresh, [prompt], 8, 3, engine)
        traces.append(engine.calls)
    assert len(traces[0]) > 200
    assert [call[:2] for call in traces[0]] == [call[:2] for call in traces[1]]


def test_a_layer_takes_few_operations():
    calls = []
    for layers in (2, 3):
        config = TorchGpt2(
            n_embd=64, n_layer=layers, n_head=4, vocab_size=101, n_positions=64, bos_token_id=0, eos_token_id=0
        )
        engine = CountingEngine()
        program, weights = loaded(random_model("gpt2", config, DEVIATIONS), engine)
        engine.calls.clear()
        begin(program, weights, Arrays(engine, "client", prompts(program, [[1, 2]], 8, 1)), batch=1, length=8)
        calls.append(engine.count())
    layer = calls[1] - calls[0]
    assert layer == {"linear": 4, "matmul": 2, "multiply": 5, "truncate": 8, "octaves": 3, "spline": 2, "upper": 1}


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.05, top_p=0.05)])
def test_two_parties_generate_what_one_computer_does(sampling):
    model = random_model(*DECODERS["gpt2"], DEVIATIONS)
    program, named = ours(model), Named(model)

    def answer(engine):
        weights = program.load(Arrays(engine, "model", program.arrays(named)))
        client = Arrays(engine, "client", prompts(program, PROMPTS, 8, 3))
        steps = generate(program, weights, client, batch=3, length=8, tokens=3, sampling=sampling)
        return np.array([engine.reveal(step) for step in steps]).T

    first, second = run(answer).results
    assert (first == second).all()
    assert first.tolist() == [expected(model, prompt, 3) for prompt in PROMPTS]


def test_prompts_and_answers_within_what_a_model_can_take():
    program, _ = loaded(random_model(*DECODERS["gpt2"], DEVIATIONS))
    for ids, length, count in (([[]], 8, 1), ([[1] * 9], 8, 1), ([[1] * 60], 64, 6)):
        with pytest.raises(ValueError, match="prompt"):
            list(prompts(program, ids, length, count))


def test_the_demo_model_answers_as_in_floating_point(tmp_path):
    model = LlamaForCausalLM.from_pretrained(demo_model.path(), dtype=torch.float32).eval()
    program = Llama(parse_config((demo_model.path() / "config.json").read_bytes(), LlamaConfig))
    engine = ClearEngine()
    weights = program.load(Arrays(engine, "model", program.arrays(Tensors(demo_model.path()))))
    ids = [[2, *range(100 + 40 * i, 130 + 37 * i)] for i in range(3)]
    assert generated(program, weights, ids, 64, 8, engine) == [expected(model, prompt, 8) for prompt in ids]


# --- BERT ---

TEXTS = [[5, 6, 7, 8], [9, 10, 11, 12, 13, 14, 15]]
TYPES = [[0, 0, 1, 1], [0] * 7]


@pytest.mark.parametrize("parties", [1, 2])
@pytest.mark.parametrize("name", ["bert", "bert-embeddings"])
def test_bert(name, parties):
    model = random_model(name, TorchBert(**SMALL, max_position_embeddings=32, num_labels=3), DEVIATIONS)
    program, named = ours(model), Named(model)

    def answer(engine):
        weights = program.load(Arrays(engine, "model", program.arrays(named)))
        client = Arrays(engine, "client", program.prompts(TEXTS, 16, TYPES))
        compute = program.classify if name == "bert" else program.embed
        result = engine.reveal(compute(weights, client, batch=2, length=16))
        client.end()
        return result

    result = answer(ClearEngine()) if parties == 1 else run(answer).results[0]
    with torch.no_grad():
        for row, text, types in zip(result, TEXTS, TYPES, strict=True):
            wanted = model(input_ids=torch.tensor([text]), token_type_ids=torch.tensor([types]))
            wanted = wanted.logits[0] if name == "bert" else wanted.last_hidden_state[0].mean(0)
            assert np.abs(row - floats(wanted)).max() < 2e-3


@pytest.mark.parametrize(("name", "opened"), [("bert", 6), ("gpt2", 4)])
def test_a_layer_takes_29_rounds(name, opened):
    """Beside those that open a layer's weights, and BERT's scales."""
    small = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "vocab_size": 20}

    def rounds(layers):
        config = (
            TorchBert(**small, num_hidden_layers=layers)
            if name == "bert"
            else TorchGpt2(n_embd=16, n_layer=layers, n_head=2, vocab_size=20, n_positions=64, eos_token_id=0)
        )
        model = random_model(name, config, DEVIATIONS)
        program, named = ours(model), Named(model)

        def answer(engine):
            weights = program.load(Arrays(engine, "model", program.arrays(named)))
            if name == "bert":
                client = Arrays(engine, "client", program.prompts([[1, 2]], 4))
                return engine.reveal(program.classify(weights, client, batch=1, length=4))
            client = Arrays(engine, "client", prompts(program, [[1, 2]], 4, 1))
            return engine.reveal(begin(program, weights, client, batch=1, length=4).logits)

        return run(answer).cost.rounds[0]

    assert rounds(2) - rounds(1) == 29 + opened


def test_a_bert_without_head_does_not_classify():
    program, weights = loaded(random_model("bert-embeddings", TorchBert(**SMALL), DEVIATIONS))
    with pytest.raises(ValueError, match="no head"):
        program.classify(weights, Arrays(ClearEngine(), "client", []), batch=1, length=4)


def test_mpcformers_approximations_are_what_is_computed():
    model = random_model("bert", TorchBert(**SMALL, num_labels=2), DEVIATIONS)
    engine = CountingEngine()
    program, weights = loaded(model, engine, mpc_approx="mpcformer")
    engine.calls.clear()
    result = program.classify(weights, Arrays(engine, "client", program.prompts(TEXTS, 16, TYPES)), batch=2, length=16)
    assert engine.count()["upper"] == 0

    def quad_attention(module, query, key, value, mask, **options):
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5 + 5
        squares = scores**2 if mask is None else scores**2 * (mask >= 0)
        return (squares / squares.sum(-1, keepdim=True) @ value).transpose(1, 2), None

    class QuadGelu(torch.nn.Module):
        def forward(self, x):
            return x**2 / 8 + x / 4 + 0.5

    AttentionInterface.register("quad", quad_attention)
    model.set_attn_implementation("quad")
    for layer in model.bert.encoder.layer:
        layer.intermediate.intermediate_act_fn = QuadGelu()
    with torch.no_grad():
        for row, text, types in zip(engine.reveal(result), TEXTS, TYPES, strict=True):
            wanted = model(input_ids=torch.tensor([text]), token_type_ids=torch.tensor([types])).logits[0]
            assert np.abs(row - floats(wanted)).max() < 2e-3


# --- folders and configurations ---


def test_folders_of_several_files_and_types(tmp_path):
    single = Named(random_model(*DECODERS["llama"], DEVIATIONS))
    for dtype, tolerance in ((torch.float32, 0), (torch.bfloat16, 2**-8), (torch.float16, 2**-10)):
        random_model(*DECODERS["llama"], DEVIATIONS).to(dtype).save_pretrained(
            tmp_path / str(dtype), max_shard_size="100kB"
        )
        read = Tensors(tmp_path / str(dtype))
        assert len(list((tmp_path / str(dtype)).glob("*.safetensors"))) > 1
        for name in ("model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight", "model.norm.weight"):
            assert np.abs(read(name) - single(name)).max() <= tolerance * np.abs(single(name)).max()


def test_a_model_that_does_not_fit_is_refused(tmp_path):
    model = random_model(*DECODERS["llama"], DEVIATIONS)
    program, named = ours(model), Named(model)
    given = list(program.arrays(named))
    engine = ClearEngine()
    for wrong in (given[:-1], [*given, given[0]], [given[0].T, *given[1:]]):
        with pytest.raises(MpcError) as error:
            program.load(Arrays(engine, "model", wrong))
        assert error.value.code == "mpc.model-mismatch"
    with pytest.raises(MpcError) as error:
        list(program.arrays(Tensors(tmp_path)))
    assert error.value.code == "mpc.model-mismatch"
    save_file({"model.embed_tokens.weight": torch.ones(101, 64, dtype=torch.int32)}, tmp_path / "model.safetensors")
    with pytest.raises(MpcError) as error:
        list(program.arrays(Tensors(tmp_path)))
    assert error.value.code == "mpc.model-mismatch"
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ParseError):
        Tensors(tmp_path)


@pytest.mark.parametrize(
    ("name", "members"),
    [
        ("bert", {"hidden_act": "relu"}),
        ("bert", {"is_decoder": True}),
        ("bert", {"num_attention_heads": 5}),
        ("bert", {"position_embedding_type": "relative_key"}),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
        ("gpt2", {"scale_attn_weights": False}),
        ("gpt2", {"add_cross_attention": True}),
        ("gpt2", {"n_head": 7}),
        ("llama", {"num_hidden_layers": 0}),
        ("llama", {"num_key_value_heads": 3}),
        ("llama", {"attention_bias": True}),
        ("llama", {"head_dim": 3}),
        ("llama", {"rope_parameters": {"rope_type": "yarn"}}),
        ("llama", {"rope_parameters": LLAMA3 | {"high_freq_factor": 1.0}}),
        ("llama", {"rms_norm_eps": -1e-6}),
        ("qwen2", {"use_sliding_window": True}),
        ("qwen2", {"mpc_approx": "linear"}),
        ("qwen2", {"mpc_reach": 100}),
    ],
)
def test_configurations_that_ask_for_what_is_not_here(name, members):
    config = TorchBert(**SMALL) if name == "bert" else DECODERS[name][1]
    model = type("Model", (), {"config": config})()
    with pytest.raises(MitaiError) as error:
        ours(model, **members)
    assert error.value.code == "mpc.model-unsupported"


def test_old_configurations_name_the_base_of_rotary_positions_differently():
    old = json.dumps(
        SMALL | {"model_type": "llama", "rope_theta": 500.0, "rope_scaling": LLAMA3 | {"rope_theta": None}}
    )
    assert parse_config(old.encode(), LlamaConfig).rope.rope_theta == 500.0
