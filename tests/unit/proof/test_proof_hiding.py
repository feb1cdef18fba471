"""Hiding commitments and the last argument: what is true is shown, what is not is refused, and nothing else is told."""

import os
from dataclasses import replace

import numpy as np
import pytest

from mitai.errors import ProofError
from mitai.proof import commitment, field, hiding
from mitai.proof.commitment import column_hashes
from mitai.proof.elements import Elements
from mitai.proof.field import ONE, K, P
from mitai.proof.hiding import Leaves, commit_hiding, commit_pads, interpolate, prove_hidden, uniform
from mitai.proof.transcript import HASH_BYTES, Verifier
from mitai.proof.verify import soundness
from mitai.proof.verify.hiding import (
    MAX_USES,
    Equation,
    HidingShape,
    Opening,
    bind_equation,
    check_hidden,
    inner,
    receive_pads,
)
from mitai.proof.verify.soundness import HIDING_QUERIES
from proof_rig import Recorder

RNG = np.random.default_rng(7)
ARRAYS = ((4, 1), (11, 1), (3, 2))  # logs and uses


def table(*shape):
    return RNG.integers(0, P, shape, np.uint64)


def elements(count):
    return field.elements(table(count, 2))


def sides(equation, pads, openings):
    """Return how much the left side of an equation is more than the right one."""
    values = field.elements(pads.values)
    total = inner(equation.linear, pads.values) - equation.constant
    for (left, right), factor in zip(equation.products, field.elements(equation.factors), strict=True):
        total = total + factor * values[left] * values[right]
    for one, point, weights in openings:
        total = total + inner(weights, one.folded(point)[: len(weights)])
    return total


def asked_of(one, point, weights):
    return Opening(one.root, one.log, one.uses, point, weights)


class Case:
    """An equation that holds about some pads and arrays."""

    def __init__(self, pads=20, products=5, arrays=ARRAYS, prover=None):
        self.prover, self.count = prover or Recorder(), pads
        self.commitments = [commit_hiding(table(1 << log), uses) for log, uses in arrays]
        self.pads = commit_pads(self.prover, pads)
        chosen = [(int(a), int(b)) for a, b in RNG.integers(0, pads, (products, 2))]
        equation = Equation(table(pads, 2), chosen, table(products, 2), K(0))
        self.openings = [
            (one, elements(one.shape.rows), table(1 << one.shape.positions, 2)) for one in self.commitments
        ]
        self.equation = replace(equation, constant=sides(equation, self.pads, self.openings))

    def prove(self):
        prove_hidden(self.prover, self.pads, self.equation, [(one[0], asked_of(*one)) for one in self.openings])
        return self.prover.proof

    @property
    def asked(self):
        return [asked_of(*one) for one in self.openings]

    def check(self, proof, equation=None, openings=None):
        verifier = Verifier(proof)
        root = receive_pads(verifier, self.count)
        check_hidden(verifier, root, equation or self.equation, openings or self.asked)
        verifier.finish()
        return verifier

    def refused(self, proof, **changed):
        with pytest.raises(ProofError) as caught:
            self.check(proof, **changed)
        return caught.value.code


@pytest.mark.parametrize(
    ("pads", "products", "arrays"), [(20, 5, ARRAYS), (1, 0, ()), (1500, 1100, ((0, 1),)), (2, 2, ((12, 3),))]
)
def test_true_equations(pads, products, arrays):
    case = Case(pads, products, arrays)
    assert soundness.bits(case.check(case.prove()).error) > 102


# --- soundness ---


def test_whatever_is_changed_is_refused():
    case = Case(arrays=((4, 1),))
    proof = case.prove()
    said = "proof.hidden-refuted"  # what follows is drawn otherwise
    expected = {"pads": said, "products": said, "mask": said, "sum": said, "combination": None, "polynomial": None}
    expected |= dict.fromkeys(("columns", "salts", "path"), "proof.path-refuted")
    assert {label for label, *_ in case.prover.messages} == set(expected)
    for label, start, end in case.prover.messages:
        for at in {start, start if label == "path" else end - 1} if start < end else ():
            changed = bytearray(proof)
            changed[at] ^= 1
            code = case.refused(bytes(changed))
            assert code in (expected[label] or code, "proof.malformed"), label
    for start in {label: start for label, start, _ in case.prover.messages}.values():
        assert case.refused(proof[: start - 1]) == "proof.malformed"
    assert case.refused(proof + b"\x00") == "proof.malformed"


