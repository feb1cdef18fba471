"""Three processes that answer: two parties with shares of a model, and a dealer who never sees a prompt.

Follows `docs/spec/mpc-links.md`, "Parties". Party 1 and the dealer connect to party 0, the dealer also to party 1, and
clients to both parties; the dealer listens nowhere.

Invariants:

- All three serve the same tasks, with shares of the same cut of the model: that is compared first. Both parties begin
  a run only when a client told both the same question.
- Tapes are made ahead in a thread of their own, while others are used up; they lie in a `Store` under a key that only
  this process has. Party 0 says which ones are made: those that are waited for first, then each task in turn.
- What goes wrong between the three ends all of them: a run is never taken up again.

Example:
    >>> own = Own("p0", Credentials(identity), Address("127.0.0.1", 7800), clients=["3f…"])
    >>> serve(own, peers, offer, shares, Path("tapes"))
"""

from __future__ import annotations

import hashlib
import secrets
import struct
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from socket import socket
from typing import Any, Generic, NoReturn, TypeVar

import numpy as np

from mitai.errors import MpcError
from mitai.mpc.attested import Credentials
from mitai.mpc.clients import GO, SESSION_BYTES, Door, Guest, Peer, reach
from mitai.mpc.engine import Secret
from mitai.mpc.meeting import Address, gathered, listening
from mitai.mpc.receipts import Hook, Log, Signer, about
from mitai.mpc.ring import Ring
from mitai.mpc.sockets import SocketLink, lost
from mitai.mpc.store import Store
from mitai.mpc.tasks import QUESTION_BYTES, Offer, Task, agree, any_question, program_id
from mitai.mpc.two.engine import Dealer, Party
from mitai.mpc.two.pads import Plan

L = TypeVar("L")
ROLES = ("p0", "p1", "dealer")
MEET_S, RUN_S, IDLE_S = 600.0, 600.0, 30 * 86400.0
ORDER = struct.Struct("<16sQ")  # a tape that is to be made: of which task, and its number
_LOAD = "load"
ABSENT = b"\0"
DIGEST_BYTES = 32
_LABEL = b"mitai mpc guests v1\0"


@dataclass(frozen=True)
class Own:
    """This process.

    Attributes:
        role: `p0`, `p1` or `dealer`.
        credentials: Its key, and what it shows and demands beside it.
        listen: Where a party listens.
        clients: Key ids of those who may ask.
        ahead: How many tapes are kept ready for the first task.
        ahead_others: How many for each other one; one at least once somebody has asked for it.
        tapes_bytes: How much of the disk tapes may take; one for each task has to fit.
        note: Told what happens, in words for people.
        log: Is given each receipt, after its exchange's name, to have it logged; never waited for.
        show: Is given a function that tells, at any time, how things stand, in a line for people.
        others: Key ids of the other sides by role, which receipts name.
    """

    role: str
    credentials: Credentials = field(repr=False)
    listen: Address | None = None
    clients: Collection[str] = ()
    ahead: int = 2
    ahead_others: int = 0
    tapes_bytes: int = 64 << 30
    note: Callable[[str], None] = field(default=lambda _: None, repr=False)
    log: Hook | None = field(default=None, repr=False)
    show: Callable[[Callable[[], str]], None] = field(default=lambda _: None, repr=False)
    others: Mapping[str, str] = field(default_factory=dict)

    def among(self, peers: Mapping[str, Peer]) -> Own:
        """Return it beside these others."""
        return replace(self, others={role: peer.key_id for role, peer in peers.items() if role != self.role})

    @property
    def place(self) -> Address:
        """Where it listens; raises `MpcError` where it does not."""
        if self.listen is None:
            raise MpcError("mpc.config", f"{self.role} has to listen somewhere", hint='listen = "HOST:PORT"')
        return self.listen


