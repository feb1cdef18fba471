"""Measuring how large a model's numbers become, by its own rough program (docs/spec/proof-programs.md, "Calibration").

Example:
    >>> reaches = calibrate(arrays, [sample(model, [5, 6, 7]), sample(model, [8, 9])])
    >>> reaches["layers.0.scores"]
    4
    >>> weights = quantise(model, reaches, arrays)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np

from mitai.proof.graph import Graph, Real
from mitai.proof.operation import Ints

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
    return {name: _reach(float(np.abs(array).max())) for name, array in arrays.items()}


def calibrate(arrays: Mapping[str, Real], samples: Iterable[tuple[Write, Mapping[str, Ints]]]) -> dict[str, int]:
    """Return the reaches of weights and of all measured results.

    Args:
        arrays: The model's weights.
        samples: How a sample's program is written into a graph, and its inputs.

    Raises:
        ProofError: `proof.out-of-range`: numbers are too large even for a rough program.
    """
    reaches = weight_reaches(arrays)
    found: dict[str, int] = {}
    weights: dict[str, Ints] = {}
    for write, inputs in samples:
        graph = write(Graph(reaches, rough=True))
        weights = weights or graph.quantised(arrays.items())
        run = graph.program().run(inputs, weights)
        for name, tensor in graph.measured.items():
            peak = math.ldexp(float(np.abs(run.arrays[tensor.number]).max()), -tensor.fraction)
            found[name] = max(found.get(name, -64), _reach(peak))
    return reaches | found


def _reach(peak: float) -> int:
    return math.frexp(peak)[1]
