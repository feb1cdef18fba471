"""Piecewise functions of masked numbers (`docs/spec/mpc.md`, "Splines"): two or three rounds, about 9 bytes an element.

1. Open the number under a mask: each party now has its share of each piece's value ("Waves").
2. Compare with the borders between the pieces, for all borders at once ("Comparison"). Numbers of a narrow range take
   no round for that.
3. Open each piece's bit and value under masks: the products of bits and values, cut back to a number's fraction, are
   local from here, and their sum is the result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mitai.mpc.engine import Secret
from mitai.mpc.ring import FRACTION_BITS, Ring
from mitai.mpc.spline import Spline
from mitai.mpc.two import ladders, waves
from mitai.mpc.two.bits import Planes, unpack
from mitai.mpc.two.blank import blank
from mitai.mpc.two.compare import Signs
from mitai.mpc.two.core import Two
from mitai.mpc.two.masked import Bytes, Lift, Opened, Times, Words, select
from mitai.mpc.two.pieces import Line, Piece, Pieces, pieces_of
from mitai.mpc.two.waves import Wave

CUT = waves.FRACTION - FRACTION_BITS
PART = 1 << 14  # numbers whose waves are made at a time: in a cache, not in memory that is new


class _Line:
    """A line times its bit."""

    def __init__(self, engine: Two, line: Line, opened: Opened, x: Ring, bits: Callable[[], Bytes]) -> None:
        self._line, self._opened, self._x, self._first = line, opened, x, engine.role == 0
        self._times = Times(engine, opened.size, bits, opened.mask if line.slope else None)

    def value(self, bit: Ring) -> Ring:
        """Return a share of the line times the bit, which is opened under its mask."""
        constant, slope = (np.uint64(number % (1 << 64)) for number in (self._line.constant, self._line.slope))
        whole = np.full_like(bit, constant if self._first else 0)
        masked = constant * self._times.bit()
        if slope:
            whole += slope * self._x
            masked += slope * self._times.product(self._opened.c)
        return select(bit, whole, masked)


class Curves:
    """Waves' values, cut back to a number's fraction.

    Args:
        engine: This side.
        pieces: Waves, of as many frequencies.
        opened: The pieces' sources.
    """

    def __init__(self, engine: Two, pieces: Sequence[Piece], opened: Sequence[Opened]) -> None:
        self._waves = [piece.form for piece in pieces if isinstance(piece.form, Wave)]
        self._first = engine.role == 0
        self._opened = [opened[piece.source] for piece in pieces]
        size = opened[0].size
        parts = [self._part(engine, at, min(PART, size - at)) for at in range(0, max(size, 1), PART)]
        self._shares = parts[0] if engine.offline or len(parts) == 1 else np.concatenate(parts, axis=1)
        self.lift = Lift(engine, len(pieces) * size)

    def _part(self, engine: Two, start: int, size: int) -> Ring:
        """Return shares [pieces, size] of the values of some of the numbers."""
        opened = [numbers.part(start, size) for numbers in self._opened]

        def make() -> Ring:
            return waves.dealt(self._waves, np.stack([numbers.mask() for numbers in opened]))

        dealt = engine.pads.given((2 * self._waves[0].count, len(opened) * size), np.uint64, make)
        if engine.offline:
            return blank((len(opened), size))
        c = np.stack([numbers.c for numbers in opened])
        return waves.combine(self._waves, c, dealt, first=self._first).reshape(c.shape)

    def hidden(self) -> Words:
        """Return the shares of the values [pieces · n] under the masks of `lift`."""
        share = self._shares.reshape(-1)
        share >>= np.uint64(CUT)
        if self._first:
            share += np.uint64(1)  # on average, the shifts of both shares take as much away
        return self.lift.hide(share.astype(np.uint32))


def spline(engine: Two, x: Secret, table: Spline, within: tuple[float, float] | None) -> Secret:
    """Return a table's function of each element; x may be anything in the range, or in the window (module)."""
    return evaluated(engine, pieces_of(table, within), x)


def evaluated(engine: Two, plan: Pieces, x: Secret) -> Secret:
    """Return a function of x by pieces."""
    engine.pads.note(plan.outline)
    opened = Opened.of(engine, x.parts[0])
    below = _below(opened, plan)
    used = [k for k, piece in enumerate(plan.pieces) if piece.form != Line(0, 0)]
    masks = engine.pads.random((len(used), below.shape[1]), np.uint8)

    def bits(rows: list[int]) -> Callable[[], Bytes]:
        return lambda: unpack((masks[0] ^ masks[1])[rows], x.size).reshape(-1)

    forms = [plan.pieces[k].form for k in used]
    lines = [
        (j, _Line(engine, form, opened, x.parts[0].reshape(-1), bits([j])))
        for j, form in enumerate(forms)
        if isinstance(form, Line)
    ]
    curved = [j for j, form in enumerate(forms) if isinstance(form, Wave)]
    curves = Curves(engine, [plan.pieces[used[j]] for j in curved], [opened])
    times = Times(engine, len(curved) * x.size, bits(curved), curves.lift.mask)
    if engine.offline:
        return engine.blank(x.shape, engine.fraction)
    inside = _inside(below, first=engine.role == 0)[used] ^ masks[0]
    hidden = curves.hidden()
    its_bits, its_hidden = engine.exchange(inside, hidden)
    shown, c = unpack(inside ^ its_bits, x.size).astype(np.uint64), hidden + its_hidden
    values = select(shown[curved].reshape(-1), curves.lift.whole(c), times.product(c)).reshape(-1, x.size)
    total: Ring = values[0] if len(values) == 1 else values.sum(0, dtype=np.uint64)
    for j, line in lines:
        total += line.value(shown[j])
    return engine.secret(total.reshape(x.shape), engine.fraction)


def _below(opened: Opened, plan: Pieces) -> Planes:
    """Return a plane for each border of whether numbers are below it; no round where one digit is enough."""
    digits = plan.digits
    if digits.count > 1:
        return Signs(opened, sign_bit=digits.top, digits=digits.count).below(*plan.borders)
    above, _, signs = ladders.read(opened, plan.borders, top=digits.top, bits=digits.bits)
    below: Planes = above ^ signs
    return below


def _inside(below: Planes, *, first: bool) -> Planes:
    """Return planes of which piece an element is in, from whether it is below each border."""
    none, every = np.zeros_like(below[:1]), np.full_like(below[:1], 0xFF if first else 0)
    edges = np.concatenate([none, below, every])
    inside: Planes = edges[1:] ^ edges[:-1]
    return inside
