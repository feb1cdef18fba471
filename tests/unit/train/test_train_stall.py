"""A job's process that hangs, in a template or anywhere, is ended."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from mitai.attest import Policy
from mitai.attest.sim import SimPlatform, Workload
from mitai.errors import TrainError
from mitai.train import worker
from mitai.train.config import Destination, SubmitRequest, TrainConfig
from mitai.train.job import Job
from mitai.train.relay import Order
from mitai.train.worker import Jobs, Run

JOB = '[job]\nname = "joint"\nmethod = "sft"\nmodel = "m"\ndata = ["d"]\n'
URL = "http://127.0.0.1:1"
HANGS = "import time; time.sleep(600)"  # before the first word
HALF = "import os, time; os.write(0, b'\\0\\0'); time.sleep(600)"  # within a word


@pytest.mark.parametrize(("code", "size"), [(HANGS, 0), (HALF, 0), (HANGS, 4 << 20)])  # the last: nor does it listen
def test_a_process_that_says_nothing_more_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, size: int
) -> None:
    sim = SimPlatform.create(tmp_path / "sim")
    config = TrainConfig(port=0, broker_policy="", scratch=str(tmp_path / "scratch"), sim="", stall_s=0.5)
    jobs = Jobs(config, sim.attester(Workload("train", bytes(48))), Policy())
    monkeypatch.setattr(worker, "_BOOT", code)
    run = Run("0", Job.parse(JOB), SubmitRequest(JOB, URL, URL, Destination(URL, "t" * 16)))
    order = Order(JOB, (), bytes(32), (), "", "", 0, evidence=bytes(size))
    began = time.monotonic()
    try:
        with pytest.raises(TrainError) as caught:
            jobs._supervise(run, order, SimpleNamespace(check=lambda: None), lambda _: None)
    finally:
        jobs.close()
    assert caught.value.code == "train.stalled"
    assert 0.5 <= time.monotonic() - began < 30
    assert run.process is not None
    assert run.process.poll() is not None
