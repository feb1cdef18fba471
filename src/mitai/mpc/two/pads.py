"""Correlated randomness, as each side draws it: the dealer, the two parties, and whoever plans a run.

A protocol asks for randomness in one function, which all sides run. What it gets differs by the side:

| side | `random` | `given` | `product` |
| --- | --- | --- | --- |
| `PlanPads` (anybody, ahead) | blank, counted | blank, counted | blank, noted |
| `DealerPads` | both halves | makes the values, sends party 1 its half | blank |
| `TapePads` (a party, online) | its own half | its own half | mask and half of the product |

Invariants (`docs/spec/mpc.md`, "Randomness"):

- All random words are AES-128 in counter mode under a run's keys, which serve for one run; positions only go forward.
- Party 0's half of what is given comes from its key; party 1's is the value less that half, and comes from the dealer.
- A plan's digest names every draw in order: sides that would not walk in step refuse before anything is dealt.

Example:
    >>> def bit(pads: Pads, n: int) -> Ring:
    ...     return pads.given((n,), np.uint64, lambda: np.ones(n, np.uint64))
    >>> plan = PlanPads()
    >>> bit(plan, 5).shape, plan.plan().corrections
    ((5,), 40)
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mitai.errors import MpcError
from mitai.mpc import kernels
from mitai.mpc.engine import Shape, Weight
from mitai.mpc.kernels import Packed, Word
from mitai.mpc.ring import Ring
from mitai.mpc.two.blank import blank

Draw = tuple[object, ...]

KEY_BYTES = 16
AHEAD = 1 << 11  # words that are made at once for smaller draws
ONLINE, PRODUCTS = 0, 1  # streams of a key: what a run draws, and party 0's halves of products with weights
LABEL = b"mitai mpc plan v1\n"


class MaskedWeight(Weight):
    """A matrix W as one side holds it, with a mask B that is used for it alone.

    Attributes:
        shape: Rows (in) and columns (out).
        fraction: Bits of fraction.
        share: A party's own share of W.
        opened: W - B, at a party.
        mask: B, at the dealer.
        fresh: Whether it was made in the run that is going on, so that nothing could be prepared for it.
    """

    share: Ring | Packed[np.uint64]
    opened: Ring | Packed[np.uint64]
    mask: Ring | Packed[np.uint64]

    def __init__(self, shape: Shape, fraction: int) -> None:
        rows, columns = shape
        self.shape = rows, columns
        self.fraction = fraction
        self.fresh = True

    def take(self, *matrices: Ring | Packed[np.uint64]) -> None:
        """Keep what a side has: share and W - B, or the mask, or nothing."""
        if len(matrices) == 2:
            self.share, self.opened = matrices
        elif matrices:
            (self.mask,) = matrices

    def __repr__(self) -> str:
        return f"MaskedWeight(shape={self.shape}, fraction={self.fraction})"


@dataclass(frozen=True)
class Product:
    """A product of a run's mask with a weight, to be made ahead.

    Attributes:
        weight: The weight.
        rows: The mask's rows.
        mask_at: Where the mask lies among the run's random words.
        result_at: Where the result lies among the run's results, in words.
    """

    weight: MaskedWeight
    rows: int
    mask_at: int
    result_at: int

    @property
    def mask_words(self) -> int:
        """How long the mask is."""
        return self.rows * self.weight.shape[0]

    @property
    def result_words(self) -> int:
        """How long the result is."""
        return self.rows * self.weight.shape[1]


@dataclass(frozen=True)
class Plan:
    """What one run of a program draws.

    Attributes:
        digest: SHA-256 over all draws in order.
        corrections: Bytes that the dealer sends to party 1.
        products: With which weights masks are multiplied ahead.
        draws: All draws and inputs, in order.
    """

    digest: bytes
    corrections: int
    products: tuple[Product, ...]
    draws: tuple[Draw, ...] = ()

    @property
    def product_words(self) -> int:
        """The number of ring elements of all results."""
        return sum(product.result_words for product in self.products)


class Pads(ABC):
    """Where a protocol draws randomness; all sides' `draws` have to be those of the plan."""

    offline = True

    def __init__(self) -> None:
        self.draws: list[Draw] = []

    def note(self, *what: object) -> None:
        """Take something public into what all sides have to agree on."""
        self.draws.append(what)

    def keep_to(self, plan: Plan) -> None:
        """Check that a walk was what its plan says.

        Raises:
            MpcError: `mpc.plan-mismatch`.
        """
        if tuple(self.draws) != plan.draws:
            raise MpcError("mpc.plan-mismatch", "the program did not do what its plan says")

    @abstractmethod
    def random(self, shape: Shape, dtype: type[Word]) -> tuple[NDArray[Word], ...]:
        """Return the halves of uniformly random words that this side knows: both at a dealer, its own at a party."""

    @abstractmethod
    def given(
        self, shape: Shape, dtype: type[Word], values: Callable[[], NDArray[Any]], *, xor: bool = False
    ) -> NDArray[Word]:
        """Return a party's half of values that the dealer makes; halves add up modulo the type's size, or by XOR."""

    @abstractmethod
    def product(self, rows: int, weight: MaskedWeight) -> tuple[Ring, Ring]:
        """Return a party's half of a random mask A [rows, in], and its half of A W."""


