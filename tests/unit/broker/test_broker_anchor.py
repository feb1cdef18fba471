"""Witnesses: what they remember stops a broker that was put back, and they can't be dropped."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest

from broker_rig import Rig
from mitai.attest.sim import SimPlatform
from mitai.broker import anchor
from mitai.broker.backup import backup, restore
from mitai.errors import BrokerError, MitaiError, ParseError, RollbackError
from mitai.fleet.witness import Witness as RealWitness
from mitai.identity import Identity
from mitai.ledger import verify_checkpoint
from mitai.ledger.witness import Conflict


class Far:
    """A real witness at an address, without a network: it can be away, and it can be replaced."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.key, self.real, self.away = folder, Identity.generate(), None, False

    def watch(self, log_vkey: str) -> None:
        self.real = RealWitness(self.folder / "witness.db", self.key, "witness.test", [log_vkey])

    def request(self, witness: anchor.Witness, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        if self.away or self.real is None:
            raise BrokerError("broker.witness-unreachable", "away")
        if path == "/healthz":
            return 200, self.real.vkey.encode() + b"\n"
        try:
            answer = self.real.add_checkpoint(body)
        except MitaiError as error:
            return {"ledger.forked": 422}.get(error.code, 403), b""
        return (409, b"%d\n" % answer.size) if isinstance(answer, Conflict) else (200, answer)


@pytest.fixture
def far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Far]:
    made = Far(tmp_path)
    monkeypatch.setattr(anchor.Witness, "_request", lambda self, *args: made.request(self, *args))
    monkeypatch.setattr(anchor, "RETRY_S", 0.05)
    monkeypatch.setattr(anchor, "INTERVAL_S", 0.05)
    yield made
    if made.real:
        made.real.close()


@pytest.fixture
def witnessed(tmp_path: Path, sim: SimPlatform, far: Far) -> Iterator[Rig]:
    """A broker whose witness came up after it, and cosigned."""
    folder = tmp_path / "broker"
    folder.mkdir()
    rig = Rig(folder, sim, witnesses=(anchor.Witness("http://witness.test"),))
    far.watch(rig.broker.vkey)
    rig.register()
    wait_for_pin(rig, far)
    yield rig
    rig.close()


def wait_for_pin(rig: Rig, far: Far) -> None:
    for _ in range(200):
        if rig.broker._writer.snapshot.head.counts.get("pin"):
            return
        time.sleep(0.02)
    raise AssertionError("the witness was not pinned")


def test_its_cosignature_is_published(witnessed: Rig, far: Far) -> None:
    witnessed.publish()
    for _ in range(200):
        note = (witnessed.folder / "ledger" / "checkpoint").read_bytes()
        try:
            checkpoint = verify_checkpoint(note, witnessed.broker.vkey, [far.real.vkey], threshold=1)
        except MitaiError:
            time.sleep(0.02)
            continue
        if checkpoint.size == witnessed.broker.size:
            return
        time.sleep(0.02)
    raise AssertionError("the newest checkpoint was not cosigned")


def put_back_everything(rig: Rig) -> None:
    """Restore database and published folder together, as a host that owns both can."""
    rig.broker.close()
    shutil.copytree(rig.folder, rig.folder.with_name("copy"))
    rig.open()
    rig.publish()
    rig.broker.close()
    shutil.rmtree(rig.folder)
    shutil.copytree(rig.folder.with_name("copy"), rig.folder)


def test_it_notices_when_everything_was_put_back(witnessed: Rig) -> None:
    put_back_everything(witnessed)
    with pytest.raises(RollbackError) as caught:
        witnessed.open()
    assert caught.value.code == "broker.rolled-back"


def test_it_notices_a_restored_backup(witnessed: Rig, tmp_path: Path) -> None:
    """An older backup, and an older or empty published folder beside it: nothing else remembers."""
    witnessed.broker.close()
    backup(witnessed.settings.state_url, tmp_path / "old.backup")
    witnessed.open()
    witnessed.publish()
    witnessed.broker.close()
    restored = f"sqlite:///{tmp_path / 'restored.db'}"
    restore(restored, tmp_path / "old.backup")
    settings = witnessed.settings
    witnessed.settings = replace(settings, state_url=restored, publish_folder=tmp_path / "empty")
    with pytest.raises(RollbackError) as caught:
        witnessed.open()
    assert caught.value.code == "broker.rolled-back"
    witnessed.settings = settings
    witnessed.open()


