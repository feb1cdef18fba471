"""Backup and restore: everything or nothing, and what an older backup meets."""

from __future__ import annotations

import hashlib
import resource
import secrets
import stat
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import sqlalchemy

from broker_rig import BROKER, Rig
from mitai.attest.sim import SimPlatform
from mitai.broker.backup import MAGIC, Row, backup, restore
from mitai.broker.protocol import Budget
from mitai.broker.records import Pin
from mitai.broker.store import Draft
from mitai.broker.writer import Job
from mitai.errors import BrokerError, ParseError


@pytest.fixture
def filled(ready: Rig) -> Rig:
    ready.sealed = ready.publish(budget=Budget(uses=3))
    ready.release(ready.sealed.capsule_id)
    return ready


def url(folder: Path, name: str = "other.db") -> str:
    return f"sqlite:///{folder / name}"


def test_a_running_broker_is_backed_up_and_goes_on_elsewhere(filled: Rig, tmp_path: Path) -> None:
    path = tmp_path / "broker.backup"
    rows = backup(filled.settings.state_url, path)
    assert rows > 10
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    filled.release(filled.sealed.capsule_id)  # after the backup
    filled.broker.close()
    assert restore(url(tmp_path), path) == rows
    settings = filled.settings
    filled.settings = replace(settings, state_url=url(tmp_path), publish_folder=tmp_path / "fresh")
    filled.open()
    assert filled.release(filled.sealed.capsule_id)[0].data_key == filled.sealed.data_key
    filled.broker.close()
    # An older state is found out by what was published since.
    filled.settings = replace(settings, state_url=url(tmp_path, "third.db"))
    restore(url(tmp_path, "third.db"), path)
    with pytest.raises(BrokerError) as caught:
        filled.open()
    assert caught.value.code == "broker.rolled-back"
    filled.settings = settings
    filled.open()


def test_nothing_of_it_is_readable(filled: Rig, tmp_path: Path) -> None:
    path = tmp_path / "broker.backup"
    backup(filled.settings.state_url, path)
    data = path.read_bytes()
    for secret in (
        filled.sealed.data_key,
        filled.broker.database.root.key,
        filled.broker.signer.seed(),
        filled.sealed.envelope,
    ):
        assert secret not in data


def test_it_opens_nowhere_else(filled: Rig, tmp_path: Path) -> None:
    path = tmp_path / "broker.backup"
    backup(filled.settings.state_url, path)
    filled.broker.close()
    restore(url(tmp_path), path)
    settings = filled.settings
    filled.settings = replace(settings, state_url=url(tmp_path))
    with pytest.raises(BrokerError) as caught:
        filled.open(SimPlatform.create(tmp_path / "machine").attester(BROKER))
    assert caught.value.code == "broker.sealed-elsewhere"
    filled.settings = settings
    filled.open()


def test_files_and_databases_that_are_there_are_left_alone(filled: Rig, tmp_path: Path) -> None:
    path = tmp_path / "broker.backup"
    backup(filled.settings.state_url, path)
    before = path.read_bytes()
    with pytest.raises(BrokerError) as caught:
        backup(filled.settings.state_url, path)
    assert caught.value.code == "broker.backup-exists"
    with pytest.raises(BrokerError) as caught:
        restore(filled.settings.state_url, path)
    assert caught.value.code == "broker.restore-not-empty"
    assert path.read_bytes() == before
    with pytest.raises(BrokerError) as caught:
        backup(url(tmp_path, "nothing.db"), tmp_path / "nothing.backup")
    assert caught.value.code == "broker.backup-empty"
    assert not (tmp_path / "nothing.backup").exists()
    assert filled.release(filled.sealed.capsule_id)


def restamped(data: bytes) -> bytes:
    """Return a backup's bytes with a digest that fits them: what somebody on the host could write."""
    return data + hashlib.sha256(data).digest()


def frames(data: bytes) -> list[bytes]:
    found, rest = [], data[len(MAGIC) : -32]
    while rest:
        size = int.from_bytes(rest[:4])
        found.append(rest[: 4 + size])
        rest = rest[4 + size :]
    return found


def frame(value: object) -> bytes:
    data = msgspec.msgpack.encode(value)
    return len(data).to_bytes(4) + data


