"""A prover that lies about anything is caught, by the check that is there for it.

`Liar` proves as the honest prover does, but with numbers of its own in one place; it goes on consistently from there.
"""

import contextlib
import zlib
from dataclasses import replace

import numpy as np
import pytest
from test_proof_answers import LLAMA, Everywhere, random_weights

from mitai.errors import ProofError
from mitai.mpc.models.config import LlamaConfig
from mitai.proof import commitment, field, proving
from mitai.proof.commitment import Commitment, commit, open_claims, tree
from mitai.proof.field import K
from mitai.proof.graph import Graph
from mitai.proof.lowering import lower
from mitai.proof.models.calibration import calibrate, quantise, sample
from mitai.proof.models.llama import Llama
from mitai.proof.operations import (
    Argmax,
    Constant,
    Divide,
    Gap,
    Gather,
    Input,
    Lookup,
    MatMul,
    Multiply,
    Rescale,
    RSqrt,
    Weight,
)
from mitai.proof.program import Run
from mitai.proof.proving import commit_arrays, commit_weights, prove
from mitai.proof.transcript import Prover, Verifier
from mitai.proof.verify import commitment as checked
from mitai.proof.verify.claims import Claim
from mitai.proof.verify.commitment import check_openings
from mitai.proof.verify.program import verify

SMALL = LLAMA | {"vocab_size": 16, "hidden_size": 8, "intermediate_size": 8}


def small_model():
    rng = np.random.default_rng(8)
    model = Llama(LlamaConfig(**SMALL))
    arrays = random_weights(model.write(Graph(Everywhere()), 1).program(), rng)
    reaches = calibrate(arrays, [sample(model, rng.integers(0, 16, 8))])
    program = model.write(Graph(reaches), 3, answers=2, keep=False).program()
    return program, commit_weights(program, quantise(model, reaches, arrays))


PROGRAM, WEIGHTS = small_model()
TOKENS = {"tokens": np.array([3, 9, 14])}
PLAN = lower(PROGRAM)
HINTS = PLAN.committed("hint")
COMPUTED = [n for n, one in enumerate(PROGRAM.operations) if not isinstance(one, Constant | Input | Weight)]
SOME = slice(None, None, 12)


def some_place(array, seed):
    """A place of an array, another one for each seed."""
    return np.unravel_index(zlib.crc32(b"%d" % seed) % array.size, array.shape)


@pytest.fixture
def lenient(monkeypatch):
    """The prover counts what it can find in a table, and minds nothing."""

    def count(columns, table):
        counts = np.zeros(1 << table.log, np.int64)
        for column in columns:
            places = column.components[0].reshape(-1) - table.lo
            counts += np.bincount(places[(places >= 0) & (places < table.size)], minlength=len(counts))
        return counts.astype(np.uint64)

    monkeypatch.setattr(proving, "count", count)
    monkeypatch.setattr(Prover, "require_zero", lambda *_: None)


def caught(proof):
    """The step at which the verifier finds out."""
    with pytest.raises(ProofError) as refused:
        verify(proof.statement, proof.messages)
    return f"{refused.value.code} {refused.value.step}"


def with_other_hint(monkeypatch, number, by):
    honest = proving.Arrays.ints

    def ints(self, node):
        array = honest(self, node)
        if node == number and not getattr(self, "lied", False):
            array = array.copy()
            array[some_place(array, number)] += by
            self._ints[number], self.lied = array, True
        return array

    monkeypatch.setattr(proving.Arrays, "ints", ints)


def every_hint(monkeypatch, number, by):
    with_other_hint(monkeypatch, number, by)
    step = caught(prove(PROGRAM, TOKENS, WEIGHTS))
    role, allowed = PLAN.nodes[number].role, ["proof.lookup-refuted sums"]
    if role == "largest":  # no zero in its row
        allowed.append("proof.product-refuted sum-check")
    elif role not in ("result", "remainder"):  # a limb: what is left above it is no integer
        allowed.append("proof.equation-refuted combination")
    assert step in allowed, role


@pytest.mark.parametrize("number", HINTS[SOME])
def test_some_witness_values(lenient, monkeypatch, number):
    every_hint(monkeypatch, number, 1)


@pytest.mark.slow
@pytest.mark.parametrize("by", [1, -1])
@pytest.mark.parametrize("number", HINTS)
def test_every_witness_value(lenient, monkeypatch, number, by):
    every_hint(monkeypatch, number, by)


def with_other_result(monkeypatch, number):
    """One operation gives another result, and all that follow it go on with that."""

    def run(self, inputs, weights):
        arrays = []
        for n, operation in enumerate(self.operations):
            if isinstance(operation, Input | Weight):
                arrays.append((inputs if isinstance(operation, Input) else weights)[operation.name])
                continue
            array = operation.execute(*(arrays[operand] for operand in operation.operands))
            if n == number:
                array = array.copy()
                value = self.values[n]
                place = some_place(array, n)
                array[place] += 1 if array[place] < value.high else -1
            arrays.append(array)
        return Run(tuple(arrays), {output.name: arrays[output.operand] for output in self.outputs})

    monkeypatch.setattr(type(PROGRAM), "run", run)


def every_operation(monkeypatch, number):
    with_other_result(monkeypatch, number)
    step = caught(prove(PROGRAM, TOKENS, WEIGHTS))
    match PROGRAM.operations[number]:
        case Rescale() | Lookup() | Divide() | RSqrt() | Gap() | Argmax():
            assert step == "proof.lookup-refuted sums"
        case Multiply() | MatMul() | Gather():
            assert step == "proof.product-refuted sum-check"
        case _:  # no step of its own: it is noticed where its operands come from
            assert step in ("proof.product-refuted sum-check", "proof.equation-refuted combination")


