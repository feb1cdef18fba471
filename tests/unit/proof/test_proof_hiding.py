"""Hiding commitments and the last argument: what is true is shown, and nothing else."""

import numpy as np
import pytest

from mitai.proof import field
from mitai.proof.field import K, P
from mitai.proof.hiding import commit_hiding, commit_pads, prove_hidden
from mitai.proof.transcript import Prover, Verifier
from mitai.proof.verify import soundness
from mitai.proof.verify.hiding import Equation, Opening, check_hidden, inner, receive_pads

RNG = np.random.default_rng(7)


def table(*shape):
    return RNG.integers(0, P, shape, np.uint64)


def elements(count):
    return field.elements(table(count, 2))


class Case:
    """An equation that holds about some pads and arrays."""

    def __init__(self, prover, pads=20, products=5, arrays=((4, 1), (11, 1), (3, 2))):
        self.prover, self.count = prover, pads
        self.commitments = [commit_hiding(table(1 << log), uses) for log, uses in arrays]
        self.pads = commit_pads(prover, pads)
        linear = table(pads, 2)
        chosen = [(int(a), int(b)) for a, b in RNG.integers(0, pads, (products, 2))]
        factors = table(products, 2)
        self.openings = [
            (one, elements(one.shape.rows), table(1 << one.shape.positions, 2)) for one in self.commitments
        ]
        values = field.elements(self.pads.values)
        constant = inner(linear, self.pads.values)
        for (left, right), factor in zip(chosen, field.elements(factors), strict=True):
            constant = constant + factor * values[left] * values[right]
        for one, point, weights in self.openings:
            constant = constant + inner(weights, one.folded(point)[: len(weights)])
        self.equation = Equation(linear, chosen, factors, constant)

    def prove(self):
        prove_hidden(self.prover, self.pads, self.equation, self.openings)
        return self.prover.proof

    def check(self, proof, equation=None):
        verifier = Verifier(proof)
        root = receive_pads(verifier, self.count)
        asked = [Opening(one.root, one.log, one.uses, point, weights) for one, point, weights in self.openings]
        check_hidden(verifier, root, equation or self.equation, asked)
        verifier.finish()
        return verifier


@pytest.mark.parametrize(
    ("pads", "products", "arrays"), [(20, 5, ((4, 1), (11, 1), (3, 2))), (1, 0, ()), (1500, 1100, ((0, 1),))]
)
def test_true_equations(pads, products, arrays):
    case = Case(Prover(), pads, products, arrays)
    assert soundness.bits(case.check(case.prove()).error) > 102


def test_another_constant_is_refused():
    from dataclasses import replace

    from mitai.errors import ProofError

    case = Case(Prover())
    case.equation = replace(case.equation, constant=case.equation.constant + K(1))
    with pytest.raises(ProofError) as caught:
        case.check(case.prove())
    assert caught.value.code == "proof.hidden-refuted"
