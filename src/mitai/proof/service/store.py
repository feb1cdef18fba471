"""Answers that wait for their proofs, and sessions: a SQLite file that the server and the proving process share.

Follows `docs/spec/proof-service.md`. One process proves; any number of threads and processes may ask.

Invariants:

- What a method has returned from is on the disk: a process that is killed loses nothing that it acknowledged.
- Proofs asked for, in the making, and places of open sessions are bounded together, but for answers in progress.
- A session's answers are fixed when its seed is shown; the proofs of all drawn ones are asked for in that moment.
- Proofs are files named by exchanges, which no request chooses; only the proving process writes and deletes them.

Example:
    >>> store = Store(Path("state"), config)
    >>> store.add(said, envelope, promise="follows")
    >>> (job := store.take()).prompt, store.look(job.id).state
    ([4, 17], 'proving')
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from mitai.errors import LedgerError
from mitai.ledger.assurance import Sample
from mitai.ledger.lots import Lots
from mitai.ledger.receipt import receipt_sha256
from mitai.proof.sampling import SEED_BYTES, Sampling, commitment
from mitai.proof.service.config import ServiceConfig
from mitai.proof.service.receipts import Promise, Said
from mitai.serve.schema import RequestError

ATTEMPTS = 5
SEED_S, MOST_SEEDS = 600.0, 1024
State = Literal["kept", "waiting", "proving", "done", "failed"]
_SCHEMA = """
create table if not exists answers (
    number integer primary key, id text unique not null, session text not null, prompt blob not null,
    answer blob not null, receipt blob not null, created real not null, state text not null default 'kept',
    asked integer not null default 0, attempts integer not null default 0, began real not null default 0,
    seconds real not null default 0, bytes integer not null default 0, sampling blob
);
create index if not exists by_state on answers (state, asked);
create index if not exists by_session on answers (session);
create table if not exists sessions (
    id text primary key, commitment text unique not null, one_in integer not null, answers integer not null,
    opened real not null, seed text not null default ''
);
create table if not exists seeds (commitment text primary key, seed blob not null, created real not null);
"""
_ADD = "insert into answers (id, session, prompt, answer, receipt, created, sampling) values (?, ?, ?, ?, ?, ?, ?)"
_WHOLE = "select prompt, answer, receipt, sampling from answers where id = ?"
_LOOK = "select state, asked, began, length(prompt) + length(answer) from answers where id = ?"
_AHEAD = "select count(*) from answers where state = 'proving' or (state = 'waiting' and asked < ?)"
_LAST = "select seconds, length(prompt) + length(answer) from answers where state = 'done' order by asked desc limit 1"
_AGAIN = """
update answers set state = case when attempts >= ? then 'failed' else 'waiting' end where state = 'proving'
"""
_NEXT = "select id, prompt, answer, sampling from answers where state = 'waiting' order by asked limit 1"
_TAKE = "update answers set state = 'proving', attempts = attempts + 1, began = ? where id = ?"
_DONE = "update answers set state = 'done', bytes = ?, seconds = ? - began where id = ?"
_QUEUE = """
update answers set state = 'waiting', attempts = 0, asked = (select max(asked) + 1 from answers) where id = ?
"""
_LOOSE = """
select id from (
    select *, sum(bytes) over (order by number desc) as above, row_number() over (order by number desc) as place
    from answers
)
where state not in ('waiting', 'proving') and (created < ? or place > ? or above > ?)
    and session not in (select id from sessions where seed = '' and opened >= ?)
