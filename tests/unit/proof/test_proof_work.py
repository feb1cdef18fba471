"""Work before challenges: how much there is follows from the statement, and nothing else passes for it."""

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitai.errors import ProofError
from mitai.proof.operations import Input, MatMul, Rescale, Sum, Weight
from mitai.proof.program import Output, Program
from mitai.proof.proving import commit_weights, prove
from mitai.proof.transcript import NONCE_BYTES, Prover, worked
from mitai.proof.verify import soundness
from mitai.proof.verify.commitment import MAX_LOG, Shape
from mitai.proof.verify.hiding import MAX_USES, HidingShape
from mitai.proof.verify.program import verify
from mitai.proof.verify.sizes import before_openings
from mitai.proof.verify.statement import uses_of

PROGRAM = Program(
    (
        Input(name="x", shape=(8, 64), low=-100, high=100, public=True),
        Weight(name="w", shape=(64, 32), bits=8),
        MatMul(a=0, b=1),
        Rescale(a=2, shift=4, bits=12),
        Sum(a=3, axis=1),
    ),
    (Output(name="y", operand=4, public=True), Output(name="z", operand=3, public=False)),
)
RNG = np.random.default_rng(31)
X = {"x": RNG.integers(-9, 10, (8, 64))}
ARRAYS = {"w": RNG.integers(-20, 20, (64, 32))}
USES = [0, 2]
LEAST = Fraction(1, 1 << soundness.LEAST_BITS)
LOG = st.integers(0, MAX_LOG)
TABLE = st.integers(0, 16)


@pytest.fixture
def little(monkeypatch):
    """So little may go wrong that this program, too, needs work."""
    shares = {"LOOKUPS": Fraction(1, 1 << 120), "OPENINGS": Fraction(1, 1 << 108)}
    for name, share in shares.items():
        monkeypatch.setattr(soundness, name, share)


def proven(uses=0, inputs=X):
    return prove(PROGRAM, inputs, commit_weights(PROGRAM, ARRAYS, uses))


def refused(proof, messages=None):
    with pytest.raises(ProofError) as caught:
        verify(proof.statement, proof.messages if messages is None else messages)
    return caught.value.code


@pytest.fixture
def said(monkeypatch):
    """All that is bound, said or drawn of a proof: kind, label, where it begins in the proof."""
    steps, exact = [], Prover._step

    def step(self, kind, label, data):
        steps.append((kind, label, len(self.proof) if isinstance(self, Prover) else None))
        exact(self, kind, label, data)

    monkeypatch.setattr(Prover, "_step", step)
    return steps


# --- how much ---


@given(st.lists(st.tuples(LOG, TABLE, st.integers(1, 3)), max_size=16))
def test_any_lookups_need_no_more_than_their_share(sizes):
    errors = [soundness.lookups(*size) for size in sizes]
    work = soundness.work(errors, soundness.LOOKUPS)
    assert sum(error / 2**bits for error, bits in zip(errors, work, strict=True)) <= soundness.LOOKUPS
    assert bool(any(work)) == (sum(errors) > soundness.LOOKUPS)


@given(st.dictionaries(st.sampled_from(["weight", "input", "result", "hint"]), LOG), st.integers(0, MAX_USES))
def test_any_openings_need_no_more_than_their_share(opened, uses):
    work = before_openings(opened, uses)
    total = Fraction(0)
    for source, log in opened.items():
        if uses == 0:
            one = Shape.of(log)
            error = soundness.opening(one.positions, one.rows)
        else:
            one = HidingShape.of(log, uses_of(source, uses))
            error = soundness.hidden_opening(one.coefficients, one.leaves, one.rows)
        total += error / 2 ** work[source]
    assert total <= soundness.OPENINGS
    assert max(work.values(), default=0) <= 6


def test_shares_are_less_than_all():
    """A sixteenth is left, of which the last argument of a proof that hides takes three quarters at most."""
    rest = LEAST - soundness.LOOKUPS - soundness.OPENINGS
    shape = HidingShape.of_pads(1 << 20)
    assert rest == LEAST / 16
    assert soundness.hidden(shape.coefficients, shape.leaves, 12, 1 << 20) < rest * 3 / 4
    assert soundness.rounds(1 << 19) < rest / 8  # an answer of Llama 7B has a tenth as many


def test_no_more_work_than_the_most():
    most = soundness.LOOKUPS * 2**soundness.MAX_WORK
    assert soundness.work([most], soundness.LOOKUPS) == [soundness.MAX_WORK]
    with pytest.raises(ProofError) as caught:
        soundness.work([most + soundness.LOOKUPS], soundness.LOOKUPS)
    assert caught.value.code == "proof.too-few-bits"
    assert soundness.work([], soundness.LOOKUPS) == []


