"""The fuzz target of nets runs, and holds for cut and spoilt files."""

from __future__ import annotations

import random

import fuzz_proof_nets
import pytest

from mitai.proof.onnx import read_onnx


def test_the_seed_is_a_model() -> None:
    net, _ = read_onnx(fuzz_proof_nets.SEEDS[0])
    assert [type(step).__name__ for step in net.steps] == ["Conv", "Pool", "Dense"]


@pytest.mark.parametrize("seed", range(len(fuzz_proof_nets.SEEDS)))
def test_nets(seed: int) -> None:
    data = fuzz_proof_nets.SEEDS[seed]
    fuzz_proof_nets.one_input(data)
    draw = random.Random(seed)
    for _ in range(150):
        spoilt = bytearray(data)
        spoilt[draw.randrange(len(spoilt))] = draw.randrange(256)
        fuzz_proof_nets.one_input(bytes(spoilt))
        fuzz_proof_nets.one_input(data[: draw.randrange(len(data))])
