"""Functions in pieces: what tables become before two parties evaluate them (`docs/spec/mpc.md`, "Splines").

A table is taken as three pieces, the line below, one wave, and the line above, where a wave fits all its polynomials;
the borders are then up to an eighth wide, where either side's formula may be used. A table that is less smooth is cut
in halves until waves fit, and its borders are exact to 2^-15.

A power over many octaves is a table with a piece for each two of them. Its pieces are brought to the same scale by
public powers of two when they are whole again, so that each is exact to its own last bits.

Example:
    >>> plan = pieces_of(Spline.fit(np.tanh, low=-8, high=8, segments=64, degree=2, below=(-1, 0), above=(1, 0)))
    >>> [border / 65536 for border in plan.borders]
    [-5.25, 5.375]
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass, replace

import numpy as np

from mitai.mpc.reproducible import power
from mitai.mpc.ring import FRACTION_BITS, WINDOW_BITS, Real
from mitai.mpc.spline import Octaves, Spline
from mitai.mpc.two import waves
from mitai.mpc.two.compare import DIGIT_BITS
from mitai.mpc.two.waves import Wave

UNIT = 2.0**-FRACTION_BITS
LARGEST_BITS = 28  # of a piece's value, in units of its last place
FINER_BITS = 14  # between the two fractions with which the numbers of many octaves are opened
LEAST_BITS = 2  # the first octave begins at so many bits of what is compared
AFTER = 1  # units above an octave in which a number may be taken with it


@dataclass(frozen=True)
class Digits:
    """How numbers are compared with borders.

    Attributes:
        count: How many digits of differences count.
        bits: Of each digit.
        top: Which bit of a difference is its sign.
    """

    count: int
    bits: int = DIGIT_BITS
    top: int = 31

    @property
    def blur(self) -> int:
        """How far below a border a number may count as not below, in units of its last place."""
        return 1 << self.top - self.count * self.bits


COARSE, EXACT = Digits(3), Digits(5)
NARROW_BITS, NARROW_BLUR_BITS = 9, 16  # of a ladder's digit that stands for a whole number: within one
WIDEST_BITS = 15


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
    digits: Digits

    @functools.cached_property
    def outline(self) -> tuple[object, ...]:
        """All that sides have to have alike, and would not with different versions; but no coefficients."""
        forms = [
            (piece.form.count, piece.form.period_bits) if isinstance(piece.form, Wave) else piece.form
            for piece in self.pieces
        ]
        return (
            self.borders,
            self.digits,
            [(form, p.source, p.shift) for form, p in zip(forms, self.pieces, strict=True)],
        )


@functools.lru_cache(maxsize=64)
def pieces_of(table: Spline, within: tuple[float, float] | None = None) -> Pieces:
    """Return how a table is computed, for numbers within a range; the same at all sides."""
    below, above = Piece(_line(table.below)), Piece(_line(table.above))
    first, end = _bent(table)
    low, high = table.low + first * table.step, table.low + end * table.step
    if within is not None and within[1] <= high:
        digits = _narrow(_units(low - within[0]), _units(within[1] - low)) or COARSE
        wave = waves.fit(table.source or table.polynomials, low - digits.blur * UNIT, high)
        if wave is not None:
            return Pieces((_units(low),), (below, Piece(wave)), digits)
    width = COARSE.blur * UNIT
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
    wide = (35 - table.low - coarse) // 2  # a blur of an eighth of where the first octave begins
    digits = Digits(2, min(max(wide, DIGIT_BITS), WIDEST_BITS))
    inner = _alike([_octaves(table, fractions, low, high, digits.blur) for low, high in itertools.pairwise(ends)])
    below = Piece(Line(int(table(2.0**table.low) * 2.0**table.fraction), 0))
    borders = tuple(1 << end + coarse for end in ends[:-1])
    return fractions, Pieces(borders, (below, *inner), digits)


def _narrow(*distances: int) -> Digits | None:
    """Return one digit that stands for numbers that are so far from a border, where it is not too long."""
    top = max(distances).bit_length()
    bits = top - NARROW_BLUR_BITS
    return Digits(1, bits, top) if DIGIT_BITS <= bits <= NARROW_BITS else None


def _octaves(table: Octaves, fractions: tuple[int, ...], low: int, high: int, before: int) -> Piece:
    """Return the piece for [2^low, 2^high), and so many units below."""
    source = max(k for k, fraction in enumerate(fractions) if k == 0 or high + fraction < WINDOW_BITS)
    scale = 2.0 ** (FRACTION_BITS - fractions[source])  # of what is opened, which is read with the engine's fraction
    largest = float(np.max(table(np.array([2.0**low, 2.0**high])))) * 2.0**table.fraction
    shift = max(0, waves.log2_above(largest) - LARGEST_BITS)

    def values(u: Real) -> Real:
        return table.factor * power(u * scale, table.exponent) * 2.0 ** (table.fraction - FRACTION_BITS - shift)

    unit = 2.0 ** -fractions[0]
    wave = waves.fit(values, (2.0**low - before * unit) / scale, (2.0**high + AFTER * unit) / scale)
    if wave is None:
        raise ValueError(f"a power that can't be computed between 2^{low} and 2^{high}")
    return Piece(wave, source, shift)


def _alike(pieces: list[Piece]) -> list[Piece]:
    """Return the pieces with as many frequencies as the one that has most."""
    most = max(piece.form.count for piece in pieces if isinstance(piece.form, Wave))
    return [replace(piece, form=piece.form.padded(most)) for piece in pieces if isinstance(piece.form, Wave)]


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
    wave = _wave(table, first, end, EXACT.blur * UNIT)
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
