"""Parties find each other: one listens, others connect, and each link goes to whom it was meant for.

Strangers who connect are turned away, and keep nobody waiting: each connection shakes hands in a thread of its own.

Example:
    >>> def welcome(end):
    ...     channel = secured(end, identity, lambda key: key.key_id in names, serving=True)
    ...     return names[channel.peer.key_id], SocketLink(channel)
    >>> with listening(Address.parse("127.0.0.1:0")) as server:
    ...     links = gathered(server, welcome, len(names), until)
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from mitai.errors import MpcError
from mitai.mpc.sockets import SocketLink, cut

MAX_HANDSHAKES = 16
_LOOK_EVERY_S = 0.1
_ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9A-Za-z._-]+)):([0-9]{1,5})")


@dataclass(frozen=True)
class Address:
    """Where a party listens."""

    host: str
    port: int

    @staticmethod
    def parse(text: str) -> Address:
        """Read `HOST:PORT` or `[IPV6]:PORT`; raise `MpcError` on anything else."""
        found = _ADDRESS.fullmatch(text)
        if found is None or int(found[3]) > 65535:
            raise MpcError("mpc.address", "this is no address", hint="such as 192.168.1.5:7800, or [fe80::1]:7800")
        return Address(found[1] or found[2], int(found[3]))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def listening(address: Address) -> socket.socket:
    """Return a listening socket; port 0 is any free one."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        return socket.create_server((address.host, address.port), family=family, backlog=MAX_HANDSHAKES)
    except OSError as error:
        raise MpcError(
            "mpc.address",
            f"can't listen at {address}: {error.strerror}",
            hint="take an address of this machine, and a port that nobody uses (0: any)",
        ) from None


def gathered(
    server: socket.socket,
    welcome: Callable[[socket.socket], tuple[str, SocketLink]],
    enough: int,
    until: float,
    arrived: Callable[[MpcError | None], None] = lambda _: None,
) -> dict[str, SocketLink]:
    """Return the links to the first `enough` parties that `welcome` lets in, in the order of their coming.

    A party that comes again takes the place of its earlier link.

    Args:
        server: A listening socket.
        welcome: Shakes hands and returns who it is, and the link; raises `MpcError` to turn somebody away.
        enough: How many parties.
        until: Monotonic time at which waiting ends.
        arrived: Told of each: None, or why somebody was turned away.

    Raises:
        MpcError: `mpc.peer-absent`.
    """
    server.settimeout(_LOOK_EVERY_S)
    found: dict[str, SocketLink] = {}
    shaking: dict[Future[tuple[str, SocketLink]], socket.socket] = {}
    with ThreadPoolExecutor(MAX_HANDSHAKES, "mitai-mpc-meet") as pool:
        try:
            while len(found) < enough:
                if time.monotonic() > until:
                    raise absent(f"{enough - len(found)} of {enough} did not come")
                if len(shaking) < MAX_HANDSHAKES:
                    with suppress(TimeoutError, ConnectionError):
                        end, _ = server.accept()
                        shaking[pool.submit(welcome, end)] = end
                done, _ = wait(shaking, 0 if len(shaking) < MAX_HANDSHAKES else _LOOK_EVERY_S, FIRST_COMPLETED)
                for future in done:
                    if len(found) < enough:
                        _sort(future, shaking.pop(future), found, arrived)
        except BaseException:
            for link in found.values():
                link.abort()
            raise
        finally:
            for future, late in shaking.items():  # nobody waits for them
                cut(late)
                future.add_done_callback(partial(_leave, late))
    return found


def _leave(end: socket.socket, handshake: Future[tuple[str, SocketLink]]) -> None:
    if handshake.exception() is None:
        handshake.result()[1].abort()
    end.close()


def _sort(
    future: Future[tuple[str, SocketLink]],
    end: socket.socket,
    found: dict[str, SocketLink],
    arrived: Callable[[MpcError | None], None],
) -> None:
    try:
        name, link = future.result()
    except MpcError as error:
        end.close()
        arrived(error)
        return
    if earlier := found.pop(name, None):
        earlier.abort()
    found[name] = link
    arrived(None)


def connected(address: Address, until: float) -> socket.socket:
    """Return a connection, as soon as somebody listens there.

    Raises:
        MpcError: `mpc.peer-absent`.
    """
    while True:
        try:
            return socket.create_connection((address.host, address.port), max(0.1, until - time.monotonic()))
        except OSError as error:
            if time.monotonic() + _LOOK_EVERY_S > until:
                raise absent(f"nobody answers at {address}: {error.strerror or 'too slow'}") from None
            time.sleep(_LOOK_EVERY_S)


def absent(why: str) -> MpcError:
    """Return the error for a party that did not come."""
    return MpcError(
        "mpc.peer-absent", f"another party is not there: {why}", hint="is it started? is the address right?"
    )
