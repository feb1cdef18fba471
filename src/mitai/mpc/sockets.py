"""A link over a TCP connection: a thread that sends, messages whose sizes both ends know, and no wait without an end.

Follows `docs/spec/mpc-links.md`, "Messages". What the bytes go through (TLS or nothing) is a `Channel`.

Invariants:

- A message is its size in 8 bytes, little-endian, and its bytes. The receiver knows the size from the program: another
  one ends the link before anything is kept, so the other end decides about no memory here.
- At most `limit_bytes` wait to be sent, or one larger message: `send` waits until there is room.
- A wait ends after `wait_s` and the time that the message takes at 128 KiB/s; a machine that vanishes is noticed within
  a minute, however long `wait_s` is.
- After the first failure nothing more is sent or believed.

Example:
    >>> ends = socket.socketpair()
    >>> one, other = (SocketLink(Plain(end)) for end in ends)
    >>> one.send(b"1234")
    >>> bytes(other.receive(4))
    b'1234'
"""

from __future__ import annotations

import itertools
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Protocol

import numpy as np

from mitai.errors import MpcError
from mitai.mpc.link import Traffic

PIECE_BYTES = 64 << 10  # what is encrypted, or tried to be sent at once, at a time
SLOWEST_BYTES_S = 128 << 10
_VANISHED = (("TCP_KEEPIDLE", 20), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 50_000))
_SIZE_BYTES = 8
Pieces = Iterator[bytes | memoryview]


class Channel(Protocol):
    """What carries a link's bytes: one thread may be in `seal` and `socket.send` while another one is in `read`."""

    socket: socket.socket

    def seal(self, data: bytes | memoryview) -> Pieces:
        """Yield what to send for `data`, in this order, after all that was yielded before."""

    def read(self, buffer: memoryview) -> int:
        """Wait for bytes, put some into `buffer` and return how many; 0 at the end."""


