"""Key release: who gets keys, who does not and why, and that nothing is spent or given twice."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from broker_rig import ALLOW_ALL, OTHER, SERVE, Party, Rig
from mitai.attest import Evidence
from mitai.attest.sim import SimPlatform, reference_values
from mitai.broker import protocol
from mitai.broker.policy import template
from mitai.broker.protocol import Budget
from mitai.broker.records import Replica
from mitai.broker.release_client import Release
from mitai.broker.writer import Job
from mitai.errors import BrokerError, DeniedError, MitaiError

DECLARED = {"epochs": "1", "method": "sft"}
OTHERWISE = [  # a field of a request, and what a host might make of it
    ("purpose", lambda _: "training"),
    ("capsules", lambda capsules: capsules[:1]),
    ("capsules", lambda capsules: capsules[::-1]),
    ("parameters", lambda _: {}),
    ("parameters", lambda parameters: parameters | {"epochs": "2"}),
    ("parameters", lambda parameters: parameters | {"tokens": "9007199254740992"}),
    ("parameters", lambda parameters: dict(zip(parameters, reversed(parameters.values()), strict=True))),
]


def denied(rig: Rig, code: str, *capsules: str, **more: object) -> MitaiError:
    with pytest.raises(DeniedError) as caught:
        rig.release(*capsules, **more)
    assert caught.value.code == code
    last = rig.entries()[-1]
    assert (last["type"], last["code"], last["capsules"]) == ("denial", code, list(capsules))
    return caught.value


def uses(rig: Rig, capsule: str) -> int:
    header = rig.alice.query(rig, f"/v1/capsules/{capsule}")
    view = protocol.decode(asyncio.run(rig.broker.capsule(capsule, header)), protocol.CapsuleView, 1 << 20)
    return view.grants[0].uses


def test_a_proven_workload_gets_the_key(ready: Rig) -> None:
    sealed = ready.publish()
    (key,) = ready.release(sealed.capsule_id)
    assert key.data_key == sealed.data_key
    assert key.envelope == sealed.envelope
    assert key.owner == ready.alice.identity.public
    entry = ready.entries()[key.ledger_index]
    assert (entry["type"], entry["workload"], entry["simulated"]) == ("release", "serve", True)
    assert "model" not in repr(key) or sealed.data_key.hex() not in repr(key)


def test_a_stranger_uses_nothing_up_with_evidence_that_is_shown_to_anybody(ready: Rig) -> None:
    """A replica's evidence over the broker's nonce can be had by whoever reaches both."""
    sealed = ready.publish(budget=Budget(uses=1))
    request = Release(
        ready.broker.challenge(), ready.process().shown, purpose="inference", capsules=(sealed.capsule_id,)
    )
    with pytest.raises(DeniedError) as caught:
        asyncio.run(ready.broker.release(request.body))
    assert caught.value.code == "broker.evidence-shown"
    assert uses(ready, sealed.capsule_id) == 0
    assert ready.release(sealed.capsule_id)


def test_several_capsules_come_together(ready: Rig) -> None:
    first, second = ready.publish(), ready.publish()
    keys = ready.release(second.capsule_id, first.capsule_id)
    assert [key.data_key for key in keys] == [second.data_key, first.data_key]


def test_all_or_nothing(ready: Rig) -> None:
    free, spent = ready.publish(), ready.publish(budget=Budget(uses=0))
    denied(ready, "broker.budget-exhausted", free.capsule_id, spent.capsule_id)
    assert uses(ready, free.capsule_id) == 0


def test_an_unknown_capsule_is_denied(ready: Rig) -> None:
    denied(ready, "broker.capsule-unknown", "f" * 32)


def test_default_is_deny(ready: Rig) -> None:
    only_training = 'permit(principal, action == Action::"training", resource);'
    sealed = ready.publish(only_training)
    denied(ready, "broker.policy-denied", sealed.capsule_id)
    assert ready.release(sealed.capsule_id, purpose="training")


def test_a_forbid_wins(ready: Rig) -> None:
    sealed = ready.publish(ALLOW_ALL + "forbid(principal, action, resource) when { context.simulated };")
    denied(ready, "broker.policy-denied", sealed.capsule_id)


def test_a_policy_that_fails_to_evaluate_is_a_no(ready: Rig) -> None:
    """Cedar alone would skip the failing `forbid`, and allow."""
    overflow = "forbid(principal, action, resource) when { context.uses + 9223372036854775807 > 0 };"
    sealed = ready.publish(ALLOW_ALL + overflow)
    denied(ready, "broker.policy-denied", sealed.capsule_id)


def test_a_template_pins_measurement_and_date(ready: Rig) -> None:
    mrtd = reference_values(SERVE).registers["mrtd"]
    good = template("inference-until", workload="serve", mrtd=mrtd, until="2099-01-01")
    assert ready.release(ready.publish(good).capsule_id)
    for changed in ({"mrtd": "00" * 48}, {"until": "2020-01-01"}, {"workload": "train"}):
        values = {"workload": "serve", "mrtd": mrtd, "until": "2099-01-01"} | changed
        sealed = ready.publish(template("inference-until", **values))
        denied(ready, "broker.policy-denied", sealed.capsule_id)


def test_policies_see_parameters_and_uses(ready: Rig) -> None:
    asked = 'permit(principal, action, resource) when { context.parameters.contains("region=eu") };'
    sealed = ready.publish(asked)
    denied(ready, "broker.policy-denied", sealed.capsule_id)
    assert ready.release(sealed.capsule_id, parameters={"region": "eu"})
    trial = ready.publish(template("inference-trial", workload="serve", uses=1, until="2099-01-01"))
    assert ready.release(trial.capsule_id)
    denied(ready, "broker.policy-denied", trial.capsule_id)


def test_an_unknown_purpose_is_denied(ready: Rig) -> None:
    denied(ready, "broker.policy-denied", ready.publish().capsule_id, purpose="mining")


def test_budgets_in_uses(ready: Rig) -> None:
    sealed = ready.publish(budget=Budget(uses=2))
    ready.release(sealed.capsule_id)
    ready.reopen()
    ready.release(sealed.capsule_id)
    denied(ready, "broker.budget-exhausted", sealed.capsule_id)
    ready.reopen()
    denied(ready, "broker.budget-exhausted", sealed.capsule_id)


def test_budgets_in_time(ready: Rig) -> None:
    end = int(ready.clock().timestamp()) + 100
    sealed = ready.publish(budget=Budget(not_after_s=end))
    ready.release(sealed.capsule_id)
    ready.clock.ahead = timedelta(seconds=102)
    denied(ready, "broker.policy-expired", sealed.capsule_id)


def test_time_is_not_won_back_by_setting_the_clock(ready: Rig) -> None:
    sealed = ready.publish(budget=Budget(not_after_s=int(ready.clock().timestamp()) + 100))
    ready.clock.ahead = timedelta(seconds=200)
    denied(ready, "broker.policy-expired", sealed.capsule_id)
    ready.clock.ahead = timedelta()
    with pytest.raises(MitaiError) as caught:
        ready.release(sealed.capsule_id)
    assert caught.value.code == "broker.clock-behind"


def test_revocation(ready: Rig) -> None:
    one, two = ready.publish(), ready.publish()
    ready.send(ready.alice.revocation(ready, one.capsule_id))
    denied(ready, "broker.revoked", one.capsule_id)
    assert ready.release(two.capsule_id)
    ready.send(ready.alice.revocation(ready))
    denied(ready, "broker.revoked", two.capsule_id)


def test_every_owner_must_allow(ready: Rig) -> None:
    bob = Party("bob")
    ready.register(bob)
    sealed = ready.publish(co_owners=(bob.id,))
    denied(ready, "broker.policy-missing", sealed.capsule_id)
    ready.send(bob.policy(ready, sealed.capsule_id, ALLOW_ALL + "// bob", Budget(uses=1)))
    (key,) = ready.release(sealed.capsule_id)
    assert len(key.policies) == 2
    denied(ready, "broker.budget-exhausted", sealed.capsule_id)
    ready.send(bob.revocation(ready, sealed.capsule_id))
    denied(ready, "broker.revoked", sealed.capsule_id)


class TestEvidence:
    def test_of_other_code_is_refused(self, ready: Rig) -> None:
        sealed = ready.publish()
        denied(ready, "broker.evidence-refused:attest.measurement-mismatch", sealed.capsule_id, measured=OTHER)
        assert uses(ready, sealed.capsule_id) == 0
        header = ready.alice.query(ready, f"/v1/decisions?capsule={sealed.capsule_id}")
        answer = asyncio.run(ready.broker.decisions(sealed.capsule_id, header))
        listed = protocol.decode(answer, protocol.DecisionsAnswer, 1 << 20).entries
        assert len(listed) == 2  # registration and policy: strangers don't push an owner's entries out of the list

    def test_of_a_simulation_is_refused_where_hardware_is_demanded(self, ready: Rig) -> None:
        sealed = ready.publish()
        ready.policy = msgspec.structs.replace(ready.policy, allow_simulation=False)
        ready.reopen()
        denied(ready, "broker.simulation-refused", sealed.capsule_id)

    def test_of_another_simulated_platform_is_refused(self, ready: Rig, tmp_path) -> None:
        sealed = ready.publish()
        ready.sim = SimPlatform.create(tmp_path / "other-sim")
        error = denied(ready, "broker.evidence-refused:attest.simulated-root-unknown", sealed.capsule_id)
        assert "ledger entry" in error.message

    def test_over_another_nonce_is_refused(self, ready: Rig) -> None:
        sealed = ready.publish()
        request = msgspec.json.decode(ready.request(sealed.capsule_id).body)
        request["nonce"] = protocol.decode(ready.broker.challenge(), protocol.Challenge, 1024).nonce
        with pytest.raises(DeniedError) as caught:
            asyncio.run(ready.broker.release(msgspec.json.encode(request)))
        assert caught.value.code == "broker.request-mismatch"

    def test_over_the_challenge_alone_is_refused(self, ready: Rig) -> None:
        """As every workload made it before version 2."""
        sealed = ready.publish()
        nonce = protocol.decode(ready.broker.challenge(), protocol.Challenge, 1024).nonce
        evidence = ready.process().evidence(bytes.fromhex(nonce)).encode()
        request = protocol.ReleaseRequest(
            evidence=evidence, nonce=nonce, purpose="inference", capsules=(sealed.capsule_id,)
        )
        with pytest.raises(DeniedError) as caught:
            asyncio.run(ready.broker.release(protocol.encode(request)))
        assert caught.value.code == "broker.request-mismatch"

    @pytest.mark.parametrize("says_so", [False, True])
    @pytest.mark.parametrize(("field", "change"), OTHERWISE)
    def test_of_another_request_is_refused_and_spends_nothing(
        self, ready: Rig, field: str, change: Callable[[Any], object], says_so: bool
    ) -> None:
        """A host sends a worker's evidence with a request of its own; its claim what the evidence is over helps not."""
        one, two = sorted(ready.publish(budget=Budget(uses=1)).capsule_id for _ in range(2))
        made = ready.request(one, two, parameters=DECLARED)
        request = protocol.decode(made.body, protocol.ReleaseRequest, 1 << 20)
        changed = msgspec.structs.replace(request, **{field: change(getattr(request, field))})
        code = "broker.request-mismatch"
        if says_so:
            evidence = msgspec.json.decode(request.evidence, type=Evidence)
            forged = msgspec.structs.replace(evidence, nonce=protocol.release_nonce(changed))
            changed = msgspec.structs.replace(changed, evidence=forged.encode())
            code = "broker.evidence-refused:attest.report-data-mismatch"
        with pytest.raises(DeniedError) as caught:
            asyncio.run(ready.broker.release(protocol.encode(changed)))
        assert caught.value.code == code
        assert uses(ready, one) == uses(ready, two) == 0
        assert len(made.open(asyncio.run(ready.broker.release(made.body)), ready.keyring)) == 2  # the worker's own

    def test_covers_every_field_of_the_request(self) -> None:
        """Who adds a field says here how it is tried; another nonce is tried above, and `v` has one value."""
        tried = {field for field, _ in OTHERWISE}
        assert set(protocol.ReleaseRequest.__struct_fields__) == tried | {"v", "evidence", "nonce"}

    def test_is_over_a_nonce_that_others_can_compute(self) -> None:
        """The bytes are those of docs/spec/broker.md; the evidence and the order of parameters are not in them."""
        said = (
            b'{"capsules":["c","b"],"nonce":"%s","parameters":{"a":"1","\xc3\xa4":"\\n"},"purpose":"inference","v":2}'
        )
        expected = hashlib.sha256(b"mitai release request v1\0" + said % (b"0" * 64)).digest()
        for evidence, parameters in ((b"", {"a": "1", "ä": "\n"}), (b"?", {"ä": "\n", "a": "1"})):
            request = protocol.ReleaseRequest(
                evidence=evidence, nonce="0" * 64, purpose="inference", capsules=("c", "b"), parameters=parameters
            )
            assert protocol.release_nonce(request) == expected

    def test_with_another_key_is_refused(self, ready: Rig) -> None:
        """A relayed quote with the relay's own key in the claims."""
        sealed = ready.publish()
        request = msgspec.json.decode(ready.request(sealed.capsule_id).body, type=protocol.ReleaseRequest)
        evidence = msgspec.json.decode(request.evidence, type=dict)
        import base64

        claims = msgspec.json.decode(base64.b64decode(evidence["claims"]))
        config = bytearray(base64.b64decode(claims["key_config"]))
        config[5] ^= 1
        claims["key_config"] = base64.b64encode(bytes(config)).decode()
        evidence["claims"] = base64.b64encode(msgspec.json.encode(claims)).decode()
        forged = msgspec.structs.replace(request, evidence=msgspec.json.encode(evidence))
        with pytest.raises(DeniedError) as caught:
            asyncio.run(ready.broker.release(protocol.encode(forged)))
        assert caught.value.code == "broker.evidence-refused:attest.report-data-mismatch"

    def test_that_is_nonsense_is_refused_and_metered(self, ready: Rig) -> None:
        def nonsense() -> bytes:
            nonce = protocol.decode(ready.broker.challenge(), protocol.Challenge, 1024).nonce
            return protocol.encode(
                protocol.ReleaseRequest(evidence=b"?", nonce=nonce, purpose="inference", capsules=("c",))
            )

        async def flood() -> list[str]:
            results = await asyncio.gather(
                *(ready.broker.release(nonsense()) for _ in range(300)), return_exceptions=True
            )
            return [error.code for error in results if isinstance(error, MitaiError)]

        codes = asyncio.run(flood())
        assert len(codes) == 300
        logged = codes.count("broker.evidence-refused:attest.evidence-malformed")
        assert 200 <= logged <= 210
        assert codes.count("broker.rate-limited") == 300 - logged
        assert ready.broker.size == 1 + logged


