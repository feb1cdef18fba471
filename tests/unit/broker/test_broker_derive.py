"""Derived capsules: what a workload may make, who owns it, whose consent it needs."""

from __future__ import annotations

import asyncio
import dataclasses
import re
from datetime import timedelta

import msgspec
import pytest

from broker_rig import ALLOW_ALL, OTHER, SERVE, Party, Rig
from mitai.attest.sim import SimPlatform, reference_values
from mitai.broker import derive, protocol, service
from mitai.broker import lineage as lineage_module
from mitai.broker.derive_client import Derivation
from mitai.broker.lineage import Statement
from mitai.broker.policy import template
from mitai.broker.policy.templates import compose
from mitai.broker.protocol import Amounts, Budget, DeriveRequest
from mitai.broker.release import Proof
from mitai.broker.release_client import OpenedKey
from mitai.capsule import MemorySource, Sealed, seal
from mitai.client.lineage import Lineage, verify_lineage
from mitai.errors import BrokerError, CapsuleError, DeniedError, MitaiError, ParseError
from mitai.identity import Identity
from mitai.ledger.note import verify_checkpoint

TRAINING = 'permit(principal, action == Action::"training", resource);'


class Trio:
    """Alice with a model, Bob and Carol with data; a workload that trains."""

    def __init__(self, rig: Rig, **policies: str) -> None:
        self.rig = rig
        self.bob, self.carol = Party("bob"), Party("carol")
        for party in (self.bob, self.carol):
            rig.register(party)
        self.model = rig.publish(policies.get("model", ALLOW_ALL))
        self.first = rig.publish(policies.get("first", ALLOW_ALL), owner=self.bob)
        self.second = rig.publish(policies.get("second", ALLOW_ALL), owner=self.carol)
        self.inputs = rig.release(*self.ids, purpose="training", parameters={"method": "sft"})

    @property
    def ids(self) -> tuple[str, ...]:
        return (self.model.capsule_id, self.first.capsule_id, self.second.capsule_id)


def make(rig: Rig, inputs: tuple[OpenedKey, ...], kind: str = "adapter", owner: Identity | None = None) -> Sealed:
    derivation = derivation_of(rig, inputs, owner)
    plain = rig.folder / "derived-plain"
    plain.mkdir(exist_ok=True)
    (plain / "adapter.bin").write_bytes(b"weights")
    number = len(list(rig.folder.glob("derived-*")))
    return seal(
        plain,
        rig.folder / f"derived-{number}",
        owner=owner or rig.receipt_key,
        name="joint",
        kind=kind,
        parents=derivation.parents,
    )


def derivation_of(rig: Rig, inputs: tuple[OpenedKey, ...], owner: Identity | None = None) -> Derivation:
    return Derivation(owner or rig.receipt_key, rig.broker.audience, inputs)


def send(rig: Rig, body: bytes) -> int:
    return protocol.decode(asyncio.run(rig.broker.derived(body)), protocol.CommandAnswer, 1 << 20).index


def register(rig: Rig, inputs: tuple[OpenedKey, ...], kind: str = "adapter") -> Sealed:
    sealed = make(rig, inputs, kind)
    send(rig, derivation_of(rig, inputs).request(sealed))
    return sealed


def refused(rig: Rig, code: str, body: bytes) -> None:
    size = rig.broker.size
    with pytest.raises(MitaiError) as caught:
        send(rig, body)
    assert caught.value.code == code
    assert rig.broker.size == size


def denied(rig: Rig, code: str, *capsules: str, **more: object) -> None:
    with pytest.raises(DeniedError) as caught:
        rig.release(*capsules, **more)
    assert caught.value.code == code


def served(rig: Rig, *capsules: str, **more: object) -> tuple[OpenedKey, ...]:
    """A release to another process: a fresh receipt key."""
    rig.receipt_key = Identity.generate()
    return rig.release(*capsules, **more)


@pytest.fixture
def trio(ready: Rig) -> Trio:
    return Trio(ready)


