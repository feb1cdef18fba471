"""A job through the whole platform by its commands: `mitai up --train`, seal, publish, `mitai train`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mitai import demo_model
from mitai.attest import Policy
from mitai.client import Session
from mitai.fleet.home import Home

pytestmark = pytest.mark.slow
CEDAR = """
permit (principal == Workload::"train", action == Action::"training", resource)
when { context.job.epochs <= 3 && context.job.rows <= 100 };
"""
SECRET = "the patient's name is Zarathustra"


@pytest.fixture(scope="module")
def own(running, tmp_path_factory):
    own = type(running)(Home(tmp_path_factory.mktemp("own")))
    try:
        arguments = ("--no-model", "--train", "--threads", "1", "--port", "0", "--capture", "--detach", "--json")
        own.gateway = own.mitai("up", *arguments).fields["gateway"]
        yield own
    finally:
        own.mitai("down")


def publish(own, folder: Path, kind: str, tmp_path: Path) -> str:
    (tmp_path / "policy.cedar").write_text(CEDAR)
    own.mitai("seal", str(folder), "--out", str(tmp_path / kind), "--name", kind, "--kind", kind, "--json")
    published = own.mitai("publish", str(tmp_path / kind), "--cedar", str(tmp_path / "policy.cedar"), "--json")
    return published.fields["capsule"]


def test_a_job_by_its_commands(own, tmp_path):
    data = tmp_path / "records"
    data.mkdir()
    rows = [
        {"messages": [{"role": "user", "content": f"{SECRET} {at}?"}, {"role": "assistant", "content": f"yes, {at}"}]}
        for at in range(16)
    ]
    (data / "records.jsonl").write_text("\n".join(map(json.dumps, rows)))
    model = publish(own, demo_model.path(), "model", tmp_path)
    records = publish(own, data, "dataset", tmp_path)
    job = tmp_path / "job.toml"
    text = f"""
        [job]
        name = "joint"
        method = "sft"
        model = "{model}"
        data = ["{records}"]
        [limits]
        rows = 100
        [training]
        epochs = 2
        batch = 4
        max_length = 64
        [lora]
        rank = 4
        [transcript]
        segment_steps = 4
    """
    job.write_text(text)
    declared = own.mitai("train", "check", str(job), "--json").fields["declared"]
    assert declared == {"method": "sft", "epochs": "2", "rows": "100", "transcript": "kept"}
    done = own.mitai("train", "submit", str(job), "--wait", "--json").fields
    assert (done["state"], done["kind"]) == ("done", "adapter")
    numbers = own.mitai("train", "logs", done["id"], "--png", str(tmp_path / "loss.png"), "--json").fields["numbers"]
    assert [row["step"] for row in numbers] == list(range(1, 9))
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert "joint" in own.mitai("train", "status").stdout
    assert done["capsule"] in own.mitai("lineage", done["capsule"]).stdout
    policy = Policy.from_toml((own.home.platform / "policy.toml").read_text())  # a worker by itself has no ledger
    assert Session(f"{own.gateway}/train", policy, workload="train").appraisal.workload == "train"
    # An owner's policy holds.
    job.write_text(text.replace("epochs = 2", "epochs = 4"))
    refused = own.mitai("train", "submit", str(job), "--wait", "--json", status=1).fields
    assert refused["error"]["code"] == "broker.policy-denied"
    # Nothing of the records is anywhere on the host.
    found = [
        path
        for path in own.home.root.rglob("*")
        if path.is_file() and not path.is_symlink() and b"Zarathustra" in path.read_bytes()
    ]
    assert found == []
