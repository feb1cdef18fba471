"""The tables behind a service's state: what has to be counted and ordered is readable there, all else is sealed.

SQLAlchemy Core; SQLite and PostgreSQL. Tags are keyed hashes of ids (`sealed`); times are seconds since 1970.

Example:
    >>> metadata.create_all(engine_of("sqlite:///answers.db"))
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Select,
    String,
    Table,
    func,
    or_,
    select,
    update,
)

metadata = MetaData()
keys = Table("proof_keys", metadata, Column("tag", LargeBinary, primary_key=True))  # of the key that seals all others
answers = Table(
    "proof_answers",
    metadata,
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("tag", LargeBinary, unique=True, nullable=False),
    Column("session", LargeBinary, nullable=False, index=True),  # its tag; empty without one
    Column("sealed", LargeBinary, nullable=False),
    Column("tokens", Integer, nullable=False),  # of prompt and answer
    Column("created", Double, nullable=False),
    Column("state", String(8), nullable=False, default="kept"),
    Column("asked", BigInteger, nullable=False, default=0),  # the place in the queue
    Column("attempts", Integer, nullable=False, default=0),
    Column("began", Double, nullable=False, default=0.0),
    Column("seconds", Double, nullable=False, default=0.0),
    Column("bytes", BigInteger, nullable=False, default=0),  # of the proof
    Index("proof_answers_by_state", "state", "asked"),
)
sessions = Table(
    "proof_sessions",
    metadata,
    Column("tag", LargeBinary, primary_key=True),
    Column("commitment", LargeBinary, unique=True, nullable=False),  # its tag
    Column("sealed", LargeBinary, nullable=False),
    Column("answers", Integer, nullable=False),
    Column("places", Integer, nullable=False),
    Column("opened", Double, nullable=False),
    Column("revealed", Boolean, nullable=False, default=False),
)
seeds = Table(
    "proof_seeds",
    metadata,
    Column("tag", LargeBinary, primary_key=True),
    Column("sealed", LargeBinary, nullable=False),
    Column("created", Double, nullable=False),
)

_LOCK, _USED = 4206923153671189247, 2853318430674098713  # drawn once


def queue_up(db: Connection) -> None:
    """Let one transaction that writes be after the other, where the database would have them side by side."""
    if db.dialect.name != "sqlite":
        db.execute(select(func.pg_advisory_xact_lock(_LOCK)))


def alone(use: Connection) -> bool:
    """Return whether no other connection stays with the tables; none does from then on, until this one does.

    Of SQLite's tables nothing is known here: they are used by who has their folder.
    """
    return use.dialect.name == "sqlite" or bool(use.scalar(select(func.pg_try_advisory_xact_lock(_USED))))


def stay(use: Connection) -> None:
    """Use the tables as long as this connection is there."""
    if use.dialect.name != "sqlite":
        use.execute(select(func.pg_advisory_lock_shared(_USED)))
        use.commit()


def ask(db: Connection, tag: bytes) -> None:
    """Put an answer at the end of the queue."""
    others = answers.alias()
    last = select(func.max(others.c.asked)).scalar_subquery()
    db.execute(update(answers).where(answers.c.tag == tag).values(state="waiting", attempts=0, asked=last + 1))


def open_sessions(since: float) -> Select[tuple[bytes]]:
    """Return the sessions that were opened since, and whose seeds were not shown."""
    return select(sessions.c.tag).where(~sessions.c.revealed, sessions.c.opened >= since)


def loose(old: float, most: int, most_bytes: int, since: float) -> Select[tuple[int]]:
    """Return the answers that are too old or too many, but none that is asked for, or in a session that is open."""
    newest = answers.c.number.desc()
    above = func.sum(answers.c.bytes).over(order_by=newest).label("above")
    place = func.row_number().over(order_by=newest).label("place")
    own = answers.c.number, answers.c.state, answers.c.created, answers.c.session
    ranked = select(*own, above, place).subquery()
    return select(ranked.c.number).where(
        ranked.c.state.not_in(["waiting", "proving"]),
        or_(ranked.c.created < old, ranked.c.place > most, ranked.c.above > most_bytes),
        ranked.c.session.not_in(open_sessions(since)),
    )
