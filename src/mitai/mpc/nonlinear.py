"""The functions of transformers that are not linear, out of what every engine has (`docs/spec/mpc.md`, "Functions").

A function of one number is a spline. Quotients and roots of numbers of unknown size are brought to one octave (or two)
first: the number is compared with all powers of two (or four) at once, the bits say by which power to multiply, and a
table does the rest. Such results keep more bits of fraction than the engine's, until a product uses them.

Invariants:

- What is secret decides no shape and no order. Few rounds count more than few comparisons: those are made in one batch.
- A function says for which numbers it holds. Those are chosen so that one feature of thousands, as trained models have
  them in their residual stream, does no harm to the others.

Example:
    >>> from mitai.mpc.clear import ClearEngine
    >>> x = ClearEngine().constant(np.array([[1.0, 2.0, 3.0]]))
    >>> x.engine.reveal(softmax(x)).round(3)
    array([[0.09 , 0.245, 0.665]])
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mitai.mpc.engine import Secret, concatenate
from mitai.mpc.ring import Real
from mitai.mpc.spline import Spline

Mask = NDArray[np.bool_]

REACH = 128.0  # of `Engine.upper`
QUAD_SHIFT = 5.0  # c of MPCFormer's (x + c)^2


_erf = np.vectorize(math.erf, otypes=[np.float64])


def _gelu(x: Real) -> Real:
    value: Real = x * (1 + _erf(x / math.sqrt(2))) / 2
    return value


def _gelu_tanh(x: Real) -> Real:
    value: Real = x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2
    return value


GELU = Spline.fit(_gelu, low=-4, high=4, segments=256, degree=1, above=(0, 1))
GELU_TANH = Spline.fit(_gelu_tanh, low=-4, high=4, segments=256, degree=1, above=(0, 1))
SILU = Spline.fit(lambda x: x / (1 + np.exp(-x)), low=-16, high=16, segments=128, degree=2, above=(0, 1))
TANH = Spline.fit(np.tanh, low=-8, high=8, segments=128, degree=2, below=(-1, 0), above=(1, 0))
ACTIVATIONS = {"gelu": GELU, "gelu_new": GELU_TANH, "gelu_pytorch_tanh": GELU_TANH, "silu": SILU}
INVERSE = Spline.fit(lambda x: 1 / x, low=1, high=2, segments=256, degree=1, below=(1, 0), above=(0.5, 0))


def read(x: Secret, fraction: int) -> Secret:
    """Return the same integers, read with another number of bits of fraction: x times a power of two, at no cost."""
    return x.map(lambda part: part, fraction)


def exact(x: Secret, y: Secret) -> Secret:
    """Multiply element by element and keep all bits of fraction; the product has to fit into the ring."""
    left = read(x, 0)
    right = left if y is x else read(y, 0)
    return read(x.engine.multiply(left, right), x.fraction + y.fraction)


def reciprocal(x: Secret, low: int, high: int) -> Secret:
    """Return 1/x with high - 1 more bits of fraction, to a relative error of 2^-14.

    For x of the engine's fraction, 2^low <= x < 2^high <= 2^14. What is smaller counts as 2^low, about.
    """
    engine = x.engine
    bits = _less_than(x, [2.0**octave for octave in range(low + 1, high)])
    power = _chosen(bits, [1 << (high - 1 - low - octave) for octave in range(high - low)])
    mantissa = engine.truncate(read(exact(x, power), x.fraction + high - 1))  # 1 to 2
    inverse = engine.spline(mantissa, INVERSE)
    return read(exact(inverse, power), inverse.fraction + high - 1)


def inverse_root_mean(squares: Secret, n: int) -> Secret:
    """Return 1/sqrt(squares / n), with about 24 bits of fraction, to a relative error of 2^-13.

    For a sum of n squares with twice the engine's fraction, as `exact` gives it; below 2^(19 + log2 n) for n < 2048 and
    below 2^30 for more. The error grows where the mean of the squares is below 2^-11 (0.02^2).
    """
    engine = squares.engine
    spare = max(11 - n.bit_length() + 1, 0)  # bits of fraction of `coarse`, which has to be below 2^30 as an integer
    coarse = engine.truncate(squares, spare)
    bits = _less_than(coarse, [4.0**c / 2**spare for c in range(1, 15)])
    # Where the sum is small its own bits are needed, and where it is large those of `coarse` are enough.
    small = _chosen(bits, [4 ** (7 - c) if c <= 7 else 0 for c in range(15)])
    large = _chosen(bits, [4 ** (14 - c) << (18 - spare) if c > 7 else 0 for c in range(15)])
    both = exact(concatenate((read(squares, 0), read(coarse, 0)), -1), concatenate((small, large), -1))
    mantissa = engine.truncate(read(both.sum(-1, keepdims=True), 46 - spare))  # 1 to 4
    shift, table = _inverse_root_table(n, spare)
    root = engine.spline(mantissa, table)
    power = _chosen(bits, [2 ** (14 - c) for c in range(15)])
    return read(exact(root, power), root.fraction + 14 - shift)


def rms_norm(x: Secret, eps: float) -> Secret:
    """Divide by the root of the last axis' mean square; of all numbers within the window, as `inverse_root_mean`."""
    n = x.shape[-1]
    squares = exact(x, x).sum(-1, keepdims=True) + n * eps
    return x.engine.truncate(exact(x, inverse_root_mean(squares, n)))


