"""Models of their true shapes with random weights, in fixed point, against floating point."""

import numpy as np
import pytest
import torch
from transformers import BertConfig, GPT2Config, LlamaConfig

from mitai.mpc.clear import ClearEngine
from mitai.mpc.generate import begin, prompts
from mitai.mpc.models.arrays import Arrays
from mpc_rig import Named, floats, ours, random_model, tokens

pytestmark = pytest.mark.slow


def loaded(model):
    engine, program = ClearEngine(), ours(model)
    return engine, program, program.load(Arrays(engine, "model", program.arrays(Named(model))))


def last_logits(model, ids):
    """Return the logits of the next token, [prompts, vocabulary], ours and transformers'."""
    engine, program, weights = loaded(model)
    found, wanted = [], []
    for batch in np.split(ids, range(20, len(ids), 20)):
        client = Arrays(engine, "client", prompts(program, batch.tolist(), ids.shape[1], 1))
        state = begin(program, weights, client, batch=len(batch), length=ids.shape[1])
        found.append(engine.reveal(state.logits))
        with torch.no_grad():
            wanted.append(floats(model(torch.tensor(batch), logits_to_keep=1).logits[:, -1]))
    return np.concatenate(found), np.concatenate(wanted)


def test_bert_base():
    model = random_model("bert", BertConfig(), {"embeddings": 0.02, "classifier": 0.1, "": 0.04})
    engine, program, weights = loaded(model)
    ids = tokens(1, 128, 30522)
    client = Arrays(engine, "client", program.prompts(ids.tolist(), 128))
    found = engine.reveal(program.classify(weights, client, batch=1, length=128))
    with torch.no_grad():
        assert np.abs(found - floats(model(torch.tensor(ids)).logits)).max() < 0.02


def test_gpt2_small():
    model = random_model("gpt2", GPT2Config(), {"wte": 0.05, "wpe": 0.02, "": 0.03})
    found, wanted = last_logits(model, tokens(200, 24, 50257))
    assert np.abs(found - wanted).max() < 0.02
    assert (found.argmax(-1) == wanted.argmax(-1)).sum() >= 198


def test_llama_of_15_million():
    config = LlamaConfig(
        hidden_size=288, intermediate_size=768, num_hidden_layers=6, num_attention_heads=6, tie_word_embeddings=True
    )
    model = random_model("llama", config, {"embed": 0.05, "down": 0.05, "": 0.06})
    found, wanted = last_logits(model, tokens(20, 32, 32000))
    assert np.abs(found - wanted).max() < 0.02
    assert (found.argmax(-1) == wanted.argmax(-1)).all()
