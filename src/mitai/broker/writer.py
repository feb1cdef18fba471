"""Group commit: one thread decides all that has queued up in one transaction, and answers after the commit.

Invariants:

- Jobs run one after another, each on what the one before left: two releases never see the same budget.
- A job that raises leaves nothing behind and does not disturb the others of its batch.
- A future is resolved only when its batch is on the disk; when the commit fails, every job of the batch fails. Refusals
  and answers that change nothing wait too: they count only if nobody else wrote meanwhile.
- A commit that broke off is found out from the database, or answered as unknown (`broker.outcome-unknown`).
- After a failed commit the state is loaded and checked again, before anything else is decided; it must continue the
  one before: same ledger, same ledger key, same recovery plan (`continues`).
- A broker that does not lead any more decides nothing (`broker.standby`).

Example:
    >>> writer = Writer(database, state, ledger_key, clock)
    >>> future = writer.submit(Job(lambda draft: draft.append(b"entry")))
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, Generic, TypeVar

import structlog
from sqlalchemy.exc import SQLAlchemyError

from mitai.broker.store import Database, Draft, EdgeStore, Key, State, Transaction
from mitai.errors import BrokerError, MitaiError
from mitai.identity import Identity
from mitai.ledger.log import Log

MAX_BATCH = 64
MAX_QUEUED = 4096
FIND_OUT_WITHIN_S = 2.0  # whether a commit that broke off is on the disk

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
        leads: Whether this process may decide; see `leadership`.
        continues: Given the state before and one that was loaded since; raises unless this broker may go on with it.
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
        leads: Callable[[], bool] = lambda: True,
        continues: Callable[[State, State], None] = lambda _before, _after: None,
    ) -> None:
        self._database, self._signer, self._origin, self._clock = database, signer, origin, clock
        self._committed, self._leads, self._continues = committed, leads, continues
        self._state: State | None = state
        self._sent: State | None = None  # what a commit that is under way makes of it
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
        done: list[Callable[[], None]] = []
        self._sent = None
        try:
            self._decide(batch, done)
        except Exception as error:  # noqa: BLE001 - whatever it was, the writer goes on and every job gets an answer
            log.error("commit failed", kind=type(error).__name__, jobs=len(batch))
            failure = self._failure(error)
            done = done if failure is None else [partial(job.future.set_exception, failure) for job in batch]
        for settle in done:
            settle()

    def _decide(self, batch: list[Job[Any]], done: list[Callable[[], None]]) -> None:
        """Run the jobs and commit; `done` then says how each ended."""
        if not self._leads():
            raise standby()
        if self._state is None:
            self._state = self._reload()
        with self._database.writing() as connection:
            keys = [key for job in batch for key in job.keys]
            transaction = Transaction(self._database, self._state, connection, keys)
            done += [_run(job, transaction) for job in batch]
            after = self._sent = transaction.finish(self._append, int(self._clock().timestamp()))
        if after is not None:
            transaction.committed()
            self._state = self.snapshot = after
            self._committed()

    def _failure(self, error: Exception) -> MitaiError | None:
        """Return what the jobs of a failed commit are told; None when it is on the disk all the same."""
        before, self._state = self._state, None  # look before the next batch
        if not self._leads() and self._sent is None:
            return standby()
        if self._sent is None or before is None:
            return error if isinstance(error, MitaiError) else _storage_failed()
        found = self._found()
        if found == self._sent.head_stamp:
            self._committed()
            return None
        certain = self._state is not None and found == before.head_stamp
        return _storage_failed() if certain else _outcome_unknown()

    def _found(self) -> bytes:
        """Return the stamp of the head as a commit that broke off has left it; nothing when the database is away.

        While this broker leads, it takes over anew: then that commit is through or never will be.
        """
        until = time.monotonic() + FIND_OUT_WITHIN_S
        while True:
            with suppress(MitaiError, SQLAlchemyError):
                if not self._leads():
                    return self._database.head_stamp()
                self._state = self._reload()
                return self._state.found_stamp
            if time.monotonic() > until:
                return b""
            time.sleep(FIND_OUT_WITHIN_S / 20)

    def _reload(self) -> State:
        state = self._database.take_over()
        if state is None or state.head.size < self.snapshot.head.size:
            raise BrokerError("broker.state-lost", "the broker's database lost entries that were committed")
        self._continues(self.snapshot, state)
        self.snapshot = state
        return state

    def _append(self, store: EdgeStore, entries: list[bytes]) -> None:
        Log(store, self._signer, self._origin).append(entries)


def _run(job: Job[T], transaction: Transaction) -> Callable[[], None]:
    """Run one job; return what settles its future once the batch is committed."""
    draft = Draft(transaction)
    try:
        result = job.run(draft)
    except MitaiError as error:
        return partial(job.future.set_exception, error)
    except Exception as error:  # noqa: BLE001 - a defect in one job must not take the writer down
        log.error("job failed", kind=type(error).__name__)
        return partial(job.future.set_exception, BrokerError("broker.internal", "the broker failed on this request"))
    transaction.merge(draft)
    return partial(job.future.set_result, result)


def standby() -> BrokerError:
    """Return the error of a process that does not lead: nothing was decided."""
    return BrokerError(
        "broker.standby", "this broker stands by: another process leads, or is about to", hint="try again in a second"
    )


def _outcome_unknown() -> BrokerError:
    return BrokerError(
        "broker.outcome-unknown",
        "the database went away while this was committed: it may have been decided",
        hint="send the same command again, or look before a new one; a release begins anew",
    )


def _storage_failed() -> BrokerError:
    return BrokerError("broker.storage", "the broker's database could not be written; nothing was decided")
