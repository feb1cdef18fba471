"""Owners' commands: what is accepted, once; what is refused, with which code."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest

from broker_rig import ALLOW_ALL, UNLIMITED, Party, Rig
from mitai.broker import protocol
from mitai.broker.commands import Limits
from mitai.broker.protocol import Budget, RegisterParty, Revoke, SetPolicy
from mitai.errors import MitaiError


def test_a_party_registers_so_many(tmp_path, sim) -> None:
    rig = Rig(tmp_path, sim, limits=Limits(capsules_per_party=1))
    try:
        rig.register()
        rig.publish()
        refused(rig, rig.alice.publication(rig, rig.seal()), "broker.full")
        bob = Party("bob")
        rig.register(bob)
        rig.publish(owner=bob)
    finally:
        rig.close()


def test_a_held_back_command_is_not_won_back_by_setting_the_clock(ready: Rig) -> None:
    body = ready.alice.publication(ready, ready.seal())
    ready.clock.ahead = timedelta(days=1)
    ready.register(Party("bob"))
    ready.clock.ahead = timedelta()
    refused(ready, body, "broker.clock-behind")


def refused(rig: Rig, body: bytes, code: str) -> MitaiError:
    size = rig.broker.size
    with pytest.raises(MitaiError) as caught:
        rig.send(body)
    assert caught.value.code == code
    assert rig.broker.size == size
    return caught.value


def test_a_party_and_a_capsule_are_registered_and_logged(rig: Rig) -> None:
    assert rig.register() == 0
    sealed = rig.publish()
    party, capsule, policy = rig.entries()
    assert (party["type"], party["party"], party["name"]) == ("party-registered", rig.alice.id, "alice")
    assert (capsule["type"], capsule["capsule"], capsule["owners"]) == (
        "capsule-registered",
        sealed.capsule_id,
        [rig.alice.id],
    )
    assert (policy["type"], policy["policy_sha256"]) == ("policy-set", protocol.sha256_hex(ALLOW_ALL.encode()))


def test_a_command_sent_again_counts_once_and_gets_the_same_answer(ready: Rig) -> None:
    sealed = ready.publish()
    body = ready.alice.policy(ready, sealed.capsule_id)
    index = ready.send(body)
    assert ready.send(body) == index == ready.broker.size - 1
    ready.reopen()
    assert ready.send(body) == index == ready.broker.size - 1
    bob = Party("bob")
    registration = bob.registration(ready)
    assert ready.send(registration) == ready.send(registration)


def test_a_command_is_accepted_once(ready: Rig) -> None:
    sealed = ready.publish()
    body = ready.alice.policy(ready, sealed.capsule_id)
    ready.send(body)
    ready.send(ready.alice.policy(ready, sealed.capsule_id))
    error = refused(ready, body, "broker.replayed")
    assert "above 4" in (error.hint or "")
    refused(ready, ready.alice.revocation(ready, sealed.capsule_id, sequence=4), "broker.replayed")


def test_a_command_held_back_can_not_come_after_a_newer_one(ready: Rig) -> None:
    sealed = ready.publish()
    older = ready.alice.policy(ready, sealed.capsule_id)
    ready.send(ready.alice.policy(ready, sealed.capsule_id))
    refused(ready, older, "broker.replayed")


def test_replay_is_refused_after_a_restart(ready: Rig) -> None:
    sealed = ready.publish()
    body = ready.alice.policy(ready, sealed.capsule_id)
    ready.send(body)
    ready.send(ready.alice.policy(ready, sealed.capsule_id))
    ready.reopen()
    refused(ready, body, "broker.replayed")


def test_a_registration_is_accepted_once(ready: Rig) -> None:
    refused(ready, ready.alice.registration(ready), "broker.party-exists")


def test_a_command_for_another_broker_is_refused(rig: Rig) -> None:
    refused(rig, rig.alice.registration(rig, broker="0" * 64), "broker.wrong-audience")


@pytest.mark.parametrize("seconds", [-301, 301])
def test_a_stale_command_is_refused(rig: Rig, seconds: int) -> None:
    when = int(rig.clock().timestamp()) + seconds
    refused(rig, rig.alice.registration(rig, time_s=when), "broker.stale")


def test_a_party_is_the_key_that_signs(rig: Rig) -> None:
    refused(rig, rig.alice.registration(rig, party=Party().id), "broker.party-mismatch")


def test_another_key_s_signature_is_refused(rig: Rig) -> None:
    command = RegisterParty(name="alice", **rig.alice.signed(rig))
    body = rig.alice.body(command, public_key=Party().identity.public.raw)
    refused(rig, body, "broker.signature-invalid")


def test_a_query_s_signature_is_no_command(rig: Rig) -> None:
    command = RegisterParty(name="alice", **rig.alice.signed(rig))
    envelope = rig.alice.identity.sign(protocol.encode(command), protocol.QUERY_TYPE)
    refused(rig, rig.alice.body(command, command=envelope), "broker.signature-invalid")


def test_unknown_parties_command_nothing(rig: Rig) -> None:
    refused(rig, rig.alice.publication(rig, rig.seal()), "broker.party-unknown")


def test_only_listed_parties_register(tmp_path, sim) -> None:
    rig = Rig(tmp_path, sim, limits=Limits(allowed_parties=frozenset({"0" * 64})))
    try:
        refused(rig, rig.alice.registration(rig), "broker.party-not-allowed")
    finally:
        rig.close()


def test_tables_are_bounded(tmp_path, sim) -> None:
    rig = Rig(tmp_path, sim, limits=Limits(parties=1, capsules=1))
    try:
        rig.register()
        rig.publish()
        refused(rig, Party().registration(rig), "broker.full")
        refused(rig, rig.alice.publication(rig, rig.seal()), "broker.full")
    finally:
        rig.close()


@pytest.mark.parametrize(
    "policy",
    [
        "permit(",
        "permit(principal, action, resource) when { context.nonsense == 1 };",
        "permit(principal == ?principal, action, resource);",
        "// nothing",
        " ",
    ],
)
def test_a_policy_that_is_none_is_refused_when_it_is_set(ready: Rig, policy: str) -> None:
    refused(ready, ready.alice.publication(ready, ready.seal(), policy), "broker.policy-invalid")
    sealed = ready.publish()
    refused(ready, ready.alice.policy(ready, sealed.capsule_id, policy), "broker.policy-invalid")


class TestCapsules:
    def test_is_registered_once(self, ready: Rig) -> None:
        sealed = ready.publish()
        refused(ready, ready.alice.publication(ready, sealed), "broker.capsule-exists")

    def test_another_party_can_not_take_it(self, ready: Rig) -> None:
        mallory = Party("mallory")
        ready.register(mallory)
        sealed = ready.seal()
        refused(ready, mallory.publication(ready, sealed), "capsule.signature-invalid")

    def test_its_key_must_open_it(self, ready: Rig) -> None:
        sealed = ready.seal()
        command = ready.alice.publication(ready, sealed)
        fields = msgspec.json.decode(command)
        fields["data_key"] = "A" * 43 + "="
        error = refused(ready, msgspec.json.encode(fields), "capsule.key-wrong")
        assert sealed.data_key.hex() not in str(error)

    def test_its_manifest_must_be_the_one_named(self, ready: Rig) -> None:
        sealed = ready.seal()
        body = ready.alice.publication(ready, sealed, manifest_sha256="0" * 64)
        refused(ready, body, "capsule.manifest-mismatch")

    def test_its_id_must_be_the_manifest_s(self, ready: Rig) -> None:
        body = ready.alice.publication(ready, ready.seal(), capsule="f" * 32)
        refused(ready, body, "broker.capsule-mismatch")

    @pytest.mark.parametrize("missing", ["data_key", "manifest"])
    def test_key_and_manifest_are_needed(self, ready: Rig, missing: str) -> None:
        fields = msgspec.json.decode(ready.alice.publication(ready, ready.seal()))
        del fields[missing]
        refused(ready, msgspec.json.encode(fields), "broker.malformed")

    def test_only_a_registration_carries_a_key(self, ready: Rig) -> None:
        sealed = ready.publish()
        body = ready.alice.body(Revoke(capsule=sealed.capsule_id, **ready.alice.signed(ready)), data_key=bytes(32))
        refused(ready, body, "broker.malformed")

    def test_owners_are_named_once(self, ready: Rig) -> None:
        body = ready.alice.publication(ready, ready.seal(), co_owners=(ready.alice.id,))
        refused(ready, body, "broker.malformed")

    def test_co_owners_are_registered(self, ready: Rig) -> None:
        body = ready.alice.publication(ready, ready.seal(), co_owners=(Party().id,))
        refused(ready, body, "broker.party-unknown")

    def test_of_another_look_as_if_they_did_not_exist(self, ready: Rig) -> None:
        sealed = ready.publish()
        mallory = Party("mallory")
        ready.register(mallory)
        theirs = refused(ready, mallory.policy(ready, sealed.capsule_id), "broker.capsule-unknown")
        none = refused(ready, mallory.policy(ready, "f" * 32), "broker.capsule-unknown")
        assert theirs.message == none.message
        refused(ready, mallory.revocation(ready, sealed.capsule_id), "broker.capsule-unknown")


def test_revocation_is_final(ready: Rig) -> None:
    sealed = ready.publish()
    ready.send(ready.alice.revocation(ready, sealed.capsule_id))
    assert ready.entries()[-1]["subject"] == f"capsule:{sealed.capsule_id}"
    refused(ready, ready.alice.policy(ready, sealed.capsule_id), "broker.revoked")
    refused(ready, ready.alice.publication(ready, sealed), "broker.capsule-exists")


def test_a_party_s_revocation_ends_it(ready: Rig) -> None:
    sealed = ready.publish()
    ready.send(ready.alice.revocation(ready))
    assert ready.entries()[-1]["subject"] == f"party:{ready.alice.id}"
    refused(ready, ready.alice.policy(ready, sealed.capsule_id), "broker.revoked")


def test_a_policy_replaces_the_version_that_its_owner_has_seen(ready: Rig) -> None:
    bob = Party("bob")
    ready.register(bob)
    capsule = ready.publish(co_owners=(bob.id,)).capsule_id

    def replacing(party: Party, version: int) -> bytes:
        fields = {"capsule": capsule, "policy": ALLOW_ALL, "budget": UNLIMITED, "replaces": version}
        return party.body(SetPolicy(**fields, **party.signed(ready)))

    ready.send(replacing(ready.alice, 1))
    refused(ready, replacing(ready.alice, 1), "broker.policy-changed")
    refused(ready, replacing(ready.alice, 3), "broker.policy-changed")
    ready.send(replacing(ready.alice, 2))
    refused(ready, replacing(bob, 1), "broker.policy-changed")  # each owner's versions are its own
    ready.send(replacing(bob, 0))
    ready.send(ready.alice.policy(ready, capsule))  # without, whatever is in force
    ready.send(replacing(ready.alice, 4))


def test_a_policy_keeps_what_was_used(ready: Rig) -> None:
    sealed = ready.publish(budget=Budget(uses=2))
    ready.release(sealed.capsule_id)
    ready.send(ready.alice.policy(ready, sealed.capsule_id, budget=Budget(uses=1)))
    with pytest.raises(MitaiError) as caught:
        ready.release(sealed.capsule_id)
    assert caught.value.code == "broker.budget-exhausted"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b"null",
        b'{"public_key":"AAAA","command":{"payload":"","payloadType":"","signatures":[]}}',
        b"[" * 100_000,
    ],
)
def test_nonsense_is_malformed(rig: Rig, body: bytes) -> None:
    refused(rig, body, "broker.malformed")


def test_another_version_is_told(rig: Rig) -> None:
    refused(rig, b'{"v":2,"public_key":"","command":{}}', "broker.version-unsupported")


def test_a_command_of_unknown_type_or_version_is_refused(rig: Rig) -> None:
    changes = {"type": "register-everything", "v": 2, "surprise": 1}
    for name, value in changes.items():
        change = {name: value}
        fields = msgspec.json.decode(protocol.encode(RegisterParty(name="a", **rig.alice.signed(rig)))) | change
        payload = msgspec.json.encode(fields)
        envelope = rig.alice.identity.sign(payload, protocol.COMMAND_TYPE)
        code = "broker.version-unsupported" if name == "v" else "broker.malformed"
        refused(rig, rig.alice.body(Revoke(**rig.alice.signed(rig)), command=envelope), code)


def test_too_large_is_refused_before_it_is_parsed(rig: Rig) -> None:
    refused(rig, b" " * (protocol.MAX_COMMAND_BYTES + 1), "broker.too-large")


def test_a_malformed_key_is_refused(rig: Rig) -> None:
    command = RegisterParty(name="alice", **rig.alice.signed(rig))
    with pytest.raises(MitaiError):
        rig.send(rig.alice.body(command, public_key=b"\xff" * 32))
