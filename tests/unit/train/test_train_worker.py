"""A worker runs a job between three owners: keys, lease, process, sealed output, and every way in which it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace

import httpx2
import pytest
from train_platform import TRAIN, Stage, platform
from train_rig import MemorySource, conversations, tiny_llama

from mitai.attest import verify
from mitai.attest.evidence import Evidence
from mitai.broker.lease_client import boot_clock
from mitai.client.owner import Owner
from mitai.errors import TrainError
from mitai.train.checkpoints import KEY_LABEL
from mitai.train.job import Job
from mitai.train.relay import TO_WORKER, Failed, Numbers, Order, Relay, SealingKey
from mitai.train.worker import Jobs, Run

SECRET = "patient zero"


@dataclass
class Scene:
    """A lab with a model, two hospitals with records."""

    stage: Stage
    owners: tuple[Owner, Owner, Owner]
    model: str
    data: tuple[str, str]

    def job(self, more: str = "", **changes: str) -> str:
        about = {"name": "joint", "method": "sft", "model": self.model} | changes
        lines = [f'{name} = "{value}"' for name, value in about.items()]
        return "\n".join(["[job]", *lines, f"data = {json.dumps(self.data)}", "[lora]", "rank = 2", more])


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory):
    with platform(tmp_path_factory.mktemp("platform"), queue=1) as stage:
        lab, one, two = (stage.party(name) for name in ("lab", "one", "two"))
        model = stage.publish(lab, tiny_llama(), "model")
        rows = json.dumps({"messages": [{"role": "user", "content": SECRET}, {"role": "assistant", "content": "!"}]})
        first = stage.publish(one, MemorySource({"a.jsonl": rows.encode()}), "dataset")
        second = stage.publish(two, conversations(40), "data")
        yield Scene(stage, (lab, one, two), model, (first, second))
        for owner in (lab, one, two):
            owner.close()


SLOW_JOB = "[training]\nbatch = 1\nepochs = 1000\nmax_length = 32\n[checkpoints]\nevery_steps = 2\n"


@pytest.mark.slow
def test_a_joint_adapter_belongs_to_all(scene: Scene) -> None:
    stage = scene.stage
    tables = "[training]\nepochs = 2\nmax_length = 64\n[checkpoints]\nevery_steps = 2\n[transcript]\nsegment_steps = 4"
    answer = stage.submit(scene.job(tables))
    assert answer.status_code == 202, answer.text
    done = stage.until(answer.json()["id"])
    assert (done["state"], done["kind"]) == ("done", "adapter"), done
    assert [each["step"] for each in stage.logs(done["id"])] == list(range(1, 13))  # 41 rows, 8 at a time, twice
    for owner in scene.owners:
        lineage = owner.lineage(done["capsule"])
        assert set(scene.data) | {scene.model} <= set(str(lineage).replace("'", " ").split())
        assert done["capsule"] in owner.capsules()
        assert all(name in str(lineage) for name in ("metrics.json", "transcript.json"))
    stored = {path.name for path in (stage.root / "objects" / done["capsule"]).iterdir()}
    assert "manifest.json" in stored
    left = [path for path in (stage.root / "scratch").rglob("*") if path.is_file()]
    assert [path.name for path in left] == ["jobs.json"]  # checkpoints and the sealed folder are gone


def test_owners_policies_bind_a_job_before_it_starts(scene: Scene) -> None:
    owner = scene.owners[1]
    owner.set_policy(scene.data[0], TRAIN.replace(";", " when { context.job.epochs <= 3 };"))
    try:
        refused = scene.stage.until(scene.stage.submit(scene.job("[training]\nepochs = 4")).json()["id"])
    finally:
        owner.set_policy(scene.data[0], TRAIN)
    assert refused["state"] == "failed"
    assert refused["error"]["code"] == "broker.policy-denied"
    assert scene.stage.logs(refused["id"]) == []


def test_what_a_host_may_not_submit(scene: Scene) -> None:
    submit = scene.stage.submit
    assert submit("[job]\nname = 1").json()["code"] == "train.job-malformed"
    assert submit(scene.job("trust_remote_code = true")).json()["code"] == "train.job-malformed"
    assert submit(scene.job(), plugins=["x"]).json()["code"] == "train.control-malformed"
    assert submit("x" * 70000).status_code == 400
    assert submit("x" * 300000).status_code == 413
    assert httpx2.get(f"{scene.stage.url}/control/jobs/none").status_code == 404
    assert httpx2.post(f"{scene.stage.url}/control/jobs/none/cancel").status_code == 404
    assert httpx2.get(f"{scene.stage.url}/control/jobs/none/logs?after=x").status_code == 400


def test_a_model_is_no_data(scene: Scene) -> None:
    job = scene.job().replace(json.dumps(scene.data), json.dumps(scene.data[:1])).replace(scene.model, scene.data[1])
    failed = scene.stage.until(scene.stage.submit(job).json()["id"])
    assert failed["error"]["code"] == "train.kind"


def test_cancelling_and_the_queue(scene: Scene) -> None:
    stage = scene.stage
    running = stage.submit(scene.job(SLOW_JOB)).json()["id"]
    stage.until(running, ("running",))
    waiting = stage.submit(scene.job(SLOW_JOB)).json()["id"]
    assert stage.submit(scene.job(SLOW_JOB)).json()["id"]  # the queue holds one beside the next
    full = stage.submit(scene.job(SLOW_JOB))
    assert (full.status_code, full.json()["code"]) == (429, "train.queue-full")
    for job in (*(each["id"] for each in httpx2.get(f"{stage.url}/control/jobs").json()["jobs"]), waiting):
        if stage.status(job)["state"] in {"queued", "running"}:
            httpx2.post(f"{stage.url}/control/jobs/{job}/cancel")
    assert {stage.until(job)["state"] for job in (running, waiting)} == {"cancelled"}


@pytest.mark.slow
def test_a_killed_process_loses_a_step_at_most_and_not_the_worker(scene: Scene) -> None:
    stage, job = scene.stage, scene.job(SLOW_JOB.replace("1000", "1") + "[limits]\nsteps = 30\n")
    first = stage.submit(job).json()["id"]
    stage.until(first, ("running",), numbers=9)
    process = stage.worker.jobs.find(first).process
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    assert stage.until(first)["error"]["code"] == "train.process-died"
    again = stage.submit(job).json()["id"]
    assert stage.until(again)["state"] == "done"
    steps = [each["step"] for each in stage.logs(again)]
    assert steps[-1] == 30
    assert stage.logs(first)[-1]["step"] - 4 <= steps[0] <= stage.logs(first)[-1]["step"] + 1
    losses = {each["step"]: each["loss"] for each in stage.logs(first) + stage.logs(again)}
    whole = stage.submit(job.replace('"joint"', '"whole"')).json()["id"]
    assert stage.until(whole)["state"] == "done"
    assert {each["step"]: each["loss"] for each in stage.logs(whole)} == losses


def test_evidence_of_the_worker(scene: Scene) -> None:
    nonce = os.urandom(32)
    answer = httpx2.get(f"{scene.stage.url}/.well-known/mitai/evidence?nonce={nonce.hex()}")
    import datetime

    appraisal = verify(
        Evidence.decode(answer.content), scene.stage.policy, nonce=nonce, now=datetime.datetime.now(datetime.UTC)
    )
    assert appraisal.workload == "train"
    assert "broker_policy_sha256" in appraisal.claims.extra


TRIES = """
import os, socket, sys
sys.path[:] = {path!r}
from mitai.train import child
from mitai.train.relay import Numbers
def tried(order, relay):
    found = {{"environment": float(len(set(os.environ) - {{"PATH", "LANG", "LC_CTYPE"}}))}}
    for family in ("AF_INET", "AF_INET6", "AF_NETLINK", "AF_PACKET", "AF_VSOCK"):
        try:
            socket.socket(getattr(socket, family), socket.SOCK_STREAM)
            found[family] = 1.0
        except OSError as error:
            found[family] = 0.0
    print("a secret"); print("a secret", file=sys.stderr); os.write(2, b"a secret"); os.write(1, b"a secret")
    paths = (f"/proc/self/fd/{{number}}" for number in range(64))
    found["links"] = float(sum(os.readlink(path).startswith("socket:") for path in paths if os.path.lexists(path)))
    relay.send(Numbers(found))
    raise ValueError("a secret")
