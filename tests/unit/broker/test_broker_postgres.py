"""The same broker on PostgreSQL: its tests of commands, releases and budgets again, and restarts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from test_broker_budgets import *  # noqa: F403
from test_broker_commands import *  # noqa: F403
from test_broker_release import *  # noqa: F403

from broker_rig import Rig
from mitai.attest.sim import SimPlatform
from mitai.broker.protocol import Budget
from mitai.errors import DeniedError
from postgres_rig import Postgres


@pytest.fixture
def rig(tmp_path: Path, sim: SimPlatform, postgres_url: str) -> Iterator[Rig]:
    made = Rig(tmp_path, sim, state_url=postgres_url)
    yield made
    made.close()


def test_budgets_outlive_restarts(ready: Rig) -> None:
    sealed = ready.publish(budget=Budget(uses=2))
    ready.release(sealed.capsule_id)
    ready.reopen()
    assert ready.release(sealed.capsule_id)[0].data_key == sealed.data_key
    with pytest.raises(DeniedError):
        ready.release(sealed.capsule_id)


def test_what_was_acknowledged_outlives_a_power_cut(ready: Rig, postgres: Postgres) -> None:
    sealed = ready.publish(budget=Budget(uses=1))
    (key,) = ready.release(sealed.capsule_id)
    postgres.crash()
    ready.reopen()
    assert ready.entries()[key.ledger_index]["type"] == "release"
    with pytest.raises(DeniedError):
        ready.release(sealed.capsule_id)
