"""Three processes that answer: two parties with shares of a model, and a dealer who never sees a prompt.

Follows `docs/spec/mpc-links.md`, "Parties". Party 1 and the dealer connect to party 0, the dealer also to party 1, and
clients to both parties; the dealer listens nowhere.

Invariants:

- All three walk through the same task, with shares of the same cut of the model: that is compared first.
- Tapes are made ahead in a thread of their own, while others are used up; they lie in a `Store` under a key that only
  this process has.
- What goes wrong between the three ends all of them: a run is never taken up again.

Example:
    >>> own = Own("p0", Credentials(identity), Address("127.0.0.1", 7800), clients=["3f…"])
    >>> serve(own, peers, task, shares, Path("tapes"))
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from socket import socket
from typing import Any, Generic, TypeVar

from mitai.errors import MpcError
from mitai.mpc.attested import Credentials
from mitai.mpc.clients import SESSION_BYTES, Door, Guest, Peer, reach
from mitai.mpc.meeting import Address, gathered, listening
from mitai.mpc.ring import Ring
from mitai.mpc.sockets import SocketLink, lost
from mitai.mpc.store import Store
from mitai.mpc.tasks import Task, Walk, agree, answering
from mitai.mpc.two.engine import Dealer, Party

L = TypeVar("L")
ROLES = ("p0", "p1", "dealer")
MEET_S, IDLE_S = 600.0, 30 * 86400.0
_NUMBER_BYTES = 8
_LOAD = "load"
_GO, _ABSENT = b"\1", b"\0"


@dataclass(frozen=True)
class Own:
    """This process.

    Attributes:
        role: `p0`, `p1` or `dealer`.
        credentials: Its key, and what it shows and demands beside it.
        listen: Where a party listens.
        clients: Key ids of those who may ask.
        ahead: How many tapes are kept ready.
        note: Told what happens, in words for people.
    """

    role: str
    credentials: Credentials = field(repr=False)
    listen: Address | None = None
    clients: Collection[str] = ()
    ahead: int = 2
    note: Callable[[str], None] = field(default=lambda _: None, repr=False)


def deal(own: Own, parties: Mapping[str, Peer], task: Task[Any]) -> None:
    """Be the dealer, until a party ends.

    Raises:
        MpcError: A party is not who it should be, or has ended.
    """
    with ExitStack() as stack:
        until = time.monotonic() + MEET_S
        links = tuple(stack.enter_context(reach(own.credentials, parties[role], until, MEET_S)) for role in ROLES[:2])
        first, second = links
        for link in links:
            agree(link, task)
            link.be_patient(IDLE_S)
        own.note("all three are here")
        dealer = Dealer()
        (loaded,) = dealer.deal([task.load], (first, second))
        own.note("dealt the model's masks")
        program = answering(task, loaded, lambda _: None)
        while True:
            numbers = {bytes(link.receive(_NUMBER_BYTES)) for link in links}
            if len(numbers) != 1:
                raise MpcError("mpc.tape-mismatch", "the parties ask for tapes of different runs")
            began = time.monotonic()
            dealer.deal([program], (first, second))
            sent = sum(link.traffic.sent_bytes for link in links) / 1e6
            number = int.from_bytes(numbers.pop(), "little")
            own.note(f"dealt run {number} in {time.monotonic() - began:.1f} s; {sent:.1f} MB sent in all")


def serve(own: Own, peers: Mapping[str, Peer], task: Task[Any], model: Iterable[Ring], tapes: Path) -> None:
    """Be a party, until another one ends.

    Args:
        own: This process, `p0` or `p1`.
        peers: The two others.
        task: What is computed.
        model: This party's shares of the model, in the program's order.
        tapes: A folder for tapes; what is in it is removed.

    Raises:
        MpcError: Another one is not who it should be, or has ended.
    """
    if own.listen is None:
        raise MpcError("mpc.config", "a party has to listen somewhere", hint='listen = "HOST:PORT"')
    with ExitStack() as stack:
        server = stack.enter_context(listening(own.listen))
        own.note(f"listening at {Address(own.listen.host, server.getsockname()[1])}")
        other, dealer = _meet(own, peers, server)
        for link in (other, dealer):
            stack.push(link)
        for link in (other, dealer):
            agree(link, task)
            link.be_patient(IDLE_S)
        own.note("all three are here")
        store = Store(tapes, secrets.token_bytes(32), ROLES.index(own.role))
        store.clear()
        walk = Walk()
        walk.answer(task)
        work = _Work(own, task, other, dealer, store)
        work.load(model)
        door = Door(server, own.credentials, own.clients, task, walk.asked["client"])
        stack.callback(door.close)
        work.go_on(door)


def _meet(own: Own, peers: Mapping[str, Peer], server: socket) -> tuple[SocketLink, SocketLink]:
    """Return the links to the other party and to the dealer."""
    names = {peers[role].key_id: role for role in ROLES if role != own.role}

    def welcome(end: socket) -> tuple[str, SocketLink]:
        peer, link = own.credentials.link(end, lambda key: key.key_id in names, serving=True)
        link.be_patient(MEET_S)
        return names[peer.key_id], link

    until = time.monotonic() + MEET_S
    if own.role == ROLES[0]:
        links = gathered(server, welcome, 2, until)
        return links[ROLES[1]], links["dealer"]
    other = reach(own.credentials, peers[ROLES[0]], until, MEET_S)
    try:
        return other, gathered(server, welcome, 1, until)["dealer"]
    except BaseException:
        other.abort()
        raise


class _Work(Generic[L]):
    """What a party does once all three are here."""

    def __init__(self, own: Own, task: Task[L], other: SocketLink, dealer: SocketLink, store: Store) -> None:
        self._own, self._task, self._other, self._dealer, self._store = own, task, other, dealer, store
        self._party = Party(ROLES.index(own.role), other)
        self._changed = threading.Condition()
        self._failed: MpcError | None = None

    def load(self, model: Iterable[Ring]) -> None:
        """Take this party's shares of the model."""
        began = time.monotonic()
        program = self._task.load
        with self._store.batch() as batch:
            (plan,) = self._party.prepare([program], self._dealer, lambda _: batch.tape(_LOAD, 0))
        with self._store.take(_LOAD, 0) as tape:
            self._loaded = self._party.run(program, plan, tape, {"model": model})
        self._plan, _ = self._party.plan(answering(self._task, self._loaded, lambda _: None))
        self._own.note(f"the model is loaded in {time.monotonic() - began:.1f} s")

    def go_on(self, door: Door) -> None:
        """Answer clients, and make tapes beside it."""
        threading.Thread(target=self._make_tapes, name="mitai-mpc-tapes", daemon=True).start()
        try:
            while True:
                self._answer(self._next(door))
        except MpcError:
            if self._failed is not None:
                raise self._failed from None
            raise

    # --- tapes, in a thread of their own ---

    def _make_tapes(self) -> None:
        # another party than the one that runs: planning would wait for its runs
        party, number = Party(self._party.role, self._other), 0
        program = answering(self._task, self._loaded, lambda _: None)
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: len(self._ready()) < self._own.ahead)
                began = time.monotonic()
                self._dealer.send(number.to_bytes(_NUMBER_BYTES, "little"))
                with self._store.batch() as batch:
                    sink = batch.tape(self._task.name, number)
                    party.prepare([program], self._dealer, lambda _, sink=sink: sink)  # type: ignore[misc]
                took, held = time.monotonic() - began, self._store.used_bytes() / 1e6
                self._own.note(f"tape {number} made in {took:.1f} s; {len(self._ready())} ready, {held:.1f} MB")
                number += 1
        except (MpcError, OSError) as error:
            self._failed = error if isinstance(error, MpcError) else _disk(error)
            self._other.abort()

    def _ready(self) -> list[int]:
        return self._store.numbers(self._task.name)

    def _next_tape(self) -> int:
        """Wait until both parties have the same next tape."""
        while (number := self._store.common(self._task.name, self._other)) is None:
            time.sleep(0.02)
        return number

    # --- answers ---

    def _next(self, door: Door) -> Guest:
        """Return the next client of whom both parties have the shares; party 0 says whose turn it is."""
        while True:
            if self._party.role:
                guest = door.find(bytes(self._other.receive(SESSION_BYTES)))
                self._other.send(_GO if guest else _ABSENT)
                if guest:
                    return guest
            else:
                guest = door.next(self._check)
                self._other.send(guest.session)
                if bytes(self._other.receive(1)) == _GO:
                    return guest
                guest.end()

    def _check(self) -> None:
        if self._failed is not None:
            raise self._failed
        for link in (self._other, self._dealer):
            if link.ended():
                raise lost("it has ended while nobody asked")

    def _answer(self, guest: Guest) -> None:
        number = self._next_tape()
        traffic, began = self._other.traffic, time.monotonic()
        sent, rounds = traffic.sent_bytes, traffic.rounds
        with self._store.take(self._task.name, number) as tape:
            with self._changed:
                self._changed.notify_all()
            program = answering(self._task, self._loaded, guest.emit)
            self._party.run(program, self._plan, tape, {"client": guest.shares})
        guest.end()
        sent, rounds, took = traffic.sent_bytes - sent, traffic.rounds - rounds, time.monotonic() - began
        self._own.note(f"run {number} took {took:.1f} s: {sent / 1e6:.1f} MB sent, {rounds} rounds")


def _disk(error: OSError) -> MpcError:
    return MpcError("mpc.store-failed", f"tapes can't be written: {error.strerror}", hint="is there space?")
