"""Sums among n parties without a dealer: additive shares, secure against any n - 1 of them, whatever they can compute.

Follows `docs/spec/mpc-links.md`, "Sums". An owner splits each number into n summands that are random but for their
sum, and keeps one; a party adds up what it has; opening tells everybody's sum to everybody. There is no product of two
secrets and no comparison here: they take a dealer.

Invariants:

- Any n - 1 shares of a number are uniform and independent of it.
- What is opened is a sum of shares that are uniform but for that sum: nothing else is told.
- Parties that lie can make a result wrong; they learn no more by it.

Example:
    >>> alice = AdditiveEngine("alice", {"bob": to_bob, "carol": to_carol})
    >>> total = alice.input("alice", (), 52000.0) + alice.input("bob", ()) + alice.input("carol", ())
    >>> alice.reveal(total)
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from typing import NoReturn

import numpy as np

from mitai.errors import MpcError
from mitai.mpc.engine import Engine, Secret, Shape
from mitai.mpc.link import Link
from mitai.mpc.ring import Real, Ring, decode, encode


class AdditiveEngine(Engine):
    """One of n parties.

    Args:
        name: This party's.
        links: One to each other party, by its name.
    """

    def __init__(self, name: str, links: Mapping[str, Link]) -> None:
        self._name, self._links = name, links
        self._adds_public = name == min(name, *links)

    def input(self, owner: str, shape: Shape, values: Real | None = None, fraction: int | None = None) -> Secret:
        """See `Engine.input`; an owner is one of the parties."""
        bits = self.fraction if fraction is None else fraction
        if owner != self._name:
            share = np.frombuffer(self._links[owner].receive(8 * math.prod(shape)), "<u8").reshape(shape)
            return Secret(self, (share,), bits)
        if values is None:
            raise ValueError("the owner has to give values")
        share = np.broadcast_to(encode(values, bits), shape).copy()
        for link in self._links.values():
            mask = secrets.token_bytes(8 * math.prod(shape))
            share -= np.frombuffer(mask, "<u8").reshape(shape)
            link.send(mask)
        return Secret(self, (share,), bits)

    def reveal(self, x: Secret) -> Real:
        """See `Engine.reveal`."""
        total = np.array(x.parts[0], "<u8", order="C")
        told = memoryview(total.tobytes())
        for link in self._links.values():
            link.send(told)
        for link in self._links.values():
            total += np.frombuffer(link.receive(len(told)), "<u8").reshape(x.shape)
        return decode(total, x.fraction)

    def constant(self, values: Real | float, shape: Shape | None = None, fraction: int | None = None) -> Secret:
        """See `Engine.constant`."""
        bits = self.fraction if fraction is None else fraction
        array = encode(values, bits)
        zeros = np.zeros(array.shape if shape is None else shape, np.uint64)
        return self.add_public(Secret(self, (zeros,), bits), array)

    def add_public(self, x: Secret, values: Ring) -> Secret:
        """See `Engine.add_public`; one party adds it."""
        return x.map(lambda part: part + (values if self._adds_public else np.zeros_like(values)))

    def _beyond(self, *_: object, **__: object) -> NoReturn:
        raise MpcError(
            "mpc.needs-dealer",
            "parties without a dealer can add numbers, and multiply them by public integers, but nothing else",
            hint="reveal the sum and divide it; products and comparisons need the setting 2+1",
        )

    truncate = multiply = matmul = weight = linear = less = spline = octaves = upper = _beyond
