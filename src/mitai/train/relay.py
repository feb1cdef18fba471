"""What a worker and the process of its job say to each other, over one pair of connected sockets.

The job's process has no network: it asks the worker for ciphertext, and hands it numbers and, at the end, the sealed
output's key. Every message is four bytes of length and MessagePack of one of the structs below.

Invariants:

- The worker never sees plaintext of models or data, and the job's process never sees the broker.
- A message that is larger, unknown or malformed ends the job.

Example:
    >>> job, worker = Relay.pair()
    >>> worker.send(Order(…))
"""

from __future__ import annotations

import socket
import threading
from typing import Annotated, TypeVar

import msgspec

from mitai.errors import MitaiError, TrainError

MAX_MESSAGE_BYTES = 80 << 20  # a manifest of 16 MiB for each of a few inputs; a read
MAX_READ_BYTES = 32 << 20
T = TypeVar("T")


class _Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag=True):
    """One message."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(…)"  # keys may be in it


class OpenedInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An input's key, as the broker released it."""

    capsule: str
    data_key: bytes
    envelope: bytes
    manifest_sha256: str
    owner: bytes
    derived: bool = False  # a workload made it, and `owner` is that workload's key

    def __repr__(self) -> str:
        return f"OpenedInput({self.capsule!r})"


class LinkEnd(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A link to another rank: an inherited descriptor, and the keys of its two directions."""

    descriptor: int
    sending: bytes
    receiving: bytes

    def __repr__(self) -> str:
        return f"LinkEnd({self.descriptor})"


class Order(_Message, frozen=True):
    """Worker to job: what to do. `seed` is the workload key, which signs what is made.

    With `evidence` the output is a report: it is signed, and the evidence goes with it. `sim_roots` are those of
    simulated machines that a leaderboard's reports may be of. With `links` the job is one rank of several.
    """

    job: str
    inputs: tuple[OpenedInput, ...]
    seed: bytes
    parents: tuple[str, ...]
    checkpoints: str
    output: str
    threads: int
    evidence: bytes = b""
    sim_roots: tuple[str, ...] = ()
    rank: int = 0
    links: tuple[LinkEnd, ...] = ()
    silence_s: float = 0.0


class Size(_Message, frozen=True):
    """Job to worker: how large is an object?"""

    capsule: str
    name: str


class Read(_Message, frozen=True):
    """Job to worker: bytes of an object."""

    capsule: str
    name: str
    offset: Annotated[int, msgspec.Meta(ge=0)]
    length: Annotated[int, msgspec.Meta(ge=0, le=MAX_READ_BYTES)]


class SealingKey(_Message, frozen=True):
    """Job to worker: the TEE's sealing key for checkpoints of this label."""

    label: bytes


class Answer(_Message, frozen=True):
    """Worker to job: what was asked for."""

    value: int = 0
    data: bytes = b""


class Failed(_Message, frozen=True):
    """Either way: it did not work, as an error of the tree."""

    code: str
    message: str
    step: str | None = None
    hint: str | None = None

    @staticmethod
    def of(error: MitaiError) -> Failed:
        """Return what tells an error."""
        return Failed(error.code, error.message, error.step, error.hint)

    def error(self) -> TrainError:
        """Return the error that was told."""
        return TrainError(self.code, self.message, step=self.step, hint=self.hint)


class Step(_Message, frozen=True):
    """Job to worker: what it does now."""

    name: str


class Numbers(_Message, frozen=True):
    """Job to worker: what a step gave."""

    values: dict[str, float]


class Done(_Message, frozen=True):
    """Job to worker: the output is sealed, and lies where the order said."""

    capsule: str
    envelope: bytes
    manifest_sha256: str
    data_key: bytes
    kind: str
    byproducts: dict[str, str]


class Followed(_Message, frozen=True):
    """Job to worker: this rank has done its part; the leader seals the output."""


ToJob = Order | Answer | Failed
ToWorker = Size | Read | SealingKey | Step | Numbers | Done | Followed | Failed
TO_JOB: msgspec.msgpack.Decoder[ToJob] = msgspec.msgpack.Decoder(ToJob)
TO_WORKER: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)


class Relay:
    """One end of the pair.

    Args:
        end: The socket.
        patience_s: How long the other end may say nothing, or take nothing; as long as it likes, if not given.
    """

    def __init__(self, end: socket.socket, patience_s: float | None = None) -> None:
        self._end, self._sending, self._asking = end, threading.Lock(), threading.Lock()
        end.settimeout(patience_s)

    @staticmethod
    def pair() -> tuple[socket.socket, socket.socket]:
        """Return two connected ends."""
        return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)

    def send(self, message: ToJob | ToWorker) -> None:
        """Send one message."""
        body = msgspec.msgpack.encode(message)
        if len(body) > MAX_MESSAGE_BYTES:
            raise TrainError("train.relay", "a message within the worker is too large")
        with self._sending:
            try:
                self._end.sendall(len(body).to_bytes(4, "big"))
                self._end.sendall(body)
            except TimeoutError:
                raise _stalled() from None

    def receive(self, decoder: msgspec.msgpack.Decoder[T]) -> T | None:
        """Return the next message; None when the other end is gone."""
        head = self._exactly(4)
        size = int.from_bytes(head or b"", "big")
        if size > MAX_MESSAGE_BYTES:
            raise TrainError("train.relay", "a message within the worker is too large")
        body = self._exactly(size) if head else None
        if body is None:
            return None
        try:
            return decoder.decode(body)
        except msgspec.MsgspecError:
            raise TrainError("train.relay", "a message within the worker is malformed") from None

    def ask(self, message: ToWorker) -> Answer:
        """Send a question of the job; return its answer, or raise what it failed with."""
        with self._asking:
            self.send(message)
            answer = self.receive(TO_JOB)
        if isinstance(answer, Failed):
            raise answer.error()
        if not isinstance(answer, Answer):
            raise TrainError("train.worker-gone", "the worker has ended")
        return answer

    def close(self) -> None:
        """Close this end."""
        self._end.close()

    def _exactly(self, size: int) -> bytearray | None:
        data = bytearray(size)
        view, done = memoryview(data), 0
        while done < size:
            try:
                got = self._end.recv_into(view[done:])
            except TimeoutError:
                raise _stalled() from None
            if not got:
                return None
            done += got
        return data


def _stalled() -> TrainError:
    return TrainError(
        "train.stalled",
        "the job's process neither asked nor told anything for too long",
        hint="does the model's chat template or tokenizer end on every record? is stall_s of the worker long enough?",
    )


class RelayStore:
    """The ciphertext objects of one capsule, by way of the worker."""

    def __init__(self, relay: Relay, capsule: str) -> None:
        self._relay, self._capsule = relay, capsule

    def size(self, name: str) -> int:
        """Return an object's size in bytes."""
        return self._relay.ask(Size(self._capsule, name)).value

    def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
        """Fill `buffer` from `offset` on; return how many bytes there were."""
        done = 0
        while done < len(buffer):
            wanted = min(len(buffer) - done, MAX_READ_BYTES)
            data = self._relay.ask(Read(self._capsule, name, offset + done, wanted)).data
            if not data or len(data) > wanted:
                break
            buffer[done : done + len(data)] = data
            done += len(data)
        return done
