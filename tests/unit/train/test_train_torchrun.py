"""torchrun starts the workers of a job; what it says of them is checked, and what they compute is what one computes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from train_platform import TOKEN, TRAIN, Stage, platform, served
from train_rig import conversations, tiny_llama

from mitai.attest.sim import SimPlatform, installed_workload
from mitai.errors import TrainError
from mitai.fleet.gateway import GatewayConfig, create_app
from mitai.train.app import Worker
from mitai.train.config import Destination, Place, SubmitRequest, TrainConfig
from mitai.train.torchrun import placed

EPOCHS, BATCH = 4, 4
SFT = """
[job]
name = "joint"
method = "sft"
model = "{model}"
data = ["{data}"]
seed = 42
[training]
epochs = {epochs}
batch = 4
learning_rate = 0.01
max_length = 48
[checkpoints]
every_steps = 2
"""
TWO = "[distributed]\nworkers = 2\n"
TORCHRUN, MITAI = (str(Path(sys.executable).with_name(name)) for name in ("torchrun", "mitai"))
SAID = {
    "TORCHELASTIC_RUN_ID": "none",
    "RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_WORLD_SIZE": "1",
    "MASTER_ADDR": "10.0.0.1",
    "MASTER_PORT": "29500",
}


def request(more: str = TWO) -> SubmitRequest:
    job = SFT.format(model="base", data="records", epochs=1) + more
    return SubmitRequest(job, "http://b", "http://o", Destination("http://g", TOKEN))


def test_a_place_is_what_torchrun_says() -> None:
    assert placed(request(), SAID).place == Place(1, "10.0.0.1", 29501)
    assert placed(request(), {"RANK": "1"}) == request()
    alone = SAID | {"RANK": "0", "WORLD_SIZE": "1"}
    assert placed(request(""), alone) == request("")


@pytest.mark.parametrize(
    ("said", "more"),
    [
        ({"RANK": "2"}, TWO),
        ({"RANK": "-1"}, TWO),
        ({"RANK": "one"}, TWO),
        ({"WORLD_SIZE": "3"}, TWO),
        ({}, ""),
        ({"LOCAL_WORLD_SIZE": "2"}, TWO),
        ({"MASTER_PORT": "65535"}, TWO),
        ({"MASTER_ADDR": ""}, TWO),
        ({"MASTER_ADDR": None}, TWO),
    ],
)
def test_what_torchrun_says_of_another_job_is_refused(said: dict[str, str | None], more: str) -> None:
    environment = {name: value for name, value in (SAID | said).items() if value is not None}
    with pytest.raises(TrainError) as refused:
        placed(request(more), environment)
    assert refused.value.code == "train.torchrun"


def test_where_a_worker_runs_a_second_one_spends_nothing_and_takes_nothing_away(tmp_path: Path) -> None:
    made = tmp_path / "scratch" / "output" / "job"
    made.mkdir(parents=True)
    SimPlatform.create(tmp_path / "sim")
    (tmp_path / "policy.toml").write_text("")
    (tmp_path / "request.json").write_bytes(msgspec.json.encode(request("")))
    with socket.create_server(("127.0.0.1", 0)) as running:
        (tmp_path / "train.toml").write_text(
            f'port = {running.getsockname()[1]}\nbroker_policy = "policy.toml"\nscratch = "scratch"\nsim = "sim"\n'
        )
        command = [sys.executable, "-m", "mitai.train", "--config", "train.toml", "--request", "request.json"]
        second = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (second.returncode, second.stdout) == (1, "")
    assert "Address already in use" in second.stderr
    assert [made] == list((tmp_path / "scratch").glob("*/*"))


# --- with torchrun itself --------------------------------------------------------------------------------------------


@dataclass
class Launched:
    """A torchrun that runs, and the file that it prints to."""

    process: subprocess.Popen[bytes]
    out: Path

    def said(self) -> str:
        """Return what the processes printed, when all have succeeded."""
        assert self.process.wait(150) == 0
        return self.out.read_text()

    def lines(self) -> list[Any]:
        """Return those lines of it that are JSON."""
        return [json.loads(line) for line in self.said().splitlines() if line.startswith(('{"', "["))]


class Scene:
    """A platform, and a job's request for workers that torchrun starts."""

    def __init__(self, stage: Stage, root: Path) -> None:
        self.stage, self.root = stage, root
        self.launched: list[Launched] = []
        lab, clinic = stage.party("lab"), stage.party("clinic")
        self.model, self.rows = tiny_llama(), conversations(24)
        self.about = {
            "model": stage.publish(lab, self.model, "model", TRAIN),
            "data": stage.publish(clinic, self.rows, "dataset", TRAIN),
        }
        lab.close()
        clinic.close()
        (root / "policy.toml").write_text(stage.policy.to_toml())

    def job(self, epochs: int = EPOCHS, more: str = TWO) -> str:
        return SFT.format(epochs=epochs, **self.about) + more

    def start(self, job: str, *, restarts: int = 0) -> list[Launched]:
        """Start the two ranks of a job as on two machines, each with a torchrun of its own."""
        stage = self.stage
        to = Destination(stage.gateway, TOKEN)
        asked = SubmitRequest(job, stage.broker, f"{stage.gateway}/objects", to)
        (self.root / "request.json").write_bytes(msgspec.json.encode(asked))
        commands = []
        for rank in range(2):
            config = self.root / f"train-{rank}.toml"
            config.write_text(
                f'port = 0\nbroker_policy = "{self.root}/policy.toml"\nscratch = "{self.root}/machine-{rank}"\n'
                f'sim = "{self.root}/sim"\nthreads = 1\nsilence_s = 60.0\n'
            )
            worker = ["-m", "mitai.train", "--config", str(config), "--request", str(self.root / "request.json")]
            commands.append(["--max-restarts", str(restarts), *worker])
        return self.launch(commands)

    def launch(self, commands: list[list[str]]) -> list[Launched]:
        """Give each of two machines its command for torchrun."""
        port, started = free_port(), []
        for rank, command in enumerate(commands):
            where = f"--nnodes 2 --node-rank {rank} --master-addr 127.0.0.1 --master-port {port} --nproc-per-node 1"
            started.append(self.torchrun(f"rank-{rank}", *where.split(), *command))
        return started

    def torchrun(self, name: str, *arguments: str) -> Launched:
        out, environment = self.root / name, os.environ | {"OMP_NUM_THREADS": "1"}
        with out.open("wb") as file:
            process = subprocess.Popen([TORCHRUN, *arguments], stdout=file, env=environment)
        self.launched.append(Launched(process, out))
        return self.launched[-1]


