"""Every operation of a program is proven; every message, number and hint that is changed is refused."""

from __future__ import annotations

import tracemalloc
from dataclasses import dataclass, replace

import numpy as np
import pytest

from mitai.errors import ProofError
from mitai.proof import field, proving
from mitai.proof.arrays import Arrays
from mitai.proof.equations import Combination
from mitai.proof.operations import (
    Argmax,
    Concat,
    Constant,
    Divide,
    Gap,
    Gather,
    Input,
    Linear,
    Lookup,
    MatMul,
    Multiply,
    Permute,
    Rescale,
    Reshape,
    RSqrt,
    Sum,
    Weight,
)
from mitai.proof.program import Output, Program
from mitai.proof.proving import commit_weights, prove
from mitai.proof.verify import walk
from mitai.proof.verify.lookups import logs
from mitai.proof.verify.points import by_axis, mask_value, public_value
from mitai.proof.verify.program import verify
from mitai.proof.verify.statement import Statement
from proof_rig import Recorder

RANDOM = np.random.default_rng(11)


@dataclass(frozen=True)
class Case:
    """A program whose last result is public, and inputs and weights for it."""

    program: Program
    inputs: dict[str, np.ndarray]
    weights: dict[str, np.ndarray]

    def proven(self):
        """Prove it."""
        proof = prove(self.program, self.inputs, commit_weights(self.program, self.weights))
        return proof.statement, proof.messages


def case(*operations) -> Case:
    inputs, weights = {}, {}
    for operation in operations:
        if isinstance(operation, Input):
            inputs[operation.name] = RANDOM.integers(operation.low, operation.high, operation.shape, endpoint=True)
        if isinstance(operation, Weight):
            weights[operation.name] = RANDOM.integers(-128, 128, operation.shape)
    return Case(Program(operations, (Output(name="y", operand=len(operations) - 1, public=True),)), inputs, weights)


def given(name: str, *shape: int, low: int = -100, high: int = 100) -> Input:
    return Input(name=name, shape=shape, low=low, high=high, public=True)


def model(name: str, *shape: int) -> Weight:
    return Weight(name=name, shape=shape, bits=8)


def table(*numbers: int) -> Constant:
    return Constant(shape=(len(numbers),), width=8, data=np.array(numbers, "<i8").tobytes())


SQUARES = table(*(n * n for n in range(-10, 11)))
X = given("x", 3, 5)
CASES = {
    "linear": case(X, given("z", 5), Linear(terms=((0, 3), (1, -2), (0, 1)), constant=7)),
    "multiply": case(X, given("z", 3, 1), Multiply(a=0, b=1), Multiply(a=2, b=2)),
    "matmul": case(X, model("w", 5, 6), MatMul(a=0, b=1)),
    "matmul-rows": case(given("x", 2, 3, 5), model("w", 5, 6), MatMul(a=0, b=1)),
    "matmul-heads": case(X, model("w", 4, 5, 2), MatMul(a=0, b=1)),
    "matmul-batch": case(given("x", 3, 1, 2, 5), given("z", 3, 2, 5, 2), MatMul(a=0, b=1)),
    "sum": case(given("x", 3, 5, 2), Sum(a=0, axis=1)),
    "rescale": case(X, Rescale(a=0, shift=3, bits=8)),
    "rescale-limbs": case(given("x", 5, low=-(2**40), high=2**40), Rescale(a=0, shift=17, bits=25)),
    "lookup": case(given("x", 3, 5, low=-10, high=10), SQUARES, Lookup(a=0, table=1, first=-10)),
    "covered": case(
        X, SQUARES, Rescale(a=0, shift=4, bits=6), Lookup(a=2, table=1, first=-10), Multiply(a=3, b=2)
    ),
    "divide": case(given("x", 3, 5, low=0, high=9999), given("z", 3, 1, low=1, high=77), Divide(a=0, b=1, bits=14)),
    "rsqrt": case(given("x", 6, low=1, high=9999), RSqrt(a=0, numerator=2**30, bits=16)),
    "gap": case(X, Gap(a=0, axis=1, shift=0, bits=8)),
    "gap-shift": case(given("x", 3, 5, 2), Gap(a=0, axis=1, shift=3, bits=8)),
    "argmax": case(X, Linear(terms=((0, 2),)), Argmax(a=1, bits=10)),
    "gather": case(model("w", 9, 5), given("t", 2, 3, low=0, high=8), Gather(a=0, indices=1, axis=0)),
    "permute": case(given("x", 3, 5, 2), Permute(a=0, axes=(2, 0, 1))),
    "reshape": case(given("x", 3, 5), Reshape(a=0, shape=(3, 1, 5, 1))),
    "concat": case(X, given("z", 3, 2), Concat(parts=(0, 1, 0), axis=1)),
    "one": case(given("x", 1), Rescale(a=0, shift=2, bits=8), Multiply(a=1, b=1)),
    "shared": case(X, Multiply(a=0, b=0), Linear(terms=((1, 2),)), Multiply(a=1, b=2), Linear(terms=((3, 1), (2, 1)))),
}  # fmt: skip
HINTED = [name for name in CASES if name.split("-")[0] in {"rescale", "lookup", "covered", "divide", "rsqrt", "gap"}]


