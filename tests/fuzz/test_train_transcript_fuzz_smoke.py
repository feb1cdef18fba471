"""The fuzz target runs, and holds for a few inputs of each kind."""

from __future__ import annotations

import fuzz_train_transcript
import pytest

from mitai.train.transcript.commitment import Commitment
from mitai.train.transcript.state import State

PROOF = Commitment.of(b"s" * 32, ("a",), [{"a": 1}, {"a": 2}]).proof(1, ("a",), "0" * 64).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"\xff",
        b"[" * 5000,
        PROOF,
        PROOF[:-1],
        State({}, {}, {}).encode(),
        State({}, {}, {}).encode() + b"\0",
    ],
)
def test_no_input_breaks_it(data: bytes) -> None:
    fuzz_train_transcript.one_input(data)