class TestReplay:
    def test_refused_evidence_fills_no_memory_and_leaves_the_nonce_unused(self, ready: Rig) -> None:
        sealed = ready.publish()
        request = ready.request(sealed.capsule_id)
        spoiled = msgspec.json.decode(request.body) | {"evidence": "AAAA"}
        with pytest.raises(DeniedError):
            asyncio.run(ready.broker.release(msgspec.json.encode(spoiled)))
        assert not ready.broker._nonces._used
        assert request.open(asyncio.run(ready.broker.release(request.body)), ready.keyring)

    def test_keys_can_be_sealed_against_quantum_computers(self, ready: Rig) -> None:
        from mitai.channel import KeyRing

        sealed = ready.publish()
        ready.keyring = KeyRing.generate("x-wing")
        assert ready.release(sealed.capsule_id)[0].data_key == sealed.data_key

    def test_the_same_request_gets_the_same_answer_and_spends_nothing(self, ready: Rig) -> None:
        sealed = ready.publish(budget=Budget(uses=5))
        request = ready.request(sealed.capsule_id)
        first = asyncio.run(ready.broker.release(request.body))
        size = ready.broker.size
        assert asyncio.run(ready.broker.release(request.body)) == first
        assert ready.broker.size == size
        assert uses(ready, sealed.capsule_id) == 1

    def test_at_once_too(self, ready: Rig) -> None:
        sealed = ready.publish()
        request = ready.request(sealed.capsule_id)

        async def both() -> list[bytes]:
            return await asyncio.gather(*(ready.broker.release(request.body) for _ in range(5)))

        assert len(set(asyncio.run(both()))) == 1
        assert uses(ready, sealed.capsule_id) == 1

    def test_a_denial_is_repeated_not_decided_again(self, ready: Rig) -> None:
        sealed = ready.publish(budget=Budget(uses=0))
        request = ready.request(sealed.capsule_id)
        for _ in range(2):
            with pytest.raises(DeniedError):
                asyncio.run(ready.broker.release(request.body))
        assert [entry["type"] for entry in ready.entries()].count("denial") == 1

    def test_a_nonce_decides_one_request(self, ready: Rig) -> None:
        sealed, other = ready.publish(), ready.publish()
        request = ready.request(sealed.capsule_id)
        asyncio.run(ready.broker.release(request.body))
        changed = msgspec.json.decode(request.body) | {"capsules": [other.capsule_id]}
        with pytest.raises(MitaiError) as caught:
            asyncio.run(ready.broker.release(msgspec.json.encode(changed)))
        assert caught.value.code == "broker.nonce-used"

    def test_an_old_request_is_refused_after_a_restart(self, ready: Rig) -> None:
        sealed = ready.publish()
        request = ready.request(sealed.capsule_id)
        asyncio.run(ready.broker.release(request.body))
        ready.reopen()
        with pytest.raises(MitaiError) as caught:
            asyncio.run(ready.broker.release(request.body))
        assert caught.value.code == "broker.nonce-unknown"
        assert uses(ready, sealed.capsule_id) == 1

    def test_a_caller_that_leaves_finds_its_answer_later(self, ready: Rig) -> None:
        sealed = ready.publish()
        request = ready.request(sealed.capsule_id)

        async def leave_and_return() -> bytes:
            task = asyncio.create_task(ready.broker.release(request.body))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return await ready.broker.release(request.body)

        (key,) = request.open(asyncio.run(leave_and_return()), ready.keyring)
        assert key.data_key == sealed.data_key
        assert uses(ready, sealed.capsule_id) == 1


