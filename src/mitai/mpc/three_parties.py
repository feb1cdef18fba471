"""Three processes that answer without a dealer: the setting `3pc`.

Follows `docs/spec/mpc-parties.md`, "Three parties as processes". Party 1 connects to party 0, party 2 to both, and
clients to all three. There are no tapes: party 2 deals while a run goes on.

Invariants:

- All three begin a run only when a client told all the same question, and gave those who have the same share the same:
  with others it could learn of the model what no answer tells.
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

from mitai.mpc.clients import GO, SESSION_BYTES, Door, Guest, Peer
from mitai.mpc.parties import ABSENT, DIGEST_BYTES, Meeting, Own, Serving, begin, seen, silent
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
        self._others = {role: links[role] for role in ROLES if role in links}  # party 0 is first, or 1 with 0
        super().__init__(own, offer, list(self._others.values()), list(self._others.values()))
        self._party = Three(ROLES.index(own.role), {ROLES.index(role): link for role, link in links.items()})
        self._plans: dict[str, Plan] = {}
        self._runs = 0

    def load(self, model: Iterable[Parts]) -> None:
        """Take this party's shares of the model."""
        began = time.monotonic()
        self._loaded = self._party.run(self._offer.load, {"model": model})
        self._own.note(f"the model is loaded in {time.monotonic() - began:.1f} s")

    def _proposed(self, door: Door) -> Guest | None:
        """Return the client whose turn party 0 says it is, if it is here."""
        if self._party.role:
            return door.find(bytes(self._links[0].receive(SESSION_BYTES + QUESTION_BYTES)))
        guest = door.next(lambda _: True, self._check)
        for link in self._links:
            link.send(guest.said)
        return guest

    def _same(self, guest: Guest | None) -> bool:
        """Tell whether both others have this client, each with the same shares where it has the same."""
        following = (self._party.role + 1) % len(ROLES)
        digests = {role: seen(guest, int(ROLES.index(role) == following)) for role in self._others}
        for role, link in self._others.items():
            link.send(digests[role])
        its = {role: bytes(link.receive(DIGEST_BYTES)) for role, link in self._others.items()}
        return guest is not None and its == digests

    def _agreed(self, same: bool) -> bool:
        """Tell whether all three are the same to the others: both tell party 0, and hear what it was told."""
        if self._party.role:
            self._links[0].send(GO if same else ABSENT)
            return bytes(self._links[0].receive(1)) == GO
        said = [bytes(link.receive(1)) for link in self._links]
        go = same and said == [GO, GO]
        for link in self._links:
            link.send(GO if go else ABSENT)
        return go

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
