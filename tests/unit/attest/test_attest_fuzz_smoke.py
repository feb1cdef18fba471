"""Every fuzz target runs on a few inputs, so that it can't rot."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

TARGETS = sorted((Path(__file__).parents[2] / "fuzz").glob("fuzz_attest_*.py"))


@pytest.mark.parametrize("path", TARGETS, ids=lambda path: path.stem)
def test_target(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    target = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(target)
    for data in (b"", b"{}", b"\x00" * 100, b"\xff" * 100, *target.SEEDS):
        target.one_input(data)
        target.one_input(data[: len(data) // 2])
    assert target.SEEDS


def test_there_are_targets():
    assert len(TARGETS) >= 7
