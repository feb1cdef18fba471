"""Llama and Qwen2: rotary positions, grouped queries, gated inner layers (`docs/spec/mpc.md`, "Models").

Rotary positions are relative: prompts that are padded on the left may have public positions.

Invariants:

- The scale of a norm is in the weights of the layer that reads it; but for tied embeddings, where the last norm's own
  is multiplied in, as the head is the table, shared and kept once.
- The product that makes queries and keys is turned before it is cut back: positions cost no round of their own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from mitai.mpc.engine import Secret, Weight, concatenate
from mitai.mpc.models.arrays import FINE_BITS, Arrays, Tensors, fold_of, folded
from mitai.mpc.models.attention import Attention, query_scale, split_heads
from mitai.mpc.models.config import LlamaConfig, Rope
from mitai.mpc.models.decoder import Decoder, Places, by_places
from mitai.mpc.nonlinear import EMBEDDING_GAIN, activation, read, rms_norm
from mitai.mpc.reproducible import angle, power
from mitai.mpc.ring import FRACTION_BITS, Real, encode

TURNED_BITS = 18  # of fraction of what makes queries and keys; with those of angles, what a truncation can cut
ANGLE_BITS = 14


@dataclass(frozen=True)
class Layer:
    """One decoder's layer; the bias is Qwen2's."""

    attention: Weight
    bias: Secret | None
    mixed: Weight
    gated: Weight
    outer: Weight


@dataclass(frozen=True)
class LlamaWeights:
    """The model as one party has it; the scale is the last norm's, where the head is the table."""

    table: Weight
    layers: tuple[Layer, ...]
    scale: Secret | None
    head: Weight


