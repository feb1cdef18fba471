"""Two measured workers do one job: each proves itself to the broker and to the other."""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from train_platform import TRAIN, Stage, platform, served
from train_rig import conversations, tiny_llama

from mitai.attest.sim import SimPlatform, Workload
from mitai.train.app import Worker
from mitai.train.config import TrainConfig

SFT = """
[job]
name = "joint"
method = "sft"
model = "{model}"
data = ["{data}"]
[training]
epochs = {epochs}
batch = 4
learning_rate = 0.01
max_length = 48
[checkpoints]
every_steps = 2
"""
TWO = "[distributed]\nworkers = 2\n"


def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@dataclasses.dataclass
class Pair:
    """Two workers, and a job's capsules."""

    stages: tuple[Stage, Stage]
    about: dict[str, str]

    def job(self, epochs: int = 2, more: str = TWO) -> str:
        return SFT.format(epochs=epochs, **self.about) + more

    def submit(self, *jobs: str) -> list[str]:
        places = [{"rank": rank, "host": "127.0.0.1", "port": port()} for rank in range(2)]
        places[1]["port"] = places[0]["port"]
        answers = [stage.submit(job, place=place) for stage, job, place in zip(self.stages, jobs, places, strict=True)]
        return [answer.json()["id"] for answer in answers]

    def ended(self, ids: list[str]) -> list[dict[str, Any]]:
        return [stage.until(job) for stage, job in zip(self.stages, ids, strict=True)]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    root = tmp_path_factory.mktemp("two")
    with platform(root, queue=4, silence_s=20.0) as one:
        sim = SimPlatform.open(root / "sim")
        config = TrainConfig(
            port=0, broker_policy="", scratch=str(root / "other"), sim="", threads=1, renew_s=0.2, silence_s=20.0
        )
        worker = Worker(config, sim.attester(Workload("train", bytes(48))), one.policy)
        with served(worker.app()) as url:
            lab, clinic = one.party("lab"), one.party("clinic")
            about = {
                "model": one.publish(lab, tiny_llama(), "model", TRAIN),
                "data": one.publish(clinic, conversations(25), "dataset", TRAIN),
            }
            yield Pair((one, dataclasses.replace(one, url=url, worker=worker)), about)
            lab.close()
            clinic.close()


def test_a_job_of_two_workers(pair: Pair) -> None:
    one = pair.stages[0]
    leader, other = pair.ended(ids := pair.submit(pair.job(), pair.job()))
    assert (leader["state"], leader["kind"]) == ("done", "model"), leader
    assert (other["state"], other["capsule"]) == ("done", ""), other
    losses = [[each["loss"] for each in stage.logs(job)] for stage, job in zip(pair.stages, ids, strict=True)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 14
    assert [path.name for path in (one.root / "other").rglob("*") if path.is_file()] == ["jobs.json"]


@pytest.mark.slow
def test_a_killed_rank_ends_the_job_which_resumes(pair: Pair) -> None:
    one, two = pair.stages
    job = pair.job(epochs=8).replace('"joint"', '"killed"')
    first = pair.submit(job, job)
    two.until(first[1], ("running",), numbers=9)
    process = two.worker.jobs.find(first[1]).process
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    began = time.monotonic()
    leader, other = pair.ended(first)
    assert time.monotonic() - began < 10
    assert (leader["error"]["code"], other["error"]["code"]) == ("train.peer-gone", "train.process-died")
    again = pair.submit(job, job)
    assert [each["state"] for each in pair.ended(again)] == ["done", "done"]
    resumed = [stage.logs(number)[0]["step"] for stage, number in zip(pair.stages, again, strict=True)]
    assert resumed[0] == resumed[1] > 1
    losses = {each["step"]: each["loss"] for each in one.logs(first[0])}
    assert all(each["loss"] == losses.get(each["step"], each["loss"]) for each in one.logs(again[0]))


@pytest.mark.slow
def test_a_silent_rank_ends_the_job(pair: Pair) -> None:
    one, two = pair.stages
    ids = pair.submit(pair.job(epochs=900), pair.job(epochs=900))
    one.until(ids[0], ("running",), numbers=2)
    process = two.worker.jobs.find(ids[1]).process
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)
    began = time.monotonic()
    try:
        assert one.until(ids[0])["error"]["code"] == "train.peer-silent"
        assert time.monotonic() - began < 30
    finally:
        os.kill(process.pid, signal.SIGCONT)
    assert two.until(ids[1])["error"]["code"] == "train.peer-gone"


@pytest.mark.slow
def test_a_rank_of_another_job_is_refused_and_the_right_one_let_in(pair: Pair) -> None:
    one, two = pair.stages
    ids = pair.submit(job := pair.job(), pair.job(epochs=3))
    assert two.until(ids[1])["error"]["code"] == "train.peer-gone"
    assert one.status(ids[0])["state"] == "running"
    place = one.worker.jobs.find(ids[0]).request.place
    right = two.submit(job, place={"rank": 1, "host": place.host, "port": place.port}).json()["id"]
    assert [each["state"] for each in pair.ended([ids[0], right])] == ["done", "done"]


@pytest.mark.slow
def test_a_cancelled_rank_ends_the_job(pair: Pair) -> None:
    one, two = pair.stages
    ids = pair.submit(pair.job(epochs=900), pair.job(epochs=900))
    two.until(ids[1], ("running",), numbers=2)
    httpx2.post(f"{two.url}/control/jobs/{ids[1]}/cancel")
    assert [each["state"] for each in pair.ended(ids)] == ["failed", "cancelled"]
    alone = one.submit(pair.job(), place={"rank": 0, "host": "127.0.0.1", "port": port()}).json()["id"]
    one.until(alone, ("running",))
    httpx2.post(f"{one.url}/control/jobs/{alone}/cancel")  # while it waits for the other
    assert one.until(alone)["state"] == "cancelled"


def test_a_place_belongs_to_jobs_of_several_workers(pair: Pair) -> None:
    one = pair.stages[0]
    place = {"rank": 0, "host": "127.0.0.1", "port": 1}
    wrong = [(pair.job(), {}), (pair.job(more=""), {"place": place}), (pair.job(), {"place": place | {"rank": 2}})]
    for job, given in wrong:
        assert one.submit(job, **given).json()["code"] == "train.place"
    taken = one.until(one.submit(pair.job(), place=place | {"host": "192.0.2.1"}).json()["id"])
    assert taken["error"]["code"] == "train.link-address"
