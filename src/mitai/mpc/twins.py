"""Sides that may cheat: the setting `2+1` with every side twice, and nothing revealed before twins have compared.

Follows `docs/spec/mpc-parties.md`, "Twins". Party 0, party 1 and the dealer each have a twin on a machine of its own.
The twins of a side have the same shares and draw the same randomness, so they send the same bytes. Both halves, the
first of all sides and the second of all sides, run the program beside each other; whoever deviates makes what one
side receives differ between its twins, and they find out when they compare digests: after preparing, before and after
anything is revealed, and before a run's results leave.

Invariants (at most one of the six machines is dishonest, in any way):

- Privacy is that of `2+1`: a machine sees what its side sees there. What honest sides send is masked, whatever they
  were sent before, so a lie that is found out late has told nothing.
- No wrong result is handed out: of each side that received a lie, one twin received the truth.
- Twins compute the same bits on any processor (`mitai.mpc.reproducible`); a difference ends the run, it is never
  settled by a vote.

Example:
    >>> from mitai.mpc.twins_local import run
    >>> run(lambda engine: engine.reveal(engine.input("client", (2,), np.array([1.5, -2.0])) * 2.0))
    array([ 3., -4.])
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from mitai.errors import MpcError
from mitai.mpc.engine import Secret
from mitai.mpc.link import Link
from mitai.mpc.ring import Real
from mitai.mpc.two.core import Feeds, Program
from mitai.mpc.two.engine import Dealer, Party
from mitai.mpc.two.pads import Plan, Sink, Source, Stream

T = TypeVar("T")
LABEL = b"mitai mpc twin dealers v1\n"
SEED_BYTES = 16


class Witnessed:
    """A link that remembers, as a digest, what came over it."""

    def __init__(self, link: Link) -> None:
        self.traffic = link.traffic
        self._link = link
        self._digest = hashlib.sha256()

    def send(self, data: bytes | memoryview) -> None:
        """See `Link.send`."""
        self._link.send(data)

    def receive(self, size: int) -> memoryview:
        """See `Link.receive`."""
        data = self._link.receive(size)
        self._digest.update(size.to_bytes(8, "little"))
        self._digest.update(data)
        return data

    def close(self) -> None:
        """See `Link.close`."""
        self._link.close()

    def compare(self, twin: Link) -> None:
        """Make sure that the twin received the same until now.

        Raises:
            MpcError: `mpc.twin-mismatch`.
        """
        mine = self._digest.digest()
        twin.send(mine)
        if not secrets.compare_digest(bytes(twin.receive(len(mine))), mine):
            raise MpcError(
                "mpc.twin-mismatch",
                "this party and its twin received different messages: somebody cheats, or a machine fails",
                hint="no wrong result was handed out; find out who, by the logs of both, before a new run",
            )


class TwinParty(Party):
    """One twin of a party.

    Args:
        role: 0 or 1.
        link: The way to the other party, in the same half.
        twin: The way to this party's twin, in the other half; nobody else may read it or write to it.
    """

    def __init__(self, role: int, link: Link, twin: Link) -> None:
        self._witnessed = Witnessed(link)
        self._twin = twin
        super().__init__(role, self._witnessed)

    def prepare(self, programs: Sequence[Program[T]], dealer: Link, tape: Callable[[int], Sink]) -> list[Plan]:
        """See `Party.prepare`; tapes may be used only if this returns."""
        witnessed = Witnessed(dealer)
        plans = super().prepare(programs, witnessed, tape)
        witnessed.compare(self._twin)
        return plans

    def run(self, program: Program[T], plan: Plan, tape: Source, feeds: Feeds | None = None) -> T:
        """See `Party.run`."""
        result = super().run(program, plan, tape, feeds)
        self.compare()
        return result

    def compare(self) -> None:
        """Make sure, together with the twin, that both have received the same: before anything leaves for a reader.

        Raises:
            MpcError: `mpc.twin-mismatch`.
        """
        self._witnessed.compare(self._twin)

    def reveal(self, x: Secret) -> Real:
        """See `Engine.reveal`."""
        if self.offline:
            return super().reveal(x)
        self.compare()
        values = super().reveal(x)
        self.compare()
        return values


class TwinDealer(Dealer):
    """One twin of the dealer; for each batch the two agree on a seed, from which both draw the same keys.

    Args:
        number: 0 or 1.
        twin: The way to the other.
    """

    def __init__(self, number: int, twin: Link) -> None:
        super().__init__()
        self._number = number
        self._twin = twin

    def deal(self, programs: Sequence[Program[T]], links: tuple[Link, Link]) -> list[T]:
        """See `Dealer.deal`."""
        mine = secrets.token_bytes(SEED_BYTES)
        self._twin.send(mine)
        halves = [mine, bytes(self._twin.receive(SEED_BYTES))]
        seed = hashlib.sha256(LABEL + halves[self._number] + halves[1 - self._number]).digest()[:SEED_BYTES]
        self._keys = Stream(seed, 0)
        return super().deal(programs, links)

    def draw(self, size: int) -> bytes:
        """See `Dealer.draw`."""
        return self._keys.take((size,), np.uint8).tobytes()
