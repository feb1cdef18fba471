"""Writing integer programs with numbers that have a fraction, at scales that calibration chose.

A `Tensor` stands for an operation's result and knows how much of it is fraction: the program holds x · 2^fraction.
How large each named result becomes is measured once, as the power of two that bounds it (`Reaches`); its fraction and
its bits follow from that. A rough graph is one to measure with.

Example:
    >>> graph = Graph({"y": 3, "w": 0})
    >>> x = graph.input("x", (4, 8), fraction=10)
    >>> y = (x @ graph.weight("w", (8, 3), fraction=14)).rescale("y")
    >>> y.fraction, graph.output("y", y).program().values[-1].high
    (11, 32767)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mitai.errors import ProofError
from mitai.proof.operation import LIMIT, Ints, Shape, Value
from mitai.proof.operations import (
    AnyOperation,
    Argmax,
    Concat,
    Divide,
    Gap,
    Gather,
    Input,
    Linear,
    Lookup,
    MatMul,
    Multiply,
    Permute,
    Rescale,
    Reshape,
    RSqrt,
    Sum,
    Weight,
    constant_of,
)
from mitai.proof.program import MAX_OPERATIONS, Output, Program, inferred

Real = NDArray[np.float64]
Reaches = Mapping[str, int]  # a name's numbers are within ± 2^reach

MOST_FRACTION = 12
WEIGHT_BITS = 18
ROUGH_FRACTION = 8
LOG_QUANTISED = 20  # numbers at a time


class Graph:
    """A program in the making.

    Args:
        reaches: Those of weights, and of all that calibration measured.
        rough: Whether this graph is for measuring.
        word: How many bits most results have, and most rescalings cut off: 16, or less for a model so small that tables
            of 2^16 are most of its proof.
        headroom: How many times, as a power of two, numbers may be larger than any in calibration.
    """

    def __init__(self, reaches: Reaches, *, rough: bool = False, word: int = 16, headroom: int = 2) -> None:
        self.rough = rough
        self.rough_fraction = ROUGH_FRACTION
        self.word = word
        self.operations: list[AnyOperation] = []
        self.values: list[Value] = []
        self.fractions: dict[str, int] = {}  # of weights, inputs and outputs
        self.measured: dict[str, Tensor] = {}
        self._outputs: list[Output] = []
        self._constants: dict[tuple[Shape, bytes], int] = {}
        self._reaches = reaches
        self._headroom = headroom

    def reach(self, name: str) -> int:
        """Return a name's measured reach.

        Raises:
            ProofError: `proof.not-calibrated`.
        """
        try:
            return self._reaches[name]
        except KeyError:
            raise ProofError("proof.not-calibrated", f"the calibration says nothing of {name}") from None

    def room(self, name: str) -> int:
        """Return a name's reach with headroom."""
        return self.reach(name) + self._headroom

    def place(
        self,
        name: str,
        bits: int | None = None,
        *,
        most: int = MOST_FRACTION,
        least: int | None = None,
        spare: int = 0,
    ) -> tuple[int, int]:
        """Return fraction and bits for signed numbers of this name.

        Args:
            name: Whose reach was measured.
            bits: As many as there shall be; a word unless said otherwise.
            most: The largest fraction of use.
            least: The smallest; there are more bits where it does not fit.
            spare: Bits of headroom beyond the graph's.
        """
        bits = bits or self.word
        if self.rough:
            return self.rough_fraction, bits
        reach = self.room(name) + spare
        fraction = min(most, bits - 1 - reach)
        if least is not None and fraction < least:
            return least, reach + least + 1
        return fraction, bits

    def add(self, operation: AnyOperation, fraction: int) -> Tensor:
        """Append an operation.

        Raises:
            ProofError: `proof.program-invalid`.
        """
        if len(self.operations) == MAX_OPERATIONS:
            raise ProofError("proof.program-invalid", f"the model is more than {MAX_OPERATIONS} operations")
        self.values.append(inferred(operation, self.values))
        self.operations.append(operation)
        return Tensor(self, len(self.values) - 1, fraction)

    def input(self, name: str, shape: Shape, fraction: int, *, bits: int = 16, public: bool = True) -> Tensor:
        """Declare an array that is given for each run."""
        self.fractions[name] = fraction
        low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
        return self.add(Input(name=name, shape=shape, low=low, high=high, public=public), fraction)

    def tokens(self, name: str, n: int, vocabulary: int) -> Tensor:
        """Declare public tokens."""
        return self.add(Input(name=name, shape=(n,), low=0, high=vocabulary - 1, public=True), 0)

    def weight(self, name: str, shape: Shape, fraction: int, most: int = WEIGHT_BITS) -> Tensor:
        """Declare an array of the model's, with this fraction, or less where it would have more than `most` bits."""
        reach = self.reach(name)
        self.fractions[name] = min(fraction, most - 1 - reach)
        bits = max(self.fractions[name] + reach, 0) + 1
        return self.add(Weight(name=name, shape=shape, bits=bits + 1), self.fractions[name])

    def constant(self, numbers: Real | Ints, fraction: int = 0) -> Tensor:
        """Make numbers part of the program."""
        real = np.rint(np.ldexp(np.asarray(numbers, np.float64), fraction))
        if not (np.abs(real) <= LIMIT).all():  # nor what is no number
            raise ProofError("proof.program-invalid", "a constant has numbers that may exceed 62 bits")
        whole = real.astype(np.int64)
        constant = constant_of(whole)
        key = whole.shape, constant.data
        if key not in self._constants:
            self._constants[key] = self.add(constant, fraction).number
        return Tensor(self, self._constants[key], fraction)

    def concat(self, parts: Sequence[Tensor], axis: int) -> Tensor:
        """Put arrays of one fraction after one another."""
        numbers = tuple(part.number for part in parts)
        return self.add(Concat(parts=numbers, axis=_axis(parts[0], axis)), parts[0].fraction)

    def output(self, name: str, tensor: Tensor, *, public: bool = True) -> Graph:
        """Let a result come out."""
        self.fractions[name] = tensor.fraction
        self._outputs.append(Output(name=name, operand=tensor.number, public=public))
        return self

    def program(self) -> Program:
        """Return the program."""
        return Program(tuple(self.operations), tuple(self._outputs))

    def quantised(self, arrays: Iterable[tuple[str, Real]]) -> dict[str, Ints]:
        """Return the model's weights as the integers that the program takes.

        Raises:
            ProofError: `proof.out-of-range`: a weight is larger than calibration found.
        """
        return {name: np.concatenate([*self.integers(name, array)]) for name, array in arrays}

    def integers(self, name: str, array: Real) -> Iterator[Ints]:
        """Yield a weight as integers, some of its rows at a time.

        Raises:
            ProofError: See `quantised`.
        """
        bits = self._declared[name]
        step = max((len(array) << LOG_QUANTISED) // array.size, 1)
        for start in range(0, len(array), step):
            whole = np.rint(np.ldexp(array[start : start + step], self.fractions[name]))
            if not np.all(np.abs(whole) < 1 << (bits - 1)):
                raise ProofError("proof.out-of-range", f"weight {name} is larger than in the model that was calibrated")
            yield whole.astype(np.int32 if bits <= 32 else np.int64)

    @cached_property
    def _declared(self) -> dict[str, int]:
        return {entry.name: entry.bits for entry in self.operations if isinstance(entry, Weight)}


class Tensor:
    """An operation's result in a graph, with its fraction."""

    def __init__(self, graph: Graph, number: int, fraction: int) -> None:
        self.graph = graph
        self.number = number
        self.fraction = fraction

    @property
    def value(self) -> Value:
        """What is known of it."""
        return self.graph.values[self.number]

    @property
    def shape(self) -> Shape:
        """Its shape."""
        return self.value.shape

    def _then(self, operation: AnyOperation, fraction: int | None = None) -> Tensor:
        return self.graph.add(operation, self.fraction if fraction is None else fraction)

    def __matmul__(self, other: Tensor) -> Tensor:
        return self._then(MatMul(a=self.number, b=other.number), self.fraction + other.fraction)

    def __mul__(self, other: Tensor) -> Tensor:
        return self._then(Multiply(a=self.number, b=other.number), self.fraction + other.fraction)

    def __add__(self, other: Tensor | float) -> Tensor:
        if not isinstance(other, Tensor):
            return self._then(Linear(terms=((self.number, 1),), constant=round(other * 2.0**self.fraction)))
        most = max(self.fraction, other.fraction)
        terms = tuple((tensor.number, 1 << (most - tensor.fraction)) for tensor in (self, other))
        return self._then(Linear(terms=terms), most)

    def __neg__(self) -> Tensor:
        return self._then(Linear(terms=((self.number, -1),)))

    def __sub__(self, other: Tensor) -> Tensor:
        return self + (-other)

    def sum(self, axis: int) -> Tensor:
        """Add up along an axis, which stays."""
        return self._then(Sum(a=self.number, axis=_axis(self, axis)))

    def gather(self, indices: Tensor, axis: int) -> Tensor:
        """Take entries at public indices along an axis."""
        return self._then(Gather(a=self.number, indices=indices.number, axis=_axis(self, axis)))

    def permute(self, *axes: int) -> Tensor:
        """Put axes in another order."""
        return self._then(Permute(a=self.number, axes=axes))

    def swap(self) -> Tensor:
        """Exchange the last two axes."""
        n = len(self.shape)
        return self.permute(*range(n - 2), n - 1, n - 2)

    def reshape(self, *shape: int) -> Tensor:
        """Add or drop axes of length one."""
        return self._then(Reshape(a=self.number, shape=shape))

    def scaled(self, fraction: int) -> Tensor:
        """Read the same integers with another fraction."""
        return Tensor(self.graph, self.number, fraction)

    def measure(self, name: str) -> Tensor:
        """Let calibration find this result's reach."""
        self.graph.measured[name] = self
        return self

    def rescale(self, name: str, most: int = MOST_FRACTION) -> Tensor:
        """Cut back to the fraction, `most` at most, and the bits that calibration found for this name."""
        return self.cut(*self.graph.place(name, most=most)).measure(name)

    def cut(self, fraction: int, bits: int) -> Tensor:
        """Cut back to a fraction, or to what there is but one bit, and to so many bits."""
        shift = max(self.fraction - fraction, 1)
        return self._then(Rescale(a=self.number, shift=shift, bits=bits), self.fraction - shift)

    def function(self, function: Callable[[Real], Real], fraction: int | None = None) -> Tensor:
        """Look up a function of one number, with as much fraction as its argument unless said otherwise."""
        fraction = self.fraction if fraction is None else fraction
        places = np.arange(self.value.low, self.value.high + 1)
        table = self.graph.constant(function(np.ldexp(places.astype(np.float64), -self.fraction)), fraction)
        return self._then(Lookup(a=self.number, table=table.number, first=self.value.low), fraction)

    def gap(self, axis: int, fraction: int, bits: int = 16) -> Tensor:
        """Return how far numbers lie below the largest along an axis."""
        shift = self.fraction - fraction
        return self._then(Gap(a=self.number, axis=_axis(self, axis), shift=shift, bits=bits), fraction)

    def reciprocal(self, fraction: int, bits: int) -> Tensor:
        """Return 1 / x, unsigned."""
        one = self.graph.constant(np.ones(1), fraction + self.fraction)
        return self._then(Divide(a=one.number, b=self.number, bits=bits), fraction)

    def reciprocal_root(self, fraction: int, bits: int, factor: int = 1) -> Tensor:
        """Return sqrt(factor / x), unsigned."""
        numerator = factor << (2 * fraction + self.fraction)
        return self._then(RSqrt(a=self.number, numerator=numerator, bits=bits), fraction)

    def argmax(self, bits: int) -> Tensor:
        """Return where the largest number of the last axis is, which all then know."""
        return self._then(Argmax(a=self.number, bits=bits), 0)


def _axis(tensor: Tensor, axis: int) -> int:
    return axis % len(tensor.shape)
