"""Models whose weights are hidden: prepared, asked, verified, and counted on the disk."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from mitai.errors import ProofError
from mitai.proof.operations import Input, MatMul, Sum, Weight
from mitai.proof.program import Output, Program
from mitai.proof.proving import Weights, prove
from mitai.proof.stored import CODE, MARGIN, SALTS, SPENT, Counted, read, write_commitment, write_weights
from mitai.proof.verify.program import verify

PROGRAM = Program(
    (
        Input(name="x", shape=(3, 9), low=-100, high=100, public=True),
        Weight(name="w", shape=(9, 4), bits=8),
        MatMul(a=0, b=1),
    ),
    (Output(name="y", operand=2, public=True),),
)
X = {"x": np.arange(27).reshape(3, 9)}
USES = 3


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_weights(tmp_path, PROGRAM, lambda _: [np.arange(36) - 18])
    write_commitment(tmp_path, PROGRAM, uses=USES)
    return tmp_path


def left(folder: Path) -> int:
    return left_of(read(folder, PROGRAM, USES))


def left_of(weights: Weights) -> int:
    assert isinstance(weights.commitment, Counted)
    return weights.commitment.left


@pytest.mark.parametrize("code", [True, False])
def test_a_stored_commitment_serves_its_number_of_proofs(tmp_path: Path, code: bool) -> None:
    write_weights(tmp_path, PROGRAM, lambda _: [np.arange(36) - 18])
    root = write_commitment(tmp_path, PROGRAM, uses=USES, code=code)
    assert (tmp_path / CODE).exists() == code
    for spent in range(USES):
        assert left(tmp_path) == USES - spent
        proof = prove(PROGRAM, X, read(tmp_path, PROGRAM, USES))
        assert proof.statement.weights == root
        assert verify(proof.statement, proof.messages) > 100
    assert left(tmp_path) == 0
    for _ in range(2):
        with pytest.raises(ProofError) as refused:
            prove(PROGRAM, X, read(tmp_path, PROGRAM, USES))
        assert refused.value.code == "proof.uses-spent"
    assert len((tmp_path / SPENT).read_bytes()) == USES


def test_what_can_not_be_proven_takes_no_use_and_no_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = read(folder, PROGRAM, USES)
    with pytest.raises(ProofError) as refused:
        prove(PROGRAM, X, weights, wanted={"y": np.zeros((3, 4), np.int64)})
    assert refused.value.code == "proof.answer-differs"
    assert left(folder) == USES
    (folder / SPENT).write_bytes(b"." * USES)
    monkeypatch.setattr(Program, "run", None)
    with pytest.raises(ProofError) as refused:
        prove(PROGRAM, X, weights)
    assert refused.value.code == "proof.uses-spent"


@pytest.mark.parametrize("name", [MARGIN, SALTS])
def test_what_was_not_committed_to_is_not_shown(tmp_path: Path, name: str) -> None:
    write_weights(tmp_path, PROGRAM, lambda _: [np.arange(36) - 18])
    write_commitment(tmp_path, PROGRAM, uses=USES, code=False)
    np.save(tmp_path / name, np.zeros_like(np.load(tmp_path / name)))
    with pytest.raises(ProofError) as refused:
        prove(PROGRAM, X, read(tmp_path, PROGRAM, USES))
    assert refused.value.code == "proof.prepared-damaged"


def spend_and_die(folder: Path) -> None:
    commitment = read(folder, PROGRAM, USES).commitment
    assert isinstance(commitment, Counted)
    commitment.spend()
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_use_survives_whoever_is_killed(folder: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=spend_and_die, args=(folder,))
    process.start()
    process.join(20)
    assert process.exitcode == -signal.SIGKILL
    assert left(folder) == USES - 1


def test_two_that_have_it_open_share_its_uses(folder: Path) -> None:
    one, other = (read(folder, PROGRAM, USES) for _ in range(2))
    for weights in (one, other, one):
        prove(PROGRAM, X, weights)
    for weights in (one, other):
        with pytest.raises(ProofError):
            prove(PROGRAM, X, weights)


def test_without_its_count_nothing_is_proven(folder: Path) -> None:
    weights = read(folder, PROGRAM, USES)
    (folder / SPENT).unlink()
    with pytest.raises(FileNotFoundError):
        read(folder, PROGRAM, USES)
    with pytest.raises(ProofError) as refused:
        prove(PROGRAM, X, weights)
    assert refused.value.code == "proof.uses-uncounted"
    with pytest.raises(ProofError) as refused:
        left_of(weights)
    assert refused.value.code == "proof.uses-uncounted"


def test_what_is_hidden_is_never_read_as_what_is_not(tmp_path: Path) -> None:
    size = 128  # so that a code has as many rows and columns as one that hides nothing
    program = Program((Weight(name="w", shape=(size, size), bits=8), Sum(a=0, axis=1)), ())
    write_weights(tmp_path, program, lambda _: [np.zeros(size * size, np.int64)])
    write_commitment(tmp_path, program, uses=1)
    assert read(tmp_path, program, 1).uses == 1
    with pytest.raises(ValueError, match="hide"):
        read(tmp_path, program, 0)


@pytest.mark.parametrize("name", [MARGIN, SALTS])
def test_files_fit_together(folder: Path, name: str) -> None:
    whole = np.load(folder / name)
    np.save(folder / name, whole[:-1])
    with pytest.raises(ValueError, match="another model"):
        read(folder, PROGRAM, USES)
    np.save(folder / name, whole)
    assert read(folder, PROGRAM, USES).uses == USES
    with pytest.raises(ValueError, match="another model"):
        read(folder, PROGRAM, USES + 1)
    with pytest.raises(ValueError, match="another model"):
        read(folder, PROGRAM, 0)
