"""The fuzz target of job files and rewards runs on its seeds and on damaged ones, without atheris."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest


def _target():
    path = Path(__file__).with_name("fuzz_train_job.py")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TARGET = _target()
CUT = [seed[:at] for seed in TARGET.SEEDS for at in (len(seed) // 2, len(seed) - 2)]


@pytest.mark.parametrize(
    "data", [*TARGET.SEEDS, *CUT, b"", b"\xff\xfe", b"[" * 5000, b"1" * 5000], ids=lambda data: str(len(data))
)
def test_nothing_but_errors_of_the_tree(data):
    TARGET.one_input(data)


@pytest.mark.parametrize("seed", TARGET.SEEDS[:-1], ids=range(len(TARGET.SEEDS) - 1))
def test_the_seeds_are_jobs(seed):
    assert TARGET.Job.parse(seed.decode()).job.name == "t"
