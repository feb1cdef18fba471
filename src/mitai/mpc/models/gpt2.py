"""GPT-2 (Radford et al., 2019), one or many tokens at a time (`docs/spec/mpc.md`, "Models").

Prompts are padded on the left, so that the last place is the last token of each. A token's position counts from the
prompt's own beginning, which only its client knows: positions come as one-hot rows beside the tokens'.

Invariants:

- The residual stream has mean zero: its owner takes the mean off everything that writes into it, so that a layer norm
  needs no mean.
- Scale and shift of a norm are in the weights of the layer that reads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from mitai.mpc.engine import Secret, Weight
from mitai.mpc.models.arrays import FINE_BITS, Arrays, Dense, Tensors
from mitai.mpc.models.attention import Attention, query_scale, split_heads
from mitai.mpc.models.config import Gpt2Config
from mitai.mpc.models.decoder import Decoder, Places, by_places, centred
from mitai.mpc.nonlinear import EMBEDDING_GAIN, activation, rms_norm
from mitai.mpc.ring import Real


@dataclass(frozen=True)
class Layer:
    """One decoder's layer."""

    attention: Dense
    mixed: Dense
    inner: Dense
    outer: Dense


@dataclass(frozen=True)
class Gpt2Weights:
    """The model as one party has it."""

    table: Weight
    layers: tuple[Layer, ...]
    head: Dense


class Gpt2(Decoder[Gpt2Weights]):
    """GPT-2 of one public configuration."""

    def __init__(self, config: Gpt2Config) -> None:
        self.config = config
        self.vocabulary = config.vocab_size
        self.positions = config.n_positions
        self._inner = config.n_inner or 4 * config.n_embd
        self._scale, shift = query_scale(config.n_embd // config.n_head)
        self._attention = Attention(
            config.n_head, config.n_head, shift, config.mpc_reach, config.mpc_approx == "mpcformer"
        )

    def arrays(self, tensors: Tensors) -> Iterator[Real]:
        """See `Decoder.arrays`."""
        config = self.config
        prefix = "transformer." if "transformer.wte.weight" in tensors else ""

        def read(name: str) -> Real:
            return tensors(prefix + name)

        def after(norm: str, matrix: Real, bias: Real | float = 0.0) -> Iterator[Real]:
            yield read(f"{norm}.weight")[:, None] * matrix
            yield read(f"{norm}.bias") @ matrix + bias

        words = read("wte.weight")
        yield centred(np.concatenate([words, read("wpe.weight")]))
        scales = np.repeat([self._scale, 1.0, 1.0], config.n_embd)
        for i in range(config.n_layer):
            layer = f"h.{i}"
            parts = read(f"{layer}.attn.c_attn.weight"), read(f"{layer}.attn.c_attn.bias")
            yield from after(f"{layer}.ln_1", scales * parts[0], scales * parts[1])
            yield centred(read(f"{layer}.attn.c_proj.weight"))
            yield centred(read(f"{layer}.attn.c_proj.bias"))
            yield from after(f"{layer}.ln_2", read(f"{layer}.mlp.c_fc.weight"), read(f"{layer}.mlp.c_fc.bias"))
            yield centred(read(f"{layer}.mlp.c_proj.weight"))
            yield centred(read(f"{layer}.mlp.c_proj.bias"))
        yield from after("ln_f", (words if config.tie_word_embeddings else tensors("lm_head.weight")).T)

    def load(self, arrays: Arrays) -> Gpt2Weights:
        """See `Decoder.load`."""
        config = self.config
        width = config.n_embd
        weights = Gpt2Weights(
            arrays.table(self.vocabulary + self.positions, width),
            tuple(
                Layer(
                    arrays.dense(width, 3 * width, FINE_BITS),
                    arrays.dense(width, width),
                    arrays.dense(width, self._inner, FINE_BITS),
                    arrays.dense(self._inner, width, FINE_BITS),
                )
                for _ in range(config.n_layer)
            ),
            arrays.dense(width, self.vocabulary, FINE_BITS),
        )
        arrays.end()
        return weights

    def table(self, weights: Gpt2Weights) -> Weight:
        """See `Decoder.table`."""
        return weights.table

    def _logits(self, weights: Gpt2Weights, x: Secret, places: Places) -> Secret:
        config, n = self.config, self.config.n_head
        gain = EMBEDDING_GAIN
        for layer in weights.layers:
            heads = split_heads(layer.attention(rms_norm(x, config.layer_norm_epsilon, gain)), 3 * n)
            x = layer.mixed(places.attend(self._attention, heads[:, :n], heads[:, n:]), onto=x)
            x = by_places(partial(self._widened, layer), rms_norm(x, config.layer_norm_epsilon), x, self._inner)
            gain = 1
        return weights.head(rms_norm(x[:, -1], config.layer_norm_epsilon))

    def _widened(self, layer: Layer, x: Secret, onto: Secret) -> Secret:
        """Return what goes round a layer's inner part with what that writes."""
        inner = activation(layer.inner(x), self.config.activation_function, self.config.mpc_approx)
        return layer.outer(inner, onto)