@pytest.mark.parametrize("bits", range(13))
def test_zeros_are_counted_from_the_first_bit(bits):
    state = b"state".ljust(32)
    nonce = next(n for n in (k.to_bytes(NONCE_BYTES, "little") for k in range(1 << 20)) if worked(state, n, bits))
    assert all(worked(state, nonce, fewer) for fewer in range(bits))
    assert not worked(state, nonce, 60)


# --- whether it is done ---


@pytest.mark.parametrize("uses", USES)
def test_small_proofs_have_none(said, uses):
    proof = proven(uses)
    assert verify(proof.statement, proof.messages) > 101
    assert "work" not in [label for _, label, _ in said]


@pytest.mark.parametrize("uses", USES)
def test_work_is_counted_where_it_is_done(said, little, monkeypatch, uses):
    proof = proven(uses)
    following = {after for (_, label, _), (_, after, _) in pairwise(said) if label == "work"}
    assert following == {"look-ups", "round", "columns"} | ({"hidden"} if uses else set())
    bits = verify(proof.statement, proof.messages)
    monkeypatch.undo()
    without = proven(uses)
    assert bits > verify(without.statement, without.messages) + 1


@pytest.mark.parametrize("uses", USES)
def test_who_leaves_it_out(little, monkeypatch, uses):
    monkeypatch.setattr(Prover, "work", lambda *_: None)
    assert refused(proven(uses))  # what is said next is no work


@pytest.mark.parametrize("uses", USES)
def test_who_does_not_work(little, monkeypatch, uses):
    """Each piece of work by itself: an honest prover but for one nonce, and all that follows fits it."""
    honest, done, skipped = Prover.work, [], None

    def work(self, bits):
        if bits and len(done) == skipped:
            numbers = (k.to_bytes(NONCE_BYTES, "little") for k in range(1 << 20))
            self.send_bytes("work", next(nonce for nonce in numbers if not worked(self._state, nonce, bits)))
        else:
            honest(self, bits)
        done.extend([bits] if bits else [])

    monkeypatch.setattr(Prover, "work", work)
    proof = proven(uses)
    assert verify(proof.statement, proof.messages)
    for skipped in range(0, len(done), 1 + 2 * uses):  # noqa: B007 - which `work` looks at
        done.clear()
        assert refused(proven(uses)) == "proof.work-refuted"


@pytest.mark.parametrize("uses", USES)
def test_who_works_once_for_all(little, monkeypatch, uses):
    """A nonce that was found for another state, here that of another statement, or of the work before."""
    nonces, honest = [], Prover.work

    def keep(self, bits):
        before = len(self.proof)
        honest(self, bits)
        if bits:
            nonces.append(self.proof[before:])

    monkeypatch.setattr(Prover, "work", keep)
    proven(uses, {"x": X["x"] + 1})
    for other in (nonces, [nonces[0]] * len(nonces)):
        left = iter(other)
        monkeypatch.setattr(
            Prover, "work", lambda self, bits, left=left: self.send_bytes("work", next(left)) if bits else None
        )
        assert refused(proven(uses)) == "proof.work-refuted"


@pytest.mark.parametrize("uses", USES)
def test_who_works_where_none_is_due(monkeypatch, uses):
    honest = Prover.work
    monkeypatch.setattr(Prover, "work", lambda self, bits: honest(self, bits or 1))
    assert refused(proven(uses))


def test_no_nonce_may_be_changed(said, little):
    proof = proven()
    for _, label, at in said:
        if label == "work":
            changed = bytearray(proof.messages)
            changed[at + 5] ^= 1
            assert refused(proof, bytes(changed))


def test_work_of_another_statement(little):
    proof, other = proven(), proven(0, {"x": X["x"] + 1})
    assert refused(replace(proof, statement=other.statement))


# --- how many bits there are ---


@pytest.mark.parametrize("uses", USES)
def test_too_few_bits_are_refused(uses):
    proof = proven(uses)
    bits = verify(proof.statement, proof.messages)
    assert 100 < bits < 110
    assert verify(proof.statement, proof.messages, int(bits)) == bits
    with pytest.raises(ProofError) as caught:
        verify(proof.statement, proof.messages, int(bits) + 1)
    assert caught.value.code == "proof.too-few-bits"


def test_the_prover_refuses_what_no_work_makes_sound(monkeypatch):
    monkeypatch.setattr(soundness, "LOOKUPS", Fraction(1, 1 << 200))
    monkeypatch.setattr(Program, "run", None)  # nothing is computed any more
    with pytest.raises(ProofError) as caught:
        proven()
    assert caught.value.code == "proof.too-few-bits"
