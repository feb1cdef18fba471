"""The fuzz target of the training worker runs on a few inputs, without atheris."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import msgspec
import pytest

from mitai.train.peers import Hello, Join, Ready, Reply, Welcome
from mitai.train.relay import Answer, Done, Order, Read

INPUTS = [
    b"",
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"{",
    b"[" * 5000,
    b'{"text":"a"}\n{"text":"b"}',
    b'{"messages":[{"role":"user","content":"x"}],"n":1e400}',
    b'[{"id":"0123456789abcdef","name":"a","method":"sft","job_sha256":"","state":"running","step":"","capsule":"",'
    b'"kind":"","error":null,"newest":null,"seconds":1}]',
    b'port = 1\nscratch = "x"\nbroker_policy = "p"\nplugins = ["x"]',
    b'{"job":"","broker":"file:///","objects":"cache::x","output":{"gateway":"x","token":"y"}}',
    *map(
        msgspec.msgpack.encode,
        (
            Hello(1, bytes(32), bytes(32)),
            Join(1, bytes(32), b"{}"),
            Welcome(b"", b"x"),
            Reply(b"x", bytes(32)),
            Ready(b"short"),
        ),
    ),
    *(
        len(body).to_bytes(4, "big") + body
        for body in map(
            msgspec.msgpack.encode,
            (Answer(1, b"x"), Read("c", "n", 0, 1), Order("", (), b"", (), "", "", 0), Done("", b"", "", b"", "", {})),
        )
    ),
]


@pytest.mark.parametrize("data", INPUTS, ids=range(len(INPUTS)))
def test_worker(data: bytes) -> None:
    path = Path(__file__).with_name("fuzz_train_worker.py")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.one_input(data)
