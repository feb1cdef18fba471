"""Tapes of randomness on a disk: encrypted, and each read at most once, whatever happens.

Follows `docs/spec/mpc-links.md`, "Tapes at rest". What a tape says is the protocol's (`mitai.mpc.two.tape`); here it is
a stream of bytes with a program's name and a number.

Invariants:

- A tape's name is its right to be used. `take` removes the name, and makes that durable, before it reads a byte: who is
  killed before has not used it, who is killed after has lost it.
- A tape appears whole under its name or not at all.
- Each tape has a key of its own, bound to store, program, number and role: what was changed, cut short, moved or
  swapped does not open. What is read was authenticated, chunk by chunk.
- The folder may be copied and put back by whoever owns the disk: the other party's tapes are gone then, and `common`
  finds no number. Under a key that is in memory only, an earlier process's tapes are noise.

Example:
    >>> store = Store(Path("tapes"), secrets.token_bytes(32), role=0)
    >>> with store.batch() as batch:
    ...     batch.tape("bert-128", 0).write(b"randomness")
    >>> with store.take("bert-128", 0) as tape:
    ...     tape.read(10)
    b'randomness'
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mitai.channel.hpke import NONCE_BYTES, TAG_BYTES, Aead, AeadSequence
from mitai.errors import ChannelError, MpcError
from mitai.identity import Identity
from mitai.mpc.link import Link

MAGIC = b"mitai mpc tape v1\0"
CHUNK_BYTES = 1 << 20  # of plaintext
_SEALED_BYTES = CHUNK_BYTES + TAG_BYTES
_SALT_BYTES = 32
_HEADER_BYTES = len(MAGIC) + _SALT_BYTES
_KEY_LABEL = b"mitai mpc tapes v1\0"
_NAME = re.compile(r"([0-9a-f]{32})-([0-9]{12})\.tape")
_NOTHING = (1 << 64) - 1


def lasting_key(identity: Identity) -> bytes:
    """Return the key of a store that outlives its process: whoever has the identity can read it."""
    return HKDF(SHA256(), 32, None, _KEY_LABEL + b"identity").derive(identity.seed())


class Store:
    """A folder of tapes of one party; one process has it at a time.

    Args:
        folder: Where. What is left there of an unfinished batch is removed.
        key: 32 bytes: random ones that are kept in memory, or `lasting_key`.
        role: Which party.
        limit_bytes: How much it may hold.
    """

    def __init__(self, folder: Path, key: bytes, role: int, limit_bytes: int = 64 << 30) -> None:
        self._folder, self._key, self._role, self.limit_bytes = folder, key, role, limit_bytes
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in folder.glob("*.part"):
            left.unlink()

    def numbers(self, program: str) -> list[int]:
        """Return the numbers of the tapes for a program, lowest first."""
        found = (_NAME.fullmatch(path.name) for path in self._folder.iterdir())
        return sorted(int(name[2]) for name in found if name and name[1] == _short(program))

    def ready(self) -> int:
        """Return how many tapes there are, for all programs."""
        return sum(1 for _ in self._folder.glob("*.tape"))

    def used_bytes(self) -> int:
        """Return how much the folder holds."""
        total = 0
        for path in self._folder.iterdir():
            with suppress(FileNotFoundError):  # another thread uses it up
                total += path.stat().st_size
        return total

    def clear(self) -> None:
        """Remove all tapes: those of an earlier process, whose key is gone."""
        for path in self._folder.glob("*.tape"):
            path.unlink()
        self._settle()

    @contextmanager
    def batch(self) -> Iterator[Batch]:
        """Make tapes; they appear when the block ends, and none of them if it fails.

        Raises:
            MpcError: `mpc.store-full`.
        """
        batch = Batch(self)
        try:
            yield batch
            batch.finish()
            self._settle()
        except BaseException:
            batch.discard()
            raise

    def take(self, program: str, number: int) -> Tape:
        """Use a tape up, and return what is on it.

        Raises:
            MpcError: `mpc.tape-missing`: it was used, or never made. `mpc.tape-damaged`: it is not as it was written.
        """
        path = self._path(program, number)
        with _there(program, number):
            file = path.open("rb", buffering=0)
        try:
            with _there(program, number):  # not, where another process was quicker
                path.unlink()
            self._settle()
            return Tape(file, lambda salt: self._sequence(salt, program, number))
        except BaseException:
            file.close()
            raise

    def common(self, program: str, link: Link) -> int | None:
        """Agree with the other party on the lowest tape that both have; lower ones that one of them lacks are removed.

        Returns:
            Its number; None when one of them has none at all.
        """
        while True:
            own = next(iter(self.numbers(program)), _NOTHING)
            link.send(own.to_bytes(8, "little"))
            its = int.from_bytes(link.receive(8), "little")
            if _NOTHING in (own, its):  # who has none may be making some
                return None
            if own == its:
                return own
            for number in self.numbers(program):
                if number < its:
                    self._path(program, number).unlink()
            self._settle()

    def _path(self, program: str, number: int) -> Path:
        return self._folder / f"{_short(program)}-{number:012d}.tape"

    def _settle(self) -> None:
        """Make durable which names there are."""
        descriptor = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _sequence(self, salt: bytes, program: str, number: int) -> AeadSequence:
        place = hashlib.sha256(program.encode()).digest() + number.to_bytes(8, "big") + bytes([self._role])
        size = Aead.AES_256_GCM.key_bytes
        key = HKDF(SHA256(), size + NONCE_BYTES, salt, _KEY_LABEL + b"tape" + place).derive(self._key)
        return AeadSequence(Aead.AES_256_GCM, key[:size], key[size:])


class Batch:
    """Tapes that are being written."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._sinks: list[TapeSink] = []
        self._left_bytes = store.limit_bytes - store.used_bytes()

    def tape(self, program: str, number: int) -> TapeSink:
        """Begin a tape."""
        path = self._store._path(program, number)
        if path.exists():
            raise MpcError("mpc.tape-exists", f"there is a tape {number} for {program}")
        salt = secrets.token_bytes(_SALT_BYTES)
        self._sinks.append(TapeSink(path, salt, self._store._sequence(salt, program, number), self._spend))
        return self._sinks[-1]

    def finish(self) -> None:
        """Let all appear."""
        for sink in self._sinks:
            sink.finish()
        for sink in self._sinks:
            sink.part.rename(sink.path)

    def discard(self) -> None:
        """Remove what has not appeared."""
        for sink in self._sinks:
            sink.discard()

    def _spend(self, size: int) -> None:
        self._left_bytes -= size
        if self._left_bytes < 0:
            raise MpcError(
                "mpc.store-full", "the tapes' folder is as large as it may be", hint="use tapes up, or raise its limit"
            )


