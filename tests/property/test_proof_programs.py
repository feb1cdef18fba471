"""Integer programs for any numbers: ranges admit the one result, products are exact, encodings are unique."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mitai.errors import ParseError, ProofError
from mitai.proof.operation import exact_matmul
from mitai.proof.operations import Divide, Gap, Input, Rescale, RSqrt
from mitai.proof.program import Output, Program

INTS = st.integers(-(1 << 40), 1 << 40)


@given(x=INTS, shift=st.integers(1, 20), other=INTS)
def test_a_rescaled_number_is_the_only_one_with_its_remainder(x, shift, other):
    operation = Rescale(a=0, shift=shift, bits=42)
    y = int(operation.execute(np.array([x]))[0])
    assert abs(y * 2**shift - x) <= 2 ** (shift - 1)
    for candidate in (other, y):
        remainder = x + 2 ** (shift - 1) - candidate * 2**shift
        assert (0 <= remainder < 2**shift) == (candidate == y)


@given(a=st.integers(0, 1 << 40), b=st.integers(1, 1 << 20), other=st.integers(0, 1 << 40))
def test_a_quotient_is_the_only_one_with_its_remainder_and_rest(a, b, other):
    operation = Divide(a=0, b=1, bits=41)
    y = int(operation.execute(np.array([a]), np.array([b]))[0])
    assert y == a // b
    for candidate in (other, y, y + 1):
        remainder = a - candidate * b
        assert (remainder >= 0 and b - 1 - remainder >= 0) == (candidate == y)


@given(a=st.integers(1, 1 << 24), numerator=st.integers(1, 1 << 60), other=st.integers(0, (1 << 18) - 1))
def test_a_root_is_the_only_one_below_and_above(a, numerator, other):
    operation = RSqrt(a=0, numerator=numerator, bits=18)
    try:
        y = int(operation.execute(np.array([a]))[0])
    except ProofError:
        assert numerator >= a << 36
        return
    for candidate in (other, y, y + 1):
        below, above = numerator - candidate**2 * a, (candidate + 1) ** 2 * a - 1 - numerator
        assert (below >= 0 and above >= 0) == (candidate == y)


@given(rows=st.lists(st.lists(INTS, min_size=3, max_size=3), min_size=1, max_size=4), shift=st.integers(0, 8))
def test_gaps(rows, shift):
    found = Gap(a=0, axis=1, shift=shift, bits=50).execute(np.array(rows))
    assert found.tolist() == [[(max(row) - x) >> shift for x in row] for row in rows]


@settings(max_examples=50)
@given(st.data())
def test_products_of_matrices_are_exact(data):
    a_bits = data.draw(st.integers(1, 56))
    b_bits = data.draw(st.integers(1, 57 - a_bits))
    a, b = (
        np.array(data.draw(st.lists(st.integers(-(1 << bits), 1 << bits), min_size=12, max_size=12))).reshape(shape)
        for bits, shape in ((a_bits, (3, 4)), (b_bits, (4, 3)))
    )
    assert np.array_equal(exact_matmul(a, b), (a.astype(object) @ b.astype(object)).astype(np.int64))


@given(position=st.integers(0, 200), value=st.integers(0, 255))
def test_another_byte_is_another_program_or_none(position, value):
    program = Program(
        (Input(name="x", shape=(2, 3), low=-5, high=9, public=True), Rescale(a=0, shift=2, bits=4)),
        (Output(name="y", operand=1, public=True),),
    )
    data = bytearray(program.encode())
    position %= len(data)
    if data[position] == value:
        return
    data[position] = value
    try:
        read = Program.parse(bytes(data))
    except (ParseError, ProofError):
        return
    assert read != program
    assert read.digest != program.digest
