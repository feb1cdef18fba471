"""Budgets of amounts, and the facts of a release that policies count and compare."""

from __future__ import annotations

import asyncio
import dataclasses
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from broker_rig import ALLOW_ALL, SERVE, Party, Rig
from mitai.attest import Policy
from mitai.attest.refvalues.release import Measurements, Release, sign_release
from mitai.attest.refvalues.trust import ReleaseTrust
from mitai.attest.sim import SimPlatform, reference_values
from mitai.broker import budgets, protocol
from mitai.broker.policy import Job, job_of
from mitai.broker.protocol import MAX_COUNT, Amounts, Budget
from mitai.broker.records import Capsule, Grant, pack, unpack
from mitai.broker.trusted import Trusted
from mitai.errors import DeniedError, MitaiError
from mitai.identity import Identity


def code_of(call: object, *arguments: object, **named: object) -> str:
    with pytest.raises(MitaiError) as caught:
        call(*arguments, **named)
    return caught.value.code


def train(rig: Rig, *capsules: str, **parameters: str) -> str:
    """Ask for a release; return the code of its refusal, or nothing."""
    try:
        rig.release(*capsules, purpose="training", parameters=parameters)
    except DeniedError as error:
        return error.code
    return ""


def spent(rig: Rig, capsule: str) -> Amounts:
    header = rig.alice.query(rig, f"/v1/capsules/{capsule}")
    view = protocol.decode(asyncio.run(rig.broker.capsule(capsule, header)), protocol.CapsuleView, 1 << 20)
    return Amounts() if view.grants[0].spent is msgspec.UNSET else view.grants[0].spent


# --- Budgets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("tokens", "broker.tokens-exhausted"),
        ("steps", "broker.steps-exhausted"),
        ("epsilon_micros", "broker.epsilon-exhausted"),
    ],
)
def test_an_amount_is_spent_to_its_end(ready: Rig, name: str, code: str) -> None:
    capsule = ready.publish(budget=Budget(amounts=Amounts(**{name: 10}))).capsule_id
    assert train(ready, capsule) == "broker.budget-undeclared"
    assert train(ready, capsule, **{name: "11"}) == code
    assert spent(ready, capsule) == Amounts()  # a refusal takes nothing
    assert train(ready, capsule, **{name: "7"}) == ""
    assert train(ready, capsule, **{name: "4"}) == code
    assert train(ready, capsule, **{name: "3"}) == ""
    assert train(ready, capsule, **{name: "1"}) == code
    assert getattr(spent(ready, capsule), name) == 10


def test_one_capsule_s_end_takes_nothing_of_another(ready: Rig) -> None:
    free, tight = ready.publish(), ready.publish(budget=Budget(amounts=Amounts(steps=1)))
    assert train(ready, free.capsule_id, tight.capsule_id, steps="2") == "broker.steps-exhausted"
    assert spent(ready, free.capsule_id) == Amounts()


def test_amounts_are_not_spent_twice_under_load_nor_won_back_by_a_restart(ready: Rig) -> None:
    capsule = ready.publish(budget=Budget(amounts=Amounts(steps=70))).capsule_id
    bodies = [ready.request(capsule, purpose="training", parameters={"steps": "10"}).body for _ in range(20)]

    async def all_at_once() -> list[object]:
        return await asyncio.gather(*(ready.broker.release(body) for body in bodies), return_exceptions=True)

    assert sum(isinstance(result, bytes) for result in asyncio.run(all_at_once())) == 7
    ready.reopen()
    assert spent(ready, capsule) == Amounts(steps=70)
    assert train(ready, capsule, steps="1") == "broker.steps-exhausted"


def test_a_new_policy_does_not_reset_what_was_spent(ready: Rig) -> None:
    capsule = ready.publish().capsule_id
    assert train(ready, capsule, tokens="60") == ""
    ready.send(ready.alice.policy(ready, capsule, budget=Budget(amounts=Amounts(tokens=100))))
    assert train(ready, capsule, tokens="41") == "broker.tokens-exhausted"
    assert train(ready, capsule, tokens="40") == ""


