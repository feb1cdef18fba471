"""A log inside a database transaction: entries commit with whatever else the caller commits, or not at all.

SQLAlchemy Core; SQLite and PostgreSQL. `metadata` holds the tables, for the caller's migrations.

Invariants:

- Entries and the caller's other changes are one transaction: no decision without its entry, nor the other way.
- Writers queue on the state's row, taken before anything is read; no two transactions append at the same index.
- A checkpoint is signed only over what is committed: asking for one in a transaction that has appended is refused.

Example:
    >>> from sqlalchemy import create_engine
    >>> engine = create_engine("sqlite://")
    >>> metadata.create_all(engine)
    >>> with engine.begin() as connection:
    ...     SqlStore(connection).size()
    0
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    and_,
    bindparam,
    insert,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from mitai.errors import LedgerError
from mitai.ledger.tree import Tile

metadata = MetaData()

_index = BigInteger().with_variant(Integer, "sqlite")

ledger_state = Table(
    "ledger_state",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),  # one row, 1
    Column("size", BigInteger, nullable=False),
    Column("checkpoint", LargeBinary),
)
ledger_entries = Table(
    "ledger_entries",
    metadata,
    Column("position", _index, primary_key=True, autoincrement=False),
    Column("data", LargeBinary, nullable=False),
)
ledger_tiles = Table(
    "ledger_tiles",
    metadata,
    Column("level", Integer, primary_key=True, autoincrement=False),
    Column("position", _index, primary_key=True, autoincrement=False),
    Column("hashes", LargeBinary, nullable=False),
)

_APPENDED = "mitai.ledger.appended"  # in `connection.info`: the transaction that appended

_SIZE = select(ledger_state.c.size)
_TILE = select(ledger_tiles.c.hashes).where(
    and_(ledger_tiles.c.level == bindparam("of_level"), ledger_tiles.c.position == bindparam("of_position"))
)
_ENTRIES = (
    select(ledger_entries.c.data)
    .where(ledger_entries.c.position.between(bindparam("first"), bindparam("last")))
    .order_by(ledger_entries.c.position)
)
_LOCK = update(ledger_state).values(size=ledger_state.c.size).returning(ledger_state.c.size)  # changes nothing


class SqlStore:
    """A log in a database, for as long as one transaction of the caller's lasts.

    Args:
        connection: With a transaction that the caller commits or rolls back.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def size(self) -> int:
        """See `Store`."""
        size: int | None = self._connection.scalar(_SIZE)
        return size or 0

    def tile(self, level: int, index: int) -> bytes:
        """See `Store`."""
        return self._connection.scalar(_TILE, {"of_level": level, "of_position": index}) or b""

    def entries(self, start: int, end: int) -> list[bytes]:
        """See `Store`."""
        return list(self._connection.scalars(_ENTRIES, {"first": start, "last": end - 1}))

    def reserve(self, count: int) -> int:
        """See `Store`; other writers wait until the transaction ends."""
        del count
        size: int | None = self._connection.scalar(_LOCK)
        if size is None:
            self._connection.execute(self._insert(ledger_state).values(id=1, size=0).on_conflict_do_nothing())
            size = self._connection.execute(_LOCK).scalar_one()
        return size

    def append(
        self, start: int, entries: Sequence[bytes], tiles: Mapping[Tile, bytes], sign: Callable[[], bytes]
    ) -> None:
        """See `Store`; durable when the caller's transaction commits, undone when a statement fails."""
        del sign
        rows = [{"position": start + offset, "data": entry} for offset, entry in enumerate(entries)]
        changed = [{"level": level, "position": index, "hashes": data} for (level, index), data in tiles.items()]
        replace = self._insert(ledger_tiles)
        replace = replace.on_conflict_do_update(
            index_elements=["level", "position"], set_={"hashes": replace.excluded.hashes}
        )
        with self._connection.begin_nested():
            self._connection.execute(insert(ledger_entries), rows)
            self._connection.execute(replace, changed)
            self._connection.execute(update(ledger_state).values(size=start + len(entries)))
        self._connection.info[_APPENDED] = self._connection.get_transaction()

    def checkpoint(self) -> bytes | None:
        """See `Store`."""
        appended = self._connection.info.get(_APPENDED)
        if appended is not None and appended is self._connection.get_transaction():
            raise LedgerError(
                "ledger.uncommitted",
                "a checkpoint is signed over committed entries only",
                hint="commit, then ask for it in another transaction",
            )
        return self._connection.scalar(select(ledger_state.c.checkpoint))

    def publish(self, checkpoint: bytes) -> None:
        """See `Store`."""
        statement = self._insert(ledger_state).values(id=1, size=0, checkpoint=checkpoint)
        self._connection.execute(
            statement.on_conflict_do_update(index_elements=["id"], set_={"checkpoint": statement.excluded.checkpoint})
        )

    def _insert(self, table: Table) -> postgresql.Insert:
        """Return the dialect's INSERT, which knows ON CONFLICT; SQLite's has the same methods as PostgreSQL's."""
        if self._connection.dialect.name == "postgresql":
            return postgresql.insert(table)
        return cast("postgresql.Insert", sqlite.insert(table))
