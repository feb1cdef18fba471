"""Piecewise functions of masked numbers (`docs/spec/mpc.md`, "Splines"): three rounds, about 9 bytes an element.

1. Open the number under a mask: each party now has its share of each piece's value ("Waves").
2. Compare with the borders between the pieces, for all borders at once ("Comparison").
3. Open each piece's bit and value under masks: the products of bits and values, cut back to a number's fraction, are
   local from here, and their sum is the result.

A table is taken as three pieces, the line below, one wave, and the line above, where a wave fits all its polynomials;
the borders are then up to an eighth wide, where either side's formula may be used. A table that is less smooth is cut
in halves until waves fit, and its borders are exact to 2^-15.

A power over many octaves is a table with a piece for each two of them. Its pieces are brought to the same scale by
public powers of two when they are whole again, so that each is exact to its own last bits.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from mitai.mpc.engine import Secret
from mitai.mpc.ring import FRACTION_BITS, WINDOW_BITS, Real, Ring
from mitai.mpc.spline import Octaves, Spline
from mitai.mpc.two import waves
from mitai.mpc.two.bits import Planes, unpack
from mitai.mpc.two.blank import blank
from mitai.mpc.two.compare import DIGIT_BITS, Signs
from mitai.mpc.two.core import Two
from mitai.mpc.two.masked import Bytes, Lift, Opened, Times, Words, select
from mitai.mpc.two.waves import Wave

SIGN_BIT = 31
COARSE, EXACT = 3, 5  # digits of a comparison
CUT = waves.FRACTION - FRACTION_BITS
UNIT = 2.0**-FRACTION_BITS
PART = 1 << 14  # numbers whose waves are made at a time: in a cache, not in memory that is new
LARGEST_BITS = 28  # of a piece's value, in units of its last place
FINER_BITS = 14  # between the two fractions with which the numbers of many octaves are opened
LEAST_BITS = 2  # the first octave begins at so many bits of what is compared
BEFORE, AFTER = 2, 1  # units in which a number may be taken with the octave after it (by the comparison) or before it


@dataclass(frozen=True)
class Line:
    """constant + slope · x, in units of a number's last place."""

    constant: int
    slope: int


@dataclass(frozen=True, eq=False)
class Piece:
    """A part of a function.

    Attributes:
        form: Its formula.
        source: Of which numbers: 0 for those that are compared, 1 for their finer twins.
        shift: By which power of two the formula's value is multiplied.
    """

    form: Wave | Line
    source: int = 0
    shift: int = 0


@dataclass(frozen=True, eq=False)
class Pieces:
    """A function by pieces.

    Attributes:
        borders: Where one piece ends and the next begins, ascending, in units of a number's last place.
        pieces: One more than borders; all waves have as many frequencies.
        digits: Of the comparisons with borders.
    """

    borders: tuple[int, ...]
    pieces: tuple[Piece, ...]
    digits: int


@functools.lru_cache(maxsize=64)
def pieces_of(table: Spline) -> Pieces:
    """Return how a table is computed; the same at all sides."""
    below, above = Piece(_line(table.below)), Piece(_line(table.above))
    first, end = _bent(table)
    low, high, width = table.low + first * table.step, table.low + end * table.step, blur(COARSE)
    wave = waves.fit(table.source or table.polynomials, low - width, high + width)
    if wave is not None:
        return Pieces((_units(low), _units(high + width)), (below, Piece(wave), above), COARSE)
    parts = _parts(table, 0, table.segments)
    borders = [table.low, *(table.low + end * table.step for end, _ in parts)]
    inner = _alike([Piece(wave) for _, wave in parts])
    return Pieces(tuple(map(_units, borders)), (below, *inner, above), EXACT)


