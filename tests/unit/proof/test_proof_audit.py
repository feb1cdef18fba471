"""An audit finds whatever is false in a trace, each by the check that should; what it needs is a secret key."""

from __future__ import annotations

import io
import itertools
import operator
from fractions import Fraction

import msgspec
import numpy as np
import pytest

import proof_audit_rig as rig
from mitai.errors import ParseError, ProofError
from mitai.proof import field
from mitai.proof.answer import generate, statement
from mitai.proof.audit import freivalds
from mitai.proof.audit.check import Auditor, caught, draw, plan_of
from mitai.proof.audit.files import Challenge, Committed
from mitai.proof.audit.key import AuditKey, make_key
from mitai.proof.audit.plan import Plan
from mitai.proof.audit.trace import commit, respond
from mitai.proof.field import P
from mitai.proof.prepared import Prepared
from mitai.proof.proving import Weights
from mitai.proof.sampling import Agreed, Sampling

FAMILIES = ("llama", "gpt2")


def refusal(auditor: Auditor, challenge: Challenge | None, data: bytes) -> ProofError | None:
    """Return why an audit fails."""
    try:
        auditor.check(challenge, io.BytesIO(data))
    except ProofError as refused:
        return refused
    return None


def lie(claim, results, **changes) -> tuple[Auditor, rig.Liar]:
    """Return an auditor of what a liar commits to."""
    liar = rig.Liar(claim, results)
    committed = msgspec.structs.replace(rig.committed(), salt=bytes(32), root=liar.root, **changes)
    return Auditor(committed, rig.key()), liar


def audited(auditor: Auditor, liar: rig.Liar, place: int | None = None) -> ProofError | None:
    """Return why an audit of all steps, or of one, fails."""
    challenge = None if place is None else Challenge(steps=(place,))
    return refusal(auditor, challenge, liar.response(challenge))


def told(challenge: Challenge | None = None) -> bytes:
    """Return what the true prover sends."""
    return b"".join(respond(rig.prepared(), rig.committed(), challenge))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_true_trace_passes_whole_and_in_parts(family):
    committed, prepared = rig.committed(family), rig.prepared(family)
    auditor = Auditor(committed, rig.key(family))
    total = len(auditor.plan.steps)
    for challenge in (None, draw(auditor.plan, 5), draw(auditor.plan, total + 1)):
        data = b"".join(respond(prepared, committed, challenge))
        report = auditor.check(challenge, io.BytesIO(data))
        assert report.checked == (len(challenge.steps) if challenge else total)
        assert (report.steps, report.size_bytes) == (total, len(data))
        assert report.caught == pytest.approx(report.checked / total)
        assert report.bits > 100


def test_each_step_that_is_false_is_refuted_by_its_own_check():
    claim, plan = rig.claim()
    true = rig.results(claim, rig.prepared().weights.arrays)
    for step in plan.steps:
        auditor, liar = lie(claim, true | {step: rig.changed(true[step], plan.value(step))})
        refused = audited(auditor, liar)
        assert refused is not None
        assert refused.step == plan.name(step)
        assert refused.code == ("proof.weights-refuted" if step in plan.products else "proof.step-refuted")


