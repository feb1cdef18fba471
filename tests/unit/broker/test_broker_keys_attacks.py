"""A host against the root key: databases and plans slipped under a running broker, root keys of its own making."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import delete, insert, select
from test_broker_keys import Owner, plan_of, signed

from broker_rig import BROKER, Party, Rig
from mitai.attest.sim import SimPlatform
from mitai.broker.keys import Keys
from mitai.broker.records import Head, LedgerKey
from mitai.broker.service import Broker
from mitai.broker.store import ROOT_LABEL, Database
from mitai.broker.tables import metadata
from mitai.broker.vault import Vault
from mitai.broker.writer import Job, Writer
from mitai.errors import BrokerError, MitaiError
from mitai.identity import Identity
from mitai.ledger.sql import SqlStore
from mitai.ledger.sql import metadata as ledger_metadata
from mitai.ledger.tree import EMPTY_ROOT


@pytest.fixture
def rig(tmp_path: Path, sim: SimPlatform) -> Iterator[Rig]:
    made = Rig(tmp_path, sim)
    yield made
    made.close()


def code_of(error: pytest.ExceptionInfo[MitaiError]) -> str:
    return error.value.code


@contextmanager
def beside(rig: Rig, folder: Path, state_url: str | None = None) -> Iterator[Broker]:
    """A second process on the database, as a host may start one; it publishes elsewhere."""
    settings = replace(rig.settings, publish_folder=folder, state_url=state_url or rig.settings.state_url)
    broker = Broker.open(settings, rig.sim.attester(BROKER), rig.policy, clock=rig.clock)
    try:
        yield broker
    finally:
        broker.close()


def refused_for_good(rig: Rig, code: str) -> None:
    codes = set()
    for _ in range(3):
        with pytest.raises(MitaiError) as caught:
            rig.register(Party("bob"))
        codes.add(code_of(caught))
    assert codes == {"broker.state-conflict", code}


def started(rig: Rig, broker: Broker, plan: bytes | None = None) -> Keys:
    keys = Keys(broker, rig.sim.attester(BROKER), rig.policy)
    asyncio.run(keys.start(plan))
    return keys


def put_in_place_of(rig: Rig, other: Path) -> None:
    """Replace what the running broker's database holds by what another one holds, as its host can."""
    source = Database(f"sqlite:///{other}", Vault(bytes(32)))
    tables = (*metadata.sorted_tables, *ledger_metadata.sorted_tables)
    with source.reading() as reading, rig.broker.database.writing() as writing:
        for table in tables:
            writing.execute(delete(table))
            if rows := [row._asdict() for row in reading.execute(select(table))]:
                writing.execute(insert(table), rows)
    source.engine.dispose()


def test_a_plan_of_the_hosts_does_not_come_under_a_broker_that_shows_none(rig: Rig, tmp_path: Path) -> None:
    """Before anybody has given anything a plan needs no signature; who looks at the first process must not miss it."""
    keys = started(rig, rig.broker)
    host = Owner()
    with beside(rig, tmp_path / "elsewhere") as second:
        started(rig, second, signed(plan_of(host, threshold=1)))
    assert keys.claims == {"epoch": "1"}
    refused_for_good(rig, "broker.plan-overtaken")
    rig.reopen()
    assert "recovery" in started(rig, rig.broker).claims


def test_a_former_plan_does_not_come_back(rig: Rig, tmp_path: Path) -> None:
    alice, bob, mallory = Owner(), Owner(), Owner()
    keys = started(rig, rig.broker, signed(plan_of(alice, mallory)))
    later = signed(plan_of(alice, bob, version=2, broker=rig.broker.audience), alice, mallory)
    with beside(rig, tmp_path / "elsewhere") as second:
        newest = started(rig, second, later)
    refused_for_good(rig, "broker.plan-overtaken")
    with pytest.raises(BrokerError):
        keys.rotate()
    rig.reopen()
    again = started(rig, rig.broker)
    assert again.claims == newest.claims
    assert again.shares == newest.shares


def forged(rig: Rig, path: Path, entries: list[bytes]) -> None:
    """Write a state under a root key of the host's own, with the public ledger of a genuine broker."""
    database = Database(f"sqlite:///{path}", Vault(rig.sim.attester(BROKER).sealing_key(ROOT_LABEL)))
    signer = Identity.generate()
    state = database.create(LedgerKey(signer.seed(), rig.settings.origin), Head(0, EMPTY_ROOT, bytes(32)))
    writer = Writer(database, state, signer, rig.settings.origin, rig.clock)
    writer.submit(Job(lambda draft: [draft.append(entry) for entry in entries])).result()
    writer.close()
    database.engine.dispose()


def test_a_state_under_a_key_of_the_hosts_is_not_taken_over(rig: Rig, tmp_path: Path) -> None:
    """A genuine process on this machine was given a root key by its host, for a state of the host's making."""
    rig.register()
    with rig.broker.database.reading() as connection:
        store = SqlStore(connection)
        entries = store.entries(0, store.size())
    forged(rig, tmp_path / "forged.db", [*entries, b"{}"])
    put_in_place_of(rig, tmp_path / "forged.db")
    refused_for_good(rig, "broker.state-foreign")


def test_another_history_is_not_taken_over(rig: Rig, tmp_path: Path) -> None:
    """A copy that went on by itself, longer than this one: what was spent here would be there again."""
    rig.register()
    here, there = rig.folder / "state.db", tmp_path / "copy.db"
    with closing(sqlite3.connect(here)) as source, closing(sqlite3.connect(there)) as copied:
        source.backup(copied)
    rig.publish()
    with beside(rig, tmp_path / "elsewhere", f"sqlite:///{tmp_path / 'copy.db'}") as copy:
        first, rig.broker = rig.broker, copy
        for name in ("bob", "carol", "dave", "erin"):
            rig.register(Party(name))
        assert rig.broker.size > first.size
        rig.broker = first
    put_in_place_of(rig, tmp_path / "copy.db")
    refused_for_good(rig, "broker.forked")
