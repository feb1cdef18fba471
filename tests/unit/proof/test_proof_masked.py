"""Proofs that hide: what is said has a pad, what has to hold is shown for the pads, and nothing may be otherwise."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate, pairwise

import numpy as np
import pytest

from mitai.errors import ProofError
from mitai.proof import field, masked, proving
from mitai.proof.field import K, P
from mitai.proof.graph import Graph
from mitai.proof.masked import MaskedProver
from mitai.proof.models.net import Choice, Conv, Dense, Function, Net, Pool
from mitai.proof.operations import (
    Argmax,
    Concat,
    Divide,
    Gather,
    Input,
    Linear,
    MatMul,
    Multiply,
    Rescale,
    Reshape,
    Sum,
    Weight,
)
from mitai.proof.program import Output, Program
from mitai.proof.proving import Proof, commit_weights, prove
from mitai.proof.transcript import Prover
from mitai.proof.verify.masked import Equations, Hidden
from mitai.proof.verify.program import verify

RANDOM = np.random.default_rng(12)
HASHES = {"count", "pads", "hints"}
LAST = {"products", "mask", "sum", "combination", "polynomial", "columns", "salts", "path"}
SMALL = Program(
    (
        Input(name="x", shape=(3, 5), low=-100, high=100, public=True),
        Weight(name="w", shape=(5, 4), bits=8),
        MatMul(a=0, b=1),
        Multiply(a=2, b=2),
        Sum(a=3, axis=1),
    ),
    (Output(name="y", operand=4, public=True), Output(name="z", operand=2, public=False)),
)
LARGE = Program(
    (
        Input(name="x", shape=(3,), low=0, high=6, public=True),
        Weight(name="e", shape=(7, 5), bits=8),
        Gather(a=1, indices=0, axis=0),
        Weight(name="w", shape=(5, 6), bits=8),
        MatMul(a=2, b=3),
        Rescale(a=4, shift=3, bits=16),
        Linear(terms=((5, 0),), constant=77),
        Divide(a=6, b=6, bits=2),
        Concat(parts=(5, 7), axis=0),
        Argmax(a=8, bits=17),
    ),
    (Output(name="y", operand=9, public=True),),
)
REACHES = {"x": 2, "steps.1.weight": 0, "steps.1.bias": 0, "steps.1": 5, "steps.4": 4, "steps.5.weight": 0}
NET = (
    Net(
        input=(2, 4, 4),
        steps=(
            Conv(a=0, out=3, kernel=(2, 2), pads=(1, 1, 0, 0)),
            Function(a=1, name="tanh"),
            Pool(a=2, of="max", kernel=(2, 2), stride=(2, 2), pads=(0, 0, 1, 1)),
            Pool(a=3, of="mean", kernel=(2, 2), pads=(1, 0, 0, 0)),
            Dense(a=4, out=3, bias=False),
            Choice(a=5),
        ),
    )
    .write(Graph(REACHES), 2)
    .program()
)


def inputs(program: Program) -> dict[str, np.ndarray]:
    return {one.name: RANDOM.integers(one.low, one.high + 1, one.shape) for one in program.inputs.values()}


def weights(program: Program) -> dict[str, np.ndarray]:
    return {name: RANDOM.integers(-128, 128, one.shape) for name, one in program.weights.items()}


def proven(program: Program = SMALL, uses: int = 1) -> Proof:
    return prove(program, inputs(program), commit_weights(program, weights(program), uses))


def test_where_nothing_is_said_there_is_nothing_to_hide() -> None:
    program = Program((SMALL.operations[0], Reshape(a=0, shape=(3, 5, 1))), (Output(name="y", operand=1, public=True),))
    proof = proven(program)
    assert verify(proof.statement, proof.messages) > 100
    with pytest.raises(ProofError):
        verify(replace(proof.statement, outputs={"y": proof.statement.outputs["y"][::-1]}), proof.messages)


def recorded(monkeypatch: pytest.MonkeyPatch, make: Callable[[], Proof]) -> tuple[list[tuple[str, bytes]], Proof]:
    """Return all messages of a proof, and the proof."""
    sent: list[tuple[str, bytes]] = []
    exact = Prover.send_bytes
    with monkeypatch.context() as patch:
        patch.setattr(
            Prover,
            "send_bytes",
            lambda prover, label, data: (sent.append((label, bytes(data))), exact(prover, label, data)),
        )
        return sent, make()


@pytest.mark.parametrize("program", [SMALL, LARGE, NET])
def test_what_was_computed_is_proven(program: Program) -> None:
    proof = proven(program, 2)
    assert verify(proof.statement, proof.messages) > 100
    other = {name: array ^ 1 for name, array in proof.statement.outputs.items()}
    for change in (
        {"outputs": other},
        {"inputs": {"x": np.roll(proof.statement.inputs["x"], 1)}},
        {"weights": bytes(32)},
        {"uses": 0},
        {"uses": 1},
        {"uses": 3},
    ):
        with pytest.raises(ProofError):
            verify(replace(proof.statement, **change), proof.messages)


def test_a_program_without_weights() -> None:
    program = Program((*SMALL.operations[:1], Sum(a=0, axis=1)), (Output(name="y", operand=1, public=True),))
    proof = proven(program)
    assert verify(proof.statement, proof.messages) > 100
    with pytest.raises(ProofError):
        verify(replace(proof.statement, uses=2), proof.messages)


def test_each_message_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    sent, proof = recorded(monkeypatch, proven)
    ends = [0, *accumulate(len(data) for _, data in sent)]
    verify(proof.statement, proof.messages)
    assert ends[-1] == len(proof.messages)
    for start, end in pairwise(ends):
        changed = bytearray(proof.messages)
        changed[random.Random(start).randrange(start, end) if start < end else 0] ^= 1
        with pytest.raises(ProofError):
            verify(proof.statement, bytes(changed))
    for wrong in (b"", proof.messages[:-1], proof.messages[: ends[len(ends) // 2]], proof.messages + b"\0"):
        with pytest.raises(ProofError) as refused:
            verify(proof.statement, wrong)
        assert refused.value.code == "proof.malformed"


@pytest.mark.parametrize("by", [1, -1])
def test_there_are_as_many_pads_as_messages(by: int, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = masked._messages
    monkeypatch.setattr(masked, "_messages", lambda statement: exact(statement) + by)
    if by < 0:
        with pytest.raises(StopIteration):
            proven()
        return
    monkeypatch.setattr(masked, "prove_hidden", lambda *_: None)
    proof = proven()
    with pytest.raises(ProofError) as refused:
        verify(proof.statement, proof.messages)
    assert (refused.value.code, refused.value.step) == ("proof.malformed", "pads")


@pytest.mark.parametrize("program", [SMALL, LARGE, NET])
def test_whatever_is_said_has_a_pad_of_its_own(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """All elements are sent plus the next pad; what else is sent is a hash, or belongs to the last argument."""
    meant: list[K] = []
    provers: list[MaskedProver] = []
    exact = MaskedProver.send_elements

    def send_elements(prover: MaskedProver, label: str, *values: K) -> None:
        meant.extend(values)
        provers.append(prover)
        exact(prover, label, *values)

    monkeypatch.setattr(MaskedProver, "send_elements", send_elements)
    sent, proof = recorded(monkeypatch, lambda: proven(program))
    assert verify(proof.statement, proof.messages) > 100
    walk = sent[: [label for label, _ in sent].index("products")]
    words = b"".join(data for label, data in walk if label not in HASHES)
    said = field.elements(np.frombuffer(words, np.uint64).reshape(-1, 2))
    pads = field.elements(provers[0]._pads.values)
    assert [one - value for one, value in zip(said, meant, strict=True)] == pads
    assert len(set(pads)) == len(pads)
    assert {label for label, _ in sent[len(walk) :]} == LAST


@pytest.mark.parametrize("program", [LARGE, NET])
def test_two_proofs_have_no_word_in_common(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    own, given = weights(program), inputs(program)
    committed = commit_weights(program, own, 2)
    one, other = (recorded(monkeypatch, lambda: prove(program, given, committed))[0] for _ in range(2))
    columns = [label for label, _ in one].index("salts") - 1  # of which one of the weights may be shown twice
    for (_, data), (_, again) in zip(one[1:columns], other[1:columns], strict=True):
        assert not (np.frombuffer(data, np.uint64) == np.frombuffer(again, np.uint64)).any()


def test_a_lie_is_refused_by_the_last_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    """A prover that computes otherwise, and says of everything else what fits."""
    one = LARGE.operations[5]
    assert isinstance(one, Rescale)
    monkeypatch.setattr(Rescale, "execute", lambda self, a: (a >> 3) + 1)
    monkeypatch.setattr(proving, "count", lambda columns, table: np.zeros(1 << table.log, np.uint64))
    proof = proven(LARGE)
    with pytest.raises(ProofError) as refused:
        verify(proof.statement, proof.messages)
    assert refused.value.code == "proof.hidden-refuted"


def test_false_products_of_a_net_are_refused_by_the_last_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MatMul, "execute", lambda self, a, b: a @ b + 1)
    proof = proven(NET)
    with pytest.raises(ProofError) as refused:
        verify(proof.statement, proof.messages)
    assert refused.value.code == "proof.hidden-refuted"


def test_what_hides_is_used_up() -> None:
    own, given = weights(SMALL), inputs(SMALL)
    committed = commit_weights(SMALL, own, 2)
    first = prove(SMALL, given, committed)
    use = Program(
        (Input(name="z", shape=(3, 4), low=-(2**20), high=2**20, public=False), Sum(a=0, axis=1)),
        (Output(name="y", operand=1, public=True),),
    )
    free = commit_weights(use, {}, 1)
    second = prove(use, {"z": first.run.outputs["z"]}, free, first.kept)
    assert verify(second.statement, second.messages) > 100
    assert second.statement.given == first.statement.kept
    with pytest.raises(ProofError):
        verify(replace(second.statement, given=bytes(32)), second.messages)
    with pytest.raises(ProofError):
        verify(replace(first.statement, kept=bytes(32)), first.messages)
    prove(SMALL, given, committed)
    for again in (
        lambda: prove(SMALL, given, committed),
        lambda: prove(use, {"z": first.run.outputs["z"]}, free, first.kept),
    ):
        with pytest.raises(ProofError) as refused:
            again()
        assert refused.value.code == "proof.uses-spent"
    with pytest.raises(ProofError, match="hides"):
        prove(use, {"z": first.run.outputs["z"]}, commit_weights(use, {}), first.kept)


def expression(seed: int) -> tuple[Equations, list[K], list[K], K, Hidden]:
    """Return random equations, what was said, pads, and a value that was hidden, by both names."""
    rng = random.Random(seed)
    draw = lambda: K(rng.randrange(P), rng.randrange(P))  # noqa: E731
    equations, said, pads = Equations(), [draw() for _ in range(6)], [draw() for _ in range(6)]
    plain = [one - pad for one, pad in zip(said, pads, strict=True)]
    hidden: list[K] = [equations.message(one) for one in said]
    messages = list(zip(plain, hidden, strict=True))
    known = list(messages)
    for _ in range(30):
        (a, x), (b, y), c = rng.choice(known), rng.choice(known), draw()
        (m, r), (n, s) = rng.choice(messages), rng.choice(messages)
        known += rng.choice(
            [
                [(a + b, x + y)],
                [(a - b, x - y), (c - a, c - x)],
                [(a * c, x * c), (c * a, c * x)],
                [(a + c, x + c), (c + a, c + x), (a - c, x - c)],
                [(m * n, r * s)],
            ]
        )
    value, node = known[-1]
    assert isinstance(node, Hidden)
    return equations, said, pads, value, node


@pytest.mark.parametrize("seed", range(20))
def test_equations_hold_for_pads_if_they_do_for_numbers(seed: int) -> None:
    for false in (field.ZERO, K(1)):
        equations, _, pads, value, node = expression(seed)
        equations.zeros += [(node - value).node, (node * K(3) - (K(3) * value + false)).node]
        equation, openings = equations.combined(K(5, 7))
        assert openings == []
        found = field.ZERO
        for factor, pad in zip(field.elements(equation.linear), pads, strict=True):
            found = found + factor * pad
        for (left, right), factor in zip(equation.products, field.elements(equation.factors), strict=True):
            found = found + factor * pads[left] * pads[right]
        assert (found == equation.constant) == (false == field.ZERO)


@pytest.mark.parametrize("uses", [-1, 4097, 1 << 70])
def test_no_statement_has_uses_that_there_are_not(uses: int) -> None:
    with pytest.raises(ProofError) as refused:
        replace(proven().statement, uses=uses)
    assert refused.value.code == "proof.statement-invalid"


def test_hidden_numbers_have_no_value() -> None:
    equations = Equations()
    one = equations.message(K(5))
    with pytest.raises(TypeError):
        _ = one == K(5)
    with pytest.raises(TypeError):
        _ = K(5) == one
    with pytest.raises(TypeError):
        hash(one)
    with pytest.raises(TypeError):
        _ = one * (one + K(1))
    for use in (lambda: one.a, lambda: field.array([one]), lambda: Prover().send_elements("x", one)):
        with pytest.raises(AttributeError):
            use()
    assert "5" not in repr(one)
