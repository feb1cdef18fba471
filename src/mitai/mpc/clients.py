"""Clients of parties: they share what they ask, and put together what they are told.

Follows `docs/spec/mpc-links.md`, "Clients".

Invariants:

- Each party gets its share of each array (`mitai.mpc.settings`), uniform by itself, and sends back one share of each
  result.
- The answer counts when all parties have signed that they computed it from these shares (`mitai.mpc.receipts`).
- A party has all of a client's shares before a run begins; a client that goes away later changes nothing.
- At most `PLACES` clients are held at once, and `EACH` of one key; all that one does at the door has an end in time,
  however slowly its bytes come.

Example:
    >>> answer = ask(Credentials(identity), peers, offer, Question(task), prompt)
    >>> for values in answer:
    ...     print(values)
"""

from __future__ import annotations

import itertools
import math
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from socket import socket
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mitai.errors import MpcError
from mitai.identity import PublicKey
from mitai.ledger.receipt import MAX_RECEIPT_BYTES
from mitai.mpc.attested import Credentials
from mitai.mpc.engine import Secret, Shape
from mitai.mpc.meeting import Address, connected
from mitai.mpc.receipts import Transcript, about, check, missing
from mitai.mpc.ring import Real, Ring, decode
from mitai.mpc.settings import Parts
from mitai.mpc.sockets import SLOWEST_BYTES_S, SocketLink, cut
from mitai.mpc.tasks import QUESTION_BYTES, Offer, Question, Walk, agree, any_question, not_offered

SESSION_BYTES = 16
BLIND_BYTES = 32  # random, for each party: without them a receipt's digest lets another party try what was asked
PLACES, EACH = 8, 2
AT_THE_DOOR, EACH_AT_THE_DOOR = 32, 4  # who is at the door at once, those who wait for a place among them
REACHED_S = 20.0  # how long a client waits until a party listens
HELD_S = 600.0  # how long a client waits for its turn, and a party holds it
ARRIVAL_S = 60.0  # until a client has said who it is and what it asks
SHARING_S = 20.0  # a client's time for its shares, beside what their size takes
JOINING_S = 30.0  # how long one party may have a client's shares and others not, beside what their size takes
LEAVING_S = 20.0  # a client's time to take the end of its answer
GO, NOT_OFFERED, TOO_MANY = b"\1", b"\2", b"\3"
_LOOK_EVERY_S = 0.2
_SIZE_BYTES = 4


@dataclass(frozen=True)
class Peer:
    """Another process: its key's id, and where it listens, if it does."""

    key_id: str
    address: Address | None = None


def met(credentials: Credentials, peer: Peer, until: float, wait_s: float) -> tuple[PublicKey, SocketLink]:
    """Connect to a process that listens; return its key and the link."""
    if peer.address is None:
        raise MpcError("mpc.config", "it is not said where a party listens", hint='address = "HOST:PORT"')
    end = connected(peer.address, until)
    key, link = credentials.link(end, lambda key: key.key_id == peer.key_id, serving=False)
    link.be_patient(wait_s)
    return key, link


def reach(credentials: Credentials, peer: Peer, until: float, wait_s: float) -> SocketLink:
    """Connect to a process that listens; return the link."""
    return met(credentials, peer, until, wait_s)[1]