def test_another_statement_is_refused():
    case = Case()
    proof, equation, first = case.prove(), case.equation, case.asked[0]
    linear, factors = equation.linear.copy(), equation.factors.copy()
    linear[3, 1] ^= 1
    factors[2, 0] ^= 1
    weights = first.weights.copy()
    weights[0, 0] ^= 1
    (left, right), *others = equation.products
    for other in (
        replace(equation, constant=equation.constant + ONE),
        replace(equation, linear=linear),
        replace(equation, factors=factors),
        replace(equation, products=[(left ^ 1, right), *others]),
    ):
        assert case.refused(proof, equation=other) == "proof.hidden-refuted"
    for other in (replace(first, weights=weights), replace(first, root=bytes(HASH_BYTES))):
        assert case.refused(proof, openings=[other, *case.asked[1:]]) in {"proof.hidden-refuted", "proof.path-refuted"}


class Liar(Recorder):
    """Says one message otherwise, which is drawn from as it is said."""

    def __init__(self, label, number, change):
        super().__init__()
        self.left, self.label, self.lie = number, label, change

    def send(self, label, words):
        if label == self.label:
            if not self.left:
                words = words.copy()
                self.lie(words)
            self.left -= 1
        super().send(label, words)


def more(*places):
    def change(words):
        for place in places:
            words[place, 0] = (int(words[place, 0]) + 1) % P

    return change


@pytest.mark.parametrize(
    ("label", "number", "place", "code"),
    [
        ("combination", 0, 0, "proof.column-refuted"),  # of pads: in no sum
        ("combination", 0, -1, "proof.column-refuted"),
        ("combination", 1, 0, "proof.hidden-refuted"),
        ("combination", 1, -1, "proof.column-refuted"),  # a random coefficient
        ("polynomial", 0, 0, "proof.column-refuted"),
        ("polynomial", 0, 31, "proof.hidden-refuted"),  # the sum: 20 pads, a row of 32
        ("polynomial", 0, -1, "proof.column-refuted"),
        ("sum", 0, 0, "proof.hidden-refuted"),
    ],
)
def test_what_is_masked_is_checked(label, number, place, code):
    case = Case(prover=Liar(label, number, more(place)))
    assert case.refused(case.prove()) == code


class Fitting(Recorder):
    """Says one more than the sum is, once it knows by what that is multiplied."""

    def challenges(self, label, count):
        drawn = super().challenges(label, count)
        if label == "hidden":
            self.delta = field.array(drawn[1:2])
        return drawn

    def send(self, label, words):
        if label == "polynomial":
            words[31:32] = field.add(words[31:32], self.delta)
        super().send(label, words)


def test_a_sum_that_was_made_to_fit_is_refused():
    case = Case(prover=Fitting())
    case.equation = replace(case.equation, constant=case.equation.constant + ONE)
    assert case.refused(case.prove()) == "proof.column-refuted"


def lying(monkeypatch, name, change):
    real = getattr(hiding, name)
    monkeypatch.setattr(hiding, name, lambda *given: change(real(*given)))


@pytest.mark.parametrize("place", [(0, 0), (31, 2), (31, 0)])  # X_0, Y_0, which are reversed, and no factor
def test_factors_are_those_of_the_pads(monkeypatch, place):
    """The constant is changed so that the equation holds for the factors that are not the pads'."""

    def change(matrix):
        matrix[place] = (int(matrix[place]) + 1) % P
        return matrix

    case = Case()
    other = hiding._factors(case.pads, case.equation, HidingShape.of_pads(20))[31 - place[0]]
    more = field.elements(other[None, 2:] if place[1] == 0 else other[None, :2])[0]
    case.equation = replace(case.equation, constant=case.equation.constant + more)
    lying(monkeypatch, "_factors", change)
    assert case.refused(case.prove()) == "proof.hidden-refuted"


def test_challenges_depend_on_all_of_the_equation():
    case = Case(arrays=((11, 1),))
    equation, [one] = case.equation, case.asked
    words = table(20, 2)
    ways = [(equation, [one]), (equation, []), (equation, [one, one])]
    ways += [(replace(equation, linear=words), [one]), (replace(equation, constant=ONE), [one])]
    ways += [(replace(equation, products=[(0, 0)] * 5), [one]), (replace(equation, factors=words[:5]), [one])]
    ways += [(equation, [replace(one, root=bytes(32))]), (equation, [replace(one, point=[ONE] * len(one.point))])]
    ways += [(equation, [replace(one, weights=one.weights[::-1])])]
    drawn = set()
    for way in ways:
        transcript = Recorder()
        bind_equation(transcript, *way)
        drawn.add(transcript.challenge("x"))
    assert len(drawn) == len(ways)


