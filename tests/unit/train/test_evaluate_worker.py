"""Private evaluation both ways: a vendor's sealed model on a hospital's sealed records, in a worker of neither."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from train_platform import TRAIN, Stage, platform
from train_rig import MemorySource, lines, tiny_llama

from mitai.attest import ClaimRules
from mitai.broker.policy.templates import compose, template
from mitai.capsule import FolderStore, open_capsule
from mitai.client.exports import RecipientKey
from mitai.client.owner import Owner
from mitai.identity import PublicKey
from mitai.train.evaluate.board import BOARD_NAME, line_of, verify_board
from mitai.train.evaluate.report import REPORT_NAME, verify_report
from mitai.train.job import Job

SECRET = "patient zero"
EVALUATE = 'permit (principal == Workload::"train", action == Action::"evaluation", resource);'
JOB = """
[job]
name = "trial"
method = "evaluate"
model = "{model}"
data = ["{data}"]

[evaluate]
min_group = 5
resamples = 100
groups = {{ column = "site", labels = ["north", "south"] }}

[[evaluate.tasks]]
kind = "multiple-choice"
name = "triage"
prompt = "{{question}}"
choices = ["{{answer}}", "no"]
gold = "gold"

[[evaluate.tasks]]
kind = "pass-at-k"
name = "code"
prompt = "{{question}}"
tests = "assert f() == 1"
function = "f"
samples = 1
max_tokens = 2
"""


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory):
    with platform(tmp_path_factory.mktemp("evaluation"), queue=4) as stage:
        yield stage


def records() -> MemorySource:
    rows = [{"question": f"{SECRET} {n}", "answer": f"yes {n}", "gold": 0, "site": "north"} for n in range(6)]
    return lines([*rows, *({**row, "site": "south"} for row in rows)])


def values(stage: Stage) -> dict[str, str]:
    registers = next(each for each in stage.policy.workloads if each.name == "train").registers
    return {"workload": "train", "mrtd": registers["mrtd"], "min_group": "5", "until": "2100-01-01"}


def agreed_policy(stage: Stage, digest: str) -> str:
    """Return what a hospital would say: aggregates only, of this one evaluation."""
    return compose(template("evaluation-aggregate", **values(stage)), template("evaluation-agreed", evaluation=digest))


def delivered(stage: Stage, owner: Owner, report: str, name: str = REPORT_NAME) -> bytes:
    """Return the report as an owner gets it: exported to itself, by the policies and without a vote."""
    key = RecipientKey(bytes(32))
    recipient = key.recipient("me", owner.identity.public)
    request = owner.request_export(report, recipient, datetime.now(UTC) + timedelta(hours=1))
    exported = owner.collect_export(request, key)
    source = open_capsule(
        FolderStore(stage.root / "objects" / report),
        exported.envelope,
        exported.key.data_key,
        owner=PublicKey(exported.key.signer),
        kind="report",
    )
    assert source.names() == (name,)
    return source.read(name)


@pytest.mark.slow
def test_both_owners_get_the_same_numbers_and_nothing_else(stage: Stage) -> None:
    vendor, hospital = stage.party("vendor"), stage.party("hospital")
    agreed = Job.parse(JOB.format(model="m", data="d")).declared()["evaluation"]
    reports = template("report-release", **values(stage), owners=[vendor.identity.key_id, hospital.identity.key_id])
    model = stage.publish(vendor, tiny_llama(), "model", compose(EVALUATE, reports))
    data = stage.publish(hospital, records(), "dataset", compose(agreed_policy(stage, agreed), reports))
    done = stage.until(stage.submit(JOB.format(model=model, data=data)).json()["id"])
    assert (done["state"], done["kind"]) == ("done", "report"), done
    assert stage.logs(done["id"]) == []
    assert SECRET not in json.dumps(done)
    files = {delivered(stage, owner, done["capsule"]) for owner in (vendor, hospital)}
    assert len(files) == 1
    file = files.pop()
    assert SECRET.encode() not in file
    ledger = hospital.ledger.vkey  # as the policy that `mitai up` writes demands it
    pinned = msgspec.structs.replace(stage.policy, claims=ClaimRules(ledger_vkey=ledger))
    report, appraisal = verify_report(file, pinned)
    assert appraisal.simulated
    assert [(each.role, each.capsule) for each in report.inputs] == [("model", model), ("data", data)]
    assert report.measured.evaluation_sha256 == agreed
    told = {(r.task, n.metric, n.group, n.n) for r in report.measured.results for n in r.numbers}
    groups = (("", 12), ("north", 6), ("south", 6))
    metrics = (("triage", "acc"), ("triage", "acc_norm"), ("code", "pass@1"))
    assert told == {(task, metric, group, n) for task, metric in metrics for group, n in groups}
    for owner in (vendor, hospital):
        owner.close()


def test_another_evaluation_than_agreed_never_starts(stage: Stage) -> None:
    vendor, hospital = stage.party("vendor two"), stage.party("hospital two")
    model = stage.publish(vendor, tiny_llama(), "model", EVALUATE + TRAIN)
    agreed = Job.parse(JOB.format(model="m", data="d")).declared()["evaluation"]
    data = stage.publish(hospital, records(), "dataset", agreed_policy(stage, agreed))
    text = JOB.format(model=model, data=data)
    trained = text.split("[evaluate]", maxsplit=1)[0].replace('"evaluate"', '"sft"')
    for other in (text.replace("min_group = 5", "min_group = 4"), text.replace('"no"', '"yes"'), trained):
        refused = stage.until(stage.submit(other).json()["id"])
        assert refused["error"]["code"] == "broker.policy-denied", refused
    for owner in (vendor, hospital):
        owner.close()


BOARD = """
[job]
name = "board"
method = "leaderboard"