@dataclass
class Answer:
    """What a task's answer emits, as it comes; to be iterated over once, to its end. See `ask`.

    Attributes:
        receipts: The parties' signed receipts by role, once the iteration has ended and they were checked.
        keys: The parties' keys by role, which signed them.
    """

    _credentials: Credentials
    _peers: Mapping[str, Peer]
    _offer: Offer[Any]
    _question: Question[Any]
    _values: Iterable[NDArray[np.generic]]
    _within_s: float
    _told: Callable[[str], None]
    receipts: dict[str, bytes] = field(default_factory=dict, init=False)
    keys: dict[str, PublicKey] = field(default_factory=dict, init=False)

    def __iter__(self) -> Iterator[Real]:
        walk, setting, session = Walk(), self._offer.setting, secrets.token_bytes(SESSION_BYTES)
        arrays = [setting.cut(array) for array in walk.answer(self._offer, self._question, self._values)]
        transcripts = {role: Transcript() for role in setting.parties}
        links: dict[str, SocketLink] = {}
        with ExitStack() as stack:
            for number, role in enumerate(setting.parties):  # in this order: who has a place at p0 finds one at p1
                links[role] = stack.enter_context(self._admitted(role, session))
                self._told(f"sending shares to {role}")
                pieces = (piece.reshape(-1).view(np.uint8) for array in arrays for piece in array[number])
                for data in itertools.chain([np.frombuffer(secrets.token_bytes(BLIND_BYTES), np.uint8)], pieces):
                    transcripts[role].asked(data.data)
                    links[role].send(data.data)
            del arrays
            self._told("waiting for the turn")
            for shape, fraction in walk.emitted:
                parts = [_array(link, shape, transcripts[role].told) for role, link in links.items()]
                yield decode(setting.join(parts), fraction)
            envelopes = {role: _receipt(link, role) for role, link in links.items()}
        fields = about(self._offer, self._question, session)
        digests = {role: transcript.digests for role, transcript in transcripts.items()}
        check(envelopes, self.keys, fields, digests, {role: peer.key_id for role, peer in self._peers.items()})
        self.receipts = envelopes

    def _admitted(self, role: str, session: bytes) -> SocketLink:
        """Return the link to a party where this client has a place."""
        self._told(f"waiting for a place at {role}")
        until = time.monotonic() + min(REACHED_S, self._within_s)
        self.keys[role], link = met(self._credentials, self._peers[role], until, self._within_s)
        try:
            agree(link, self._offer)
            link.send(session + self._question.encode())
            _admitted(bytes(link.receive(1)))
        except BaseException:
            link.abort()
            raise
        return link


def ask(
    credentials: Credentials,
    peers: Mapping[str, Peer],
    offer: Offer[Any],
    question: Question[Any],
    values: Iterable[NDArray[np.generic]],
    *,
    within_s: float = HELD_S,
    told: Callable[[str], None] = lambda _: None,
) -> Answer:
    """Ask the parties; nothing is sent before the answer is iterated over.

    Args:
        credentials: The client's; all parties must know its key.
        peers: The parties, by their roles.
        offer: The parties' model, and at least the task that is asked for.
        question: Which task, and how to choose.
        values: The client's arrays, in the program's order.
        within_s: How long to wait for a place, and for each result; for parties that don't listen, 20 seconds.
        told: Is told what is waited for, in words for people.

    Raises:
        MpcError: When it is iterated over. `mpc.not-offered`, `mpc.too-many`; a party is not there, not who it should
            be, or has ended; `mpc.twin-mismatch`; after all that is emitted, `mpc.receipt-missing` and
            `mpc.receipt-wrong`.
    """
    return Answer(credentials, peers, offer, question, values, within_s, told)


def _receipt(link: SocketLink, role: str) -> bytes:
    try:
        size = int.from_bytes(link.receive(_SIZE_BYTES), "big")
        return bytes(link.receive(min(size, MAX_RECEIPT_BYTES)))
    except MpcError:
        raise missing(role) from None


def _admitted(said: bytes) -> None:
    if said == NOT_OFFERED:
        raise not_offered()
    if said == TOO_MANY:
        raise MpcError(
            "mpc.too-many",
            f"a party holds {EACH} questions of this client already, or has had no place for a long time",
            hint="wait for the answers, and ask again",
        )
    if said != GO:
        raise MpcError("mpc.link-mismatch", "the other side speaks another protocol")