def test_a_derived_capsule_belongs_to_all_owners_and_is_logged(ready: Rig, trio: Trio) -> None:
    sealed = make(ready, trio.inputs)
    derivation = derivation_of(ready, trio.inputs)
    answer = asyncio.run(ready.broker.derived(derivation.request(sealed, {"transcript": "ab" * 32})))
    entry = ready.entries()[derivation.index(answer, ready.broker.vkey)]
    assert entry["type"] == "derivation"
    assert len(entry["owners"]) == 3
    assert set(entry["owners"]) == {ready.alice.id, trio.bob.id, trio.carol.id}
    assert entry["parents"] == sorted(trio.ids)
    assert (entry["kind"], entry["workload"], entry["simulated"]) == ("adapter", "serve", True)
    for party in (ready.alice, trio.bob, trio.carol):
        header = party.query(ready, f"/v1/capsules/{sealed.capsule_id}")
        view = protocol.decode(
            asyncio.run(ready.broker.capsule(sealed.capsule_id, header)), protocol.CapsuleView, 1 << 20
        )
        assert (view.kind, list(view.parents)) == ("adapter", sorted(trio.ids))
        listed = asyncio.run(ready.broker.capsules(0, party.query(ready, "/v1/capsules?page=0")))
        assert sealed.capsule_id in protocol.decode(listed, protocol.CapsulesAnswer, 1 << 20).capsules


def test_its_key_is_released_with_all_owners_consent(ready: Rig, trio: Trio) -> None:
    maker = ready.receipt_key.public
    sealed = register(ready, trio.inputs)
    model, adapter = served(ready, trio.model.capsule_id, sealed.capsule_id)
    assert (adapter.data_key, adapter.owner, adapter.manifest.owner) == (sealed.data_key, maker, maker.key_id)
    assert model.owner == ready.alice.identity.public


def test_it_survives_a_restart(ready: Rig, trio: Trio) -> None:
    sealed = register(ready, trio.inputs)
    ready.reopen()
    assert served(ready, sealed.capsule_id)


# --- What a workload can't do -----------------------------------------------------------------------------------------


def test_the_client_refuses_what_the_broker_would(ready: Rig, trio: Trio) -> None:
    with pytest.raises(BrokerError) as caught:
        derivation_of(ready, trio.inputs).request(make(ready, trio.inputs[:2]))
    assert caught.value.code == "broker.parents-mismatch"
    with pytest.raises(BrokerError) as caught:
        derivation_of(ready, ())
    assert caught.value.code == "broker.derive-mixed"
    answer = protocol.CommandAnswer(index=10**6, checkpoint=ready.broker.checkpoint())
    with pytest.raises(BrokerError) as caught:
        derivation_of(ready, trio.inputs).index(protocol.encode(answer), ready.broker.vkey)
    assert caught.value.code == "broker.answer-mismatch"


def test_a_statement_has_one_spelling(ready: Rig, trio: Trio) -> None:
    body = derivation_of(ready, trio.inputs).request(make(ready, trio.inputs), {"b": "0" * 64, "a": "1" * 64})
    payload = protocol.decode(body, DeriveRequest, 1 << 20).statement.payload
    key, kind = ready.receipt_key, lineage_module.PAYLOAD_TYPE
    assert Statement.open(key.sign(payload, kind), key.public).byproducts == {"a": "1" * 64, "b": "0" * 64}
    spoiled = [payload + b" ", payload.replace(b'"sha256"', b'"sha512"', 1), payload.replace(b'"v1"', b'"v2"')[:-1]]
    spoiled.append(payload.replace(b'"name":"a"', b'"name":"c"'))  # not in order any more
    spoiled.append(re.sub(rb'"finishedOn":"\d{4}-\d\d-\d\d', b'"finishedOn":"2026-02-30', payload))
    for other in spoiled:
        with pytest.raises(ParseError):
            Statement.open(key.sign(other, kind), key.public)


def test_parents_can_not_be_left_out(ready: Rig, trio: Trio) -> None:
    fewer = trio.inputs[:2]
    refused(ready, "broker.parents-mismatch", derivation_of(ready, fewer).request(make(ready, fewer)))


