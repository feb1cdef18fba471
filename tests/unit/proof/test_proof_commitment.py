"""Commitments: what is opened is what was committed to, at each place."""

import numpy as np
import pytest

from mitai.errors import ProofError
from mitai.proof import field
from mitai.proof.claims import prove_claims
from mitai.proof.commitment import Commitment, commit, open_claims, tree
from mitai.proof.elements import Elements
from mitai.proof.field import ONE, K, P
from mitai.proof.transcript import Prover, Verifier
from mitai.proof.verify.claims import Claim, check_claims, places
from mitai.proof.verify.commitment import MAX_LOG, Shape, bind_root, check_openings
from proof_rig import Recorder

RNG = np.random.default_rng(4)


def table(*shape):
    return RNG.integers(0, P, shape, np.uint64)


def begin(transcript, root, log):
    bind_root(transcript, root, log)
    return transcript.challenges("point", log)


def opened(array, prover):
    """Return root, proof and value."""
    committed = commit(array)
    point = begin(prover, committed.root, committed.log)
    value = field.evaluate(array, point)
    open_claims(prover, committed, [Claim(point, value)])
    return committed.root, prover.proof, value


def check(root, proof, value, log):
    verifier = Verifier(proof)
    check_openings(verifier, root, log, [Claim(begin(verifier, root, log), value)])
    verifier.finish()


@pytest.mark.parametrize("log", [0, 1, 6, 7, 8, 11])
def test_true_openings(log):
    check(*opened(table(1 << log), Prover()), log)


def test_whatever_is_changed_is_refused():
    prover = Recorder()
    root, proof, value = opened(table(1 << 8), prover)
    expected = {
        "round": "proof.value-refuted",
        "combination": "proof.value-refuted",
        "columns": "proof.column-refuted",
        "path": "proof.path-refuted",
    }
    assert {label for label, *_ in prover.messages} == set(expected)
    for label, start, end in prover.messages:
        step = {"round": 8, "combination": 24, "columns": 64, "path": 32}[label]
        for at in range(start, end, step):
            changed = bytearray(proof)
            changed[at + at // step % 8] ^= 1  # of elements, another byte each time
            with pytest.raises(ProofError) as caught:
                check(root, bytes(changed), value, 8)
            assert caught.value.code in (expected[label], "proof.malformed")
    for wrong in ((bytes([root[0] ^ 1]) + root[1:], value), (root, value + ONE)):
        with pytest.raises(ProofError):
            check(wrong[0], proof, wrong[1], 8)


def test_another_combination_of_the_same_value_is_refused():
    class Liar(Prover):
        def send(self, label, words):
            if label == "combination":
                first, second = field.elements(words[:2])
                weights = field.equality(self.outer)
                one, other = field.elements(weights[:2])
                words = words.copy()
                words[:2] = field.array([first + other, second - one])  # has the same sum with these weights
            super().send(label, words)

    array = table(1 << 8)
    shape = Shape.of(8)
    committed = commit(array)
    prover = Liar()
    point = begin(prover, committed.root, 8)
    prover.outer = point[: shape.positions]
    open_claims(prover, committed, [Claim(point, field.evaluate(array, point))])
    with pytest.raises(ProofError) as caught:
        check(committed.root, prover.proof, field.evaluate(array, point), 8)
    assert caught.value.code == "proof.column-refuted"


def test_words_that_are_no_code_are_refused():
    array = table(1 << 9)
    committed = commit(array)
    rng = np.random.default_rng(5)
    spoiled = committed.code[0].copy()
    places_of = rng.permutation(len(spoiled))[: len(spoiled) * 3 // 8]  # just half of the code's distance
    spoiled[places_of, 0] = field.add(spoiled[places_of, 0], np.uint64(1))
    levels = tree(spoiled)
    root, proof, value = opened_from(Commitment(levels[-1].tobytes(), Elements(array), levels, spoiled[None]))
    with pytest.raises(ProofError) as caught:
        check(root, proof, value, 9)
    assert caught.value.code == "proof.column-refuted"


def opened_from(committed):
    prover = Prover()
    point = begin(prover, committed.root, committed.log)
    value = committed.elements.evaluate(0, point)
    open_claims(prover, committed, [Claim(point, value)])
    return committed.root, prover.proof, value


@pytest.mark.parametrize("log", [-1, MAX_LOG + 1])
def test_sizes_are_bounded(log):
    with pytest.raises(ProofError) as caught:
        Shape.of(log)
    assert caught.value.code == "proof.statement-invalid"


LOGS = [2, 0, 3]


def joined(prover, change=lambda claims: claims):
    offsets, log = places(LOGS)
    array = table(1 << log)
    of = []
    for size, offset in zip(LOGS, offsets, strict=True):
        for _ in range(2):
            point = prover.challenges("some", size)
            of.append(Claim(point, field.evaluate(array[offset : offset + (1 << size)], point), offset))
    claims = change(of)
    return array, log, claims, prove_claims(prover, array, claims)


def check_joined(proof, log, claims):
    verifier = Verifier(proof)
    for claim in claims:
        verifier.challenges("some", len(claim.point))
    left = check_claims(verifier, log, claims)
    verifier.finish()
    return left


def test_claims_on_parts_of_an_array():
    prover = Prover()
    array, log, claims, left = joined(prover)
    assert places(LOGS) == ([8, 12, 0], 4)
    assert field.evaluate(array, left.point) == left.value
    assert check_joined(prover.proof, log, claims) == left


@pytest.mark.parametrize("which", range(2 * len(LOGS)))
@pytest.mark.parametrize("lie", [ONE, K(0, 1)])
def test_each_claim_counts(which, lie):
    def change(claims):
        claims[which] = Claim(claims[which].point, claims[which].value + lie, claims[which].offset)
        return claims

    prover = Prover()
    _, log, claims, _ = joined(prover, change)
    with pytest.raises(ProofError, match="not what was claimed"):
        check_joined(prover.proof, log, claims)


def test_wrong_weights_are_refused():
    prover = Recorder()
    _, log, claims, left = joined(prover)
    value = left.value
    product = field.elements(np.frombuffer(prover.proof[-16:], "<u8")[None].astype(np.uint64))[0] * value
    forged = prover.proof[:-32] + field.array([product, ONE]).astype("<u8").tobytes()
    with pytest.raises(ProofError) as caught:
        check_joined(forged, log, claims)
    assert caught.value.code == "proof.claims-refuted"


@pytest.mark.parametrize(
    "claim", [Claim([ONE], ONE, 1), Claim([ONE], ONE, 16), Claim([ONE], ONE, -2), Claim([ONE] * 5, ONE), None]
)
def test_claims_are_on_the_array(claim):
    with pytest.raises(ProofError) as caught:
        check_claims(Verifier(b""), 4, [claim] if claim else [])
    assert caught.value.code == "proof.statement-invalid"


def test_challenges_depend_on_all_claims():
    class Listener(Verifier):
        def challenge(self, label):
            drawn.append(super().challenge(label))
            raise ProofError("proof.stopped", "enough")

    drawn = []
    ways = [
        [Claim([ONE], ONE)],
        [Claim([ONE], ONE, 2)],
        [Claim([K(2)], ONE)],
        [Claim([ONE], K(2))],
        [Claim([ONE], ONE)] * 2,
    ]
    for claims in ways:
        with pytest.raises(ProofError, match="enough"):
            check_claims(Listener(b""), 4, claims)
    assert len(set(drawn)) == len(ways)
