"""kill -9 at any moment, under load: nothing that was acknowledged is lost, nothing is spent twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from broker_rig import Rig
from mitai.attest.sim import SimPlatform
from mitai.broker.protocol import Budget
from mitai.ledger import folder_reader, verify_log

HERE = Path(__file__).parent


def run_and_kill(rig: Rig, sim: Path, capsule: str, after: int) -> list[tuple[int, str]]:
    """Start the child, kill it some acknowledged releases later, return what it had acknowledged."""
    environment = os.environ | {"PYTHONPATH": f"{HERE.parents[1]}{os.pathsep}{HERE.parents[2] / 'src'}"}
    child = subprocess.Popen(
        [sys.executable, str(HERE / "broker_crash_child.py"), str(rig.folder), str(sim), capsule],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )
    try:
        acknowledged = []
        for line in child.stdout:
            words = line.split()
            if len(words) != 2 or not words[0].isdecimal():
                if line.strip() == "spent":
                    break
                continue  # a log line
            acknowledged.append((int(words[0]), words[1]))
            if len(acknowledged) == after:
                child.send_signal(signal.SIGKILL)
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    return acknowledged


@pytest.mark.parametrize("budget", [60])
def test_kill_in_a_loop(tmp_path: Path, budget: int) -> None:
    platform = tmp_path / "sim"
    folder = tmp_path / "broker"
    folder.mkdir()
    rig = Rig(folder, SimPlatform.create(platform))
    rig.register()
    sealed = rig.publish(budget=Budget(uses=budget))
    rig.close()
    acknowledged: list[tuple[int, str]] = []
    for _ in range(4):
        acknowledged += run_and_kill(rig, platform, sealed.capsule_id, random.randint(1, 12))
    acknowledged += run_and_kill(rig, platform, sealed.capsule_id, 10_000)  # until the budget is spent

    rig.open()
    try:
        entries = rig.entries()
        releases = [entry for entry in entries if entry["type"] == "release"]
        # 1. every acknowledged release is in the ledger, where it was said to be
        assert len(acknowledged) > 10
        for index, digest in acknowledged:
            assert entries[index]["release"] == digest
        # 2. the budget was given exactly once
        assert len(releases) == budget
        assert len({entry["release"] for entry in releases}) == budget
    finally:
        rig.close()
    # 3. the published log holds, to the last entry
    assert verify_log(folder_reader(folder / "ledger"), rig.broker.vkey).checkpoint.size == len(entries)
