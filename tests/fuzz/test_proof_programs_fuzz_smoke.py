"""The fuzz target of integer programs runs, and holds for cut, flipped and spoilt encodings."""

from __future__ import annotations

import random

import fuzz_proof_programs
import pytest


@pytest.mark.parametrize("seed", range(len(fuzz_proof_programs.SEEDS)))
def test_programs(seed: int) -> None:
    data = fuzz_proof_programs.SEEDS[seed]
    fuzz_proof_programs.one_input(data)
    draw = random.Random(seed)
    for _ in range(500):
        spoilt = bytearray(data)
        for _ in range(draw.choice((1, 1, 2, 5))):
            spoilt[draw.randrange(len(spoilt))] = draw.randrange(256)
        fuzz_proof_programs.one_input(bytes(spoilt))
        fuzz_proof_programs.one_input(data[: draw.randrange(len(data))])