[leaderboard]
min_group = 5
reports = ["{reports}"]
evaluation = "{evaluation}"
numbers = [{{ task = "triage", metric = "acc" }}]
"""


@pytest.mark.slow
def test_a_worker_signs_a_leaderboard_of_two_vendors_and_no_owner_can_be_left_out(stage: Stage) -> None:
    measure = JOB.rpartition("[[evaluate.tasks]]")[0]
    vendors, hospital = [stage.party(f"vendor {n}") for n in "ab"], stage.party("hospital three")
    evaluation = Job.parse(measure.format(model="m", data="d")).declared()["evaluation"]
    draft = BOARD.format(reports='one", "two', evaluation=evaluation)
    agreed = template("leaderboard-agreed", leaderboard=Job.parse(draft).declared()["leaderboard"], reports=2)
    owners = [owner.identity.key_id for owner in (*vendors, hospital)]
    release = template("report-release", **values(stage), owners=owners)
    data = stage.publish(hospital, records(), "dataset", compose(agreed_policy(stage, evaluation), agreed, release))
    models = [stage.publish(each, tiny_llama(), "model", compose(EVALUATE, agreed, release)) for each in vendors]
    reports = []
    for model in models:
        done = stage.until(stage.submit(measure.format(model=model, data=data)).json()["id"])
        assert done["state"] == "done", done
        reports.append(done["capsule"])
    text = BOARD.format(reports='", "'.join(reports), evaluation=evaluation)

    made = stage.until(stage.submit(text).json()["id"])
    assert (made["state"], made["kind"]) == ("done", "report"), made
    files = {delivered(stage, owner, made["capsule"], BOARD_NAME) for owner in (*vendors, hospital)}
    assert len(files) == 1
    file = files.pop()
    board, appraisal = verify_board(file, stage.policy)
    assert appraisal.simulated
    assert sorted(each.capsule for each in board.reports) == sorted(reports)
    assert [each.capsule for each in board.data] == [data]
    mine = delivered(stage, vendors[0], reports[0])
    assert line_of(mine) in {each.line for each in board.lines}
    for model in models:
        assert model.encode() not in file

    other = text.replace('metric = "acc"', 'metric = "acc_norm"')  # no more is told than was agreed on
    refused = stage.until(stage.submit(other).json()["id"])
    assert refused["error"]["code"] == "broker.policy-denied", refused
    vendors[1].set_policy(models[1], EVALUATE + 'forbid (principal, action == Action::"evaluation", resource);')
    refused = stage.until(stage.submit(text).json()["id"])  # one of three says no
    assert refused["error"]["code"] == "broker.policy-denied", refused
    for owner in (*vendors, hospital):
        owner.close()