class Plain:
    """Bytes as they are. For one machine, or a network that nobody else is on: shares lie open on it."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end

    def seal(self, data: bytes | memoryview) -> Pieces:
        """See `Channel.seal`."""
        yield data

    def read(self, buffer: memoryview) -> int:
        """See `Channel.read`."""
        return self.socket.recv_into(buffer)


class SocketLink:
    """One end of a link; a `mitai.mpc.link.Link`. Leaving it as a context cuts it, or closes it if all went well.

    Args:
        channel: Connected; the link's from now on.
        wait_s: How long the other end may take for what it does between two messages.
        limit_bytes: How much may wait to be sent.
    """

    def __init__(self, channel: Channel, wait_s: float = 60, limit_bytes: int = 256 << 20) -> None:
        self.traffic = Traffic()
        self._channel, self._wait_s, self._limit_bytes = channel, wait_s, limit_bytes
        self._queue: deque[tuple[Pieces, int]] = deque()
        self._state = threading.Condition()
        self._waiting_bytes = 0
        self._failed = self._closed = False
        _set_up(channel.socket)
        self.be_patient(wait_s)
        self._sender = threading.Thread(target=self._send_all, name="mitai-mpc-send", daemon=True)
        self._sender.start()

    def __enter__(self) -> SocketLink:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def be_patient(self, wait_s: float) -> None:
        """Change how long the other end may take, from the next call on."""
        self._wait_s = wait_s
        wait = struct.pack("@ll", int(wait_s), int(wait_s % 1 * 1e6))
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            with suppress(OSError):  # it was closed, as the next send or receive will say
                self._channel.socket.setsockopt(socket.SOL_SOCKET, option, wait)

    def send(self, data: bytes | memoryview) -> None:
        """See `Link.send`; a message that fits into the socket's buffer goes out at once, without the thread."""
        view = memoryview(data).cast("B")
        size = len(view).to_bytes(_SIZE_BYTES, "little")
        with self._state:
            room = self._state.wait_for(lambda: self._failed or self._has_room(len(view)), self._patience(len(view)))
            if self._failed or self._closed or not room:
                raise lost("it is gone, or takes no more")
            self.traffic.sent_bytes += len(view)
            if len(view) > PIECE_BYTES:
                pieces: Pieces = itertools.chain(self._channel.seal(size), self._channel.seal(view))
            else:
                pieces = self._channel.seal(b"".join((size, view)))
                if not self._queue:
                    rest = self._sent_at_once(pieces)
                    if rest is None:
                        return
                    pieces = rest
            self._queue.append((pieces, len(view)))
            self._waiting_bytes += len(view)
            self._state.notify_all()

    def receive(self, size: int) -> memoryview:
        """See `Link.receive`."""
        until = time.monotonic() + self._patience(size)
        told = int.from_bytes(self._exactly(_SIZE_BYTES, until), "little")
        if told != size:
            self._fail()
            raise MpcError(
                "mpc.link-mismatch",
                f"the other party sent {told} bytes where {size} were expected",
                hint="both must run the same program and the same version of it",
            )
        data = self._exactly(size, until)
        self.traffic.received_bytes += size
        self.traffic.rounds += 1
        return data

    def ended(self) -> bool:
        """Tell, without waiting, whether the other end is gone; for whoever does not expect a message now."""
        try:
            return not self._channel.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def close(self) -> None:
        """Send what is waiting, and end it."""
        with self._state:
            self._state.wait_for(lambda: self._failed or not self._queue, self._patience(self._waiting_bytes))
            self._closed = True
            self._state.notify_all()
        cut(self._channel.socket)
        self._sender.join()
        self._channel.socket.close()

    def abort(self) -> None:
        """End it, whatever waits to be sent; the other end's next `receive` fails."""
        self._fail()
        self.close()

    def _exactly(self, size: int, until: float) -> memoryview:
        data = np.empty(size, np.uint8).data
        done = 0
        while done < size:
            if self._failed or self._closed:
                raise lost("the link was ended here")
            try:
                got = self._channel.read(data[done:])
            except BlockingIOError:  # SO_RCVTIMEO
                raise self._silent() from None
            except (OSError, MpcError):
                got = 0
            if not got:
                self._fail()
                raise lost("it has ended, or the connection was cut")
            done += got
            if done < size and time.monotonic() > until:
                raise self._silent()
        return data

    def _has_room(self, size: int) -> bool:
        return not self._waiting_bytes or self._waiting_bytes + size <= self._limit_bytes

    def _patience(self, size: int) -> float:
        return self._wait_s + size / SLOWEST_BYTES_S

    def _sent_at_once(self, pieces: Pieces) -> Pieces | None:
        """Send what the socket takes without waiting; return the rest, if there is any."""
        for piece in pieces:
            try:
                done = self._channel.socket.send(piece, socket.MSG_DONTWAIT)
            except BlockingIOError:
                done = 0
            except OSError:
                self._fail()
                raise lost("the connection was cut") from None
            if done < len(piece):
                return itertools.chain([memoryview(piece)[done:]], pieces)
        return None

    def _send_all(self) -> None:
        while True:
            with self._state:
                self._state.wait_for(lambda: self._queue or self._failed or self._closed)
                if self._failed or self._closed:
                    return
                pieces, size = self._queue[0]
            try:
                for piece in pieces:
                    self._channel.socket.sendall(piece)
            except (OSError, MpcError):
                self._fail()
                return
            with self._state:
                if self._failed:
                    return
                self._queue.popleft()
                self._waiting_bytes -= size
                self._state.notify_all()

    def _silent(self) -> MpcError:
        self._fail()
        return lost(f"it sent nothing, or too little, for {self._wait_s:g} s")

    def _fail(self) -> None:
        with self._state:
            self._failed = True
            self._queue.clear()
            self._state.notify_all()
        cut(self._channel.socket)


def _set_up(end: socket.socket) -> None:
    """Send small messages at once, and notice a machine that is gone."""
    end.setblocking(True)
    if end.family != socket.AF_UNIX:
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _VANISHED:
            if hasattr(socket, name):
                end.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def cut(end: socket.socket) -> None:
    """End a connection for whoever waits on it."""
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


def lost(why: str) -> MpcError:
    """Return the error for a party that can't be reached any more."""
    return MpcError(
        "mpc.link-lost",
        f"the other party can't be reached any more: {why}",
        hint="what it printed says why; start again together",
    )
