"""A throw-away PostgreSQL for tests: one server for the whole run, a database of its own for each test."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy

SCRIPT = Path(__file__).parents[1] / "scripts" / "postgres"


class Postgres:
    """A server behind the URL of one of its databases, whose user may make further ones."""

    def __init__(self, url: str, folder: str = "") -> None:
        self._url, self._folder = sqlalchemy.make_url(url), folder
        self._numbers = itertools.count()

    @contextmanager
    def database(self) -> Iterator[str]:
        """Give the URL of an empty database."""
        name = f"mitai_test_{os.getpid()}_{next(self._numbers)}"
        self.run(f"CREATE DATABASE {name}")
        yield self._url.set(database=name).render_as_string(hide_password=False)
        self.run(f"DROP DATABASE {name} WITH (FORCE)")

    def run(self, statement: str) -> list[sqlalchemy.Row]:
        """Run a statement as the server's administrator."""
        engine = sqlalchemy.create_engine(self._url, isolation_level="AUTOCOMMIT", poolclass=sqlalchemy.NullPool)
        with engine.connect() as connection:
            result = connection.exec_driver_sql(statement)
            return list(result) if result.returns_rows else []

    def crash(self) -> None:
        """Stop the server at once, as a power cut would, and start it again."""
        if not self._folder:
            pytest.skip("this PostgreSQL is not ours to stop")
        subprocess.run([SCRIPT, "crash", self._folder], check=True)


@contextmanager
def server() -> Iterator[Postgres | None]:
    """Start a server; None where PostgreSQL is not installed."""
    if url := os.environ.get("MITAI_POSTGRES_URL"):
        yield Postgres(url)
        return
    if not shutil.which("pg_ctl") and not list(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl")):
        yield None
        return
    folder = subprocess.run([SCRIPT, "start"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    try:
        yield Postgres(f"postgresql+psycopg://mitai@/postgres?host={folder}", folder)
    finally:
        subprocess.run([SCRIPT, "stop", folder], check=True)