class Source(Protocol):
    """What a tape is read from; a binary file is one."""

    def read(self, size: int, /) -> bytes:
        """Return that many bytes, or fewer at the end."""


class Sink(Protocol):
    """What is written in pieces; a binary file is one."""

    def write(self, data: bytes | memoryview, /) -> object:
        """Append it."""


def word_count(shape: Shape, dtype: type[Word]) -> int:
    """Return how many words of 64 bits hold such an array."""
    return -(-math.prod(shape) * np.dtype(dtype).itemsize // 8)


def as_array(words: Ring, shape: Shape, dtype: type[Word]) -> NDArray[Word]:
    """Return the array that lies at the beginning of these words."""
    return words.view(dtype)[: math.prod(shape)].reshape(shape)


class Stream:
    """The random words of one key and purpose, in order; none is given twice."""

    def __init__(self, key: bytes, stream: int) -> None:
        self._key = key
        self._stream = stream
        self._at = 0
        self._made = np.empty(0, np.uint64)  # from `_from` on, ahead of small draws, which would be mostly overhead
        self._from = 0

    def skip(self, words: int) -> None:
        """Go on without them."""
        self._at += words

    def take(self, shape: Shape, dtype: type[Word]) -> NDArray[Word]:
        """Return the next array."""
        n = word_count(shape, dtype)
        if n >= AHEAD:
            words = kernels.prg(self._key, self._stream, self._at, n)
        else:
            if self._at + n > self._from + len(self._made):
                self._made, self._from = kernels.prg(self._key, self._stream, self._at, AHEAD), self._at
            words = self._made[self._at - self._from :][:n]
        self._at += n
        return as_array(words, shape, dtype)


class PlanPads(Pads):
    """Counts what a program draws, and gives blanks."""

    def __init__(self) -> None:
        super().__init__()
        self._words = 0
        self._corrections = 0
        self._products: list[Product] = []
        self._product_words = 0

    def plan(self) -> Plan:
        """Return what was counted."""
        digest = hashlib.sha256(LABEL + "".join(f"{draw}\n" for draw in self.draws).encode()).digest()
        return Plan(digest, self._corrections, tuple(self._products), tuple(self.draws))

    def random(self, shape: Shape, dtype: type[Word]) -> tuple[NDArray[Word], ...]:
        """See `Pads.random`."""
        self.note("random", shape, dtype.__name__)
        self._words += word_count(shape, dtype)
        return (blank(shape, dtype),)

    def given(
        self, shape: Shape, dtype: type[Word], values: Callable[[], NDArray[Any]], *, xor: bool = False
    ) -> NDArray[Word]:
        """See `Pads.given`."""
        del values
        self.note("given", shape, dtype.__name__, xor)
        self._words += word_count(shape, dtype)
        self._corrections += 8 * word_count(shape, dtype)
        return blank(shape, dtype)

    def product(self, rows: int, weight: MaskedWeight) -> tuple[Ring, Ring]:
        """See `Pads.product`."""
        self.note("product", rows, weight.shape)
        product = Product(weight, rows, self._words, self._product_words)
        self._products.append(product)
        self._words += product.mask_words
        self._product_words += product.result_words
        return blank((rows, weight.shape[0])), blank((rows, weight.shape[1]))


class DealerPads(Pads):
    """Draws both halves, and writes what party 1 is given."""

    def __init__(self, keys: tuple[bytes, bytes], corrections: Sink) -> None:
        super().__init__()
        self._streams = tuple(Stream(key, ONLINE) for key in keys)
        self._corrections = corrections

    def random(self, shape: Shape, dtype: type[Word]) -> tuple[NDArray[Word], ...]:
        """See `Pads.random`."""
        self.note("random", shape, dtype.__name__)
        return tuple(stream.take(shape, dtype) for stream in self._streams)

    def given(
        self, shape: Shape, dtype: type[Word], values: Callable[[], NDArray[Any]], *, xor: bool = False
    ) -> NDArray[Word]:
        """See `Pads.given`."""
        self.note("given", shape, dtype.__name__, xor)
        first, second = self._streams
        made = values()
        if made.shape != shape or made.dtype not in (dtype, np.bool_):
            raise ValueError(f"{made.dtype} {made.shape} made where {np.dtype(dtype)} {shape} is given")
        words = np.zeros(word_count(shape, dtype), np.uint64)
        combine = np.bitwise_xor if xor else np.subtract
        combine(made, first.take(shape, dtype), out=as_array(words, shape, dtype), dtype=dtype)
        second.skip(len(words))
        self._corrections.write(words.data.cast("B"))
        return blank(shape, dtype)

    def product(self, rows: int, weight: MaskedWeight) -> tuple[Ring, Ring]:
        """See `Pads.product`; the products of a whole batch are dealt before (`prepare`)."""
        self.note("product", rows, weight.shape)
        for stream in self._streams:
            stream.skip(rows * weight.shape[0])
        return blank((rows, weight.shape[0])), blank((rows, weight.shape[1]))


class TapePads(Pads):
    """A party's own halves: out of its key, and out of its tape from beginning to end.

    Args:
        role: Which party: 0 or 1.
        key: The run's key.
        products: Halves of products with weights.
        corrections: Where party 1's halves of what is given are read.
    """

    offline = False

    def __init__(self, role: int, key: bytes, products: Ring, corrections: Source) -> None:
        super().__init__()
        self._role = role
        self._stream = Stream(key, ONLINE)
        self._products = products
        self._corrections = corrections

    def random(self, shape: Shape, dtype: type[Word]) -> tuple[NDArray[Word], ...]:
        """See `Pads.random`."""
        self.note("random", shape, dtype.__name__)
        return (self._stream.take(shape, dtype),)

    def given(
        self, shape: Shape, dtype: type[Word], values: Callable[[], NDArray[Any]], *, xor: bool = False
    ) -> NDArray[Word]:
        """See `Pads.given`."""
        del values
        self.note("given", shape, dtype.__name__, xor)
        if self._role == 0:
            return self._stream.take(shape, dtype)
        n = word_count(shape, dtype)
        self._stream.skip(n)
        data = self._corrections.read(8 * n)
        if len(data) != 8 * n:
            raise MpcError("mpc.tape-damaged", "the tape ends before the run does")
        return as_array(np.frombuffer(data, np.uint64), shape, dtype)

    def product(self, rows: int, weight: MaskedWeight) -> tuple[Ring, Ring]:
        """See `Pads.product`."""
        self.note("product", rows, weight.shape)
        n = rows * weight.shape[1]
        if len(self._products) < n:
            raise MpcError("mpc.tape-damaged", "the tape has fewer products than the run")
        half, self._products = self._products[:n], self._products[n:]
        return self._stream.take((rows, weight.shape[0]), np.uint64), half.reshape(rows, weight.shape[1])

    def end(self) -> None:
        """Check that nothing is left over.

        Raises:
            MpcError: `mpc.tape-damaged`.
        """
        if len(self._products) or self._corrections.read(1):
            raise MpcError("mpc.tape-damaged", "the tape goes on where the run has ended")
