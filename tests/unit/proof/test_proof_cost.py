"""What a proof has to work on is counted as by hand."""

import numpy as np

from mitai.proof.cost import cost
from mitai.proof.operations import Gap, Input, Lookup, MatMul, Multiply, Rescale, Weight, constant_of
from mitai.proof.program import Output, Program


def test_costs_are_counted_as_by_hand():
    built = Program(
        (
            Input(name="x", shape=(2, 4), low=-128, high=127, public=False),
            Weight(name="w", shape=(4, 3), bits=8),
            MatMul(a=0, b=1),
            Rescale(a=2, shift=4, bits=16),
            Rescale(a=2, shift=20, bits=20),
            Multiply(a=3, b=4),
            constant_of(np.arange(1 << 16)),
            Lookup(a=3, table=6, first=-(1 << 15)),
            Gap(a=7, axis=1, shift=0, bits=16),
        ),
        (Output(name="y", operand=8, public=True),),
    )
    found = cost(built)
    assert found.inputs == 8
    assert found.hints == 6 + (6 + 6 + 6) + 6 + 2  # a result, one with two limbs, what was looked up, the largest
    assert found.padded == 8 + 8 + (8 + 8 + 8) + 8 + 2
    assert found.lookups == 6 + (12 + 12) + 6 + 6  # the first result is covered by its look-up
    assert found.zeros == 6
    assert found.macs == 2 * 4 * 3
    assert found.products == 6
    assert found.weights == 12
