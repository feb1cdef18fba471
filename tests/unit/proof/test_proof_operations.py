"""Integer programs: what operations compute, and what is refused."""

import hashlib

import msgspec
import numpy as np
import pytest

from mitai.errors import ParseError, ProofError
from mitai.proof.operation import LIMIT, Value, exact_matmul
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
    constant_of,
)  # fmt: skip
from mitai.proof.program import LABEL, Output, Program


def given(shape=(2, 3), low=-100, high=100, name="x", public=True):
    return Input(name=name, shape=shape, low=low, high=high, public=public)


def program(*operations, public=True):
    return Program(operations, (Output(name="y", operand=len(operations) - 1, public=public),))


def result(array, *operations, **members):
    array = np.asarray(array)
    members = {"low": -(1 << 20), "high": 1 << 20} | members
    return program(given(array.shape, **members), *operations).run({"x": array}, {}).outputs["y"].tolist()


def refused(code, work, kind=ProofError):
    with pytest.raises(kind) as error:
        work()
    assert error.value.code == code


# --- what is computed ---


def test_rescale_rounds_to_the_nearest_and_half_up():
    assert result([5, 6, 7, -5, -6, -7], Rescale(a=0, shift=2, bits=3)) == [1, 2, 2, -1, -1, -2]


def test_lookup():
    table = constant_of(np.array([7, 8, 9]))
    assert result([[-1, 1], [0, 0]], table, Lookup(a=0, table=1, first=-1)) == [[7, 9], [8, 8]]