def test_a_budget_of_n_gives_exactly_n_under_load(ready: Rig) -> None:
    sealed = ready.publish(budget=Budget(uses=7))
    bodies = [ready.request(sealed.capsule_id).body for _ in range(50)]

    async def all_at_once() -> list[object]:
        return await asyncio.gather(*(ready.broker.release(body) for body in bodies), return_exceptions=True)

    results = asyncio.run(all_at_once())
    assert sum(isinstance(result, bytes) for result in results) == 7
    codes = {result.code for result in results if isinstance(result, MitaiError)}
    assert codes == {"broker.budget-exhausted"}
    assert [entry["type"] for entry in ready.entries()].count("release") == 7
    assert uses(ready, sealed.capsule_id) == 7


@pytest.mark.parametrize(
    "change",
    [
        {"nonce": "00"},
        {"nonce": "G" * 64},
        {"capsules": []},
        {"capsules": ["a"] * 2},
        {"capsules": [f"c{number}" for number in range(17)]},
        {"capsules": ["../x"]},
        {"purpose": "Inference!"},
        {"parameters": {"a": 1}},
        {"parameters": {str(i): "" for i in range(33)}},
        {"evidence": None},
        {"more": 1},
    ],
)
def test_malformed_requests_are_refused(ready: Rig, change: dict) -> None:
    fields = {"evidence": "AA==", "nonce": "0" * 64, "purpose": "inference", "capsules": ["c"]} | change
    with pytest.raises(MitaiError) as caught:
        asyncio.run(ready.broker.release(msgspec.json.encode(fields)))
    assert caught.value.code == "broker.malformed"


