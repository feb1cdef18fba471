"""The fuzz target of fingerprints runs on arbitrary and on nearly right inputs, without atheris."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

import fuzz_serve_fingerprints as fuzz

from mitai.serve.fingerprints import PRIME, Choice, Fingerprints, Likeness, compare, encode

BLOCK = encode(fuzz.ROWS)
FILE = Fingerprints(blind=bytes(32), choices=(Choice((1, 2), (BLOCK,)),)).encode()


def test_what_the_others_change_is_right():
    assert Fingerprints.decode(FILE).choices[0].blocks == (BLOCK,)
    assert compare(BLOCK, fuzz.ROWS).far == 0
    for end in range(len(FILE)):
        fuzz.one_input(FILE[:end])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 32), st.integers(1, 40), st.integers(0, 2**32))
def test_any_numbers_are_as_near_as_they_can_be(tokens, hidden, seed):
    rows = np.random.default_rng(seed).integers(0, PRIME, (tokens, hidden), dtype=np.uint16)
    assert compare(encode(rows), rows) == Likeness(far=0.0, distance=0.0)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_arbitrary_bytes(data):
    fuzz.one_input(data)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([FILE, BLOCK]), st.data())
def test_nearly_right_bytes(seed, data):
    changed = bytearray(seed)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(changed)))
        changed[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    fuzz.one_input(bytes(changed))