def deal(own: Own, parties: Mapping[str, Peer], offer: Offer[Any]) -> None:
    """Be the dealer, until a party ends.

    Raises:
        MpcError: A party is not who it should be, or has ended.
    """
    with ExitStack() as stack:
        links = Meeting(own, parties, stack).links(ROLES[:2])
        begin(own, offer, links.values())
        deal_on(own, offer, Dealer(), (links["p0"], links["p1"]))


def deal_on(own: Own, offer: Offer[Any], dealer: Dealer, links: tuple[SocketLink, SocketLink]) -> NoReturn:
    """Deal to party 0 and party 1, as party 0 orders it, until a link ends."""
    first, second = links
    (loaded,) = dealer.deal([offer.load], links)
    own.note("dealt the model's masks")
    dealt = 0
    own.show(lambda: f"{dealt} runs dealt, {sum(link.traffic.sent_bytes for link in links) / 1e6:.0f} MB sent")
    while True:
        order = bytes(first.receive(ORDER.size))
        task, number = read_order(offer, order)
        second.send(order)
        began = time.monotonic()
        dealer.deal([any_question(task).program(loaded, silent)], links)
        sent = sum(link.traffic.sent_bytes for link in links) / 1e6
        dealt += 1
        own.note(f"dealt {task.name} {number} in {time.monotonic() - began:.1f} s; {sent:.1f} MB sent in all")


def serve(own: Own, peers: Mapping[str, Peer], offer: Offer[Any], model: Iterable[Ring], tapes: Path) -> None:
    """Be a party, until another one ends.

    Args:
        own: This process, `p0` or `p1`.
        peers: The two others.
        offer: What is served.
        model: This party's shares of the model, in the program's order.
        tapes: A folder for tapes; what is in it is removed.

    Raises:
        MpcError: Another one is not who it should be, or has ended.
    """
    role, own = ROLES.index(own.role), own.among(peers)
    with ExitStack() as stack:
        meeting = Meeting(own, peers, stack)
        links = meeting.links(ROLES[:role], ROLES[role + 1 :])
        begin(own, offer, links.values())
        store = Store(tapes, secrets.token_bytes(32), role, own.tapes_bytes)
        store.clear()
        other = links[ROLES[1 - role]]
        work = Work(own, offer, (other, links["dealer"]), store, (Party(role, other), Party(role, other)))
        work.load(model)
        door = Door(meeting.server, own.credentials, own.clients, offer)
        stack.callback(door.close)
        work.go_on(door)


class Meeting:
    """Where a process finds the others.

    Args:
        own: This process.
        peers: The others.
        stack: Closes what is opened; cuts links where something fails.
    """

    def __init__(self, own: Own, peers: Mapping[str, Peer], stack: ExitStack) -> None:
        self._own, self._peers, self._stack = own, peers, stack

    @cached_property
    def server(self) -> socket:
        """The listening socket; opened when somebody is awaited, so that nobody waits for a process that waits."""
        own = self._own
        server = self._stack.enter_context(listening(own.place))
        own.note(f"listening at {Address(own.place.host, server.getsockname()[1])}")
        return server

    def links(self, reached: Iterable[str], awaited: Collection[str] = ()) -> dict[str, SocketLink]:
        """Return the links to others, by their roles: first those that are reached, then those that come."""
        own, links, names, until = self._own, {}, dict[str, str](), time.monotonic() + MEET_S

        def welcome(end: socket) -> tuple[str, SocketLink]:
            peer, link = own.credentials.link(end, lambda key: key.key_id in names, serving=True)
            link.be_patient(MEET_S)
            return names[peer.key_id], link

        for role in reached:
            links[role] = self._stack.enter_context(reach(own.credentials, self._peers[role], until, MEET_S))
        if awaited:
            server = self.server
            names |= {self._peers[role].key_id: role for role in awaited}
            for role, link in gathered(server, welcome, len(awaited), until).items():
                links[role] = self._stack.enter_context(link)
        return links


