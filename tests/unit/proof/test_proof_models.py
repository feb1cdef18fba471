"""Models as integer programs, against the same models in floating point; caches against no caches."""

import json

import numpy as np
import pytest
import torch
from transformers import BertConfig as TorchBert
from transformers import GPT2Config as TorchGpt2
from transformers import LlamaConfig as TorchLlama
from transformers import Qwen2Config as TorchQwen2

from mitai.errors import ProofError
from mitai.mpc.models.config import BertConfig, Gpt2Config, LlamaConfig, parse_config
from mitai.proof.graph import Graph
from mitai.proof.models.bert import Bert
from mitai.proof.models.blocks import attention, causal
from mitai.proof.models.calibration import calibrate, quantise, sample
from mitai.proof.models.generate import Generation
from mitai.proof.models.gpt2 import Gpt2
from mitai.proof.models.llama import Llama
from mitai.proof.models.nets import lenet, linear_model, perceptron
from mitai.proof.operations import Rescale
from mpc_rig import Named, random_model

SMALL = {
    "vocab_size": 101, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96,
}  # fmt: skip
OURS = {"gpt2": (Gpt2Config, Gpt2), "llama": (LlamaConfig, Llama), "bert": (BertConfig, Bert)}
GPT2 = {
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 4,
    "vocab_size": 101,
    "n_positions": 128,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
DECODERS = {
    "gpt2": ("gpt2", TorchGpt2(**GPT2)),
    "llama": ("llama", TorchLlama(**SMALL)),
    "llama-tied": ("llama", TorchLlama(**SMALL, num_key_value_heads=2, tie_word_embeddings=True)),
    "qwen2": ("qwen2", TorchQwen2(**SMALL, num_key_value_heads=2)),
    "odd-heads": ("llama", TorchLlama(**SMALL | {"num_attention_heads": 2, "head_dim": 24})),
}  # fmt: skip


def ours(model):
    """Return our model, its calibration and its weights, of a transformers model."""
    config = model.config.to_dict() | {"architectures": [type(model).__name__]}
    kind, build = OURS["llama" if config["model_type"] == "qwen2" else config["model_type"]]
    built = build(parse_config(json.dumps(config).encode(), kind))
    arrays = dict(built.arrays(Named(model)))
    reaches = calibrate(
        arrays, [sample(built, prompt) for prompt in np.random.default_rng(0).integers(0, 101, (3, 16))]
    )
    return built, reaches, quantise(built, reaches, arrays)


@pytest.fixture(scope="module", params=DECODERS)
def decoder(request):
    """A decoder in floating point, and ours."""
    model = random_model(*DECODERS[request.param], {"": 0.15})
    return model, *ours(model)


def test_logits_are_those_of_the_model(decoder):
    model, built, reaches, weights = decoder
    tokens = np.random.default_rng(1).integers(0, 101, 12)
    graph = built.write(Graph(reaches), 12, reveal="all")
    logits = graph.program().run({"tokens": tokens}, weights).outputs["logits"] * 0.5 ** graph.fractions["logits"]
    with torch.no_grad():
        exact = model(torch.tensor(tokens)[None]).logits[0].numpy()
    assert np.abs(logits - exact).max() < 0.02 * np.abs(exact).max()


def test_an_answer_with_a_cache_is_the_answer_without(decoder):
    _, built, reaches, weights = decoder
    answer = Generation(built, reaches, weights)
    tokens = [7, 3, 50, 99]
    steps = [answer.step(tokens)]
    for more in (1, 2, 1):
        tokens = [*tokens, *range(more - 1), steps[-1].token]
        steps.append(answer.step(tokens[-more:]))
        whole = Generation(built, reaches, weights).step(tokens)
        assert whole.token == steps[-1].token
        assert np.array_equal(whole.run.outputs["cache"], steps[-1].run.outputs["cache"])
    assert answer.length == len(tokens) == 8


def test_most_activations_take_one_limb(decoder):
    _, built, reaches, _ = decoder
    program = built.write(Graph(reaches), 8).program()
    rescaled = [
        operation for operation, value in zip(program.operations, program.values, strict=True)
        if isinstance(operation, Rescale) and value.size > 8
    ]  # fmt: skip
    assert sum(operation.shift <= 16 and operation.bits <= 16 for operation in rescaled) >= len(rescaled) / 2


def test_a_model_that_was_not_calibrated_for_it(decoder):
    _, built, reaches, _ = decoder
    with pytest.raises(ProofError) as error:
        built.write(Graph({name: reach for name, reach in reaches.items() if name != "layers.1.scores"}), 4)
    assert error.value.code == "proof.not-calibrated"


@pytest.mark.parametrize("labels", [0, 3])
def test_bert(labels):
    config = TorchBert(**SMALL, num_labels=labels, max_position_embeddings=32)
    model = random_model("bert" if labels else "bert-embeddings", config, {"": 0.1})
    built, reaches, weights = ours(model)
    tokens = np.random.default_rng(1).integers(0, 101, 12)
    graph = built.write(Graph(reaches), 12, reveal=True)
    (name,) = graph.fractions.keys() & {"logits", "states"}
    found = graph.program().run({"tokens": tokens}, weights).outputs[name] * 0.5 ** graph.fractions[name]
    with torch.no_grad():
        result = model(torch.tensor(tokens)[None])
        exact = (result.logits if labels else result.last_hidden_state.sum(1)).numpy()
    assert np.abs(found - exact).max() < 0.02 * np.abs(exact).max()
    if labels:
        choice = built.write(Graph(reaches), 12).program().run({"tokens": tokens}, weights).outputs["class"]
        assert choice == exact.argmax()


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_few_numbers_of_the_stream_may_be_huge(kind):
    """Trained models have such; what is added up then has fewer bits of fraction, and more bits in all."""
    model = random_model(*DECODERS[kind], {"": 0.15})
    outer = model.transformer.h[0].mlp.c_proj if kind == "gpt2" else model.model.layers[0].mlp.down_proj
    with torch.no_grad():
        (outer.weight[:, 5] if kind == "gpt2" else outer.weight[5]).mul_(2000)
    built, reaches, weights = ours(model)
    assert max(reaches[name] for name in ("layers.0.outer", "layers.0.down") if name in reaches) > 9
    tokens = np.random.default_rng(1).integers(0, 101, 12)
    graph = built.write(Graph(reaches), 12, reveal="all")
    logits = graph.program().run({"tokens": tokens}, weights).outputs["logits"] * 0.5 ** graph.fractions["logits"]
    with torch.no_grad():
        exact = model(torch.tensor(tokens)[None]).logits[0].numpy()
    assert np.abs(logits - exact).max() < 0.05 * np.abs(exact).max()


@pytest.mark.parametrize("far", [12, 31])
def test_what_is_hidden_has_no_part_in_attention(far):
    """Even with scores that calibration never saw: else an answer could be made that its own later tokens explain."""
    graph = Graph({"layer.scores": 0})
    queries, keys, values = (graph.input(name, (1, 1, 3, 1), 10) for name in ("queries", "keys", "values"))
    program = graph.output("mixed", attention(queries, keys, values, "layer", causal(3, 0))).program()
    before = {"queries": [2, 2, 1], "keys": [0, 0.5, 1], "values": [1, 2, 3]}
    after = {"queries": [2, 2, 0], "keys": [0, 0.5, far], "values": [1, 2, -3]}
    first, second = (
        program.run(
            {name: np.rint(np.reshape(array, (1, 1, 3, 1)) * 1024).astype(np.int64) for name, array in numbers.items()},
            {},
        ).outputs["mixed"]
        for numbers in (before, after)
    )
    assert (first[:, :, :2] == second[:, :, :2]).all()


class Everywhere(dict):
    """One reach for all names."""

    def __missing__(self, name):
        return 2


@pytest.mark.parametrize(
    ("kind", "digest"),
    [("llama", "7c4b6669efe2e54f"), ("gpt2", "66fd65be039dff67")],
)
def test_a_program_is_the_same_on_every_machine(kind, digest):
    """Its digest covers tables of functions; when layers change, proofs of before are of other programs."""
    members = GPT2 if kind == "gpt2" else SMALL
    family, build = OURS[kind]
    built = build(parse_config(json.dumps({"model_type": kind} | members).encode(), family))
    assert built.write(Graph(Everywhere()), 4, 3).program().digest.hex()[:16] == digest


# --- small networks ---


def test_a_linear_model_is_exact():
    rng = np.random.default_rng(2)
    arrays = {"layers.0.weight": rng.normal(size=(4, 1)), "layers.0.bias": rng.normal(size=1)}
    x = rng.integers(-8000, 8000, (5, 4))
    graph = linear_model(Graph(calibrate(arrays, []), word=12), 4, 5)
    found = graph.program().run({"x": x}, graph.quantised(arrays.items())).outputs["y"] * 0.5 ** graph.fractions["y"]
    assert np.allclose(found, x / 1024 @ arrays["layers.0.weight"] + arrays["layers.0.bias"], atol=0.01)


def classes(write, arrays, x):
    """Return the classes that a network finds."""
    reaches = calibrate(arrays, [(write, {"x": x})])
    graph = write(Graph(reaches, word=12))
    return graph.program().run({"x": x}, graph.quantised(arrays.items())).outputs["class"]


def layers(rng, *shapes):
    """Return random weights and biases."""
    arrays = {}
    for i, shape in enumerate(shapes):
        inputs = np.prod(shape[:-1])
        arrays[f"layers.{i}.weight"] = rng.normal(size=shape) / np.sqrt(inputs)
        arrays[f"layers.{i}.bias"] = rng.normal(size=shape[-1]) / 4
    return arrays


def test_a_perceptron_finds_the_classes():
    rng = np.random.default_rng(6)
    arrays = layers(rng, (4, 20), (20, 20), (20, 3))
    x = rng.integers(-4096, 4096, (500, 4))
    y = x / 1024
    for i in range(3):
        y = np.maximum(y, 0) if i else y
        y = y @ arrays[f"layers.{i}.weight"] + arrays[f"layers.{i}.bias"]
    found = classes(lambda graph: perceptron(graph, (4, 20, 20, 3), 500), arrays, x)
    assert len(set(found.tolist())) == 3
    assert (found == y.argmax(1)).mean() > 0.98


def test_lenet_finds_the_classes():
    rng = np.random.default_rng(4)
    arrays = layers(rng, (25, 6), (25, 1, 1, 6, 16), (25, 16, 120), (120, 84), (84, 10))
    assert sum(array.size for array in arrays.values()) == 61706
    x = rng.integers(-2048, 2048, (32, 1, 28, 28)) * rng.integers(0, 3, (32, 1, 4, 4)).repeat(7, 2).repeat(7, 3)
    y = torch.tensor(x / 1024)
    for i, padding in enumerate((2, 0)):
        kernel = torch.tensor(arrays[f"layers.{i}.weight"]).reshape(5, 5, -1, (6, 16)[i]).permute(3, 2, 0, 1)
        y = torch.nn.functional.conv2d(y, kernel, torch.tensor(arrays[f"layers.{i}.bias"]), padding=padding)
        y = torch.nn.functional.avg_pool2d(torch.relu(y), 2)
    y = y.permute(0, 2, 3, 1).reshape(32, 400).numpy()
    for i in range(2, 5):
        y = np.maximum(y, 0) @ arrays[f"layers.{i}.weight"].reshape(y.shape[1], -1) + arrays[f"layers.{i}.bias"]
    found = classes(lambda graph: lenet(graph, 32), arrays, x.reshape(32, 784))
    assert len(set(found.tolist())) > 2
    assert (found == y.argmax(1)).mean() > 0.9