class Llama(Decoder[LlamaWeights]):
    """Llama or Qwen2 of one public configuration."""

    positions = 0

    def __init__(self, config: LlamaConfig) -> None:
        self.config = config
        self.vocabulary = config.vocab_size
        self.fold = fold_of(config.vocab_size, config.hidden_size)
        self._columns = (config.num_attention_heads + 2 * config.groups) * config.head_size
        self._scale, shift = query_scale(config.head_size)
        self._attention = Attention(
            config.num_attention_heads, config.groups, shift, config.mpc_reach, config.mpc_approx == "mpcformer"
        )

    def arrays(self, tensors: Tensors) -> Iterator[Real]:
        """See `Decoder.arrays`."""
        config = self.config
        table = folded(tensors("model.embed_tokens.weight"), self.fold)
        yield table if config.tie_word_embeddings else table.reshape(self.width, -1)
        for i in range(config.num_hidden_layers):
            layer = f"model.layers.{i}"
            norm = tensors(f"{layer}.input_layernorm.weight")[:, None]
            names = [f"{layer}.self_attn.{part}_proj" for part in "qkv"]
            scales = (self._scale, 1.0, 1.0)
            yield norm * np.concatenate(
                [scale * tensors(f"{n}.weight").T for n, scale in zip(names, scales, strict=True)], 1
            )
            if config.model_type == "qwen2":
                yield np.concatenate([scale * tensors(f"{n}.bias") for n, scale in zip(names, scales, strict=True)])
            yield tensors(f"{layer}.self_attn.o_proj.weight").T
            norm = tensors(f"{layer}.post_attention_layernorm.weight")[:, None]
            yield norm * np.concatenate([tensors(f"{layer}.mlp.{part}_proj.weight").T for part in ("gate", "up")], 1)
            yield tensors(f"{layer}.mlp.down_proj.weight").T
        scale = tensors("model.norm.weight")
        yield scale if config.tie_word_embeddings else scale[:, None] * tensors("lm_head.weight").T

    def load(self, arrays: Arrays) -> LlamaWeights:
        """See `Decoder.load`."""
        config = self.config
        width, inner = config.hidden_size, config.intermediate_size
        table, head = (
            arrays.tied(self.width, width, self.fold)
            if config.tie_word_embeddings
            else (arrays.table(self.width, self.fold * width), None)
        )
        layers = tuple(
            Layer(
                arrays.weight(width, self._columns, TURNED_BITS),
                arrays.secret(self._columns) if config.model_type == "qwen2" else None,
                arrays.weight(config.num_attention_heads * config.head_size, width),
                arrays.weight(width, 2 * inner, FINE_BITS),
                arrays.weight(inner, width, FINE_BITS),
            )
            for _ in range(config.num_hidden_layers)
        )
        scale = None if head is None else arrays.secret(width)
        head = head or arrays.weight(width, self.vocabulary, FINE_BITS)
        arrays.end()
        return LlamaWeights(table, layers, scale, head)

    def table(self, weights: LlamaWeights) -> Weight:
        """See `Decoder.table`."""
        return weights.table

    def _logits(self, weights: LlamaWeights, x: Secret, places: Places) -> Secret:
        config, engine = self.config, x.engine
        turns = turns_of(config.rope, config.head_size, places.at, x.shape[1])
        gain = EMBEDDING_GAIN
        for layer in weights.layers:
            queries, new = self._turned(layer, rms_norm(x, config.rms_norm_eps, gain), turns)
            x = engine.linear(places.attend(self._attention, queries, new), layer.mixed, x)
            width = 2 * config.intermediate_size
            x = by_places(partial(self._widened, layer), rms_norm(x, config.rms_norm_eps), x, width)
            gain = 1
        last = rms_norm(x[:, -1], config.rms_norm_eps)
        if weights.scale is None:
            return engine.linear(last, weights.head)
        return engine.linear(last * weights.scale, weights.head)[:, : self.vocabulary]

    def _widened(self, layer: Layer, x: Secret, onto: Secret) -> Secret:
        """Return what goes round a layer's inner part with what that writes."""
        config, engine = self.config, x.engine
        parts = engine.linear(x, layer.gated)
        gate = activation(parts[..., : config.intermediate_size], config.hidden_act, config.mpc_approx)
        return engine.linear(engine.multiply(gate, parts[..., config.intermediate_size :]), layer.outer, onto)

    def _turned(self, layer: Layer, x: Secret, turns: tuple[Real, Real]) -> tuple[Secret, Secret]:
        """Return queries [batch, heads, n, size], and keys and values [batch, 2 · groups, n, size]."""
        config, engine = self.config, x.engine
        product = read(engine.linear(read(x, FRACTION_BITS - TURNED_BITS), layer.attention), x.fraction + TURNED_BITS)
        if layer.bias is not None:
            product = product + read(layer.bias.times(1 << TURNED_BITS), product.fraction)
        heads = split_heads(product, config.num_attention_heads + 2 * config.groups)
        turning = config.num_attention_heads + config.groups
        fraction = product.fraction + ANGLE_BITS
        turned = read(rotate(heads[:, :turning], *turns), fraction)
        kept = read(heads[:, turning:].times(1 << ANGLE_BITS), fraction)
        cut = engine.truncate(concatenate((turned, kept), 1))
        return cut[:, : config.num_attention_heads], cut[:, config.num_attention_heads :]


def turns_of(rope: Rope, size: int, at: int, n: int) -> tuple[Real, Real]:
    """Return cosines and sines [n, size] of the places from `at` on (Su et al., "RoFormer", section 3.4).

    They are public, and have to be the same at all parties to the last bit.
    """
    if rope.rope_theta is None:
        raise ValueError("no base of the rotary positions")
    rates = power(np.array(rope.rope_theta), -np.arange(0, size, 2) / size)
    if rope.rope_type == "llama3":  # slow turns are slowed down further, for contexts longer than those of training
        cycles = rope.original_max_position_embeddings * rates / (2 * math.pi)
        share = (cycles - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
        share = np.clip(share, 0, 1)
        rates = rates * (share + (1 - share) / rope.factor)
    return angle(np.arange(at, at + n)[:, None] * np.concatenate([rates, rates]) / (2 * math.pi))


def rotate(x: Secret, cosines: Real, sines: Real) -> Secret:
    """Turn pairs of the last axis, (i, i + half), by public angles; `ANGLE_BITS` more of fraction, not counted."""
    half = x.shape[-1] // 2
    across = concatenate((-x[..., half:], x[..., :half]), -1)
    return x.times(encode(cosines, ANGLE_BITS)) + across.times(encode(sines, ANGLE_BITS))
