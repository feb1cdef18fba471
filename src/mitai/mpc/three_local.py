"""Three parties as threads of one process: for tests and for measuring. It protects nothing (`mitai.mpc.two.local`).

Example:
    >>> import numpy as np
    >>> run(lambda engine: engine.reveal(engine.input("client", (1,), np.array([3.0])) + 2.0)).results[1]
    array([5.])
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from mitai.mpc.link import Link, Traffic, pair
from mitai.mpc.settings import replicate
from mitai.mpc.three import Program, Three
from mitai.mpc.two.engine import Owner
from mitai.mpc.two.local import together

T = TypeVar("T")


@dataclass
class Done(Generic[T]):
    """The three results, processor time of each party, and what each sent and received, by (from, to)."""

    results: tuple[T, ...]
    cpu_s: tuple[float, ...]
    traffic: dict[tuple[int, int], Traffic]


def connected(wait_s: float = 60) -> tuple[dict[int, Link], ...]:
    """Return the ways between three parties, for each by the other's role."""
    links: tuple[dict[int, Link], ...] = ({}, {}, {})
    for one, other in ((0, 1), (1, 2), (2, 0)):
        links[one][other], links[other][one] = pair(wait_s)
    return links


def run(program: Program[T]) -> Done[T]:
    """Run a program that gives all values itself, from sharing to results."""
    inputs = {owner: [replicate(array) for array in arrays] for owner, arrays in Owner().inputs(program).items()}
    links = connected()

    def party(role: int) -> T:
        feeds = {owner: [shares[role] for shares in arrays] for owner, arrays in inputs.items()}
        return Three(role, links[role]).run(program, feeds)

    done = together([(partial(party, role), tuple(links[role].values())) for role in range(3)])
    results, seconds = zip(*done, strict=True)
    traffic = {(role, other): link.traffic for role in range(3) for other, link in links[role].items()}
    return Done(results, seconds, traffic)
