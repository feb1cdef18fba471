"""What a restarted worker still shows of the jobs before, and what it never writes down."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest

from mitai.attest import Policy
from mitai.attest.sim import SimPlatform, Workload
from mitai.errors import TrainError
from mitai.train import history
from mitai.train.config import Destination, SubmitRequest, TrainConfig
from mitai.train.worker import MAX_FINISHED, Jobs

SECRET = "an-upload-token"
JOB = '[job]\nname = "joint"\nmethod = "sft"\nmodel = "m"\ndata = ["d"]\n'
REQUEST = SubmitRequest(JOB, "http://127.0.0.1:1", "http://127.0.0.1:1", Destination("http://127.0.0.1:1", SECRET))


@pytest.fixture
def start(tmp_path: Path):
    """Start workers on one scratch folder, one after the other."""
    sim = SimPlatform.create(tmp_path / "sim")
    started = []

    def again() -> Jobs:
        config = TrainConfig(port=0, broker_policy="", scratch=str(tmp_path / "scratch"), sim=str(tmp_path / "sim"))
        started.append(Jobs(config, sim.attester(Workload("train", bytes(48))), Policy()))
        return started[-1]

    yield again
    for jobs in started:
        jobs.close()


def killed(jobs: Jobs) -> None:
    """Let go of the folder, as the kernel does when a worker is killed."""
    os.close(jobs._held)
    jobs._held = -1


def until(jobs: Jobs, run: str, state: str) -> None:
    ends = time.monotonic() + 30
    while jobs.find(run).state != state:
        assert time.monotonic() < ends
        time.sleep(0.005)


def test_a_restarted_worker_shows_what_ended_and_what_was_cut_off(start, tmp_path, monkeypatch):
    go_on = threading.Event()
    jobs = start()
    failed = jobs.submit(REQUEST).id  # there is no broker
    until(jobs, failed, "failed")
    monkeypatch.setattr(Jobs, "_do", lambda self, run, stack: go_on.wait(30))
    running = jobs.submit(REQUEST).id
    until(jobs, running, "running")
    waiting = jobs.submit(REQUEST).id
    killed(jobs)  # which wrote nothing more
    again = start()
    try:
        assert [each.id for each in again.all()] == [failed, running, waiting]
        assert again.find(failed).shown() == jobs.find(failed).shown()
        for cut in (running, waiting):
            told = again.find(cut).shown()
            assert (told["state"], told["name"], told["error"]["code"]) == ("failed", "joint", "train.worker-restarted")
            again.cancel(again.find(cut))
            assert again.find(cut).shown() == told
            assert again.find(cut).numbers == []
        file = (tmp_path / "scratch" / "jobs.json").read_text()
        assert SECRET not in file
        assert JOB not in file
        with pytest.raises(TrainError):
            again.find("0" * 16)
    finally:
        go_on.set()


def test_a_scratch_folder_has_one_worker(start, tmp_path):
    first = start()
    (tmp_path / "scratch" / "output").mkdir()
    with pytest.raises(TrainError) as refused:
        start()
    assert refused.value.code == "train.scratch-taken"
    assert (tmp_path / "scratch" / "output").exists()
    first.close()
    start()


def test_what_was_cancelled_stays_cancelled(start, monkeypatch):
    monkeypatch.setattr(Jobs, "_do", lambda self, run, stack: run.cancelled.wait(30))
    jobs = start()
    runs = [jobs.submit(REQUEST) for _ in range(2)]
    until(jobs, runs[0].id, "running")
    jobs.cancel(runs[1])
    killed(jobs)
    assert start().find(runs[1].id).state == "cancelled"


def past(number: int, **changes: object) -> dict[str, object]:
    fields = {"name": "n", "method": "sft", "job_sha256": "0" * 64, "state": "done", "step": "", "capsule": "c"}
    rest = {"kind": "adapter", "error": None, "newest": {"loss": 0.5}, "seconds": 1.5}
    return {"id": f"{number:016x}", **fields, **rest, **changes}


def test_the_newest_are_kept(start, tmp_path):
    history.keep(tmp_path / "scratch" / "jobs.json", [past(n) for n in range(MAX_FINISHED + 5)])
    jobs = start()
    assert [each.id for each in jobs.all()] == [f"{n:016x}" for n in range(5, MAX_FINISHED + 5)]
    assert jobs.find(f"{7:016x}").numbers == [{"loss": 0.5}]
    new = jobs.submit(REQUEST).id
    assert [each.id for each in jobs.all()][-2:] == [f"{MAX_FINISHED + 4:016x}", new]
    assert len(jobs.all()) == MAX_FINISHED


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"\xff",
        b"[" * 5000,
        json.dumps([past(1, state="forged")]).encode(),
        json.dumps([past(1, id="../x")]).encode(),
        json.dumps([past(1, more=1)]).encode(),
        json.dumps([past(1)]).encode() + b" " * (4 << 20),
    ],
)
def test_a_file_that_is_none_is_no_history(tmp_path, data):
    (tmp_path / "jobs.json").write_bytes(data)
    assert history.read(tmp_path / "jobs.json", 5) == {}


def test_a_history_that_can_not_be_written_costs_no_job(tmp_path):
    (tmp_path / "jobs.json").mkdir()
    history.keep(tmp_path / "jobs.json", [past(1)])
    assert history.read(tmp_path / "jobs.json", 5) == {}
