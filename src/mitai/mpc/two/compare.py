"""Comparison with what is public: the sign of a difference, out of an opened number and its mask's digits.

Follows `docs/spec/mpc.md`, "Comparison". A number x is opened as c = x + r. Its sign is a bit of c - r, which takes the
borrow of the bits below: whether c's are less than r's. The dealer has shared each digit of r as a ladder, a word
whose bit i says whether the digit is above i, so that each party reads a share of "r's digit is above c's" at the
public place c, and of "is equal" at two such places. What is left is a sum of products over a few digits.

- Every opened bit is under a random bit of its own; c is under r, and r is used for one number.
- The number of digits says how exact the comparison is: what lies below the last one counts as no borrow.

Example:
    >>> chain(3)
    [(0, 2), (0, 1, 3)]
"""

from __future__ import annotations

import functools

import numpy as np

from mitai.mpc.engine import Secret
from mitai.mpc.ring import WINDOW_BITS, Ring
from mitai.mpc.two.bits import Planes, Term, add_products, pack, to_ring
from mitai.mpc.two.blank import blank
from mitai.mpc.two.core import Two
from mitai.mpc.two.masked import Opened

DIGIT_BITS = 6
DIGIT = np.uint32((1 << DIGIT_BITS) - 1)
LAST = np.uint64(63)
ONE = np.uint64(1)
BELOW_LAST = np.uint64((1 << 63) - 1)
ROWS = 1 << 13  # numbers at a time, which fit into a cache; whole bytes of planes


def chain(digits: int) -> list[Term]:
    """Return the borrow of so many digits, but for the first's own: first equal and second above, and so on.

    Planes 0 to digits - 2 say that a digit is equal, the following ones that it is above, from the second one on.
    """
    return [(*range(d), digits - 2 + d) for d in range(1, digits)]


class Signs:
    """The digits of a mask, to compare what is under it with public numbers.

    Args:
        opened: The numbers.
        sign_bit: Which bit of a difference is its sign.
        digits: How many digits below it count.
    """

    def __init__(self, opened: Opened, *, sign_bit: int, digits: int) -> None:
        self._opened = opened
        self._sign_bit = np.uint32(sign_bit)
        self._shifts = np.array([[sign_bit - DIGIT_BITS * (d + 1)] for d in range(digits)], np.uint32)
        self._ladders = opened.engine.pads.given((digits, opened.size), np.uint64, self._make, xor=True)

    def _make(self) -> Ring:
        r = self._opened.mask()
        made = np.empty((len(self._shifts), r.size), np.uint64)
        for ladder, shift in zip(made, self._shifts, strict=True):
            ladder[...] = (ONE << (r >> shift & DIGIT).astype(np.uint64)) - ONE
        made[0] |= (r >> self._sign_bit).astype(np.uint64) << LAST  # no digit is above 63: the sign's place is free
        return made

    def below(self, *bounds: int) -> Planes:
        """Return, for each bound, a plane of whether numbers are below it; one round.

        Differences have to be less than 2^sign_bit in magnitude. Numbers less than 2^(sign_bit - 6 · digits) below a
        bound may count as not below.
        """
        engine, digits, n = self._opened.engine, len(self._shifts), self._opened.size
        own = 2 * (digits - 1)
        planes = blank((own * len(bounds), -(-n // 8)), np.uint8)
        signs = blank((len(bounds), -(-n // 8)), np.uint8)
        if not engine.offline:
            planes, signs = self._planes(bounds)
        return signs ^ add_products(engine, planes, _terms(digits, len(bounds)))

    def _planes(self, bounds: tuple[int, ...]) -> tuple[Planes, Planes]:
        """Return shares of the planes of `chain` for all bounds, and of all that is added to it."""
        first, n, digits = self._opened.engine.role == 0, self._opened.size, len(self._shifts)
        size = -(-n // 8)
        planes = np.empty((len(bounds), 2 * (digits - 1), size), np.uint8)
        signs = np.empty((len(bounds), size), np.uint8)
        offsets = np.array([[[bound % (1 << 32)]] for bound in bounds], np.uint32)
        for start in range(0, n, ROWS):
            ladders, places = self._ladders[:, start : start + ROWS], slice(start // 8, (start + ROWS) // 8)
            c = self._opened.c[start : start + ROWS] - offsets  # [bounds, 1, n]
            digit = (c >> self._shifts & DIGIT).astype(np.uint64)  # [bounds, digits, n]
            above = ladders.copy()
            above[0] &= BELOW_LAST
            equal = above[:-1] ^ (above[:-1] << ONE | np.uint64(first))
            is_above = (above >> digit & ONE).astype(np.uint8)
            planes[:, : digits - 1, places] = pack((equal >> digit[:, :-1] & ONE).astype(np.uint8))
            planes[:, digits - 1 :, places] = pack(is_above[:, 1:])
            sign = is_above[:, 0] ^ (ladders[0] >> LAST).astype(np.uint8)
            if first:
                sign ^= (c[:, 0] >> self._sign_bit & np.uint32(1)).astype(np.uint8)
            signs[:, places] = pack(sign)
        return planes.reshape(-1, size), signs


@functools.cache
def _terms(digits: int, bounds: int) -> tuple[tuple[Term, ...], ...]:
    """Return the terms of `chain` for each bound, whose planes follow one another."""
    own = 2 * (digits - 1)
    return tuple(tuple(tuple(own * b + j for j in term) for term in chain(digits)) for b in range(bounds))


def less(engine: Two, x: Secret, y: Secret | float) -> Secret:
    """Return whether x < y, exactly ("Comparison"): three rounds, 5.2 bytes an element."""
    difference = x - y
    opened = Opened.of(engine, difference.parts[0])
    signs = Signs(opened, sign_bit=WINDOW_BITS - 1, digits=(WINDOW_BITS - 1) // DIGIT_BITS)
    bit = to_ring(engine, signs.below(0)[0], opened.size, np.uint64)
    return Secret(engine, (bit.reshape(difference.shape),), 0)