@pytest.mark.parametrize("version", [0, 1, 3, "2"])
def test_a_request_of_another_version_is_told(ready: Rig, version: object) -> None:
    """Version 1 bound nothing but the challenge into the evidence."""
    body = msgspec.json.encode(msgspec.json.decode(ready.request("c").body) | {"v": version})
    with pytest.raises(MitaiError) as caught:
        asyncio.run(ready.broker.release(body))
    assert caught.value.code == "broker.version-unsupported"


def test_a_made_up_nonce_is_refused(ready: Rig) -> None:
    fields = {"evidence": "AA==", "nonce": "ff" * 32, "purpose": "inference", "capsules": ["c"]}
    with pytest.raises(MitaiError) as caught:
        asyncio.run(ready.broker.release(msgspec.json.encode(fields)))
    assert caught.value.code == "broker.nonce-unknown"
    assert ready.broker.size == 1


class TestClient:
    """The workload's side: a lying broker."""

    def answer(self, rig: Rig) -> tuple:
        sealed = rig.publish()
        request = rig.request(sealed.capsule_id)
        return request, protocol.decode(asyncio.run(rig.broker.release(request.body)), protocol.ReleaseAnswer, 1 << 20)

    def fails(self, request, answer: object, rig: Rig) -> str:
        body = answer if isinstance(answer, bytes) else protocol.encode(answer)
        with pytest.raises(MitaiError) as caught:
            request.open(body, rig.keyring)
        return caught.value.code

    def test_answers_to_another_request_do_not_open(self, ready: Rig) -> None:
        first, one = self.answer(ready)
        _, two = self.answer(ready)
        assert self.fails(first, two, ready) == "channel.unopenable"
        assert first.open(protocol.encode(one), ready.keyring)

    def test_changed_answers_do_not_open(self, ready: Rig) -> None:
        request, answer = self.answer(ready)
        for position in (0, 31, 32, 100, len(answer.sealed) - 1):
            sealed = bytearray(answer.sealed)
            sealed[position] ^= 1
            changed = msgspec.structs.replace(answer, sealed=bytes(sealed))
            assert self.fails(request, changed, ready) == "channel.unopenable"
        assert self.fails(request, b"{}", ready) == "broker.malformed"
        assert self.fails(request, msgspec.structs.replace(answer, sealed=b""), ready) == "channel.unopenable"

    def test_manifests_must_be_the_owner_s(self, ready: Rig) -> None:
        request, answer = self.answer(ready)
        _, other = self.answer(ready)
        assert self.fails(request, msgspec.structs.replace(answer, manifests=()), ready) == "broker.answer-mismatch"
        swapped = msgspec.structs.replace(answer, manifests=other.manifests)
        assert self.fails(request, swapped, ready) == "capsule.manifest-mismatch"

    def test_a_key_that_was_dropped_is_told(self, ready: Rig) -> None:
        request, answer = self.answer(ready)
        from mitai.channel import KeyRing

        with pytest.raises(MitaiError) as caught:
            request.open(protocol.encode(answer), KeyRing.generate())
        assert caught.value.code == "broker.key-rotated"


def test_the_broker_remembers_all_that_a_process_was_ever_given(ready: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = (ready.publish().capsule_id for _ in range(3))
    for asked in ((second,), (first, second), (second,)):
        ready.release(*asked)
    record = ready.broker.submit(Job(lambda draft: draft.get(Replica, ready.receipt_key.public.raw.hex()))).result()
    assert record.capsules == (second, first)
    monkeypatch.setattr("mitai.broker.release.MAX_REPLICA_CAPSULES", 2)
    with pytest.raises(BrokerError) as refused:
        ready.release(third)
    assert refused.value.code == "broker.too-many-capsules"