def test_factors_of_no_product_add_nothing(monkeypatch):
    """The constant is one more, and so is the sum of all products of factors."""

    def change(matrix):
        matrix[31, 0] = matrix[0, 2] = 1  # X_31 Y_31; the right ones are reversed
        return matrix

    lying(monkeypatch, "_factors", change)
    case = Case()
    case.equation = replace(case.equation, constant=case.equation.constant + ONE)
    assert case.refused(case.prove()) == "proof.hidden-refuted"


def with_code(commitment, code):
    return replace(commitment, leaves=Leaves.over(column_hashes(code)), code=code[None])


def test_rows_of_more_coefficients_are_refused(monkeypatch):
    case = Case(arrays=((4, 1),))
    [(one, *_)] = case.openings
    margin = np.concatenate([one.margin, table(1, 1)])
    code = field.encode(np.concatenate([one.elements.rows(0, 1), margin]), one.shape.size)
    case.openings[0] = (with_code(one, code), *case.openings[0][1:])
    assert case.refused(case.prove()) == "proof.column-refuted"


@pytest.mark.parametrize(("number", "words"), [(0, 2), (1, 2), (1, 4), (2, 2), (2, 4)])
def test_pads_factors_and_masks_are_codewords(monkeypatch, number, words):
    """The prover knows what the nearest codewords are, and says the rest of them."""
    encode, polynomial, clean = hiding.kernels.encode, hiding._polynomial, []

    def wrong(*given):
        clean.append(encode(*given))
        code = clean[-1].copy()
        if len(clean) == number + 1:
            code[::4, words - 2 : words] = table(len(code) // 4, 2)  # missed with (3/4)^172, less than 2^-71
        return code

    monkeypatch.setattr(hiding.kernels, "encode", wrong)
    monkeypatch.setattr(hiding, "_polynomial", lambda by, _p, _f, shape: polynomial(by, *clean[:2], shape))
    case = Case(arrays=())
    assert case.refused(case.prove()) == "proof.column-refuted"


def test_columns_that_are_no_code_are_refused():
    case = Case(arrays=((4, 1),))
    [(one, *_)] = case.openings
    code = one.code[0].copy()
    code[:: len(code) // 256] = table(256, 1)  # of 1024: a fourth
    case.openings[0] = (with_code(one, code), *case.openings[0][1:])
    assert case.refused(case.prove()) == "proof.column-refuted"  # missed with (3/4)^172, less than 2^−71


@pytest.mark.parametrize(
    "changed",
    [
        {"products": [(0, 20)]},
        {"products": [(0, 1), (2, 3)]},
        {"linear": None},
    ],
)
def test_equations_are_about_pads_that_there_are(changed):
    case = Case(products=1, arrays=())
    proof = case.prove()
    if "linear" in changed:
        changed = {"linear": case.equation.linear[:-1], "products": [(19, 19)]}
    assert case.refused(proof, equation=replace(case.equation, **changed)) == "proof.statement-invalid"


def test_openings_fit_their_arrays():
    case = Case(arrays=((11, 1),))
    [one], proof = case.asked, case.prove()
    for changed in ({"point": [*one.point, ONE]}, {"weights": one.weights[1:]}, {"uses": 0}, {"uses": MAX_USES + 1}):
        assert case.refused(proof, openings=[replace(one, **changed)]) == "proof.statement-invalid"


@pytest.mark.parametrize("uses", [1, 2, 64, MAX_USES])
@pytest.mark.parametrize("log", [0, 1, 7, 10, 13, 20, 28, 34])
def test_shapes(log, uses):
    shape = HidingShape.of(log, uses)
    assert shape.positions + shape.rows == log
    assert shape.margin == uses * HIDING_QUERIES
    assert 5 * (1 << shape.leaves) >= 16 * shape.coefficients > 5 * (1 << shape.leaves - 1)
    assert not shape.rows or shape.leaves <= shape.positions + 3
    assert shape.leaves == shape.positions + 2 or shape.margin * 4 > 1 << shape.positions
    bits = soundness.bits(soundness.hidden_opening(shape.coefficients, shape.leaves, shape.rows))
    assert bits > (104 if log <= 28 and uses <= 64 else 99)
    pads = HidingShape.of(log, multiplied=True)
    assert 5 * (1 << pads.leaves) >= 32 * pads.coefficients


def test_an_array_may_be_encoded_in_parts(monkeypatch):
    numbers = RNG.integers(-9, 9, 1 << 14)
    one = commit_hiding(field.signed(numbers))
    monkeypatch.setattr(commitment, "WORK_ELEMENTS", 1 << 10)
    monkeypatch.setattr(hiding, "uniform", lambda *_: one.margin)
    monkeypatch.setattr(os, "urandom", lambda _size: one.leaves.salts.tobytes())
    parts, told = [], []
    other = commit_hiding(Elements(numbers), 1, parts.append, lambda *done: told.append(done))
    assert (other.root, other.code, told) == (one.root, None, [(1, 2), (2, 2)])
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), one.code[0])


