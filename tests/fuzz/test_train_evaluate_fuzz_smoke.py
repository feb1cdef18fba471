"""The fuzz target of evaluations, on a few inputs and without the fuzzer."""

from __future__ import annotations

import msgspec
import pytest
from fuzz_train_evaluate import one_input

from mitai.train.evaluate.board import Board
from mitai.train.evaluate.report import Measured, Number, Result

NUMBER = Number(metric="pass@10", group="north", n=30, value=1, low=0, high=2)
MEASURED = Measured(evaluation_sha256="0" * 64, min_group=20, results=(Result(task="t", numbers=(NUMBER,)),)).encode()
TASK = b'[[tasks]]\nkind = "perplexity"\nname = "t"\nprompt = "{q}"\n'


LINES = [{"line": n * 64, "results": [{"task": "t", "numbers": [msgspec.to_builtins(NUMBER)]}]} for n in "ab"]
BOARD = {
    "v": "mitai leaderboard v1",
    "created": "2026-01-02T03:04:05Z",
    "evaluation_sha256": "0" * 64,
    "evidence_sha256": "0" * 64,
    "min_group": 20,
    "data": [{"role": "data", "capsule": "d", "manifest_sha256": "0" * 64}],
    "reports": [{"capsule": name, "manifest_sha256": "0" * 64} for name in "ab"],
    "lines": LINES,
}


def test_a_table_is_parsed():
    assert len(msgspec.json.decode(msgspec.json.encode(BOARD), type=Board).lines) == 2


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[" * 5000,
        b"\xff" * 40,
        MEASURED,
        MEASURED[:-1],
        MEASURED + b" ",
        TASK,
        TASK + b"min_group = 0",
        b"Rating: [[7]]",
        b"Better: [[A]]",
        b'{"id":"ID","kind":"value","value":1}',
        b'{"id":"ID","kind":"ask","value":["f","((1,),{})"]}\n{"id":"ID","kind":"raised","value":"MemoryError"}',
        b'{"id":"ID","kind":"ask","value":["g",1]}',
        b'{"id":"ID","kind":"value","value":' + b"[" * 2000,
        b'{"v":"mitai evaluation report file v1","envelope":"","evidence":""}',
        b'{"envelope":"","evidence":"","v":"mitai leaderboard file v1"}',
        b'{"v":7}',
        msgspec.json.encode(BOARD),
        msgspec.json.encode(BOARD | {"lines": LINES[:1]}),
    ],
)
def test_survives(data):
    one_input(data)
