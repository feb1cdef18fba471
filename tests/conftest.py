"""For every test: PostgreSQL where it is installed, names that stay, and no property that a busy machine breaks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from postgres_rig import Postgres, server

settings.register_profile("mitai", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("mitai")


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name a case after its place where its bytes would do it: other ones in each process, where they are drawn."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server: one that is started for this run, or the one that `MITAI_POSTGRES_URL` names."""
    with server() as found:
        if found is None:
            pytest.skip("PostgreSQL is not installed: scripts/postgres install")
        yield found


@pytest.fixture
def postgres_url(postgres: Postgres) -> Iterator[str]:
    """An empty PostgreSQL database."""
    with postgres.database() as url:
        yield url