def test_nor_those_of_an_earlier_release(ready: Rig, trio: Trio) -> None:
    more = ready.release(ready.publish().capsule_id, purpose="training", parameters={"method": "sft"})
    refused(ready, "broker.parents-mismatch", derivation_of(ready, trio.inputs).request(make(ready, trio.inputs)))
    assert register(ready, trio.inputs + more)


def test_jobs_are_not_mixed(ready: Rig, trio: Trio) -> None:
    body = derivation_of(ready, trio.inputs).request(make(ready, trio.inputs))
    again = ready.release(trio.ids[0], purpose="training", parameters={"method": "dpo"})
    refused(ready, "broker.derive-mixed", body)
    with pytest.raises(BrokerError, match="one job"):
        derivation_of(ready, trio.inputs + again)
    ready.reopen()
    refused(ready, "broker.derive-mixed", body)


def test_another_receipt_key_derives_nothing(ready: Rig, trio: Trio) -> None:
    stranger = Identity.generate()
    body = derivation_of(ready, trio.inputs, stranger).request(make(ready, trio.inputs, owner=stranger))
    refused(ready, "broker.replica-unknown", body)


def test_a_receipt_key_that_is_not_held_is_refused(ready: Rig, trio: Trio) -> None:
    stranger = Identity.generate()
    body = derivation_of(ready, trio.inputs, stranger).request(make(ready, trio.inputs, owner=stranger))
    request = msgspec.structs.replace(
        protocol.decode(body, DeriveRequest, 1 << 20), receipt_key=ready.receipt_key.public.raw
    )
    refused(ready, "broker.signature-invalid", protocol.encode(request))


def test_a_manifest_that_somebody_else_signed_is_refused(ready: Rig, trio: Trio) -> None:
    body = derivation_of(ready, trio.inputs).request(make(ready, trio.inputs))
    request = protocol.decode(body, DeriveRequest, 1 << 20)
    other = msgspec.structs.replace(request, manifest=trio.model.envelope)
    refused(ready, "capsule.signature-invalid", protocol.encode(other))
    older = msgspec.structs.replace(request, manifest=make(ready, trio.inputs).envelope)
    refused(ready, "capsule.manifest-mismatch", protocol.encode(older))
    wrong = msgspec.structs.replace(request, data_key=bytes(32))
    refused(ready, "capsule.key-wrong", protocol.encode(wrong))


def untrue(body: bytes, key: Identity, **changes: object) -> bytes:
    """Sign the same statement with other words."""
    request = protocol.decode(body, DeriveRequest, 1 << 20)
    plain = msgspec.json.decode(request.statement.payload)
    for path, value in changes.items():
        *steps, last = path.split("__")
        part = plain
        for step in steps:
            part = part[int(step)] if step.isdecimal() else part[step]
        part[last] = value
    statement = msgspec.convert(plain, Statement)
    return protocol.encode(msgspec.structs.replace(request, statement=statement.sign(key)))


DEFINITION = "predicate__buildDefinition__"


@pytest.mark.parametrize(
    ("path", "value", "code"),
    [
        (DEFINITION + "externalParameters__purpose", "inference", "broker.statement-untrue"),
        (DEFINITION + "externalParameters__parameters", {"method": "dpo"}, "broker.statement-untrue"),
        (DEFINITION + "internalParameters__evidence_sha256", "0" * 64, "broker.statement-untrue"),
        (DEFINITION + "internalParameters__broker", "0" * 64, "broker.wrong-audience"),
        (DEFINITION + "internalParameters__kind", "model", "broker.statement-mismatch"),
        (DEFINITION + "resolvedDependencies__0__digest__sha256", "0" * 64, "broker.statement-mismatch"),
        (DEFINITION + "resolvedDependencies__0__name", "0", "broker.statement-mismatch"),
        ("predicate__runDetails__builder__id", "https://mitai.dev/workload/train", "broker.statement-untrue"),
        ("predicate__runDetails__builder__version", {"mrtd": "00"}, "broker.statement-untrue"),
        ("subject__0__name", "f" * 32, "broker.statement-mismatch"),
        ("subject__0__digest__sha256", "0" * 64, "capsule.manifest-mismatch"),
    ],
)
def test_an_untrue_statement_is_refused(ready: Rig, trio: Trio, path: str, value: object, code: str) -> None:
    body = derivation_of(ready, trio.inputs).request(make(ready, trio.inputs))
    refused(ready, code, untrue(body, ready.receipt_key, **{path: value}))


