"""Small networks as integer programs: linear models, perceptrons, LeNet-5 (LeCun et al., 1998) with average pools.

Each writes a program into a graph for `n` samples at once, which are rows of a committed input `x`.

Example:
    >>> graph = perceptron(Graph(reaches, word=12), (4, 20, 20, 3), n=500)
    >>> [output.name for output in graph.program().outputs]
    ['class']
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from mitai.proof.graph import Graph, Tensor
from mitai.proof.models.blocks import activation, biased, product
from mitai.proof.operation import Ints

INPUT_FRACTION = 10
CLASS_BITS = 48
SIDE, KERNEL = 28, 5  # of LeNet-5's pictures and windows


def linear_model(graph: Graph, features: int, n: int) -> Graph:
    """Write a linear model with one output, such as least squares finds it: `y`, which is exact."""
    x = graph.input("x", (n, features), INPUT_FRACTION, public=False)
    return graph.output("y", biased(product(x, "layers.0", (features, 1), INPUT_FRACTION), "layers.0", (1,)))


def perceptron(graph: Graph, widths: tuple[int, ...], n: int) -> Graph:
    """Write a perceptron with ReLU between its layers: `class`, the place of the largest output."""
    x = graph.input("x", (n, widths[0]), INPUT_FRACTION, public=False)
    return _classified(x, widths, 0)


def lenet(graph: Graph, n: int) -> Graph:
    """Write LeNet-5 with ReLU: `class` of pictures [28 · 28]."""
    x = graph.input("x", (n, SIDE * SIDE), INPUT_FRACTION, public=False)
    x = graph.concat([x, graph.constant(np.zeros((n, 1)), INPUT_FRACTION)], 1)  # one more place, for the border
    patches = x.gather(graph.constant(windows(SIDE, 2)), 1)
    sums = product(patches, "layers.0", (KERNEL**2, 6), _place(graph, 0)[0])
    x = _pooled(biased(sums, "layers.0", (6,)), 0)
    patches = x.gather(graph.constant(windows(SIDE // 2, 0)), 1).permute(3, 0, 1, 2, 4)  # windows' places come first
    sums = product(patches, "layers.1", (KERNEL**2, 1, 1, 6, 16), _place(graph, 1)[0]).sum(0)
    x = _pooled(biased(sums.reshape(*sums.shape[1:]), "layers.1", (16,)), 1)
    sums = product(x.permute(1, 0, 2), "layers.2", (25, 16, 120), _place(graph, 2)[0]).sum(0).reshape(n, 120)
    x = _activated(biased(sums, "layers.2", (120,)), 2)
    return _classified(x, (120, 84, 10), 3)


def windows(side: int, border: int) -> Ints:
    """Return the places [windows / 4, 4, 25] that windows of a picture see; four of them are pooled.

    A picture's border is place side²; a picture has places row · side + column.
    """
    out = side + 2 * border - KERNEL + 1
    rows, columns, y, x = np.ogrid[:out, :out, :KERNEL, :KERNEL]
    row, column = rows + y - border, columns + x - border
    inside = (row >= 0) & (row < side) & (column >= 0) & (column < side)
    places = np.where(inside, row * side + column, side * side).reshape(out // 2, 2, out // 2, 2, KERNEL**2)
    return places.transpose(0, 2, 1, 3, 4).reshape(out * out // 4, 4, KERNEL**2)


def _classified(x: Tensor, widths: tuple[int, ...], first: int) -> Graph:
    last = len(widths) - 2
    for i, (before, after) in enumerate(pairwise(widths)):
        layer = first + i
        fraction = x.fraction if i == last else _place(x.graph, layer)[0]
        x = biased(product(x, f"layers.{layer}", (before, after), fraction), f"layers.{layer}", (after,))
        x = x if i == last else _activated(x, layer)
    return x.graph.output("class", x.argmax(CLASS_BITS))


def _pooled(sums: Tensor, layer: int) -> Tensor:
    """Return the means of fours [n, places, channels] of activated sums [n, places, 4, channels]."""
    x = _activated(sums, layer).sum(2)
    n, places, _, channels = x.shape
    return x.reshape(n, places, channels).scaled(x.fraction + 2)


def _place(graph: Graph, layer: int) -> tuple[int, int]:
    return graph.place(f"layers.{layer}")


def _activated(sums: Tensor, layer: int) -> Tensor:
    return activation(sums.cut(*_place(sums.graph, layer)).measure(f"layers.{layer}"), "relu")
