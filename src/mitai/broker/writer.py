"""Group commit: one thread decides all that has queued up in one transaction, and answers after the commit.

Invariants:

- Jobs run one after another, each on what the one before left: two releases never see the same budget.
- A job that raises leaves nothing behind and does not disturb the others of its batch.
- A future is resolved only when its batch is on the disk; when the commit fails, every job of the batch fails.
- After a failed commit the state is loaded and checked again, before anything else is decided.

Example:
    >>> writer = Writer(database, state, ledger_key, clock)
    >>> future = writer.submit(Job(lambda draft: draft.append(b"entry")))
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar

import structlog

from mitai.broker.store import Database, Draft, EdgeStore, Key, State, Transaction
from mitai.errors import BrokerError, MitaiError
from mitai.identity import Identity
from mitai.ledger.log import Log

MAX_BATCH = 64
MAX_QUEUED = 4096

T = TypeVar("T")
log = structlog.get_logger("mitai.broker")


@dataclass
class Job(Generic[T]):
    """Work for the writer: `run` reads and writes through a `Draft`; `keys` are the records that it will read."""

    run: Callable[[Draft], T]
    keys: tuple[Key, ...] = ()
    future: Future[T] = field(default_factory=Future)


class Writer:
    """The one thread that changes the state.

    Args:
        database: Where the state is.
        state: The state as loaded.
        signer: The ledger's key.
        origin: The ledger's name.
        clock: Returns the time, UTC.
        committed: Called after every commit.
    """

    def __init__(
        self,
        database: Database,
        state: State,
        signer: Identity,
        origin: str,
        clock: Callable[[], datetime],
        *,
        committed: Callable[[], None] = lambda: None,
    ) -> None:
        self._database, self._signer, self._origin, self._clock = database, signer, origin, clock
        self._committed = committed
        self._state: State | None = state
        self.snapshot: State = state  # the newest that is committed
        self._queue: queue.Queue[Job[Any] | None] = queue.Queue(MAX_QUEUED)
        self._gate, self._closed = threading.Lock(), False
        self._thread = threading.Thread(target=self._run, name="broker-writer", daemon=True)
        self._thread.start()

    def submit(self, job: Job[T]) -> Future[T]:
        """Queue a job; its future is resolved after the commit. Raises `broker.busy` when too much is waiting."""
        with self._gate:  # what is taken in lies before the end mark of `close`
            if self._closed:
                raise BrokerError("broker.closed", "the broker is shutting down")
            try:
                self._queue.put_nowait(job)
            except queue.Full:
                raise BrokerError("broker.busy", "too many requests wait", hint="try again in a second") from None
        return job.future

    def close(self) -> None:
        """Finish what is queued, then stop."""
        with self._gate:
            first, self._closed = not self._closed, True
        if first:
            self._queue.put(None)
            self._thread.join()

    def _run(self) -> None:
        while True:
            batch, last = self._next_batch()
            if batch:
                self._commit([job for job in batch if job.future.set_running_or_notify_cancel()])
            if last:
                return

    def _next_batch(self) -> tuple[list[Job[Any]], bool]:
        """Wait for one job, then take along what else is there; the second value says that it was the last."""
        batch: list[Job[Any]] = []
        job = self._queue.get()
        while job is not None and len(batch) < MAX_BATCH - 1:
            batch.append(job)
            try:
                job = self._queue.get_nowait()
            except queue.Empty:
                return batch, False
        if job is not None:
            batch.append(job)
        return batch, job is None

    def _commit(self, batch: list[Job[Any]]) -> None:
        done: list[tuple[Job[Any], Any]] = []
        try:
            self._decide(batch, done)
        except Exception as error:  # noqa: BLE001 - whatever it was, the writer goes on and every job gets an answer
            self._state = None  # what reached the disk is not known: look before the next batch
            log.error("commit failed", kind=type(error).__name__, jobs=len(batch))
            failure = error if isinstance(error, MitaiError) else _storage_failed()
            for job in batch:
                if not job.future.done():
                    job.future.set_exception(failure)
            return
        for job, result in done:
            job.future.set_result(result)

    def _decide(self, batch: list[Job[Any]], done: list[tuple[Job[Any], Any]]) -> None:
        if self._state is None:
            self._state = self._reload()
        with self._database.writing() as connection:
            keys = [key for job in batch for key in job.keys]
            transaction = Transaction(self._database, self._state, connection, keys)
            for job in batch:
                draft = Draft(transaction)
                try:
                    result = job.run(draft)
                except MitaiError as error:
                    job.future.set_exception(error)
                except Exception as error:  # noqa: BLE001 - a defect in one job must not take the writer down
                    log.error("job failed", kind=type(error).__name__)
                    job.future.set_exception(BrokerError("broker.internal", "the broker failed on this request"))
                else:
                    transaction.merge(draft)
                    done.append((job, result))
            after = transaction.finish(self._append, int(self._clock().timestamp()))
        if after is not None:
            transaction.committed()
            self._state = self.snapshot = after
            self._committed()

    def _reload(self) -> State:
        state = self._database.load()
        if state is None or state.head.size < self.snapshot.head.size:
            raise BrokerError("broker.state-lost", "the broker's database lost entries that were committed")
        self.snapshot = state
        return state

    def _append(self, store: EdgeStore, entries: list[bytes]) -> None:
        Log(store, self._signer, self._origin).append(entries)


def _storage_failed() -> BrokerError:
    return BrokerError("broker.storage", "the broker's database could not be written; nothing was decided")
