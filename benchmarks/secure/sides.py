"""All sides as threads, which are given their shares one array at a time: large models fit into memory.

`mitai.mpc.two.local` splits all inputs before a run. Here a party makes its shares when its program asks for them, from
a seed that both know, and tapes are files: what is measured is the sides' work, and what is in memory is what they
keep.

What programs return for the next ones (`state`) is a list of what each side has, and last of what `Asked` has.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from mitai.mpc import kernels
from mitai.mpc.engine import Secret, Shape
from mitai.mpc.link import Traffic, pair
from mitai.mpc.ring import Real, Ring, encode
from mitai.mpc.three import Three
from mitai.mpc.twins import TwinDealer, TwinParty
from mitai.mpc.two.engine import Dealer, Owner, Party
from mitai.mpc.two.local import Cost, together

WAIT_S = 600
Values = Callable[[], Iterable[np.ndarray]]
Program = Callable[..., Any]


class Asked(Owner):
    """Finds out which arrays a program asks of its owners: of which `shapes`, and with how many bits of fraction."""

    def of(self, program: Program, state: Any) -> tuple[dict[str, list[int]], Any]:
        """Return the fractions of a program's inputs, by owner, and what it returns without data; keep shapes."""
        self._fractions: dict[str, list[int]] = {}
        self.shapes: dict[str, list[Shape]] = {}
        _, result = self.plan(partial(_with_state, program, state))
        return self._fractions, result

    def input(self, owner: str, shape: Shape, values: Real | None = None, fraction: int | None = None) -> Secret:
        """Note the fraction."""
        self._fractions.setdefault(owner, []).append(self.fraction if fraction is None else fraction)
        self.shapes.setdefault(owner, []).append(shape)
        return super().input(owner, shape, values, fraction)


def shares(values: Iterable[np.ndarray], bits: Iterable[int], role: int) -> Iterator[Ring]:
    """Yield a party's shares of arrays with so many bits of fraction. The seed is no secret: this protects nothing."""
    for number, (array, fraction) in enumerate(zip(values, bits, strict=True)):
        first = kernels.prg(bytes(16), number, 0, array.size).reshape(array.shape)
        yield first if role == 0 else np.subtract(encode(array, fraction), first, out=first)


class Sides:
    """The three; `cost` adds up what runs take since the last `reset`."""

    def __init__(self) -> None:
        self._links = pair(WAIT_S)
        self._asked = Asked()
        self.dealer = Dealer()
        self.parties = Party(0, self._links[0]), Party(1, self._links[1])
        self.cost = Cost()

    def reset(self) -> Cost:
        """Count from here; return what was counted."""
        cost, self.cost = self.cost, Cost()
        return cost

    def prepare(self, programs: Sequence[Program], state: Sequence[Any]) -> list[tuple[Any, list[Any], Any]]:
        """Deal a batch of runs of `program(engine, state of the side)`; returns plan, tapes and what the dealer has."""
        lines = pair(WAIT_S), pair(WAIT_S)
        ends = lines[0][0], lines[1][0]
        tapes = [[tempfile.TemporaryFile() for _ in range(2)] for _ in programs]  # noqa: SIM115  # closed after use

        def prepare(role: int) -> Any:
            own = [partial(_with_state, program, state[role]) for program in programs]
            return self.parties[role].prepare(own, lines[role][1], lambda number: tapes[number][role])

        def deal() -> Any:
            return self.dealer.deal([partial(_with_state, program, state[2]) for program in programs], ends)

        works = (partial(prepare, 0), ()), (partial(prepare, 1), ()), (deal, ends)
        (plans, first_s), (_, second_s), (blanks, dealer_s) = together(works)
        self.cost.dealer_s += dealer_s
        for role, seconds in enumerate((first_s, second_s)):
            self.cost.offline_s[role] += seconds
            self.cost.dealt_bytes += ends[role].traffic.sent_bytes
        return list(zip(plans, tapes, blanks, strict=True))

    def play(self, program: Program, state: Sequence[Any], ready: Any, **values: Values) -> list[Any]:
        """Run what was prepared; what it returns at party 0, party 1, the dealer and `Asked`."""
        plan, tapes, blank = ready
        asked, without = self._asked.of(program, state[-1])
        for link in self._links:
            link.traffic = Traffic()

        def party(role: int) -> Any:
            tapes[role].seek(0)
            feeds = {owner: shares(make(), asked[owner], role) for owner, make in values.items()}
            with tapes[role]:
                own = partial(_with_state, program, state[role])
                return self.parties[role].run(own, plan, tapes[role], feeds)

        done = together([(partial(party, role), (self._links[role],)) for role in (0, 1)])
        for role, (_, seconds) in enumerate(done):
            self.cost.online_s[role] += seconds
            self.cost.sent_bytes[role] += self._links[role].traffic.sent_bytes
            self.cost.rounds[role] += self._links[role].traffic.rounds
        return [done[0][0], done[1][0], blank, without]

    def do(self, program: Program, state: Sequence[Any] = (None,) * 4, **values: Values) -> list[Any]:
        """Prepare one run and do it."""
        (ready,) = self.prepare([program], state)
        return self.play(program, state, ready, **values)


