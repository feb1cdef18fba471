"""Computing with numbers that others keep to themselves: what a program of yours is written with.

A program is a function of a `Party`. All parties run the same one; each gives its own numbers, and what is revealed
is all that anybody learns. `run` tries a program with all parties as threads of this process.

Example:
    >>> def average(party):
    ...     numbers = [party.secret(friend) for friend in ("alice", "bob", "carol")]
    ...     return party.reveal_number(total(numbers)) / 3
    >>> run(average, alice=52_000, bob=48_000, carol=56_000)
    52000.0
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike

from mitai.errors import MpcError
from mitai.mpc.additive import AdditiveEngine
from mitai.mpc.engine import Engine, Secret, Shape, concatenate
from mitai.mpc.link import QueueLink, pair
from mitai.mpc.ring import Real

T = TypeVar("T")


class Party:
    """One party as its program sees it.

    Args:
        name: Its name.
        engine: Its end of the protocol.
        own: The numbers that it gives, if it gives any; never shown.
    """

    def __init__(self, name: str, engine: Engine, own: ArrayLike | None = None) -> None:
        self.name, self.engine = name, engine
        self._own = None if own is None else np.atleast_1d(np.asarray(own, np.float64))

    def __repr__(self) -> str:
        return f"Party({self.name!r})"

    def secret(self, owner: str, shape: Shape = (1,), fraction: int | None = None) -> Secret:
        """Return what `owner` gives, as a secret that only its owner knows.

        Args:
            owner: A party's name.
            shape: What all know of it; one number when not given.
            fraction: Bits of fraction, 16 when not given; 0 for integers.

        Raises:
            ValueError: This party is the owner and has no finite numbers of this shape.
        """
        if owner != self.name:
            return self.engine.input(owner, shape, None, fraction)
        if self._own is None or self._own.shape != shape or not np.isfinite(self._own).all():
            raise ValueError(f"{owner} has to give finite numbers of shape {shape}")
        return self.engine.input(owner, shape, self._own, fraction)

    def reveal(self, x: Secret) -> Real:
        """Tell all parties."""
        return self.engine.reveal(x)

    def reveal_number(self, x: Secret) -> float:
        """Tell all parties a single number."""
        return float(self.reveal(x).item())


def total(numbers: Sequence[Secret]) -> Secret:
    """Add up secrets of one shape."""
    return reduce(lambda a, b: a + b, numbers)


def mean(x: Secret, axis: int = -1) -> Secret:
    """Return the mean along an axis."""
    return x.sum(axis) * (1 / x.shape[axis])


def less(x: Secret, y: Secret | float) -> Secret:
    """Return 1 where x < y, else 0, as a secret. The difference has to lie within the engine's window."""
    return x.engine.less(x, y)


def where(bit: Secret, x: Secret, y: Secret) -> Secret:
    """Return x where the bit is 1, and y where it is 0."""
    return x.engine.select(bit, x, y)


def maximum(x: Secret, axis: int = -1) -> Secret:
    """Return the largest numbers along an axis, by a tournament."""
    return _tournament(x, axis, lambda a, b: where(less(a, b), b, a))


def minimum(x: Secret, axis: int = -1) -> Secret:
    """Return the smallest numbers along an axis, by a tournament."""
    return _tournament(x, axis, lambda a, b: where(less(a, b), a, b))


def run(program: Callable[[Party], T], **own: ArrayLike) -> T:
    """Run a program with all parties, by their names, as threads of this process; return what the first one learns.

    The parties add up without a dealer (`mitai.mpc.additive`).

    Raises:
        MpcError: A party failed; the others then miss it.
    """
    links: dict[str, dict[str, QueueLink]] = {name: {} for name in own}
    for one, other in itertools.combinations(own, 2):
        links[one][other], links[other][one] = pair()

    def play(name: str) -> T:
        try:
            return program(Party(name, AdditiveEngine(name, links[name]), own[name]))
        finally:
            for link in links[name].values():
                link.close()

    with ThreadPoolExecutor(len(own), "mitai-mpc-party") as pool:
        results = [pool.submit(play, name) for name in own]
    failed = [error for error in (result.exception() for result in results) if error is not None]
    for error in sorted(failed, key=lambda error: isinstance(error, MpcError)):  # what others miss comes after
        raise error
    return results[0].result()


def _tournament(x: Secret, axis: int, better: Callable[[Secret, Secret], Secret]) -> Secret:
    x = x.map(lambda part: np.moveaxis(part, axis, 0))
    while x.shape[0] > 1:
        half = x.shape[0] // 2
        winners = better(x[:half], x[half : 2 * half])
        x = concatenate([winners, x[2 * half :]], 0)
    return x[0]