def test_what_was_spent_does_not_wrap() -> None:
    total = budgets.added(Amounts(tokens=MAX_COUNT), Amounts(tokens=MAX_COUNT))
    assert total == Amounts(tokens=MAX_COUNT)
    over = budgets.first_over(Amounts(tokens=MAX_COUNT), total, Amounts(tokens=1))
    assert over is not None
    assert over[0] == "broker.tokens-exhausted"


def test_limits_outside_their_range_are_refused() -> None:
    for wrong in (
        b'{"tokens":-1}',
        b'{"tokens":1.5}',
        b'{"tokens":"1"}',
        b'{"gpus":1}',
        b'{"tokens":9007199254740993}',
    ):
        assert code_of(protocol.decode, wrong, Amounts, 100) == "broker.malformed"


# --- Stored state ---------------------------------------------------------------------------------------------------

OLD_GRANT = {"party": "p", "policy_sha256": None, "version": 1, "budget": {"uses": 3, "not_after_s": None}, "uses": 2}
OLD = {
    "capsule": "c",
    "owner": "p",
    "manifest_sha256": "",
    "envelope_sha256": "",
    "envelope_bytes": 1,
    "data_key": b"",
    "registered_s": 1,
    "grants": [OLD_GRANT | {"revoked": False}],
    "recent": [],
}


def test_records_from_before_amounts_open() -> None:
    (grant,) = unpack(msgspec.msgpack.encode(OLD), Capsule).grants
    assert (grant.uses, grant.budget, grant.spent) == (2, Budget(uses=3), Amounts())


def test_a_budget_without_amounts_is_written_as_before() -> None:
    assert protocol.encode(Budget(uses=3)) == b'{"uses":3,"not_after_s":null}'


def test_records_of_a_later_version_are_not_read_without_their_limits() -> None:
    for change in ({"energy": 5}, {"budget": {"uses": 3, "energy": 5}}, {"spent": {"energy": 1}}):
        later = OLD | {"grants": [OLD_GRANT | change]}
        assert code_of(unpack, msgspec.msgpack.encode(later), Capsule) == "broker.state-version"


def test_amounts_survive_storage() -> None:
    grant = Grant("p", budget=Budget(amounts=Amounts(steps=5)), spent=Amounts(steps=2, tokens=0))
    capsule = Capsule("c", "p", "m", "e", 1, bytes(32), 1, (grant,))
    assert unpack(pack(capsule), Capsule) == capsule


# --- Parameters -----------------------------------------------------------------------------------------------------


def test_parameters_become_numbers_and_columns() -> None:
    job = job_of({"epochs": "3", "tokens": "0", "columns": "age,blood group", "columns.2": "sex,age", "method": "sft"})
    assert job == Job({"tokens": 0, "epochs": 3}, ("age", "blood group", "sex"))
    assert job.amounts == Amounts(tokens=0)
    assert job_of({"Epochs": "many"}) == Job()


@pytest.mark.parametrize(
    "parameters",
    [
        *(
            {"epochs": text}
            for text in ("", "-1", "+1", "1.0", "1e3", "01", " 1", "1\n", "1_0", "٣", "9007199254740993")
        ),
        *({"columns": text} for text in ("", "a,", ",a", "a,,b", "a, b", "a\nb", "a=b", "\x00")),
        {"columns": "a", "columns.0": "b"},
        {"columnsx": "a"},
        {"a=b": "c"},
    ],
)
def test_malformed_parameters_refuse_the_request(ready: Rig, parameters: dict[str, str]) -> None:
    assert train(ready, ready.publish().capsule_id, **parameters) == "broker.parameter-malformed"


@pytest.mark.parametrize(
    "condition",
    [
        "permit(principal, action, resource) when { context.job.epochs <= 3 };",
        ALLOW_ALL + "forbid(principal, action, resource) when { context.job.epochs > 3 };",
        ALLOW_ALL + "forbid(principal, action, resource) unless { context.job.epochs <= 3 };",
    ],
)
def test_what_is_not_declared_is_a_no_wherever_it_is_read(ready: Rig, condition: str) -> None:
    capsule = ready.publish(condition).capsule_id
    assert train(ready, capsule) == "broker.policy-denied"
    assert train(ready, capsule, epochs="4") == "broker.policy-denied"
    assert train(ready, capsule, epochs="3") == ""


