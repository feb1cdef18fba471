"""The fuzz target of proofs, on its seeds, their parts and their neighbours."""

from __future__ import annotations

import pytest
from fuzz_proof_verifier import SEEDS, one_input


@pytest.mark.parametrize("number", range(len(SEEDS)))
def test_survives(number):
    seed = SEEDS[number]
    for at in range(0, len(seed), 1 + len(seed) // 15):
        one_input(seed[:at])
        one_input(seed[:at] + bytes([seed[at] ^ 0xFF]) + seed[at + 1 :])
    one_input(seed)