def layer_norm(x: Secret, eps: float) -> Secret:
    """Take the mean of the last axis off and divide by the standard deviation, as `rms_norm`."""
    return rms_norm(x - mean(x), eps)


def mean(x: Secret) -> Secret:
    """Return the mean of the last axis (kept, of length 1)."""
    share = round(2**30 / x.shape[-1])
    return x.engine.truncate(read(x.sum(-1, keepdims=True).times(share), x.fraction + 30))


def softmax(scores: Secret, mask: Mask | None = None, hidden: Secret | None = None, reach: float = REACH) -> Secret:
    """Return exp(scores) divided by its sum over the last axis.

    Args:
        scores: Within ±`reach`.
        mask: Which scores count; public, of a shape that broadcasts to theirs.
        hidden: Bits of the scores' shape, 1 where one does not count. A row where none counts gives zeros.
        reach: A power of two, at least 128; beyond it takes twice the rounds.
    """
    engine, n = scores.engine, scores.shape[-1]
    if hidden is not None:
        off = read(hidden.times(round(4 * reach) << scores.fraction), scores.fraction)
        scores = scores - off
    if mask is not None:
        scores = scores.times(mask.astype(np.uint64)) + np.where(mask, 0.0, -4 * reach)
    scores = scores - _upper(scores, reach).broadcast_to(scores.shape)  # the largest is -4 to 0
    gain = min(13 - n.bit_length(), 6)  # exp is computed times 2^gain, and the sum of the row is below 2^13
    powers = engine.spline(scores, exp_table(gain))
    if mask is not None:
        powers = powers.times(mask.astype(np.uint64))
    return _normalised(powers, gain - 6, gain + n.bit_length())


def quad_softmax(scores: Secret, mask: Mask | None = None, hidden: Secret | None = None) -> Secret:
    """Return (x + 5)^2 divided by its sum over the last axis: MPCFormer's 2Quad; arguments as of `softmax`.

    The sum of (x + 5)^2 over a row has to be below 2^18.
    """
    engine = scores.engine
    shifted = scores + QUAD_SHIFT
    if mask is not None:
        shifted = shifted.times(mask.astype(np.uint64))
    if hidden is not None:
        shifted = engine.multiply(1.0 - hidden, shifted)
    squares = exact(shifted, shifted)
    return _normalised(engine.truncate(read(squares, squares.fraction + 4)), -8, 14)


def activation(x: Secret, name: str, approximation: str = "exact") -> Secret:
    """Return an activation by the name that Hugging Face has for it, or MPCFormer's Quad instead."""
    return quad_gelu(x) if approximation == "mpcformer" else x.engine.spline(x, ACTIVATIONS[name])


def quad_gelu(x: Secret) -> Secret:
    """Return x^2/8 + x/4 + 1/2: MPCFormer's Quad, for |x| < 256."""
    square = exact(x, x)
    fraction = square.fraction + 3
    return x.engine.truncate(read(square, fraction) + read(x.times(1 << (fraction - x.fraction - 2)), fraction) + 0.5)


def _normalised(powers: Secret, low: int, high: int) -> Secret:
    """Divide by the sum of the last axis, which is 2^low to 2^high."""
    inverse = reciprocal(powers.sum(-1, keepdims=True), low, high)
    return powers.engine.truncate(exact(powers, inverse))


def _upper(scores: Secret, reach: float) -> Secret:
    """Return a number at most 4 above the last axis' maximum, in two steps where it may be beyond ±128."""
    engine = scores.engine
    if reach <= REACH:
        return engine.upper(scores)
    wide = round(math.log2(reach / REACH))
    narrowed = engine.truncate(read(scores, scores.fraction + wide))
    first = engine.upper(narrowed).times(1 << wide)
    return first + engine.upper(scores - first.broadcast_to(scores.shape))


def _less_than(x: Secret, thresholds: Sequence[float]) -> Secret:
    """Return for x [..., 1] the bits [..., thresholds] of x < threshold."""
    wide = x.broadcast_to((*x.shape[:-1], len(thresholds)))
    return x.engine.less(wide - np.array(thresholds), 0.0)


def _chosen(bits: Secret, values: Sequence[int]) -> Secret:
    """Return [..., 1] values[i], where i of the (rising) thresholds are not above."""
    steps = np.array([one - other for one, other in itertools.pairwise(values)], np.int64)
    return bits.times(steps.view(np.uint64)).sum(-1, keepdims=True) + float(values[-1])


def exp_table(gain: int) -> Spline:
    """Return exp(x) 2^gain for x of -16 to 0; 0 below."""
    return Spline.fit(lambda x: np.exp(x) * 2.0**gain, low=-16, high=0, segments=256, degree=1, above=(2.0**gain, 0))


def _inverse_root_table(n: int, spare: int) -> tuple[int, Spline]:
    """Return a shift and the table of 2^-shift sqrt(n 2^spare) / sqrt(v), which is 0.5 to 2 for v of 1 to 4."""
    size = math.sqrt(n * 2**spare)
    shift = math.floor(math.log2(size))
    factor = size / 2**shift
    return shift, Spline.fit(
        lambda v: factor / np.sqrt(v), low=0, high=4, segments=256, degree=1, above=(factor / 2, 0)
    )
