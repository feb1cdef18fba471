"""The functions of transformers that are not linear, out of what every engine has (`docs/spec/mpc.md`, "Functions").

A function of one number is a spline. Quotients and roots of numbers of unknown size are powers over many octaves, which
keep more bits of fraction than the engine's, until a product uses them.

Invariants:

- What is secret decides no shape and no order.
- A function says for which numbers it holds. Those are chosen so that one feature of thousands, as trained models have
  them in their residual stream, does no harm to the others.

Example:
    >>> from mitai.mpc.clear import ClearEngine
    >>> x = ClearEngine().constant(np.array([[1.0, 2.0, 3.0]]))
    >>> x.engine.reveal(softmax(x)).round(3)
    array([[0.09 , 0.245, 0.665]])
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray

from mitai.mpc import reproducible
from mitai.mpc.engine import Secret
from mitai.mpc.ring import FRACTION_BITS, Real
from mitai.mpc.spline import Octaves, Spline

Mask = NDArray[np.bool_]

REACH = 128.0  # of `Engine.upper`
APART = 12.0  # more than that below the others, and a power is 0, where a bound is -124 or more
EMBEDDING_GAIN = 16  # of the first norm: what comes right out of a table of embeddings is small
QUAD_SHIFT = 5.0  # c of MPCFormer's (x + c)^2


def _gelu(x: Real) -> Real:
    value: Real = x * (1 + reproducible.erf(x / math.sqrt(2))) / 2
    return value


def _gelu_tanh(x: Real) -> Real:
    value: Real = x * (1 + reproducible.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * (x * x * x)))) / 2
    return value


GELU = Spline.fit(_gelu, low=-4, high=4, segments=256, degree=1, above=(0, 1))
GELU_TANH = Spline.fit(_gelu_tanh, low=-4, high=4, segments=256, degree=1, above=(0, 1))
SILU = Spline.fit(lambda x: x / (1 + reproducible.exp(-x)), low=-16, high=16, segments=128, degree=2, above=(0, 1))
TANH = Spline.fit(reproducible.tanh, low=-8, high=8, segments=128, degree=2, below=(-1, 0), above=(1, 0))
NOT_BELOW = Spline(-REACH, 1.0, np.array([[-REACH, 1.0]]), below=(-REACH, 0), above=(0, 1))
ACTIVATIONS = {"gelu": GELU, "gelu_new": GELU_TANH, "gelu_pytorch_tanh": GELU_TANH, "silu": SILU}


def read(x: Secret, fraction: int) -> Secret:
    """Return the same integers, read with another number of bits of fraction: x times a power of two, at no cost."""
    return x.map(lambda part: part, fraction)


def exact(x: Secret, y: Secret) -> Secret:
    """Multiply element by element and keep all bits of fraction; the product has to fit into the ring."""
    left = read(x, 0)
    right = left if y is x else read(y, 0)
    return read(x.engine.multiply(left, right), x.fraction + y.fraction)


def rms_norm(x: Secret, eps: float, gain: int = 1, scale: Secret | None = None) -> Secret:
    """Divide by the root of the mean square of the last axis (and `eps`), and multiply by a scale.

    For rows of n numbers whose squares, times gain^2, add up to less than 2^18 n (rounded down to a power of two, 2^30
    at most): one number of thousands does no harm. A root mean square below 0.03 / gain counts as that, about. With a
    scale, a result may be off by 2^-17 |x|. Where x comes out of a truncation, and the scale was masked for good, the
    first products take no round.
    """
    n = x.shape[-1]
    wide = x if scale is None else exact(x, scale)  # opens both factors; the square opens nothing more
    squares = exact(x, x).sum(-1, keepdims=True).times(gain**2) + n * eps * gain**2
    high = min(17 + n.bit_length(), 30)
    fraction = 28 if scale is None else FRACTION_BITS
    inverse = x.engine.octaves(squares, Octaves(-0.5, math.sqrt(n), high - 28, high, fraction))
    return x.engine.truncate(exact(wide, inverse).times(gain))


def softmax(scores: Secret, mask: Mask | None = None, hidden: Secret | None = None, reach: float = REACH) -> Secret:
    """Return exp(scores) divided by its sum over the last axis.

    Args:
        scores: Within ±`reach`; they may have more bits of fraction than the engine's.
        mask: Which scores count; public, of a shape that broadcasts to theirs.
        hidden: Bits that broadcast likewise, 1 where a score does not count. A row where none counts gives zeros.
        reach: A power of two, at least 128; beyond it, the bound takes two steps.
    """
    engine, n = scores.engine, scores.shape[-1]
    away = (2 - 1 / 64) * reach  # from all that counts to where `upper` sees nothing
    if hidden is not None:
        scores = scores - _scaled(hidden, away, scores.fraction)
    if mask is not None:
        scores = scores.times(mask.astype(np.uint64)) + np.where(mask, 0.0, -away)
    if scores.fraction > engine.fraction:
        scores = engine.truncate(scores)  # after the masks, so that what it opens is what `upper` looks at
    scores, least = _below_zero(scores, hidden, reach)
    gain = min(16 - n.bit_length(), 6)  # exp is computed times 2^gain, and the sum of the row is below 2^16
    powers = engine.spline(scores, exp_table(gain), within=(least, 0))
    if mask is not None:
        powers = powers.times(mask.astype(np.uint64))
    return _normalised(powers, gain - 6, gain + n.bit_length())


def quad_softmax(scores: Secret, mask: Mask | None = None, hidden: Secret | None = None) -> Secret:
    """Return (x + 5)^2 divided by its sum over the last axis: MPCFormer's 2Quad; arguments as of `softmax`.

    The sum of (x + 5)^2 over a row has to be below 2^20.
    """
    engine = scores.engine
    shifted = scores + QUAD_SHIFT
    if mask is not None:
        shifted = shifted.times(mask.astype(np.uint64))
    if hidden is not None:
        shifted = engine.multiply(1.0 - hidden, shifted)
    squares = exact(shifted, shifted)
    return _normalised(engine.truncate(read(squares, squares.fraction + 4)), -8, 16)


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
    total = powers.sum(-1, keepdims=True)
    inverse = powers.engine.octaves(total, Octaves(-1.0, 1.0, low, high, high + FRACTION_BITS))
    return powers.engine.truncate(exact(powers, inverse))


def _below_zero(scores: Secret, hidden: Secret | None, reach: float) -> tuple[Secret, float]:
    """Take a bound off each row: its largest number is then -4 to 0, and what is hidden is far below; and the least."""
    engine, least = scores.engine, -4 * reach - APART
    if reach > REACH:
        steps = round(math.log2(reach / REACH))
        narrow = engine.truncate(read(scores, scores.fraction + steps))
        scores = scores - engine.upper(narrow).times(1 << steps)  # the largest is -4 * 2^steps to 0
        if hidden is not None:
            scores = scores - _scaled(hidden, 2 * reach, scores.fraction)
        bound, least = engine.upper(engine.spline(scores, NOT_BELOW)), -8 * reach
    else:
        bound = engine.upper(scores)
    scores = scores - bound
    return scores if hidden is None else scores - _scaled(hidden, APART, scores.fraction), least


def _scaled(bits: Secret, factor: float, fraction: int) -> Secret:
    """Return bits times a public number, with so many bits of fraction."""
    return read(bits.times(round(factor) << fraction), fraction)


@functools.cache
def exp_table(gain: int) -> Spline:
    """Return exp(x) 2^gain for x of -16 to 0; 0 below."""
    return Spline.fit(
        lambda x: reproducible.exp(x) * 2.0**gain, low=-16, high=0, segments=256, degree=1, above=(2.0**gain, 0)
    )
