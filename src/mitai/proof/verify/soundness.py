"""How likely each check is to be deceived (docs/spec/proof.md, "Soundness"); checks add these up in `Verifier.error`.

Where a sum of these is more than its share, work comes before the challenges: both sides know from the statement how
much (docs/spec/proof.md, "Work").

Example: four openings of 2^28 elements, 2^26 look-ups
    >>> bits(4 * opening(17, 11) + lookups(26, 16, 2)) > 100
    True
    >>> work([lookups(28, 16, 2), lookups(20, 16, 2)], LOOKUPS)
    [3, 0]
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

from mitai.errors import ProofError
from mitai.proof.field import P

CHALLENGES = P**2  # elements of K
LOG_BLOWUP = 2  # rate 1/4
QUERIES = 152
HIDING_QUERIES = 172  # of codes of rate up to 5/16: 21/32 each
LEAST_BITS = 100  # of a proof, unless whoever checks it asks for others
LOOKUPS = Fraction(1, 4 << LEAST_BITS)  # what the challenges of all look-ups may add to the error
OPENINGS = Fraction(11, 16 << LEAST_BITS)  # what all openings may; a sixteenth is left for everything else
MAX_WORK = 20


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


def work(errors: Sequence[Fraction], share: Fraction) -> list[int]:
    """Return the bits of work that each of some arguments needs, so that together they err no more than a share.

    Raises:
        ProofError: `proof.too-few-bits`: one needs more than there may be.
    """
    if sum(errors) <= share:
        return [0] * len(errors)
    needed = [(math.ceil(error * len(errors) / share) - 1).bit_length() for error in errors]
    if max(needed) > MAX_WORK:
        raise too_few(LEAST_BITS)
    return needed


def too_few(least: int) -> ProofError:
    """Return the refusal of what is deceived more often than is bearable."""
    return ProofError(
        "proof.too-few-bits",
        f"a computation of this size has a proof of fewer than {least} bits of security",
        step="soundness",
        hint="ask for a shorter answer; or for fewer bits, where they are enough",
    )


def bits(error: Fraction) -> float:
    """Return b for an error of 2^−b."""
    return math.log2(error.denominator) - math.log2(error.numerator) if error else math.inf
