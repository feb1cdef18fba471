"""From a program to its equations: every operation of a program is a few lines here, and nothing anywhere else.

Prover and verifier derive the same equations from the program alone (docs/spec/proof-programs.md, "Hints and checks").

Example:
    >>> plan = lower(program)
    >>> [type(node).__name__ for node in plan.nodes]
    ['Known', 'Committed', 'Combination', ...]
"""

from __future__ import annotations

from collections.abc import Sequence

from mitai.errors import ProofError
from mitai.proof.equations import (
    Combination,
    Committed,
    Joined,
    Known,
    Listed,
    Matrices,
    Node,
    Permuted,
    Plan,
    Product,
    Same,
    Taken,
    Total,
    Zero,
)
from mitai.proof.operation import Shape, broadcast, with_length
from mitai.proof.operations import (
    AnyOperation,
    Argmax,
    Concat,
    Constant,
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
)
from mitai.proof.program import Program

LIMB_BITS = 16


def lower(program: Program) -> Plan:
    """Return a program's equations."""
    plan = Plan(program)
    covered = _covered(program)
    for number in range(len(program.operations)):
        plan.results.append(_Lowering(plan, number, covered=number in covered).result())
    return plan


def _covered(program: Program) -> set[int]:
    """Return the operations whose results some look-up keeps in their range."""
    covered = set()
    for operation in program.operations:
        if isinstance(operation, Lookup):
            result, table = program.values[operation.a], program.values[operation.table]
            if result.low <= operation.first and operation.first + table.size - 1 <= result.high:
                covered.add(operation.a)
    return covered


