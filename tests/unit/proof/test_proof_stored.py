"""Commitments that are made and opened part by part are those of the whole; what is on disk is all or nothing."""

import errno
from contextlib import contextmanager

import numpy as np
import pytest

from mitai.errors import ProofError
from mitai.proof import commitment, field, kernels, stored
from mitai.proof.commitment import code_shape, commit, tree
from mitai.proof.elements import Elements, placed
from mitai.proof.operations import Linear, MatMul, Weight
from mitai.proof.program import Input, Output, Program
from mitai.proof.proving import commit_weights, prove
from mitai.proof.verify.commitment import Shape
from mitai.proof.verify.layout import Layout
from mitai.proof.verify.program import verify

RNG = np.random.default_rng(17)
NARROW, WIDE = RNG.integers(-(1 << 17), 1 << 17, (48, 96)), RNG.integers(-(1 << 38), 1 << 38, (1, 96))
PROGRAM = Program(
    (
        Input(name="x", shape=(3, 48), low=-100, high=100, public=True),
        Weight(name="w", shape=(48, 96), bits=18),
        Weight(name="b", shape=(1, 96), bits=40),
        MatMul(a=0, b=1),
        Linear(terms=((3, 1), (2, 1))),
    ),
    (Output(name="y", operand=4, public=True),),
)
WEIGHTS = {"w": NARROW, "b": WIDE}


@pytest.fixture
def in_parts(monkeypatch):
    """Few rows at a time, and no code in memory."""
    monkeypatch.setattr(commitment, "WORK_ELEMENTS", 1 << 9)
    monkeypatch.setattr(commitment, "KEPT_LOG", -1)


@pytest.mark.parametrize("path", [kernels.PATHS[0], "python"])
@pytest.mark.parametrize("log", [0, 3, 7, 12, 15])
def test_parts_are_the_whole(monkeypatch, in_parts, path, log):
    monkeypatch.setattr(kernels, "PATH", path)
    ints = RNG.integers(-(1 << 31), 1 << 31, 1 << log)
    shape = Shape.of(log)
    whole = field.encode(field.signed(ints).reshape(1 << shape.positions, -1))
    kept, told = [], []
    elements = Elements(ints[: len(ints) // 2].astype(np.int32), ints[len(ints) // 2 :])
    made = commit(elements, kept.append, lambda *done: told.append(done))
    groups, _, width = code_shape(shape)
    assert (groups > 1) == (shape.rows > 3)
    assert told == [(i + 1, groups) for i in range(groups)]
    assert made.root == tree(whole)[-1].tobytes()
    np.testing.assert_array_equal(np.concatenate(kept, 1), whole)
    assert all(part.shape == (len(whole), width) for part in kept)
    places = sorted({*RNG.integers(0, len(whole), 20).tolist(), 0, len(whole) - 1})
    for one in (made, commitment.Commitment(made.root, elements, made.levels, np.stack(kept))):
        np.testing.assert_array_equal(one.columns(places), whole[places])


def test_what_lies_in_parts_is_what_lies_in_one_piece():
    layout = Layout.of([NARROW.shape, WIDE.shape, (5,)])
    arrays = [NARROW.astype(np.int32), WIDE, np.arange(5)]
    whole = np.zeros(1 << layout.log, np.int64)
    for array, blocks in zip(arrays, layout.blocks, strict=True):
        for block in blocks:
            whole[block.offset : block.offset + (1 << block.log)] = array[block.within].reshape(-1)
    elements = placed(arrays, layout)
    np.testing.assert_array_equal(elements.part(0, len(whole)), field.signed(whole))
    point = field.elements(RNG.integers(0, field.P, (layout.log, 2), np.uint64))
    for drop in (0, 3, layout.log):
        expected = field.evaluate(field.signed(whole[: 1 << layout.log - drop]), point[drop:])
        assert elements.evaluate(0, point[drop:]) == expected


@pytest.mark.parametrize("code", [True, False])
def test_proofs_from_files_are_those_from_memory(tmp_path, in_parts, code):
    stored.write_weights(tmp_path, PROGRAM, lambda name: [WEIGHTS[name][:1], WEIGHTS[name][1:]])
    root = stored.write_commitment(tmp_path, PROGRAM, code=code)
    weights = stored.read(tmp_path, PROGRAM)
    plain = commit_weights(PROGRAM, WEIGHTS)
    assert (tmp_path / stored.CODE).exists() == code
    assert weights.root == plain.root == root
    inputs = {"x": RNG.integers(-100, 101, (3, 48))}
    proofs = [prove(PROGRAM, inputs, one) for one in (weights, plain)]
    assert proofs[0].messages == proofs[1].messages
    assert verify(proofs[0].statement, proofs[0].messages) > 100
    sizes = stored.Sizes.of(PROGRAM)
    on_disk = sum(file.stat().st_size for file in tmp_path.iterdir())
    assert abs(on_disk - sizes.weights - code * sizes.code) < 6 * 128 + 8 * 2048  # headers, and zeros up to a position


@pytest.mark.parametrize("name", [stored.WEIGHTS, stored.NARROW, stored.WIDE, stored.TREE, stored.CODE])
@pytest.mark.parametrize(
    "change", [lambda data: data[:-1], lambda _: b"", lambda data: data[:64].replace(b"'<", b"'>") + data[64:]]
)
def test_files_of_another_model_are_refused(tmp_path, name, change):
    stored.write_weights(tmp_path, PROGRAM, lambda name: [WEIGHTS[name]])
    stored.write_commitment(tmp_path, PROGRAM)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(change(data))
    if change(data) == data:  # numbers of one byte
        return
    with pytest.raises(ValueError, match=r"numbers|empty|another model|file size"):
        stored.read(tmp_path, PROGRAM)


@pytest.mark.parametrize("at", [stored.WEIGHTS, stored.NARROW, stored.CODE, stored.TREE])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_an_error(monkeypatch, tmp_path, at, number):
    plain = stored.array_file

    @contextmanager
    def full(path, shape, dtype):
        def put(part):
            raise OSError(number, "No space left on device")

        with plain(path, shape, dtype) as there:
            yield put if path.name == at else there

    monkeypatch.setattr(stored, "array_file", full)
    with pytest.raises(ProofError) as refused:  # noqa: PT012 - whichever it is
        stored.write_weights(tmp_path, PROGRAM, lambda name: [WEIGHTS[name]])
        stored.write_commitment(tmp_path, PROGRAM)
    assert refused.value.code == "proof.disk-full"
