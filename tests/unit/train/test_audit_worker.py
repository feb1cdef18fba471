"""A measured worker checks the transcript of a job over records that no single party may see."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from train_platform import TRAIN, Stage, platform
from train_rig import conversations, tiny_llama

from mitai.broker.policy.templates import compose, template
from mitai.capsule import FolderStore, open_capsule
from mitai.client.exports import RecipientKey
from mitai.identity import PublicKey
from mitai.train.transcript.audit import VERDICT

SFT = """
[job]
name = "joint"
method = "sft"
model = "{model}"
data = ["{data}"]

[training]
epochs = 2
batch = 4
max_length = 64

[lora]
rank = 2

[transcript]
"""
AUDIT = """
[job]
name = "check"
method = "audit"
model = "{model}"
data = ["{data}"]

[training]
epochs = 2

[audit]
output = "{output}"
share = 0.5
"""


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory):
    with platform(tmp_path_factory.mktemp("audit"), queue=4) as stage:
        yield stage


@pytest.mark.slow
def test_a_transcript_is_checked_over_sealed_inputs(stage: Stage) -> None:
    lab, clinic = stage.party("lab"), stage.party("clinic")
    mrtd = next(each for each in stage.policy.workloads if each.name == "train").registers["mrtd"]
    owners = [lab.identity.key_id, clinic.identity.key_id]
    check = template("transcript-check", workload="train", mrtd=mrtd, owners=owners, until="2100-01-01")
    model = stage.publish(lab, tiny_llama(), "model", compose(TRAIN, check))
    data = stage.publish(clinic, conversations(12), "dataset", compose(TRAIN, check))
    other = stage.publish(clinic, conversations(11), "dataset", compose(TRAIN, check))
    trained = stage.until(stage.submit(SFT.format(model=model, data=data)).json()["id"])
    assert trained["state"] == "done", trained

    audited = stage.until(stage.submit(AUDIT.format(model=model, data=data, output=trained["capsule"])).json()["id"])
    assert (audited["state"], audited["kind"]) == ("done", "report"), audited
    key = RecipientKey(bytes(32))
    recipient = key.recipient("clinic", clinic.identity.public)
    request = clinic.request_export(audited["capsule"], recipient, datetime.now(UTC) + timedelta(hours=1))
    exported = clinic.collect_export(request, key)  # nobody had to vote
    store = FolderStore(stage.root / "objects" / audited["capsule"])
    report = open_capsule(store, exported.envelope, exported.key.data_key, owner=PublicKey(exported.key.signer))
    assert report.names() == (VERDICT,)
    verdict = json.loads(report.read(VERDICT))
    assert verdict["output"]["capsule"] == trained["capsule"]
    assert verdict["distance"] == 0.0
    assert verdict["re_executed"] >= 1
    assert verdict["verdict"].startswith("The weights follow from the claimed data")

    forged = stage.until(stage.submit(AUDIT.format(model=model, data=other, output=trained["capsule"])).json()["id"])
    assert forged["state"] == "failed"
    assert forged["error"]["code"].startswith("train."), forged

    own = stage.publish(clinic, conversations(2), "adapter", compose(TRAIN, check))
    unmade = stage.until(stage.submit(AUDIT.format(model=model, data=data, output=own)).json()["id"])
    assert "no workload made this output" in unmade["error"]["message"], unmade
    for owner in (lab, clinic):
        owner.close()
