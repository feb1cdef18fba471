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


def delivered(stage: Stage, owner: Owner, report: str) -> bytes:
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
    assert source.names() == (REPORT_NAME,)
    return source.read(REPORT_NAME)


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
