"""The same broker on PostgreSQL; runs where `MITAI_POSTGRES_URL` names an empty database."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import sqlalchemy

from broker_rig import Rig
from mitai.attest.sim import SimPlatform
from mitai.broker.protocol import Budget
from mitai.errors import DeniedError

URL = os.environ.get("MITAI_POSTGRES_URL", "")
pytestmark = pytest.mark.skipif(not URL, reason="MITAI_POSTGRES_URL names no PostgreSQL database")


def test_releases_budgets_and_restarts(tmp_path: Path, sim: SimPlatform) -> None:
    engine = sqlalchemy.create_engine(URL)
    try:
        rig = Rig(tmp_path, sim, state_url=URL)
        rig.register()
        sealed = rig.publish(budget=Budget(uses=2))
        rig.release(sealed.capsule_id)
        rig.reopen()
        assert rig.release(sealed.capsule_id)[0].data_key == sealed.data_key
        with pytest.raises(DeniedError):
            rig.release(sealed.capsule_id)
        rig.close()
    finally:
        with engine.begin() as connection:
            found = sqlalchemy.inspect(connection).get_table_names()
            for table in found:
                if table.startswith(("broker_", "ledger_", "alembic_version")):
                    connection.exec_driver_sql(f'DROP TABLE "{table}"')
        engine.dispose()
