"""State at rest: sealed, and put back neither whole nor in part without notice."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy.exc

from broker_rig import BROKER, OTHER, Party, Rig
from mitai.attest.sim import SimPlatform, Workload
from mitai.broker.protocol import Budget
from mitai.broker.writer import Job
from mitai.errors import BrokerError, MitaiError, RollbackError


def database(rig: Rig) -> sqlite3.Connection:
    return sqlite3.connect(rig.folder / "state.db")


def copy_state(rig: Rig, name: str) -> Path:
    """Copy database and log files of a closed broker."""
    target = rig.folder / name
    target.mkdir()
    for file in rig.folder.glob("state.db*"):
        shutil.copy(file, target / file.name)
    return target


def restore(rig: Rig, copy: Path) -> None:
    for file in rig.folder.glob("state.db*"):
        file.unlink()
    for file in copy.iterdir():
        shutil.copy(file, rig.folder / file.name)


def refuses_to_open(rig: Rig, code: str) -> None:
    with pytest.raises(BrokerError) as caught:
        rig.open()
    assert caught.value.code == code


@pytest.fixture
def closed(rig: Rig):
    """A broker with a spent budget, closed; reopened at the end unless it can't be."""
    rig.register()
    rig.sealed = rig.publish(budget=Budget(uses=3))
    rig.release(rig.sealed.capsule_id)
    rig.close()
    rig.close = lambda: None  # tests here close what they open
    return rig


def test_survives_a_restart(ready: Rig) -> None:
    sealed = ready.publish()
    vkey, entries = ready.broker.vkey, ready.entries()
    ready.reopen()
    assert (ready.broker.vkey, ready.entries()) == (vkey, entries)
    assert ready.release(sealed.capsule_id)[0].data_key == sealed.data_key


def test_nothing_of_it_is_readable(ready: Rig) -> None:
    sealed = ready.publish("permit(principal, action, resource); // ownerswords")
    ready.release(sealed.capsule_id)
    ready.reopen()
    stored = b"".join(file.read_bytes() for file in ready.folder.glob("state.db*"))
    assert sealed.data_key not in stored
    assert b"ownerswords" not in stored
    assert sealed.envelope not in stored
    assert ready.alice.identity.public.raw not in stored
    assert ready.broker._signer.seed() not in stored


def test_other_code_or_another_machine_can_not_open_it(closed: Rig, tmp_path: Path) -> None:
    for attester in (
        closed.sim.attester(Workload("broker", OTHER.digest)),
        SimPlatform.create(tmp_path / "machine").attester(BROKER),
    ):
        with pytest.raises(BrokerError) as caught:
            closed.open(attester)
        assert caught.value.code == "broker.sealed-elsewhere"


def test_a_state_whose_root_key_is_gone_is_refused(closed: Rig) -> None:
    with database(closed) as connection:
        connection.execute("UPDATE broker_roots SET sealed = zeroblob(64)")
    refuses_to_open(closed, "broker.sealed-elsewhere")
    with database(closed) as connection:
        connection.execute("DELETE FROM broker_roots")
    refuses_to_open(closed, "broker.state-version")  # so looks a state of the versions before root keys


def open_and_release(rig: Rig) -> None:
    rig.open()
    try:
        rig.release(rig.sealed.capsule_id)
    finally:
        rig.broker.close()


def test_a_changed_byte_is_noticed(closed: Rig) -> None:
    for table, where in (
        ("broker_records", "kind = 'capsule'"),
        ("broker_singles", "name = 'head'"),
        ("broker_singles", "name = 'ledger-key'"),
    ):
        with database(closed) as connection:
            (sealed,) = connection.execute(f"SELECT sealed FROM {table} WHERE {where}").fetchone()
            changed = bytes([sealed[0] ^ 1]) + sealed[1:]
            connection.execute(f"UPDATE {table} SET sealed = ? WHERE sealed = ?", (changed, sealed))
        with pytest.raises(BrokerError) as caught:
            open_and_release(closed)
        assert caught.value.code in {"broker.state-damaged", "broker.sealed-elsewhere"}
        with database(closed) as connection:
            connection.execute(f"UPDATE {table} SET sealed = ? WHERE sealed = ?", (sealed, changed))


