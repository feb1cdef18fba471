"""The fuzz targets themselves work: a few inputs each, without atheris."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

FILE = {"name": "a", "size": 0, "object": "1" * 32, "object_size": 56, "commitments": "A" * 43 + "="}
TENSOR = {"t": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}}
INPUTS = {
    "fuzz_capsule_manifest": [b"", b"{}", b"\xff" * 9, b"[" * 2000]
    + [bytes([field]) + value for field in range(18) for value in (b"1", b'"x"', b"[]", json.dumps([FILE]).encode())],
    "fuzz_capsule_safetensors": [b"", b"\0" * 9, json.dumps(TENSOR).encode() + b"\0ab", b"{}", b"\xff" * 20],
}


@pytest.mark.parametrize("name", sorted(INPUTS))
def test_target(name):
    specification = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    target = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(target)
    for data in INPUTS[name]:
        target.one_input(data)
