"""What helps to write policies: mistakes found, decisions explained, two policies compared, cases tried."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from mitai.broker.policy import TEMPLATES, CedarEngine, template
from mitai.broker.policy.check import check, facts
from mitai.broker.policy.compare import compare, shown
from mitai.broker.policy.explain import describe, why
from mitai.broker.policy.request import Request, read, read_cases
from mitai.broker.policy.statements import Test as Comparison
from mitai.broker.policy.statements import pieces, statements
from mitai.broker.policy.templates import compose
from mitai.broker.policy.trustflow import convert
from mitai.errors import MitaiError, ParseError

NOW = datetime(2026, 1, 1, tzinfo=UTC)
VALUES = {"workload": "train", "mrtd": "00ff", "owners": ["a", "b"], "epochs": 3, "until": "2027-01-01"}
SFT = template("sft-parties", **VALUES)
GOOD = Request(
    workload="train",
    purpose="training",
    owners=("a",),
    measurements={"mrtd": "00ff"},
    parameters={"method": "sft", "epochs": 3},
)


def allow(condition: str) -> str:
    return f"permit (principal, action, resource) when {{ {condition} }};"


def changed(**changes: object) -> Request:
    fields = {name: getattr(GOOD, name) for name in GOOD.__struct_fields__}
    return Request(**(fields | changes))


# --- check ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "said", "suggestion"),
    [
        (allow("context.usess < 3"), 1, "no fact `context.usess`", "context.uses"),
        (allow("context.epochs < 3"), 1, "no fact `context.epochs`", "context.job.epochs"),
        (allow("true &&\n\n context.job.epoch < 3"), 3, "no fact `context.job.epoch`", "context.job.epochs"),
        (
            "// one\n" + SFT + '\nforbid (principal,\n action == Action::"trainin", resource);',
            20,
            "no purpose",
            "training",
        ),
        ('permit (principal == Wrkload::"x", action, resource);', 1, "no kind `Wrkload`", "Workload"),
        (SFT + "\n// more\n\npermit (principal, action, resource) when { true && };", 20, "unexpected token", ""),
        (allow('context.job.epochs < "3"'), 1, "expected Long but saw String", ""),
        ("", 1, "at least one `permit`", ""),
        ("permit (principal == ?principal, action, resource);", 1, "templates are not used", ""),
    ],
)
def test_mistakes_are_found_where_they_are(text: str, line: int, said: str, suggestion: str) -> None:
    finding = check(text)[0]
    assert (finding.level, finding.line) == ("error", line)
    assert said in finding.message
    assert suggestion in finding.suggestion
    assert bool(suggestion) == bool(finding.suggestion)


def test_what_is_valid_and_odd_is_said() -> None:
    assert check(SFT) == []
    assert [each.words for each in check("forbid (principal, action, resource);")] == [
        "line 1: it permits nothing: put it together with a `permit`"
    ]
    found = [each.message for each in check("permit (principal, action, resource);")]
    assert [each.rpartition(" permits ")[2] for each in found] == [
        "every workload, whatever its code",
        "every purpose, export among them",
    ]
    assert len(check(allow('context.measurements.contains("mrtd=00")'))) == 1


def test_every_fact_of_the_schema_is_one_that_policies_can_ask() -> None:
    engine = CedarEngine()
    assert len(facts()) > 20
    for fact in facts():
        engine.compile(allow(f"{fact} == {fact}"))


def test_statements_are_told_apart_by_what_cedar_sees() -> None:
    named = '// a; b\n@id("x;y") permit (principal, action, resource);\n'
    text = named + "\n// c;\nforbid (principal, action, resource);\n// end"
    assert [line for line, _ in pieces(text)] == [2, 5]
    assert [(one.name, one.line) for one in statements(text)] == [("x;y", 2), ("statement 2 (line 5)", 5)]


def test_what_can_t_be_taken_apart_is_said() -> None:
    long = allow(" && ".join(["true"] * 2000))
    CedarEngine().compile(long)
    with pytest.raises(MitaiError) as caught:
        statements(long)
    assert caught.value.code == "broker.policy-opaque"
    assert "can't be taken apart" in check(long)[0].message


# --- explain --------------------------------------------------------------------------------------------------------


def test_templates_are_described() -> None:
    told = "\n".join(describe(SFT))
    assert "PERMIT sft-parties: workload train, for training, with any capsule, if all of these hold:" in told
    assert "  - context.owners holds nothing but a, b" in told
    assert "  - context.job.epochs is at most 3" in told
    assert "Everything else is denied" in told
    limits = template("columns-rows", columns=["age"], rows=5)
    assert "if any of these does not hold:\n  - context.job.columns holds nothing but age" in "\n".join(
        describe(limits)
    )
    unless = "unless { context.uses < 1 || context.uses > 5 }"
    both = f"forbid (principal, action, resource) when {{ context.simulated }} {unless};"
    assert (
        "  - context.simulated is true\n  - and not: context.uses is below 1 or context.uses is above 5"
        in describe(both)[0]
    )
    none = 'permit (principal is Workload, action in [Action::"training", Action::"export"], resource == Capsule::"c");'
    assert describe(none)[0].endswith("any workload, for training or export, with capsule c, without any condition")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"purpose": "export"}, "it is for the purpose training, not for export"),
        ({"workload": "serve"}, "it is for the workload train, not for serve"),
        ({"parameters": {"method": "sft", "epochs": 4}}, "context.job.epochs is at most 3, but it is 4"),
        ({"parameters": {"method": "sft"}}, "does not hold what this asks for: context.job.epochs is at most 3"),
        ({"owners": ("a", "c")}, "context.owners holds nothing but a, b, but it is a, c"),
        ({"measurements": {}}, "context.measurements contains mrtd=00ff, but it is nothing"),
        ({"time": datetime(2027, 1, 1, tzinfo=UTC)}, "context.time is before 2027-01-01, but it is 2027-01-01"),
        ({"parameters": {"epochs": "three"}}, "the parameter 'epochs' is a number in decimal digits"),
    ],
)
def test_a_denial_says_why(changes: dict[str, object], said: str) -> None:
    assert why(SFT, GOOD, NOW).allowed
    explained = why(SFT, changed(**changes), NOW)
    assert not explained.allowed
    assert any(said in line for line in explained.lines)


def test_a_forbid_says_what_it_met() -> None:
    text = compose(SFT, '@id("no-sim") forbid (principal, action, resource) when { context.simulated };')
    told = why(text, changed(simulated=True), NOW)
    assert told.lines[0] == "forbid no-sim forbids: context.simulated is true"
    assert why(text, GOOD, NOW).lines == ("permit sft-parties permits", "forbid no-sim does not apply")
    limited = compose(SFT, template("columns-rows", columns=["age"], rows=5))
    read_names = changed(parameters={"method": "sft", "epochs": 1, "columns": "name", "rows": 5})
    assert why(limited, read_names, NOW).lines[0].endswith("context.job.columns holds nothing but age, but it is name")
    unless = 'permit (principal, action, resource) unless { context.simulated || context.tee == "sgx" };'
    assert "context.simulated is not true, but it is true" in why(unless, changed(simulated=True), NOW).lines[0]


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("3 > context.uses", "context.uses is below 3"),
        ("!(context.uses >= 3)", "context.uses is below 3"),
        ('context.tee != "sgx"', "context.tee is not sgx"),
        ('["tdx"].contains(context.tee)', "context.tee is one of tdx"),
        ('!context.advisory_ids.contains("X")', "context.advisory_ids does not contain X"),
        ("context.lineage.isEmpty()", "context.lineage is empty"),
        ("!context.lineage.isEmpty()", "context.lineage is not empty"),
        ('context.time >= datetime("2026-01-02T03:04:05Z")', "context.time is not before 2026-01-02T03:04:05Z"),
        ('context.advisory_ids.containsAny(["X", "Y"])', "context.advisory_ids contains one of X, Y"),
        ('!context.advisory_ids.containsAny(["X"])', '!((context.advisory_ids).containsAny(["X"]))'),
        ("context.uses == context.spent.steps", "(context.uses) == ((context.spent).steps)"),
        ('![ "a" ].contains(context.tee)', '!(["a"].contains(context.tee))'),
    ],
)
def test_conditions_in_words(condition: str, words: str) -> None:
    assert statements(allow(condition))[0].requirements[0].words == words


@pytest.mark.parametrize("value", [3, "x", True, datetime(2026, 1, 1, tzinfo=UTC)])
def test_the_first_value_of_interest_satisfies(value: object) -> None:
    for operator in ("==", "!=", *(() if isinstance(value, str | bool) else ("<", "<=", ">", ">="))):
        first = Comparison("f", operator, value).values()[0]
        assert eval("a " + operator + " b", {"a": first, "b": value})


# --- requests and cases ---------------------------------------------------------------------------------------------


def test_the_documented_request_and_cases_are_some(pytestconfig: pytest.Config) -> None:
    page = (pytestconfig.rootpath / "docs" / "spec" / "policies.md").read_text()
    request, cases = (block.split("```")[0] for block in page.split("```toml\n")[1:3])
    assert read(request).purpose == "training"
    assert len(read_cases(cases).all()) == 2


@pytest.mark.parametrize(
    "text",
    [
        "surprise = 1",
        "uses = -1",
        "uses = 'x'",
        "nonsense",
        "release = {name = 'x'}",
        "parameters = [1]",
        "#" * (2 << 20),
    ],
)
def test_malformed_requests_are_refused(text: str) -> None:
    with pytest.raises(ParseError) as caught:
        read(text)
    assert caught.value.code == "broker.request-malformed"


# --- compare --------------------------------------------------------------------------------------------------------


def test_a_policy_does_not_differ_from_itself() -> None:
    found = compare(SFT, SFT + "// the same\n", NOW)
    assert found.changes == ()
    assert found.allowed_before == found.allowed_after > 0


def test_what_is_tightened_and_widened_is_found() -> None:
    tighter = compare(SFT, template("sft-parties", **(VALUES | {"epochs": 2})), NOW)
    assert {(each.before, each.after) for each in tighter.changes} == {(True, False)}
    assert all(shown(each.request)["parameters"]["epochs"] == "3" for each in tighter.changes)
    wider = compare(SFT, template("sft-parties", **(VALUES | {"owners": ["a", "b", "c"]})), NOW)
    assert {(each.before, each.after) for each in wider.changes} == {(False, True)}


@pytest.mark.parametrize(
    "change",
    [
        "forbid (principal, action, resource) when { context.simulated };",
        'forbid (principal, action, resource) when { context.uses > 7 || context.tcb_status != "UpToDate" };',
        "forbid (principal, action, resource) unless { context.spent.tokens < 5 };",
        'forbid (principal, action, resource) when { context.capsules.contains("x") };',
        'forbid (principal, action == Action::"training", resource);',
        'forbid (principal, action, resource) unless { ["age"].containsAll(context.job.columns) };',
        'permit (principal == Workload::"other", action, resource);',
        "permit (principal, action, resource) when { context.release.version > 3 };",
        "permit (principal, action, resource) when { context.tcb_evaluation_number > 3 };",
    ],
)
def test_an_added_statement_is_found(change: str) -> None:
    assert compare(SFT, compose(SFT, change), NOW).changes


# --- TrustFlow ------------------------------------------------------------------------------------------------------

ENCLAVE = "ab" * 32
PARTIES = {"bob": "b0b", "carol": "ca01"}


def trustflow(**changes: object) -> bytes:
    rule = {
        "rule_id": "r1",
        "grantee_party_ids": ["bob", "carol"],
        "columns": ["f1", "f2"],
        "op_constraints": [
            {"op_name": "OP_XGB", "constraints": []},
            {"op_name": "OP_LR", "constraints": ['r.op.params.reg_type=="logistic"', "r.op.params.epochs<=3"]},
        ],
        "global_constraints": ['r.env.tee.platform=="sgx"', f'r.env.tee.sgx.mr_enclave=="{ENCLAVE}"'],
    }
    return json.dumps({"data_uuid": "data one", "rules": [rule | changes]}).encode()


def imported(data: bytes) -> str:
    return convert(data, parties=PARTIES, owner="0wner", workload="train")


def test_a_trustflow_policy_decides_as_it_says() -> None:
    text = imported(trustflow())
    good = Request(
        workload="train",
        purpose="training",
        owners=("0wner", "b0b"),
        tee="sgx",
        measurements={"mrenclave": ENCLAVE},
        parameters={"op": "OP_LR", "reg_type": "logistic", "epochs": 3, "columns": "f1"},
    )
    fields = {name: getattr(good, name) for name in good.__struct_fields__}

    def decided(**changes: object) -> bool:
        return Request(**(fields | changes)).ask(CedarEngine().compile(text), NOW).allowed

    assert decided()
    assert decided(owners=("0wner", "ca01"), parameters={**good.parameters, "op": "OP_XGB", "reg_type": "linear"})
    for changes in (
        {"owners": ("0wner", "mallory")},
        {"parameters": {**good.parameters, "op": "OP_PSI"}},
        {"parameters": {**good.parameters, "columns": "f1,f3"}},
        {"parameters": {**good.parameters, "epochs": 4}},
        {"parameters": {**good.parameters, "reg_type": "linear"}},
        {"simulated": True},
        {"tee": "tdx"},
        {"measurements": {}},
        {"purpose": "export"},
    ):
        assert not decided(**changes), changes


@pytest.mark.parametrize(
    ("constraint", "cedar"),
    [
        ('r.env.tee.platform=="sim"', "context.simulated"),
        ('r.env.tee.platform != "sim"', "!context.simulated"),
        ('r.execution_time<="2023-10-01 23:59:59"', 'context.time <= datetime("2023-10-01T23:59:59Z")'),
        (f'r.env.tee.sgx.mr_signer=="{ENCLAVE.upper()}"', f'context.measurements.contains("mrsigner={ENCLAVE}")'),
    ],
)
def test_trustflow_constraints(constraint: str, cedar: str) -> None:
    assert cedar in imported(trustflow(global_constraints=[constraint]))


def test_any_operator_and_any_column() -> None:
    text = imported(trustflow(columns=["*"], op_constraints=[{"op_name": "*"}]))
    assert "columns" not in text
    assert "op=" not in text


@pytest.mark.parametrize(
    "changes",
    [
        {"grantee_party_ids": ["dave"]},
        {"grantee_party_ids": []},
        {"columns": []},
        {"op_constraints": []},
        {"op_constraints": [{"op_name": "*"}, {"op_name": "OP_LR", "constraints": ["r.op.params.epochs<=3"]}]},
        *(
            {"global_constraints": [text]}
            for text in (
                "true",
                'r.env.tee.platform=="sgx" || true',
                'r.env.tee.platform=="sev"',
                'r.env.tee.sgx.mr_enclave=="00"',
                f'r.env.tee.sgx.mr_enclave!="{ENCLAVE}"',
                'r.execution_time<="tomorrow"',
                'r.op.params.reg_type=="logistic"',
                'r.scope=="x"',
                "",
            )
        ),
        {"op_constraints": [{"op_name": "OP_LR", "constraints": ["r.op.params.trees<=3"]}]},
    ],
)
def test_what_trustflow_says_and_we_can_t_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ParseError) as caught:
        imported(trustflow(**changes))
    assert caught.value.code == "broker.trustflow-unsupported"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"data_uuid":"d","rules":[]}',
        trustflow(surprise=1),
        trustflow(rule_id=1),
        trustflow(grantee_party_ids=['bob"']),
        trustflow(op_constraints=[{"op_name": "x", "also": 1}]),
        b"[" * 100_000,
    ],
)
def test_what_is_no_trustflow_policy_is_refused(data: bytes) -> None:
    with pytest.raises(ParseError) as caught:
        imported(data)
    assert caught.value.code == "broker.trustflow-malformed"


def test_a_trustflow_grant_to_the_owner_or_of_strange_names_is_refused() -> None:
    for named in ({"owner": "b0b"}, {"workload": 'x"'}, {"purpose": "a\nb"}):
        with pytest.raises(ParseError):
            convert(trustflow(), **({"parties": PARTIES, "owner": "o", "workload": "train"} | named))
    with pytest.raises(ParseError):
        convert(b" " * (2 << 20), parties=PARTIES, owner="o", workload="train")


def test_every_operator_of_a_repeated_one_is_kept() -> None:
    """TrustFlow asks all constraints of an operator that is named twice; two permits would ask either."""
    twice = [{"op_name": "OP", "constraints": [f"r.op.params.{name}<=3"]} for name in ("epochs", "steps")]
    text = imported(trustflow(op_constraints=twice))
    assert text.count("permit (") == 1
    assert "epochs <= 3" in text
    assert "steps <= 3" in text


def test_the_library_is_described_without_cedar_s_own_spelling() -> None:
    values = VALUES | {
        "uses": 3,
        "publisher": "key:00",
        "version": 1,
        "min_group": 5,
        "reports": 4,
        "leaderboard": "cd" * 32,
        "columns": ["a"],
        "rows": 3,
    }
    values |= {
        "epsilon_micros": 1,
        "delta_nanos": 1,
        "tees": ["tdx"],
        "tcb_statuses": ["x"],
        "tcb_evaluation_number": 1,
        "evaluation": "00",
        "auditor": "a1" * 32,
        "countries": ["DE"],
    }
    for name in TEMPLATES:
        assert "((" not in "\n".join(describe(template(name, **values)))


def test_a_policy_about_what_is_derived_is_told_from_one_about_everything() -> None:
    derived = "permit(principal, action, resource) when { !context.lineage.isEmpty() };"
    difference = compare(derived, "permit(principal, action, resource);", datetime.now(UTC))
    assert any(not change.request.lineage for change in difference.changes)
    assert compare(derived, derived, datetime.now(UTC)).changes == ()
