"""The library of policies: what each template allows, and what it denies."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime

import pytest

from mitai.broker.policy import TEMPLATES, CedarEngine, Facts, ReleaseFact, job_of, template
from mitai.broker.policy.templates import compose, explanation, places
from mitai.errors import BrokerError

FACTS = Facts(
    workload="code",
    purpose="inference",
    time=datetime(2026, 1, 1, tzinfo=UTC),
    tee="tdx",
    simulated=False,
    measurements=(("mrtd", "00ff"),),
    tcb_status="UpToDate",
    advisory_ids=(),
    tcb_evaluation_number=17,
    release=ReleaseFact("code", 12, "key:aa"),
    capsules=("c",),
    owners=("alice", "bob"),
)
VALUES = {
    "workload": "code",
    "mrtd": "00ff",
    "until": "2026-06-01",
    "uses": 3,
    "publisher": "key:aa",
    "version": 12,
    "owners": ["alice", "bob"],
    "epochs": 3,
    "min_group": 20,
    "columns": ["age", "blood group"],
    "rows": 1000,
    "epsilon_micros": 1_500_000,
    "delta_nanos": 10,
    "tees": ["tdx", "snp"],
    "tcb_statuses": "UpToDate",
    "tcb_evaluation_number": 17,
    "evaluation": "ab" * 32,
    "leaderboard": "cd" * 32,
    "reports": 4,
    "auditor": "a1" * 32,
    "countries": ["DE", "FR"],
}
ALLOW = "permit (principal, action, resource);\n"
SFT = {"method": "sft", "epochs": "3"}
AGGREGATE = {"output": "aggregate", "min_group": "20"}
BOARD = {"method": "leaderboard", "leaderboard": "cd" * 32, "reports": "4"}
READ = {"columns": "blood group", "rows": "1000"}
DP = {"privacy": "dp-sgd", "epsilon_micros": "1500000", "delta_nanos": "10"}
LATER = datetime(2026, 6, 1, tzinfo=UTC)

# name, what a request that is allowed differs in from FACTS, and how each of some more is denied
CASES = {
    "inference-until": ({}, [{"purpose": "training"}, {"time": LATER}, {"workload": "x"}, {"measurements": ()}]),
    "inference-hardware-only": ({}, [{"simulated": True}, {"tcb_status": "OutOfDate"}, {"time": LATER}]),
    "inference-trial": ({}, [{"purpose": "export"}, {"time": LATER}, {"workload": "x"}]),
    "inference-release": (
        {"release": ReleaseFact("code", 13, "key:aa")},
        [
            {"release": None},
            {"release": ReleaseFact("code", 11, "key:aa")},
            {"release": ReleaseFact("code", 13, "key:bb")},
            {"release": ReleaseFact("other", 13, "key:aa")},
        ],
    ),
    "sft-parties": (
        {"purpose": "training", "parameters": SFT},
        [
            {"parameters": SFT | {"epochs": "4"}},
            {"parameters": {"method": "sft"}},
            {"parameters": SFT | {"method": "grpo"}},
            {"owners": ("alice", "mallory")},
            {"purpose": "inference"},
            {"time": LATER},
            {"measurements": (("mrtd", "00fe"),)},
        ],
    ),
    "evaluation-aggregate": (
        {"purpose": "evaluation", "parameters": AGGREGATE},
        [
            {"parameters": AGGREGATE | {"output": "rows"}},
            {"parameters": AGGREGATE | {"min_group": "19"}},
            {"parameters": {"output": "aggregate"}},
            {"purpose": "export"},
        ],
    ),
    "evaluation-agreed": (
        {"purpose": "evaluation", "parameters": AGGREGATE | {"evaluation": "ab" * 32}},
        [{"parameters": AGGREGATE}, {"parameters": AGGREGATE | {"evaluation": "ac" * 32}}],
    ),
    "columns-rows": (
        {"parameters": READ},
        [
            {"parameters": READ | {"columns": "age,name"}},
            {"parameters": READ | {"rows": "1001"}},
            {"parameters": {"rows": "1"}},
            {"parameters": {"columns": "age"}},
        ],
    ),
    "dp-training": (
        {"purpose": "training", "parameters": DP},
        [
            {"parameters": DP | {"epsilon_micros": "1500001"}},
            {"parameters": DP | {"delta_nanos": "11"}},
            {"parameters": {"epsilon_micros": "1", "delta_nanos": "1"}},
            {"parameters": {"privacy": "dp-sgd", "delta_nanos": "1"}},
        ],
    ),
    "only-tees": (
        {"tee": "snp"},
        [{"tee": "sgx"}, {"simulated": True}, {"tcb_status": "OutOfDate"}, {"tcb_evaluation_number": 16}],
    ),
    "expiring": ({}, [{"time": LATER}]),
    "residency": (
        {"residency": (f"{'a1' * 32}=FR", f"{'a1' * 32}=FR/hall 3")},
        [
            {"residency": residency}
            for residency in ((), (f"{'a1' * 32}=US",), (f"{'b2' * 32}=FR",), (f"{'a1' * 32}=US/FR",), ("FR",))
        ],
    ),
    "dpo-parties": (
        {"purpose": "training", "parameters": SFT | {"method": "dpo"}},
        [{"parameters": SFT}, {"parameters": {"method": "dpo"}}, {"owners": ("alice", "mallory")}],
    ),
    "adapter-inference": (
        {"kind": "adapter", "lineage": ("data",)},
        [
            {"lineage": ()},
            {"kind": "report"},
            {"purpose": "training"},
            {"owners": ("alice", "mallory")},
            {"measurements": (("mrtd", "00fe"),)},
            {"time": LATER},
        ],
    ),
    "transcript-check": (
        {"purpose": "evaluation", "parameters": {"method": "audit"}},
        [
            {"parameters": {"method": "evaluate"}},
            {"purpose": "training"},
            {"purpose": "export", "kind": "adapter"},
            {"purpose": "export", "kind": "report", "parameters": {"method": "evaluate"}},
            {"owners": ("alice", "mallory")},
            {"time": LATER},
        ],
    ),
    "leaderboard-agreed": (
        {"purpose": "evaluation", "parameters": BOARD},
        [
            {"parameters": BOARD | {"leaderboard": "ce" * 32}},
            {"parameters": BOARD | {"reports": "3"}},
            {"parameters": {"method": "leaderboard", "leaderboard": "cd" * 32}},
            {"parameters": {"method": "leaderboard", "reports": "4"}},
        ],
    ),
    "report-release": (
        {"purpose": "export", "kind": "report", "parameters": AGGREGATE},
        [
            {"kind": "adapter"},
            {"parameters": {"min_group": "19"}},
            {"parameters": {}},
            {"purpose": "inference"},
            {"owners": ("alice", "bob", "mallory")},
            {"workload": "x"},
            {"time": LATER},
        ],
    ),
}


def filled(name: str) -> str:
    return template(name, **{place: VALUES[place] for place in places(name)})


def decides(policy: str, changes: dict[str, object], uses: int = 0) -> bool:
    facts = dataclasses.replace(FACTS, **changes)
    facts = dataclasses.replace(facts, job=job_of(facts.parameters))
    return CedarEngine().compile(policy).allows(facts, "c", uses)


def test_a_verdict_leaves_by_the_policy_that_allowed_the_check() -> None:
    assert decides(
        filled("transcript-check"), {"purpose": "export", "kind": "report", "parameters": {"method": "audit"}}
    )


def test_what_is_agreed_of_leaderboards_limits_nothing_else() -> None:
    policy = compose(ALLOW, filled("leaderboard-agreed"))
    assert decides(policy, {"purpose": "evaluation", "parameters": {"method": "evaluate"}})
    assert decides(policy, {"purpose": "training", "parameters": SFT})


def test_every_template_is_tried() -> None:
    assert set(CASES) == set(TEMPLATES)


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_allows_and_denies(name: str) -> None:
    allowed, denied = CASES[name]
    text = filled(name)
    policy = text if "\npermit" in text else compose(ALLOW, text)
    assert decides(policy, allowed)
    for change in denied:
        assert not decides(policy, allowed | change), change


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_explains_itself(name: str) -> None:
    assert len(explanation(name)) > 60
    assert f'@id("{name}")' in TEMPLATES[name] or name == "inference-hardware-only"


def test_a_trial_ends_with_its_uses() -> None:
    assert decides(filled("inference-trial"), {}, uses=2)
    assert not decides(filled("inference-trial"), {}, uses=3)


def test_templates_compose() -> None:
    """What limits permits nothing; put together, every limit holds."""
    limits = [filled(name) for name in ("columns-rows", "only-tees", "expiring")]
    training = {"purpose": "training", "parameters": SFT | READ}
    assert not decides(compose(*limits), training)
    policy = compose(filled("sft-parties"), *limits)
    assert decides(policy, training)
    for change in ({"simulated": True}, {"parameters": SFT}, {"parameters": READ}, {"time": LATER}):
        assert not decides(policy, training | change)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("expiring", {}),
        ("expiring", {"until": '2026") || true //'}),
        ("expiring", {"until": "2026\n"}),
        ("expiring", {"until": ["2026-01-01"]}),
        ("inference-trial", {"workload": "x", "until": "2026-01-01", "uses": "3 || true"}),
        ("inference-trial", {"workload": "x", "until": "2026-01-01", "uses": -1}),
        ("columns-rows", {"columns": ['a"', "b"], "rows": 1}),
        ("residency", {"auditor": "a" * 63 + '"', "countries": "DE"}),
        ("residency", {"auditor": "a" * 63, "countries": "DE"}),
        ("residency", {"auditor": "A" * 64, "countries": "DE"}),
        ("residency", {"auditor": "a" * 64, "countries": ['DE"]) || true']}),
        ("residency", {"auditor": "a" * 64, "countries": "de"}),
        ("residency", {"auditor": "a" * 64, "countries": ["DE", " FR"]}),
        ("residency", {"auditor": ["a" * 64, "b" * 64], "countries": "DE"}),
        ("residency", {"auditor": "a" * 64}),
    ],
)
def test_templates_take_plain_values_only(name: str, values: dict[str, object]) -> None:
    with pytest.raises(BrokerError) as caught:
        template(name, **values)
    assert caught.value.code == "broker.template-value"