class _Lowering:
    """One operation."""

    def __init__(self, plan: Plan, number: int, *, covered: bool) -> None:
        self._plan, self._number, self._covered = plan, number, covered
        self._operation = plan.program.operations[number]
        self._shape = plan.program.values[number].shape

    def result(self) -> int:
        """Add its nodes and checks; return the number of its result."""
        results, operation = self._plan.results, self._operation
        match operation:
            case Rescale():
                return self._rescale(results[operation.a], operation)
            case Lookup():
                return self._lookup(results[operation.a], operation)
            case Divide():
                return self._divide(results[operation.a], results[operation.b], operation)
            case RSqrt():
                return self._rsqrt(results[operation.a], operation)
            case Gap():
                return self._gap(results[operation.a], operation)
            case Argmax():
                return self._argmax(results[operation.a], operation)
            case _:
                return self._plan.add(self._node(operation))

    def _node(self, operation: AnyOperation) -> Node:
        """Return the equation of an operation that needs no hint."""
        results, shape = self._plan.results, self._shape
        match operation:
            case Input(public=False):
                return Committed(shape, "input", self._number)
            case Weight():
                return Committed(shape, "weight", self._number)
            case Input() | Constant():
                return Known(shape, self._number)
            case Linear():
                terms = tuple((results[term], factor) for term, factor in operation.terms)
                return Combination(shape, terms, operation.constant)
            case Multiply():
                return Product(shape, results[operation.a], results[operation.b])
            case MatMul():
                return Matrices(shape, results[operation.a], results[operation.b])
            case Sum():
                return Total(shape, results[operation.a], operation.axis)
            case Permute():
                return Permuted(shape, results[operation.a], operation.axes)
            case Reshape():
                return Same(shape, results[operation.a])
            case Gather():
                return Taken(shape, results[operation.a], results[operation.indices], operation.axis)
            case Concat():
                return Joined(shape, tuple(results[part] for part in operation.parts), operation.axis)
            case _:
                raise ProofError("proof.program-invalid", "the program has an operation that has no proof")

    def _rescale(self, a: int, operation: Rescale) -> int:
        y = self._hint("result", self._shape)
        if not self._covered:
            self._in_range("result", self._combine([(y, 1)], 1 << (operation.bits - 1)), operation.bits)
        remainder = self._combine([(a, 1), (y, -(1 << operation.shift))], 1 << (operation.shift - 1))
        self._in_range("remainder", remainder, operation.shift)
        return y

    def _lookup(self, a: int, operation: Lookup) -> int:
        y = self._hint("result", self._shape)
        place = self._combine([(a, 1)], -operation.first)
        self._plan.listed.append(Listed((place, y), self._plan.results[operation.table]))
        return y

    def _divide(self, a: int, b: int, operation: Divide) -> int:
        q = self._hint("result", self._shape)
        if not self._covered:
            self._in_range("result", q, operation.bits)
        bits = self._plan.program.values[operation.b].high.bit_length()
        product = self._plan.add(Product(self._shape, q, b))
        remainder = self._combine([(a, 1), (product, -1)])
        self._in_range("remainder", remainder, bits)
        self._in_range("rest", self._combine([(b, 1), (remainder, -1)], -1), bits)
        return q

    def _rsqrt(self, a: int, operation: RSqrt) -> int:
        y = self._hint("result", self._shape)
        if not self._covered:
            self._in_range("result", y, operation.bits)
        square = self._plan.add(Product(self._shape, y, y))
        by_square, by_y = (self._plan.add(Product(self._shape, one, a)) for one in (square, y))
        below = self._combine([(by_square, -1)], operation.numerator)
        self._in_range("below", below, operation.numerator.bit_length())
        above = self._combine([(by_square, 1), (by_y, 2), (a, 1)], -operation.numerator - 1)
        most = self._plan.program.values[operation.a].reach << (2 * operation.bits)
        self._in_range("above", above, most.bit_length())
        return y

    def _gap(self, a: int, operation: Gap) -> int:
        largest = self._hint("largest", with_length(self._shape, operation.axis, 1))
        distance = self._combine([(largest, 1), (a, -1)])
        self._plan.zeros.append(Zero(distance, operation.axis))
        if not operation.shift:
            if not self._covered:
                self._in_range("distance", distance, operation.bits)
            return distance
        y = self._hint("result", self._shape)
        if not self._covered:
            self._in_range("result", y, operation.bits)
        remainder = self._combine([(distance, 1), (y, -(1 << operation.shift))])
        self._in_range("remainder", remainder, operation.shift)
        return y

    def _argmax(self, a: int, operation: Argmax) -> int:
        shape = self._plan.shape(a)
        chosen, before = (self._plan.add(Known(shape, self._number, role)) for role in ("chosen", "before"))
        largest = self._plan.add(Total((*shape[:-1], 1), self._plan.add(Product(shape, chosen, a)), len(shape) - 1))
        distance = self._combine([(largest, 1), (a, -1), (before, -1)])
        self._in_range("distance", distance, operation.bits)
        return self._plan.add(Known(self._shape, self._number))

    def _hint(self, role: str, shape: Shape) -> int:
        return self._plan.add(Committed(shape, "hint", self._number, role))

    def _combine(self, terms: Sequence[tuple[int, int]], constant: int = 0) -> int:
        shape = broadcast(*(self._plan.shape(term) for term, _ in terms))
        return self._plan.add(Combination(shape, tuple(terms), constant))

    def _in_range(self, role: str, node: int, bits: int) -> None:
        """Check that all numbers are in [0, 2^bits): in limbs of 16 bits, of which the last one is what is left."""
        shape, terms, limb = self._plan.shape(node), [(node, 1)], 0
        while bits - LIMB_BITS * limb > LIMB_BITS:
            low = self._hint(f"{role}.{limb}", shape)
            self._plan.limbs[low] = terms[0][0]
            self._plan.listed.append(Listed((low,), None, LIMB_BITS))
            terms.append((low, -(1 << (LIMB_BITS * limb))))
            limb += 1
        if limb:
            node = self._plan.add(Combination(shape, tuple(terms), shift=LIMB_BITS * limb))
        self._plan.listed.append(Listed((node,), None, bits - LIMB_BITS * limb))
