"""Answers of small models are proven, token after token, each under what the one before kept."""

from dataclasses import replace

import numpy as np
import pytest

from mitai.errors import ProofError
from mitai.mpc.models.config import LlamaConfig
from mitai.proof.graph import Graph
from mitai.proof.models.calibration import calibrate, quantise, sample
from mitai.proof.models.llama import Llama
from mitai.proof.models.nets import perceptron
from mitai.proof.proving import commit_weights, prove
from mitai.proof.verify.program import verify

LLAMA = {
    "model_type": "llama", "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1,
    "num_attention_heads": 2,
}  # fmt: skip


class Everywhere(dict):
    """One reach for all names."""

    def __missing__(self, name):
        return 3


def random_weights(program, rng):
    return {
        name: rng.normal(size=weight.shape) / np.sqrt(weight.shape[-2] if len(weight.shape) > 1 else 1)
        for name, weight in program.weights.items()
    }


def test_classes_of_a_perceptron():
    rng = np.random.default_rng(7)
    arrays = random_weights(perceptron(Graph(Everywhere()), (4, 20, 20, 3), 1).program(), rng)
    x = rng.integers(-4096, 4096, (20, 4))
    reaches = calibrate(arrays, [(lambda graph: perceptron(graph, (4, 20, 20, 3), 20), {"x": x})])
    graph = perceptron(Graph(reaches, word=12), (4, 20, 20, 3), 20)
    weights = commit_weights(graph.program(), graph.quantised(arrays.items()))
    proof = prove(graph.program(), {"x": x}, weights)
    assert verify(proof.statement, proof.messages) > 100
    other = {"class": (proof.statement.outputs["class"] + 1) % 3}
    with pytest.raises(ProofError):
        verify(replace(proof.statement, outputs=other), proof.messages)


@pytest.mark.parametrize("uses", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_two_tokens_of_a_decoder(uses):
    rng = np.random.default_rng(8)
    model = Llama(LlamaConfig(**LLAMA))
    arrays = random_weights(model.write(Graph(Everywhere()), 1).program(), rng)
    tokens = rng.integers(0, 50, 5)
    reaches = calibrate(arrays, [sample(model, rng.integers(0, 50, 8))])
    first = model.write(Graph(reaches), 5).program()
    weights = commit_weights(first, quantise(model, reaches, arrays), uses)
    before = prove(first, {"tokens": tokens}, weights)
    assert verify(before.statement, before.messages) > 100
    inputs = {"tokens": before.statement.outputs["token"], "cache": before.run.outputs["cache"]}
    after = prove(model.write(Graph(reaches), 1, 5).program(), inputs, weights, before.kept)
    assert verify(after.statement, after.messages) > 100
    assert after.statement.weights == before.statement.weights
    assert after.statement.given == before.statement.kept
    longer = np.append(tokens, inputs["tokens"])
    whole = model.write(Graph(reaches), 6).program().run({"tokens": longer}, weights.arrays)
    assert np.array_equal(whole.outputs["cache"], after.run.outputs["cache"])