@pytest.mark.parametrize("number", COMPUTED[SOME])
def test_some_operations(lenient, monkeypatch, number):
    every_operation(monkeypatch, number)


@pytest.mark.slow
@pytest.mark.parametrize("number", COMPUTED)
def test_every_operation(lenient, monkeypatch, number):
    every_operation(monkeypatch, number)


# --- other models, prompts and caches ---


@pytest.mark.parametrize("name", ["layers.0.query.weight", "layers.0.down.weight", "final.weight"])
def test_another_model(lenient, name):
    """Weights that differ in one number, under the root of the model that was promised."""
    arrays = {name: array.copy() for name, array in WEIGHTS.arrays.items()}
    arrays[name].flat[0] += 1
    other = commit_weights(PROGRAM, arrays)
    proof = prove(PROGRAM, TOKENS, other)
    assert verify(proof.statement, proof.messages) > 100
    lie = replace(proof, statement=replace(proof.statement, weights=WEIGHTS.root))
    assert caught(lie)
    mixed = prove(PROGRAM, TOKENS, proving.Weights(arrays, WEIGHTS.commitment))
    assert caught(mixed) in ("proof.product-refuted sum-check", "proof.value-refuted opening")


def test_another_prompt():
    proof = prove(PROGRAM, TOKENS, WEIGHTS)
    for place in range(3):
        tokens = TOKENS["tokens"].copy()
        tokens[place] ^= 1
        assert caught(replace(proof, statement=replace(proof.statement, inputs={"tokens": tokens})))


def test_another_cache(lenient):
    """A further token is proven under what the proof before kept, and nothing else."""
    rng = np.random.default_rng(8)
    model = Llama(LlamaConfig(**SMALL))
    arrays = random_weights(model.write(Graph(Everywhere()), 1).program(), rng)
    reaches = calibrate(arrays, [sample(model, rng.integers(0, 16, 8))])
    first, second = model.write(Graph(reaches), 3).program(), model.write(Graph(reaches), 1, 3).program()
    weights = commit_weights(first, quantise(model, reaches, arrays))
    before = prove(first, TOKENS, weights)
    cache = before.run.outputs["cache"]
    other = cache.copy()
    other.flat[5] += 1
    token = {"tokens": before.statement.outputs["token"]}
    honest = prove(second, {**token, "cache": cache}, weights, before.kept)
    assert honest.statement.given == before.statement.kept
    assert verify(honest.statement, honest.messages) > 100
    lie = prove(second, {**token, "cache": other}, weights, before.kept)
    assert caught(lie) == "proof.equation-refuted blocks"
    own = prove(second, {**token, "cache": other}, weights, commit_arrays([other]))
    assert own.statement.given != before.statement.kept
    assert caught(replace(own, statement=replace(own.statement, given=before.statement.kept)))


# --- challenges ---


class Early(Prover):
    """One message is made up after the challenge that should come after it is known."""

    def __init__(self, number):
        super().__init__()
        self.number, self.sent, self.late = number, 0, None

    def send_bytes(self, label, data):
        if self.sent == self.number:
            self.late = (label, data)
            self._said.append(data)
        else:
            super().send_bytes(label, data)
        self.sent += 1

    def _draw(self, label, count, size):
        data = super()._draw(label, count, size)
        if self.late:
            self._step(1, *self.late)
            self.late = None
        return data


def messages(monkeypatch, number):
    made = []

    def prover(*_):
        made.append(Early(number))
        return made[0]

    monkeypatch.setattr(proving, "Prover", prover)
    proof = prove(PROGRAM, TOKENS, WEIGHTS)
    return proof, made[0]


def every_challenge(monkeypatch, share):
    count = messages(monkeypatch, -1)[1].sent
    tried = 0
    for number in range(0, count, count // share):
        proof, prover = messages(monkeypatch, number)
        if prover.late is None:
            tried += 1
            assert caught(proof)
    assert tried > share // 2


def test_some_challenges_come_after_their_messages(monkeypatch):
    every_challenge(monkeypatch, 5)


@pytest.mark.slow
def test_challenges_come_after_their_messages(monkeypatch):
    every_challenge(monkeypatch, 150)


def test_grinding_pays_as_little_as_the_error_says(monkeypatch):
    """With 4 places instead of 152: a quarter of the columns is no code, and the prover tries again and again."""
    for module in (commitment, checked):
        monkeypatch.setattr(module, "QUERIES", 4)
    array = np.arange(1 << 10, dtype=np.uint64)
    honest = commit(array)
    code = honest.code[0].copy()
    code[::4] ^= np.uint64(1)
    levels = tree(code)
    forged = Commitment(levels[-1].tobytes(), honest.elements, levels, code[None])
    point = [K(3)] * 10
    claim = [Claim(point, field.evaluate(array, point))]
    passed = 0
    for attempt in range(200):
        prover = Prover()
        prover.bind("attempt", b"%d" % attempt)
        open_claims(prover, forged, claim)
        verifier = Verifier(prover.proof)
        verifier.bind("attempt", b"%d" % attempt)
        with contextlib.suppress(ProofError):
            check_openings(verifier, forged.root, 10, claim)
            passed += 1
    assert 40 < passed < 87  # 200 · (3/4)^4 = 63, and five standard deviations would be 33
