"""Where a service's state lies: a folder and a database that processes with one key share.

Follows `docs/spec/proof-service.md`, "On the disk".

Invariants:

- What another key sealed is deleted, for nobody has that key any more; but not while a process has folder or database
  open with it.
- Transactions that write are one after the other, over all processes.

Example:
    >>> state = SealedState(config, read_key())
    >>> with state.writing() as db:
    ...     db.execute(insert(seeds).values(row))
"""

from __future__ import annotations

import fcntl
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec
import structlog
from sqlalchemy import Connection, insert, select
from sqlalchemy.exc import SQLAlchemyError

from mitai.broker.tables import engine_of
from mitai.errors import ProofError
from mitai.proof.service.config import ServiceConfig
from mitai.proof.service.sealed import ProofFiles, Sealer
from mitai.proof.service.tables import alone, keys, metadata, queue_up, stay

log = structlog.get_logger(__name__)
T = TypeVar("T")


class SealedState:
    """Folder and database, open.

    Args:
        config: Where they are.
        key: Seals all of it (32 bytes).

    Attributes:
        sealer: Names and seals.
        files: Proofs.

    Raises:
        ProofError: `proof.state-key`: it is in use under another key.
    """

    def __init__(self, config: ServiceConfig, key: bytes) -> None:
        folder = Path(config.state)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
        self.sealer = Sealer(key)
        self.files = ProofFiles(folder / "proofs", self.sealer)
        self._engine = engine_of(config.state_url or f"sqlite:///{folder / 'answers.db'}")
        self._use: Connection | None = None
        used = os.open(folder / "state.lock", os.O_RDWR | os.O_CREAT, 0o600)
        self._leave = weakref.finalize(self, os.close, used)
        try:
            with _alone(folder), self.writing() as db:
                self._use = self._engine.connect()
                self._own(db, self._use, used)
                fcntl.flock(used, fcntl.LOCK_SH)  # the kernel opens it when this process ends, however it does
                stay(self._use)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Leave folder and database."""
        self._leave()
        if self._use is not None:
            self._use.close()
        self._engine.dispose()

    def reading(self) -> Connection:
        """Return a connection that reads; to be closed."""
        return self._engine.connect()

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Do all of it or nothing; on the disk when this ends."""
        with self._engine.connect().execution_options(mitai_writes=True) as db, db.begin():
            queue_up(db)
            yield db

    def seal(self, kind: str, tag: bytes, value: msgspec.Struct) -> bytes:
        """Return a struct as the disk has it."""
        return self.sealer.seal(kind, tag, msgspec.msgpack.encode(value))

    def open(self, kind: str, tag: bytes, sealed: bytes, of: type[T]) -> T:
        """Return what was sealed as this.

        Raises:
            ProofError: `proof.state-damaged`.
        """
        return msgspec.msgpack.decode(self.sealer.open(kind, tag, sealed), type=of)

    def _own(self, db: Connection, use: Connection, used: int) -> None:
        """Make tables whose rows can be opened, in place of what can't."""
        keys.create(db, checkfirst=True)
        former, own = db.scalar(select(keys.c.tag)), self.sealer.tag("key", "mitai proof state v1")
        if former == own:
            return
        if not (_locked(used) and alone(use)):
            raise ProofError(
                "proof.state-key",
                "the state is in use by a process that has another key",
                hint="both processes of a service get the same key; two services have a state each",
            )
        if former is not None:
            log.warning("former state deleted: it was sealed under another key")
        metadata.drop_all(db)
        metadata.create_all(db)
        db.execute(insert(keys).values(tag=own))
        self.files.keep(())


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Open a state while no other process does: SQLite refuses one of two that make the same database."""
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _locked(used: int) -> bool:
    """Lock a file if no other process has; return whether that was so."""
    try:
        fcntl.flock(used, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def database_refuses(config: ServiceConfig, error: SQLAlchemyError) -> str:
    """Return what a person is told when a process of the service can't use its database."""
    place = "the database at state_url" if config.state_url else f"the database in {config.state}"
    todo = "is it up?" if config.state_url else "if its files are damaged, delete them: what they have is lost"
    return f"{place} refuses ({type(error).__name__})\n  next: {todo}"
