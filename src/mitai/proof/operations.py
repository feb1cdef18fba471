"""The operations of integer programs (docs/spec/proof-programs.md); `Operation` says what their methods do.

Example:
    >>> Rescale(a=0, shift=4, bits=8).execute(np.array([7, 8, -8, -9])).tolist()
    [0, 1, 0, -1]
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import msgspec
import numpy as np

from mitai.proof.operation import (
    LIMIT,
    MAX_AXES,
    MAX_TABLE,
    Axis,
    Bits,
    Ints,
    Lengths,
    Name,
    Number,
    Operand,
    Operation,
    Value,
    broadcast,
    exact_matmul,
    length_of,
    require,
    signed,
    wide,
    with_length,
    within,
)


class _Unary(Operation, frozen=True):
    a: Operand

    @property
    def operands(self) -> tuple[int, ...]:
        return (self.a,)


class _Binary(Operation, frozen=True):
    a: Operand
    b: Operand

    @property
    def operands(self) -> tuple[int, ...]:
        return (self.a, self.b)


# --- what comes from outside ---


class Input(Operation, frozen=True):
    """An array that is given for each run: known to the verifier, or committed."""

    name: Name
    shape: Lengths
    low: Number
    high: Number
    public: bool

    def infer(self, *operands: Value) -> Value:
        return Value(self.shape, self.low, self.high, self.public)


class Weight(Operation, frozen=True):
    """An array of the model's, committed once, of signed numbers of so many bits."""

    name: Name
    shape: Lengths
    bits: Bits

    def infer(self, *operands: Value) -> Value:
        return Value(self.shape, *signed(self.bits))


class Constant(Operation, frozen=True):
    """Numbers that are part of the program: little-endian, signed, `width` bytes each."""

    shape: Lengths
    width: Literal[1, 2, 4, 8]
    data: bytes

    def infer(self, *operands: Value) -> Value:
        require(
            len(self.data) == math.prod(self.shape) * self.width, "a constant that has not as many numbers as its shape"
        )
        numbers = self.execute()
        return Value(self.shape, int(numbers.min()), int(numbers.max()), True)

    def execute(self, *operands: Ints) -> Ints:
        return np.frombuffer(self.data, f"<i{self.width}").astype(np.int64).reshape(self.shape)


def constant_of(array: Ints) -> Constant:
    """Return an array as a constant, with the narrowest numbers that hold it."""
    ends = max(-int(array.min()) - 1, int(array.max()))
    widths: tuple[Literal[1, 2, 4, 8], ...] = (1, 2, 4, 8)
    width = next(width for width in widths if ends < 1 << (8 * width - 1))
    return Constant(shape=array.shape, width=width, data=array.astype(f"<i{width}").tobytes())


# --- sums and products ---


class MatMul(_Binary, frozen=True):
    """Products of matrices, the last two axes; those before go together by numpy's rules."""

    def infer(self, *operands: Value) -> Value:
        a, b = operands
        require(len(a.shape) >= 2 and len(b.shape) >= 2 and a.shape[-1] == b.shape[-2], "matrices that do not fit")
        batch = broadcast(a.shape[:-2], b.shape[:-2])
        bound = a.shape[-1] * a.reach * b.reach
        return Value((*batch, a.shape[-2], b.shape[-1]), -bound, bound)

    def execute(self, *operands: Ints) -> Ints:
        return exact_matmul(*operands)


class Linear(Operation, frozen=True):
    """constant + Σ coefficient · operand, broadcast by numpy's rules."""

    terms: Annotated[tuple[tuple[Operand, Number], ...], msgspec.Meta(min_length=1, max_length=64)]
    constant: Number = 0

    @property
    def operands(self) -> tuple[int, ...]:
        return tuple(operand for operand, _ in self.terms)

    def infer(self, *operands: Value) -> Value:
        shape = broadcast(*(value.shape for value in operands))
        ends = [
            sorted((factor * value.low, factor * value.high))
            for value, (_, factor) in zip(operands, self.terms, strict=True)
        ]
        low, high = (self.constant + sum(end[side] for end in ends) for side in (0, 1))
        return Value(shape, low, high)

    def execute(self, *operands: Ints) -> Ints:
        total = np.asarray(self.constant, np.int64)
        for array, (_, factor) in zip(operands, self.terms, strict=True):
            total = total + wide(array) * factor
        return total


