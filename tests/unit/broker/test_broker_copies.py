"""A copy of the broker that is started beside it: it may release for a lease at most, then it notices."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace

import pytest
from test_broker_anchor import far, witnessed  # noqa: F401 - fixtures

from mitai.broker import anchor
from mitai.errors import BrokerError, MitaiError, RollbackError


def test_a_copy_started_beside_it_stops(witnessed, monkeypatch):  # noqa: F811
    monkeypatch.setattr(anchor, "LEASE_S", 0.6)
    capsule = witnessed.publish().capsule_id
    witnessed.reopen()
    witnessed.broker.close()
    copy = object.__new__(type(witnessed))
    copy.__dict__.update(witnessed.__dict__, folder=witnessed.folder.with_name("copy"))
    shutil.copytree(witnessed.folder, copy.folder)
    copy.settings = replace(
        witnessed.settings, state_url=f"sqlite:///{copy.folder / 'state.db'}", publish_folder=copy.folder / "ledger"
    )
    witnessed.open()
    copy.open()  # the witness has not seen more yet
    try:
        witnessed.send(witnessed.alice.revocation(witnessed, capsule))
        deadline = time.monotonic() + 10
        refused: MitaiError | None = None
        while refused is None and time.monotonic() < deadline:
            time.sleep(0.3)
            try:
                copy.release(capsule)  # what the host would go on with for ever
            except RollbackError as error:
                refused = error
        assert refused is not None
        assert refused.code in {"broker.rolled-back", "broker.forked"}
    finally:
        copy.broker.close()


def test_without_its_witness_it_decides_nothing_after_the_lease(witnessed, far, monkeypatch):  # noqa: F811
    monkeypatch.setattr(anchor, "LEASE_S", 0.3)
    capsule = witnessed.publish().capsule_id
    far.away = True
    time.sleep(1)
    with pytest.raises(BrokerError) as caught:
        witnessed.release(capsule)
    assert caught.value.code == "broker.unwitnessed"
    far.away = False
    time.sleep(1)
    assert witnessed.release(capsule)
