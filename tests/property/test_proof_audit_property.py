"""Audits of whatever a prover commits to: what is not the true trace is refused, by an error of the tree."""

from __future__ import annotations

import io

import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import proof_audit_rig as rig
from mitai.errors import ProofError
from mitai.proof.audit import numbers, tree
from mitai.proof.audit.check import Auditor
from mitai.proof.operation import LIMIT, Value

CLAIM, PLAN = rig.claim()
TRUE = rig.results(CLAIM, rig.prepared().weights.arrays)
STEPS = {step: TRUE[step] for step in PLAN.steps}


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_trace_with_any_numbers_in_it_is_refuted(data):
    false = dict(STEPS)
    for step in data.draw(st.lists(st.sampled_from(PLAN.steps), min_size=1, max_size=4, unique=True)):
        value = PLAN.value(step)
        most = 1 << 8 * numbers.width(value) - 1
        inside = data.draw(st.booleans())
        low, high = (value.low, value.high) if inside else (-most, most - 1)
        other = STEPS[step].copy()
        at = data.draw(st.integers(0, other.size - 1))
        other.reshape(-1)[at] = data.draw(st.integers(low, high))
        false[step] = other
    liar = rig.Liar(CLAIM, false)
    auditor = Auditor(msgspec.structs.replace(rig.committed(), salt=bytes(32), root=liar.root), rig.key())
    true = all(np.array_equal(false[step], STEPS[step]) for step in STEPS)
    code = None
    try:
        auditor.check(None, io.BytesIO(liar.response(None)))
    except ProofError as refused:
        code = refused.code
    assert code in ({None} if true else {"proof.step-refuted", "proof.weights-refuted"})


@given(data=st.data(), low=st.integers(-LIMIT, LIMIT), high=st.integers(-LIMIT, LIMIT))
def test_numbers_of_any_range_are_read_as_written(data, low, high):
    low, high = sorted((low, high))
    array = np.array(data.draw(st.lists(st.integers(low, high), min_size=1, max_size=9)), np.int64)
    value = Value(array.shape, low, high)
    written = b"".join(numbers.pieces(array, value))
    assert len(written) == numbers.size(value)
    assert np.array_equal(numbers.numbers([written], value), array)


@given(count=st.integers(1, 40), chosen=st.sets(st.integers(0, 39), min_size=1))
def test_a_proof_is_of_these_leaves_alone(count, chosen):
    leaves = [bytes([place + 1]) * 32 for place in range(count)]
    places = {place % count for place in chosen}
    proof = tree.siblings(leaves, places)
    known = {place: leaves[place] for place in places}
    assert tree.climb(known, count, iter(proof)) == tree.root(leaves)
    for place in places:
        assert tree.climb(known | {place: tree.EMPTY}, count, iter(proof)) != tree.root(leaves)
