"""Models of true widths with random weights, between two parties and a dealer, against floating point."""

import numpy as np
import pytest
import torch
from transformers import BertConfig, GPT2Config

from mitai.mpc.generate import begin, prompts
from mitai.mpc.models.arrays import Arrays
from mitai.mpc.two.engine import Owner
from mitai.mpc.two.local import Local
from mpc_rig import Named, floats, ours, random_model, tokens

pytestmark = pytest.mark.slow
LAYERS, VOCABULARY = 4, 4000


def revealed(model, infer, client):
    """Return what `infer(program, weights, client's arrays)` reveals to party 0, the weights loaded before."""
    program, local = ours(model), Local()

    def load(engine):
        return program.load(
            Arrays(engine, "model", program.arrays(Named(model)) if isinstance(engine, Owner) else None)
        )

    def sides(states, values=None):
        return tuple(
            lambda engine, weights=weights: engine.reveal(
                infer(program, weights, Arrays(engine, "client", values and values()))
            )
            for weights in states
        )

    states = local.do((load,) * 3, Owner().inputs(load))
    owner = Owner()
    inputs = owner.inputs(lambda engine: sides([load(engine)], lambda: client(program))[0](engine))
    return local.do(sides(states), {"client": inputs["client"]})[0]


def test_bert_of_128_tokens():
    config = BertConfig(num_hidden_layers=LAYERS, vocab_size=VOCABULARY)
    model = random_model("bert", config, {"embeddings": 0.02, "classifier": 0.1, "": 0.04})
    ids = tokens(1, 128, VOCABULARY)
    found = revealed(
        model,
        lambda program, weights, client: program.classify(weights, client, batch=1, length=128),
        lambda program: program.prompts(ids.tolist(), 128),
    )
    with torch.no_grad():
        assert np.abs(found - floats(model(torch.tensor(ids)).logits)).max() < 0.02


def test_the_next_token_of_gpt2():
    config = GPT2Config(n_layer=LAYERS, vocab_size=VOCABULARY)
    model = random_model("gpt2", config, {"wte": 0.05, "wpe": 0.02, "": 0.03})
    ids = tokens(20, 12, VOCABULARY)
    found = revealed(
        model,
        lambda program, weights, client: begin(program, weights, client, batch=20, length=12).logits,
        lambda program: prompts(program, ids.tolist(), 12, 1),
    )
    with torch.no_grad():
        wanted = floats(model(torch.tensor(ids)).logits[:, -1])
    assert np.abs(found - wanted).max() < 0.02
    assert (found.argmax(-1) == wanted.argmax(-1)).sum() >= 19