def test_one_false_step_is_found_exactly_as_often_as_is_said():
    claim, plan = _one_token()
    total = len(plan.steps)
    for step in (plan.steps[1], plan.steps[total // 2], plan.steps[-2]):
        results = rig.results(claim, rig.prepared().weights.arrays, wrong=step)
        token = int(results[plan.steps[-1]][0])
        said = statement(_asked(token).unproven, rig.prepared().card)
        auditor, liar = lie(said, results, answer=(token,))
        found = [place for place in range(total) if audited(auditor, liar, place)]
        assert found == [plan.places[step]]
        assert Fraction(len(found), total) == caught(total, 1)


@pytest.mark.parametrize(("steps", "checked", "false"), [(5, 2, 1), (6, 3, 2), (7, 7, 1), (7, 1, 3)])
def test_the_chance_is_that_of_all_challenges(steps, checked, false):
    challenges = list(itertools.combinations(range(steps), checked))
    found = [one for one in challenges if set(one) & set(range(false))]
    assert caught(steps, checked, false) == Fraction(len(found), len(challenges))


def test_a_challenge_is_drawn_among_all_steps():
    auditor = Auditor(rig.committed(), rig.key())
    drawn = {draw(auditor.plan, 6).steps for _ in range(40)}
    assert len(drawn) > 30
    assert all(len(set(one)) == 6 for one in drawn)


def test_another_models_weights_are_refuted():
    claim, plan = rig.claim()
    results = rig.results(claim, rig.prepared(seed=5).weights.arrays)
    auditor, liar = lie(claim, results)
    refused = audited(auditor, liar)
    assert refused is not None
    assert (refused.code, refused.step) == ("proof.weights-refuted", plan.name(plan.steps[0]))


def test_another_prompts_trace_is_refuted():
    claim, _ = rig.claim()
    other = msgspec.structs.replace(rig.committed(), prompt=(5, 6, 8))
    results = rig.results(statement(other.unproven, rig.prepared().card), rig.prepared().weights.arrays)
    auditor, liar = lie(claim, results)
    assert audited(auditor, liar).code == "proof.weights-refuted"


def test_another_answer_is_refuted():
    answer = (*rig.committed().answer[:-1], (rig.committed().answer[-1] + 1) % rig.WORDS)
    claim = statement(msgspec.structs.replace(rig.committed(), answer=answer).unproven, rig.prepared().card)
    plan = Plan.of(claim.program)
    true = rig.results(claim, rig.prepared().weights.arrays)
    last = plan.steps[-1]
    for results in (true, true | {last: claim.choices[last]}):
        auditor, liar = lie(claim, results, answer=answer)
        refused = audited(auditor, liar)
        assert (refused.code, refused.step) == ("proof.step-refuted", plan.name(last))


@pytest.mark.parametrize("change", [{"prompt": (5, 6, 8)}, {"salt": b"1" * 32}, {"root": b"1" * 32}])
def test_a_root_is_of_one_statement(change):
    auditor = Auditor(msgspec.structs.replace(rig.committed(), **change), rig.key())
    assert refusal(auditor, None, told()).code == "proof.trace-refuted"


def test_numbers_out_of_range_are_refuted():
    claim, plan = rig.claim()
    true = rig.results(claim, rig.prepared().weights.arrays)
    step = next(step for step in plan.steps if plan.value(step).high % 256 != 255)
    false = true[step].copy()
    false.reshape(-1)[0] = plan.value(step).high + 1
    auditor, liar = lie(claim, true | {step: false})
    refused = audited(auditor, liar)
    assert refused.step == plan.name(step)
    assert "range" in refused.message


def test_what_is_computed_from_a_trace_may_be_out_of_range():
    claim, plan = rig.claim()
    true = rig.results(claim, rig.prepared().weights.arrays)
    norm = next(step for step in plan.steps if plan.value(step).shape[-1] == 1)  # of a norm, which a root is taken of
    auditor, liar = lie(claim, true | {norm: np.zeros_like(true[norm])})
    taker = next(step for step in plan.steps if norm in plan.takes[step])
    assert audited(auditor, liar, plan.places[taker]).step == plan.name(taker)


def test_streams_that_are_not_what_was_committed_to():
    auditor = Auditor(rig.committed(), rig.key())
    challenge = Challenge(steps=(0, 7, 20))
    data = told(challenge)
    rng = np.random.default_rng(1)
    size = len(data)
    places = [int(place) for place in rng.integers(0, size, 60)]
    spoilt = [data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :] for place in places]
    swapped = data[:21] + data[421:821] + data[21:421] + data[821:]
    for other in (*spoilt, swapped):
        assert refusal(auditor, challenge, other).code in {"proof.trace-refuted", "proof.trace-malformed"}
    for other in (b"", data[:-1], data[: size // 2], data + b"0"):
        assert refusal(auditor, challenge, other).code == "proof.trace-malformed"
    assert refusal(auditor, challenge, told()) is not None
    assert refusal(auditor, None, data) is not None


def test_an_endless_stream_is_not_read_to_its_end():
    class Endless(io.RawIOBase):
        taken = 0

        def read(self, size=-1):
            assert size > 0
            part = data[self.taken : self.taken + size] if self.taken < len(data) else bytes(size)
            self.taken += len(part)
            return part

    auditor = Auditor(rig.committed(), rig.key())
    challenge = draw(auditor.plan, 3)
    data = told(challenge)
    with pytest.raises(ProofError) as refused:
        auditor.check(challenge, endless := Endless())
    assert refused.value.code == "proof.trace-malformed"
    assert endless.taken == len(data) + 1


def test_an_auditor_holds_only_what_is_still_taken(monkeypatch):
    from mitai.proof.audit import check

    held = []
    original = check._Steps._check

    def counted(self, step, result):
        original(self, step, result)
        held.append(len(self._results))

    monkeypatch.setattr(check._Steps, "_check", counted)
    auditor = Auditor(rig.committed(), rig.key())
    auditor.check(None, io.BytesIO(told()))
    assert max(held) <= 6
    assert held[-1] == 0


def test_keys_of_others_are_refused():
    with pytest.raises(ProofError) as refused:
        Auditor(rig.committed(), make_key(rig.prepared(seed=5)))
    assert refused.value.code == "proof.model-differs"
    key = rig.key()
    name = next(iter(key.projections))
    for change in (
        {"vector": key.vector[:-8]},
        {"vector": b"\xff" * len(key.vector)},
        {"projections": key.projections | {"more": b""}},
        {"projections": key.projections | {name: key.projections[name][:-16]}},
        {"plain": {}},
        {"plain": {one: b"\x7f" * len(data) for one, data in key.plain.items()}},
    ):
        with pytest.raises(ProofError) as refused:
            Auditor(rig.committed(), msgspec.structs.replace(key, **change))
        assert refused.value.code == "proof.audit-key-differs"
    other = msgspec.structs.replace(key, vector=key.vector[16:] + key.vector[:16])
    auditor = Auditor(rig.committed(), other)
    assert refusal(auditor, None, told()).code == "proof.weights-refuted"


def test_a_key_is_made_from_the_weights_that_the_card_names():
    good = rig.prepared()
    arrays = dict(good.weights.arrays)
    arrays["table.weight"] = arrays["table.weight"].copy()
    arrays["table.weight"][0, 0] += 1
    other = rig.prepared(seed=5).weights.commitment
    for weights in (Weights(arrays, good.weights.commitment), Weights(good.weights.arrays, other)):
        with pytest.raises(ProofError) as refused:
            make_key(Prepared(good.folder, good.card, weights))
        assert refused.value.code == "proof.prepared-damaged"


def test_models_that_shall_stay_hidden_have_no_keys():
    good = rig.prepared()
    hidden = Prepared(good.folder, msgspec.structs.replace(good.card, uses=3), good.weights)
    with pytest.raises(ProofError) as refused:
        make_key(hidden)
    assert refused.value.code == "proof.audit-unsupported"


def test_keys_have_one_spelling_and_show_nothing():
    data = rig.key().encode()
    assert AuditKey.parse(data) == rig.key()
    assert repr(rig.key()) == f"AuditKey(model='{rig.prepared().card.identity}')"
    for wrong in (data + b"0", data[:-1], b"", Committed.encode(rig.committed())):
        with pytest.raises(ParseError) as refused:
            AuditKey.parse(wrong)
        assert refused.value.code == "proof.audit-key-malformed"
    assert make_key(rig.prepared()).vector != rig.key().vector


def test_drawn_answers_are_audited():
    prepared = rig.prepared()
    sampling = Sampling(temperature=700, seed=b"s" * 32, nonce=b"n" * 32)
    answer = generate(prepared, list(rig.PROMPT), 3, lambda _: True, sampling)
    committed = commit(prepared, rig.PROMPT, answer, sampling)
    with pytest.raises(ProofError) as refused:
        Auditor(committed, rig.key())
    assert refused.value.code == "proof.sampling-differs"
    assert plan_of(committed, rig.key().model).steps
    auditor = Auditor(Committed.parse(committed.encode()), rig.key(), Agreed(700, b"n" * 32))
    assert auditor.check(None, io.BytesIO(b"".join(respond(prepared, committed, None)))).bits > 100


def test_products_of_all_shapes(monkeypatch):
    rng = np.random.default_rng(2)
    r = freivalds.vector(7)
    for left, right in (((3, 4), (4, 7)), ((2, 1, 3, 4), (2, 5, 4, 7)), ((1, 4), (2, 4, 7)), ((2, 5, 3, 4), (5, 4, 6))):
        a, w = rng.integers(-(1 << 20), 1 << 20, left), rng.integers(-(1 << 17), 1 << 17, right)
        projection = freivalds.projected(w, w.ndim - 1, r)
        assert np.array_equal(freivalds.applied(a @ w, r), freivalds.product(a, projection))
    w, r2 = rng.integers(-9, 9, (2, 5, 3)).astype(np.int32), freivalds.vector(9)
    for block in (2, 1 << 22):
        monkeypatch.setattr(freivalds, "BLOCK", block)
        for axis in range(3):
            moved = np.moveaxis(w, axis, -1)
            assert np.array_equal(freivalds.projected(w, axis, r2), freivalds.applied(moved, r2))
    a, w = rng.integers(-9, 9, (2, 5, 3, 4)), rng.integers(-9, 9, (2, 5, 4, 7))
    summed = (a @ w).sum(0, keepdims=True).sum(1, keepdims=True)
    assert np.array_equal(freivalds.applied(summed, r), freivalds.product(a, freivalds.projected(w, 3, r), (0, 1)))


def test_vectors_are_secret_elements_and_the_error_is_computed(monkeypatch):
    assert field.is_canonical(freivalds.vector(100))
    drawn = iter([b"\xff" * 32, bytes(range(32)), bytes(32)])
    monkeypatch.setattr(freivalds.secrets, "token_bytes", lambda _: next(drawn))
    assert freivalds.vector(2).tobytes() == bytes(range(32))
    assert freivalds.bits(1, 1) == pytest.approx(128)
    assert freivalds.bits(256, 1 << 16) == pytest.approx(104)


def test_who_knows_the_vector_can_cheat():
    """Why a key is a secret: a difference that it does not see is short enough to stay within the range."""
    claim, plan = rig.claim()
    true = rig.results(claim, rig.prepared().weights.arrays)
    step = next(step for step in plan.products if plan.products[step].weight.endswith("gate.weight"))
    secret = np.frombuffer(rig.key().vector, "<u8").reshape(-1, 2)[:6].tolist()
    unseen = np.zeros(plan.value(step).shape[-1], np.int64)
    unseen[:6] = _short(secret)
    assert 0 < np.abs(unseen).max() < 1 << 30
    auditor, liar = lie(claim, true | {step: true[step] + unseen})
    assert audited(auditor, liar, plan.places[step]) is None
    committed = msgspec.structs.replace(rig.committed(), salt=bytes(32), root=liar.root)
    other = Auditor(committed, make_key(rig.prepared()))
    assert audited(other, liar, plan.places[step]).code == "proof.weights-refuted"


def _short(rows: list[list[int]]) -> list[int]:
    """Return small integers x, not all zero, with Σ x_i rows_i = 0 modulo p: the first of a reduced basis (LLL)."""
    (a, b), (c, d) = rows[:2]
    inverse = pow(a * d - b * c, -1, P)
    n = len(rows)
    basis = [[P * (i == j) for j in range(n)] for i in range(2)]
    for i, (e, f) in enumerate(rows[2:], 2):  # x_0 rows_0 + x_1 rows_1 = −rows_i
        first, second = (c * f - d * e) * inverse % P, (b * e - a * f) * inverse % P
        basis.append([first, second, *(int(i == j) for j in range(2, n))])
    k = 1
    while k < n:
        for j in reversed(range(k)):
            q = round(_onto(basis, k)[0][j])
            basis[k] = [x - q * y for x, y in zip(basis[k], basis[j], strict=True)]
        factors, lengths = _onto(basis, k)
        if lengths[k] >= (Fraction(3, 4) - factors[k - 1] ** 2) * lengths[k - 1]:
            k += 1
        else:
            basis[k - 1], basis[k] = basis[k], basis[k - 1]
            k = max(k - 1, 1)
    return basis[0]


def _onto(basis: list[list[int]], k: int) -> tuple[list[Fraction], list[Fraction]]:
    """Return vector k's factors of the orthogonal vectors before it, and the squared lengths of all up to it."""
    orthogonal: list[list[Fraction]] = []
    for vector in basis[: k + 1]:
        left = [Fraction(x) for x in vector]
        factors = [sum(map(operator.mul, vector, one)) / sum(x * x for x in one) for one in orthogonal]
        for factor, one in zip(factors, orthogonal, strict=True):
            left = [x - factor * y for x, y in zip(left, one, strict=True)]
        orthogonal.append(left)
    return factors, [sum(x * x for x in one) for one in orthogonal]


def _asked(token: int) -> Committed:
    return msgspec.structs.replace(rig.committed(), answer=(token,))


def _one_token():
    claim = statement(_asked(0).unproven, rig.prepared().card)
    return claim, Plan.of(claim.program)
