"""The settings in which processes compute together: who takes part, and how owners cut what they share among them.

Follows `docs/spec/mpc.md`, "Settings". A setting is chosen by the model's owner, who cuts the model for it; all sides
and clients say in their own configuration which one they expect.

Invariants:

- What a party that follows the protocol gets of a number is uniform by itself.
- A client of `twins` believes a result only if both twins of each party gave the same.

Example:
    >>> setting = SETTINGS["3pc"]
    >>> parts = dict(zip(setting.parties, setting.cut(encode([1.5])), strict=True))
    >>> [len(arrays) for arrays in parts.values()]
    [2, 2, 2]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Final, Literal

import numpy as np

from mitai.errors import MpcError
from mitai.mpc.ring import Ring
from mitai.mpc.two import shares

Name = Literal["2+1", "3pc", "twins"]
Parts = tuple[Ring, ...]


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        name: As in `party.toml`, and in receipts.
        parties: Who computes with shares; each of them listens for clients.
        dealers: Who deals ahead of time, without any data.
        listeners: Who has to listen, for clients or for others.
        pieces: How many arrays each party gets for one that is shared.
        cut: Cuts an array into what each party gets of it.
        join: Puts a result together from what each party gave.
    """

    name: Name
    parties: tuple[str, ...]
    dealers: tuple[str, ...]
    listeners: tuple[str, ...]
    pieces: int
    cut: Callable[[Ring], tuple[Parts, ...]]
    join: Callable[[Sequence[Ring]], Ring]

    @property
    def roles(self) -> tuple[str, ...]:
        """All processes."""
        return self.parties + self.dealers


def replicate(values: Ring) -> tuple[Parts, ...]:
    """Return each of three parties' two of three shares that add up to the values."""
    first, rest = shares.split(values)
    second, third = shares.split(rest)
    return (first, second), (second, third), (third, first)


def _halves(values: Ring) -> tuple[Parts, ...]:
    first, second = shares.split(values)
    return (first,), (second,)


def _sum(parts: Sequence[Ring]) -> Ring:
    return reduce(shares.join, parts)


def _alike(parts: Sequence[Ring]) -> Ring:
    """Add up two parties' shares, of which their twins gave the same."""
    first, second, *twins = parts
    if not all(map(np.array_equal, (first, second), twins)):
        raise MpcError(
            "mpc.twin-mismatch",
            "a party and its twin gave different shares of the answer: somebody cheats, or a machine fails",
            hint="don't believe anything of this answer, and tell the operators",
        )
    return shares.join(first, second)


SETTINGS: Final[dict[Name, Setting]] = {
    setting.name: setting
    for setting in (
        Setting("2+1", ("p0", "p1"), ("dealer",), ("p0", "p1"), 1, _halves, _sum),
        Setting("3pc", ("p0", "p1", "p2"), (), ("p0", "p1", "p2"), 2, replicate, _sum),
        Setting(
            "twins",
            ("p0", "p1", "p0-twin", "p1-twin"),
            ("dealer", "dealer-twin"),
            ("p0", "p1", "p0-twin", "p1-twin", "dealer"),
            1,
            lambda values: 2 * _halves(values),
            _alike,
        ),
    )
}