def test_swapped_rows_are_noticed(rig: Rig) -> None:
    rig.register()
    one, two = rig.publish(), rig.publish()
    rig.broker.close()
    with database(rig) as connection:
        rows = connection.execute("SELECT tag, sealed FROM broker_records WHERE kind = 'capsule'").fetchall()
        (tag_1, sealed_1), (tag_2, sealed_2) = rows
        connection.execute("UPDATE broker_records SET sealed = ? WHERE tag = ?", (sealed_2, tag_1))
        connection.execute("UPDATE broker_records SET sealed = ? WHERE tag = ?", (sealed_1, tag_2))
    rig.open()
    for sealed in (one, two):
        with pytest.raises(BrokerError) as caught:
            rig.release(sealed.capsule_id)
        assert caught.value.code == "broker.state-damaged"


def test_swapped_blobs_are_noticed(rig: Rig) -> None:
    rig.register()
    sealed = rig.publish()
    rig.broker.close()
    with database(rig) as connection:
        rows = connection.execute("SELECT tag, sealed FROM broker_blobs").fetchall()
        for (tag, _), (_, other) in zip(rows, reversed(rows), strict=True):
            connection.execute("UPDATE broker_blobs SET sealed = ? WHERE tag = ?", (other, tag))
    rig.open()
    with pytest.raises(BrokerError) as caught:
        rig.release(sealed.capsule_id)
    assert caught.value.code == "broker.state-damaged"
    with database(rig) as connection:
        connection.execute("DELETE FROM broker_blobs")
    with pytest.raises(BrokerError, match="missing"):
        rig.release(sealed.capsule_id)


def put_back_a_row(rig: Rig, old: Path, columns: str = "stamp, sealed") -> None:
    """Restore single rows of an older database: the capsule's, with its budget."""
    with database(rig) as connection:
        connection.execute("ATTACH ? AS old", (str(old / "state.db"),))
        names = columns.split(", ")
        sets = ", ".join(f"{name} = (SELECT {name} FROM old.broker_records o WHERE o.tag = r.tag)" for name in names)
        connection.execute(f"UPDATE broker_records AS r SET {sets} WHERE kind = 'capsule'")
        connection.commit()


def test_a_single_row_put_back_is_noticed_at_start(closed: Rig) -> None:
    old = copy_state(closed, "old")
    closed.open()
    closed.release(closed.sealed.capsule_id)
    closed.broker.close()
    put_back_a_row(closed, old)
    refuses_to_open(closed, "broker.rows-rolled-back")


def test_a_single_row_put_back_is_noticed_while_running(closed: Rig) -> None:
    old = copy_state(closed, "old")
    closed.open()
    closed.release(closed.sealed.capsule_id)
    put_back_a_row(closed, old)
    with pytest.raises(BrokerError) as caught:
        closed.release(closed.sealed.capsule_id)
    assert caught.value.code == "broker.state-damaged"
    closed.broker.close()


def test_removed_and_added_rows_are_noticed(closed: Rig) -> None:
    copy = copy_state(closed, "copy")
    with database(closed) as connection:
        connection.execute("DELETE FROM broker_records WHERE kind = 'replica'")
    refuses_to_open(closed, "broker.rows-rolled-back")
    restore(closed, copy)
    with database(closed) as connection:
        connection.execute("INSERT INTO broker_records VALUES (?, 'capsule', ?, ?)", (b"t" * 16, b"s" * 16, b""))
    refuses_to_open(closed, "broker.rows-rolled-back")


