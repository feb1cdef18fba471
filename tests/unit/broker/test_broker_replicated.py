"""`python -m mitai.broker` on PostgreSQL: two processes, one of which leads."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from test_broker_http import Process

from mitai.attest.sim import SimPlatform, installed_workload
from mitai.client.owner import Owner
from mitai.identity import Identity


class Unstarted(Process):
    """A process with its configuration, not started."""

    def start(self) -> None:
        """Leave it to the test."""

    def close(self) -> None:
        self.log.close()


@pytest.fixture
def two(tmp_path: Path, postgres_url: str) -> Iterator[list[Process]]:
    sim = SimPlatform.create(tmp_path / "sim")
    made = []
    try:
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            made.append(Process(tmp_path / name, sim, tmp_path / "sim", state=postgres_url))
        yield made
    finally:
        for process in made:
            process.close()


def role(process: Process) -> str:
    return httpx2.get(f"{process.url}/healthz", timeout=10.0).json()["role"]


def leader(processes: list[Process]) -> Process:
    for _ in range(300):
        for process in processes:
            if role(process) == "leader":
                return process
        time.sleep(0.1)
    raise AssertionError([(process.folder / "log").read_text()[-2000:] for process in processes])


def test_one_leads_and_the_other_goes_on_when_it_is_killed(two: list[Process]) -> None:
    first = leader(two)
    (second,) = [process for process in two if process is not first]
    if {installed_workload("broker")} != {process.measured for process in two}:
        pytest.skip("the installed code was edited while this ran")
    assert httpx2.get(f"{second.url}/ledger/checkpoint").headers["mitai-role"] == "standby"
    alice = Identity.generate()
    owner = Owner(first.url, alice, first.policy)
    owner.register("alice")
    ledger = owner.ledger.vkey
    owner.close()
    first.stop(signal.SIGKILL)
    assert leader([second]) is second
    again = Owner(second.url, alice, second.policy)
    assert (again.capsules(), again.ledger.vkey) == ([], ledger)
    again.close()
    first.start()
    assert role(first) == "standby"
    assert (second.stop(), leader([first])) == (0, first)
    assert first.stop() == 0


def test_a_process_whose_state_was_put_back_ends_and_says_why(tmp_path: Path, postgres_url: str) -> None:
    process = Unstarted(tmp_path, SimPlatform.create(tmp_path / "sim"), tmp_path / "sim", state=postgres_url)
    (tmp_path / "ledger").mkdir()
    (tmp_path / "ledger" / "checkpoint").write_text("published before")
    command = [sys.executable, "-m", "mitai.broker", "--config", str(tmp_path / "broker.toml")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    process.close()
    assert run.returncode == 1
    assert "broker.state-missing" in run.stderr
