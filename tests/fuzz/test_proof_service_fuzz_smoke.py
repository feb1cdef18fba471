"""The fuzz target of services of answers with a proof runs, and holds for cut and spoilt inputs."""

from __future__ import annotations

import random

import fuzz_proof_service
import pytest


@pytest.mark.parametrize("seed", range(len(fuzz_proof_service.SEEDS)))
def test_services(seed: int) -> None:
    data = fuzz_proof_service.SEEDS[seed]
    fuzz_proof_service.one_input(data)
    draw = random.Random(seed)
    for _ in range(50):
        spoilt = bytearray(data)
        spoilt[draw.randrange(len(spoilt))] = draw.randrange(256)
        fuzz_proof_service.one_input(bytes(spoilt))
        fuzz_proof_service.one_input(data[: draw.randrange(len(data))])