def test_a_shortened_or_changed_ledger_is_noticed(closed: Rig) -> None:
    copy = copy_state(closed, "copy")
    with database(closed) as connection:
        connection.execute("UPDATE ledger_state SET size = size - 1")
    refuses_to_open(closed, "broker.ledger-rolled-back")
    restore(closed, copy)
    with database(closed) as connection:
        (hashes,) = connection.execute("SELECT hashes FROM ledger_tiles WHERE level = 0").fetchone()
        connection.execute("UPDATE ledger_tiles SET hashes = ?", (hashes[:-1] + bytes([hashes[-1] ^ 1]),))
    refuses_to_open(closed, "broker.ledger-rolled-back")


def test_a_head_put_back_or_removed_is_noticed(closed: Rig) -> None:
    old = copy_state(closed, "old")
    closed.open()
    closed.release(closed.sealed.capsule_id)
    closed.broker.close()
    new = copy_state(closed, "new")
    with database(closed) as connection:
        connection.execute("ATTACH ? AS old", (str(old / "state.db"),))
        connection.execute("DELETE FROM broker_singles WHERE name = 'head'")
        connection.execute("INSERT INTO broker_singles SELECT * FROM old.broker_singles WHERE name = 'head'")
    refuses_to_open(closed, "broker.rows-rolled-back")
    restore(closed, new)
    with database(closed) as connection:
        connection.execute("DELETE FROM broker_singles WHERE name = 'head'")
    refuses_to_open(closed, "broker.head-missing")
    with database(closed) as connection:
        connection.execute("DELETE FROM broker_records")
        connection.execute("UPDATE ledger_state SET size = 0")
    refuses_to_open(closed, "broker.head-missing")


def test_the_whole_database_put_back_is_noticed(closed: Rig) -> None:
    old = copy_state(closed, "old")
    closed.open()
    closed.release(closed.sealed.capsule_id)
    closed.broker.close()
    restore(closed, old)
    with pytest.raises(RollbackError) as caught:
        closed.open()
    assert caught.value.code == "broker.rolled-back"


def test_a_removed_database_is_noticed(closed: Rig) -> None:
    for file in closed.folder.glob("state.db*"):
        file.unlink()
    refuses_to_open(closed, "broker.state-missing")


def test_two_histories_are_noticed(closed: Rig) -> None:
    """Put the database back together with the published folder, go on, then show the folder of the other history."""
    old = copy_state(closed, "old")
    shutil.copytree(closed.folder / "ledger", closed.folder / "ledger-old")
    closed.open()
    closed.release(closed.sealed.capsule_id)
    closed.broker.close()
    shutil.move(closed.folder / "ledger", closed.folder / "ledger-first")
    shutil.move(closed.folder / "ledger-old", closed.folder / "ledger")
    restore(closed, old)
    closed.open()  # nothing here remembers: this is what witnesses are for
    closed.release(closed.sealed.capsule_id)
    closed.release(closed.sealed.capsule_id)
    closed.broker.close()
    shutil.rmtree(closed.folder / "ledger")
    shutil.move(closed.folder / "ledger-first", closed.folder / "ledger")
    refuses_to_open(closed, "broker.forked")


def test_a_foreign_checkpoint_is_refused(closed: Rig) -> None:
    from mitai.identity import Identity
    from mitai.ledger.note import sign_checkpoint
    from mitai.ledger.tree import EMPTY_ROOT

    path = closed.folder / "ledger" / "checkpoint"
    path.write_bytes(sign_checkpoint("test.mitai/ledger", 0, EMPTY_ROOT, Identity.generate()))
    refuses_to_open(closed, "broker.published-foreign")


def test_a_lost_publication_is_made_again(closed: Rig) -> None:
    from mitai.ledger import folder_reader, verify_log

    shutil.rmtree(closed.folder / "ledger")
    closed.open()
    vkey, size = closed.broker.vkey, closed.broker.size
    closed.broker.close()
    assert verify_log(folder_reader(closed.folder / "ledger"), vkey).checkpoint.size == size


