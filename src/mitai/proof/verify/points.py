"""Points by the axes of an array, and what a verifier computes at them by itself.

Arrays are padded with zeros to powers of two in all axes; a coordinate belongs to one bit of one axis.

Example:
    >>> by_axis([K(2), K(3), K(5)], (4, 1, 2))
    ((K(a=2, b=0), K(a=3, b=0)), (), (K(a=5, b=0),))
"""

from __future__ import annotations

from collections.abc import Sequence

from mitai.proof import field
from mitai.proof.field import Array, K, Point
from mitai.proof.operation import Ints, Shape
from mitai.proof.verify.lookups import inside, logs

Axes = tuple[tuple[K, ...], ...]


def flat(axes: Axes) -> list[K]:
    """Return a point's coordinates."""
    return [one for axis in axes for one in axis]


def by_axis(point: Point, shape: Sequence[int]) -> Axes:
    """Return a point by the axes of a shape."""
    out, at = [], 0
    for log in logs(shape):
        out.append(tuple(point[at : at + log]))
        at += log
    return tuple(out)


def restricted(axes: Axes, shape: Shape) -> Axes:
    """Return the point of an array that is broadcast: without the axes that it does not have."""
    own = axes[len(axes) - len(shape) :]
    return tuple(axis if size > 1 else () for axis, size in zip(own, shape, strict=True))


def outer_inside(shape: Shape, own: Shape, axes: Axes) -> K:
    """Return `inside` of the axes along which an array of shape `own` is broadcast to `shape`."""
    full = (*(1 for _ in range(len(shape) - len(own))), *own)
    spread = [axis for axis in range(len(shape)) if full[axis] == 1 and shape[axis] > 1]
    return inside([shape[axis] for axis in spread], [one for axis in spread for one in axes[axis]])


def padded(array: Ints) -> Array:
    """Return residues with all axes padded with zeros to powers of two, flat."""
    return field.padded(array)


def public_value(array: Ints, axes: Axes) -> K:
    """Return the multilinear extension of a public array, axis by axis."""
    table = padded(array)
    point = flat(axes)
    return field.evaluate(table, point)


def mask_value(chosen: Ints, axes: Axes, size: int, *, before: bool) -> K:
    """Return the multilinear extension of 1 at the chosen place of each row of `size`, or at all places before it.

    Never makes that array: its rows' weights go to the places that they chose.
    """
    weights = scattered(chosen, axes[:-1], size)
    if before:
        weights = field.sub(field.running(weights[::-1])[::-1], weights)
    return field.evaluate(weights, axes[-1])


def scattered(indices: Ints, where: Axes, size: int) -> Array:
    """Return for each place j of an axis Σ eq(where, i) over the i with indices_i = j, in K."""
    weights = field.equality(flat(where)).reshape(*(1 << log for log in logs(indices.shape)), 2)
    inner = weights[tuple(slice(length) for length in indices.shape)].reshape(-1, 2)
    return field.total_at(indices.reshape(-1), inner, 1 << logs([size])[0])
