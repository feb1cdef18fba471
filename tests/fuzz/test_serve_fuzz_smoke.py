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
    target("fuzz_serve_requests.py")(data)


ADAPTERS = [
    *INPUTS,
    b'{"peft_type":"LORA","r":4,"lora_alpha":8,"target_modules":["q_proj","a.b"],"use_rslora":true}',
    b'{"peft_type":"LORA","r":4,"lora_alpha":8,"target_modules":"(a+)+$"}',
    b'{"peft_type":"LORA","r":4,"lora_alpha":8,"target_modules":["q"],"' + b"x" * 5000 + b'":1}',
]


@pytest.mark.parametrize("data", ADAPTERS, ids=range(len(ADAPTERS)))
def test_adapters(data):
    target("fuzz_serve_adapters.py")(data)


def target(name):
    path = Path(__file__).with_name(name)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.one_input
