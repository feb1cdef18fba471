"""How likely each check is to be deceived (docs/spec/proof.md, "Soundness"); checks add these up in `Verifier.error`.

Example: four openings of 2^28 elements, 2^26 look-ups
    >>> bits(4 * opening(17, 11) + lookups(26, 16, 2)) > 100
    True
"""

from __future__ import annotations

import math
from fractions import Fraction

from mitai.proof.field import P

CHALLENGES = P**2  # elements of K
LOG_BLOWUP = 2  # rate 1/4
QUERIES = 152
HIDING_QUERIES = 172  # of codes of rate up to 5/16: 21/32 each


def rounds(count: int) -> Fraction:
    """Return the error of a sum-check: two different polynomials of degree 2 agree at 2 points."""
    return Fraction(2 * count, CHALLENGES)


def joined(count: int) -> Fraction:
    """Return the error of claims that are combined with powers of one challenge."""
    return Fraction(count - 1, CHALLENGES)


def lookups(log: int, table_log: int, width: int) -> Fraction:
    """Return the error of α and β: polynomials of that degree agree, for 2^log entries of some components."""
    return Fraction(((1 << log) + (1 << table_log)) * max(1, width - 1), CHALLENGES)


def opening(positions: int, rows: int) -> Fraction:
    """Return the error of an opening: 2^rows rows of 2^positions, encoded."""
    misses = (1 + Fraction(1, 1 << LOG_BLOWUP)) / 2  # one query, at half the code's distance
    return Fraction(2 * rows << positions + LOG_BLOWUP, CHALLENGES) + misses**QUERIES


def hidden_opening(coefficients: int, leaves: int, rows: int) -> Fraction:
    """Return the error of a masked opening: a code of 2^leaves places, 2^rows rows and their mask."""
    misses = (1 + Fraction(coefficients, 1 << leaves)) / 2
    return Fraction(2 * (rows + 1) << leaves, CHALLENGES) + misses**HIDING_QUERIES


def hidden(coefficients: int, leaves: int, rows: int, joined: int) -> Fraction:
    """Return the error of the equation of pads: a wrong one is not seen after β, or after δ; rows of pads."""
    drawn = Fraction(joined + 1, CHALLENGES) + Fraction((rows + 1) << leaves, CHALLENGES)
    return drawn + hidden_opening(2 * coefficients, leaves, rows)


def bits(error: Fraction) -> float:
    """Return b for an error of 2^−b."""
    return math.log2(error.denominator) - math.log2(error.numerator) if error else math.inf