def test_it_can_not_be_dropped(witnessed: Rig) -> None:
    put_back_everything(witnessed)
    witnessed.settings = replace(witnessed.settings, witnesses=())
    with pytest.raises(BrokerError) as caught:
        witnessed.open()
    assert caught.value.code == "broker.witness-missing"


def test_another_one_does_not_do(witnessed: Rig, far: Far) -> None:
    witnessed.broker.close()
    far.real.close()
    (far.folder / "witness.db").unlink()
    far.key = Identity.generate()
    far.watch(witnessed.broker.vkey)
    with pytest.raises(BrokerError) as caught:
        witnessed.open()
    assert caught.value.code == "broker.witness-missing"


def test_without_it_the_broker_does_not_start(witnessed: Rig, far: Far) -> None:
    witnessed.broker.close()
    far.away = True
    with pytest.raises(BrokerError) as caught:
        witnessed.open()
    assert caught.value.code == "broker.witness-unreachable"
    far.away = False
    witnessed.open()


def test_hiding_the_pin_is_noticed(witnessed: Rig) -> None:
    import sqlite3

    witnessed.broker.close()
    with sqlite3.connect(witnessed.folder / "state.db") as connection:
        connection.execute("UPDATE broker_records SET kind = 'party' WHERE kind = 'pin'")
    with pytest.raises(RollbackError) as caught:
        witnessed.open()
    assert caught.value.code == "broker.rows-rolled-back"


def test_work_goes_on_while_it_is_away(witnessed: Rig, far: Far) -> None:
    far.away = True
    sealed = witnessed.publish()
    assert witnessed.release(sealed.capsule_id)
    far.away = False


def test_publishing_goes_on_after_a_failure(witnessed: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    from mitai.ledger.store import FolderStore

    append, failed = FolderStore.append, []

    def fail_once(self: FolderStore, *arguments: object) -> None:
        if not failed:
            failed.append(True)
            raise OSError("disk full")
        append(self, *arguments)

    monkeypatch.setattr(FolderStore, "append", fail_once)
    witnessed.publish()
    for _ in range(300):
        note = (witnessed.folder / "ledger" / "checkpoint").read_bytes()
        if verify_checkpoint(note, witnessed.broker.vkey).size == witnessed.broker.size:
            break
        time.sleep(0.02)
    assert failed
    assert verify_checkpoint(note, witnessed.broker.vkey).size == witnessed.broker.size


def test_a_witness_is_a_url_and_maybe_a_key() -> None:
    from mitai.ledger.note import COSIGNATURE, vkey

    key = vkey("witness.test", Identity.generate().public, kind=COSIGNATURE)
    assert anchor.Witness.parse("http://a/") == anchor.Witness("http://a")
    assert anchor.Witness.parse(f"http://a {key}").key() == key
    with pytest.raises(ParseError):
        anchor.Witness.parse("http://a nonsense")


def test_requests_over_http(monkeypatch: pytest.MonkeyPatch) -> None:
    """A witness that is away, or answers far too much."""
    with pytest.raises(BrokerError) as caught:
        anchor.Witness("http://127.0.0.1:9").post(b"")
    assert caught.value.code == "broker.witness-unreachable"

    def flood(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, content=b"x" * (1 << 20))

    client = httpx2.Client(transport=httpx2.MockTransport(flood))
    monkeypatch.setattr(anchor.httpx2, "stream", lambda *args, verify, **more: client.stream(*args, **more))
    for ask in (lambda: anchor.Witness("http://a").post(b""), anchor.Witness("http://a").key):
        with pytest.raises(BrokerError) as caught:
            ask()
        assert caught.value.code == "broker.witness-answer-too-large"
    client.close()
