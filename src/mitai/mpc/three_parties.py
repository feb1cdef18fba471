"""Three processes that answer without a dealer: the setting `3pc`.

Follows `docs/spec/mpc-parties.md`, "Three parties as processes". Party 1 connects to party 0, party 2 to both, and
clients to all three. There are no tapes: party 2 deals while a run goes on.

Invariants:

- All three begin a run only when a client told all the same question, and gave all its shares.
- What is emitted goes to the client; a task that would reveal something after noise was drawn does not run.
- What goes wrong between the three ends all of them: a run is never taken up again.

Example:
    >>> own = Own("p2", Credentials(identity), Address("127.0.0.1", 7802), clients=["3f…"])
    >>> serve(own, peers, offer, folder.parts(offer))
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any, TypeVar

from mitai.errors import MpcError
from mitai.mpc.clients import GO, SESSION_BYTES, Door, Guest, Peer
from mitai.mpc.parties import ABSENT, Meeting, Own, Serving, begin, silent
from mitai.mpc.settings import SETTINGS, Parts
from mitai.mpc.sockets import SocketLink
from mitai.mpc.tasks import QUESTION_BYTES, Offer, any_question
from mitai.mpc.three import Three
from mitai.mpc.two.pads import Plan

L = TypeVar("L")
ROLES = SETTINGS["3pc"].parties


def serve(own: Own, peers: Mapping[str, Peer], offer: Offer[Any], model: Iterable[Parts]) -> None:
    """Be a party, until another one ends.

    Args:
        own: This process.
        peers: The two others.
        offer: What is served.
        model: This party's two shares of each array of the model, in the program's order.

    Raises:
        MpcError: Another one is not who it should be, or has ended.
    """
    role = ROLES.index(own.role)
    own = own.among(peers)
    with ExitStack() as stack:
        meeting = Meeting(own, peers, stack)
        links = meeting.links(ROLES[:role], ROLES[role + 1 :])
        begin(own, offer, links.values())
        work = _Work(own, offer, links)
        work.load(model)
        door = Door(meeting.server, own.credentials, own.clients, offer)
        stack.callback(door.close)
        work.go_on(door)


class _Work(Serving[L]):
    """What one of the three does."""

    def __init__(self, own: Own, offer: Offer[L], links: Mapping[str, SocketLink]) -> None:
        super().__init__(own, offer, list(links.values()), list(links.values()))
        self._party = Three(ROLES.index(own.role), {ROLES.index(role): link for role, link in links.items()})
        self._plans: dict[str, Plan] = {}
        self._runs = 0

    def load(self, model: Iterable[Parts]) -> None:
        """Take this party's shares of the model."""
        began = time.monotonic()
        self._loaded = self._party.run(self._offer.load, {"model": model})
        self._own.note(f"the model is loaded in {time.monotonic() - began:.1f} s")

    def _next(self, door: Door) -> Guest:
        while True:
            guest, go = self._leading(door) if self._party.role == 0 else self._following(door)
            if guest is not None and go:
                return guest
            if guest is not None:
                door.back(guest)
            elif go:
                raise MpcError("mpc.link-mismatch", "a run was begun for a client who is not here")

    def _leading(self, door: Door) -> tuple[Guest, bool]:
        """Propose a client to both others, and tell them whether both have its shares."""
        guest = door.next(lambda _: True, self._check)
        for link in self._links:
            link.send(guest.said)
        go = all([bytes(link.receive(1)) == GO for link in self._links])  # noqa: C419 - each says something
        for link in self._links:
            link.send(GO if go else ABSENT)
        return guest, go

    def _following(self, door: Door) -> tuple[Guest | None, bool]:
        """Say whether the client that party 0 proposes is here, and hear whether it is with all."""
        first = self._links[0]
        guest = door.find(bytes(first.receive(SESSION_BYTES + QUESTION_BYTES)))
        first.send(GO if guest else ABSENT)
        return guest, bytes(first.receive(1)) == GO

    def _prepared(self, guest: Guest) -> int:
        task = guest.question.task
        if task.name not in self._plans:
            self._plans[task.name] = self._party.plan(any_question(task).program(self._loaded, silent))
        self._runs += 1
        return self._runs - 1

    def _run(self, guest: Guest, number: int) -> None:
        del number
        program = guest.question.program(self._loaded, guest.emit)
        self._party.run(program, {"client": guest.shares}, self._plans[guest.question.task.name])