def free_port() -> int:
    """Return a port that is free, as the one above it is."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as one:
            port = int(one.getsockname()[1])
            try:
                socket.create_server(("127.0.0.1", port + 1)).close()
            except OSError:
                continue
            return port


def descendants(pid: int) -> list[int]:
    """Return the processes below one, each after what started it."""
    found = [
        int(each) for task in Path(f"/proc/{pid}/task").iterdir() for each in (task / "children").read_text().split()
    ]
    return [below for each in found for below in (each, *descendants(each))]


def furthest(one: list[float], other: list[float]) -> float:
    return max(abs(a - b) / abs(b) for a, b in zip(one, other, strict=True))


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    root = tmp_path_factory.mktemp("torchrun")
    with platform(root, installed_workload("train")) as stage:
        found = Scene(stage, root)
        yield found
        for each in found.launched:  # of a test that failed
            each.process.terminate()
            each.process.wait(60)


@pytest.mark.slow
def test_two_sealed_ranks_under_torchrun_lose_what_one_process_loses(scene: Scene, capfd: Any) -> None:
    """Two attested workers, one attested worker, and trl with gloo on plain files: the same curve three times."""
    leader, other = (each.lines() for each in scene.start(scene.job()))
    assert (leader[-1]["state"], leader[-1]["kind"]) == ("done", "model")
    assert (other[-1]["state"], other[-1]["kind"]) == ("done", "")
    sealed, others = ([step["loss"] for step in each[:-1]] for each in (leader, other))
    assert sealed == others  # to the last bit; a job whose ranks' weights differ in a bit has no end but an error
    stage = scene.stage
    job = stage.submit(scene.job(more="")).json()["id"]
    assert stage.until(job)["state"] == "done"
    one = [step["loss"] for step in stage.logs(job)]
    plain = scene.root / "plain"
    plain.mkdir()
    for source in (scene.model, scene.rows):
        for name in source.names():
            (plain / name).write_bytes(source.read(name))
    script = str(Path(__file__).with_name("train_gloo.py"))
    alone = ["--nproc-per-node", "2", "--master-port", str(free_port())]
    gloo = scene.torchrun("gloo", *alone, script, str(plain), str(EPOCHS), str(BATCH)).lines()[-1]
    apart = {"sealed": furthest(sealed, one), "gloo": furthest(gloo, one), "between": furthest(sealed, gloo)}
    with capfd.disabled():
        sys.stdout.write(json.dumps({"steps": len(one), "first": one[0], "last": one[-1]} | apart) + "\n")
    assert len(one) == EPOCHS * 24 // BATCH
    assert max(apart.values()) < 1e-6
    assert one[-1] < 0.9 * one[0]


@pytest.mark.slow
def test_torchrun_starts_a_killed_rank_again_and_the_job_resumes(scene: Scene) -> None:
    job = scene.job(epochs=60).replace('"joint"', '"killed"')
    running = scene.start(job, restarts=1)
    ends = time.monotonic() + 90
    while running[0].out.read_text().count("loss") < 20:
        assert time.monotonic() < ends
        time.sleep(0.02)
    os.kill(descendants(running[1].process.pid)[-1], signal.SIGKILL)
    ranks = []
    for each in running:
        lines = each.lines()
        again = [line.get("state") for line in lines].index("failed") + 1
        ranks.append([(line["step"], line["loss"]) for line in lines[again:-1]])
    assert ranks[0] == ranks[1]
    assert 1 < ranks[0][0][0] < ranks[0][-1][0] == 360


@pytest.mark.slow
def test_torchrun_outside_of_the_machines_submits_to_their_workers(scene: Scene, tmp_path: Path) -> None:
    stage = scene.stage
    config = TrainConfig(port=0, broker_policy="", scratch=str(tmp_path), sim="", threads=1, silence_s=60.0)
    attester = SimPlatform.open(stage.root / "sim").attester(installed_workload("train"))
    (tmp_path / "job.toml").write_text(scene.job())
    leader = f"127.0.0.1:{free_port()}"
    with ExitStack() as stack:
        workers = [stage.url, stack.enter_context(served(Worker(config, attester, stage.policy).app()))]
        commands = []
        for rank, worker in enumerate(workers):
            gateway = GatewayConfig(
                replicas={},
                broker=stage.broker,
                objects=str(stage.root / "objects"),
                upload_token=TOKEN,
                operator_token="o" * 16,
                train=worker,
            )
            url = stack.enter_context(served(create_app(gateway)))
            tokens = ["--operator-token", gateway.operator_token, "--upload-token", TOKEN]
            submit = [MITAI, "train", "submit", str(tmp_path / "job.toml"), "--wait", "--json", "--url", url, *tokens]
            commands.append(["--no-python", *submit, "--rank", str(rank), "--leader", leader])
        told = [json.loads(each.said()) for each in scene.launch(commands)]
    assert [each["kind"] for each in told] == ["model", ""]
