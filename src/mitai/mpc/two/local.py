"""All sides as threads of one process: for tests, for measuring, and for trying things out.

What one process holds is no secret of it. Nothing here protects anything.

Example:
    >>> import numpy as np
    >>> run(lambda engine: engine.reveal(engine.input("client", (1,), np.array([3.0])) + 2.0)).results[1]
    array([5.])
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, TypeVar

from mitai.mpc.link import Link, Traffic, pair
from mitai.mpc.ring import Ring
from mitai.mpc.two.core import Program
from mitai.mpc.two.engine import Dealer, Owner, Party
from mitai.mpc.two.pads import Plan
from mitai.mpc.two.shares import split

T = TypeVar("T")
U = TypeVar("U")
Sides = tuple[Program[T], Program[T], Program[T]]  # one program, over what party 0, party 1 and the dealer each hold


@dataclass
class Cost:
    """What was spent: processor time by side, and bytes.

    Attributes:
        dealer_s: Processor time of the dealer.
        offline_s: Processor time of each party ahead of runs.
        online_s: Processor time of each party in runs.
        dealt_bytes: What the dealer sent.
        sent_bytes: What each party sent in runs.
        rounds: How often each party waited for the other one.
    """

    dealer_s: float = 0.0
    offline_s: list[float] = field(default_factory=lambda: [0.0, 0.0])
    online_s: list[float] = field(default_factory=lambda: [0.0, 0.0])
    dealt_bytes: int = 0
    sent_bytes: list[int] = field(default_factory=lambda: [0, 0])
    rounds: list[int] = field(default_factory=lambda: [0, 0])

    @property
    def total_s(self) -> float:
        """Processor time of all."""
        return self.dealer_s + sum(self.offline_s) + sum(self.online_s)


@dataclass
class Done(Generic[T]):
    """Both parties' results, and what they took."""

    results: tuple[T, T]
    cost: Cost


@dataclass
class Ready(Generic[T]):
    """A run that was dealt: its plan, the parties' tapes, and what the program returns at the dealer."""

    plan: Plan
    tapes: tuple[io.BytesIO, io.BytesIO]
    blank: T


class Local:
    """A dealer and two parties, for any number of runs; `cost` adds up what they take."""

    def __init__(self, wait_s: float = 60) -> None:
        self._wait_s = wait_s
        self._links = pair(wait_s)
        self.dealer = Dealer()
        self.parties = Party(0, self._links[0]), Party(1, self._links[1])
        self.cost = Cost()

    def prepare(self, batch: Sequence[Sides[T]]) -> list[Ready[T]]:
        """Deal and prepare a batch of runs."""
        lines = pair(self._wait_s), pair(self._wait_s)
        ends = lines[0][0], lines[1][0]
        tapes = [(io.BytesIO(), io.BytesIO()) for _ in batch]

        def prepare(role: int) -> list[Plan]:
            own = [sides[role] for sides in batch]
            return self.parties[role].prepare(own, lines[role][1], lambda number: tapes[number][role])

        def deal() -> list[Plan]:
            blanks.extend(self.dealer.deal([sides[2] for sides in batch], ends))
            return []

        blanks: list[T] = []
        works = (partial(prepare, 0), ()), (partial(prepare, 1), ()), (deal, ends)
        (plans, first_s), (_, second_s), (_, dealer_s) = together(works)
        self.cost.dealer_s += dealer_s
        for role, seconds in enumerate((first_s, second_s)):
            self.cost.offline_s[role] += seconds
            self.cost.dealt_bytes += ends[role].traffic.sent_bytes
        for tape in (tape for both in tapes for tape in both):
            tape.seek(0)
        return [Ready(*each) for each in zip(plans, tapes, blanks, strict=True)]

    def play(self, sides: Sides[T], ready: Ready[T], inputs: dict[str, list[Ring]] | None = None) -> tuple[T, T]:
        """Run what was prepared, on these inputs of owners."""
        halves = {owner: [split(values) for values in arrays] for owner, arrays in (inputs or {}).items()}
        for link in self._links:
            link.traffic = Traffic()

        def party(role: int) -> T:
            feeds = {owner: [shares[role] for shares in arrays] for owner, arrays in halves.items()}
            return self.parties[role].run(sides[role], ready.plan, ready.tapes[role], feeds)

        (first, first_s), (second, second_s) = together(
            [(partial(party, role), (self._links[role],)) for role in (0, 1)]
        )
        for role, seconds in enumerate((first_s, second_s)):
            self.cost.online_s[role] += seconds
            self.cost.sent_bytes[role] += self._links[role].traffic.sent_bytes
            self.cost.rounds[role] += self._links[role].traffic.rounds
        return first, second

    def do(self, sides: Sides[T], inputs: dict[str, list[Ring]] | None = None) -> tuple[T, T, T]:
        """Prepare and run; what the program returns at party 0, party 1 and the dealer."""
        (ready,) = self.prepare([sides])
        return *self.play(sides, ready, inputs), ready.blank


def run(program: Program[T]) -> Done[T]:
    """Run a program that gives all values itself, from sharing to results."""
    local = Local()
    first, second, _ = local.do((program, program, program), Owner().inputs(program))
    return Done((first, second), local.cost)


def together(works: Sequence[tuple[Callable[[], U], Sequence[Link]]]) -> list[tuple[U, float]]:
    """Do each in a thread, and return results with their processor time.

    Where one fails its links are closed, so that nobody waits for it, and what came first is raised.
    """
    failed: list[BaseException] = []

    def timed(work: Callable[[], U], links: Sequence[Link]) -> tuple[U, float]:
        begun = time.thread_time()
        try:
            return work(), time.thread_time() - begun
        except BaseException as error:
            failed.append(error)
            for link in links:
                link.close()
            raise

    with ThreadPoolExecutor(len(works)) as pool:
        futures = [pool.submit(timed, *work) for work in works]
    if failed:
        raise failed[0]
    return [future.result() for future in futures]