def test_policies_see_what_was_spent(ready: Rig) -> None:
    capsule = ready.publish("permit(principal, action, resource) when { context.spent.steps < 5 };").capsule_id
    assert [train(ready, capsule, steps="3") for _ in range(3)] == ["", "", "broker.policy-denied"]


# --- Co-owners and other capsules -----------------------------------------------------------------------------------


def test_policies_see_the_other_capsules_and_all_owners(ready: Rig) -> None:
    bob = Party("bob")
    ready.register(bob)
    both = f'["{ready.alice.id}", "{bob.id}"]'
    together = f"permit(principal, action, resource) when {{ {both}.containsAll(context.owners) }};"
    with_bob = f'permit(principal, action, resource) when {{ context.owners.contains("{bob.id}") }};'
    first, second = ready.publish(together).capsule_id, ready.publish(with_bob).capsule_id
    bobs = ready.publish(owner=bob).capsule_id
    assert train(ready, first) == ""
    assert train(ready, second) == "broker.policy-denied"
    assert train(ready, first, second, bobs) == ""
    carol = Party("carol")
    ready.register(carol)
    assert train(ready, first, ready.publish(owner=carol).capsule_id) == "broker.policy-denied"
    pair = f'permit(principal, action, resource) when {{ context.capsules.contains("{bobs}") }};'
    third = ready.publish(pair).capsule_id
    assert (train(ready, third), train(ready, third, bobs)) == ("broker.policy-denied", "")


# --- Signed releases ------------------------------------------------------------------------------------------------

NOW = datetime.now(UTC).replace(microsecond=0)


def released(signer: Identity, version: int, **changes: object) -> bytes:
    measured = Measurements("tdx", dict(reference_values(SERVE).registers))
    return sign_release(Release("serve", version, NOW - timedelta(days=1), (measured,), **changes), signer)


def test_a_policy_can_name_the_release_and_its_publisher(tmp_path: Path, sim: SimPlatform) -> None:
    publisher = Identity.generate()
    paths = []
    for version in (11, 12):
        paths.append(tmp_path / f"serve-{version}.json")
        paths[-1].write_bytes(released(publisher, version))
    rig = Rig(tmp_path, sim)
    rig.close()
    rig.settings = dataclasses.replace(rig.settings, releases=tuple(paths))
    trust = ReleaseTrust("serve", key=publisher.public.raw.hex())
    rig.policy = Policy(allow_simulation=True, sim_roots=(sim.sim_root,), releases=(trust,))
    rig.open()
    try:
        rig.register()
        named = (
            f'context.release == {{name: "serve", version: 12, publisher: "key:{publisher.public.raw.hex()}"}} && '
            "context.release.version >= {}"
        )
        for least, code in ((12, ""), (13, "broker.policy-denied")):
            condition = named.replace("{}", str(least))
            capsule = rig.publish(f"permit(principal, action, resource) when {{ {condition} }};").capsule_id
            assert train(rig, capsule) == code
    finally:
        rig.close()


def test_without_a_release_a_policy_that_reads_it_says_no(ready: Rig) -> None:
    assert train(ready, ready.publish().capsule_id) == ""
    capsule = ready.publish("permit(principal, action, resource) when { context.release.version >= 0 };").capsule_id
    assert train(ready, capsule) == "broker.policy-denied"


def test_releases_of_strangers_and_ended_ones_count_for_nothing() -> None:
    publisher = Identity.generate()
    other = ReleaseTrust("serve", key=Identity.generate().public.raw.hex())
    policy = Policy(releases=(other, ReleaseTrust("serve", key=publisher.public.raw.hex())))
    assert code_of(Trusted.load, policy, [released(Identity.generate(), 1)], NOW) == "attest.release-signature-invalid"
    trusted = Trusted.load(policy, [released(publisher, 1, not_after=NOW + timedelta(hours=1))], NOW)
    assert len(trusted.policy_at(NOW).workloads) == 1
    assert trusted.policy_at(NOW + timedelta(hours=2)) == policy