class TapeSink:
    """A tape that is being written, in pieces of any size; a `mitai.mpc.two.pads.Sink`."""

    def __init__(self, path: Path, salt: bytes, sequence: AeadSequence, spend: Callable[[int], None]) -> None:
        self.path, self.part = path, path.with_suffix(".part")
        self._sequence, self._spend = sequence, spend
        self._chunk = memoryview(bytearray(CHUNK_BYTES))
        self._filled = 0
        self._sealed = memoryview(bytearray(_SEALED_BYTES))
        self._file = self.part.open("xb", buffering=0)
        self._put(MAGIC + salt)

    def write(self, data: bytes | memoryview) -> None:
        """Append."""
        view = memoryview(data).cast("B")
        while view:
            if self._filled == CHUNK_BYTES:  # the last chunk is kept until `finish`
                self._seal(b"")
            piece = view[: CHUNK_BYTES - self._filled]
            self._chunk[self._filled : self._filled + len(piece)] = piece
            self._filled += len(piece)
            view = view[len(piece) :]

    def finish(self) -> None:
        """Write the last chunk, and make all of it durable."""
        self._seal(b"final")
        os.fsync(self._file.fileno())
        self._file.close()

    def discard(self) -> None:
        """Remove it, unless it has appeared."""
        self._file.close()
        self.part.unlink(missing_ok=True)

    def _seal(self, last: bytes) -> None:
        sealed = self._sealed[: self._filled + TAG_BYTES]
        self._sequence.seal_into(self._chunk[: self._filled], last, sealed)
        self._put(sealed)
        self._filled = 0

    def _put(self, data: bytes | memoryview) -> None:
        self._spend(len(data))
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]


class Tape:
    """A tape that is being used up; a `mitai.mpc.two.pads.Source`."""

    def __init__(self, file: io.FileIO, sequence: Callable[[bytes], AeadSequence]) -> None:
        self._file = file
        header = _exactly(file, _HEADER_BYTES)
        if not header.startswith(MAGIC):
            raise _damaged()
        self._sequence = sequence(header[len(MAGIC) :])
        self._left_bytes = os.fstat(file.fileno()).st_size - _HEADER_BYTES
        self._chunk = memoryview(b"")

    def __enter__(self) -> Tape:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def read(self, size: int) -> bytes:
        """Return that many bytes, or fewer at the end.

        Raises:
            MpcError: `mpc.tape-damaged`.
        """
        parts = []
        while size:
            if not self._chunk:
                if not self._left_bytes:
                    break
                self._chunk = memoryview(self._next())
            parts.append(self._chunk[:size])
            self._chunk = self._chunk[len(parts[-1]) :]
            size -= len(parts[-1])
        return b"".join(parts)

    def close(self) -> None:
        """Give its place on the disk back."""
        self._file.close()

    def _next(self) -> bytes:
        sealed = _exactly(self._file, min(self._left_bytes, _SEALED_BYTES))
        self._left_bytes -= len(sealed)
        try:
            return self._sequence.open(sealed, b"" if self._left_bytes else b"final")
        except ChannelError:
            raise _damaged() from None


@contextmanager
def _there(program: str, number: int) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise MpcError("mpc.tape-missing", f"there is no tape {number} for {program}") from None


def _short(program: str) -> str:
    return hashlib.sha256(program.encode()).hexdigest()[:32]


def _exactly(file: io.FileIO, size: int) -> bytes:
    data = file.read(size)
    if data is None or len(data) != size:
        raise _damaged()
    return data


def _damaged() -> MpcError:
    return MpcError(
        "mpc.tape-damaged",
        "a tape is not as this party wrote it, or it is another party's or another store's",
        hint="it is gone now; the next one may do",
    )
