"""Fuzz: encoded integer programs, which a verifier takes from whoever made the proof.

Run `python tests/fuzz/fuzz_proof_programs.py [libFuzzer options]` with atheris.
"""

import sys

import numpy as np

from mitai.errors import ParseError, ProofError
from mitai.proof.operations import Argmax, Gap, Gather, Input, Lookup, MatMul, Rescale, RSqrt, Weight, constant_of
from mitai.proof.program import Output, Program

SEEDS = (
    Program(
        (
            Input(name="x", shape=(2, 4), low=-8, high=7, public=True),
            Weight(name="w", shape=(4, 3), bits=8),
            MatMul(a=0, b=1),
            Rescale(a=2, shift=4, bits=8),
            constant_of(np.arange(256) % 7),
            Lookup(a=3, table=4, first=-128),
            Gap(a=5, axis=1, shift=1, bits=8),
            RSqrt(a=6, numerator=99, bits=4),
            Argmax(a=7, bits=8),
            Gather(a=1, indices=8, axis=1),
        ),
        (Output(name="y", operand=9, public=False),),
    ).encode(),
)


def one_input(data: bytes) -> None:
    """Nothing but an error of the tree may come out; what is read is spelled in one way."""
    try:
        program = Program.parse(data)
    except (ParseError, ProofError):
        return
    assert program.encode() == data
    assert len(program.values) == len(program.operations)


if __name__ == "__main__":
    import atheris
    from instrument import instrument_ours

    instrument_ours()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