child._work = tried
child.main()
"""


def test_the_jobs_process_has_no_network_and_no_voice() -> None:
    ours, theirs = Relay.pair()
    with ours, theirs:
        boot = TRIES.format(path=sys.path)
        process = subprocess.Popen(
            [sys.executable, "-I", "-c", boot],
            stdin=theirs.fileno(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={"PATH": "/usr/bin", "LANG": "C.UTF-8"},
        )
        theirs.close()
        relay = Relay(ours)
        relay.send(Order("", (), b"", (), "", "", 0))
        numbers = relay.receive(TO_WORKER)
        assert isinstance(numbers, Numbers)
        assert set(numbers.values.values()) == {0.0, 1.0}
        assert numbers.values.pop("links") == 1.0  # the one to the worker
        assert set(numbers.values.values()) == {0.0}
        failed = relay.receive(TO_WORKER)
        assert isinstance(failed, Failed)
        assert (failed.code, "secret" in failed.message) == ("train.internal", False)
        printed = process.communicate(timeout=30)[0]
    assert b"secret" not in printed


def test_a_jobs_process_is_given_the_key_of_its_own_checkpoints_and_no_other(scene: Scene) -> None:
    """What a model makes of the code that reads it must not open the checkpoints of others that lie beside."""
    jobs = scene.stage.worker.jobs
    run = Run("id", Job.parse(scene.job()), None, sealing_label=KEY_LABEL + bytes(32))
    assert jobs._told(run, SealingKey(KEY_LABEL + bytes(32)), {}).data
    for label in (KEY_LABEL + bytes([1]) * 32, KEY_LABEL, b"", b"mitai broker root v1"):
        assert isinstance(jobs._told(run, SealingKey(label), {}), Failed)
    assert isinstance(jobs._told(replace(run, sealing_label=b""), SealingKey(KEY_LABEL + bytes(32)), {}), Failed)


def test_a_release_that_was_held_back_gives_no_longer_lease(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, float] = {}

    def lease(*_, asked: float, **__):
        told["lease"] = asked
        raise TrainError("train.cancelled", "enough seen")

    plain = Jobs._release

    def release(self, *given):
        told["asked"] = boot_clock()
        return plain(self, *given)

    monkeypatch.setattr(Jobs, "_release", release)
    monkeypatch.setattr("mitai.train.worker.Lease", lease)
    scene.stage.until(scene.stage.submit(scene.job()).json()["id"])
    assert told["lease"] <= told["asked"]


@pytest.mark.slow
def test_a_revocation_stops_training_within_seconds(scene: Scene) -> None:  # the last one: it is for good
    stage = scene.stage
    job = stage.submit(scene.job(SLOW_JOB)).json()["id"]
    stage.until(job, ("running",), numbers=3)
    process = stage.worker.jobs.find(job).process
    scene.owners[2].revoke(scene.data[1])
    revoked = time.monotonic()
    failed = stage.until(job)
    assert time.monotonic() - revoked < 3
    assert failed["error"]["code"] == "train.withdrawn"
    assert "broker.revoked" in failed["error"]["message"]
    assert process is not None
    assert process.poll() == -signal.SIGKILL
    refused = stage.until(stage.submit(scene.job(SLOW_JOB)).json()["id"])
    assert refused["error"]["code"] == "broker.revoked"