def test_two_signatures_are_refused(ready: Rig, trio: Trio) -> None:
    """What is stored is what was verified: a first signature that nobody checked would be in everybody's way."""
    request = protocol.decode(
        derivation_of(ready, trio.inputs).request(make(ready, trio.inputs)), DeriveRequest, 1 << 20
    )
    twice = msgspec.structs.replace(request.statement, signatures=request.statement.signatures * 2)
    refused(ready, "broker.malformed", protocol.encode(msgspec.structs.replace(request, statement=twice)))


def test_other_code_can_not_add_to_a_workload_s_parents(tmp_path, sim: SimPlatform) -> None:
    """Its claims could name that workload's receipt key, and have a capsule put among the parents of all it makes."""
    rig = Rig(tmp_path, sim)
    workloads = (reference_values(SERVE), reference_values(OTHER))
    rig.policy = msgspec.structs.replace(rig.policy, workloads=workloads)
    rig.reopen()
    rig.register()
    first, second = rig.publish(), rig.publish()
    inputs = rig.release(first.capsule_id)
    with pytest.raises(DeniedError) as caught:
        rig.release(second.capsule_id, measured=OTHER)
    assert caught.value.code == "broker.receipt-key-taken"
    assert register(rig, inputs)
    rig.close()


def test_a_simulated_machine_can_not_add_to_a_real_one_s_parents(ready: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is simulated says of itself what it likes: measurements and receipt key of a real machine too."""
    first, second = ready.publish(), ready.publish()
    prove = service.prove

    def real(*arguments: object) -> Proof:
        proof = prove(*arguments)
        return dataclasses.replace(proof, appraisal=dataclasses.replace(proof.appraisal, simulated=False))

    with monkeypatch.context() as patched:
        patched.setattr(service, "prove", real)
        inputs = ready.release(first.capsule_id)
    with pytest.raises(DeniedError) as caught:
        ready.release(second.capsule_id)
    assert caught.value.code == "broker.receipt-key-taken"
    assert register(ready, inputs)


# --- Again, twice, after a crash --------------------------------------------------------------------------------------


def test_the_same_request_again_gives_the_same_index(ready: Rig, trio: Trio) -> None:
    body = derivation_of(ready, trio.inputs).request(make(ready, trio.inputs))
    index, size = send(ready, body), ready.broker.size
    ready.reopen()
    assert (send(ready, body), ready.broker.size) == (index, size)


def test_an_id_is_taken_once(ready: Rig, trio: Trio) -> None:
    sealed = make(ready, trio.inputs)
    send(ready, derivation_of(ready, trio.inputs).request(sealed))
    refused(ready, "broker.capsule-exists", derivation_of(ready, trio.inputs).request(sealed, {"other": "0" * 64}))


def test_nobody_takes_the_id_of_an_output_that_is_on_its_way(ready: Rig, trio: Trio) -> None:
    """Ciphertext and manifest lie with the host before the output is registered."""
    sealed, mallory = make(ready, trio.inputs), Party("mallory")
    ready.register(mallory)
    forged = seal(
        MemorySource({"config.json": b"{}"}),
        ready.folder / "forged",
        owner=mallory.identity,
        name="mine",
        capsule_id=sealed.capsule_id,
    )
    with pytest.raises(CapsuleError) as caught:
        ready.send(mallory.publication(ready, forged))
    assert caught.value.code == "capsule.id-foreign"
    derivation = derivation_of(ready, trio.inputs)
    renamed = seal(
        MemorySource({"config.json": b"{}"}),
        ready.folder / "renamed",
        owner=ready.receipt_key,
        name="joint",
        kind="adapter",
        capsule_id="0" * 32,
        parents=derivation.parents,
    )
    refused(ready, "capsule.id-foreign", derivation.request(renamed))
    assert send(ready, derivation_of(ready, trio.inputs).request(sealed))


def test_two_capsules_of_one_job(ready: Rig, trio: Trio) -> None:
    adapter, report = register(ready, trio.inputs), register(ready, trio.inputs, "report")
    keys = served(ready, adapter.capsule_id, report.capsule_id)
    assert [key.manifest.kind for key in keys] == ["adapter", "report"]
    assert adapter.capsule_id not in keys[1].manifest.parents


def test_bounds(ready: Rig, trio: Trio, monkeypatch: pytest.MonkeyPatch) -> None:
    body = derivation_of(ready, trio.inputs).request(make(ready, trio.inputs))
    for name, value in (("MAX_LINEAGE", 2), ("MAX_DEPTH", 0), ("MAX_OWNERS", 2), ("MAX_DERIVED", 0)):
        with monkeypatch.context() as patched:
            patched.setattr(derive, name, value)
            refused(ready, "broker.lineage-too-large", body)
    assert send(ready, body)


def test_what_is_registered_has_no_more_owners_than_what_is_made_of_it(ready: Rig) -> None:
    others = tuple(Party(f"other-{number}") for number in range(protocol.MAX_OWNERS))
    for party in others:
        ready.register(party)
    with pytest.raises(ParseError) as caught:
        ready.publish(co_owners=tuple(party.id for party in others))
    assert caught.value.code == "broker.malformed"
    sealed = ready.publish(co_owners=tuple(party.id for party in others[1:]))
    for party in others[1:]:
        ready.send(party.policy(ready, sealed.capsule_id))
    assert register(ready, ready.release(sealed.capsule_id))


def test_depth_and_ancestors_grow(ready: Rig, trio: Trio) -> None:
    adapter = register(ready, trio.inputs)
    inputs = served(ready, adapter.capsule_id, purpose="training")
    merged = register(ready, inputs, "model")
    record = asyncio.run(ready.broker._decided(_reading(merged.capsule_id)))
    assert record.made.depth == 2
    assert set(record.lineage) == {*trio.ids, adapter.capsule_id}
    assert record.made.parents == (adapter.capsule_id,)
    assert {grant.party for grant in record.grants} == {ready.alice.id, trio.bob.id, trio.carol.id}


def _reading(capsule: str):
    from mitai.broker.records import Capsule
    from mitai.broker.writer import Job

    return Job(lambda draft: draft.get(Capsule, capsule))


# --- Whose consent ----------------------------------------------------------------------------------------------------


def test_policies_over_the_parents_decide(ready: Rig) -> None:
    trio = Trio(ready, second=TRAINING)
    adapter = register(ready, trio.inputs)
    rest = (ready, "broker.policy-denied", adapter.capsule_id)
    ready.receipt_key = Identity.generate()
    denied(*rest)
    ready.send(trio.carol.policy(ready, trio.second.capsule_id))  # live: over the parent
    assert served(ready, adapter.capsule_id)
    ready.send(trio.carol.policy(ready, trio.second.capsule_id, TRAINING))
    denied(*rest)


def test_an_own_policy_for_it_takes_their_place(ready: Rig) -> None:
    trio = Trio(ready, second=TRAINING)
    adapter = register(ready, trio.inputs)
    ready.send(trio.carol.policy(ready, adapter.capsule_id))
    assert served(ready, adapter.capsule_id)
    ready.send(trio.bob.policy(ready, adapter.capsule_id, TRAINING))
    denied(ready, "broker.policy-denied", adapter.capsule_id)
    assert served(ready, adapter.capsule_id, purpose="training")


def test_a_grandchild_inherits_the_nearest_policies(ready: Rig) -> None:
    trio = Trio(ready, second=TRAINING)
    adapter = register(ready, trio.inputs)
    inputs = served(ready, adapter.capsule_id, purpose="training")
    merged = register(ready, inputs)
    ready.receipt_key = Identity.generate()
    denied(ready, "broker.policy-denied", merged.capsule_id)
    ready.send(trio.carol.policy(ready, adapter.capsule_id))
    assert served(ready, merged.capsule_id)


def test_an_owner_of_several_parents_is_asked_by_each_policy(ready: Rig) -> None:
    one, two = ready.publish(ALLOW_ALL + "// one"), ready.publish(TRAINING)
    adapter = register(ready, ready.release(one.capsule_id, two.capsule_id, purpose="training"))
    ready.receipt_key = Identity.generate()
    denied(ready, "broker.policy-denied", adapter.capsule_id)
    (key,) = served(ready, adapter.capsule_id, purpose="training")
    assert len(key.policies) == 2


@pytest.mark.parametrize("which", ["capsule", "party", "adapter"])
def test_a_revocation_anywhere_above_stops_it(ready: Rig, trio: Trio, which: str) -> None:
    adapter = register(ready, trio.inputs)
    inputs = served(ready, adapter.capsule_id, purpose="training")
    merged = register(ready, inputs)
    for capsule in (adapter, merged):
        ready.send(trio.carol.policy(ready, capsule.capsule_id))
    assert served(ready, merged.capsule_id)
    ready.receipt_key = Identity.generate()
    named = {"capsule": trio.second.capsule_id, "party": None, "adapter": adapter.capsule_id}[which]
    ready.send(trio.carol.revocation(ready, named))
    denied(ready, "broker.revoked", merged.capsule_id)


def test_nothing_is_made_of_what_was_revoked(ready: Rig, trio: Trio) -> None:
    body = derivation_of(ready, trio.inputs).request(make(ready, trio.inputs))
    ready.send(trio.bob.revocation(ready, trio.first.capsule_id))
    refused(ready, "broker.revoked", body)


def test_an_end_anywhere_above_stops_it(ready: Rig, trio: Trio) -> None:
    adapter = register(ready, trio.inputs)
    end = int(ready.clock().timestamp()) + 100
    ready.send(trio.carol.policy(ready, adapter.capsule_id))
    ready.send(trio.carol.policy(ready, trio.second.capsule_id, budget=Budget(not_after_s=end)))
    assert served(ready, adapter.capsule_id)
    ready.clock.ahead = timedelta(seconds=102)
    denied(ready, "broker.policy-expired", adapter.capsule_id)


def test_own_counters_against_the_parents_limits(ready: Rig) -> None:
    trio = Trio(ready)
    ready.send(trio.bob.policy(ready, trio.first.capsule_id, budget=Budget(uses=2, amounts=Amounts(tokens=10))))
    adapter = register(ready, trio.inputs)
    declared = {"parameters": {"tokens": "4"}}
    served(ready, adapter.capsule_id, **declared)
    denied(ready, "broker.tokens-exhausted", adapter.capsule_id, parameters={"tokens": "7"})
    served(ready, adapter.capsule_id, **declared)  # the parent was used once, and the adapter now twice
    denied(ready, "broker.budget-exhausted", adapter.capsule_id, **declared)
    served(ready, trio.first.capsule_id, **declared)


def test_a_co_owner_without_a_policy_stays_a_no(ready: Rig) -> None:
    bob = Party("bob")
    ready.register(bob)
    ours = ready.publish(co_owners=(bob.id,))
    ready.send(bob.policy(ready, ours.capsule_id))
    adapter = register(ready, ready.release(ours.capsule_id))
    later = ready.publish(co_owners=(bob.id,))
    ready.receipt_key = Identity.generate()
    denied(ready, "broker.policy-missing", later.capsule_id, adapter.capsule_id)


def test_policies_see_kind_and_lineage(ready: Rig) -> None:
    model = ready.publish(
        'permit(principal, action, resource) when { context.kind == "model" || context.kind == "adapter" };'
    )
    only = (
        'permit(principal, action == Action::"training", resource);'
        'permit(principal, action == Action::"inference", resource) when '
        f'{{ context.kind == "adapter" && context.lineage.contains("{model.capsule_id}") }};'
    )
    data = ready.publish(only)
    adapter = register(ready, ready.release(model.capsule_id, data.capsule_id, purpose="training"))
    served(ready, adapter.capsule_id)
    served(ready, model.capsule_id, adapter.capsule_id)
    denied(ready, "broker.policy-denied", data.capsule_id)
    report = register(ready, served(ready, model.capsule_id, data.capsule_id, purpose="training"), "report")
    ready.receipt_key = Identity.generate()
    denied(ready, "broker.policy-denied", report.capsule_id)


def test_a_release_tells_whose_word_the_parents_are(ready: Rig, trio: Trio) -> None:
    adapter = register(ready, trio.inputs)
    model, made = served(ready, trio.model.capsule_id, adapter.capsule_id)
    assert (model.derived, made.derived) == (False, True)


def test_a_lie_about_parents_gives_no_lineage(ready: Rig) -> None:
    """What an owner writes into its own manifest is its claim: only workloads' statements make lineage."""
    data = ready.publish("permit(principal, action, resource) when { !context.lineage.isEmpty() };")
    denied(ready, "broker.policy-denied", data.capsule_id)


def test_training_by_these_and_inference_with_what_comes_out_but_never_on_the_data(ready: Rig) -> None:
    mrtd = reference_values(SERVE).registers["mrtd"]
    bob = Party("bob")
    ready.register(bob)
    common = {"workload": "serve", "mrtd": mrtd, "until": "2099-01-01", "owners": [ready.alice.id, bob.id]}
    trains = [template(name, **common, epochs=3) for name in ("sft-parties", "dpo-parties")]
    model = ready.publish()
    data = ready.publish(compose(*trains, template("adapter-inference", **common)), owner=bob)
    declared = {"purpose": "training", "parameters": {"method": "dpo", "epochs": "3"}}
    adapter = register(ready, ready.release(model.capsule_id, data.capsule_id, **declared))
    served(ready, model.capsule_id, adapter.capsule_id)
    denied(ready, "broker.policy-denied", data.capsule_id)
    denied(ready, "broker.policy-denied", model.capsule_id, data.capsule_id)
    carol = Party("carol")
    ready.register(carol)
    foreign = ready.publish(owner=carol)
    denied(ready, "broker.policy-denied", foreign.capsule_id, adapter.capsule_id)


# --- Lineage ----------------------------------------------------------------------------------------------------------


def lineage(rig: Rig, party: Party, capsule: str) -> Lineage:
    answer = asyncio.run(rig.broker.lineage(capsule, party.query(rig, f"/v1/lineage?capsule={capsule}")))
    parsed = protocol.decode(answer, protocol.LineageAnswer, 1 << 24)
    checkpoint = verify_checkpoint(parsed.checkpoint, rig.broker.vkey)
    return verify_lineage(parsed, checkpoint, capsule, broker=rig.broker.audience)


def test_owners_see_the_whole_lineage_and_strangers_nothing(ready: Rig, trio: Trio) -> None:
    adapter = register(ready, trio.inputs)
    merged = register(ready, served(ready, adapter.capsule_id, purpose="training"), "model")
    for party in (ready.alice, trio.bob, trio.carol):
        found = lineage(ready, party, merged.capsule_id)
        assert set(found.nodes) == {*trio.ids, adapter.capsule_id, merged.capsule_id}
        assert found.nodes[adapter.capsule_id].statement.declared.parameters == {"method": "sft"}
    assert set(lineage(ready, trio.bob, trio.first.capsule_id).nodes) == {trio.first.capsule_id}
    for party, capsule in ((trio.bob, trio.second.capsule_id), (Party("eve"), merged.capsule_id)):
        with pytest.raises(BrokerError) as caught:
            lineage(ready, party, capsule)
        assert caught.value.code == "broker.capsule-unknown"
