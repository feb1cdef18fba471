"""The fuzz target of audits, on its seeds, their parts and their neighbours."""

from __future__ import annotations

import pytest
from fuzz_proof_audit import SEEDS, one_input


@pytest.mark.parametrize("seed", range(len(SEEDS)))
def test_survives(seed: int) -> None:
    data = SEEDS[seed]
    one_input(data)
    for at in range(0, len(data), 1 + len(data) // 12):
        one_input(data[:at])
        one_input(data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :])
