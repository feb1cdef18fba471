"""Powers of numbers of unknown size (`docs/spec/mpc.md`, "Octaves"): two rounds, for few numbers.

1. Open the number under masks, with two fractions: each party now has its share of each piece's value ("Waves"), and of
   how two wide digits of the number's mask compare with each border ("Comparison").
2. Open these bits and values under masks. Whether a number is below a border is x XOR y · z of three bits, and the
   dealer has shared all products of their masks, and of these with the values' masks: the rest is local.

The result is the last piece's value and, for each border that the number is below, the difference of the pieces at it.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from mitai.mpc.engine import Secret
from mitai.mpc.ring import Ring
from mitai.mpc.spline import Octaves
from mitai.mpc.two import ladders
from mitai.mpc.two.bits import Planes, unpack
from mitai.mpc.two.core import Two
from mitai.mpc.two.masked import TOP, Bytes, Lift, Opened, Words, unmasked
from mitai.mpc.two.pieces import Line, octaves_of
from mitai.mpc.two.splines import Curves

PARTS = (0,), (1,), (2,), (1, 2), (0, 1), (0, 2), (0, 1, 2)  # whose masks are multiplied: x is 0, y 1, z 2
ONE, TWO = np.uint64(1), np.uint64(2)


def octaves(engine: Two, x: Secret, table: Octaves) -> Secret:
    """Return a power of each element, with the table's fraction (module)."""
    fractions, plan = octaves_of(table, x.fraction)
    engine.pads.note(plan.outline)
    n, count, digits = x.size, len(plan.borders), plan.digits
    sources = [x.parts[0].reshape(-1) >> np.uint64(x.fraction - fraction) for fraction in fractions]
    both = Opened.of(engine, np.concatenate(sources))
    opened = [both.part(k * n, n) for k in range(len(sources))]
    above, equal, signs = ladders.read(opened[0], plan.borders, top=digits.top, bits=digits.bits)
    lower, _, _ = ladders.read(opened[0], plan.borders, top=digits.top - digits.bits, bits=digits.bits)
    lowest, *curved = plan.pieces
    curves = Curves(engine, curved, opened)
    below = _Below(engine, count, n, curves.lift)
    if engine.offline:
        return engine.blank(x.shape, table.fraction)
    planes, hidden = below.hide(np.stack([above ^ signs, equal, lower])), curves.hidden()
    its_planes, its_hidden = engine.exchange(planes, hidden)
    c = hidden + its_hidden
    values = curves.lift.whole(c).reshape(count, n)
    lowest_bit, products = below.times(planes ^ its_planes, values, c.reshape(count, n))
    scales = np.array([[piece.shift] for piece in curved], np.uint64)
    after, before = products[:count] << scales, products[count:] << scales[:-1]
    total: Ring = (values[-1] << scales[-1]) - after.sum(0, dtype=np.uint64) + before.sum(0, dtype=np.uint64)
    assert isinstance(lowest.form, Line)  # noqa: S101  # as `octaves_of` has it
    total += np.uint64(lowest.form.constant) * lowest_bit
    return engine.secret(total.reshape(x.shape), table.fraction)


class _Below:
    """Whether numbers are below borders, times the values on both sides of these.

    Args:
        engine: This side.
        count: How many borders; value k is after border k, and before border k + 1.
        n: How many numbers.
        lift: The values' masks.
    """

    def __init__(self, engine: Two, count: int, n: int, lift: Lift) -> None:
        self._first, self._n = engine.role == 0, n
        self._borders, self._values = [*range(count), *range(1, count)], [*range(count), *range(count - 1)]
        self._masks = engine.pads.random((3, count, -(-n // 8)), np.uint8)

        @cache
        def bits() -> Bytes:
            masks = unpack(self._masks[0] ^ self._masks[1], n)
            return np.stack([np.bitwise_and.reduce(masks[list(part)]) for part in PARTS])

        def of_values() -> Words:
            return lift.mask().reshape(count, n)[self._values]

        given, shape = engine.pads.given, (len(PARTS), 2 * count - 1, n)
        self._bits = given((len(PARTS), count, n), np.uint64, lambda: bits().astype(np.uint64))
        self._rests = given(shape, np.uint64, lambda: bits()[:, self._borders].astype(np.uint64) * of_values())
        self._tops = given(shape, np.uint32, lambda: bits()[:, self._borders] * (of_values() >> TOP))

    def hide(self, planes: Planes) -> Planes:
        """Return the shares of x, y and z under their masks."""
        return planes ^ self._masks[0]

    def times(self, planes: Planes, values: Ring, c: Words) -> tuple[Ring, Ring]:
        """Return shares of the first border's bits, and of all borders' times the values after and before them.

        Args:
            planes: x, y and z, opened under their masks.
            values: The values, shared.
            c: The values, opened under their masks.
        """
        number, factors = _multiplied_out(unpack(planes, self._n).astype(np.uint64))
        lowest = (factors[:, 0] * self._bits[:, 0]).sum(0, dtype=np.uint64)
        if self._first:
            lowest += number[0]
        masked = unmasked(c[self._values], self._bits[:, self._borders], self._rests, self._tops)
        masked *= factors[:, self._borders]
        return lowest, number[self._borders] * values[self._values] + masked.sum(0, dtype=np.uint64)


def _multiplied_out(bits: Ring) -> tuple[Ring, Ring]:
    """Write x XOR y z, of bits that were opened under masks, as a number plus a sum of products of the masks.

    Returns:
        The number, and the factors of `PARTS`.
    """
    x, y, z = bits
    turned_x, turned_y, turned_z = ONE - TWO * bits  # a bit under a mask b is x + (1 - 2x) b
    both, parts = y * z, np.stack([turned_y * z, y * turned_z, turned_y * turned_z])  # of y z
    with_x = np.concatenate([(ONE - TWO * both)[None], np.negative(TWO * parts)])
    ordered = np.concatenate([with_x[:1], parts, with_x[1:]]) * turned_x  # as `PARTS`
    return x + turned_x * both, ordered
