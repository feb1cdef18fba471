"""Integer programs: what a proof says was computed, as a list of operations (docs/spec/proof-programs.md).

- A program is checked as a whole when it is made: shapes fit, and no number can exceed ±2^62.
- It has one encoding, and its digest names it: two programs of one digest are the same operations, tables and outputs.
- Running it is exact. A run ends in an error rather than in a number outside of its declared range.

Example:
    >>> import numpy as np
    >>> from mitai.proof.operations import Linear
    >>> double = Program((Input(name="x", shape=(2,), low=0, high=9, public=True), Linear(terms=((0, 2),))),
    ...                  (Output(name="y", operand=1, public=True),))
    >>> double.run({"x": np.array([3, 4])}, {}).outputs["y"].tolist()
    [6, 8]
    >>> Program.parse(double.encode()) == double
    True
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal

import msgspec

from mitai.errors import ParseError, ProofError
from mitai.proof.operation import LIMIT, MAX_AXES, MAX_SIZE, Ints, Name, Operand, Value
from mitai.proof.operations import AnyOperation, Input, Weight

LABEL = b"mitai proof program v1\0"
MAX_PROGRAM_BYTES = 1 << 26
MAX_OPERATIONS = 1 << 16


class Output(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A result: told to all if it is public, else kept as a commitment, for a later program's input."""

    name: Name
    operand: Operand
    public: bool


class _Encoded(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    v: Literal["mitai proof program v1"] = "mitai proof program v1"
    operations: Annotated[tuple[AnyOperation, ...], msgspec.Meta(max_length=MAX_OPERATIONS)]
    outputs: Annotated[tuple[Output, ...], msgspec.Meta(min_length=1, max_length=MAX_OPERATIONS)]


@dataclass(frozen=True)
class Run:
    """What a run computed: each operation's result, and the outputs by name."""

    arrays: tuple[Ints, ...]
    outputs: Mapping[str, Ints]


@dataclass(frozen=True)
class Program:
    """Operations in the order of computation, and which results come out.

    Raises:
        ProofError: `proof.program-invalid`.
    """

    operations: tuple[AnyOperation, ...]
    outputs: tuple[Output, ...]

    def __post_init__(self) -> None:
        _require_distinct([entry.name for entry in self.operations if isinstance(entry, Input)], "inputs")
        _require_distinct([entry.name for entry in self.operations if isinstance(entry, Weight)], "weights")
        _require_distinct([entry.name for entry in self.outputs], "outputs")
        if any(output.operand >= len(self.values) for output in self.outputs):
            raise ProofError("proof.program-invalid", "the program has an output that nothing computes")

    @cached_property
    def values(self) -> tuple[Value, ...]:
        """What is known of each operation's result."""
        values: list[Value] = []
        for operation in self.operations:
            values.append(inferred(operation, values))
        return tuple(values)

    @property
    def inputs(self) -> dict[str, Input]:
        """Inputs by name."""
        return {entry.name: entry for entry in self.operations if isinstance(entry, Input)}

    @property
    def weights(self) -> dict[str, Weight]:
        """Weights by name."""
        return {entry.name: entry for entry in self.operations if isinstance(entry, Weight)}

    def encode(self) -> bytes:
        """Return the one encoding."""
        return msgspec.msgpack.encode(_Encoded(operations=self.operations, outputs=self.outputs))

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 over label and encoding: the program's name."""
        return hashlib.sha256(LABEL + self.encode()).digest()

    @staticmethod
    def parse(data: bytes) -> Program:
        """Read an encoded program.

        Raises:
            ParseError: `proof.program-malformed`.
            ProofError: `proof.program-invalid`.
        """
        if len(data) > MAX_PROGRAM_BYTES:
            raise ParseError("proof.program-malformed", f"{len(data)} bytes are too many for a program")
        try:
            read = msgspec.msgpack.decode(data, type=_Encoded)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            raise ParseError("proof.program-malformed", "these bytes are no program") from None
        program = Program(read.operations, read.outputs)
        if program.encode() != data:
            raise ParseError("proof.program-malformed", "the program is not in its one encoding")
        return program

    def run(self, inputs: Mapping[str, Ints], weights: Mapping[str, Ints]) -> Run:
        """Compute.

        Raises:
            ProofError: `proof.input-mismatch`: an array is missing, left over, of another shape or out of its range.
                `proof.out-of-range`: numbers are larger than the program has room for.
        """
        arrays = tuple(self.results(inputs, weights))
        return Run(arrays, {output.name: arrays[output.operand] for output in self.outputs})

    def results(self, inputs: Mapping[str, Ints], weights: Mapping[str, Ints]) -> Iterator[Ints]:
        """Compute as `run`, and yield each operation's result; what no later operation takes is not kept."""
        _require_all(inputs, self.inputs, "input")
        _require_all(weights, self.weights, "weight")
        last = {operand: number for number, one in enumerate(self.operations) for operand in one.operands}
        arrays: dict[int, Ints] = {}
        for number, (operation, value) in enumerate(zip(self.operations, self.values, strict=True)):
            if isinstance(operation, Input | Weight):
                given = inputs if isinstance(operation, Input) else weights
                result = _declared(given[operation.name], value, operation.name)
            else:
                result = operation.execute(*(arrays[operand] for operand in operation.operands))
            for operand in set(operation.operands):
                if last[operand] == number:
                    del arrays[operand]
            if number in last:
                arrays[number] = result
            yield result


def inferred(operation: AnyOperation, values: Sequence[Value]) -> Value:
    """Return what is known of the result of an operation that follows these.

    Raises:
        ProofError: `proof.program-invalid`.
    """
    if any(operand >= len(values) for operand in operation.operands):
        raise ProofError("proof.program-invalid", "the program takes a result that comes later")
    value = operation.infer(*(values[operand] for operand in operation.operands))
    if value.reach > LIMIT or value.low > value.high:
        raise ProofError("proof.program-invalid", f"numbers of a {type(operation).__name__} may exceed 62 bits")
    if value.size > MAX_SIZE or len(value.shape) > MAX_AXES:
        raise ProofError("proof.program-invalid", f"a {type(operation).__name__} is too large")
    return value


def _require_distinct(names: Sequence[str], what: str) -> None:
    if len(set(names)) != len(names):
        raise ProofError("proof.program-invalid", f"the program has {what} of one name")


def _require_all(given: Mapping[str, Ints], declared: Mapping[str, Input] | Mapping[str, Weight], what: str) -> None:
    if given.keys() != declared.keys():
        raise ProofError(
            "proof.input-mismatch", f"{len(given)} {what}s were given, and {len(declared)} of other names are declared"
        )


def _declared(array: Ints, value: Value, name: str) -> Ints:
    fits = array.dtype.kind == "i" and array.shape == value.shape
    if not fits or array.min() < value.low or array.max() > value.high:
        raise ProofError("proof.input-mismatch", f"{name} is not an array of integers of its declared shape and range")
    return array
