"""Rotation of the root key: everything is sealed anew or nothing is, and what was given out before goes on."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from broker_rig import BROKER, Party, Rig
from mitai.attest.sim import SimPlatform
from mitai.broker import rotation
from mitai.broker.keys import Keys
from mitai.broker.protocol import Budget
from mitai.broker.store import Database, Transaction
from mitai.errors import BrokerError, DeniedError, RollbackError

HERE = Path(__file__).parent


def keys_of(rig: Rig) -> Keys:
    return Keys(rig.broker, rig.sim.attester(BROKER), rig.policy)


def rows(rig: Rig, what: str) -> list[tuple[bytes, ...]]:
    with sqlite3.connect(rig.folder / "state.db") as connection:
        return connection.execute(what).fetchall()


def epoch_of(rig: Rig) -> int:
    return rig.broker.database.root.epoch


def test_all_goes_on_under_a_new_key(ready: Rig) -> None:
    sealed = ready.publish(budget=Budget(uses=3))
    ready.release(sealed.capsule_id)
    old = ready.broker.database.root
    before = {table: set(rows(ready, f"SELECT tag FROM broker_{table}")) for table in ("records", "blobs")}
    assert keys_of(ready).rotate() == 2
    assert ready.release(sealed.capsule_id)[0].data_key == sealed.data_key
    ready.reopen()
    assert ready.release(sealed.capsule_id)[0].data_key == sealed.data_key
    with pytest.raises(DeniedError):  # what was used stays used
        ready.release(sealed.capsule_id)
    assert epoch_of(ready) == 2
    assert ready.broker.database.root.key != old.key
    for table, tags in before.items():
        assert not tags & set(rows(ready, f"SELECT tag FROM broker_{table}"))
    assert set(rows(ready, "SELECT epoch FROM broker_blobs")) == {(2,)}
    told = [entry for entry in ready.entries() if entry["type"] == "root-key"]
    assert [(entry["event"], entry["epoch"]) for entry in told] == [("rotated", 2)]


def test_the_former_key_opens_nothing_any_more(ready: Rig) -> None:
    ready.publish()
    old = ready.broker.database.root
    keys_of(ready).rotate()
    ready.broker.close()
    database = ready.broker.database
    with pytest.raises(BrokerError) as caught:
        database.adopt(old)
    assert caught.value.code == "broker.root-mismatch"


def test_releases_go_on_between_its_steps(ready: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is published and released after the blobs were sealed anew, and before the switch, is there after it."""
    first, later = ready.publish(), []
    ahead = rotation.Resealing.ahead

    def meanwhile(self: rotation.Resealing, database: object) -> None:
        ahead(self, database)
        ready.register(Party("bob")) if not later else None
        later.append(ready.publish("permit(principal, action, resource); // meanwhile"))
        ready.release(first.capsule_id)

    monkeypatch.setattr(rotation.Resealing, "ahead", meanwhile)
    keys = keys_of(ready)
    assert [keys.rotate(), keys.rotate()] == [2, 3]
    ready.reopen()
    for sealed in (first, *later):
        assert ready.release(sealed.capsule_id)[0].data_key == sealed.data_key


def test_a_row_put_back_meanwhile_is_noticed(ready: Rig) -> None:
    sealed = ready.publish()
    old = rows(ready, "SELECT stamp, sealed FROM broker_records WHERE kind = 'capsule'")[0]
    ready.release(sealed.capsule_id)
    with sqlite3.connect(ready.folder / "state.db") as connection:
        connection.execute("UPDATE broker_records SET stamp = ?, sealed = ? WHERE kind = 'capsule'", old)
    with pytest.raises(BrokerError) as caught:
        keys_of(ready).rotate()
    assert caught.value.code == "broker.state-damaged"
    with sqlite3.connect(ready.folder / "state.db") as connection:
        connection.execute("DELETE FROM broker_records WHERE kind = 'capsule'")
    with pytest.raises(RollbackError) as caught:
        keys_of(ready).rotate()
    assert caught.value.code == "broker.rows-rolled-back"
    assert epoch_of(ready) == 1


