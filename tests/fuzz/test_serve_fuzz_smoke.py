"""Each fuzz target of serve runs on a few inputs, without atheris."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

INPUTS = [
    b"",
    b"{",
    b"[" * 5000,
    b"\xff\xfe",
    b'{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"x"}]}]}',
    b'{"model":"m","prompt":[[1,2],[3]],"n":2,"stop":["a"]}',
    b'{"model":"m","input":[]}',
    b'port = 1\nsim = "x"\n[limits]\nmax_requests = -1',
]


@pytest.mark.parametrize("data", INPUTS, ids=range(len(INPUTS)))
def test_requests(data):
    path = Path(__file__).with_name("fuzz_serve_requests.py")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.one_input(data)
