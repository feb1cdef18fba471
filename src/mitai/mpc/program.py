"""Computing with numbers that others keep to themselves: what a program of yours is written with.

A program is a function of a `Party`. All sides run the same one; owners give their numbers, and what is revealed is
all that anybody learns. Numbers lie within ±16384 (but those that are only added up), exact to about 1/65536. `run`
tries a program in this process, with all sides of the setting `2+1` as threads.

Example:
    >>> def story(party):
    ...     alice, bob, carol = (party.secret(friend) for friend in ("alice", "bob", "carol"))
    ...     average = party.reveal_number(total([alice, bob, carol])) / 3
    ...     return average, party.reveal_number(less(bob, alice))
    >>> run(story, alice=52.0, bob=48.0, carol=56.0)
    (52.0, 1.0)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike

from mitai.mpc.engine import Engine, Secret, Shape, concatenate
from mitai.mpc.ring import Real
from mitai.mpc.two import local

T = TypeVar("T")


class Party:
    """One side as its program sees it.

    Args:
        engine: Its end of the protocol.
        own: The numbers that are given here, by owner; never shown.
    """

    def __init__(self, engine: Engine, own: Mapping[str, ArrayLike]) -> None:
        self.engine = engine
        self._own = {owner: np.atleast_1d(np.asarray(values, np.float64)) for owner, values in own.items()}

    def secret(self, owner: str, shape: Shape = (1,), fraction: int | None = None) -> Secret:
        """Return what `owner` gives, as a secret that only its owner knows.

        Args:
            owner: Whose it is.
            shape: What all know of it; one number when not given.
            fraction: Bits of fraction, 16 when not given; 0 for integers.

        Raises:
            ValueError: The owner is here and has no finite numbers of this shape.
        """
        values = self._own.get(owner)
        if values is not None and (values.shape != shape or not np.isfinite(values).all()):
            raise ValueError(f"{owner} has to give finite numbers of shape {shape}")
        return self.engine.input(owner, shape, values, fraction)

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
    """Run a program in this process, by all sides of the setting `2+1` as threads; return what it returns.

    For trying things out: nothing is hidden from whoever owns this process.

    Args:
        program: What is computed.
        own: The numbers of each owner, by name.
    """
    return local.run(lambda engine: program(Party(engine, own))).results[0]


def _tournament(x: Secret, axis: int, better: Callable[[Secret, Secret], Secret]) -> Secret:
    x = x.map(lambda part: np.moveaxis(part, axis, 0))
    while x.shape[0] > 1:
        half = x.shape[0] // 2
        winners = better(x[:half], x[half : 2 * half])
        x = concatenate([winners, x[2 * half :]], 0)
    return x[0]