@functools.lru_cache(maxsize=64)
def octaves_of(table: Octaves, fraction: int) -> tuple[tuple[int, ...], Pieces]:
    """Return how a power of numbers with this fraction is computed: two octaves in a piece.

    Returns:
        With which fractions the numbers are opened, the one that is compared first, and the pieces.
    """
    coarse = min(fraction, WINDOW_BITS - 1 - table.high)
    fractions = (coarse,) if coarse == fraction else (coarse, min(fraction, coarse + FINER_BITS))
    if table.low + coarse < LEAST_BITS or table.low >= table.high:
        raise ValueError(f"a power from 2^{table.low} to 2^{table.high} of numbers with {fraction} bits of fraction")
    ends = [*range(table.low, table.high, 2), table.high]
    inner = _alike([_octaves(table, fractions, low, high) for low, high in itertools.pairwise(ends)])
    below = Piece(Line(int(table(2.0**table.low) * 2.0**table.fraction), 0))
    borders = tuple(1 << end + coarse for end in ends[:-1])
    return fractions, Pieces(borders, (below, *inner), EXACT)


def _octaves(table: Octaves, fractions: tuple[int, ...], low: int, high: int) -> Piece:
    """Return the piece for [2^low, 2^high)."""
    source = max(k for k, fraction in enumerate(fractions) if k == 0 or high + fraction < WINDOW_BITS)
    scale = 2.0 ** (FRACTION_BITS - fractions[source])  # of what is opened, which is read with the engine's fraction
    largest = table.factor * max(2.0 ** (low * table.exponent), 2.0 ** (high * table.exponent)) * 2.0**table.fraction
    shift = max(0, math.ceil(math.log2(largest)) - LARGEST_BITS)

    def values(u: Real) -> Real:
        return np.asarray(
            table.factor * (u * scale) ** table.exponent * 2.0 ** (table.fraction - FRACTION_BITS - shift)
        )

    unit = 2.0 ** -fractions[0]
    wave = waves.fit(values, (2.0**low - BEFORE * unit) / scale, (2.0**high + AFTER * unit) / scale)
    if wave is None:
        raise ValueError(f"a power that can't be computed between 2^{low} and 2^{high}")
    return Piece(wave, source, shift)


def _alike(pieces: list[Piece]) -> list[Piece]:
    """Return the pieces with as many frequencies as the one that has most."""
    most = max(piece.form.count for piece in pieces if isinstance(piece.form, Wave))
    return [replace(piece, form=piece.form.padded(most)) for piece in pieces if isinstance(piece.form, Wave)]


def blur(digits: int) -> float:
    """Return how far below a border a number may count as not below."""
    return 2.0 ** (SIGN_BIT - DIGIT_BITS * digits) * UNIT


def _bent(table: Spline) -> tuple[int, int]:
    """Return from which segment on, and up to which one, a table is not the line beside it anyway."""
    x = table.low + table.step * (np.arange(8 * table.segments) + 0.5) / 8
    values = table.polynomials(x)
    near = waves.tolerance(values)
    below, above = (
        np.any(np.reshape(np.abs(values - (a + b * x)) > near, (-1, 8)), axis=1) for a, b in (table.below, table.above)
    )
    first, end = int(np.argmax(below)), table.segments - int(np.argmax(above[::-1]))
    return (first, end) if first < end else (0, table.segments)


def _parts(table: Spline, first: int, end: int) -> list[tuple[int, Wave]]:
    """Return segments [first, end) in parts that waves fit, each with its end."""
    wave = _wave(table, first, end, blur(EXACT))
    if wave is not None:
        return [(end, wave)]
    if end - first == 1:
        raise ValueError("a segment of this table can't be computed: its polynomial rises and falls too much")
    middle = (first + end) // 2
    return _parts(table, first, middle) + _parts(table, middle, end)


def _wave(table: Spline, first: int, end: int, margin: float) -> Wave | None:
    start = table.low + first * table.step

    def values(x: Real) -> Real:
        return table.polynomials(x, first, end)

    return waves.fit(values, start - margin, table.low + end * table.step + margin)


def _line(line: tuple[float, float]) -> Line:
    constant, slope = line
    if slope != round(slope):
        raise ValueError(f"a tail with the slope {slope}: only whole slopes are cheap enough")
    return Line(_units(constant), round(slope))


def _units(x: float) -> int:
    return round(x / UNIT)


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


