"""Small models that answer with a committed trace, without files."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np

from mitai.proof.answer import generate, statement
from mitai.proof.audit.files import Committed
from mitai.proof.audit.plan import Plan
from mitai.proof.audit.trace import commit
from mitai.proof.card import ModelCard, decoder
from mitai.proof.graph import Graph
from mitai.proof.models.calibration import calibrate, quantise, sample
from mitai.proof.prepared import Prepared
from mitai.proof.proving import commit_weights
from mitai.proof.verify.statement import Statement

WORDS = 50
LLAMA = {
    "model_type": "qwen2", "vocab_size": WORDS, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip
GPT2 = {"model_type": "gpt2", "vocab_size": WORDS, "n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 2}
PROMPT = (5, 6, 7)
TOKENS = 3


class _Everywhere(dict[str, int]):
    def __missing__(self, name: str) -> int:
        return 3


@cache
def prepared(family: str = "llama", seed: int = 4) -> Prepared:
    """Return a model of random weights."""
    rng = np.random.default_rng(seed)
    config = json.dumps(LLAMA if family == "llama" else GPT2)
    model = decoder(config.encode())
    shapes = {name: one.shape for name, one in model.write(Graph(_Everywhere()), 1).program().weights.items()}
    arrays = {name: rng.normal(0, 0.4, shape) for name, shape in shapes.items()}
    reaches = calibrate(arrays, [sample(model, list(rng.integers(0, WORDS, 12))) for _ in range(3)])
    weights = commit_weights(model.measure(Graph(reaches), 1).program(), quantise(model, reaches, arrays))
    return Prepared(Path("nowhere"), ModelCard(config=config, reaches=reaches, weights=weights.root.hex()), weights)


@cache
def committed(family: str = "llama") -> Committed:
    """Return an answer of that model, with its trace's root."""
    answer = generate(prepared(family), list(PROMPT), TOKENS, lambda _: True)
    return commit(prepared(family), PROMPT, answer)


def claim(family: str = "llama") -> tuple[Statement, Plan]:
    """Return what is claimed by that, and its steps."""
    claimed = statement(committed(family).unproven, prepared(family).card)
    return claimed, Plan.of(claimed.program)
