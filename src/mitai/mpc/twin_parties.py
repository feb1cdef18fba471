"""Six processes that answer, one of which may do anything: the setting `twins`.

Follows `docs/spec/mpc-parties.md`, "Twins as processes". Each half is what `mitai.mpc.parties` is: two parties and a
dealer. Each second twin also connects to the first one: parties twice, for runs and for tapes, which go on beside each
other. Clients give twins the same shares, and believe a result if twins give the same.

Invariants:

- Twins compare what they received before anything leaves: each emitted result, each revealed one, the end of a run.
- Twins begin a run only with the same shares and the same question of one client: a client that tells them different
  things is turned away, and ends nothing.
- Party 0 alone says which client is next and which tape is made; its twin goes along.

Example:
    >>> own = Own("p1-twin", Credentials(identity), Address("127.0.0.1", 7803), clients=["3f…"])
    >>> serve(own, peers, offer, folder.shares(offer), Path("tapes"))
"""

from __future__ import annotations

import hmac
import secrets
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

from mitai.errors import MpcError
from mitai.mpc.clients import GO, SESSION_BYTES, Door, Guest, Peer
from mitai.mpc.engine import Secret
from mitai.mpc.parties import ABSENT, IDLE_S, ROLES, Meeting, Own, Work, begin, deal_on, ordered, seen
from mitai.mpc.ring import Ring
from mitai.mpc.sockets import SocketLink
from mitai.mpc.store import Store
from mitai.mpc.tasks import QUESTION_BYTES, Offer, Task
from mitai.mpc.twins import TwinDealer, TwinParty

L = TypeVar("L")
TWIN = "-twin"
_LOOK_EVERY_S = 0.2


class _Half:
    """One of the six, its half, and its place in it."""

    def __init__(self, role: str) -> None:
        name = role.removesuffix(TWIN)
        self.first = role == name
        self.twin = role + TWIN if self.first else name
        self.roles = [each if self.first else each + TWIN for each in ROLES]
        self.number = ROLES.index(name)

    def links(self, meeting: Meeting) -> dict[str, SocketLink]:
        """Meet this half, and the twin."""
        before, after = self.roles[: self.number], self.roles[self.number + 1 :]
        return meeting.links(before, [*after, self.twin]) if self.first else meeting.links([self.twin, *before], after)

    def twin_link(self, meeting: Meeting) -> SocketLink:
        """Meet the twin once more, when all six have met."""
        return (meeting.links((), [self.twin]) if self.first else meeting.links([self.twin]))[self.twin]


def deal(own: Own, peers: Mapping[str, Peer], offer: Offer[Any]) -> None:
    """Be one of the two dealers, until a link ends.

    Raises:
        MpcError: Somebody is not who it should be, or has ended.
    """
    half = _Half(own.role)
    with ExitStack() as stack:
        links = half.links(Meeting(own, peers, stack))
        begin(own, offer, links.values())
        first, second, _ = half.roles
        deal_on(own, offer, TwinDealer(0 if half.first else 1, links[half.twin]), (links[first], links[second]))


def serve(own: Own, peers: Mapping[str, Peer], offer: Offer[Any], model: Iterable[Ring], tapes: Path) -> None:
    """Be one of the four parties, until a link ends.

    Args:
        own: This process.
        peers: The five others.
        offer: What is served.
        model: This party's shares of the model, in the program's order; its twin has the same.
        tapes: A folder for tapes; what is in it is removed.

    Raises:
        MpcError: Somebody is not who it should be, or has ended; `mpc.twin-mismatch`: somebody cheats.
    """
    half = _Half(own.role)
    own = own.among(peers)
    with ExitStack() as stack:
        meeting = Meeting(own, peers, stack)
        links = half.links(meeting)
        begin(own, offer, links.values())
        orders = half.twin_link(meeting)
        orders.be_patient(IDLE_S)
        store = Store(tapes, secrets.token_bytes(32), half.number, own.tapes_bytes)
        store.clear()
        ways = links[half.roles[1 - half.number]], links[half.roles[2]]
        work = _Work(own, offer, ways, store, (links[half.twin], orders))
        work.load(model)
        door = Door(meeting.server, own.credentials, own.clients, offer)
        stack.callback(door.close)
        work.go_on(door)


class _Work(Work[L]):
    """What one of the four parties does.

    Args:
        own: This process.
        offer: What is served.
        links: The ways to the other party and to the dealer of the same half.
        store: For tapes.
        twins: The ways to the twin: for runs, and for tapes.
    """

    def __init__(
        self,
        own: Own,
        offer: Offer[L],
        links: tuple[SocketLink, SocketLink],
        store: Store,
        twins: tuple[SocketLink, SocketLink],
    ) -> None:
        half = _Half(own.role)
        self._runs, self._orders = twins
        self._twin = TwinParty(half.number, links[0], self._runs)
        super().__init__(own, offer, links, store, (self._twin, TwinParty(half.number, links[0], self._orders)))
        self._links, self._ways = (*links, *twins), (links[0], self._runs)
        self._leads, self._follows = (half.first, not half.first) if half.number == 0 else (False, False)

    def go_on(self, door: Door) -> None:
        """See `Serving.go_on`. Who follows party 0 hears of nobody else while nobody asks: so it looks."""
        if self._follows:
            threading.Thread(target=self._watch, name="mitai-mpc-watch", daemon=True).start()
        super().go_on(door)

    def _watch(self) -> None:
        try:
            while True:
                self._check()
                time.sleep(_LOOK_EVERY_S)
        except MpcError as error:
            self._failed = self._failed or error
            for link in self._links:
                link.abort()

    def _order(self, turns: list[Task[L]]) -> tuple[Task[L], int]:
        if not self._leads and not self._follows:
            return self._followed(self._dealer)
        task, number = self._needed(turns) if self._leads else self._followed(self._orders)
        if self._leads:
            self._orders.send(ordered(task, number))
        self._dealer.send(ordered(task, number))
        return task, number

    def _proposed(self, door: Door) -> Guest | None:
        """Return the client whose turn party 0 says it is, if it is here."""
        guest: Guest | None
        if self._leads:
            guest = door.next(self._startable, self._check)
            said = guest.said
            self._runs.send(said)
        else:
            said = bytes((self._runs if self._follows else self._other).receive(SESSION_BYTES + QUESTION_BYTES))
            guest = door.find(said)
        if self._party.role == 0:
            self._other.send(said)
        return guest

    def _same(self, guest: Guest | None) -> bool:
        """Tell whether the twin has the same client, with the same shares."""
        mine = seen(guest)
        self._runs.send(mine)
        return hmac.compare_digest(bytes(self._runs.receive(len(mine))), mine) and guest is not None

    def _agreed(self, same: bool) -> bool:
        """Tell whether all four are the same to their twins: party 1 tells party 0, and both of these each other."""
        if self._party.role:
            self._other.send(GO if same else ABSENT)
            return bytes(self._other.receive(1)) == GO
        go = bytes(self._other.receive(1)) == GO and same
        self._runs.send(GO if go else ABSENT)
        go = bytes(self._runs.receive(1)) == GO and go
        self._other.send(GO if go else ABSENT)
        return go

    def _emit(self, guest: Guest, x: Secret) -> None:
        self._twin.compare()
        guest.emit(x)
