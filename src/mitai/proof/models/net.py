"""Small networks of any build as integer programs: perceptrons, convolutions, pools, sums (docs/spec/proof-nets.md).

A `Net` is a list of steps; each takes the results of earlier ones by number, 0 is the input. A result is a row of
numbers for each sample, or a map of rows, columns and channels.

- A net is checked as a whole when it is made: shapes fit, and work is bounded.
- A map lies as [samples, places, channels], as programs can't change shapes; what reads a map as a row has weights in
  the order of a map.

Example:
    >>> net = Net(input=(1, 28, 28), steps=(Conv(a=0, out=6, kernel=(5, 5)), Dense(a=1, out=10)))
    >>> net.shapes[1:]
    [(6, 24, 24), (10,)]
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Annotated, Literal

import msgspec
import numpy as np

from mitai.errors import ProofError
from mitai.proof.graph import Graph, Tensor
from mitai.proof.models.blocks import activation, biased, product
from mitai.proof.operation import Ints, Shape

CLASS_BITS = 48
COUNT_BITS = 14  # of fraction, of one over the number of a mean
UNIT_FRACTION = 14  # of what is between -1 and 1
MAX_STEPS = 512
MAX_SIZE = 1 << 24  # weights; and numbers that all steps look at, for one sample

Size = Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]
Pair = tuple[Size, Size]
Pad = Annotated[int, msgspec.Meta(ge=0, le=64)]
Pads = tuple[Pad, Pad, Pad, Pad]
Result = Annotated[int, msgspec.Meta(ge=0, le=MAX_STEPS)]


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="step", tag=str.lower, kw_only=True):
    """One step; `a` is what it takes."""

    a: Result


class Dense(Step, frozen=True, kw_only=True):
    """A linear layer of a row, or of a map read as a row."""

    out: Size
    bias: bool = True

    def seen(self, shape: Shape, _result: Shape) -> tuple[int, int]:
        """Return how many numbers it looks at, and how many weights it has."""
        return math.prod(shape) + self.out, (math.prod(shape) + 1) * self.out


class Windows(Step, frozen=True, kw_only=True):
    """What looks at windows of a map; pads are above, left, below and right."""

    kernel: Pair
    stride: Pair = (1, 1)
    pads: Pads = (0, 0, 0, 0)

    def places(self, shape: Shape) -> Shape:
        """Return how many windows there are, along rows and columns."""
        up, left, down, right = self.pads
        sizes = (shape[1] + up + down, shape[2] + left + right)
        found = tuple(
            (size - window) // step + 1 for size, window, step in zip(sizes, self.kernel, self.stride, strict=True)
        )
        _require(
            min(found) >= 1 and all(pad < size for pad, size in zip(self.pads, self.kernel * 2, strict=True)),
            "a window",
        )
        return found

    def seen(self, shape: Shape, result: Shape) -> tuple[int, int]:
        """Return how many numbers it looks at, and how many weights it has, if any."""
        window = math.prod(self.kernel) * shape[0]
        return math.prod(result[1:]) * window + math.prod(result), (window + 1) * result[0] * isinstance(self, Conv)

    def indices(self, shape: Shape) -> Ints:
        """Return which places each window sees, [windows, places]; all beyond the map's border are the one after it."""
        (height, width), (down, across) = self.kernel, self.stride
        rows, columns = self.places(shape)
        row, column, y, x = np.ogrid[:rows, :columns, :height, :width]
        row, column = row * down + y - self.pads[0], column * across + x - self.pads[1]
        inside = (row >= 0) & (row < shape[1]) & (column >= 0) & (column < shape[2])
        return np.where(inside, row * shape[2] + column, shape[1] * shape[2]).reshape(rows * columns, height * width)


class Conv(Windows, frozen=True, kw_only=True):
    """A convolution."""

    out: Size
    bias: bool = True


class Pool(Windows, frozen=True, kw_only=True):
    """The largest, or the mean, of each window; `whole` counts what lies beyond the border as zeros of the mean."""

    of: Literal["max", "mean"]
    whole: bool = False


class Function(Step, frozen=True, kw_only=True):
    """A function of each number."""

    name: Literal["relu", "sigmoid", "tanh"]


class Add(Step, frozen=True, kw_only=True):
    """A sum of two results."""

    b: Result


class Choice(Step, frozen=True):
    """Where the largest number of a row is, the first of equals: the last step."""


AnyStep = Dense | Conv | Pool | Function | Add | Choice


