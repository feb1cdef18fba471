"""Six machines as threads of one process: for tests and for measuring. It protects nothing (`mitai.mpc.two.local`).

Example:
    >>> import numpy as np
    >>> run(lambda engine: engine.reveal(engine.input("client", (1,), np.array([3.0])) + 2.0))
    array([5.])
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from mitai.mpc.link import Link, QueueLink, pair
from mitai.mpc.ring import Ring
from mitai.mpc.twins import TwinDealer, TwinParty
from mitai.mpc.two.core import Program
from mitai.mpc.two.engine import Owner
from mitai.mpc.two.local import together
from mitai.mpc.two.shares import split

T = TypeVar("T")
DEALER = 2
Pairs = Callable[[float], tuple[QueueLink, QueueLink]]


def run(program: Program[T], wait_s: float = 60, pairs: Pairs = pair) -> T:
    """Run a program that gives all values itself; return the result of the first machine.

    Args:
        program: What is computed.
        wait_s: How long a machine waits for another.
        pairs: Makes the links: between parties, from dealer to party 0 and party 1, for either half; then those
            between twins of party 0, party 1 and the dealer.
    """
    inputs = Owner().inputs(program)
    halves = {owner: [split(values) for values in arrays] for owner, arrays in inputs.items()}
    between, dealt = [], []
    for _ in range(2):
        between.append(pairs(wait_s))
        dealt.append((pairs(wait_s), pairs(wait_s)))
    twins = [pairs(wait_s) for _ in range(3)]

    def deal(half: int) -> None:
        dealer = TwinDealer(half, twins[DEALER][half])
        dealer.deal([program], (dealt[half][0][0], dealt[half][1][0]))

    def compute(half: int, role: int) -> T:
        party = TwinParty(role, between[half][role], twins[role][half])
        tape = io.BytesIO()
        (plan,) = party.prepare([program], dealt[half][role][1], lambda _: tape)
        tape.seek(0)
        feeds: dict[str, list[Ring]] = {owner: [shares[role] for shares in arrays] for owner, arrays in halves.items()}
        return party.run(program, plan, tape, feeds)

    def links(half: int, role: int) -> tuple[Link, ...]:
        if role == DEALER:
            return twins[DEALER][half], dealt[half][0][0], dealt[half][1][0]
        return twins[role][half], between[half][role], dealt[half][role][1]

    works: list[tuple[Callable[[], T | None], tuple[Link, ...]]] = []
    for half in (0, 1):
        works.extend((partial(compute, half, role), links(half, role)) for role in (0, 1))
        works.append((partial(deal, half), links(half, DEALER)))
    result = together(works)[0][0]
    assert result is not None  # noqa: S101  # a party's, not a dealer's
    return result
