"""What all operations of integer programs have: operands, shapes and bounds, exact arithmetic.

- `infer` follows shapes and bounds without data. Nothing may exceed ±2^62, so that nothing wraps, neither in int64 nor
  in the field of the proof, when inputs and weights are what they are declared to be.
- `execute` computes exactly. A result outside of its declared range is an error, never rounded or clipped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from mitai.errors import ProofError

LIMIT = 1 << 62
MAX_SIZE = 1 << 34
MAX_AXES = 6
MAX_TABLE = 1 << 16

Ints = NDArray[np.signedinteger]
Shape = tuple[int, ...]
Operand = Annotated[int, msgspec.Meta(ge=0, lt=1 << 16)]
Axis = Annotated[int, msgspec.Meta(ge=0, lt=MAX_AXES)]
Bits = Annotated[int, msgspec.Meta(ge=1, le=62)]
Length = Annotated[int, msgspec.Meta(ge=1, le=1 << 28)]
Lengths = Annotated[tuple[Length, ...], msgspec.Meta(max_length=MAX_AXES)]
Number = Annotated[int, msgspec.Meta(ge=-LIMIT, le=LIMIT)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=120, pattern=r"^[a-z0-9_.-]+$")]


@dataclass(frozen=True)
class Value:
    """What is known of an array before it is computed: its shape, that low ≤ x ≤ high, and whether all know it."""

    shape: Shape
    low: int
    high: int
    public: bool = False

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)

    @property
    def reach(self) -> int:
        """The largest absolute value."""
        return max(abs(self.low), abs(self.high))


class Operation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag=str.lower, kw_only=True):
    """One step of a program."""

    @property
    def operands(self) -> tuple[int, ...]:
        """Numbers of the operations whose results it takes."""
        return ()

    def infer(self, *operands: Value) -> Value:
        """Return what is known of its result, or raise `ProofError` if operands do not fit."""
        raise NotImplementedError

    def execute(self, *operands: Ints) -> Ints:
        """Compute the result."""
        raise NotImplementedError


def exact_matmul(a: Ints, b: Ints) -> Ints:
    """Multiply matrices of integers by floating-point kernels, cut into halves until all sums are exact: below 2^53."""
    reach_a, reach_b = _reach(a), _reach(b)
    if a.shape[-1] * reach_a * reach_b < 1 << 53:
        product = a.astype(np.float64) @ b.astype(np.float64)
        return product.astype(np.int64)
    half = np.int64(max(reach_a, reach_b).bit_length() // 2)
    if reach_a >= reach_b:
        high, low = exact_matmul(a >> half, b), exact_matmul(a & ((1 << half) - 1), b)
    else:
        high, low = exact_matmul(a, b >> half), exact_matmul(a, b & ((1 << half) - 1))
    return (high << half) + low


def _reach(a: Ints) -> int:
    return max(abs(int(a.min())), abs(int(a.max())))


def wide(a: Ints) -> Ints:
    """Return the same numbers as int64: those of weights and inputs may be narrower."""
    return a.astype(np.int64, copy=False)


def signed(bits: int) -> tuple[int, int]:
    """Return the smallest and the largest signed number of so many bits."""
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


def within(operation: Operation, array: Ints, low: int, high: int) -> Ints:
    """Return an array if all of it is in this range.

    Raises:
        ProofError: `proof.out-of-range`.
    """
    if array.min() < low or array.max() > high:
        kind = type(operation).__name__
        raise ProofError(
            "proof.out-of-range",
            f"numbers of a {kind} are beyond the range that the program has for them",
            hint="calibrate the model with inputs like this one",
        )
    return array


def require(holds: bool, what: str) -> None:
    """Refuse a program unless this holds."""
    if not holds:
        raise ProofError("proof.program-invalid", f"the program asks for {what}")


def length_of(value: Value, axis: int) -> int:
    """Return an axis's length, if there is such an axis."""
    require(axis < len(value.shape), "an axis that is not there")
    return value.shape[axis]


def with_length(shape: Shape, axis: int, length: int) -> Shape:
    """Return a shape with another length of one axis."""
    return (*shape[:axis], length, *shape[axis + 1 :])


def broadcast(*shapes: Shape) -> Shape:
    """Return the shape that arrays have together, by numpy's rules."""
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        raise ProofError("proof.program-invalid", "the program asks for shapes that do not fit") from None
