"""Backup of a broker's database to one file, and back: between SQLite and PostgreSQL too. Nothing in it is readable.

Follows `docs/spec/broker-keys.md`, "Backups". What is sealed stays sealed: a backup opens only where its root key is.

Invariants:

- A backup is of one moment: it is read in one transaction, beside a running broker.
- Memory is bounded by single rows, whatever the size of the database.
- A file that was cut, changed or is of another version is refused before anything is written.
- Restoring fills an empty database in one transaction, or does nothing.

Whether a backup is too old can't be told from it alone: a broker that starts on it asks the published ledger and its
witnesses, as always.

Example:
    >>> backup("sqlite:///state.db", Path("broker.backup"))
    1234
    >>> restore("postgresql://broker@db.example/mitai", Path("broker.backup"))
    1234
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import sqlalchemy
from sqlalchemy import Connection, Table, insert, select, text

from mitai.broker.tables import engine_of, metadata, migrate
from mitai.errors import BrokerError, ParseError
from mitai.ledger.sql import metadata as ledger_metadata

MAGIC = b"mitai broker backup v1\n"
MAX_FRAME_BYTES = 64 << 20
READ_AT_ONCE = 8  # rows, of up to 16 MiB each
WRITE_AT_ONCE_BYTES = 4 << 20
_DIGEST_BYTES = 32
_TABLES: dict[str, Table] = {
    str(table.name): table for table in (*metadata.sorted_tables, *ledger_metadata.sorted_tables)
}

_ONE_MOMENT: dict[str, dict[str, Any]] = {
    "postgresql": {"isolation_level": "REPEATABLE READ"}
}  # SQLite reads so anyway


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The first frame: the schema's revision, and every table's columns in the order of the rows' values."""

    schema: str
    tables: dict[str, list[str]]


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="row"):
    """A row of a table."""

    table: str
    values: list[Any]  # of the columns' types, which is checked

    def fits(self) -> bool:
        """Tell whether these are values of that table's columns."""
        columns = list(_TABLES[self.table].columns) if self.table in _TABLES else []
        return len(self.values) == len(columns) > 0 and all(
            type(value) is column.type.python_type or (value is None and column.nullable)
            for value, column in zip(self.values, columns, strict=True)
        )


class End(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="end"):
    """The last frame; the digest of everything before follows it."""

    rows: int


_FRAME: msgspec.msgpack.Decoder[Row | End] = msgspec.msgpack.Decoder(Row | End)


def backup(url: str, path: Path) -> int:
    """Write a database to a new file; return how many rows.

    Raises:
        BrokerError: There is no state in it, or the file is there already.
    """
    with _engine(url) as engine, _written(path) as file:
        hasher, rows = hashlib.sha256(MAGIC), 0
        file.write(MAGIC)

        def write(frame: msgspec.Struct) -> None:
            data = msgspec.msgpack.encode(frame)
            framed = len(data).to_bytes(4) + data
            hasher.update(framed)
            file.write(framed)

        with engine.connect() as plain:
            connection = plain.execution_options(**_ONE_MOMENT.get(engine.dialect.name, {}))
            write(Header(_revision(connection), {name: _columns(table) for name, table in _TABLES.items()}))
            for name, table in _TABLES.items():
                found = connection.execution_options(yield_per=READ_AT_ONCE).execute(select(table))
                for row in found:
                    write(Row(name, list(row)))
                    rows += 1
        if not rows:
            raise BrokerError("broker.backup-empty", "this database holds no broker's state")
        write(End(rows))
        file.write(hasher.digest())
    return rows


def restore(url: str, path: Path) -> int:
    """Fill an empty database from a file; return how many rows.

    1. The whole file has the digest at its end, and frames of this version up to there.
    2. The database is empty.
    3. All rows are written in one transaction.

    Raises:
        ParseError: The file is none, was cut or changed, or is of another version.
        BrokerError: The database is not empty.
    """
    # 1. the file
    with path.open("rb") as file:
        _check_digest(file)
        for _ in _rows(file):
            pass
    # 2. the database
    with _engine(url) as engine:
        migrate(engine)
        with (
            path.open("rb") as file,
            engine.connect().execution_options(mitai_writes=True) as connection,
            connection.begin(),
        ):
            _check_empty(connection)
            # 3. the rows
            return _write_rows(connection, file)