@pytest.mark.parametrize("name", CASES)
def test_what_was_computed_is_proven(name: str) -> None:
    statement, proof = CASES[name].proven()
    assert verify(statement, proof) > 100
    with pytest.raises(ProofError) as refused:
        verify(statement, proof + b"\0")
    assert refused.value.code == "proof.malformed"


@pytest.mark.parametrize("name", CASES)
def test_another_statement_is_refused(name: str) -> None:
    statement, proof = CASES[name].proven()
    changed = statement.outputs["y"].copy()
    changed.flat[-1] += 1 if changed.flat[-1] < statement.program.values[-1].high else -1
    others = [replace(statement, outputs={"y": changed})]
    for key, array in statement.inputs.items():
        low = statement.program.inputs[key].low
        other = array.copy()
        other.flat[0] = low if other.flat[0] != low else low + 1
        others.append(replace(statement, inputs={**statement.inputs, key: other}))
    if statement.weights is not None:
        others.append(replace(statement, weights=bytes([statement.weights[0] ^ 1]) + statement.weights[1:]))
    for number, choice in statement.choices.items():
        others.append(replace(statement, choices={number: (choice + 1) % 5}))
    for other in others:
        with pytest.raises(ProofError):
            verify(other, proof)


@pytest.mark.parametrize("name", CASES)
def test_each_message_counts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[Recorder] = []
    monkeypatch.setattr(proving, "Prover", lambda: said.append(Recorder()) or said[-1])
    statement, proof = CASES[name].proven()
    verify(statement, proof)
    of_label: dict[str, list[tuple[int, int]]] = {}
    for label, start, end in said[0].messages:
        if start < end:
            of_label.setdefault(label, []).append((start, end))
    for start, _ in (place for places in of_label.values() for place in {places[0], places[-1]}):
        changed = bytearray(proof)
        changed[start] ^= 1
        with pytest.raises(ProofError):
            verify(statement, bytes(changed))
        with pytest.raises(ProofError):
            verify(statement, proof[:start])


def counted(columns, table):
    """Count as an honest prover does, and leave out what is not in the table."""
    entries = list(zip(*(field.values(one).tolist() for one in table.components), strict=True))
    counts = np.zeros(1 << table.log, np.uint64)
    for column in columns:
        for looked in zip(*(one.reshape(-1).tolist() for one in column.components), strict=True):
            if looked in entries:
                counts[entries.index(looked)] += np.uint64(1)
    return counts


