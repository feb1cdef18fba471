"""The tables of a broker's database, and the engines and migrations that its durability rests on.

SQLAlchemy 2 Core; SQLite (WAL, synchronous=FULL) or PostgreSQL; alembic migrations in `migrations/`. What the rows
mean, and what is noticed when they are changed, is in `store`.

Example:
    >>> engine = engine_of("sqlite:///broker.db")
    >>> migrate(engine)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from sqlalchemy import Column, Connection, Integer, LargeBinary, MetaData, String, Table, event

from mitai.broker.vault import STAMP_BYTES, TAG_BYTES
from mitai.ledger.sql import metadata as ledger_metadata

metadata = MetaData()
records = Table(
    "broker_records",
    metadata,
    Column("tag", LargeBinary(TAG_BYTES), primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("stamp", LargeBinary(STAMP_BYTES), nullable=False),
    Column("sealed", LargeBinary, nullable=False),
)
blobs = Table(
    "broker_blobs",
    metadata,
    Column("tag", LargeBinary(TAG_BYTES), primary_key=True),
    Column("sealed", LargeBinary, nullable=False),
    Column("epoch", Integer, nullable=False),  # of the root key; rows of another are leftovers of a rotation
)
singles = Table(
    "broker_singles",
    metadata,
    Column("name", String(16), primary_key=True),
    Column("stamp", LargeBinary(STAMP_BYTES), nullable=False),
    Column("sealed", LargeBinary, nullable=False),
)

roots = Table(  # one row for each machine and build that holds the root key
    "broker_roots",
    metadata,
    Column("tag", LargeBinary(TAG_BYTES), primary_key=True),
    Column("stamp", LargeBinary(STAMP_BYTES), nullable=False),
    Column("sealed", LargeBinary, nullable=False),
)
documents = Table(  # what anybody may read, written together with the rest; whoever reads it checks it
    "broker_documents",
    metadata,
    Column("name", String(16), primary_key=True),
    Column("data", LargeBinary, nullable=False),
)

# What does not answer is given up, a transaction that its process left open is undone, and a commit is on the disk.
POSTGRESQL = {
    "connect_timeout": 3,
    "tcp_user_timeout": 5000,
    "options": "-c idle_in_transaction_session_timeout=3000 -c lock_timeout=10000 -c synchronous_commit=on",
}


def is_shared(url: str) -> bool:
    """Tell whether several processes may reach the database behind a URL; SQLite is the one process's own."""
    return sqlalchemy.make_url(url).get_backend_name() != "sqlite"


def engine_of(url: str) -> sqlalchemy.Engine:
    """Return an engine for a broker's database, with the settings that its durability rests on."""
    engine = sqlalchemy.create_engine(url, connect_args=POSTGRESQL if is_shared(url) else {})
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _sqlite_settings)
        event.listen(engine, "begin", _sqlite_begin)
    return engine


def _sqlite_settings(connection: Any, _record: object) -> None:  # noqa: ANN401 - the driver's own connection
    connection.isolation_level = None  # transactions are begun below, not by the driver
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _sqlite_begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("mitai_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def migrate(engine: sqlalchemy.Engine) -> None:
    """Bring the tables to the newest version."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    script = ScriptDirectory.from_config(config)

    def upgrade(revision: Any, _context: object) -> Any:  # noqa: ANN401 - alembic's own types
        return script._upgrade_revs("head", revision)  # as alembic's documentation of `EnvironmentContext` does

    with (
        engine.connect().execution_options(mitai_writes=True) as connection,
        connection.begin(),
        EnvironmentContext(config, script, fn=upgrade) as environment,
    ):
        if engine.dialect.name == "postgresql":  # of several processes that start at once, one does it
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7883960584414063459)")
        environment.configure(connection=connection, target_metadata=[metadata, ledger_metadata])
        environment.run_migrations()
