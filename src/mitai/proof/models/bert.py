"""BERT as an integer program (Devlin et al., 2018): a class of one text, or the mean of its states.

- A program is for a text's exact length: there is no padding.
- All tokens are of the first type; its row is in the table of positions.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mitai.mpc.models.arrays import Tensors
from mitai.mpc.models.config import BertConfig
from mitai.proof.graph import Graph, Real, Tensor
from mitai.proof.models.blocks import activation, attention, biased, dense, heads, mix, norm, product
from mitai.proof.models.decoder import WEIGHT_FRACTION, head_columns, head_rows

CLASS_BITS = 48
LOGIT_FRACTION = 10


class Bert:
    """BERT of one public configuration."""

    def __init__(self, config: BertConfig) -> None:
        self.config = config

    def arrays(self, tensors: Tensors) -> Iterator[tuple[str, Real]]:
        """Yield the model's weights by name, out of its folder."""
        config = self.config
        prefix = "bert." if "bert.embeddings.LayerNorm.weight" in tensors else ""

        def both(name: str, source: str, *, layer: bool = True) -> Iterator[tuple[str, Real]]:
            matrix = tensors(f"{source}.weight")
            yield f"{name}.weight", matrix.T if layer else matrix
            yield f"{name}.bias", tensors(f"{source}.bias")

        table = f"{prefix}embeddings.{{}}_embeddings.weight".format
        yield "table.weight", tensors(table("word"))
        yield "positions.weight", tensors(table("position")) + tensors(table("token_type"))[0]
        yield from both("embedding", f"{prefix}embeddings.LayerNorm", layer=False)
        count = config.num_attention_heads
        for i in range(config.num_hidden_layers):
            layer, source = f"layers.{i}", f"{prefix}encoder.layer.{i}"
            scales = ((config.hidden_size // count) ** -0.5, 1.0, 1.0)
            for part, scale in zip(("query", "keys", "values"), scales, strict=True):
                name = f"{source}.attention.self.{part.removesuffix('s')}"
                yield f"{layer}.{part}.weight", head_columns(scale * tensors(f"{name}.weight").T, count, count)
                yield f"{layer}.{part}.bias", head_columns(scale * tensors(f"{name}.bias")[None], count, count)
            mixed = f"{source}.attention.output"
            yield f"{layer}.mixed.weight", head_rows(tensors(f"{mixed}.dense.weight").T, count, count)
            yield f"{layer}.mixed.bias", tensors(f"{mixed}.dense.bias")
            yield from both(f"{layer}.first", f"{mixed}.LayerNorm", layer=False)
            yield from both(f"{layer}.inner", f"{source}.intermediate.dense")
            yield from both(f"{layer}.outer", f"{source}.output.dense")
            yield from both(f"{layer}.second", f"{source}.output.LayerNorm", layer=False)
        if config.labels:
            yield from both("pooler", f"{prefix}pooler.dense")
            yield from both("classifier", "classifier")

    def write(self, graph: Graph, n: int, *, reveal: bool = False) -> Graph:
        """Write the program of a text of n tokens.

        It puts out the `class`, or all `logits` to reveal them, or the sum of `states` if the model has no classes.
        """
        config = self.config
        x = self._states(graph, n)
        if not config.labels:
            return graph.output("states", x.sum(0))
        first = x.gather(graph.constant(np.zeros(1)), 0)
        pooled = activation(dense(first, "pooler", config.hidden_size, bias=True), "tanh")
        logits = product(pooled, "classifier", (config.hidden_size, config.labels), LOGIT_FRACTION)
        logits = biased(logits, "classifier", (config.labels,))
        return graph.output("logits", logits) if reveal else graph.output("class", logits.argmax(CLASS_BITS))

    def measure(self, graph: Graph, n: int) -> Graph:
        """Write the program of n tokens with all logits."""
        return self.write(graph, n, reveal=True)

    def _states(self, graph: Graph, n: int) -> Tensor:
        config, width = self.config, self.config.hidden_size
        one = (config.num_attention_heads, 1, width // config.num_attention_heads)
        tokens = graph.tokens("tokens", n, config.vocab_size)
        table = graph.weight("table.weight", (config.vocab_size, width), WEIGHT_FRACTION)
        positions = graph.weight("positions.weight", (config.max_position_embeddings, width), table.fraction)
        x = (table.gather(tokens, 0) + positions.gather(graph.constant(np.arange(n)), 0)).rescale("embedded")
        x = self._norm(x, "embedding")
        for i in range(config.num_hidden_layers):
            layer = f"layers.{i}"
            queries, keys, values = (
                heads(x, f"{layer}.{part}", one, graph.place(f"{layer}.{part}")[0], bias=True).rescale(
                    f"{layer}.{part}"
                )
                for part in ("query", "keys", "values")
            )
            y = mix(attention(queries, keys, values, layer), f"{layer}.mixed", width, bias=True)
            x = self._norm(x + y, f"{layer}.first")
            y = dense(x, f"{layer}.inner", config.intermediate_size, bias=True)
            y = dense(activation(y, config.hidden_act), f"{layer}.outer", width, bias=True)
            x = self._norm(x + y, f"{layer}.second")
        return x

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return norm(x, name, self.config.layer_norm_eps, centred=True, affine=True)