@dataclass(eq=False)
class Guest:
    """A client at one party: what it asks, and its shares.

    Attributes:
        session: Its name for this question, the same at both parties.
        question: What it asks.
        shares: This party's, array by array.
        transcript: Of all shares that have come and gone.
        left: Gives its place back, once.
        since: When all of its shares were there.
        later: When to look again whether the other party has them, too.
    """

    link: SocketLink
    session: bytes
    question: Question[Any]
    shares: list[Parts] = field(repr=False)
    transcript: Transcript
    left: Callable[[], None] = lambda: None
    since: float = field(default_factory=time.monotonic)
    later: float = 0.0

    @property
    def said(self) -> bytes:
        """What both parties compare before they begin: the session, and the question as it came."""
        return self.session + self.question.encode()

    def emit(self, x: Secret) -> None:
        """Send this party's share of a result; a client that is gone changes nothing."""
        data = np.ascontiguousarray(x.parts[0]).tobytes()
        self.transcript.told(data)
        with suppress(MpcError):
            self.link.send(data)

    def end(self, receipt: bytes | None = None) -> None:
        """Let it go, with a receipt; a client that does not take the end of its answer keeps nobody waiting.

        Its place is free by then: who has its receipts may ask again.
        """
        self.shares = []
        left, self.left = self.left, lambda: None
        left()
        threading.Thread(target=self._leave, args=(receipt,), name="mitai-mpc-leave", daemon=True).start()

    def _leave(self, receipt: bytes | None) -> None:
        with suppress(MpcError, OSError):
            self.link.be_patient(LEAVING_S)
            if receipt is not None:
                self.link.send(len(receipt).to_bytes(_SIZE_BYTES, "big"))
                self.link.send(receipt)
        self.link.close()