@pytest.mark.parametrize("by", [1, -1, 1 << 20])
@pytest.mark.parametrize("name", HINTED)
def test_another_hint_is_refused(name: str, by: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever says another result of one operation, and goes on honestly from there, is found out."""
    one = CASES[name]
    if any(isinstance(operation, RSqrt) for operation in one.program.operations) and abs(by) > 1:
        pytest.skip("its squares would not fit into int64 here")

    def run(program, inputs, weights):
        arrays = []
        changed = False
        for operation in program.operations:
            if isinstance(operation, Input | Weight):
                arrays.append((inputs if isinstance(operation, Input) else weights)[operation.name].astype(np.int64))
                continue
            try:
                arrays.append(operation.execute(*(arrays[operand] for operand in operation.operands)))
            except ProofError:
                arrays.append(np.zeros(program.values[len(arrays)].shape, np.int64))
            if isinstance(operation, Rescale | Lookup | Divide | RSqrt | Gap) and not changed:
                changed = True
                arrays[-1] = arrays[-1].copy()
                arrays[-1].flat[1 % arrays[-1].size] += by
        return proving.Run(tuple(arrays), {"y": arrays[-1]})

    monkeypatch.setattr(Program, "run", run)
    monkeypatch.setattr(proving, "count", counted)
    monkeypatch.setattr(proving._Proving, "require_zero", lambda *_: None)
    with pytest.raises(ProofError) as refused:  # at once where the result is beyond its declared range
        verify(*one.proven())
    assert refused.value.code in {"proof.lookup-refuted", "proof.equation-refuted", "proof.statement-invalid"}


def test_kept_results_are_inputs_of_later_programs() -> None:
    keep = Program(
        (X, Linear(terms=((0, 3),)), Rescale(a=1, shift=2, bits=9)),
        (Output(name="a", operand=1, public=False), Output(name="b", operand=2, public=False)),
    )
    first = prove(keep, {"x": RANDOM.integers(-100, 101, (3, 5))}, commit_weights(keep, {}))
    assert verify(first.statement, first.messages) > 100
    secret = [Input(name=name, shape=(3, 5), low=-300, high=300, public=False) for name in "ab"]
    use = Program((*secret, Linear(terms=((0, 1), (1, -1)))), (Output(name="y", operand=2, public=True),))
    second = prove(use, first.run.outputs, commit_weights(use, {}), first.kept)
    assert verify(second.statement, second.messages) > 100
    assert second.statement.given == first.statement.kept
    others = [
        (first, {"kept": bytes(32)}),
        (second, {"given": bytes(32)}),
        (second, {"given": None}),
        (first, {"kept": first.statement.kept + b"0"}),
    ]
    for proof, change in others:
        with pytest.raises(ProofError):
            verify(replace(proof.statement, **change), proof.messages)
    changed = {**first.run.outputs, "a": first.run.outputs["a"] + 1}
    other = prove(use, changed, commit_weights(use, {}))
    with pytest.raises(ProofError):
        verify(replace(other.statement, given=first.statement.kept), other.messages)


@pytest.mark.parametrize(
    "change",
    [
        {"outputs": {}},
        {"inputs": {}},
        {"weights": bytes(32)},
        {"choices": {3: np.zeros(1, np.int64)}},
        {"given": bytes(32)},
        {"kept": bytes(32)},
        {"outputs": {"y": np.zeros((3, 4), np.int64)}},
        {"outputs": {"y": np.zeros((3, 5))}},
        {"outputs": {"y": np.full((3, 5), 2**62)}},
    ],
)
def test_statements_fit_their_program(change: dict[str, object]) -> None:
    statement, proof = CASES["rescale"].proven()
    with pytest.raises(ProofError) as refused:
        verify(replace(statement, **change), proof)
    assert refused.value.code == "proof.statement-invalid"


@pytest.mark.parametrize(("shape", "size"), [((), 5), ((3,), 8), ((2, 3), 7), ((4,), 1)])
def test_masks_have_the_values_of_arrays_that_nobody_makes(shape: tuple[int, ...], size: int) -> None:
    chosen = RANDOM.integers(0, size, shape)
    full = (*shape, size)
    point = [field.K(*pair) for pair in RANDOM.integers(0, 1 << 62, (sum(logs(full)), 2)).tolist()]
    axes, places = by_axis(point, full), np.arange(size)
    for before, mask in ((False, places == chosen[..., None]), (True, places < chosen[..., None])):
        assert mask_value(chosen, axes, size, before=before) == public_value(mask.astype(np.int64), axes)


def test_a_choice_costs_a_verifier_no_more_than_its_numbers() -> None:
    """A few bytes that say they are a proof may not make it write down where nothing was chosen."""
    program = Program(
        (model("a", 512, 1), model("b", 1, 8192), MatMul(a=0, b=1), Argmax(a=2, bits=17)),
        (Output(name="y", operand=3, public=True),),
    )
    said = np.zeros(512, np.int64)
    tracemalloc.start()
    try:
        with pytest.raises(ProofError):
            verify(Statement(program, bytes(32), {}, {"y": said}, {3: said}), b"")
        assert tracemalloc.get_traced_memory()[1] < 1 << 23  # the whole has 2^22 numbers
    finally:
        tracemalloc.stop()


WRAPS = {
    "checked": ((X, Rescale(a=0, shift=4, bits=8), Linear(terms=((1, 16),))), 1),
    "covered": (
        (X, SQUARES, Rescale(a=0, shift=4, bits=6), Lookup(a=2, table=1, first=-10), Linear(terms=((2, 16),))),
        2,
    ),
}


@pytest.mark.parametrize("without", [False, True])
@pytest.mark.parametrize("name", WRAPS)
def test_hints_that_wrap_are_refused(name: str, without: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hints are elements of F: y + (p − 1) / 16 has a remainder that is larger by one, and only a look-up sees it."""
    operations, cut = WRAPS[name]
    program = Program(operations, (Output(name="y", operand=len(operations) - 1, public=True),))
    numbers = RANDOM.integers(-5, 6, (3, 5)) * 16 - 8 + RANDOM.integers(0, 15, (3, 5))
    honest = program.run({"x": numbers}, {}).arrays
    arrays = [*honest[:cut], honest[cut] + (field.P - 1) // 16, *honest[cut + 1 : -1], honest[-1] - 1]

    def make(arrays, number, exact=Arrays._make):
        node = arrays._plan.nodes[number]
        if not isinstance(node, Combination):
            return exact(arrays, number)
        total = sum(arrays.ints(term).astype(object) * factor for term, factor in node.terms) + node.constant
        return field.values((total * pow(2, -node.shift, field.P) % field.P).astype(np.uint64))

    def lowered(program, exact=walk.lower):
        plan = exact(program)
        del plan.listed[1 if name == "covered" else 0]  # what keeps y in its range
        return plan

    monkeypatch.setattr(Program, "run", lambda *_: proving.Run(tuple(arrays), {"y": arrays[-1]}))
    monkeypatch.setattr(Arrays, "_make", make)
    monkeypatch.setattr(proving, "count", counted)
    if without:
        monkeypatch.setattr(walk, "lower", lowered)
    proof = prove(program, {"x": numbers}, commit_weights(program, {}))
    if without:
        verify(proof.statement, proof.messages)
        return
    with pytest.raises(ProofError) as refused:
        verify(proof.statement, proof.messages)
    assert refused.value.code == "proof.lookup-refuted"
