"""The fuzz target of evaluations, on a few inputs and without the fuzzer."""

from __future__ import annotations

import pytest
from fuzz_train_evaluate import one_input

from mitai.train.evaluate.report import Measured, Number, Result

NUMBER = Number(metric="pass@10", group="north", n=30, value=1, low=0, high=2)
MEASURED = Measured(evaluation_sha256="0" * 64, min_group=20, results=(Result(task="t", numbers=(NUMBER,)),)).encode()
TASK = b'[[tasks]]\nkind = "perplexity"\nname = "t"\nprompt = "{q}"\n'


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
    ],
)
def test_survives(data):
    one_input(data)
