"""Answers that wait for their proofs, and sessions: a database that the server and the proving process share.

Follows `docs/spec/proof-service.md`. One process proves; any number of threads and processes may ask.

Invariants:

- What a method has returned from is on the disk: a process that is killed loses nothing that it acknowledged.
- Nothing there can be read without the key (`mitai.proof.service.state`).
- Proofs asked for, in the making, and places of open sessions are bounded together, but for answers in progress.
- A session's answers are fixed when its seed is shown; the proofs of all drawn ones are asked for in that moment.

Example:
    >>> store = Store(config, read_key())
    >>> store.add(said, envelope, promise="follows")
    >>> (job := store.take())[0].prompt, store.look(job[0].id).state
    ([4, 17], 'proving')
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import structlog
from sqlalchemy import Connection, Select, and_, case, delete, func, insert, or_, select, update

from mitai.errors import LedgerError, ProofError
from mitai.ledger.assurance import Sample
from mitai.ledger.lots import Lots
from mitai.ledger.receipt import receipt_sha256
from mitai.proof.sampling import SEED_BYTES, Sampling, commitment
from mitai.proof.service.config import ServiceConfig
from mitai.proof.service.receipts import Promise, Said
from mitai.proof.service.state import SealedState
from mitai.proof.service.tables import (
    answers,
    ask,
    loose,
    open_sessions,
    seeds,
    sessions,
)
from mitai.serve.schema import RequestError

log = structlog.get_logger(__name__)
ATTEMPTS = 5
SEED_S, MOST_SEEDS = 600.0, 1024
State = Literal["kept", "waiting", "proving", "done", "failed"]
_UNDER_WAY = answers.c.state.in_(["waiting", "proving"])


class Answered(msgspec.Struct, frozen=True, array_like=True):
    """An answer, as it is sealed."""

    id: str
    prompt: Sequence[int]
    answer: Sequence[int]
    receipt: bytes
    sampling: Sampling | None

    @property
    def said(self) -> Said:
        """What was said."""
        return Said(self.id, self.prompt, self.answer)


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
        config: Where it lies, and its bounds.
        key: Seals it (32 bytes).
        clock: Seconds since the epoch.

    Raises:
        ProofError: `proof.state-key`: it is in use under another key.
    """

    def __init__(self, config: ServiceConfig, key: bytes, *, clock: Callable[[], float] = time.time) -> None:
        self._config, self._clock, self._state = config, clock, SealedState(config, key)

    def close(self) -> None:
        """Leave folder and database."""
        self._state.close()

    # ------------------------------------------------------------------ answers

    def add(
        self, said: Said, receipt: bytes, promise: Promise, session: str = "", sampling: Sampling | None = None
    ) -> None:
        """Keep an answer before its end is told, and ask for its proof where that was promised.

        Raises:
            RequestError: Its session is over, or full.
        """
        tag, answered = self._tag(said.id), Answered(said.id, said.prompt, said.answer, receipt, sampling)
        row = {"tag": tag, "sealed": self._state.seal("answer", tag, answered), "created": self._clock()}
        with self._state.writing() as db:
            if session:
                self._open(db, session)
            of_session = self._state.sealer.tag("session", session) if session else b""
            size = len(said.prompt) + len(said.answer)
            db.execute(insert(answers).values(row | {"session": of_session, "tokens": size}))
            if promise == "follows":
                ask(db, tag)

    def get(self, answer_id: str) -> tuple[Said, bytes]:
        """Return an answer and its receipt.

        Raises:
            RequestError: `proof.answer-unknown`.
        """
        said, receipt, _ = self.whole(answer_id)
        return said, receipt

    def whole(self, answer_id: str) -> tuple[Said, bytes, Sampling | None]:
        """Return an answer, its receipt, and how it was drawn; see `get`."""
        tag = self._tag(answer_id)
        with self._state.reading() as db:
            sealed = db.scalar(select(answers.c.sealed).where(answers.c.tag == tag))
        if sealed is None:
            raise _unknown()
        answered = self._state.open("answer", tag, sealed, Answered)
        return answered.said, answered.receipt, answered.sampling

    # ------------------------------------------------------------------ proofs

    def ask(self, answer_id: str) -> Standing:
        """Ask for the proof of an answer, unless somebody has.

        Raises:
            RequestError: `proof.answer-unknown`, `proof.queue-full`.
        """
        with self._state.writing() as db:
            if self._look(db, answer_id).state in {"kept", "failed"}:
                self._require(db, 1)
                ask(db, self._tag(answer_id))
            return self._look(db, answer_id)

    def look(self, answer_id: str) -> Standing:
        """Return how far the proof of an answer is.

        Raises:
            RequestError: `proof.answer-unknown`.
        """
        with self._state.reading() as db:
            return self._look(db, answer_id)

    def require_place(self) -> None:
        """Raise `RequestError` (`proof.queue-full`) when no further proof may be asked for now."""
        with self._state.reading() as db:
            self._require(db, 1)

    def counts(self) -> dict[str, int]:
        """Return how many proofs wait, how many places sessions hold, and how many answers are kept."""
        with self._state.reading() as db:
            return self._counts(db)

    def proof(self, answer_id: str) -> tuple[int, Iterator[bytes]]:
        """Return the size of an answer's proof, and its bytes in parts.

        Raises:
            RequestError: It was forgotten since somebody looked.
            ProofError: `proof.state-damaged`; also by the later parts.
        """
        try:
            return self._state.files.read(answer_id)
        except FileNotFoundError:
            raise _unknown() from None

    # ------------------------------------------------------------------ the proving process

    def again(self) -> None:
        """Put back what a proving process had begun that is no more; to be called by the one that is."""
        state = case((answers.c.attempts >= ATTEMPTS, "failed"), else_="waiting")
        with self._state.writing() as db:
            db.execute(update(answers).where(answers.c.state == "proving").values(state=state))

    def take(self) -> tuple[Said, Sampling | None] | None:
        """Return the answer whose proof was asked for first, how it was drawn, and note that it is being proven."""
        first = select(answers.c.tag, answers.c.sealed).where(answers.c.state == "waiting").order_by(answers.c.asked)
        begun = {"state": "proving", "attempts": answers.c.attempts + 1, "began": self._clock()}
        with self._state.writing() as db:
            while row := db.execute(first.limit(1)).first():
                this = update(answers).where(answers.c.tag == row.tag)
                try:
                    answered = self._state.open("answer", row.tag, row.sealed, Answered)
                except ProofError as error:
                    log.error("not proven", kind=error.code)
                    db.execute(this.values(state="failed"))
                    continue
                db.execute(this.values(begun))
                return answered.said, answered.sampling
        return None

    def done(self, answer_id: str, proof: bytes) -> None:
        """Keep a proof."""
        self._state.files.write(answer_id, proof)
        made = {"state": "done", "bytes": len(proof), "seconds": self._clock() - answers.c.began}
        with self._state.writing() as db:
            db.execute(update(answers).where(answers.c.tag == self._tag(answer_id)).values(made))

    def failed(self, answer_id: str) -> None:
        """Note that an answer can't be proven now."""
        with self._state.writing() as db:
            db.execute(update(answers).where(answers.c.tag == self._tag(answer_id)).values(state="failed"))

    def purge(self) -> int:
        """Forget what is too old or too much, but nothing that is asked for or in an open session; return how many."""
        config, now = self._config, self._clock()
        gone = loose(now - config.keep_s, config.keep_answers, int(config.keep_gib * (1 << 30)), now - config.session_s)
        over = sessions.c.opened < now - max(config.session_s, config.keep_s)
        with self._state.writing() as db:
            forgotten = db.execute(delete(answers).where(answers.c.number.in_(gone))).rowcount
            db.execute(delete(sessions).where(over, sessions.c.tag.not_in(select(answers.c.session))))
            known = db.scalars(select(answers.c.tag)).all()
        self._state.files.keep(known)
        return forgotten

    # ------------------------------------------------------------------ seeds of answers that are drawn

    def seed(self) -> str:
        """Draw a seed for one answer, and return the commitment to it.

        Raises:
            RequestError: `proof.too-many-seeds`.
        """
        promised = commitment(seed := secrets.token_bytes(SEED_BYTES))
        tag = self._state.sealer.tag("seed", promised)
        with self._state.writing() as db:
            db.execute(delete(seeds).where(seeds.c.created < self._clock() - SEED_S))
            if _count(db, select(seeds.c.tag)) >= MOST_SEEDS:
                raise RequestError("proof.too-many-seeds", "too many seeds wait to be used", status=429)
            sealed = self._state.sealer.seal("seed", tag, seed)
            db.execute(insert(seeds).values(tag=tag, sealed=sealed, created=self._clock()))
        return promised

    def spend(self, seed: str) -> bytes:
        """Return the seed behind a commitment, for the one answer that it is for.

        Raises:
            RequestError: `proof.seed-unknown`.
        """
        tag = self._state.sealer.tag("seed", seed)
        with self._state.writing() as db:
            sealed = db.scalar(delete(seeds).where(seeds.c.tag == tag).returning(seeds.c.sealed))
        if sealed is None:
            hint = "get one for each answer: POST /v1/proof-seeds"
            raise RequestError(
                "proof.seed-unknown", "there is no unused seed of that commitment", status=404, hint=hint
            )
        return self._state.sealer.open("seed", tag, sealed)

    # ------------------------------------------------------------------ sessions

    def open_session(self, sample: Sample, most: int) -> str:
        """Begin a session of so many answers, and take its places; return its id.

        Raises:
            RequestError: `proof.session-known`, `proof.queue-full`.
        """
        name = f"ps-{secrets.token_hex(16)}"
        tag, known = self._state.sealer.tag("session", name), self._state.sealer.tag("commitment", sample.commitment)
        row = {"tag": tag, "commitment": known, "sealed": self._state.seal("session", tag, sample)}
        bounds = {"answers": most, "places": (places := -(-most // sample.one_in)), "opened": self._clock()}
        with self._state.writing() as db:
            self._require(db, places)
            if _count(db, select(sessions.c.tag).where(sessions.c.commitment == known)):
                raise RequestError(
                    "proof.session-known",
                    "a session with this commitment was opened before",
                    status=409,
                    param="commitment",
                    hint="draw a new seed for each session",
                )
            db.execute(insert(sessions).values(row | bounds))
        return name

    def sample(self, session: str) -> Sample:
        """Return what an open session's receipts name.

        Raises:
            RequestError: `proof.session-unknown`, `proof.session-full`.
        """
        with self._state.reading() as db:
            return self._open(db, session)

    def reveal(self, session: str, seed: bytes) -> tuple[int, list[str]]:
        """End a session; return how many answers it has, and the ids of those that are drawn.

        Raises:
            RequestError: `proof.session-unknown`; `ledger.lots-commitment`.
        """
        tag = self._state.sealer.tag("session", session)
        with self._state.writing() as db:
            row = db.execute(select(sessions).where(sessions.c.tag == tag)).first()
            if row is None or (not row.revealed and self._clock() - row.opened > self._config.session_s):
                raise _no_session()
            try:
                lots = Lots.open(self._state.open("session", tag, row.sealed, Sample), seed)
            except LedgerError as error:
                raise RequestError(error.code, error.message, param="seed") from None
            given = select(answers.c.tag, answers.c.sealed, answers.c.state).where(answers.c.session == tag)
            drawn, count = [], 0
            for count, answer in enumerate(db.execute(given.order_by(answers.c.number)).all(), 1):  # noqa: B007
                answered = self._state.open("answer", answer.tag, answer.sealed, Answered)
                if lots.draws(receipt_sha256(answered.receipt)):
                    drawn.append(answered.id)
                    if not row.revealed and answer.state == "kept":
                        ask(db, answer.tag)
            db.execute(update(sessions).where(sessions.c.tag == tag).values(revealed=True))
        return count, drawn

    # ------------------------------------------------------------------ within

    def _open(self, db: Connection, session: str) -> Sample:
        """Return the sample of a session that takes one more answer; see `sample`."""
        tag = self._state.sealer.tag("session", session)
        row = db.execute(select(sessions).where(sessions.c.tag.in_(self._still_open()), sessions.c.tag == tag)).first()
        if row is None:
            raise _no_session()
        if _count(db, select(answers.c.tag).where(answers.c.session == tag)) >= row.answers:
            raise RequestError(
                "proof.session-full", f"the session has its {row.answers} answers", status=429, hint="reveal its seed"
            )
        return self._state.open("session", tag, row.sealed, Sample)

    def _look(self, db: Connection, answer_id: str) -> Standing:
        row = db.execute(select(answers).where(answers.c.tag == self._tag(answer_id))).first()
        if row is None:
            raise _unknown()
        if row.state not in {"waiting", "proving"}:
            return Standing(row.state)
        before = and_(answers.c.state == "waiting", answers.c.asked < row.asked)
        first = select(answers.c.tag).where(or_(answers.c.state == "proving", before))
        ahead = _count(db, first) if row.state == "waiting" else 0
        seconds = max(0.0, self._clock() - row.began) if row.state == "proving" else 0.0
        last = select(answers).where(answers.c.state == "done").order_by(answers.c.asked.desc()).limit(1)
        made = db.execute(last).first()
        expected = round(made.seconds * row.tokens / made.tokens, 1) if made else None
        return Standing(row.state, ahead, round(seconds, 1), expected)

    def _counts(self, db: Connection) -> dict[str, int]:
        reserved = select(func.sum(sessions.c.places)).where(sessions.c.tag.in_(self._still_open()))
        return {
            "waiting": _count(db, select(answers.c.tag).where(_UNDER_WAY)),
            "reserved": db.scalar(reserved) or 0,
            "answers": _count(db, select(answers.c.tag)),
        }

    def _require(self, db: Connection, places: int) -> None:
        counts = self._counts(db)
        if counts["waiting"] + counts["reserved"] + places > self._config.places:
            raise RequestError(
                "proof.queue-full",
                f"of {self._config.places} places {counts['waiting']} wait, and sessions hold {counts['reserved']}",
                status=429,
                hint="ask again later",
            )

    def _still_open(self) -> Select[tuple[bytes]]:
        return open_sessions(self._clock() - self._config.session_s)

    def _tag(self, answer_id: str) -> bytes:
        return self._state.sealer.tag("answer", answer_id)


def _count(db: Connection, rows: Select[Any]) -> int:
    return db.scalar(select(func.count()).select_from(rows.subquery())) or 0


def _unknown() -> RequestError:
    return RequestError("proof.answer-unknown", "there is no answer of that id here, or no more", status=404)


def _no_session() -> RequestError:
    return RequestError(
        "proof.session-unknown",
        "there is no open session of that id",
        status=404,
        hint="open one: POST /v1/proof-sessions",
    )