class Net(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, dict=True):
    """A network: the shape of a sample, [features] or [channels, rows, columns], and its steps.

    Raises:
        ProofError: `proof.net-invalid`.
    """

    input: Annotated[tuple[Size, ...], msgspec.Meta(min_length=1, max_length=3)]
    steps: Annotated[tuple[AnyStep, ...], msgspec.Meta(min_length=1, max_length=MAX_STEPS)]

    @cached_property
    def shapes(self) -> list[Shape]:
        """The shape of the input, and of each step's result; of a class there is none."""
        _require(len(self.input) in {1, 3}, "an input that is neither a row nor a map")
        shapes: list[Shape] = [self.input]
        for number, step in enumerate(self.steps):
            _require(step.a <= number and (not isinstance(step, Add) or step.b <= number), "a result that comes later")
            _require(not isinstance(step, Choice) or number == len(self.steps) - 1, "more after a class")
            shapes.append(self._shape(step, shapes))
        _require(len(shapes[-1]) <= 1, "a map as a result")
        seen, weights = self._sizes(shapes)
        _require(max(seen, weights) <= MAX_SIZE, "more weights, or more work for a sample, than a small net has")
        return shapes

    @property
    def work(self) -> int:
        """How many numbers all steps look at, for one sample."""
        return self._sizes(self.shapes)[0]

    def _sizes(self, shapes: list[Shape]) -> tuple[int, int]:
        pairs = [
            step.seen(shapes[step.a], shape) if isinstance(step, Dense | Windows) else (math.prod(shape), 0)
            for step, shape in zip(self.steps, shapes[1:], strict=True)
        ]
        return math.prod(self.input) + sum(seen for seen, _ in pairs), sum(weights for _, weights in pairs)

    def _shape(self, step: AnyStep, shapes: list[Shape]) -> Shape:
        shape = shapes[step.a]
        match step:
            case Dense():
                return (step.out,)
            case Windows():
                _require(len(shape) == 3, "windows of a row")
                return (step.out if isinstance(step, Conv) else shape[0], *step.places(shape))
            case Add():
                _require(shapes[step.b] == shape, "a sum of different shapes")
                return shape
            case Choice():
                _require(len(shape) == 1, "a class of a map")
                return ()
            case Function():
                return shape

    def write(self, graph: Graph, n: int) -> Graph:
        """Write the program of n samples: what comes out is `class`, or `y`, which is exact where it is a layer's."""
        self.shapes  # noqa: B018 - raises
        fraction, _ = graph.place("x")
        results = [graph.input("x", (n, *lying(self.input)), fraction, bits=graph.word).measure("x")]
        for number in range(1, len(self.steps) + 1):
            results.append(self._step(number, results))
        return graph.output("class" if isinstance(self.steps[-1], Choice) else "y", results[-1])

    def _step(self, number: int, results: list[Tensor]) -> Tensor:
        step, name = self.steps[number - 1], f"steps.{number}"
        x, shape = results[step.a], self.shapes[step.a]
        match step:
            case Dense():
                fraction, bits = self._place(x, number)
                total = _dense(x, name, step.out, fraction)
            case Conv():
                fraction, bits = self._place(x, number)
                total = _conv(_patches(x, step, shape), name, step.out, fraction)
            case Pool(of="max"):
                return _largest(_patches(_narrow(x, name), step, shape, least=True))
            case Pool():
                return _mean(_patches(x, step, shape), step, shape, name)
            case Function():
                x = _narrow(x, name)
                return activation(x, step.name, None if step.name == "relu" else min(UNIT_FRACTION, x.graph.word - 2))
            case Add():
                return (x + results[step.b]).rescale(name)
            case Choice():
                return x.argmax(CLASS_BITS)
        total = biased(total, name, (step.out,)) if step.bias else total
        return total if self._last(number) else total.cut(fraction, bits).measure(name)

    def _place(self, x: Tensor, number: int) -> tuple[int, int]:
        return (x.fraction, 0) if self._last(number) else x.graph.place(f"steps.{number}")

    def _last(self, number: int) -> bool:
        """Return whether a step's result comes out, or where its largest is, so that nothing need be cut."""
        after = self.steps[number:]
        return not after or (isinstance(after[0], Choice) and after[0].a == number)


def lying(shape: Shape) -> Shape:
    """Return a sample's shape as programs have it."""
    return shape if len(shape) == 1 else (shape[1] * shape[2], shape[0])


def _dense(x: Tensor, name: str, out: int, fraction: int) -> Tensor:
    if len(x.shape) == 2:
        return product(x, name, (x.shape[1], out), fraction)
    n, places, channels = x.shape
    return product(x.permute(1, 0, 2), name, (places, channels, out), fraction).sum(0).reshape(n, out)


def _patches(x: Tensor, step: Windows, shape: Shape, *, least: bool = False) -> Tensor:
    """Return what windows see, [n, windows, places, channels]; beyond the border zero, or the least there can be."""
    indices = step.indices(shape)
    if (indices == shape[1] * shape[2]).any():
        n, _, channels = x.shape
        beyond = np.full((n, 1, channels), np.ldexp(float(x.value.low), -x.fraction) if least else 0.0)
        x = x.graph.concat([x, x.graph.constant(beyond, x.fraction)], 1)
    return x.gather(x.graph.constant(indices), 1)


def _conv(patches: Tensor, name: str, out: int, fraction: int) -> Tensor:
    n, windows, places, channels = patches.shape
    if channels == 1:
        return product(patches.reshape(n, windows, places), name, (places, out), fraction)
    sums = product(patches.permute(2, 0, 1, 3), name, (places, 1, channels, out), fraction).sum(0)
    return sums.reshape(n, windows, out)


def _largest(patches: Tensor) -> Tensor:
    """Return the largest along the windows' places: one of them, and how far it lies below the largest."""
    n, windows, _, channels = patches.shape
    first = patches.graph.constant(np.zeros(1))
    below = patches.gap(2, patches.fraction, patches.graph.word)
    return (patches.gather(first, 2) + below.gather(first, 2)).reshape(n, windows, channels)


def _mean(patches: Tensor, step: Pool, shape: Shape, name: str) -> Tensor:
    n, windows, places, channels = patches.shape
    total = patches.sum(2).reshape(n, windows, channels)
    inside = (step.indices(shape) < shape[1] * shape[2]).sum(1)
    counts = np.full(windows, places) if step.whole else inside
    bits = int(counts[0]).bit_length() - 1
    if (counts == 1 << bits).all():
        return total.scaled(total.fraction + bits)
    return (total * total.graph.constant(1 / counts[:, None], COUNT_BITS)).rescale(name)


def _narrow(x: Tensor, name: str) -> Tensor:
    """Cut to a word what is looked up or compared, if it is more."""
    return x if x.value.high - x.value.low < 1 << x.graph.word else x.rescale(f"{name}.in")


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ProofError("proof.net-invalid", f"the net asks for {what}")
