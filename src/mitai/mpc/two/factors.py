"""Factors of products under masks, opened once however many products they are in (`docs/spec/mpc.md`, "Products").

What a factor is known by is the array of its share: the same array is the same number. So the two products in
x · (x · y) open x once, and a square opens one factor.
"""

from __future__ import annotations

import functools
import weakref
from typing import Generic, TypeVar

import numpy as np

from mitai.mpc.engine import Secret
from mitai.mpc.ring import Ring
from mitai.mpc.two.pads import Pads

T = TypeVar("T")


class Factor:
    """A number x under a mask a.

    Attributes:
        mask: The halves of a that this side knows, or all of a at a dealer.
        bits: How many low bits of x - a are open.
        opened: x - a, in these bits.
    """

    opened: Ring

    def __init__(self, mask: tuple[Ring, ...]) -> None:
        self.mask = mask
        self.bits = 0

    def whole_mask(self) -> Ring:
        """Return a, at the dealer."""
        return functools.reduce(np.add, self.mask)


class Known(Generic[T]):
    """What a run knows of numbers, found by the arrays of their shares, as long as these are there.

    The array of a share is the same object at all sides, or at none: it is made, and handed on, by the same lines.
    """

    def __init__(self) -> None:
        self._found: dict[int, tuple[T, weakref.ref[Ring]]] = {}

    def keep(self, share: Ring, what: T) -> None:
        """Remember something of the numbers that this share belongs to."""
        name = id(share)
        if share.shape:  # a single number may be no array at all
            share.flags.writeable = False  # other numbers in the same array would come under the same mask
            self._found[name] = what, weakref.ref(share, lambda _: self._found.pop(name, None))

    def find(self, share: Ring) -> T | None:
        """Return what is known."""
        what, there = self._found.get(id(share), (None, None))
        return what if there is not None and there() is share else None


def factor_of(known: Known[Factor], pads: Pads, x: Secret) -> Factor:
    """Return the factor that a secret is, or mask a new one.

    A secret that is masked for good (`Engine.masked`) has further parts: a party's half of the mask and what was
    opened, or the mask at the dealer. Whatever is linear does the same to all of them, so they stay what they are.
    """
    if len(x.parts) > 1:
        factor = Factor(x.parts[1:2])
        factor.bits, factor.opened = 64, x.parts[-1]
        return factor
    found = known.find(x.parts[0])
    if found is not None:
        return found
    new = Factor(pads.random(x.shape, np.uint64))
    known.keep(x.parts[0], new)
    return new
