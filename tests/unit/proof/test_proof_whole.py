"""All arguments together: a true statement passes, and nothing of its proof may be otherwise."""

import numpy as np
import pytest

from mitai.errors import ProofError
from mitai.proof.transcript import Prover
from mitai.proof.verify import soundness
from mitai.proof.verify.lookups import Table
from proof_rig import SQUARES, Recorder, example, prove, verify


def proven(prover=None, change=None):
    x, y, product = example()
    if change:
        change(x, y, product)
    prover = prover or Prover()
    return prove(x, y, product, prover).root, prover.proof, product


def test_a_true_statement():
    root, proof, product = proven()
    verifier = verify(proof, root, product)
    assert soundness.bits(verifier.error) > 100


def test_no_message_may_be_changed():
    """Neither a byte of it after the proof was made, nor what the prover says (which then goes on consistently)."""
    recorder = Recorder()
    root, proof, product = proven(recorder)
    for number, (_, start, end) in enumerate(recorder.messages):
        if start == end:
            continue
        changed = bytearray(proof)
        changed[start + (end - start) // 2] ^= 1
        otherwise = proven(Recorder(change=number))
        assert otherwise[0] == root
        for false in (bytes(changed), otherwise[1]):
            with pytest.raises(ProofError):
                verify(false, root, product)
    assert {label for label, *_ in recorder.messages} == {
        "round", "factors", "sum", "halves", "columns", "combination", "path"
    }  # fmt: skip


def test_false_statements():
    def other_product(x, y, product):
        product[1, 1] += 1

    def other_x(x, y, product):
        x[0, 0] = -x[0, 0]  # has the same square

    def other_y(x, y, product):
        y[0, 0] += 1
        product[:] = x @ y.T

    for change in (other_product, other_x, other_y):
        root, proof, product = proven(change=change)
        with pytest.raises(ProofError):
            verify(proof, root, product)


def test_public_inputs_are_bound():
    root, proof, product = proven()
    with pytest.raises(ProofError):
        verify(proof, bytes(32), product)
    with pytest.raises(ProofError):
        verify(proof, root, product + 1)
    numbers = np.arange(-8, 9)
    with pytest.raises(ProofError):
        verify(proof, root, product, Table(numbers, numbers**2 + (numbers == 8)))


def test_lengths():
    root, proof, product = proven()
    for wrong in (b"", proof[:-1], proof[:1000], proof + b"\0"):
        with pytest.raises(ProofError) as caught:
            verify(wrong, root, product)
        assert caught.value.code == "proof.malformed"


def test_large_statements_have_100_bits():
    error = 4 * soundness.opening(17, 11) + soundness.lookups(26, 16, 2) + 1000 * soundness.rounds(200)
    assert 100 < soundness.bits(error) < 101
    assert soundness.bits(soundness.opening(10, 4)) == pytest.approx(103.07, abs=0.01)
    assert soundness.bits(0 * error) == float("inf")


def test_table_digests_differ():
    assert SQUARES.digest != Table(np.arange(-8, 9)).digest
