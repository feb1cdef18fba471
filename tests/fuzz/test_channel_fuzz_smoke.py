"""Each fuzz target of the channel runs on a few inputs, so that none of them rots."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

TARGETS = sorted(Path(__file__).parent.glob("fuzz_channel_*.py"))
INPUTS = [
    b"",
    b"\x00",
    bytes(range(256)),
    b"\x00\x03GET\x05https\x00\x01/",
    b"aa" * 32,
    bytes.fromhex("010020") + bytes(40),
]


@pytest.mark.parametrize("target", TARGETS, ids=lambda path: path.stem)
@pytest.mark.parametrize("data", INPUTS, ids=range(len(INPUTS)))
def test_fuzz_target(target, data):
    spec = importlib.util.spec_from_file_location(target.stem, target)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.one_input(data)
