"""What models that generate have in common: tokens in, the next token out, keys and values kept for the one after.

A program of n tokens after `past` others takes the keys and values of those as committed inputs, and puts out its own.
It computes the very same integers as a program of all tokens at once.

The cache is one array of all layers: an output and, under the same commitment, the next program's only secret input.

Example:
    >>> program = model.write(Graph(reaches), n=1, past=100).program()
    >>> list(program.inputs), [output.name for output in program.outputs]
    (['tokens', 'cache'], ['token', 'cache'])
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Literal

import numpy as np

from mitai.mpc.models.arrays import Tensors
from mitai.proof.graph import Graph, Real, Tensor
from mitai.proof.models.blocks import NORM_FRACTION, attention, causal, written
from mitai.proof.sampling import NOISE_BITS, NOISE_FRACTION

Reveal = Literal["token", "logits", "all"]

LOGIT_BITS = 32
DRAWN_BITS = 8  # at least, of whole numbers: how far the least may lie below the one that is drawn
ROUGH_FRACTION = 24
WEIGHT_FRACTION = 16
PLACES_AXIS = 2  # of keys and values
CACHE_BITS = 16


class Places:
    """The places that a program adds, and what they attend to; layers come to `attend` in order.

    Args:
        graph: The program.
        n: How many are new.
        past: How many there were before.
        rows: Of the cache: heads of keys and values, of all layers.
        size: Of one head's vectors.
    """

    def __init__(self, graph: Graph, n: int, past: int, rows: int, size: int) -> None:
        self.n, self.past = n, past
        self._graph = graph
        self._new: list[Tensor] = []
        self._old = None
        if past:
            self._old = graph.input("cache", (rows, 1, past, size), 0, bits=CACHE_BITS, public=False)

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, layer: str) -> Tensor:
        """Attend to new keys and values [groups, 1, n, size] and to those before, and keep the new."""
        keys, values = self._with_past(keys), self._with_past(values)
        return attention(queries, keys, values, layer, causal(self.n, self.past))

    def cache(self) -> Tensor:
        """Return keys and values of all layers and places, [rows, 1, past + n, size]."""
        new = self._graph.concat(self._new, 0)
        return new if self._old is None else self._graph.concat([self._old, new], PLACES_AXIS)

    def _with_past(self, new: Tensor) -> Tensor:
        graph, groups = self._graph, new.shape[0]
        rows = np.arange(groups) + groups * len(self._new)
        self._new.append(new.scaled(0))
        if self._old is None:
            return new
        return graph.concat([self._old.gather(graph.constant(rows), 0).scaled(new.fraction), new], PLACES_AXIS)


class Decoder(ABC):
    """A model that generates, of one public configuration."""

    vocabulary: int
    width: int
    tied: bool
    layers: int
    cache_rows: int
    head_size: int

    def write(
        self,
        graph: Graph,
        n: int,
        past: int = 0,
        reveal: Reveal = "token",
        *,
        answers: int = 1,
        keep: bool = True,
        drawn: bool = False,
    ) -> Graph:
        """Write the program of n tokens after `past` others.

        Args:
            graph: An empty one.
            n: How many tokens go in.
            past: How many went before.
            reveal: The next `token`, the most likely one; its `logits`; or `all` places' logits.
            answers: After how many of the last places the next token, or its logits, come out.
            keep: Whether keys and values are kept, for a program of more tokens.
            drawn: Whether a token is the one with the largest sum of logit and public `noise`.
        """
        tokens = graph.tokens("tokens", n, self.vocabulary)
        fraction = ROUGH_FRACTION if graph.rough else graph.place("logits", LOGIT_BITS, most=26)[0]
        shape = (self.vocabulary, self.width)
        table = graph.weight("table.weight", shape, fraction - NORM_FRACTION if self.tied else WEIGHT_FRACTION)
        places = Places(graph, n, past, self.cache_rows, self.head_size)
        x = self.states(table, tokens, places)
        if reveal != "all":
            x = x.gather(graph.constant(np.arange(n - answers, n)), 0)
        x = self.last(x)
        head = table if self.tied else graph.weight("head.weight", shape, fraction - NORM_FRACTION)
        logits = (x @ head.swap()).measure("logits")
        if reveal == "token":
            graph.output("token", self._drawn(logits) if drawn else logits.argmax(LOGIT_BITS))
        else:
            graph.output("logits", logits)
        return graph.output("cache", places.cache(), public=False) if keep else graph

    def written(self, n: int) -> int:
        """Return about how many numbers a program of n tokens has in it."""
        return written(self.layers, n, self.head_size)

    def measure(self, graph: Graph, n: int) -> Graph:
        """Write the program of n tokens with the logits of all places."""
        return self.write(graph, n, reveal="all")

    @staticmethod
    def _drawn(logits: Tensor) -> Tensor:
        graph = logits.graph
        noise = graph.input("noise", logits.shape, NOISE_FRACTION, bits=NOISE_BITS)
        total = logits + noise
        return total.argmax(total.fraction + max(graph.room("logits") + 1, DRAWN_BITS))

    @abstractmethod
    def arrays(self, tensors: Tensors) -> Iterator[tuple[str, Real]]:
        """Yield the model's weights by name, out of its folder."""

    @abstractmethod
    def states(self, table: Tensor, tokens: Tensor, places: Places) -> Tensor:
        """Return the last layer's states [n, width]."""

    @abstractmethod
    def last(self, x: Tensor) -> Tensor:
        """Return what goes into the head."""


def head_columns(matrix: Real, groups: int, heads: int) -> Real:
    """Return a matrix [width, heads · size] as [groups, heads / groups, width, size]."""
    width = len(matrix)
    return matrix.reshape(width, groups, heads // groups, -1).transpose(1, 2, 0, 3)


def head_rows(matrix: Real, groups: int, heads: int) -> Real:
    """Return a matrix [heads · size, width] as [groups, heads / groups, size, width]."""
    return matrix.reshape(groups, heads // groups, -1, matrix.shape[-1])
