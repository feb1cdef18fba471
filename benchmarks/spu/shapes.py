"""The models of the group `mpc`: random weights of the true shapes, as plain numpy arrays under fixed names.

Both sides make the same arrays from the same seed: our engine in its environment, SPU in its own. Weights are
[in, out]; the deviations are those that keep activations in the range of trained models.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Arrays = dict[str, Any]


class Random:
    """Normal numbers, float32, in the order in which they are asked for."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def normal(self, *shape: int, deviation: float = 0.02, mean: float = 0) -> np.ndarray:
        return (mean + deviation * self._generator.standard_normal(shape)).astype(np.float32)

    def tokens(self, count: int, vocabulary: int) -> np.ndarray:
        return self._generator.integers(0, vocabulary, count)


def block(random: Random, width: int, inner: int, deviation: float) -> Arrays:
    """One layer of BERT or GPT-2: attention, two norms, a feed-forward part."""
    layer: Arrays = {}
    for name in "qkvo":
        layer["w" + name] = random.normal(width, width, deviation=deviation)
        layer["b" + name] = random.normal(width)
    layer["w1"], layer["c1"] = random.normal(width, inner, deviation=deviation), random.normal(inner)
    layer["w2"], layer["c2"] = random.normal(inner, width, deviation=deviation), random.normal(width)
    for index in "12":
        layer["g" + index] = random.normal(width, deviation=0.1, mean=1)
        layer["h" + index] = random.normal(width, deviation=0.1)
    return layer


def bert(tokens: int, layers: int = 12) -> tuple[Arrays, np.ndarray]:
    """BERT-base with a classifier of two classes, and the ids of a text."""
    random, width, vocabulary = Random(1), 768, 30522
    weights: Arrays = {
        "layers": [block(random, width, 3072, 0.04) for _ in range(layers)],
        "emb": random.normal(vocabulary, width),
        "pos": random.normal(tokens, width),
        "ge": random.normal(width, deviation=0.1, mean=1),
        "he": random.normal(width, deviation=0.1),
        "wp": random.normal(width, width, deviation=0.04),
        "bp": random.normal(width),
        "wc": random.normal(width, 2, deviation=0.1),
        "bc": random.normal(2),
    }
    return weights, random.tokens(tokens, vocabulary)


def gpt2(tokens: int, layers: int = 12) -> tuple[Arrays, np.ndarray]:
    """GPT-2 small, and the ids of a text."""
    random, width, vocabulary = Random(1), 768, 50257
    weights: Arrays = {
        "layers": [block(random, width, 3072, 0.03) for _ in range(layers)],
        "emb": random.normal(vocabulary, width, deviation=0.05),
        "pos": random.normal(1024, width),
        "gf": random.normal(width, deviation=0.1, mean=1),
        "hf": random.normal(width, deviation=0.1),
    }
    return weights, random.tokens(tokens, vocabulary)


def gpt2_cache(context: int, layers: int = 12) -> np.ndarray:
    """Keys and values of the tokens before: [layer, key or value, head, token, 64]."""
    return Random(2).normal(layers, 2, 12, context, 64, deviation=0.6)


def llama15m(tokens: int, layers: int = 6) -> tuple[Arrays, np.ndarray]:
    """The shape of the 15M Llama: width 288, 6 heads, 32,000 tokens in the vocabulary."""
    random, width, inner, vocabulary = Random(1), 288, 768, 32000
    weights: Arrays = {"layers": []}
    for _ in range(layers):
        layer = {"w" + name: random.normal(width, width, deviation=0.06) for name in "qkvo"}
        layer["w1"] = random.normal(width, inner, deviation=0.06)
        layer["w3"] = random.normal(width, inner, deviation=0.06)
        layer["w2"] = random.normal(inner, width, deviation=0.05)
        layer["g1"] = random.normal(width, deviation=0.1, mean=1)
        layer["g2"] = random.normal(width, deviation=0.1, mean=1)
        weights["layers"].append(layer)
    weights["emb"] = random.normal(vocabulary, width, deviation=0.05)
    weights["gf"] = random.normal(width, deviation=0.1, mean=1)
    return weights, random.tokens(tokens, vocabulary)