class _Waves:
    """Waves' values, cut back to a number's fraction, each times its bit."""

    def __init__(self, engine: Two, pieces: list[Piece], opened: list[Opened], bits: Callable[[], Bytes]) -> None:
        self._waves = [piece.form for piece in pieces if isinstance(piece.form, Wave)]
        self._first = engine.role == 0
        self._opened = [opened[piece.source] for piece in pieces]
        self._shifts = np.array([[piece.shift] for piece in pieces], np.uint64)
        size = opened[0].size
        parts = [self._part(engine, at, min(PART, size - at)) for at in range(0, max(size, 1), PART)]
        self._shares = parts[0] if engine.offline or len(parts) == 1 else np.concatenate(parts, axis=1)
        self._lift = Lift(engine, len(pieces) * size)
        self._times = Times(engine, len(pieces) * size, bits, self._lift.mask)

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
        """Return the shares of the values under their masks."""
        share = self._shares.reshape(-1)
        share >>= np.uint64(CUT)
        if self._first:
            share += np.uint64(1)  # on average, the shifts of both shares take as much away
        return self._lift.hide(share.astype(np.uint32))

    def value(self, bits: Ring, c: Words) -> Ring:
        """Return a share of the sum of values times bits [pieces, n]; both are opened under their masks."""
        values = select(bits.reshape(-1), self._lift.whole(c), self._times.product(c)).reshape(bits.shape)
        values <<= self._shifts
        total: Ring = values[0] if len(values) == 1 else values.sum(0, dtype=np.uint64)
        return total


def spline(engine: Two, x: Secret, table: Spline) -> Secret:
    """Return a table's function of each element; x may be anything in the window (module)."""
    return _evaluated(engine, pieces_of(table), x, (0,), engine.fraction)


def octaves(engine: Two, x: Secret, table: Octaves) -> Secret:
    """Return a power of each element, with the table's fraction (module)."""
    fractions, plan = octaves_of(table, x.fraction)
    shifts = tuple(x.fraction - fraction for fraction in fractions)
    return _evaluated(engine, plan, x, shifts, table.fraction)


def _evaluated(engine: Two, plan: Pieces, x: Secret, shifts: tuple[int, ...], fraction: int) -> Secret:
    """Return a function of x, of which each shift makes one of the pieces' sources."""
    sources = [x.parts[0].reshape(-1) >> np.uint64(shift) for shift in shifts]
    both = Opened.of(engine, np.concatenate(sources) if shifts != (0,) else x.parts[0])
    opened = [both.part(k * x.size, x.size) for k in range(len(sources))]
    signs = Signs(opened[0], sign_bit=SIGN_BIT, digits=plan.digits)
    below = signs.below(*plan.borders)
    used = [k for k, piece in enumerate(plan.pieces) if piece.form != Line(0, 0)]
    masks = engine.pads.random((len(used), below.shape[1]), np.uint8)

    def bits(rows: list[int]) -> Callable[[], Bytes]:
        return lambda: unpack((masks[0] ^ masks[1])[rows], x.size).reshape(-1)

    forms = [plan.pieces[k].form for k in used]
    lines = [
        (j, _Line(engine, form, opened[0], sources[0], bits([j])))
        for j, form in enumerate(forms)
        if isinstance(form, Line)
    ]
    curved = [j for j, form in enumerate(forms) if isinstance(form, Wave)]
    curves = _Waves(engine, [plan.pieces[used[j]] for j in curved], opened, bits(curved))
    if engine.offline:
        return engine.blank(x.shape, fraction)
    inside = _inside(below, first=engine.role == 0)[used] ^ masks[0]
    hidden = curves.hidden()
    its_bits, its_hidden = engine.exchange(inside, hidden)
    shown = unpack(inside ^ its_bits, x.size).astype(np.uint64)
    total = curves.value(shown[curved], hidden + its_hidden)
    for j, line in lines:
        total += line.value(shown[j])
    return engine.secret(total.reshape(x.shape), fraction)


def _inside(below: Planes, *, first: bool) -> Planes:
    """Return planes of which piece an element is in, from whether it is below each border."""
    none, every = np.zeros_like(below[:1]), np.full_like(below[:1], 0xFF if first else 0)
    edges = np.concatenate([none, below, every])
    inside: Planes = edges[1:] ^ edges[:-1]
    return inside
