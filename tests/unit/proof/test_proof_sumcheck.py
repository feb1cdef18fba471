"""Sum-checks: true claims pass, false ones and changed messages do not."""

import numpy as np
import pytest

from mitai.errors import ProofError
from mitai.proof import field
from mitai.proof.field import ONE, K, P
from mitai.proof.sumcheck import prove_matmul, prove_product
from mitai.proof.transcript import Prover, Verifier
from mitai.proof.verify.sumcheck import check_matmul, check_product, check_rounds

RNG = np.random.default_rng(2)
Z = K(123, 456)


def table(*shape):
    return RNG.integers(0, P, shape, np.uint64)


def weighted_sum(a, b, weights):
    """Return the sum, from its definition."""
    out = K(0)
    lifted = [x if x.ndim == 2 else field.lift(x) for x in (a, b)]
    for index, (x, y) in enumerate(zip(*map(field.elements, lifted), strict=True)):
        term = x * y
        for weight, bit in zip(weights, field.bits(index, len(weights)), strict=True):
            term = term if weight is None else term * field.equal([weight], [bit])
        out = out + term
    return out


@pytest.mark.parametrize(
    "weights",
    [[], [None], [Z], [K(0)], [K(1)], [None] * 4, [Z, K(0), K(5), K(1)], [Z, None, None], [None, Z, None, K(0)]],
)
@pytest.mark.parametrize("wide", [(False, False), (True, False), (True, True)])
def test_true_claims(weights, wide):
    size = 1 << len(weights)
    a, b = (table(size, 2) if k else table(size) for k in wide)
    claim = weighted_sum(a, b, weights)
    prover = Prover()
    point, of_a, of_b = prove_product(prover, a, b, claim, weights)
    assert (of_a, of_b) == (field.evaluate(a, point), field.evaluate(b, point))
    verifier = Verifier(prover.proof)
    assert check_product(verifier, claim, weights) == (point, of_a, of_b)
    verifier.finish()
    assert len(prover.proof) == 32 * (len(weights) + 1)


@pytest.mark.parametrize("weights", [[None] * 4, [Z, K(0), K(5), K(1)], [Z, Z, None, None], []])
def test_whatever_is_changed_is_refused(weights):
    a, b = table(1 << len(weights)), table(1 << len(weights))
    claim = weighted_sum(a, b, weights)
    prover = Prover()
    prove_product(prover, a, b, claim, weights)
    words = np.frombuffer(prover.proof, "<u8")
    for place in range(len(words)):
        changed = words.copy()
        changed[place] = (int(words[place]) + 1) % P
        with pytest.raises(ProofError) as caught:
            check_product(Verifier(changed.tobytes()), claim, weights)
        assert caught.value.code == "proof.product-refuted"
    for wrong in (claim + ONE, claim + K(0, 1)):
        with pytest.raises(ProofError, match="not what was claimed"):
            check_product(Verifier(prover.proof), wrong, weights)


def test_a_prover_with_a_wrong_claim_is_refused():
    a, b = table(16), table(16)
    wrong = weighted_sum(a, b, [Z] * 4) + ONE
    prover = Prover()
    prove_product(prover, a, b, wrong, [Z] * 4)
    with pytest.raises(ProofError, match="not what was claimed"):
        check_product(Verifier(prover.proof), wrong, [Z] * 4)


def test_products_of_matrices():
    a, b = RNG.integers(-99, 99, (4, 2, 8)), RNG.integers(-99, 99, (4, 8, 16))
    point = field.elements(table(2 + 1 + 4, 2))
    parts = {"batch": point[:2], "row": point[2:3], "column": point[3:]}
    claim = field.evaluate(field.signed(a @ b).reshape(-1), point)
    prover = Prover()
    of_a, of_b = prove_matmul(prover, field.signed(a), field.signed(b), claim, **parts)
    assert check_matmul(Verifier(prover.proof), claim, **parts, inner=3) == (of_a, of_b)
    for array, (where, value) in ((a, of_a), (b, of_b)):
        assert field.evaluate(field.signed(array).reshape(-1), where) == value


def test_challenges_depend_on_the_claim():
    points = [check_rounds(Verifier(bytes(64)), *claim)[0] for claim in ((ONE, [Z] * 2), (Z, [Z] * 2), (ONE, [Z, ONE]))]
    assert len({point[0] for point in points}) == 3