@dataclass
class Spent:
    """What the sides of another setting took in a run: processor time of each, bytes sent by all, rounds of one."""

    cpu_s: list[float]
    sent_bytes: int
    rounds: int


class ThreeSides:
    """The setting `3pc`, as threads; it keeps what the last run took in `cost`."""

    def __init__(self) -> None:
        self._links: tuple[dict[int, Any], ...] = ({}, {}, {})
        for one, other in ((0, 1), (1, 2), (2, 0)):
            self._links[one][other], self._links[other][one] = pair(WAIT_S)
        self._parties = [Three(role, self._links[role]) for role in range(3)]
        self._asked = Asked()
        self.cost = Spent([], 0, 0)

    def do(self, program: Program, state: Sequence[Any] = (None,) * 4, **values: Values) -> list[Any]:
        """Run it; what it returns at each party."""
        before = self._sent(), self._links[0][1].traffic.rounds
        asked, without = self._asked.of(program, state[-1])

        def party(role: int) -> Any:
            feeds = {owner: replicated(make(), asked[owner], role) for owner, make in values.items()}
            return self._parties[role].run(partial(_with_state, program, state[role]), feeds)

        done = together([(partial(party, role), tuple(self._links[role].values())) for role in range(3)])
        rounds = self._links[0][1].traffic.rounds - before[1]
        self.cost = Spent([seconds for _, seconds in done], self._sent() - before[0], rounds)
        return [*(result for result, _ in done), without]

    def _sent(self) -> int:
        return sum(link.traffic.sent_bytes for links in self._links for link in links.values())


class TwinSides:
    """The setting `twins`, as threads: both halves of `2+1`; it keeps what the last run took in `cost`."""

    def __init__(self) -> None:
        self._between = [pair(WAIT_S) for _ in range(2)]
        self._twins = [pair(WAIT_S) for _ in range(3)]
        self._parties = [
            [TwinParty(role, self._between[half][role], self._twins[role][half]) for role in range(2)]
            for half in range(2)
        ]
        self._asked = Asked()
        self._dealers = [TwinDealer(half, self._twins[2][half]) for half in range(2)]
        self.cost = Spent([], 0, 0)

    def do(self, program: Program, state: Sequence[Any] = (None,) * 7, **values: Values) -> list[Any]:
        """Prepare a run and do it; what it returns at party 0, party 1 and the dealer, of either half."""
        asked, without = self._asked.of(program, state[-1])
        dealt = [(pair(WAIT_S), pair(WAIT_S)) for _ in range(2)]
        links = [link for ends in (*self._between, *self._twins) for link in ends]
        before = sum(link.traffic.sent_bytes for link in links), links[0].traffic.rounds

        def party(half: int, role: int) -> Any:
            own = partial(_with_state, program, state[3 * half + role])
            with tempfile.TemporaryFile() as tape:
                (plan,) = self._parties[half][role].prepare([own], dealt[half][role][1], lambda _: tape)
                tape.seek(0)
                feeds = {owner: shares(make(), asked[owner], role) for owner, make in values.items()}
                return self._parties[half][role].run(own, plan, tape, feeds)

        def deal(half: int) -> Any:
            own = partial(_with_state, program, state[3 * half + 2])
            (blank,) = self._dealers[half].deal([own], (dealt[half][0][0], dealt[half][1][0]))
            return blank

        works: list[tuple[Callable[[], Any], tuple[Any, ...]]] = []
        for half in range(2):
            everybody = (*self._between[half], *(twins[half] for twins in self._twins))
            works += [(partial(party, half, role), everybody) for role in range(2)]
            works.append((partial(deal, half), (*everybody, *(ends[0] for ends in dealt[half]))))
        done = together(works)
        outgoing = [*links, *(ends[0] for both in dealt for ends in both)]
        rounds = links[0].traffic.rounds - before[1]
        sent = sum(link.traffic.sent_bytes for link in outgoing) - before[0]
        self.cost = Spent([seconds for _, seconds in done], sent, rounds)
        return [*(result for result, _ in done), without]


def replicated(values: Iterable[np.ndarray], bits: Iterable[int], role: int) -> Iterator[tuple[Ring, Ring]]:
    """Yield what a party of three holds of arrays: x_i and x_(i+1)."""
    for number, (array, fraction) in enumerate(zip(values, bits, strict=True)):
        encoded = encode(array, fraction)
        first, second = (
            kernels.prg(bytes([key]) * 16, number, 0, encoded.size).reshape(encoded.shape) for key in range(2)
        )
        parts = first, second, encoded - first - second
        yield parts[role], parts[(role + 1) % 3]


def _with_state(program: Program, state: Any, engine: Any) -> Any:
    return program(engine, state)