def test_a_rotation_that_fails_changes_nothing(ready: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    sealed = ready.publish()
    finish = Transaction.finish

    def broken(self: Transaction, *arguments: object) -> object:
        finish(self, *arguments)
        if self._resealing is not None:
            raise MemoryError
        return finish

    with monkeypatch.context() as patched:
        patched.setattr(Transaction, "finish", broken)
        with pytest.raises(BrokerError):
            keys_of(ready).rotate()
    assert ready.release(sealed.capsule_id)[0].data_key == sealed.data_key
    assert epoch_of(ready) == 1
    assert keys_of(ready).rotate() == 2  # over what the failed one left
    assert set(rows(ready, "SELECT epoch FROM broker_blobs")) == {(2,)}
    ready.reopen()
    assert ready.release(sealed.capsule_id)[0].data_key == sealed.data_key


STEPS = ("before", "ahead", "switching", "switched", "cleaned")


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_every_step(tmp_path: Path, step: str) -> None:
    platform, folder = tmp_path / "sim", tmp_path / "broker"
    folder.mkdir()
    rig = Rig(folder, SimPlatform.create(platform))
    rig.register()
    sealed = [rig.publish(f"permit(principal, action, resource); // {number}") for number in range(3)]
    rig.close()
    paths = f"{HERE.parents[1]}{os.pathsep}{HERE.parents[2] / 'src'}"
    child = subprocess.run(
        [sys.executable, str(HERE / "broker_rotation_child.py"), str(folder), str(platform), step],
        env=os.environ | {"PYTHONPATH": paths},
        stderr=subprocess.DEVNULL,
        timeout=60,
        check=False,
    )
    assert child.returncode == -signal.SIGKILL
    rig.open()
    try:
        assert epoch_of(rig) == (2 if step in {"switched", "cleaned"} else 1)
        for capsule in sealed:
            assert rig.release(capsule.capsule_id)[0].data_key == capsule.data_key
        assert keys_of(rig).rotate() == epoch_of(rig)
        rig.reopen()
        assert rig.release(sealed[0].capsule_id)[0].data_key == sealed[0].data_key
        assert set(rows(rig, "SELECT epoch FROM broker_blobs")) == {(epoch_of(rig),)}
    finally:
        rig.close()


def test_what_another_process_has_rotated_is_not_rotated_back(ready: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    sealed = ready.publish()
    keys, ahead = keys_of(ready), rotation.Resealing.ahead

    def overtaken(self: rotation.Resealing, database: Database) -> None:
        with monkeypatch.context() as once:
            once.setattr(rotation.Resealing, "ahead", ahead)
            rotation.rotate(database, ready.broker.submit, "2026-01-01T00:00:00Z", lambda _draft, _root: None)
        ahead(self, database)

    monkeypatch.setattr(rotation.Resealing, "ahead", overtaken)
    with pytest.raises(BrokerError) as caught:
        keys.rotate()
    assert caught.value.code in {"broker.rotation-overtaken", "broker.state-damaged"}
    assert epoch_of(ready) == 2
    assert ready.release(sealed.capsule_id)[0].data_key == sealed.data_key
    ready.reopen()
    assert ready.release(sealed.capsule_id)[0].data_key == sealed.data_key


def test_with_little_memory_rows_are_sealed_in_the_transaction(ready: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    sealed = [ready.publish(f"permit(principal, action, resource); // {number}") for number in range(3)]
    monkeypatch.setattr(rotation, "PREPARED_BYTES", 1)
    monkeypatch.setattr(rotation, "ROWS_AT_ONCE", 2)
    monkeypatch.setattr(rotation, "BLOB_BYTES_AT_ONCE", 1)
    assert keys_of(ready).rotate() == 2
    ready.reopen()
    for capsule in sealed:
        assert ready.release(capsule.capsule_id)[0].data_key == capsule.data_key