def test_cut_and_changed_files_are_refused(filled: Rig, tmp_path: Path) -> None:
    path, bad = tmp_path / "broker.backup", tmp_path / "bad.backup"
    backup(filled.settings.state_url, path)
    data, parts = path.read_bytes(), frames(path.read_bytes())
    header, rows, end = parts[0], parts[1:-1], parts[-1]
    damaged = [data[:-1], data + b"\0", b"", MAGIC, data[:-33] + data[-32:]]
    damaged += [data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] for at in range(0, len(data), len(data) // 40)]
    for wrong in damaged:
        bad.write_bytes(wrong)
        with pytest.raises(ParseError) as caught:
            restore(url(tmp_path), bad)
        assert caught.value.code == "broker.backup-damaged"
    body = b"".join(rows)
    for wrong in (
        MAGIC + header + body,  # no end
        MAGIC + header + b"".join(rows[1:]) + end,  # a row less
        MAGIC + header + body + end + rows[0],  # something after the end
        MAGIC + header + frame(Row("broker_roots", [b"t"])) + end,
        MAGIC + header + frame(Row("broker_roots", [b"t", 1, "s"])) + end,
        MAGIC + header + frame(Row("sqlite_master", [b"t"])) + end,
        MAGIC + frame({"schema": "0001", "tables": {}}) + body + end,
        MAGIC + header[:4] + header[5:] + body + end,
        MAGIC + (1 << 31).to_bytes(4) + body,
        MAGIC + (2).to_bytes(4) + b"\xa1\xff" + body + end,  # a text that is not UTF-8
        MAGIC + (5000).to_bytes(4) + b"\x91" * 5000 + body + end,
        b"mitai broker backup v2\n" + header + body + end,
    ):
        bad.write_bytes(restamped(wrong))
        with pytest.raises(ParseError) as caught:
            restore(url(tmp_path), bad)
        assert caught.value.code in {"broker.backup-malformed", "broker.backup-version"}
    assert not (tmp_path / "other.db").exists()  # all of it before anything was written


def test_a_backup_of_another_revision_is_refused(filled: Rig, tmp_path: Path) -> None:
    path, old = tmp_path / "broker.backup", tmp_path / "old.backup"
    backup(filled.settings.state_url, path)
    first, *rest = frames(path.read_bytes())
    header = msgspec.msgpack.decode(first[4:]) | {"schema": "0001"}
    old.write_bytes(restamped(MAGIC + frame(header) + b"".join(rest)))
    with pytest.raises(ParseError) as caught:
        restore(url(tmp_path), old)
    assert caught.value.code == "broker.backup-version"
    restore(url(tmp_path), path)  # what failed before left nothing behind


def test_a_failed_restore_writes_nothing(filled: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mitai.broker import backup as module

    path = tmp_path / "broker.backup"
    backup(filled.settings.state_url, path)
    insert = module._insert

    def failing(connection: sqlalchemy.Connection, rows: list[Row]) -> None:
        insert(connection, rows)
        if rows[0].table.startswith("ledger"):
            raise OSError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(module, "_insert", failing)
        with pytest.raises(OSError, match="disk full"):
            restore(url(tmp_path), path)
    assert restore(url(tmp_path), path)


def test_memory_stays_bounded(ready: Rig, tmp_path: Path) -> None:
    def grow(draft: Draft) -> None:
        for _ in range(16):
            blob = secrets.token_bytes(4 << 20)
            draft.blobs[hashlib.sha256(blob).hexdigest()] = blob
        draft.put(secrets.token_hex(4), Pin(""))

    for _ in range(3):
        ready.broker.submit(Job(grow)).result()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    backup(ready.settings.state_url, tmp_path / "large.backup")
    restore(url(tmp_path), tmp_path / "large.backup")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    assert (tmp_path / "large.backup").stat().st_size > 192 << 20
    assert grown < 128 << 20


def test_to_postgresql_and_back(filled: Rig, tmp_path: Path, postgres_url: str) -> None:
    there, back = tmp_path / "there.backup", tmp_path / "back.backup"
    rows = backup(filled.settings.state_url, there)
    assert restore(postgres_url, there) == rows
    assert backup(postgres_url, back) == rows
    assert restore(url(tmp_path), back) == rows
    filled.broker.close()
    settings = filled.settings
    for state in (postgres_url, url(tmp_path)):
        folder = tmp_path / f"fresh-{len(state)}"
        filled.settings = replace(settings, state_url=state, publish_folder=folder)
        filled.open()
        assert filled.release(filled.sealed.capsule_id)
        filled.broker.close()
    filled.open()
