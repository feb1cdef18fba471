"""A capsule's new data key: the same files under another key, side by side with the former ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker_rig import ALLOW_ALL, Party, Rig
from mitai.broker.protocol import Budget, RotateKey
from mitai.capsule import Sealed, open_capsule, seal
from mitai.capsule.sources import MemorySource
from mitai.capsule.stores import FolderStore
from mitai.errors import BrokerError, CapsuleError, DeniedError, MitaiError


def reseal(rig: Rig, old: Sealed, to: str, owner: Party | None = None, **changes: object) -> Sealed:
    """Seal the opened capsule anew, from memory to ciphertext."""
    identity = (owner or rig.alice).identity
    folder = next(
        path.parent for path in rig.folder.glob("sealed-*/manifest.json") if path.read_bytes() == old.envelope
    )
    source = open_capsule(FolderStore(folder), old.envelope, old.data_key, owner=identity.public)
    named = {"owner": identity, "name": "model", "kind": "model", "capsule_id": old.capsule_id}
    return seal(changes.pop("source", source), rig.folder / to, **(named | changes))


def command(rig: Rig, new: Sealed, previous: str, party: Party | None = None, **changes: object) -> bytes:
    party = party or rig.alice
    fields = {"capsule": new.capsule_id, "manifest_sha256": new.manifest_sha256, "previous_sha256": previous}
    order = RotateKey(**(fields | party.signed(rig) | changes))
    return party.body(order, data_key=new.data_key, manifest=new.envelope)


def test_what_runs_goes_on_and_what_starts_gets_the_new_one(ready: Rig) -> None:
    old = ready.publish(budget=Budget(uses=3))
    (running,) = ready.release(old.capsule_id)
    new = reseal(ready, old, "sealed-anew")
    assert (new.capsule_id, new.data_key != old.data_key) == (old.capsule_id, True)
    ready.send(command(ready, new, old.manifest_sha256))
    (started,) = ready.release(old.capsule_id)
    assert (started.data_key, started.manifest_sha256) == (new.data_key, new.manifest_sha256)
    store = ready.folder / "store"  # one host's store, with the objects of both
    store.mkdir()
    for folder in (ready.folder / "sealed-0", ready.folder / "sealed-anew"):
        for path in folder.iterdir():
            (store / path.name).write_bytes(path.read_bytes())
    for key in (running, started):
        source = open_capsule(FolderStore(store), key.envelope, key.data_key, owner=key.owner)
        assert source.read("config.json") == b"{}"
    with pytest.raises(CapsuleError):  # each key opens its own revision alone
        open_capsule(FolderStore(store), started.envelope, running.data_key, owner=started.owner)
    (entry,) = [entry for entry in ready.entries() if entry["type"] == "capsule-resealed"]
    assert (entry["manifest_sha256"], entry["previous_sha256"]) == (new.manifest_sha256, old.manifest_sha256)
    ready.release(old.capsule_id)
    with pytest.raises(DeniedError) as caught:  # what was used stays used
        ready.release(old.capsule_id)
    assert caught.value.code == "broker.budget-exhausted"


def refused(rig: Rig, body: bytes) -> str:
    with pytest.raises(MitaiError) as caught:
        rig.send(body)
    return caught.value.code


def test_only_the_same_files_under_another_key(ready: Rig) -> None:
    old = ready.publish()
    here = old.manifest_sha256
    larger = reseal(ready, old, "larger", source=MemorySource({"config.json": b"{ }"}))
    renamed = reseal(ready, old, "renamed", source=MemorySource({"config2.json": b"{}"}))
    other = reseal(ready, old, "other-name", name="another")
    for new in (larger, renamed, other):
        assert refused(ready, command(ready, new, here)) == "broker.revision-differs"
    same_key = reseal(ready, old, "same-key", data_key=old.data_key)
    assert refused(ready, command(ready, same_key, here)) == "broker.key-unchanged"
    good = reseal(ready, old, "good")
    assert refused(ready, command(ready, good, "0" * 64)) == "broker.revision-overtaken"
    assert refused(ready, command(ready, good, here, capsule="0" * 32)) == "broker.capsule-mismatch"
    body = RotateKey(
        capsule=old.capsule_id, manifest_sha256=good.manifest_sha256, previous_sha256=here, **ready.alice.signed(ready)
    )
    assert refused(ready, ready.alice.body(body)) == "broker.malformed"
    assert refused(ready, ready.alice.body(body, data_key=b"k" * 32, manifest=good.envelope)).startswith("capsule.")
    assert ready.release(old.capsule_id)[0].data_key == old.data_key
    ready.send(command(ready, good, here))
    late = reseal(ready, old, "late")  # a second device, which did not hear of the first
    assert refused(ready, command(ready, late, here)) == "broker.revision-overtaken"
    assert ready.release(old.capsule_id)[0].data_key == good.data_key


def test_only_who_registered_it(ready: Rig) -> None:
    bob, eve = Party("bob"), Party("eve")
    ready.register(bob)
    ready.register(eve)
    old = ready.publish(co_owners=(bob.id,))
    ready.send(bob.policy(ready, old.capsule_id))
    for party, code in ((bob, "broker.not-registrant"), (eve, "broker.capsule-unknown")):
        forged = seal(
            MemorySource({"config.json": b"{}"}),
            ready.folder / party.name,
            owner=party.identity,
            name="model",
            capsule_id=old.capsule_id,
        )
        assert refused(ready, command(ready, forged, old.manifest_sha256, party)) == code
    assert ready.release(old.capsule_id)[0].data_key == old.data_key


def test_co_owners_have_to_agree_anew(ready: Rig) -> None:
    bob = Party("bob")
    ready.register(bob)
    old = ready.publish(co_owners=(bob.id,))
    ready.send(bob.policy(ready, old.capsule_id))
    ready.release(old.capsule_id)
    new = reseal(ready, old, "anew")
    ready.send(command(ready, new, old.manifest_sha256))
    with pytest.raises(DeniedError) as caught:
        ready.release(old.capsule_id)
    assert caught.value.code == "broker.policy-missing"
    ready.send(bob.policy(ready, old.capsule_id, ALLOW_ALL))
    assert ready.release(old.capsule_id)[0].data_key == new.data_key


def test_a_revoked_capsule_gets_no_new_key(ready: Rig) -> None:
    old = ready.publish()
    new = reseal(ready, old, "anew")
    ready.send(ready.alice.revocation(ready, old.capsule_id))
    assert refused(ready, command(ready, new, old.manifest_sha256)) == "broker.revoked"


def test_a_replayed_order_changes_nothing(ready: Rig) -> None:
    old = ready.publish()
    new = reseal(ready, old, "anew")
    body = command(ready, new, old.manifest_sha256)
    index = ready.send(body)
    assert ready.send(body) == index  # its answer was lost
    back = command(ready, old, new.manifest_sha256)
    ready.send(back)  # the owner may go back to the former revision
    with pytest.raises(BrokerError) as caught:
        ready.send(body)
    assert caught.value.code == "broker.replayed"
    assert ready.release(old.capsule_id)[0].data_key == old.data_key


def test_new_keys_are_bounded(ready: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who verifies a lineage needs all of them: an owner can't push those out that others' capsules were made of."""
    monkeypatch.setattr("mitai.broker.commands.MAX_RECENT", 2)
    old = ready.publish()
    new = reseal(ready, old, "anew")
    ready.send(command(ready, new, old.manifest_sha256))
    ready.send(command(ready, old, new.manifest_sha256))
    assert refused(ready, command(ready, new, old.manifest_sha256)) == "broker.too-many-revisions"


def test_sealing_anew_resumes_only_the_same_capsule(tmp_path: Path, ready: Rig) -> None:
    class Breaking(MemorySource):
        def read_into(self, name: str, offset: int, buffer: memoryview) -> None:
            raise OSError

    fixed = {"owner": ready.alice.identity, "name": "n", "capsule_id": "ab" * 16}
    with pytest.raises(MitaiError):
        seal(MemorySource({"a": b"a"}), tmp_path / "bad", **(fixed | {"capsule_id": "../elsewhere"}))
    with pytest.raises(CapsuleError):
        seal(Breaking({"a": b"a"}), tmp_path / "out", **fixed)
    with pytest.raises(CapsuleError) as caught:
        seal(MemorySource({"a": b"a"}), tmp_path / "out", **(fixed | {"capsule_id": "cd" * 16}))
    assert caught.value.code == "capsule.resume-mismatch"
    assert seal(MemorySource({"a": b"a"}), tmp_path / "out", **fixed).capsule_id == "ab" * 16
