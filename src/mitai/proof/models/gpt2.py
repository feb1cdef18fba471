"""GPT-2 as an integer program (Radford et al., 2019): gain and bias of a norm are in the layer that follows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mitai.mpc.models.arrays import Tensors
from mitai.mpc.models.config import Gpt2Config
from mitai.proof.graph import Real, Tensor
from mitai.proof.models.blocks import activation, dense, heads, mix, norm, stream
from mitai.proof.models.decoder import Decoder, Places, head_columns, head_rows


class Gpt2(Decoder):
    """GPT-2 of one public configuration."""

    def __init__(self, config: Gpt2Config) -> None:
        self.config = config
        self.vocabulary, self.width, self.tied = config.vocab_size, config.n_embd, config.tie_word_embeddings
        self.layers = config.n_layer
        self.cache_rows, self.head_size = 2 * config.n_layer * config.n_head, config.n_embd // config.n_head
        self._inner = config.n_inner or 4 * config.n_embd

    def arrays(self, tensors: Tensors) -> Iterator[tuple[str, Real]]:
        """See `Decoder.arrays`."""
        config, width = self.config, self.width
        prefix = "transformer." if "transformer.wte.weight" in tensors else ""

        def read(name: str) -> Real:
            return tensors(prefix + name)

        def after(norm: str, layer: str) -> tuple[Real, Real]:
            matrix = read(f"{layer}.weight")
            return read(f"{norm}.weight")[:, None] * matrix, read(f"{norm}.bias") @ matrix + read(f"{layer}.bias")

        yield "table.weight", read("wte.weight")
        yield "positions.weight", read("wpe.weight")
        for i in range(config.n_layer):
            layer, source = f"layers.{i}", f"h.{i}"
            matrix, bias = after(f"{source}.ln_1", f"{source}.attn.c_attn")
            scales = ((width // config.n_head) ** -0.5, 1.0, 1.0)
            for j, (part, scale) in enumerate(zip(("query", "keys", "values"), scales, strict=True)):
                columns = slice(j * width, (j + 1) * width)
                yield f"{layer}.{part}.weight", head_columns(scale * matrix[:, columns], config.n_head, config.n_head)
                yield f"{layer}.{part}.bias", head_columns(scale * bias[None, columns], config.n_head, config.n_head)
            mixed = read(f"{source}.attn.c_proj.weight")
            yield f"{layer}.mixed.weight", head_rows(mixed, config.n_head, config.n_head)
            yield f"{layer}.mixed.bias", read(f"{source}.attn.c_proj.bias")
            matrix, bias = after(f"{source}.ln_2", f"{source}.mlp.c_fc")
            yield f"{layer}.inner.weight", matrix
            yield f"{layer}.inner.bias", bias
            yield f"{layer}.outer.weight", read(f"{source}.mlp.c_proj.weight")
            yield f"{layer}.outer.bias", read(f"{source}.mlp.c_proj.bias")
        yield "final.weight", read("ln_f.weight")
        yield "final.bias", read("ln_f.bias")
        if not self.tied:
            yield "head.weight", tensors("lm_head.weight")

    def states(self, table: Tensor, tokens: Tensor, places: Places) -> Tensor:
        """See `Decoder.states`."""
        config, width, graph = self.config, self.width, table.graph
        eps, one = config.layer_norm_epsilon, (config.n_head, 1, self.head_size)
        positions = graph.weight("positions.weight", (config.n_positions, width), table.fraction)
        added = [f"layers.{i}.{part}" for i in range(config.n_layer) for part in ("mixed", "outer")]
        most = stream(graph, ["embedding", *added], width)
        at = graph.constant(np.arange(places.past, places.past + places.n))
        x = (table.gather(tokens, 0) + positions.gather(at, 0)).rescale("embedding", most)
        for i in range(config.n_layer):
            layer = f"layers.{i}"
            y = norm(x, f"{layer}.first", eps, centred=True)
            queries, keys, values = (
                heads(y, f"{layer}.{part}", one, graph.place(f"{layer}.{part}")[0], bias=True).rescale(
                    f"{layer}.{part}"
                )
                for part in ("query", "keys", "values")
            )
            y = places.attend(queries, keys, values, layer)
            x = x + mix(y, f"{layer}.mixed", width, bias=True, stream=most)
            y = norm(x, f"{layer}.second", eps, centred=True)
            y = dense(y, f"{layer}.inner", self._inner, bias=True)
            y = activation(y, config.activation_function)
            x = x + dense(y, f"{layer}.outer", width, bias=True, stream=most)
        return x

    def last(self, x: Tensor) -> Tensor:
        """See `Decoder.last`."""
        return norm(x, "final", self.config.layer_norm_epsilon, centred=True, affine=True)
