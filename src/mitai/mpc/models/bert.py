"""BERT: classes or embeddings of a text (Devlin et al., 2018; `docs/spec/mpc.md`, "Models").

The texts of a batch are padded to one public length. Which places are padding, and which of two texts a token belongs
to, is the client's secret.

Invariants:

- How long a text is within its bucket changes no shape and no step.
- Queries, keys and values are one product; so are words and types of tokens.
- Tables of embeddings, and what attention and the inner layers write, have mean zero, by the weights that their owner
  shares. What is left of a norm's mean is that of what went round the layer.

Example:
    >>> model = Bert(parse_config(config_json, BertConfig))
    >>> weights = model.load(Arrays(engine, "model", model.arrays(Tensors(folder))))
    >>> client = Arrays(engine, "client", model.prompts([[101, 7592, 102]], length=16))
    >>> logits = model.classify(weights, client, batch=1, length=16)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mitai.mpc.engine import Secret, Weight
from mitai.mpc.models.arrays import Arrays, Dense, Tensors, embed, one_hot
from mitai.mpc.models.attention import Attention, query_scale, split_heads
from mitai.mpc.models.config import BertConfig
from mitai.mpc.models.decoder import centred
from mitai.mpc.nonlinear import EMBEDDING_GAIN, TANH, activation, read, rms_norm
from mitai.mpc.ring import FRACTION_BITS, Real


@dataclass(frozen=True)
class Norm:
    """Scale and shift after a normalisation."""

    scale: Secret
    shift: Secret
    eps: float

    def __call__(self, x: Secret, gain: int = 1) -> Secret:
        """Normalise the last axis, which has mean zero."""
        return rms_norm(x, self.eps, gain, self.scale) + self.shift


@dataclass(frozen=True)
class Layer:
    """One encoder's layer."""

    attention: Dense
    mixed: Dense
    first: Norm
    inner: Dense
    outer: Dense
    second: Norm


@dataclass(frozen=True)
class BertWeights:
    """The model as one party has it."""

    words: Weight
    positions: Secret
    norm: Norm
    layers: tuple[Layer, ...]
    head: tuple[Dense, Dense] | None