def begin(own: Own, offer: Offer[Any], links: Collection[SocketLink]) -> None:
    """Compare with all others what is served; from then on, waiting for them has no end."""
    for link in links:
        agree(link, offer, offer.tasks)
        link.be_patient(IDLE_S)
    own.note("all are here")


class Serving(ABC, Generic[L]):
    """What a party does once all are here and the model is loaded: one answer after another.

    Args:
        own: This process.
        offer: What is served.
        links: The ways to the others.
        ways: Those of them that runs go over; first the one whose rounds are told.
    """

    def __init__(self, own: Own, offer: Offer[L], links: Sequence[SocketLink], ways: Sequence[SocketLink]) -> None:
        self._own, self._offer, self._links, self._ways = own, offer, links, ways
        self._signer = Signer(own.role, own.credentials, own.others)
        self._log = Log(own.log, own.note) if own.log is not None else None
        self._failed: MpcError | None = None
        self._done = 0
        self._running: tuple[str, float, int, int] | None = None  # what, since when, bytes and rounds by then
        own.show(self.line)

    def line(self) -> str:
        """Tell how things stand, in a line for people."""
        running = self._running
        told = [f"answers: {self._done}"]
        if running is not None:
            name, began, sent, rounds = running
            took, mb = time.monotonic() - began, (self._sent_bytes - sent) / 1e6
            speed = mb / max(took, 0.001)
            told += [f"{name}: {took:.0f} s, {self._rounds - rounds} rounds, {mb:.1f} MB sent, {speed:.1f} MB/s"]
        return " · ".join(told + self._stock())

    def _stock(self) -> list[str]:
        """Tell what is ready for further runs."""
        return []

    def go_on(self, door: Door) -> None:
        """Answer clients."""
        try:
            while True:
                self._attend(self._next(door))
        except MpcError:
            if self._failed is not None:
                raise self._failed from None
            raise

    def _attend(self, guest: Guest) -> None:
        """Answer a client; a side that stalls meanwhile is not waited for as long as one that is not asked."""
        try:
            for link in self._ways:
                link.be_patient(RUN_S)
            self._answer(guest)
            for link in self._ways:
                link.be_patient(IDLE_S)
        except BaseException:
            guest.end()
            raise

    def _next(self, door: Door) -> Guest:
        """Return the next client of whom all parties have the shares."""
        while True:
            guest = self._proposed(door)
            same = self._same(guest)
            go = self._agreed(same)
            if guest is not None and same and go:
                return guest
            if go:
                raise MpcError("mpc.link-mismatch", "a run was begun for a client who is not here")
            if guest is not None:
                door.back(guest)

    @abstractmethod
    def _proposed(self, door: Door) -> Guest | None:
        """Return the client whose turn it is, as party 0 says, if it is here; pass on who it is."""

    def _same(self, guest: Guest | None) -> bool:
        """Tell whether this client is here, with the same shares as where they have to be the same."""
        return guest is not None

    @abstractmethod
    def _agreed(self, same: bool) -> bool:
        """Tell whether it is the same with all parties."""

    @abstractmethod
    def _prepared(self, guest: Guest) -> int:
        """Wait until the run for a client can begin, and return its number."""

    @abstractmethod
    def _run(self, guest: Guest, number: int) -> None:
        """Compute a client's answer, and let it have it."""

    def _answer(self, guest: Guest) -> None:
        number = self._prepared(guest)
        began, started = time.monotonic(), datetime.now(UTC)
        name, sent, rounds = guest.question.task.name, self._sent_bytes, self._rounds
        self._running = (name, began, sent, rounds)
        self._run(guest, number)
        self._running, self._done = None, self._done + 1
        fields = about(self._offer, guest.question, guest.session)
        receipt = self._signer.sign(fields, guest.transcript, started)
        guest.end(receipt)
        if self._log is not None:
            self._log.put(fields["exchange"], receipt)
        sent, rounds, took = self._sent_bytes - sent, self._rounds - rounds, time.monotonic() - began
        self._own.note(f"run {number} of {name} took {took:.1f} s: {sent / 1e6:.1f} MB sent, {rounds} rounds")

    @property
    def _sent_bytes(self) -> int:
        return sum(link.traffic.sent_bytes for link in self._ways)

    @property
    def _rounds(self) -> int:
        return self._ways[0].traffic.rounds

    def _check(self) -> None:
        if self._failed is not None:
            raise self._failed
        for link in self._links:
            if link.ended():
                raise lost("it has ended while nobody asked")