def _write_rows(connection: Connection, file: BinaryIO) -> int:
    total, room = 0, WRITE_AT_ONCE_BYTES
    part: list[Row] = []
    for row in _rows(file, _revision(connection)):
        if part and (row.table != part[0].table or room <= 0):
            _insert(connection, part)
            part, room = [], WRITE_AT_ONCE_BYTES
        part.append(row)
        room -= sum(len(value) if isinstance(value, bytes | str) else 8 for value in row.values)
        total += 1
    _insert(connection, part)
    return total


def _insert(connection: Connection, rows: list[Row]) -> None:
    table = _TABLES[rows[0].table]
    connection.execute(insert(table), [dict(zip(_columns(table), row.values, strict=True)) for row in rows])


def _check_empty(connection: Connection) -> None:
    for name, table in _TABLES.items():
        if connection.execute(select(table).limit(1)).first() is not None:
            raise BrokerError(
                "broker.restore-not-empty",
                f"the database to restore into is not empty: {name} has rows",
                hint="restore into a new database, then let the broker's configuration name it",
            )


def _check_digest(file: BinaryIO) -> None:
    """Raise unless the file ends with the SHA-256 of everything before."""
    size = os.fstat(file.fileno()).st_size - _DIGEST_BYTES
    hasher = hashlib.sha256()
    left = max(size, 0)
    while left and (data := file.read(min(1 << 20, left))):
        hasher.update(data)
        left -= len(data)
    if size < 0 or not hmac.compare_digest(hasher.digest(), file.read()):
        raise ParseError(
            "broker.backup-damaged", "this backup was cut or changed: its digest does not fit", hint="take another copy"
        )
    file.seek(0)


def _rows(file: BinaryIO, revision: str | None = None) -> Iterator[Row]:
    """Give the rows of a backup; raise `ParseError` on anything that is none of `revision`, or of the newest."""
    if file.read(len(MAGIC)) != MAGIC:
        raise ParseError("broker.backup-version", "this file is no backup of a broker, or of another version")
    try:
        header = msgspec.msgpack.decode(_frame(file), type=Header)
        known = {name: _columns(table) for name, table in _TABLES.items()}
        if header.tables != known or revision not in {None, header.schema}:
            raise ParseError(
                "broker.backup-version",
                "this backup is of another version of the broker's database",
                hint="restore it with the release that wrote it, which then brings it to the newest version",
            )
        count = 0
        while isinstance(frame := _FRAME.decode(_frame(file)), Row):
            if not frame.fits():
                raise _malformed()
            count += 1
            yield frame
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise _malformed() from None
    if frame.rows != count or len(file.read(_DIGEST_BYTES + 1)) != _DIGEST_BYTES:
        raise _malformed()


def _frame(file: BinaryIO) -> bytes:
    size = int.from_bytes(file.read(4))
    if not 0 < size <= MAX_FRAME_BYTES:
        raise _malformed()
    return file.read(size)  # when cut, it does not decode


def _malformed() -> ParseError:
    return ParseError("broker.backup-malformed", "this backup does not follow its format")


def _columns(table: Table) -> list[str]:
    return [str(column.name) for column in table.columns]


def _revision(connection: Connection) -> str:
    if not sqlalchemy.inspect(connection).has_table("alembic_version"):
        raise BrokerError("broker.backup-empty", "this database holds no broker's state")
    return str(connection.scalar(text("SELECT version_num FROM alembic_version")))


@contextmanager
def _engine(url: str) -> Iterator[sqlalchemy.Engine]:
    engine = engine_of(url)
    try:
        yield engine
    finally:
        engine.dispose()


@contextmanager
def _written(path: Path) -> Iterator[BinaryIO]:
    """Give a new file, readable by its owner only, that is there whole at the end or not at all."""
    if path.exists():
        raise BrokerError("broker.backup-exists", f"{path} is there already", hint="name a new file")
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