"""
_OVER = "delete from sessions where opened < ? and id not in (select session from answers)"
_SESSION = "select commitment, one_in, answers from sessions where id = ? and seed = '' and opened >= ?"


@dataclass(frozen=True)
class Standing:
    """How far a proof is.

    Attributes:
        state: Of the answer's proof; `kept`: nobody has asked for one.
        ahead: How many others come first.
        seconds: Since it was begun.
        expected_s: How long it may take in all, by those before; None where nothing is known.
    """

    state: State
    ahead: int = 0
    seconds: float = 0.0
    expected_s: float | None = None


class Store:
    """The shared state of a service.

    Args:
        folder: Where it lies; made when missing.
        config: Its bounds.
        clock: Seconds since the epoch.
    """

    def __init__(self, folder: Path, config: ServiceConfig, *, clock: Callable[[], float] = time.time) -> None:
        self.proofs = folder / "proofs"
        self.proofs.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
        self._config, self._clock, self._lock = config, clock, threading.RLock()
        self._db = sqlite3.connect(folder / "state.db", timeout=30, isolation_level=None, check_same_thread=False)
        self._db.execute("pragma journal_mode = wal")
        self._db.execute("pragma synchronous = full")
        self._db.execute("pragma secure_delete = on")
        with self._lock:
            self._db.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    # ------------------------------------------------------------------ answers

    def add(
        self, said: Said, receipt: bytes, promise: Promise, session: str = "", sampling: Sampling | None = None
    ) -> None:
        """Keep an answer before its end is told, and ask for its proof where that was promised.

        Raises:
            RequestError: Its session is over, or full.
        """
        tokens = [np.array(part, "<u4").tobytes() for part in (said.prompt, said.answer)]
        with self._writing() as db:
            if session:
                self._open(session)
            drawn = msgspec.msgpack.encode(sampling) if sampling else None
            db.execute(_ADD, (said.id, session, *tokens, receipt, self._clock(), drawn))
            if promise == "follows":
                self._queue(said.id)

    def get(self, answer_id: str) -> tuple[Said, bytes]:
        """Return an answer and its receipt.

        Raises:
            RequestError: `proof.answer-unknown`.
        """
        said, receipt, _ = self.whole(answer_id)
        return said, receipt

    def whole(self, answer_id: str) -> tuple[Said, bytes, Sampling | None]:
        """Return an answer, its receipt, and how it was drawn; see `get`."""
        row = self._one(_WHOLE, answer_id)
        if row is None:
            raise _unknown()
        return Said(answer_id, _tokens(row[0]), _tokens(row[1])), row[2], _sampling(row[3])

    # ------------------------------------------------------------------ proofs

    def ask(self, answer_id: str) -> Standing:
        """Ask for the proof of an answer, unless somebody has.

        Raises:
            RequestError: `proof.answer-unknown`, `proof.queue-full`.
        """
        with self._writing():
            if self.look(answer_id).state in {"kept", "failed"}:
                self._require(1)
                self._queue(answer_id)
        return self.look(answer_id)

    def look(self, answer_id: str) -> Standing:
        """Return how far the proof of an answer is.

        Raises:
            RequestError: `proof.answer-unknown`.
        """
        row = self._one(_LOOK, answer_id)
        if row is None:
            raise _unknown()
        state, asked, began, size = row
        if state not in {"waiting", "proving"}:
            return Standing(state)
        [ahead] = self._row(_AHEAD, asked) if state == "waiting" else (0,)
        before = self._one(_LAST)
        seconds = max(0.0, self._clock() - began) if state == "proving" else 0.0
        return Standing(state, ahead, round(seconds, 1), round(before[0] * size / before[1], 1) if before else None)

    def require_place(self) -> None:
        """Raise `RequestError` (`proof.queue-full`) when no further proof may be asked for now."""
        self._require(1)

    def counts(self) -> dict[str, int]:
        """Return how many proofs wait, how many places sessions hold, and how many answers are kept."""
        [waiting] = self._row("select count(*) from answers where state in ('waiting', 'proving')")
        [kept] = self._row("select count(*) from answers")
        return {"waiting": waiting, "reserved": self._reserved(), "answers": kept}

    def proof(self, answer_id: str) -> Path:
        """Return where the proof of an answer lies, or will."""
        return self.proofs / f"{Said(answer_id, (), ()).exchange}.proof"

    # ------------------------------------------------------------------ the proving process

    def again(self) -> None:
        """Put back what a proving process had begun that is no more; to be called by the one that is."""
        with self._writing() as db:
            db.execute(_AGAIN, (ATTEMPTS,))

    def take(self) -> tuple[Said, Sampling | None] | None:
        """Return the answer whose proof was asked for first, how it was drawn, and note that it is being proven."""
        with self._writing() as db:
            row = self._one(_NEXT)
            if row is None:
                return None
            db.execute(_TAKE, (self._clock(), row[0]))
        return Said(row[0], _tokens(row[1]), _tokens(row[2])), _sampling(row[3])

    def done(self, answer_id: str, proof: bytes) -> None:
        """Keep a proof."""
        path = self.proof(answer_id)
        part = path.with_suffix(".part")
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(proof)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        folder = os.open(self.proofs, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        with self._writing() as db:
            db.execute(_DONE, (len(proof), self._clock(), answer_id))

    def failed(self, answer_id: str) -> None:
        """Note that an answer can't be proven now."""
        with self._writing() as db:
            db.execute("update answers set state = 'failed' where id = ?", (answer_id,))

    def purge(self) -> int:
        """Forget what is too old or too much, but nothing that is asked for or in an open session; return how many."""
        config, now = self._config, self._clock()
        with self._writing() as db:
            bounds = now - config.keep_s, config.keep_answers, config.keep_gib * (1 << 30), now - config.session_s
            rows = db.execute(_LOOSE, bounds).fetchall()
            db.executemany("delete from answers where id = ?", rows)
            db.execute(_OVER, (now - max(config.session_s, config.keep_s),))
        known = {self.proof(row[0]) for row in self._all("select id from answers")}
        for path in self.proofs.iterdir():
            if path not in known:
                path.unlink()
        return len(rows)

    # ------------------------------------------------------------------ seeds of answers that are drawn

    def seed(self) -> str:
        """Draw a seed for one answer, and return the commitment to it.

        Raises:
            RequestError: `proof.too-many-seeds`.
        """
        seed = secrets.token_bytes(SEED_BYTES)
        with self._writing() as db:
            db.execute("delete from seeds where created < ?", (self._clock() - SEED_S,))
            if self._row("select count(*) from seeds")[0] >= MOST_SEEDS:
                raise RequestError("proof.too-many-seeds", "too many seeds wait to be used", status=429)
            db.execute("insert into seeds values (?, ?, ?)", (commitment(seed), seed, self._clock()))
        return commitment(seed)

    def spend(self, seed: str) -> bytes:
        """Return the seed behind a commitment, for the one answer that it is for.

        Raises:
            RequestError: `proof.seed-unknown`.
        """
        with self._writing() as db:
            row = db.execute("delete from seeds where commitment = ? returning seed", (seed,)).fetchone()
        if row is None:
            hint = "get one for each answer: POST /v1/proof-seeds"
            raise RequestError(
                "proof.seed-unknown", "there is no unused seed of that commitment", status=404, hint=hint
            )
        return bytes(row[0])

    # ------------------------------------------------------------------ sessions

    def open_session(self, sample: Sample, answers: int) -> str:
        """Begin a session, and take its places; return its id.

        Raises:
            RequestError: `proof.session-known`, `proof.queue-full`.
        """
        name = f"ps-{secrets.token_hex(16)}"
        with self._writing() as db:
            self._require(_places(answers, sample.one_in))
            values = name, sample.commitment, sample.one_in, answers, self._clock()
            try:
                db.execute(
                    "insert into sessions (id, commitment, one_in, answers, opened) values (?, ?, ?, ?, ?)", values
                )
            except sqlite3.IntegrityError:
                raise RequestError(
                    "proof.session-known",
                    "a session with this commitment was opened before",
                    status=409,
                    param="commitment",
                    hint="draw a new seed for each session",
                ) from None
        return name

    def sample(self, session: str) -> Sample:
        """Return what an open session's receipts name.

        Raises:
            RequestError: `proof.session-unknown`, `proof.session-full`.
        """
        return self._open(session)

    def reveal(self, session: str, seed: bytes) -> tuple[int, list[str]]:
        """End a session; return how many answers it has, and the ids of those that are drawn.

        Raises:
            RequestError: `proof.session-unknown`; `ledger.lots-commitment`.
        """
        with self._writing() as db:
            row = self._one("select commitment, one_in, seed, opened from sessions where id = ?", session)
            if row is None or (not row[2] and self._clock() - row[3] > self._config.session_s):
                raise _no_session()
            try:
                lots = Lots.open(Sample(one_in=row[1], commitment=row[0]), seed)
            except LedgerError as error:
                raise RequestError(error.code, error.message, param="seed") from None
            answers = self._all("select id, receipt, state from answers where session = ? order by number", session)
            drawn = [(one, state) for one, receipt, state in answers if lots.draws(receipt_sha256(receipt))]
            if not row[2]:
                db.execute("update sessions set seed = ? where id = ?", (seed.hex(), session))
                for answer_id, state in drawn:
                    if state == "kept":
                        self._queue(answer_id)
        return len(answers), [answer_id for answer_id, _ in drawn]

    # ------------------------------------------------------------------ within

    def _open(self, session: str) -> Sample:
        """Return the sample of a session that takes one more answer; see `sample`."""
        row = self._one(_SESSION, session, self._clock() - self._config.session_s)
        if row is None:
            raise _no_session()
        if self._row("select count(*) from answers where session = ?", session)[0] >= row[2]:
            raise RequestError(
                "proof.session-full", f"the session has its {row[2]} answers", status=429, hint="reveal its seed"
            )
        return Sample(one_in=row[1], commitment=row[0])

    def _require(self, places: int) -> None:
        counts = self.counts()
        if counts["waiting"] + counts["reserved"] + places > self._config.places:
            raise RequestError(
                "proof.queue-full",
                f"of {self._config.places} places {counts['waiting']} wait, and sessions hold {counts['reserved']}",
                status=429,
                hint="ask again later",
            )

    def _reserved(self) -> int:
        since = self._clock() - self._config.session_s
        rows = self._all("select answers, one_in from sessions where seed = '' and opened >= ?", since)
        return sum(_places(*row) for row in rows)

    def _queue(self, answer_id: str) -> None:
        self._db.execute(_QUEUE, (answer_id,))

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            yield self._db

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """Do all of it or nothing; on the disk when this ends."""
        with self._lock:
            self._db.execute("begin immediate")
            try:
                yield self._db
            except BaseException:
                self._db.execute("rollback")
                raise
            self._db.execute("commit")

    def _one(self, query: str, *values: object) -> tuple[Any, ...] | None:
        with self._reading() as db:
            row: tuple[Any, ...] | None = db.execute(query, values).fetchone()
        return row

    def _all(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self._reading() as db:
            return db.execute(query, values).fetchall()

    def _row(self, query: str, *values: object) -> tuple[Any, ...]:
        return self._one(query, *values) or ()


def _places(answers: int, one_in: int) -> int:
    return -(-answers // one_in)


def _tokens(data: bytes) -> list[int]:
    tokens: list[int] = np.frombuffer(data, "<u4").tolist()
    return tokens


def _sampling(data: bytes | None) -> Sampling | None:
    return msgspec.msgpack.decode(data, type=Sampling) if data else None


def _unknown() -> RequestError:
    return RequestError("proof.answer-unknown", "there is no answer of that id here, or no more", status=404)


def _no_session() -> RequestError:
    return RequestError(
        "proof.session-unknown",
        "there is no open session of that id",
        status=404,
        hint="open one: POST /v1/proof-sessions",
    )