class Bert:
    """BERT of one public configuration."""

    def __init__(self, config: BertConfig) -> None:
        self.config = config
        self._width = config.vocab_size + config.type_vocab_size
        self._scale, shift = query_scale(config.hidden_size // config.num_attention_heads)
        heads = config.num_attention_heads
        self._attention = Attention(heads, heads, shift, config.mpc_reach, config.mpc_approx == "mpcformer")

    # --- its owner's end ---

    def arrays(self, tensors: Tensors) -> Iterator[Real]:
        """Yield what the owner shares, in the program's order."""

        def norm(name: str) -> Iterator[Real]:
            yield named(f"{name}.weight")
            yield named(f"{name}.bias")

        def dense(name: str, change: Callable[[Real], Real] = lambda values: values) -> Iterator[Real]:
            yield change(named(f"{name}.weight").T)
            yield change(named(f"{name}.bias"))

        config = self.config
        prefix = "bert." if "bert.embeddings.LayerNorm.weight" in tensors else ""

        def named(name: str) -> Real:
            return tensors(prefix + name)

        table = "embeddings.{}_embeddings.weight".format
        yield centred(np.concatenate([named(table("word")), named(table("token_type"))]))
        yield centred(named(table("position")))
        yield from norm("embeddings.LayerNorm")
        for i in range(config.num_hidden_layers):
            layer = f"encoder.layer.{i}"
            names = [f"{layer}.attention.self.{part}" for part in ("query", "key", "value")]
            scales = (self._scale, 1.0, 1.0)
            yield np.concatenate([scale * named(f"{n}.weight").T for n, scale in zip(names, scales, strict=True)], 1)
            yield np.concatenate([scale * named(f"{n}.bias") for n, scale in zip(names, scales, strict=True)])
            yield from dense(f"{layer}.attention.output.dense", centred)
            yield from norm(f"{layer}.attention.output.LayerNorm")
            yield from dense(f"{layer}.intermediate.dense")
            yield from dense(f"{layer}.output.dense", centred)
            yield from norm(f"{layer}.output.LayerNorm")
        if config.labels:
            yield from dense("pooler.dense")
            yield tensors("classifier.weight").T
            yield tensors("classifier.bias")

    # --- a client's end ---

    def prompts(
        self, ids: Sequence[Sequence[int]], length: int, types: Sequence[Sequence[int]] | None = None
    ) -> Iterator[NDArray[np.generic]]:
        """Yield what a client shares of a batch, in the program's order: padded to `length`, with types of tokens."""
        columns = np.zeros((len(ids), length, 2), np.int64)
        columns[:, :, 1] = self.config.vocab_size
        hidden = np.ones((len(ids), length), np.int64)
        for row, tokens in enumerate(ids):
            columns[row, : len(tokens), 0] = tokens
            columns[row, : len(tokens), 1] += 0 if types is None else np.asarray(types[row], np.int64)
            hidden[row, : len(tokens)] = 0
        yield from one_hot(columns.reshape(-1, 2), self._width)
        yield hidden
        if not self.config.labels:
            yield ((1 - hidden) / (1 - hidden).sum(1, keepdims=True))[:, None, :]

    # --- the program of all parties ---

    def load(self, arrays: Arrays) -> BertWeights:
        """Take the model's arrays from its owner."""
        config = self.config
        width, inner = config.hidden_size, config.intermediate_size

        def norm() -> Norm:
            scale = arrays.engine.masked(arrays.secret(width))  # opened once a model, as weights are
            return Norm(scale, arrays.secret(width), config.layer_norm_eps)

        weights = BertWeights(
            arrays.table(self._width, width),
            arrays.secret(config.max_position_embeddings, width),
            norm(),
            tuple(
                Layer(
                    arrays.dense(width, 3 * width),
                    arrays.dense(width, width),
                    norm(),
                    arrays.dense(width, inner),
                    arrays.dense(inner, width),
                    norm(),
                )
                for _ in range(config.num_hidden_layers)
            ),
            (arrays.dense(width, width), arrays.dense(width, config.labels)) if config.labels else None,
        )
        arrays.end()
        return weights

    def states(self, weights: BertWeights, client: Arrays, *, batch: int, length: int) -> Secret:
        """Return the last layer's states [batch, length, width]."""
        config, n = self.config, self.config.num_attention_heads
        rows = embed(client, weights.words, batch * length).reshape(batch, length, config.hidden_size)
        hidden = client.secret(batch, length, fraction=0)
        x = weights.norm(rows + weights.positions[:length], EMBEDDING_GAIN)
        for layer in weights.layers:
            heads = split_heads(layer.attention(x), 3 * n)
            attended = self._attention(heads[:, :n], heads[:, n : 2 * n], heads[:, 2 * n :], hidden=hidden)
            x = layer.first(around(layer.mixed, attended, x))
            inner, middle = with_mean(layer.inner, x)
            inner = activation(inner, config.hidden_act, config.mpc_approx)
            x = layer.second(layer.outer(inner, onto=x - middle))
        return x

    def classify(self, weights: BertWeights, client: Arrays, *, batch: int, length: int) -> Secret:
        """Return logits [batch, labels]."""
        if weights.head is None:
            raise ValueError("this model has no head that classifies")
        states = self.states(weights, client, batch=batch, length=length)
        pooler, classifier = weights.head
        return classifier(states.engine.spline(pooler(states[:, 0]), TANH))

    def embed(self, weights: BertWeights, client: Arrays, *, batch: int, length: int) -> Secret:
        """Return the mean of the states over each text's tokens, [batch, width]."""
        states = self.states(weights, client, batch=batch, length=length)
        shares = client.secret(batch, 1, length)  # of each token in the mean
        return states.engine.matmul(shares, states)[:, 0]


def with_mean(layer: Dense, x: Secret) -> tuple[Secret, Secret]:
    """Return a layer of x, and the mean of x's last axis (kept, of length 1), cut back together: one round for both."""
    cut, middle = x.engine.truncate_all(product(layer, x), total(x))
    return cut, middle


def around(layer: Dense, x: Secret, y: Secret) -> Secret:
    """Return y less its mean, plus a layer of x, which has all bits of its fraction: cut back as one number."""
    inner = product(layer, x)
    rest = read(y.times(1 << inner.fraction - y.fraction), inner.fraction)
    return y.engine.truncate(inner + rest - total(y))


def product(layer: Dense, x: Secret) -> Secret:
    """Return a layer of x with all bits of fraction."""
    whole = read(x.engine.linear(read(x, 0), layer.weight), x.fraction + FRACTION_BITS)
    return whole + read(layer.bias.times(1 << x.fraction), whole.fraction)


def total(x: Secret) -> Secret:
    """Return the mean of the last axis (kept, of length 1) with 32 more bits of fraction."""
    return read(x.sum(-1, keepdims=True).times(round(2**32 / x.shape[-1])), x.fraction + 32)
