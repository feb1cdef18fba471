"""Which of several broker processes on one PostgreSQL leads: the one whose session holds an advisory lock.

The lock decides who works; it is not what keeps the state right. That is the head's stamp (`store`): whoever takes over
writes it anew, and from then on nothing that an earlier leader still has under way can commit. So a lock that the
database's host gives to two processes at once costs time, never a budget.

Invariants:

- A leader that is killed frees the lock at once, with its connection. One that is paused or cut off frees it after
  `LEASE_S`: PostgreSQL ends a session that falls silent for so long (`idle_session_timeout`).
- A leader counts those seconds itself, from before it last spoke, and so stops before the lock is free.
- Every time that the lock is taken begins a new term; what was loaded in an earlier one is loaded again.

Example:
    >>> leadership = Leadership("postgresql://broker@db.example/mitai")
    >>> leadership.term()  # None while another process leads
    1
"""

from __future__ import annotations

import threading
import time

import sqlalchemy
import structlog
from sqlalchemy import Connection, TextClause, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from mitai.broker.tables import POSTGRESQL

LEASE_S = 2.0
RENEW_S = 0.4
TRY_AGAIN_S = 0.1
STAND_BACK_S = 1.0  # after giving the lock up, for another process to have it
_TAKE = text("SELECT pg_try_advisory_lock(7883960584414063458)")  # "mitai.kb"; each database has its own
_HOLDS = text("SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())")
log = structlog.get_logger("mitai.broker")


class Leadership:
    """One process's try for the lock, for ever: on a thread and a connection of its own.

    Args:
        url: The database, as SQLAlchemy spells it. Not through a pooler that shares sessions among clients.
    """

    def __init__(self, url: str) -> None:
        timeout = int(LEASE_S * 1000)
        options = f"{POSTGRESQL['options']} -c idle_session_timeout={timeout} -c statement_timeout={timeout}"
        self._engine = sqlalchemy.create_engine(
            url, connect_args=POSTGRESQL | {"options": options}, poolclass=NullPool, isolation_level="AUTOCOMMIT"
        )
        self._terms, self._until = 0, 0.0  # monotonic seconds
        self._stop, self._stand_back = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="broker-leadership", daemon=True)
        self._thread.start()

    def term(self) -> int | None:
        """Return the number of the term in which this process leads; None while it does not."""
        leads = time.monotonic() < self._until and not self._stand_back.is_set()
        return self._terms if leads else None

    def give_up(self) -> None:
        """Leave it to another process for now: this one can't lead, for whatever reason."""
        self._stand_back.set()

    def close(self) -> None:
        """Let go of the lock, so that another process has it at once."""
        self._stop.set()
        self._thread.join()
        self._engine.dispose()

    def _run(self) -> None:
        while not self._stop.wait(TRY_AGAIN_S):
            try:
                with self._engine.connect() as session:
                    self._hold(session)
            except SQLAlchemyError as error:
                log.warning("no session for the leader's lock", kind=type(error).__name__)
            self._until = 0.0
            if self._stand_back.is_set():
                self._stop.wait(STAND_BACK_S)
                self._stand_back.clear()

    def _hold(self, session: Connection) -> None:
        """Wait for the lock, then keep it until it is lost or to be let go."""
        while not self._granted(session, _TAKE):
            if self._waited(TRY_AGAIN_S):
                return
        self._terms += 1
        log.info("leads", term=self._terms)
        while until := self._granted(session, _HOLDS):
            self._until = until
            if self._waited(RENEW_S):
                break
        log.warning("leads no more", term=self._terms)

    def _granted(self, session: Connection, question: TextClause) -> float:
        """Return until when a yes counts, from before it was asked for; 0 for a no, or one that came too late."""
        until = time.monotonic() + LEASE_S
        return until if session.scalar(question) and time.monotonic() < until else 0.0

    def _waited(self, seconds: float) -> bool:
        """Wait; tell whether the lock is not wanted any more."""
        return self._stop.wait(seconds) or self._stand_back.is_set()
