"""Layers of neural networks in integers (docs/spec/proof-programs.md, "Models").

Names are those of weights and of measured results; both have a reach in the calibration.

- Fractions are chosen so that a rescaling cuts a word off where it can: one look-up checks that.
- Heads are axes of their own, in weights as well, so that no array changes its shape.
- Tables are computed the same to the last bit on every machine, as a program's digest covers them.
- What is large and rare (norms of a row, sums of a softmax) may take more look-ups; what is many takes few.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from mitai.mpc import reproducible
from mitai.proof.graph import MOST_FRACTION, Graph, Real, Tensor
from mitai.proof.operation import MAX_TABLE, Shape

COARSE = 4  # how many bits of fraction less than a word weights may have
FINE = 15  # of fraction of weights, where it costs nothing
STREAM_FRACTION = 8  # at least, of what is added up from layer to layer, if there is room
NORM_FRACTION = 10  # of normalised numbers, at most
FACTOR_BITS = 17
MEAN_BITS = 16
SQUARE_BITS = 28
BIAS_BITS = 40
GAIN_BITS = 14
SHARE_FRACTION = 15  # of the numbers that a softmax adds up
RECIPROCAL_FRACTION = 17  # of what they are divided by
SCORE_BITS = 15  # with headroom, so that those without are less than FAR / 2
SCORE_FRACTION = 10
FAR = 1 << 15  # what is hidden lies so far below, in steps of scores

Mask = NDArray[np.bool_]


def written(layers: int, n: int, size: int) -> int:
    """Return about how many numbers a program of n tokens has in it: tables, masks and turns of all layers."""
    return layers * (4 * MAX_TABLE + n * (n + size))


def product(x: Tensor, name: str, shape: Shape, fraction: int) -> Tensor:
    """Return x times a weight, such that cutting to this fraction takes a word where possible."""
    places = x.graph.word + fraction - x.fraction
    if places < x.graph.word - COARSE:  # so there are two look-ups, and room for more
        places = FINE
    return x @ x.graph.weight(f"{name}.weight", shape, places)


def biased(x: Tensor, name: str, shape: Shape) -> Tensor:
    """Add a weight."""
    return x + x.graph.weight(f"{name}.bias", shape, x.fraction, BIAS_BITS)


def stream(graph: Graph, names: Iterable[str], width: int) -> int:
    """Return how much fraction numbers that are added up may have, so that a row's squares stay below 2^62."""
    if graph.rough:
        return MOST_FRACTION
    bits = math.frexp(sum(math.ldexp(1, graph.room(name)) for name in names))[1] + 2  # of them, less their mean
    return min(MOST_FRACTION, (61 - width.bit_length()) // 2 - bits)


def dense(x: Tensor, name: str, out: int, *, bias: bool = False, stream: int | None = None) -> Tensor:
    """Return a linear layer's result, with `out` numbers a row; what goes into a `stream` has its fraction at most."""
    fraction, bits = _place(x, name, stream)
    result = product(x, name, (x.shape[-1], out), fraction)
    if bias:
        result = biased(result, name, (out,))
    return result.cut(fraction, bits).measure(name)


def heads(x: Tensor, name: str, shape: Shape, fraction: int, *, bias: bool = False) -> Tensor:
    """Return a linear layer's result for each head, [groups, shared, n, size], not cut yet."""
    *outer, size = shape
    result = product(x, name, (*outer, x.shape[-1], size), fraction)
    return biased(result, name, (*outer, 1, size)) if bias else result


def norm(x: Tensor, name: str, eps: float, *, centred: bool = False, affine: bool = False) -> Tensor:
    """Normalise the last axis: RMS norm, or layer norm if it is centred; with its gain and bias if it is affine.

    The root is taken of few bits, one number a row, and the row is multiplied by it.
    """
    graph, width = x.graph, x.shape[-1]
    if centred:
        mean = x.sum(-1) * graph.constant(np.full(1, 1 / width), MEAN_BITS)
        x = x - mean.cut(x.fraction, x.value.reach.bit_length() + 1)
    square = (x * x).sum(-1) + eps * width
    place = graph.place(f"{name}.square", SQUARE_BITS, most=square.fraction, spare=1)
    square = square.cut(*place).measure(f"{name}.square")
    fraction, bits = graph.place(name, most=NORM_FRACTION)
    if not affine:  # no number is above √width
        fraction = max(fraction, graph.word - 1 - (width.bit_length() + 1) // 2)
    places, _ = graph.place(f"{name}.factor", FACTOR_BITS + 1, most=graph.word + fraction - x.fraction)
    factor = square.reciprocal_root(places, FACTOR_BITS, width).measure(f"{name}.factor")
    result = x * factor
    if affine:
        result = result * graph.weight(f"{name}.weight", (width,), GAIN_BITS)
    if affine and centred:
        result = biased(result, name, (width,))
    return result.cut(fraction, bits).measure(name)


def attention(queries: Tensor, keys: Tensor, values: Tensor, name: str, visible: Mask | None = None) -> Tensor:
    """Return what each place gets: softmax(queries · keys) · values, for scores that are scaled already.

    Args:
        queries: [groups, shared, n, size].
        keys: [groups, 1, m, size].
        values: The same.
        name: Of the layer; its scores are measured.
        visible: [n, m], which places each sees.
    """
    graph = queries.graph
    scores = (queries @ keys.swap()).measure(f"{name}.scores")
    fraction, _ = graph.place(f"{name}.scores", SCORE_BITS, most=SCORE_FRACTION)
    seen = None
    if visible is not None and not visible.all():
        seen = graph.constant(visible.astype(np.int64))
        far = graph.constant(np.where(visible, 0.0, -FAR * 0.5**fraction), scores.fraction)
        scores = scores * seen + far  # what is hidden is one number, whatever it was
    shares = scores.gap(-1, fraction).function(lambda gap: reproducible.exp(-_middle(gap, fraction)), SHARE_FRACTION)
    if seen is not None:
        shares = shares * seen
    total = shares.sum(-1).reciprocal(RECIPROCAL_FRACTION, RECIPROCAL_FRACTION + 1)
    fraction, bits = values.fraction, values.value.high.bit_length() + 1  # a mean is no larger than what it is of
    return ((shares @ values) * total).cut(fraction, bits)


def mix(x: Tensor, name: str, width: int, *, bias: bool = False, stream: int | None = None) -> Tensor:
    """Return the layer after attention [n, width]: a sum over heads [groups, shared, n, size]."""
    fraction, bits = _place(x, name, stream)
    groups, shared, n, size = x.shape
    total = product(x, name, (groups, shared, size, width), fraction).sum(0).sum(1).reshape(n, width)
    if bias:
        total = biased(total, name, (width,))
    return total.cut(fraction, bits).measure(name)


def _place(x: Tensor, name: str, stream: int | None) -> tuple[int, int]:
    if stream is None:
        return x.graph.place(name)
    return x.graph.place(name, most=stream, least=min(stream, STREAM_FRACTION))


def _middle(gap: Real, fraction: int) -> Real:
    """Return what a gap, rounded down, stands for: 0, or the middle of its step."""
    return np.where(gap == 0, 0, gap + 0.5 ** (fraction + 1))


def causal(n: int, past: int) -> Mask:
    """Return [n, past + n]: which places the last n see."""
    return np.arange(past + n)[None, :] <= past + np.arange(n)[:, None]


def activation(x: Tensor, name: str, fraction: int | None = None) -> Tensor:
    """Look up an activation, with as much fraction as its argument unless said otherwise."""
    return x.function(ACTIVATIONS[name], fraction)


def _silu(x: Real) -> Real:
    return np.asarray(x / (1 + reproducible.exp(-x)))


def _gelu(x: Real) -> Real:
    return np.asarray(x * (1 + reproducible.erf(x / math.sqrt(2))) / 2)


def _gelu_tanh(x: Real) -> Real:
    return np.asarray(x * (1 + reproducible.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))) / 2)


def _relu(x: Real) -> Real:
    return np.maximum(x, 0)


def _sigmoid(x: Real) -> Real:
    small = reproducible.exp(-np.abs(x))
    return np.asarray(np.where(x < 0, small, 1) / (1 + small))


ACTIVATIONS: dict[str, Callable[[Real], Real]] = {
    "silu": _silu,
    "gelu": _gelu,
    "gelu_new": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "relu": _relu,
    "sigmoid": _sigmoid,
    "tanh": reproducible.tanh,
}