class Places:
    """How many clients are held: so many at once, and so many of one key."""

    def __init__(self, total: int, each: int) -> None:
        self._free, self._each, self._closed = total, each, False
        self._held: Counter[str] = Counter()  # those who wait for a place among them
        self._changed = threading.Condition()

    def enter(self, key_id: str, within_s: float) -> bool:
        """Wait for a place, unless this key has as many as it may."""
        with self._changed:
            if self._held[key_id] >= self._each:
                return False
            self._held[key_id] += 1
            if self._changed.wait_for(lambda: self._closed or self._free, within_s) and not self._closed:
                self._free -= 1
                return True
            self._held[key_id] -= 1
            return False

    def leave(self, key_id: str) -> None:
        """Give it back."""
        with self._changed:
            self._free += 1
            self._held[key_id] -= 1
            self._changed.notify_all()

    def close(self) -> None:
        """Let nobody wait any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class Door:
    """Where one party's clients come in, from now on until it is closed.

    Args:
        server: The party's listening socket.
        credentials: The party's.
        known: Key ids of clients.
        offer: What is served.
    """

    def __init__(self, server: socket, credentials: Credentials, known: Collection[str], offer: Offer[Any]) -> None:
        self._server, self._credentials, self._known, self._offer = server, credentials, known, offer
        self._shapes: dict[str, list[Shape]] = {}
        self._places, self._at_the_door = Places(PLACES, EACH), Places(AT_THE_DOOR, EACH_AT_THE_DOOR)
        self._here: dict[bytes, Guest] = {}
        self._until: dict[socket, float] = {}  # of those at the door
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._open, name="mitai-mpc-door", daemon=True)
        self._thread.start()

    def next(self, ready: Callable[[Guest], bool], going_on: Callable[[], None]) -> Guest:
        """Wait for a client, the first one that is ready; `going_on` raises when waiting shall end."""
        with self._changed:
            while True:
                for guest in self._here.values():
                    if ready(guest) and time.monotonic() >= guest.later:
                        return self._here.pop(guest.session)
                self._changed.wait(_LOOK_EVERY_S)
                going_on()

    def back(self, guest: Guest) -> None:
        """Let a client wait in its place for a little while: another party does not have its shares yet."""
        size = sum(piece.nbytes for pieces in guest.shares for piece in pieces) * len(self._offer.setting.parties)
        if time.monotonic() - guest.since > JOINING_S + size / SLOWEST_BYTES_S:
            guest.end()
            return
        guest.later = time.monotonic() + _LOOK_EVERY_S
        with self._changed:
            if guest.session not in self._here:
                self._here = {guest.session: guest} | self._here
                return
        guest.end()  # another one has taken its session

    def find(self, said: bytes) -> Guest | None:
        """Return the client who has said this, if it is here."""
        with self._changed:
            guest = self._here.get(said[:SESSION_BYTES])
            return self._here.pop(guest.session) if guest is not None and guest.said == said else None

    def look(self) -> None:
        """Let `next` look at all again, as something has changed for them."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Let nobody in any more."""
        self._closed = True
        self._places.close()
        self._thread.join()
        for guest in self._here.values():
            guest.end()

    def _open(self) -> None:
        self._server.settimeout(_LOOK_EVERY_S)
        free = threading.Semaphore(AT_THE_DOOR)
        with ThreadPoolExecutor(AT_THE_DOOR, "mitai-mpc-client") as pool:
            while not self._closed:
                self._forget()
                if not free.acquire(timeout=_LOOK_EVERY_S):
                    continue
                try:
                    end, _ = self._server.accept()
                except OSError as error:
                    free.release()
                    if not isinstance(error, TimeoutError):  # too many open files, or the like
                        time.sleep(_LOOK_EVERY_S)
                    continue
                self._until[end] = time.monotonic() + ARRIVAL_S
                pool.submit(self._welcome, end).add_done_callback(lambda _: free.release())
            for end in list(self._until):
                cut(end)

    def _welcome(self, end: socket) -> None:
        try:
            peer, link = self._credentials.link(end, lambda key: key.key_id in self._known, serving=True)
            if self._at_the_door.enter(peer.key_id, 0):
                try:
                    self._let_in(end, link, peer.key_id)
                except BaseException:
                    link.abort()
                    raise
                finally:
                    self._at_the_door.leave(peer.key_id)
            else:
                link.abort()
        except (MpcError, OSError):
            end.close()
        finally:
            self._until.pop(end, None)

    def _let_in(self, end: socket, link: SocketLink, key_id: str) -> None:
        link.be_patient(ARRIVAL_S)
        agree(link, self._offer)
        said = bytes(link.receive(SESSION_BYTES + QUESTION_BYTES))
        try:
            question = self._offer.question(said[SESSION_BYTES:])
        except MpcError:
            link.send(NOT_OFFERED)
            link.close()
            return
        self._until[end] = time.monotonic() + HELD_S + ARRIVAL_S
        if not self._places.enter(key_id, HELD_S):
            link.send(TOO_MANY)
            link.close()
            return
        try:
            shares = self._shares(end, link, question, transcript := Transcript())
        except BaseException:
            self._places.leave(key_id)
            raise
        left = partial(self._places.leave, key_id)
        guest = Guest(link, said[:SESSION_BYTES], question, shares, transcript, left)
        with self._changed:
            known = self._here.setdefault(guest.session, guest) is not guest
            self._changed.notify_all()
        if known:  # sessions are random: nobody takes the place of another client
            guest.end()

    def _shares(self, end: socket, link: SocketLink, question: Question[Any], transcript: Transcript) -> list[Parts]:
        shapes, pieces = self._shapes_of(question), range(self._offer.setting.pieces)
        within_s = SHARING_S + 8 * len(pieces) * sum(map(math.prod, shapes)) / SLOWEST_BYTES_S
        self._until[end] = time.monotonic() + within_s
        link.be_patient(within_s)
        link.send(GO)
        transcript.asked(bytes(link.receive(BLIND_BYTES)))
        return [tuple(_array(link, shape, transcript.asked) for _ in pieces) for shape in shapes]

    def _shapes_of(self, question: Question[Any]) -> list[Shape]:
        name = question.task.name
        if name not in self._shapes:
            walk = Walk()
            walk.answer(self._offer, any_question(question.task))
            self._shapes[name] = walk.asked["client"]
        return self._shapes[name]

    def _forget(self) -> None:
        """Let go who takes too long: at the door, or waiting, such as one whom the other party does not know."""
        now = time.monotonic()
        for end, until in list(self._until.items()):
            if now > until:
                cut(end)
        with self._changed:
            for session, guest in list(self._here.items()):
                if now - guest.since > HELD_S:
                    del self._here[session]
                    guest.end()


def _array(link: SocketLink, shape: Shape, note: Callable[[memoryview], None]) -> Ring:
    data = link.receive(8 * math.prod(shape))
    note(data)
    return np.frombuffer(data, "<u8").reshape(shape)
