"""Measuring how large a model's numbers become, by its own rough program (docs/spec/proof-programs.md, "Calibration").

A rough program is run in floating point, without roundings and without ranges.

Example:
    >>> reaches = calibrate(arrays, [sample(model, [5, 6, 7]), sample(model, [8, 9])])
    >>> reaches["layers.0.scores"]
    4
    >>> weights = quantise(model, reaches, arrays)
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np

from mitai.proof.graph import Graph, Real
from mitai.proof.operation import Ints
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

Write = Callable[[Graph], Graph]


class Model(Protocol):
    """A model of tokens."""

    def measure(self, graph: Graph, n: int) -> Graph:
        """Write the program of n tokens with all that is worth measuring."""


def sample(model: Model, tokens: Sequence[int]) -> tuple[Write, Mapping[str, Ints]]:
    """Return a sample of tokens to calibrate with."""
    return lambda graph: model.measure(graph, len(tokens)), {"tokens": np.array(tokens, np.int64)}


def quantise(model: Model, reaches: Mapping[str, int], arrays: Mapping[str, Real]) -> dict[str, Ints]:
    """Return a model's weights as its programs take them, of any length."""
    return model.measure(Graph(reaches), 1).quantised(arrays.items())


def weight_reaches(arrays: Mapping[str, Real]) -> dict[str, int]:
    """Return the reach of each weight."""
    return {name: _reach(_peak(array)) for name, array in arrays.items()}


def calibrate(arrays: Mapping[str, Real], samples: Iterable[tuple[Write, Mapping[str, Ints]]]) -> dict[str, int]:
    """Return the reaches of weights and of all measured results.

    Args:
        arrays: The model's weights.
        samples: How a sample's program is written into a graph, and its inputs.
    """
    reaches = weight_reaches(arrays)
    found: dict[str, int] = {}
    for write, inputs in samples:
        graph = write(Graph(reaches, rough=True))
        wanted = {tensor.number for tensor in graph.measured.values()}
        results = enumerate(estimate(graph, inputs, arrays))
        peaks = {number: _peak(result) for number, result in results if number in wanted}
        for name, tensor in graph.measured.items():
            peak = math.ldexp(peaks[tensor.number], -tensor.fraction)
            found[name] = max(found.get(name, -64), _reach(peak))
    return reaches | found


def estimate(graph: Graph, inputs: Mapping[str, Ints], arrays: Mapping[str, Real]) -> Iterator[Real]:
    """Yield each operation's result in floating point: what a program of unlimited precision would have."""
    last = {operand: number for number, one in enumerate(graph.operations) for operand in one.operands}
    results: dict[int, Real] = {}
    for number, operation in enumerate(graph.operations):
        match operation:
            case Input(name=name):
                result = inputs[name].astype(np.float64)
            case Weight(name=name):
                result = np.ldexp(arrays[name], graph.fractions[name])
            case _:
                operands = [results[operand] for operand in operation.operands]
                result = np.asarray(_estimate(operation, *operands), np.float64)
        for operand in {operand for operand in operation.operands if last[operand] == number}:
            del results[operand]
        if number in last:
            results[number] = result
        yield result


def _estimate(operation: AnyOperation, *operands: Real) -> Real | Ints:  # noqa: PLR0912 - one case for each operation
    match operation:
        case Constant():
            return operation.execute()
        case MatMul():
            return operands[0] @ operands[1]
        case Linear(terms=terms, constant=constant):
            factors = [factor for _, factor in terms]
            return functools.reduce(np.add, map(np.multiply, operands, factors)) + constant
        case Multiply():
            return operands[0] * operands[1]
        case Sum(axis=axis):
            return np.asarray(operands[0].sum(axis, keepdims=True))
        case Rescale(shift=shift):
            return operands[0] * 0.5**shift
        case Lookup(first=first):
            x, table = operands
            return table[np.clip(np.rint(x - first), 0, len(table) - 1).astype(np.int64)]
        case Divide():
            return operands[0] / operands[1]
        case RSqrt(numerator=numerator):
            return np.asarray(np.sqrt(numerator / operands[0]))
        case Gap(axis=axis, shift=shift):
            return np.asarray((operands[0].max(axis, keepdims=True) - operands[0]) * 0.5**shift)
        case Argmax():
            return np.asarray(operands[0].argmax(-1))
        case Gather(axis=axis):
            return np.take(operands[0], operands[1].astype(np.int64), axis)
        case Permute(axes=axes):
            return operands[0].transpose(axes)
        case Reshape(shape=shape):
            return operands[0].reshape(shape)
        case Concat(axis=axis):
            return np.concatenate(operands, axis)
        case _:
            raise TypeError(type(operation))


def _peak(array: Real) -> float:
    return max(float(array.max()), -float(array.min()))


def _reach(peak: float) -> int:
    return math.frexp(peak)[1]