@pytest.mark.parametrize("array", [(4, 1), (11, 1), (14, 1), (14, 2)])
def test_columns_that_were_not_kept_are_computed_again(array):
    case = Case(arrays=(array,))
    case.commitments[0].code = None
    case.check(case.prove())


# --- hiding ---


@pytest.mark.parametrize("size", [1, 2, 64])
def test_interpolation_undoes_encoding(size):
    coefficients = table(4 * size, 3)
    assert (interpolate(field.encode(coefficients, size)) == coefficients).all()


def test_random_elements_are_below_p(monkeypatch):
    drawn = iter(
        [np.array([P, P - 1, 2**64 - 1], np.uint64), np.array([P + 5, 7], np.uint64), np.array([8], np.uint64)]
    )
    monkeypatch.setattr(os, "urandom", lambda _size: next(drawn).tobytes())
    assert uniform(3, 1).tolist() == [[8], [P - 1], [7]]


def test_what_hides_is_used_once():
    case = Case(arrays=((3, 2),))
    case.prove()
    case.prover = Recorder()
    with pytest.raises(ProofError) as caught:
        case.prove()
    assert (caught.value.code, case.commitments[0].spent) == ("proof.uses-spent", 1)
    for _ in range(2):
        case.pads = commit_pads(case.prover, case.count)
        case.equation = replace(case.equation, constant=K(0))
        case.equation = replace(case.equation, constant=sides(case.equation, case.pads, case.openings))
        spent = case.commitments[0].spent
        if spent == 2:
            with pytest.raises(ProofError) as caught:
                case.prove()
            assert caught.value.code == "proof.uses-spent"
        else:
            case.check(case.prove())
        case.prover = Recorder()


def test_each_leaf_has_a_salt_of_its_own():
    array = table(1 << 4)
    one, other = commit_hiding(array), commit_hiding(array)
    salts = {*map(bytes, np.concatenate([one.leaves.salts, other.leaves.salts]))}
    assert len(salts) == 2 << one.shape.leaves
    assert one.root != other.root


def test_no_secret_is_in_what_is_printed():
    case = Case()
    for text in (repr(case.pads), repr(case.commitments[0])):
        assert len(text) < 80


class Scripted(Recorder):
    """Draws what does not depend on anything: a verifier that tosses coins, the same in each run."""

    def _draw(self, label, count, size):
        self._step(2, label, b"")
        self.turn = getattr(self, "turn", 0) + 1
        return np.random.default_rng(self.turn).bytes(count * size)

    def said(self, label):
        return [self.proof[start:end] for one, start, end in self.messages if one == label]


class Tape:
    """The prover's random numbers, in the order in which it draws them."""

    def __init__(self, monkeypatch, numbers=None):
        self.given, self.drawn = list(numbers or []), []
        monkeypatch.setattr(hiding, "uniform", self.uniform)
        monkeypatch.setattr(hiding.os, "urandom", lambda size: bytes(size))  # salts

    def uniform(self, *shape):
        if not shape[0]:
            return table(*shape)
        self.drawn.append(self.given.pop(0).copy() if self.given else table(*shape))
        assert self.drawn[-1].shape == shape
        return self.drawn[-1].copy()