class Multiply(_Binary, frozen=True):
    """Element by element, broadcast by numpy's rules."""

    def infer(self, *operands: Value) -> Value:
        a, b = operands
        corners = [x * y for x in (a.low, a.high) for y in (b.low, b.high)]
        low = 0 if self.a == self.b else min(corners)
        return Value(broadcast(a.shape, b.shape), low, max(corners))

    def execute(self, *operands: Ints) -> Ints:
        a, b = operands
        return wide(a) * wide(b)


class Sum(_Unary, frozen=True):
    """Along an axis, which stays with length one."""

    axis: Axis

    def infer(self, *operands: Value) -> Value:
        (a,) = operands
        n = length_of(a, self.axis)
        return Value(with_length(a.shape, self.axis, 1), n * a.low, n * a.high)

    def execute(self, *operands: Ints) -> Ints:
        return np.asarray(operands[0].sum(self.axis, dtype=np.int64, keepdims=True))


# --- what needs hints ---


class Rescale(_Unary, frozen=True):
    """⌊(x + 2^(shift−1)) / 2^shift⌋, a signed number of `bits`."""

    shift: Bits
    bits: Bits

    def infer(self, *operands: Value) -> Value:
        (a,) = operands
        require(self.shift + self.bits <= 62, "more than 62 bits before a rescaling")
        return Value(a.shape, *signed(self.bits))

    def execute(self, *operands: Ints) -> Ints:
        return within(self, (wide(operands[0]) + (1 << (self.shift - 1))) >> self.shift, *signed(self.bits))


class Lookup(_Unary, frozen=True):
    """table[x − first], for a table that is a constant; x must be within it."""

    table: Operand
    first: Number

    @property
    def operands(self) -> tuple[int, ...]:
        return (self.a, self.table)

    def infer(self, *operands: Value) -> Value:
        a, table = operands
        require(table.public and len(table.shape) == 1 and table.size <= MAX_TABLE, "a table that is none")
        return Value(a.shape, table.low, table.high)

    def execute(self, *operands: Ints) -> Ints:
        a, table = operands
        return table[within(self, wide(a) - self.first, 0, len(table) - 1)]