def test_a_second_broker_is_kept_out(ready: Rig) -> None:
    with pytest.raises(MitaiError) as caught:
        Rig(ready.folder, ready.sim)
    assert caught.value.code == "ledger.locked"


def test_a_second_writer_on_the_database_is_noticed(ready: Rig, tmp_path: Path) -> None:
    from dataclasses import replace

    first, settings = ready.broker, ready.settings
    ready.settings = replace(settings, publish_folder=tmp_path / "elsewhere")
    ready.open()
    ready.register(Party("bob"))
    ready.broker.close()
    ready.broker, ready.settings = first, settings
    with pytest.raises(RollbackError) as caught:
        ready.publish()
    assert caught.value.code == "broker.state-conflict"


def test_a_ledger_keeps_its_name(closed: Rig) -> None:
    from dataclasses import replace

    closed.settings = replace(closed.settings, origin="another.name")
    refuses_to_open(closed, "broker.origin-changed")


@pytest.mark.parametrize(
    "failure", [sqlalchemy.exc.OperationalError("disk full", {}, Exception("disk full")), MemoryError(), KeyError("x")]
)
def test_a_failed_commit_decides_nothing(ready: Rig, monkeypatch: pytest.MonkeyPatch, failure: Exception) -> None:
    from mitai.broker.store import Database

    sealed = ready.publish(budget=Budget(uses=1))
    size = ready.broker.size
    write = Database.write_head

    def disk_full(self: Database, *arguments: object) -> bytes:
        write(self, *arguments)
        raise failure

    monkeypatch.setattr(Database, "write_head", disk_full)
    with pytest.raises(BrokerError) as caught:
        ready.release(sealed.capsule_id)
    assert caught.value.code == "broker.storage"
    monkeypatch.undo()
    assert ready.broker.size == size
    assert ready.release(sealed.capsule_id)
    with pytest.raises(BrokerError):
        ready.release(sealed.capsule_id)


def test_a_defect_in_one_job_leaves_the_others_alone(ready: Rig) -> None:
    def broken(draft: object) -> None:
        raise ZeroDivisionError("a secret")

    future = ready.broker.submit(Job(broken))
    after = ready.broker.submit(Job(lambda draft: draft.append(b"{}")))
    with pytest.raises(BrokerError) as caught:
        future.result()
    assert caught.value.code == "broker.internal"
    assert "secret" not in str(caught.value)
    assert after.result() == 1


def test_a_closed_broker_says_so(rig: Rig) -> None:
    rig.broker.close()
    with pytest.raises(BrokerError) as caught:
        rig.broker.submit(Job(lambda draft: None))
    assert caught.value.code == "broker.closed"
    rig.close = lambda: None


def submit_many(rig: Rig, count: int) -> None:
    for _ in range(count):
        rig.broker.submit(Job(lambda draft: None))


def test_too_many_waiting_jobs_are_told(ready: Rig) -> None:
    import threading

    from mitai.broker.writer import MAX_QUEUED

    gate = threading.Event()
    ready.broker.submit(Job(lambda draft: gate.wait(30)))
    try:
        with pytest.raises(BrokerError) as caught:
            submit_many(ready, MAX_QUEUED + 100)
        assert caught.value.code == "broker.busy"
    finally:
        gate.set()


def test_only_the_newest_entries_are_listed(ready: Rig) -> None:
    from mitai.broker import protocol
    from mitai.broker.commands import MAX_RECENT

    sealed = ready.publish()
    for _ in range(MAX_RECENT + 3):
        ready.send(ready.alice.policy(ready, sealed.capsule_id))
    header = ready.alice.query(ready, f"/v1/decisions?capsule={sealed.capsule_id}")
    answer = protocol.decode(
        asyncio.run(ready.broker.decisions(sealed.capsule_id, header)), protocol.DecisionsAnswer, 1 << 24
    )
    indices = [entry.index for entry in answer.entries]
    assert indices == list(range(ready.broker.size - 1, ready.broker.size - 1 - MAX_RECENT, -1))
