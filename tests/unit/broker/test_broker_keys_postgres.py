"""Keys on PostgreSQL: the tests of rotation and of peers again, and several machines on one database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from test_broker_keys import *  # noqa: F403
from test_broker_keys import Joiner, database_of, ready_for_peers, started

from broker_rig import Rig
from mitai.attest.sim import SimPlatform
from mitai.errors import RollbackError


@pytest.fixture
def rig(tmp_path: Path, sim: SimPlatform, elsewhere: SimPlatform, postgres_url: str) -> Iterator[Rig]:
    yield from ready_for_peers(Rig(tmp_path, sim, state_url=postgres_url), elsewhere)


def test_a_leader_that_was_overtaken_rotates_nothing(rig: Rig, elsewhere: SimPlatform) -> None:
    """Another machine takes over while this one rotates: the switch does not commit, and nothing of it stays."""
    rig.register()
    sealed = rig.publish()
    keys, database = started(rig), database_of(rig, elsewhere)
    database.adopt(Joiner(elsewhere).join(keys)[1])
    assert database.take_over() is not None
    with pytest.raises(RollbackError) as caught:
        keys.rotate()
    assert caught.value.code == "broker.state-conflict"
    state = database.take_over()
    assert state is not None
    assert (database.root.epoch, state.head.epoch) == (1, 1)
    rig.reopen()
    assert rig.release(sealed.capsule_id)[0].data_key == sealed.data_key
    assert started(rig).rotate() == 2
    assert rig.release(sealed.capsule_id)[0].data_key == sealed.data_key
