"""For every test: a PostgreSQL where one is installed; property tests must not fail because a machine is busy."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from postgres_rig import Postgres, server

settings.register_profile("mitai", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("mitai")


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
