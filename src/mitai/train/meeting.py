"""The workers of one job find each other, and carry their jobs' sealed bytes from then on.

Follows `docs/spec/distributed.md`, "Links". Rank 0 listens where its host said; the others connect to it.

Invariants:

- The connections stay with the workers. A job's process has one more socket pair for each link, and no network.
- Whoever connects and is not an awaited rank of this very job is cut off, and changes nothing: neither who is awaited,
  nor how long.
- Waiting ends at `until`, when the job was cancelled, or when its lease ended.

Example:
    >>> with Meeting(own, 2, place, until, check) as met:
    ...     met.links
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import NamedTuple

import structlog

from mitai.errors import MitaiError, TrainError
from mitai.train.config import Place
from mitai.train.links import gone, silent
from mitai.train.peers import Keys, Own, follow, lead

_LOOK_EVERY_S = 0.2
_HANDSHAKE_S = 30.0  # who has begun has so long
_GREETED = 32  # connections that are in a handshake at once: a stranger may say nothing for all of its time
_PIECE_BYTES = 256 << 10
log = structlog.get_logger(__name__)


class Link(NamedTuple):
    """A link to one peer: its keys, and the end that the job's process gets."""

    keys: Keys
    end: socket.socket


class Meeting:
    """The links of one rank; leaving it cuts them.

    Args:
        own: This rank, as it shows itself.
        workers: How many the job asks for.
        place: Where the leader listens.
        until: Monotonic time by which all must have met.
        check: Raises when this job shall not go on.

    Raises:
        MitaiError: A peer did not come in time, or what was wrong with the last one that came.
    """

    def __init__(self, own: Own, workers: int, place: Place, until: float, check: Callable[[], None]) -> None:
        self._own, self._until, self._check = own, until, check
        self._stack = ExitStack()
        self._refused: MitaiError | None = None
        self.links: list[Link] = []
        try:
            if own.rank:
                end = self._stack.enter_context(self._connected(place))
                self._carried(end, follow(end, own, self._soon()))
            else:
                self._lead(place, set(range(1, workers)))
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Meeting:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _lead(self, place: Place, awaited: set[int]) -> None:
        greeted: dict[Future[Keys], socket.socket] = {}
        with (
            _opened(lambda: socket.create_server((place.host, place.port))) as server,
            ExitStack() as left,
            ThreadPoolExecutor(_GREETED, "mitai-greet") as pool,
        ):
            server.settimeout(_LOOK_EVERY_S)
            left.callback(lambda: _close(greeted.values()))
            try:
                while awaited:
                    self._look()
                    for met in [each for each in greeted if each.done()]:
                        self._let_in(met, greeted.pop(met), awaited)
                    if len(greeted) == _GREETED:
                        time.sleep(_LOOK_EVERY_S)
                    elif end := _accepted(server):
                        greeted[pool.submit(lead, end, self._own, frozenset(awaited), self._soon())] = end
            finally:
                _cut(*greeted.values())
        self.links.sort(key=lambda link: link.keys.rank)

    def _let_in(self, met: Future[Keys], end: socket.socket, awaited: set[int]) -> None:
        """Carry the link of a rank that proved itself, unless another connection did before; close any other."""
        try:
            keys = met.result()
        except MitaiError as error:
            log.warning("whoever connected is no rank", code=error.code, reason=error.message)
            self._refused = error
        else:
            if keys.rank in awaited:
                awaited.remove(keys.rank)
                self._carried(self._stack.enter_context(end), keys)
                return
        end.close()

    def _connected(self, place: Place) -> socket.socket:
        """Return a connection to the leader, which has begun to speak."""
        while True:
            self._look()
            try:
                end = socket.create_connection((place.host, place.port), 10 * _LOOK_EVERY_S)
            except OSError:  # the leader is not there yet
                time.sleep(_LOOK_EVERY_S)
                continue
            with ExitStack() as opened:
                opened.enter_context(end)
                end.settimeout(_LOOK_EVERY_S)
                while not self._spoken(end):
                    self._look()
                opened.pop_all()
                return end

    @staticmethod
    def _spoken(end: socket.socket) -> bool:
        try:
            if not end.recv(1, socket.MSG_PEEK):
                raise gone()
        except TimeoutError:
            return False
        except OSError:
            raise gone() from None
        return True

    def _soon(self) -> float:
        return min(self._until, time.monotonic() + _HANDSHAKE_S)

    def _look(self) -> None:
        self._check()
        if time.monotonic() > self._until:
            raise self._refused or silent()

    def _carried(self, outside: socket.socket, keys: Keys) -> None:
        """Begin to carry what two jobs' processes say to each other."""
        outside.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        outside.settimeout(None)
        inside, end = socket.socketpair()
        self._stack.callback(end.close)
        self._stack.callback(inside.close)
        for one, other in ((inside, outside), (outside, inside)):
            carrier = threading.Thread(target=_carry, args=(one, other), name="mitai-link", daemon=True)
            carrier.start()
            self._stack.callback(carrier.join)
        self._stack.callback(_cut, inside, outside)
        self.links.append(Link(keys, end))


def _accepted(server: socket.socket) -> socket.socket | None:
    """Return the next connection, if there is one soon."""
    try:
        return server.accept()[0]
    except TimeoutError:
        return None
    except OSError:  # it is gone again, or there are too many
        time.sleep(_LOOK_EVERY_S)
        return None


def _carry(source: socket.socket, target: socket.socket) -> None:
    """Pass bytes on until either side ends; then cut both."""
    with suppress(OSError):
        while piece := source.recv(_PIECE_BYTES):
            target.sendall(piece)
    _cut(source, target)


def _cut(*ends: socket.socket) -> None:
    for end in ends:
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def _close(ends: Iterable[socket.socket]) -> None:
    for end in ends:
        end.close()


def _opened(listen: Callable[[], socket.socket]) -> socket.socket:
    try:
        return listen()
    except OSError as error:
        raise TrainError(
            "train.link-address",
            f"the leader can't listen where its host said: {error.strerror}",
            hint="give it an address of its own machine and a free port",
        ) from None
