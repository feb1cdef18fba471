"""The fuzz target of answers with proofs runs, and holds for cut and spoilt files."""

from __future__ import annotations

import random

import fuzz_proof_answer
import pytest


@pytest.mark.parametrize("seed", range(len(fuzz_proof_answer.SEEDS)))
def test_answers(seed: int) -> None:
    data = fuzz_proof_answer.SEEDS[seed]
    fuzz_proof_answer.one_input(data)
    draw = random.Random(seed)
    for _ in range(100):
        spoilt = bytearray(data)
        spoilt[draw.randrange(len(spoilt))] = draw.randrange(256)
        fuzz_proof_answer.one_input(bytes(spoilt))
        fuzz_proof_answer.one_input(data[: draw.randrange(len(data))])
