"""Llama and Qwen2 as integer programs: rotary positions, grouped queries, gated inner layers.

- The gain of a norm and 1 / sqrt(size) are in the weights that follow.
- The product of gate and inner numbers is never cut back: the layer after it takes it as it is.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mitai.mpc.models.arrays import Tensors
from mitai.mpc.models.config import LlamaConfig
from mitai.mpc.models.llama import turns_of
from mitai.proof.graph import Real, Tensor
from mitai.proof.models.blocks import activation, dense, heads, mix, norm, stream
from mitai.proof.models.decoder import Decoder, Places, head_columns, head_rows

ANGLE_BITS = 14


class Llama(Decoder):
    """Llama or Qwen2 of one public configuration."""

    def __init__(self, config: LlamaConfig) -> None:
        self.config = config
        self.vocabulary, self.width, self.tied = config.vocab_size, config.hidden_size, config.tie_word_embeddings
        self.layers = config.num_hidden_layers
        self.cache_rows, self.head_size = 2 * config.num_hidden_layers * config.groups, config.head_size

    def arrays(self, tensors: Tensors) -> Iterator[tuple[str, Real]]:
        """See `Decoder.arrays`."""
        config = self.config
        yield "table.weight", tensors("model.embed_tokens.weight")
        for i in range(config.num_hidden_layers):
            layer = f"layers.{i}"
            gain = tensors(f"model.{layer}.input_layernorm.weight")[:, None]
            parts = (
                ("query", config.num_attention_heads, config.head_size**-0.5),
                ("keys", config.groups, 1.0),
                ("values", config.groups, 1.0),
            )
            for part, count, scale in parts:
                name = f"model.{layer}.self_attn.{part[0]}_proj"
                matrix = head_columns(scale * gain * tensors(f"{name}.weight").T, config.groups, count)
                yield f"{layer}.{part}.weight", matrix
                if config.model_type == "qwen2":
                    bias = scale * tensors(f"{name}.bias")[None]
                    yield f"{layer}.{part}.bias", head_columns(bias, config.groups, count)
            mixed = tensors(f"model.{layer}.self_attn.o_proj.weight").T
            yield f"{layer}.mixed.weight", head_rows(mixed, config.groups, config.num_attention_heads)
            gain = tensors(f"model.{layer}.post_attention_layernorm.weight")[:, None]
            for part in ("gate", "up"):
                yield f"{layer}.{part}.weight", gain * tensors(f"model.{layer}.mlp.{part}_proj.weight").T
            yield f"{layer}.down.weight", tensors(f"model.{layer}.mlp.down_proj.weight").T
        yield "final.weight", tensors("model.norm.weight")
        if not self.tied:
            yield "head.weight", tensors("lm_head.weight")

    def states(self, table: Tensor, tokens: Tensor, places: Places) -> Tensor:
        """See `Decoder.states`."""
        config, inner = self.config, self.config.intermediate_size
        added = [f"layers.{i}.{part}" for i in range(config.num_hidden_layers) for part in ("mixed", "down")]
        most = stream(table.graph, ["embedding", *added], self.width)
        x = table.gather(tokens, 0).rescale("embedding", most)
        turns = turns_of(config.rope, config.head_size, places.past, places.n)
        for i in range(config.num_hidden_layers):
            layer = f"layers.{i}"
            y = self._attended(norm(x, f"{layer}.first", config.rms_norm_eps), layer, places, turns)
            x = x + mix(y, f"{layer}.mixed", self.width, stream=most)
            y = norm(x, f"{layer}.second", config.rms_norm_eps)
            gate = activation(dense(y, f"{layer}.gate", inner), config.hidden_act)
            y = gate * dense(y, f"{layer}.up", inner)
            x = x + dense(y, f"{layer}.down", self.width, stream=most)
        return x

    def last(self, x: Tensor) -> Tensor:
        """See `Decoder.last`."""
        return norm(x, "final", self.config.rms_norm_eps, affine=True)

    def _attended(self, x: Tensor, layer: str, places: Places, turns: tuple[Real, Real]) -> Tensor:
        config = self.config
        one = (config.groups, 1, config.head_size)
        shared = (config.groups, config.num_attention_heads // config.groups, config.head_size)
        bias = config.model_type == "qwen2"
        fraction, _ = x.graph.place(f"{layer}.values")
        queries = turn(heads(x, f"{layer}.query", shared, x.fraction, bias=bias), *turns).rescale(f"{layer}.query")
        keys = turn(heads(x, f"{layer}.keys", one, x.fraction, bias=bias), *turns).rescale(f"{layer}.keys")
        values = heads(x, f"{layer}.values", one, fraction, bias=bias).rescale(f"{layer}.values")
        return places.attend(queries, keys, values, layer)


def turn(x: Tensor, cosines: Real, sines: Real) -> Tensor:
    """Turn pairs of the last axis, (i, i + half), by public angles."""
    graph, half = x.graph, x.shape[-1] // 2
    across = x.gather(graph.constant(np.roll(np.arange(2 * half), half)), -1)
    signed = np.concatenate([-sines[:, :half], sines[:, half:]], 1)
    return x * graph.constant(cosines, ANGLE_BITS) + across * graph.constant(signed, ANGLE_BITS)
