"""What is committed to: steps of a program, their bytes, their tree; and the root that is published."""

from __future__ import annotations

from hashlib import sha256

import msgspec
import numpy as np
import pytest

import proof_audit_rig as rig
from mitai.errors import ParseError, ProofError
from mitai.ledger.assurance import CommitAndAudit
from mitai.proof.audit import numbers, tree
from mitai.proof.audit.files import Challenge, Committed
from mitai.proof.audit.plan import Plan
from mitai.proof.audit.trace import respond, trace_root
from mitai.proof.operation import Value
from mitai.proof.operations import Input, Linear, MatMul, Multiply, Weight
from mitai.proof.program import Output, Program


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_products_with_weights_are_steps_and_small_weights_are_known(family):
    claim, plan = rig.claim(family)
    matrices = {name for name, weight in claim.program.weights.items() if np.prod(weight.shape) > 100}
    assert {product.weight for product in plan.products.values()} == matrices
    assert set(plan.plain) == set(claim.program.weights) - matrices
    assert set(plan.products) <= set(plan.steps)
    assert all(set(plan.takes[step]) < set(range(step)) for step in plan.steps)


def test_a_large_weight_that_is_no_factor_of_a_product_can_not_be_audited():
    x = Input(name="x", shape=(1, 1 << 23), low=-9, high=9, public=True)
    program = Program(
        (x, Weight(name="w", shape=(1 << 23,), bits=8), Multiply(a=0, b=1)), (Output(name="y", operand=2, public=True),)
    )
    with pytest.raises(ProofError) as refused:
        Plan.of(program)
    assert refused.value.code == "proof.audit-unsupported"


def test_a_weight_that_is_used_in_both_ways_is_known():
    program = Program(
        (
            Input(name="x", shape=(2, 3), low=-9, high=9, public=True),
            Weight(name="w", shape=(3, 3), bits=8),
            MatMul(a=0, b=1),
            MatMul(a=2, b=1),
            Linear(terms=((1, 1),)),
            MatMul(a=3, b=4),
        ),
        (Output(name="y", operand=5, public=True),),
    )
    plan = Plan.of(program)
    assert (plan.plain, set(plan.products), plan.takes[5]) == (("w",), {2, 3}, (3,))


@pytest.mark.parametrize("reach", [1, 127, 128, 40_000, 1 << 40, 1 << 62])
def test_numbers_are_read_as_they_were_written(reach):
    value = Value((2, 3), -reach, reach)
    array = np.array([[reach, -reach, 0], [1, -1, reach // 2]])
    data = b"".join(numbers.pieces(array, value))
    assert len(data) == numbers.size(value)
    assert np.array_equal(numbers.numbers([data], value), array)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_some_leaves_and_a_proof_give_the_root(count):
    leaves = [sha256(bytes([i])).digest() for i in range(count)]
    for chosen in range(1, 1 << count):
        places = {i for i in range(count) if chosen >> i & 1}
        proof = tree.siblings(leaves, places)
        known = {i: leaves[i] for i in places}
        left = iter(proof)
        assert tree.climb(known, count, left) == tree.root(leaves)
        assert next(left, None) is None
        wrong = known | {min(places): bytes(32)}
        assert tree.climb(wrong, count, iter(proof)) != tree.root(leaves)


def test_a_root_is_of_model_prompt_answer_and_salt():
    committed, prepared = rig.committed(), rig.prepared()
    assert trace_root(prepared, rig.PROMPT, committed.answer, committed.salt) == committed.root
    assert trace_root(prepared, rig.PROMPT, committed.answer) != committed.root
    with pytest.raises(ProofError) as refused:
        trace_root(prepared, rig.PROMPT, [*committed.answer[:-1], (committed.answer[-1] + 1) % rig.WORDS])
    assert refused.value.code == "proof.answer-differs"


def test_what_a_receipt_promises():
    committed = rig.committed()
    identity = rig.prepared().card.identity
    assert committed.assurance == CommitAndAudit(identity=identity, trace=committed.root.hex(), scheme=1)


def test_requests_are_refused_that_do_not_fit():
    committed, prepared = rig.committed(), rig.prepared()
    _, plan = rig.claim()
    for steps in ((len(plan.steps),), (1, 1), (2, 1)):
        with pytest.raises(ProofError) as refused:
            respond(prepared, committed, Challenge(steps=steps))
        assert refused.value.code == "proof.challenge-invalid"
    with pytest.raises(ProofError) as refused:
        respond(rig.prepared(seed=5), committed, Challenge(steps=(0,)))
    assert refused.value.code == "proof.model-differs"
    other = msgspec.structs.replace(committed, root=bytes(32))
    with pytest.raises(ProofError) as refused:
        list(respond(prepared, other, Challenge(steps=(0,))))
    assert refused.value.code == "proof.answer-differs"


def test_files_have_one_spelling():
    data = rig.committed().encode()
    assert Committed.parse(data).encode() == data
    challenge = Challenge(steps=(1, 5))
    assert Challenge.parse(challenge.encode()) == challenge
    for parse, wrong in (
        (Committed.parse, data + b"0"),
        (Committed.parse, data[:-1]),
        (Committed.parse, bytes(1 << 23)),
        (Challenge.parse, b" " + challenge.encode()),
        (Challenge.parse, b'{"steps":[],"v":"mitai proof challenge v1"}'),
        (Challenge.parse, b'{"steps":[-1],"v":"mitai proof challenge v1"}'),
    ):
        with pytest.raises(ParseError):
            parse(wrong)
    assert "5" not in repr(rig.committed()).replace(rig.committed().root.hex(), "")
