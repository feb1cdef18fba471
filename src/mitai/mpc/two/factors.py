"""Factors of products under masks, opened once however many products they are in (`docs/spec/mpc.md`, "Products").

What a factor is known by is the array of its share: the same array is the same number. So the two products in
x · (x · y) open x once, and a square opens one factor.
"""

from __future__ import annotations

import weakref

import numpy as np

from mitai.mpc.ring import Ring
from mitai.mpc.two.pads import Pads


class Factor:
    """A number x under a mask a.

    Attributes:
        mask: The halves of a that this side knows.
        bits: How many low bits of x - a are open.
        opened: x - a, in these bits.
    """

    opened: Ring

    def __init__(self, mask: tuple[Ring, ...]) -> None:
        self.mask = mask
        self.bits = 0

    def whole_mask(self) -> Ring:
        """Return a, at the dealer."""
        return self.mask[0] + self.mask[1]


class Factors:
    """The factors of a run whose shares are still there."""

    def __init__(self) -> None:
        self._found: dict[int, tuple[Factor, weakref.ref[Ring]]] = {}

    def of(self, pads: Pads, share: Ring) -> Factor:
        """Return the factor that this share belongs to, or mask a new one."""
        name = id(share)
        if name in self._found:
            return self._found[name][0]
        factor = Factor(pads.random(share.shape, np.uint64))
        if share.shape:  # a single number may be no array at all
            self._found[name] = factor, weakref.ref(share, lambda _: self._found.pop(name, None))
        return factor
