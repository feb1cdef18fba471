"""The bytes of a succinct proof are fixed: other verifiers than this one read them."""

import hashlib

import numpy as np

from mitai.proof.operations import Argmax, Concat, Gather, Input, MatMul, Multiply, Rescale, Sum, Weight
from mitai.proof.program import Output, Program
from mitai.proof.proving import commit_weights, prove
from mitai.proof.verify.program import verify


def test_a_proof_has_the_bytes_that_it_had():
    program = Program(
        (
            Input(name="t", shape=(3,), low=0, high=6, public=True),
            Weight(name="e", shape=(7, 5), bits=8),
            Gather(a=1, indices=0, axis=0),
            Weight(name="w", shape=(5, 6), bits=8),
            MatMul(a=2, b=3),
            Rescale(a=4, shift=3, bits=16),
            Multiply(a=5, b=5),
            Concat(parts=(5, 5), axis=0),
            Sum(a=6, axis=1),
            Argmax(a=5, bits=17),
        ),
        (Output(name="y", operand=9, public=True), Output(name="z", operand=7, public=False)),
    )
    numbers = np.arange(7 * 5 + 5 * 6) * 37 % 255 - 127
    weights = commit_weights(program, {"e": numbers[:35].reshape(7, 5), "w": numbers[35:].reshape(5, 6)})
    proof = prove(program, {"t": np.array([4, 0, 6])}, weights)
    assert verify(proof.statement, proof.messages) > 100
    digest = hashlib.sha256(proof.messages).hexdigest()
    assert digest == "a72fdfd235d77699becfe56be5e8c11248caa6dd0559e6f4d43b03a67f68c331"