def margin_for(matrix, code, shape, places):
    """Return random coefficients with which another matrix has the columns of a code at some places."""
    exponents = np.concatenate([4 * hiding._reversed(shape.size) + s for s in range(4)])
    generator = field.generator(shape.leaves)
    shown = sorted({*places}) + [place for place in range(len(code)) if place not in places]
    shown = shown[: shape.margin]
    at = [pow(generator, int(exponents[place]), P) for place in shown]
    rest = field.sub(code[shown], field.encode(matrix, shape.size)[shown])  # x^C · margin(x)
    whole = [1]  # Π (X − x)
    for x in at:
        whole = [(a - x * b) % P for a, b in zip([0, *whole], [*whole, 0], strict=True)]
    out = np.zeros((shape.margin, matrix.shape[1]), np.uint64)
    for x, values in zip(at, rest, strict=True):
        quotient, carry = [], 0
        for coefficient in reversed(whole[1:]):  # by X − x
            carry = (coefficient + x * carry) % P
            quotient.append(carry)
        quotient.reverse()
        value = sum(c * pow(x, k, P) for k, c in enumerate(quotient)) % P
        by = pow(value * pow(x, len(matrix), P), P - 2, P)
        basis = np.array([c * by % P for c in quotient], np.uint64)
        out = field.add(out, field.mul(basis[:, None], values[None]))
    return out


def test_all_witnesses_have_the_same_proofs(monkeypatch):
    """For what was said of one witness there are random numbers with which the same is said of any other witness.

    As these are found by a bijection, every proof is as likely for one witness as for the other.
    """
    array, other = table(1 << 11), table(1 << 11)
    equation = Equation(table(20, 2), [(3, 4), (5, 5)], table(2, 2), K(0))
    point, weights = None, None

    def proof_of(witness, tape, constant=None):
        nonlocal point, weights
        prover = Scripted()
        commitment = commit_hiding(witness)
        pads = commit_pads(prover, 20)
        if point is None:
            point, weights = elements(commitment.shape.rows), table(1 << commitment.shape.positions, 2)
        openings = [(commitment, point, weights)]
        own = replace(equation, constant=sides(equation, pads, openings) if constant is None else constant)
        assert sides(own, pads, openings) == K(0)
        prove_hidden(prover, pads, own, [(commitment, asked_of(*openings[0]))])
        return prover, commitment, pads, own.constant

    first = Tape(monkeypatch)
    one, commitment, pads, constant = proof_of(array, first)
    shape, own = commitment.shape, HidingShape.of_pads(20)
    *_, pads_mask, array_mask = first.drawn
    # the same places as are drawn
    again = Scripted()
    again.turn = 1  # after β, δ and rows
    places = [again.places("columns", HIDING_QUERIES, each.leaves) for each in (own, shape)]
    # other pads, with which the equation holds
    matrix = other.reshape(1 << shape.positions, -1)
    margin = margin_for(matrix, commitment.code[0], shape, places[1])
    second = replace(commitment, elements=Elements(other).cut(shape.positions), margin=margin)
    values = table(*pads.coded.matrix.shape)
    others = replace(pads, coded=replace(pads.coded, matrix=values))
    missing = sides(replace(equation, constant=constant), others, [(second, point, weights)])
    flat = values.reshape(-1, 2)
    [at_zero], [coefficient] = field.elements(flat[:1]), field.elements(equation.linear[:1])
    flat[0] = field.array([at_zero - missing * coefficient.inverse()])[0]
    # random coefficients with which columns are the same
    factors_code = np.frombuffer(one.said("columns")[1], np.uint64)
    rows = own.factor_rows(2)
    whole = np.zeros((1 << own.leaves, 4 * rows), np.uint64)
    whole[places[0]] = factors_code.reshape(len(places[0]), -1)
    numbers = [
        margin,
        values,
        margin_for(values, pads.coded.code, own, places[0]),
        margin_for(hiding._factors(others, equation, own), whole, own, places[0]),
        pads_mask,
        array_mask,
    ]
    # masks with which the rest is the same: they are added to it
    trial, *_ = proof_of(other, Tape(monkeypatch, numbers), constant)

    def difference(label, number):
        x, y = (np.frombuffer(each.said(label)[number], np.uint64).reshape(-1, 2) for each in (one, trial))
        return field.sub(x, y)

    pads_mask, array_mask = pads_mask.copy(), field.add(array_mask, difference("combination", 1))
    pads_mask[: own.coefficients, :2] = field.add(pads_mask[: own.coefficients, :2], difference("combination", 0))
    pads_mask[:, 2:] = field.add(pads_mask[:, 2:], difference("polynomial", 0))
    same, *_ = proof_of(other, Tape(monkeypatch, [*numbers[:4], pads_mask, array_mask]), constant)
    assert [label for label, *_ in same.messages] == [label for label, *_ in one.messages]
    for label in ("sum", "combination", "polynomial", "columns", "salts"):
        assert same.said(label) == one.said(label), label
    assert trial.said("combination") != one.said("combination")