class Divide(_Binary, frozen=True):
    """⌊a / b⌋ for b ≥ 1, an unsigned number of `bits`."""

    bits: Bits

    def infer(self, *operands: Value) -> Value:
        a, b = operands
        require(b.high << self.bits <= LIMIT, "a quotient times a divisor that may be too large")
        return Value(broadcast(a.shape, b.shape), 0, (1 << self.bits) - 1)

    def execute(self, *operands: Ints) -> Ints:
        a, b = map(wide, operands)
        within(self, b, 1, LIMIT)
        return within(self, a // b, 0, (1 << self.bits) - 1)


class RSqrt(_Unary, frozen=True):
    """⌊√(numerator / a)⌋ for a ≥ 1, an unsigned number of `bits`."""

    numerator: Annotated[int, msgspec.Meta(ge=1, lt=LIMIT)]
    bits: Bits

    def infer(self, *operands: Value) -> Value:
        (a,) = operands
        require(1 <= self.numerator < LIMIT, "a numerator that is too large")
        require(a.reach << (2 * self.bits) <= LIMIT, "a square times a number that may be too large")
        return Value(a.shape, 0, (1 << self.bits) - 1)

    def execute(self, *operands: Ints) -> Ints:
        (a,) = operands
        within(self, a, 1, LIMIT)
        roots = [math.isqrt(self.numerator // int(number)) for number in a.flat]
        return within(self, np.array(roots, np.int64).reshape(a.shape), 0, (1 << self.bits) - 1)


class Gap(_Unary, frozen=True):
    """⌊(largest along the axis − x) / 2^shift⌋, an unsigned number of `bits`."""

    axis: Axis
    shift: Annotated[int, msgspec.Meta(ge=0, le=61)]
    bits: Bits

    def infer(self, *operands: Value) -> Value:
        (a,) = operands
        length_of(a, self.axis)
        require(self.shift >= 0, "a shift by less than nothing")
        require(self.shift + self.bits <= 62, "more than 62 bits before a rescaling")
        require(a.high - a.low <= LIMIT, "numbers that are too far apart")
        return Value(a.shape, 0, (1 << self.bits) - 1)

    def execute(self, *operands: Ints) -> Ints:
        a = wide(operands[0])
        return within(self, (a.max(self.axis, keepdims=True) - a) >> self.shift, 0, (1 << self.bits) - 1)


class Argmax(_Unary, frozen=True):
    """Where the largest number of the last axis is, the first of equals; all know the result.

    All numbers lie less than 2^bits below it.
    """

    bits: Bits

    def infer(self, *operands: Value) -> Value:
        (a,) = operands
        require(len(a.shape) >= 1 and a.high - a.low <= LIMIT, "numbers that are too far apart")
        return Value(a.shape[:-1], 0, a.shape[-1] - 1, True)

    def execute(self, *operands: Ints) -> Ints:
        a = wide(operands[0])
        within(self, a.max(-1, keepdims=True) - a, 0, (1 << self.bits) - 1)
        return np.asarray(a.argmax(-1))


# --- other places for the same numbers ---


class Gather(Operation, frozen=True):
    """Entries along an axis, at public indices, whose axes stand in the place of that axis."""

    a: Operand
    indices: Operand
    axis: Axis

    @property
    def operands(self) -> tuple[int, ...]:
        return (self.a, self.indices)

    def infer(self, *operands: Value) -> Value:
        a, indices = operands
        n = length_of(a, self.axis)
        require(indices.public and indices.low >= 0 and indices.high < n, "indices that are secret, or beyond the axis")
        return Value((*a.shape[: self.axis], *indices.shape, *a.shape[self.axis + 1 :]), a.low, a.high)

    def execute(self, *operands: Ints) -> Ints:
        a, indices = operands
        return np.take(a, indices, self.axis)


class Permute(_Unary, frozen=True):
    """Axes in another order."""

    axes: Annotated[tuple[Axis, ...], msgspec.Meta(max_length=MAX_AXES)]

    def infer(self, *operands: Value) -> Value:
        (a,) = operands
        require(sorted(self.axes) == list(range(len(a.shape))), "axes that are no permutation")
        return Value(tuple(a.shape[axis] for axis in self.axes), a.low, a.high)

    def execute(self, *operands: Ints) -> Ints:
        return operands[0].transpose(self.axes)


class Reshape(_Unary, frozen=True):
    """The same numbers with more or fewer axes of length one."""

    shape: Lengths

    def infer(self, *operands: Value) -> Value:
        (a,) = operands
        require(
            [n for n in a.shape if n > 1] == [n for n in self.shape if n > 1],
            "another shape but for axes of length one",
        )
        return Value(self.shape, a.low, a.high)

    def execute(self, *operands: Ints) -> Ints:
        return operands[0].reshape(self.shape)


class Concat(Operation, frozen=True):
    """Arrays one after the other along an axis."""

    parts: Annotated[tuple[Operand, ...], msgspec.Meta(min_length=1, max_length=1024)]
    axis: Axis

    @property
    def operands(self) -> tuple[int, ...]:
        return self.parts

    def infer(self, *operands: Value) -> Value:
        total = sum(length_of(value, self.axis) for value in operands)
        rests = {with_length(value.shape, self.axis, 1) for value in operands}
        require(len(rests) == 1, "arrays that do not fit together")
        low, high = min(value.low for value in operands), max(value.high for value in operands)
        return Value(with_length(operands[0].shape, self.axis, total), low, high)

    def execute(self, *operands: Ints) -> Ints:
        return np.concatenate(operands, self.axis)


AnyOperation = (
    Input | Weight | Constant | MatMul | Linear | Multiply | Sum | Rescale | Lookup | Divide | RSqrt | Gap | Argmax
    | Gather | Permute | Reshape | Concat
)  # fmt: skip
