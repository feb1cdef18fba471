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
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from mitai.mpc.link import Traffic, pair
from mitai.mpc.ring import Ring
from mitai.mpc.two.core import Program
from mitai.mpc.two.engine import Dealer, Owner, Party
from mitai.mpc.two.pads import Plan
from mitai.mpc.two.shares import split

T = TypeVar("T")
U = TypeVar("U")


@dataclass
class Cost:
    """What something took: processor time by side, and bytes.

    Attributes:
        dealer_s: Processor time of the dealer.
        offline_s: Processor time of each party ahead of the run.
        online_s: Processor time of each party in the run.
        dealt_bytes: What the dealer sent.
        online: What each party sent and received in the run.
    """

    dealer_s: float = 0.0
    offline_s: list[float] = field(default_factory=lambda: [0.0, 0.0])
    online_s: list[float] = field(default_factory=lambda: [0.0, 0.0])
    dealt_bytes: int = 0
    online: list[Traffic] = field(default_factory=list)

    @property
    def total_s(self) -> float:
        """Processor time of all."""
        return self.dealer_s + sum(self.offline_s) + sum(self.online_s)


@dataclass
class Done(Generic[T]):
    """Both parties' results, and what they took."""

    results: tuple[T, T]
    cost: Cost


class Local:
    """A dealer and two parties; a model that one run has shared serves the next ones."""

    def __init__(self, wait_s: float = 60) -> None:
        self._wait_s = wait_s
        first, second = pair(wait_s)
        self.links = first, second
        self.dealer = Dealer()
        self.parties = Party(0, first), Party(1, second)

    def prepare(
        self, programs: Sequence[Callable[[int], Program[T]]]
    ) -> tuple[list[tuple[io.BytesIO, io.BytesIO]], list[Plan], list[T], Cost]:
        """Deal and prepare a batch of runs; a program is asked for by each side: 0, 1, or 2 for the dealer."""
        lines = pair(self._wait_s), pair(self._wait_s)
        tapes: tuple[list[io.BytesIO], list[io.BytesIO]] = ([], [])

        def tape(role: int) -> Callable[[int], io.BytesIO]:
            def opened(_number: int) -> io.BytesIO:
                tapes[role].append(io.BytesIO())
                return tapes[role][-1]

            return opened

        def prepare(role: int) -> list[Plan]:
            own = [program(role) for program in programs]
            return self.parties[role].prepare(own, lines[role][1], tape(role))

        with ThreadPoolExecutor(3) as pool:
            dealing = pool.submit(
                timed, lambda: self.dealer.deal([program(2) for program in programs], (lines[0][0], lines[1][0]))
            )
            preparing = [pool.submit(timed, lambda role=role: prepare(role)) for role in (0, 1)]
            blanks, dealer_s = dealing.result()
            prepared = [future.result() for future in preparing]
        for tape_file in (*tapes[0], *tapes[1]):
            tape_file.seek(0)
        dealt = sum(line[0].traffic.sent_bytes for line in lines)
        cost = Cost(dealer_s, [seconds for _, seconds in prepared], dealt_bytes=dealt)
        return list(zip(*tapes, strict=True)), prepared[0][0], blanks, cost

    def run(
        self,
        program: Callable[[int], Program[T]],
        plan: Plan,
        tapes: tuple[io.BytesIO, io.BytesIO],
        cost: Cost,
        inputs: dict[str, list[Ring]] | None = None,
    ) -> tuple[T, T]:
        """Run a program with tapes, and add to the cost."""
        halves = {owner: [split(values) for values in arrays] for owner, arrays in (inputs or {}).items()}
        for link in self.links:
            link.traffic = Traffic()

        def party(role: int) -> T:
            feeds = {owner: [shares[role] for shares in arrays] for owner, arrays in halves.items()}
            return self.parties[role].run(program(role), plan, tapes[role], feeds)

        with ThreadPoolExecutor(2) as pool:
            running: list[Future[tuple[T, float]]] = [
                pool.submit(timed, lambda role=role: party(role)) for role in (0, 1)
            ]
            (first, first_s), (second, second_s) = (future.result() for future in running)
        cost.online_s = [cost.online_s[0] + first_s, cost.online_s[1] + second_s]
        cost.online = [link.traffic for link in self.links]
        return first, second


def run(program: Program[T]) -> Done[T]:
    """Run a program that gives all values itself, from sharing to results."""
    local = Local()
    inputs = Owner().inputs(program)
    tapes, plans, _, cost = local.prepare([lambda _role: program])
    return Done(local.run(lambda _role: program, plans[0], tapes[0], cost, inputs), cost)


def timed(work: Callable[[], U]) -> tuple[U, float]:
    """Return a result and the processor time of this thread that it took."""
    begun = time.thread_time()
    return work(), time.thread_time() - begun
