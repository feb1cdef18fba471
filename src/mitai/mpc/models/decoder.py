"""What models that generate have in common: tokens in, logits of the next out, keys and values kept between.

Example:
    >>> step = model.step(weights, rows, None, hidden)
    >>> step = model.step(weights, next_row, step.cache, hidden)
    >>> step.logits.shape
    (1, 50257)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from mitai.mpc.engine import Secret, Weight, concatenate
from mitai.mpc.models.arrays import Arrays, Tensors
from mitai.mpc.models.attention import Attention, causal, place
from mitai.mpc.ring import Real

Weights = TypeVar("Weights")
INNER = 1 << 20  # numbers of an inner layer that are in memory at a time


@dataclass(frozen=True)
class Cache:
    """Keys and values so far.

    Attributes:
        layers: For each layer [batch, 2 · groups, capacity, size], keys before values.
        length: How many places are filled; public.
    """

    layers: tuple[Secret, ...]
    length: int


class Places:
    """The places that one step adds to a cache, and what they may see; layers come to `attend` in order.

    Args:
        cache: What was there before.
        n: How many places are new.
        hidden: Bits [batch, length of the prompts], 1 where there is padding.
    """

    def __init__(self, cache: Cache | None, n: int, hidden: Secret) -> None:
        self.at = 0 if cache is None else cache.length
        self._n = n
        self._cache = cache
        self._hidden = hidden
        self._layers: list[Secret] = []

    def attend(self, attention: Attention, queries: Secret, new: Secret) -> Secret:
        """Attend to new keys and values [batch, 2 · groups, n, size] and to those of the cache, and keep the new."""
        heads = queries.shape[1]
        both = queries.engine.masked(concatenate((queries, new), 1))
        queries, new = both[:, :heads], both[:, heads:]
        old = None if self._cache is None else self._cache.layers[len(self._layers)]
        kept = place(old, new, self.at)
        self._layers.append(kept)
        seen = new if old is None else kept
        length, groups = seen.shape[2], attention.groups
        visible = causal(self._n, length, self.at)
        return attention(queries, seen[:, :groups], seen[:, groups:], visible, self._hidden_of(length))

    def cache(self) -> Cache:
        """Return the cache after all layers."""
        return Cache(tuple(self._layers), self.at + self._n)

    def _hidden_of(self, length: int) -> Secret:
        batch, prompts = self._hidden.shape
        if prompts == length:
            return self._hidden
        rest = self._hidden.engine.constant(0.0, (batch, length - prompts), fraction=0)
        return concatenate((self._hidden, rest), 1)


@dataclass(frozen=True)
class Step:
    """What a step gives: logits [batch, vocabulary] of the next token, and the cache."""

    logits: Secret
    cache: Cache


class Decoder(ABC, Generic[Weights]):
    """A model that generates, of one public configuration.

    Attributes:
        vocabulary: How many tokens there are.
        positions: How many columns for positions follow those of tokens in a row; 0 where positions are public.
        fold: How many rows of the table are looked up together.
    """

    vocabulary: int
    positions: int
    fold = 1

    @property
    def width(self) -> int:
        """The length of a row that names a token, and its position, or `fold` tokens."""
        return -(-(self.vocabulary + self.positions) // self.fold)

    @abstractmethod
    def arrays(self, tensors: Tensors) -> Iterator[Real]:
        """Yield what the model's owner shares, in the program's order."""

    @abstractmethod
    def load(self, arrays: Arrays) -> Weights:
        """Take the model's arrays from its owner."""

    @abstractmethod
    def table(self, weights: Weights) -> Weight:
        """Return the table of embeddings [width, fold · hidden size]."""

    def step(self, weights: Weights, embedded: Secret, cache: Cache | None, hidden: Secret) -> Step:
        """Go on by one or more tokens.

        Args:
            weights: The model's.
            embedded: Rows of the table, [batch, n, hidden size].
            cache: What earlier steps left.
            hidden: Bits [batch, length of the prompts] that are 1 where there is padding.
        """
        places = Places(cache, embedded.shape[1], hidden)
        return Step(self._logits(weights, embedded, places), places.cache())

    @abstractmethod
    def _logits(self, weights: Weights, x: Secret, places: Places) -> Secret: ...


def by_places(layer: Callable[[Secret, Secret], Secret], x: Secret, onto: Secret, width: int) -> Secret:
    """Apply an inner layer of this width, which does each place of x [batch, n, …] by itself, to blocks of places.

    It takes what it is computed of, and what goes round it, of the same shape.
    """
    batch, n, _ = x.shape
    size = max(INNER // (batch * width), 1)
    if n <= size:
        return layer(x, onto)
    blocks = (slice(start, start + size) for start in range(0, n, size))
    return concatenate([layer(x[:, block], onto[:, block]) for block in blocks], 1)


def centred(matrix: Real) -> Real:
    """Take the mean of each row off it."""
    return np.asarray(matrix - np.mean(matrix, -1, keepdims=True), np.float64)
