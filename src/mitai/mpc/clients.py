"""Clients of two parties: they share what they ask, and put together what they are told.

Follows `docs/spec/mpc-links.md`, "Clients".

Invariants:

- Each party gets one share of each array, uniform by itself, and sends back one share of each result.
- A party has all of a client's shares before a run begins; a client that goes away later changes nothing.
- At most `WAITING` clients are held at once, each for `HELD_S` until its turn.

Example:
    >>> for values in ask(Credentials(identity), peers, task, prompt):
    ...     print(values)
"""

from __future__ import annotations

import math
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from socket import socket
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mitai.errors import MpcError
from mitai.mpc.attested import Credentials
from mitai.mpc.engine import Secret, Shape
from mitai.mpc.meeting import Address, connected
from mitai.mpc.ring import Real, Ring, decode
from mitai.mpc.sockets import SocketLink
from mitai.mpc.tasks import Task, Walk, agree
from mitai.mpc.tls import HANDSHAKE_S
from mitai.mpc.two.shares import join, split

SESSION_BYTES = 16
WAITING = 8
HELD_S = 600.0
SHARING_S = 60.0  # a client's pause while it sends its shares
_LOOK_EVERY_S = 0.2


@dataclass(frozen=True)
class Peer:
    """Another process: its key's id, and where it listens, if it does."""

    key_id: str
    address: Address | None = None


def reach(credentials: Credentials, peer: Peer, until: float, wait_s: float) -> SocketLink:
    """Connect to a process that listens."""
    if peer.address is None:
        raise MpcError("mpc.config", "it is not said where a party listens", hint='address = "HOST:PORT"')
    end = connected(peer.address, until)
    _, link = credentials.link(end, lambda key: key.key_id == peer.key_id, serving=False)
    link.be_patient(wait_s)
    return link


def ask(
    credentials: Credentials,
    parties: Sequence[Peer],
    task: Task[Any],
    values: Iterable[NDArray[np.generic]],
    within_s: float = HELD_S,
) -> Iterator[Real]:
    """Yield what a task's answer emits, as it comes.

    Args:
        credentials: The client's; both parties must know its key.
        parties: Party 0 and party 1.
        task: What they compute.
        values: The client's arrays, in the program's order.
        within_s: How long to wait for the turn, and for each result.

    Raises:
        MpcError: A party is not there, not who it should be, or has ended.
    """
    walk = Walk()
    halves = [split(array) for array in walk.answer(task, values)]
    session, until = secrets.token_bytes(SESSION_BYTES), time.monotonic() + within_s
    with ExitStack() as stack:
        links = [stack.enter_context(reach(credentials, peer, until, within_s)) for peer in parties]
        for role, link in enumerate(links):
            agree(link, task)
            link.send(session)
            for half in halves:
                link.send(half[role].data.cast("B"))
        for shape, fraction in walk.emitted:
            first, second = (_array(link, shape) for link in links)
            yield decode(join(first, second), fraction)


class Guest:
    """A client at one party: its session, and its shares."""

    def __init__(self, link: SocketLink, session: bytes, shares: list[Ring]) -> None:
        self._link, self.session, self.shares = link, session, shares
        self.since = time.monotonic()

    def emit(self, x: Secret) -> None:
        """Send this party's share of a result; a client that is gone changes nothing."""
        with suppress(MpcError):
            self._link.send(np.ascontiguousarray(x.parts[0]).tobytes())

    def end(self) -> None:
        """Let it go."""
        self._link.close()


class Door:
    """Where one party's clients come in, from now on until it is closed.

    Args:
        server: The party's listening socket.
        credentials: The party's.
        known: Key ids of clients.
        task: What is computed.
        shapes: Of the arrays that a client gives.
    """

    def __init__(
        self, server: socket, credentials: Credentials, known: Collection[str], task: Task[Any], shapes: Sequence[Shape]
    ) -> None:
        self._server, self._credentials, self._known = server, credentials, known
        self._task, self._shapes = task, shapes
        self._here: dict[bytes, Guest] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._open, name="mitai-mpc-door", daemon=True)
        self._thread.start()

    def next(self, going_on: Callable[[], None]) -> Guest:
        """Wait for a client, the one who came first; `going_on` raises when waiting shall end."""
        with self._changed:
            while not self._here:
                self._changed.wait(_LOOK_EVERY_S)
                going_on()
            return self._here.pop(next(iter(self._here)))

    def find(self, session: bytes, within_s: float = HANDSHAKE_S) -> Guest | None:
        """Return the client of a session, who may be still on its way."""
        with self._changed:
            self._changed.wait_for(lambda: session in self._here, within_s)
            return self._here.pop(session, None)

    def close(self) -> None:
        """Let nobody in any more."""
        self._closed = True
        self._thread.join()
        for guest in self._here.values():
            guest.end()

    def _open(self) -> None:
        self._server.settimeout(_LOOK_EVERY_S)
        places = threading.Semaphore(WAITING)
        with ThreadPoolExecutor(WAITING, "mitai-mpc-client") as pool:
            while not self._closed:
                self._forget()
                if len(self._here) >= WAITING or not places.acquire(timeout=_LOOK_EVERY_S):
                    continue
                try:
                    end, _ = self._server.accept()
                except OSError as error:
                    places.release()
                    if not isinstance(error, TimeoutError):  # too many open files, or the like
                        time.sleep(_LOOK_EVERY_S)
                    continue
                pool.submit(self._welcome, end).add_done_callback(lambda _: places.release())

    def _welcome(self, end: socket) -> None:
        try:
            _, link = self._credentials.link(end, lambda key: key.key_id in self._known, serving=True)
        except MpcError:
            return
        link.be_patient(SHARING_S)
        try:
            agree(link, self._task)
            session = bytes(link.receive(SESSION_BYTES))
            guest = Guest(link, session, [_array(link, shape) for shape in self._shapes])
        except MpcError:
            link.abort()
            return
        with self._changed:
            known = self._here.setdefault(session, guest) is not guest
            self._changed.notify_all()
        if known:  # sessions are random: nobody takes the place of another client
            link.abort()

    def _forget(self) -> None:
        """Let go who has waited too long, such as one whom the other party does not know."""
        with self._changed:
            for session, guest in list(self._here.items()):
                if time.monotonic() - guest.since > HELD_S:
                    del self._here[session]
                    guest.end()


def _array(link: SocketLink, shape: Shape) -> Ring:
    return np.frombuffer(link.receive(8 * math.prod(shape)), "<u8").reshape(shape)