def test_quotients_and_roots_are_rounded_down():
    numbers = [1, 2, 3, 4, 99, 100, 101]
    thousand = constant_of(np.array([1000]))
    assert result(numbers, thousand, Divide(a=1, b=0, bits=10)) == [1000 // n for n in numbers]
    roots = result(numbers, RSqrt(a=0, numerator=10_000, bits=7))
    assert roots == [max(y for y in range(101) if y * y * n <= 10_000) for n in numbers]


def test_gaps_to_the_largest_of_a_row():
    rows = [[4, -4, 11], [0, 0, -17]]
    assert result(rows, Gap(a=0, axis=1, shift=0, bits=5)) == [[7, 15, 0], [0, 0, 17]]
    assert result(rows, Gap(a=0, axis=1, shift=3, bits=5)) == [[0, 1, 0], [0, 0, 2]]
    assert result(rows, Gap(a=0, axis=0, shift=0, bits=5)) == [[0, 4, 0], [4, 0, 28]]


def test_argmax_takes_the_first_of_equals():
    assert result([[1, 5, 5], [2, 2, 1]], Argmax(a=0, bits=3)) == [1, 0]


def test_other_places():
    square = [[1, 2, 3], [4, 5, 6]]
    assert result(square, constant_of(np.array([[2, 0]])), Gather(a=0, indices=1, axis=1)) == [[[3, 1]], [[6, 4]]]
    assert result(square, Permute(a=0, axes=(1, 0))) == [[1, 4], [2, 5], [3, 6]]
    assert result(square, Reshape(a=0, shape=(2, 1, 3))) == [[[1, 2, 3]], [[4, 5, 6]]]
    assert result(square, Concat(parts=(0, 0), axis=1)) == [[1, 2, 3, 1, 2, 3], [4, 5, 6, 4, 5, 6]]
    assert result(square, Sum(a=0, axis=0)) == [[5, 7, 9]]


def test_sums_and_products_broadcast():
    row = constant_of(np.array([1, -1, 2]))
    assert result([[1, 2, 3], [4, 5, 6]], row, Linear(terms=((0, 2), (1, 10)), constant=1)) == [
        [13, -5, 27],
        [19, 1, 33],
    ]
    assert result([[1, 2, 3], [4, 5, 6]], row, Multiply(a=0, b=1)) == [[1, -2, 6], [4, -5, 12]]


@pytest.mark.parametrize("bits", [(10, 10), (30, 15), (15, 30), (28, 28), (3, 51)])
def test_products_of_matrices_are_exact(bits):
    rng = np.random.default_rng(sum(bits))
    a = rng.integers(-(1 << bits[0]), 1 << bits[0], (2, 3, 16))
    b = rng.integers(-(1 << bits[1]), 1 << bits[1], (16, 5))
    exact = np.array(a.astype(object) @ b.astype(object))
    assert np.array_equal(exact_matmul(a, b), exact)
    narrow = a.astype(np.int32)
    if bits[0] < 31:
        assert np.array_equal(exact_matmul(narrow, b), exact)


def test_weights_may_be_narrow():
    double = program(Weight(name="w", shape=(2,), bits=32), Linear(terms=((0, 1 << 20),)))
    assert double.run({}, {"w": np.array([3, 1 << 30], np.int32)}).outputs["y"].tolist() == [3 << 20, 1 << 50]


# --- bounds ---


@pytest.mark.parametrize(
    "operation",
    [
        Linear(terms=((0, 3), (1, -2)), constant=-5), Multiply(a=0, b=1), Multiply(a=0, b=0), Sum(a=0, axis=1),
        MatMul(a=0, b=2), Gap(a=0, axis=1, shift=0, bits=20),
    ],
)  # fmt: skip
def test_results_lie_within_inferred_bounds_at_the_corners(operation):
    first, second = given(low=-7, high=3), given(low=-2, high=9, name="z")
    built = program(first, second, given(shape=(3, 2), low=-5, high=4, name="w"), operation)
    value = built.values[-1]
    for x in (-7, 3):
        for z in (-2, 9):
            for w in (-5, 4):
                arrays = {"x": np.full((2, 3), x), "z": np.full((2, 3), z), "w": np.full((3, 2), w)}
                found = built.run(arrays, {}).outputs["y"]
                assert found.shape == value.shape
                assert value.low <= found.min() <= found.max() <= value.high


@pytest.mark.parametrize(
    "operations",
    [
        (given(high=LIMIT), Linear(terms=((0, 2),))),
        (given(high=1 << 31, low=-(1 << 31)), Multiply(a=0, b=0), Linear(terms=((1, 1), (1, 1)))),
        (given(shape=(4, 4), low=-(1 << 31)), MatMul(a=0, b=0)),
        (given(), Rescale(a=0, shift=40, bits=23)),
        (given(high=1 << 40), RSqrt(a=0, numerator=1, bits=12)),
        (given(high=1 << 40), Divide(a=0, b=0, bits=23)),
        (given(low=-LIMIT, high=1), Gap(a=0, axis=0, shift=0, bits=1)),
        (given(low=-LIMIT, high=1), Argmax(a=0, bits=1)),
        (given(low=5, high=4),),
        (given(shape=(1 << 18, 1 << 18)),),
        (given(), Linear(terms=((1, 1),))),
        (given(), MatMul(a=0, b=0)),
        (given(), given(shape=(2, 2), name="z"), Multiply(a=0, b=1)),
        (given(), Sum(a=0, axis=2)),
        (given(), Permute(a=0, axes=(0, 0))),
        (given(), Reshape(a=0, shape=(3, 2))),
        (given(), given(shape=(3, 3), name="z"), Concat(parts=(0, 1), axis=1)),
        (given(), Lookup(a=0, table=0, first=0)),
        (given(), given(shape=(2,), low=0, high=2, name="i", public=False), Gather(a=0, indices=1, axis=0)),
        (given(), given(shape=(2,), low=0, high=2, name="i"), Gather(a=0, indices=1, axis=0)),
        (given(), given(shape=(2,), low=-1, high=1, name="i"), Gather(a=0, indices=1, axis=0)),
        (Constant(shape=(2,), width=2, data=b"123"),),
        (given(), given()),
        (Weight(name="w", shape=(1,), bits=1), Weight(name="w", shape=(1,), bits=1)),
    ],
)  # fmt: skip
def test_invalid_programs(operations):
    refused("proof.program-invalid", lambda: program(*operations))


def test_outputs_exist_and_have_distinct_names():
    refused("proof.program-invalid", lambda: Program((given(),), (Output(name="y", operand=1, public=True),)))
    refused("proof.program-invalid", lambda: Program((given(),), (Output(name="y", operand=0, public=True),) * 2))


@pytest.mark.parametrize(
    ("array", "operations"),
    [
        ([127 * 2 + 1], (Rescale(a=0, shift=1, bits=8),)),
        ([-129 * 2], (Rescale(a=0, shift=1, bits=8),)),
        ([3], (constant_of(np.arange(3)), Lookup(a=0, table=1, first=0))),
        ([-1], (constant_of(np.arange(3)), Lookup(a=0, table=1, first=0))),
        ([0], (RSqrt(a=0, numerator=9, bits=4),)),
        ([0], (Divide(a=0, b=0, bits=4),)),
        ([-1], (constant_of(np.array([1])), Divide(a=0, b=1, bits=4))),
        ([16], (constant_of(np.array([1])), Divide(a=0, b=1, bits=4))),
        ([0, 16], (Gap(a=0, axis=0, shift=0, bits=4),)),
        ([0, 16], (Argmax(a=0, bits=4),)),
    ],
)
def test_numbers_beyond_their_range_end_a_run(array, operations):
    refused("proof.out-of-range", lambda: result(array, *operations))


@pytest.mark.parametrize(
    "inputs",
    [
        {}, {"x": np.zeros((2, 3), int), "z": np.zeros(1, int)}, {"x": np.zeros((3, 2), int)}, {"x": np.zeros((2, 3))},
        {"x": np.full((2, 3), 101)}, {"x": np.full((2, 3), -101)}, {"x": np.full((2, 3), 2**63, np.uint64)},
    ],
)  # fmt: skip
def test_inputs_are_what_was_declared(inputs):
    refused("proof.input-mismatch", lambda: program(given(), Linear(terms=((0, 1),))).run(inputs, {}))


# --- encoding ---


def everything():
    """A program of all operations."""
    return Program(
        (
            given((2, 4)), Weight(name="w", shape=(4, 4), bits=8), constant_of(np.arange(-128, 128)), MatMul(a=0, b=1),
            Rescale(a=3, shift=6, bits=8), Lookup(a=4, table=2, first=-128), Multiply(a=5, b=5), Sum(a=6, axis=1),
            Linear(terms=((7, 1),), constant=1), RSqrt(a=8, numerator=1 << 30, bits=18), Divide(a=9, b=8, bits=18),
            Gap(a=5, axis=1, shift=0, bits=16), Gap(a=3, axis=1, shift=2, bits=20), constant_of(np.array([1])),
            Gather(a=12, indices=13, axis=0), Permute(a=14, axes=(1, 0)), Reshape(a=15, shape=(4,)),
            Concat(parts=(16, 16), axis=0), Argmax(a=17, bits=24),
        ),
        (Output(name="y", operand=18, public=True), Output(name="kept", operand=10, public=False)),
    )  # fmt: skip


def test_an_encoded_program_is_the_same_program():
    original = everything()
    data = original.encode()
    read = Program.parse(data)
    assert read == original
    assert read.digest == hashlib.sha256(LABEL + data).digest()
    assert data.startswith(b"\x83\xa1v\xb6mitai proof program v1")


def members(**changes):
    whole = {
        "v": "mitai proof program v1",
        "operations": [{"op": "input", "name": "x", "shape": [2], "low": 0, "high": 1, "public": True}],
        "outputs": [{"name": "y", "operand": 0, "public": True}],
    }
    return msgspec.msgpack.encode(whole | changes)


def test_members_are_read():
    assert Program.parse(members()).values == (Value((2,), 0, 1, True),)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\xc0", members()[:-1], members() + b"\0", members(v="mitai proof program v2"), members(more=1),
        members(outputs=[]), members(outputs=[{"name": "Y", "operand": 0, "public": True}]),
        members(operations=[{"op": "pad", "a": 0}]), members(operations=[{"op": "weight", "name": "x", "shape": [2]}]),
        members(operations=[{"op": "weight", "name": "x", "shape": [0], "bits": 1}]),
        members(operations=[{"op": "weight", "name": "x", "shape": [1] * 7, "bits": 1}]),
        members(operations=[{"op": "weight", "name": "x", "shape": [1], "bits": 63}]),
        members(operations=[{"op": "constant", "shape": [1], "width": 3, "data": b"123"}]),
        members().replace(b"\x00", b"\xd0\x00"), bytes(1 + (1 << 26)),
    ],
)  # fmt: skip
def test_what_is_no_program(data):
    refused("proof.program-malformed", lambda: Program.parse(data), ParseError)


def test_a_program_of_all_operations_runs():
    rng = np.random.default_rng(1)
    inputs, weights = {"x": rng.integers(-10, 10, (2, 4))}, {"w": rng.integers(-128, 128, (4, 4))}
    run = everything().run(inputs, weights)
    for array, value in zip(run.arrays, everything().values, strict=True):
        assert array.shape == value.shape
        assert value.low <= array.min() <= array.max() <= value.high
    assert run.outputs["kept"] is run.arrays[10]
