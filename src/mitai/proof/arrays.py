"""The arrays of a plan's nodes, as its prover needs them: integers, elements of F, and weighted sums over axes.

- Arrays are made when they are asked for, and never padded before something is summed: large ones are read once.
- Weights are read where they lie, as small as they are; an array in another order of axes is that of its operand.

Example:
    >>> arrays.summed(node, {0: equality(rows)}).shape  # the columns that are left, padded
    (1024, 2)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod

import numpy as np

from mitai.errors import ProofError
from mitai.proof import field, kernels
from mitai.proof.equations import Combination, Committed, Known, Matrices, Permuted, Plan, Product, Same, Total
from mitai.proof.field import Array, K
from mitai.proof.operation import Ints, Shape, exact_matmul, wide
from mitai.proof.operations import Gap
from mitai.proof.program import Run
from mitai.proof.verify.lookups import logs
from mitai.proof.verify.points import Axes, padded

Weights = Mapping[int, Array]  # for each axis that is summed, a weight for each place, (2^log, 2)
PART = 1 << 20  # elements that are summed at a time
MERGED = 1 << 10  # places of neighbouring axes whose weights are multiplied first


class Arrays:
    """Of one run.

    Args:
        plan: The program's equations.
        run: What was computed.
        known: Public arrays, by node.
    """

    def __init__(self, plan: Plan, run: Run, known: Mapping[int, Ints]) -> None:
        self._plan = plan
        self._ints: dict[int, Ints] = dict(known)
        self._of = {node: run.arrays[number] for number, node in enumerate(plan.results)}

    def ints(self, number: int) -> Ints:
        """Return a node's integers."""
        if number not in self._ints:
            done = self._of.get(number)
            self._ints[number] = self._make(number) if done is None else wide(done)
        return self._ints[number]

    def residues(self, number: int) -> Array:
        """Return a node as elements of F, padded and flat."""
        return padded(self.ints(number))

    def spread(self, number: int, shape: Shape) -> Array:
        """Return a node's elements of F, broadcast to a shape and over the padding of axes that it does not have."""
        own = self._plan.shape(number)
        full = [1 << log for log in logs(shape)]
        table = self.residues(number).reshape([1 << log for log in logs(own)])
        return np.ascontiguousarray(np.broadcast_to(table, full)).reshape(-1)

    def value(self, number: int, axes: Axes) -> K:
        """Return a node's multilinear extension at a point."""
        weights = {axis: kernels.equality(point) for axis, point in enumerate(axes)}
        return field.elements(self.summed(number, weights))[0]

    def summed(self, number: int, weights: Weights) -> Array:
        """Return the weighted sum over some axes of a node, in K; the others are padded, flat, and in their order."""
        node = self._plan.nodes[number]
        if isinstance(node, Permuted):
            kept = [axis for axis in range(len(node.shape)) if axis not in weights]
            own = {node.axes[axis]: table for axis, table in weights.items()}
            order = [sorted(node.axes[axis] for axis in kept).index(node.axes[axis]) for axis in kept]
            sizes = [1 << logs([size])[0] for axis, size in enumerate(self._plan.shape(node.a)) if axis not in own]
            table = self.summed(node.a, own).reshape(*sizes, 2)
            return np.ascontiguousarray(table.transpose(*order, len(sizes))).reshape(-1, 2)
        if isinstance(node, Same):
            axes = [axis for axis, size in enumerate(self._plan.shape(node.a)) if size > 1]
            longer = [axis for axis, size in enumerate(node.shape) if size > 1]
            return self.summed(node.a, {axes[longer.index(axis)]: weights[axis] for axis in longer if axis in weights})
        left = [1 << logs([size])[0] for axis, size in enumerate(node.shape) if axis not in weights]
        out = np.zeros((*left, 2), np.uint64)
        for within, part in self._parts(number):
            own = {axis: table[within[axis]] for axis, table in weights.items()}
            there = tuple(within[axis] for axis in range(len(node.shape)) if axis not in weights)
            out[there] = field.add(out[there], _summed(part, own))
        return out.reshape(-1, 2)

    def _parts(self, number: int) -> Iterator[tuple[tuple[slice, ...], Array]]:
        """Yield where a node's parts are in it, and the parts in F: weights are large, and lie in few bytes."""
        array = self._of[number] if number in self._of else self.ints(number)
        if not array.ndim:
            yield (), kernels.residues(array)
            return
        step = max(len(array) * PART // array.size, 1)
        for start in range(0, len(array), step):
            part = array[start : start + step]
            yield (slice(start, start + len(part)), *map(slice, part.shape[1:])), kernels.residues(part)

    def _make(self, number: int) -> Ints:
        node = self._plan.nodes[number]
        operands = [self.ints(operand) for operand in node.operands]
        match node:
            case Combination():
                total = np.asarray(node.constant, np.int64)
                for (_, factor), operand in zip(node.terms, operands, strict=True):
                    total = total + operand * factor
                return np.broadcast_to(total >> node.shift, node.shape)
            case Product():
                return operands[0] * operands[1]
            case Matrices():
                return exact_matmul(*operands)
            case Total():
                return np.asarray(operands[0].sum(node.axis, keepdims=True))
            case Committed():
                return self._hint(number, node)
            case Known():  # a mask; all else was given
                places, chosen = np.arange(node.shape[-1]), self.ints(self._plan.results[node.operation])[..., None]
                return (places == chosen if node.role == "chosen" else places < chosen).astype(np.int64)
            case _:
                raise ProofError("proof.program-invalid", "an array that no operation computes")

    def _hint(self, number: int, node: Committed) -> Ints:
        """Return the largest numbers of a gap, or a limb of what is checked."""
        operation = self._plan.program.operations[node.operation]
        if isinstance(operation, Gap) and node.role == "largest":
            return np.asarray(self.ints(self._plan.results[operation.a]).max(operation.axis, keepdims=True))
        limb = int(node.role.rpartition(".")[2])
        return (self.ints(self._plan.limbs[number]) >> (16 * limb)) & 0xFFFF


def _summed(x: Array, weights: Weights) -> Array:
    """Return the weighted sum of elements of F over some axes, in K, the last ones first."""
    out, shape, parts = x, list(x.shape), tuple[int, ...]()
    for first, last in reversed(_runs(shape, weights)):
        merged = weights[first]
        for axis in range(first + 1, last):
            merged = field.mul_k(merged[:, None], weights[axis][None]).reshape(-1, 2)
        out = kernels.contract(out.reshape(prod(shape[:first]), len(merged), prod(shape[last:]), *parts), merged)
        del shape[first:last]
        parts = (2,)
    return out.reshape(*shape, 2) if parts else field.lift(x)


def _runs(shape: Sequence[int], weights: Weights) -> list[tuple[int, int]]:
    """Return the axes that are summed, as runs of neighbours with few places: first, and the one after the last."""
    runs: list[tuple[int, int]] = []
    for axis in sorted(weights):
        if runs and runs[-1][1] == axis and prod(shape[runs[-1][0] : axis + 1]) <= MERGED:
            runs[-1] = (runs[-1][0], axis + 1)
        else:
            runs.append((axis, axis + 1))
    return runs