class Work(Serving[L]):
    """A party of two with a dealer, who makes tapes beside its answers.

    Args:
        own: This process.
        offer: What is served.
        links: The ways to the other party and to the dealer.
        store: For tapes.
        ends: Of the protocol: one that runs, and one that prepares beside it, as planning would wait for a run.
    """

    def __init__(
        self,
        own: Own,
        offer: Offer[L],
        links: tuple[SocketLink, SocketLink],
        store: Store,
        ends: tuple[Party, Party],
    ) -> None:
        super().__init__(own, offer, links, links[:1])
        (self._other, self._dealer), (self._party, self._preparing), self._store = links, ends, store
        self._plans: dict[str, Plan] = {}  # of tasks that have, or had, a tape
        self._made = dict.fromkeys((task.name for task in offer.tasks), 0)
        self._aims = {task.name: own.ahead_others for task in offer.tasks} | {offer.tasks[0].name: own.ahead}
        self._waited: set[str] = set()  # tasks that a client waits for, and that have no tape
        self._changed = threading.Condition()

    def load(self, model: Iterable[Ring]) -> None:
        """Take this party's shares of the model."""
        began = time.monotonic()
        program = self._offer.load
        with self._store.batch() as batch:
            (plan,) = self._party.prepare([program], self._dealer, lambda _: batch.tape(_LOAD, 0))
        with self._store.take(_LOAD, 0) as tape:
            self._loaded = self._party.run(program, plan, tape, {"model": model})
        self._own.note(f"the model is loaded in {time.monotonic() - began:.1f} s")

    def go_on(self, door: Door) -> None:
        """Answer clients, and make tapes beside it."""
        threading.Thread(target=self._make_tapes, args=(door,), name="mitai-mpc-tapes", daemon=True).start()
        super().go_on(door)

    # --- tapes, in a thread of their own ---

    def _make_tapes(self, door: Door) -> None:
        turns = list(self._offer.tasks)
        try:
            while True:
                self._make(*self._order(turns))
                door.look()
        except (MpcError, OSError) as error:
            with self._changed:
                self._failed = error if isinstance(error, MpcError) else _disk(error)
                self._changed.notify_all()
            self._other.abort()

    def _make(self, task: Task[L], number: int) -> None:
        began = time.monotonic()
        with self._store.batch() as batch:
            sink = batch.tape(task.name, number)
            program = any_question(task).program(self._loaded, silent)
            (plan,) = self._preparing.prepare([program], self._dealer, lambda _: sink)
        with self._changed:
            self._plans[task.name], self._made[task.name] = plan, number + 1
            self._waited.discard(task.name)
            self._changed.notify_all()
        took, held = time.monotonic() - began, self._store.used_bytes() / 1e6
        ready = len(self._store.numbers(task.name))
        self._own.note(f"tape {number} of {task.name} made in {took:.1f} s; {ready} ready, {held:.1f} MB in all")

    def _stock(self) -> list[str]:
        return [f"{self._store.ready()} tapes ready, {self._store.used_bytes() / 1e6:.0f} MB"]

    def _order(self, turns: list[Task[L]]) -> tuple[Task[L], int]:
        """Return the next tape: party 0 orders it, and party 1 hears of it by way of the dealer."""
        if self._party.role:
            return self._followed(self._dealer)
        task, number = self._needed(turns)
        self._dealer.send(ordered(task, number))
        return task, number

    def _needed(self, turns: list[Task[L]]) -> tuple[Task[L], int]:
        """Wait until a tape is needed."""
        with self._changed:
            self._changed.wait_for(lambda: any(map(self._lacks, turns)))
            lacking = [task for task in turns if self._lacks(task)]
            task = next((task for task in lacking if task.name in self._waited), lacking[0])
        turns.remove(task)  # and whose turn it was is the last one
        turns.append(task)
        return task, self._made[task.name]

    def _followed(self, orders: SocketLink) -> tuple[Task[L], int]:
        """Wait for an order."""
        task, number = read_order(self._offer, bytes(orders.receive(ORDER.size)))
        if number != self._made[task.name]:
            raise _misordered()
        return task, number

    def _lacks(self, task: Task[L]) -> bool:
        return len(self._store.numbers(task.name)) < self._aims[task.name]

    def _has(self, name: str) -> bool:
        return name in self._plans and bool(self._store.numbers(name))

    def _startable(self, guest: Guest) -> bool:
        """Tell whether there is a tape for a client; let one be made if there is none."""
        name = guest.question.task.name
        if self._has(name):
            return True
        with self._changed:
            self._aims[name] = max(1, self._aims[name])
            self._waited.add(name)
            self._changed.notify_all()
        return False

    def _prepared(self, guest: Guest) -> int:
        """Wait until both parties have the same next tape."""
        name = guest.question.task.name
        with self._changed:
            self._changed.wait_for(lambda: self._failed or self._has(name))
        while (number := self._store.common(name, self._other)) is None:
            self._check()
            time.sleep(0.02)
        return number

    # --- answers ---

    def _proposed(self, door: Door) -> Guest | None:
        if self._party.role:
            return door.find(bytes(self._other.receive(SESSION_BYTES + QUESTION_BYTES)))
        guest = door.next(self._startable, self._check)
        self._other.send(guest.said)
        return guest

    def _agreed(self, same: bool) -> bool:
        """Tell whether both parties have the client's shares: party 1 says it to party 0, who always has."""
        if self._party.role == 0:
            return bytes(self._other.receive(1)) == GO
        self._other.send(GO if same else ABSENT)
        return same

    def _emit(self, guest: Guest, x: Secret) -> None:
        guest.emit(x)

    def _run(self, guest: Guest, number: int) -> None:
        name = guest.question.task.name
        with self._store.take(name, number) as tape:
            with self._changed:
                self._changed.notify_all()
            program = guest.question.program(self._loaded, partial(self._emit, guest))
            shares = [share for (share,) in guest.shares]
            self._party.run(program, self._plans[name], tape, {"client": shares})


def seen(guest: Guest | None, piece: int = 0) -> bytes:
    """Return a digest of what a client asks and of one of its shares of each array, for another who has the same."""
    if guest is None:
        return bytes(DIGEST_BYTES)
    found = hashlib.sha256(_LABEL + guest.said)
    for shares in guest.shares:
        found.update(np.ascontiguousarray(shares[piece]).data.cast("B"))
    return found.digest()


def silent(_: Secret) -> None:
    """Emit to nobody: who plans and who deals has no results."""


def ordered(task: Task[L], number: int) -> bytes:
    """Return the order of a tape."""
    return ORDER.pack(program_id(task.name), number)


def read_order(offer: Offer[L], order: bytes) -> tuple[Task[L], int]:
    """Return of which task a tape is ordered, and its number."""
    program, number = ORDER.unpack(order)
    if (task := offer.find(program)) is None:
        raise _misordered()
    return task, int(number)


def _misordered() -> MpcError:
    return MpcError("mpc.tape-mismatch", "a tape is asked for that is not the next one of a task that is served")


def _disk(error: OSError) -> MpcError:
    return MpcError("mpc.store-failed", f"tapes can't be written: {error.strerror}", hint="is there space?")
