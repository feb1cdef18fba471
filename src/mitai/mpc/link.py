"""The way between two parties: bytes in order, counted.

Every send is one message of a length that both ends know from the program, so nothing on the wire says how long it is.
`pair` is for parties that are threads of one process; `mitai.mpc.sockets` is for parties on a network.
"""

from __future__ import annotations

import queue
from dataclasses import dataclass
from typing import Protocol

from mitai.errors import MpcError


@dataclass
class Traffic:
    """What one end has sent and how often it has waited for an answer."""

    sent_bytes: int = 0
    received_bytes: int = 0
    rounds: int = 0


class Link(Protocol):
    """One end."""

    traffic: Traffic

    def send(self, data: bytes | memoryview) -> None:
        """Hand over bytes without waiting for the other end to read them; they must not change afterwards."""

    def receive(self, size: int) -> memoryview:
        """Wait for exactly `size` bytes, and count a round.

        Raises:
            MpcError: `mpc.link-lost`: the other end is gone or too slow. `mpc.link-mismatch`: it sent something else.
        """

    def close(self) -> None:
        """End it; the other end's next `receive` fails."""


class QueueLink:
    """One end of a pair within a process."""

    def __init__(
        self, incoming: queue.SimpleQueue[memoryview], outgoing: queue.SimpleQueue[memoryview], wait_s: float
    ) -> None:
        self.traffic = Traffic()
        self._incoming = incoming
        self._outgoing = outgoing
        self._wait_s = wait_s

    def send(self, data: bytes | memoryview) -> None:
        """See `Link.send`."""
        self.traffic.sent_bytes += len(data)
        self._outgoing.put(memoryview(data).toreadonly())

    def receive(self, size: int) -> memoryview:
        """See `Link.receive`."""
        try:
            data = self._incoming.get(timeout=self._wait_s)
        except queue.Empty:
            raise MpcError("mpc.link-lost", f"the other party sent nothing for {self._wait_s:g} s") from None
        if len(data) != size:
            raise MpcError("mpc.link-mismatch", f"the other party sent {len(data)} bytes where {size} were expected")
        self.traffic.received_bytes += size
        self.traffic.rounds += 1
        return data

    def close(self) -> None:
        """See `Link.close`."""
        self._outgoing.put(memoryview(b""))


def pair(wait_s: float = 60) -> tuple[QueueLink, QueueLink]:
    """Return both ends of a link between two threads."""
    there: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
    back: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
    return QueueLink(there, back, wait_s), QueueLink(back, there, wait_s)
