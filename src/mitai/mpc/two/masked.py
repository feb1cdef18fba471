"""Numbers that were opened under a mask: made whole again as shares, and multiplied by bits.

Follows `docs/spec/mpc.md`, "Masked numbers". Both parties know c = v + r mod 2^32 with v = x + 2^30, which lies in
[0, 2^31) for any x in the window; so the sum ran over 2^32 just where r's top bit is set and c's is not, and

    x = c - 2^30 - r + 2^32 · (1 - c's top bit) · (r's top bit),

which is linear in what the dealer can share: r and its top bit; and, for x times another number, that one's mask times
these. So what a truncation has opened is a factor of products already, and of its own square.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mitai.mpc.ring import WINDOW_BITS, Ring
from mitai.mpc.two.bits import flip
from mitai.mpc.two.blank import blank
from mitai.mpc.two.core import Two
from mitai.mpc.two.factors import Factor

Words = NDArray[np.uint32]
Bytes = NDArray[np.uint8]
HALF_WINDOW = 1 << (WINDOW_BITS - 1)
TOP = np.uint32(31)
HIGH = np.uint64(32)


class Opened:
    """Numbers x as both parties see them: c = x + r modulo 2^32.

    Args:
        engine: This side.
        halves: What this side knows of the mask r.
        c: What was opened, where there is data.
    """

    c: Words

    def __init__(self, engine: Two, halves: tuple[Words, ...], c: Words | None) -> None:
        self.engine = engine
        self.halves = halves
        self.size = halves[0].size
        if c is not None:
            self.c = c

    @classmethod
    def of(cls, engine: Two, x: Ring) -> Opened:
        """Return numbers as a truncation has opened them, or open them: one round and 4 bytes an element."""
        known = engine.opened.find(x)
        if known is not None:
            return known
        halves = engine.pads.random((x.size,), np.uint32)
        if engine.offline:
            return cls(engine, halves, None)
        (c,) = engine.open(x.reshape(-1).astype(np.uint32) + halves[0])
        return cls(engine, halves, c)

    def part(self, start: int, size: int) -> Opened:
        """Return some of them."""
        if size == self.size:
            return self
        part = copy.copy(self)
        part.size, some = size, slice(start, start + size)
        part.halves = tuple(half[some] for half in self.halves)
        if not self.engine.offline:
            part.c = self.c[some]
        return part

    def mask(self) -> Words:
        """Return the mask r, at the dealer."""
        return self.halves[0] + self.halves[1]

    def times(self, share: Ring, y: Factor) -> Ring:
        """Return a share of the numbers, of which this is the share, times a factor that is open; no round."""
        shape = share.shape
        whole = np.broadcast_shapes(shape, y.mask[0].shape)

        def rests() -> Ring:
            return self.mask().reshape(shape) * y.whole_mask()

        def tops() -> Words:
            product: Words = (self.mask() >> TOP).reshape(shape) * y.whole_mask().astype(np.uint32)
            return product

        given = self.engine.pads.given(whole, np.uint64, rests), self.engine.pads.given(whole, np.uint32, tops)
        if self.engine.offline:
            return blank(whole)
        product = unmasked(self.c.reshape(shape), y.mask[0], *given)
        product += y.opened * share
        return product

    def square(self, share: Ring) -> Ring:
        """Return a share of the squares of the numbers, of which this is the share; no round."""
        squares = self.engine.pads.given((self.size,), np.uint64, lambda: self.mask().astype(np.uint64) ** 2)
        tops = self.engine.pads.given((self.size,), np.uint32, lambda: (self.mask() >> TOP) * self.mask())
        if self.engine.offline:
            return blank(share.shape)
        v = self.c + np.uint32(HALF_WINDOW)
        public = v.astype(np.uint64) - np.uint64(HALF_WINDOW)
        squares = squares - (((v >> TOP ^ np.uint32(1)) * tops).astype(np.uint64) << HIGH + np.uint64(1))
        squares += public * (np.uint64(2) * share.reshape(-1))
        if self.engine.role == 0:
            squares -= public**2
        return squares.reshape(share.shape)


def unmasked(c: Words, b: Ring, rests: Ring, tops: Words) -> Ring:
    """Return a share of x · b from the opened x + r, and shares of b, b · r and b · (r's top bit)."""
    v = c + np.uint32(HALF_WINDOW)
    share: Ring = ((v >> TOP ^ np.uint32(1)) * tops).astype(np.uint64) << HIGH
    share += (v.astype(np.uint64) - np.uint64(HALF_WINDOW)) * b
    share -= rests
    return share


class Lift:
    """What makes shares modulo 2^32 of numbers in the window into shares modulo 2^64."""

    def __init__(self, engine: Two, n: int) -> None:
        self._first = engine.role == 0
        self.halves: tuple[Words, ...] = engine.pads.random((n,), np.uint32)

        def wraps() -> NDArray[np.bool_]:
            r = self.mask()
            return np.stack([r < self.halves[0], r >> TOP != 0])

        self._given = engine.pads.given((2, n), np.uint32, wraps)

    def mask(self) -> Words:
        """Return the mask r, at the dealer."""
        return self.halves[0] + self.halves[1]

    def hide(self, share: Words) -> Words:
        """Return the share of x + r, to be opened."""
        return share + self.halves[0]

    def whole(self, c: Words) -> Ring:
        """Return the share of x modulo 2^64 from the opened x + r."""
        carry, top = self._given
        v = c + np.uint32(HALF_WINDOW)
        share: Ring = ((v >> TOP ^ np.uint32(1)) * top + carry).astype(np.uint64) << HIGH
        share -= self.halves[0]
        if self._first:
            share += v
            share -= np.uint64(HALF_WINDOW)
        return share


class Times:
    """What multiplies an opened number by a shared bit, once the bit is opened under its mask.

    Args:
        engine: This side.
        n: How many.
        bits: Makes the bits' masks, one a byte, at the dealer.
        mask: Makes the numbers' masks, at the dealer; None where only the bit itself is needed.
    """

    def __init__(self, engine: Two, n: int, bits: Callable[[], Bytes], mask: Callable[[], Words] | None) -> None:
        def products() -> Ring:
            wide = bits().astype(np.uint64)
            return np.stack([wide] if mask is None else [wide, wide * mask()])

        self._given = engine.pads.given((1 if mask is None else 2, n), np.uint64, products)
        if mask is not None:
            self._tops = engine.pads.given((n,), np.uint32, lambda: (mask() >> TOP) * bits())

    def bit(self) -> Ring:
        """Return a share of the bit's mask."""
        share: Ring = self._given[0]
        return share

    def product(self, c: Words) -> Ring:
        """Return a share of the number times the bit's mask."""
        return unmasked(c, self._given[0], self._given[1], self._tops)


def select(public: Ring, whole: Ring, masked: Ring) -> Ring:
    """Return a share of (m XOR b) · x from a public bit m, and shares of x and of b · x."""
    chosen: Ring = flip(public, masked, first=False) + (whole & np.negative(public))
    return chosen
