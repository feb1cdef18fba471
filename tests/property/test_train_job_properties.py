"""Properties of methods' settings: what is in bounds parses and is what was said; what is not is refused, unquoted."""

from __future__ import annotations

from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitai.errors import TrainError
from mitai.train.job import Job
from mitai.train.rewards import Exact, Format, Length
from mitai.train.tables import Distill, Dpo, Grpo, Private, Reward

HEAD = '[job]\nname = "t"\nmethod = "{}"\nmodel = "m"\ndata = ["d"]\n'
WHOLE = HEAD.format("private") + (
    "[training]\nbatch = {batch}\nepochs = {epochs}\n[limits]\nrows = {rows}\nsteps = {steps}\n"
    "[private]\nepsilon = {epsilon!r}\ndelta = {delta!r}\n"
)
ANY = st.one_of(st.floats(), st.integers(-(2**60), 2**60), st.text(max_size=8), st.booleans())
BOUNDS = {  # (table, key): least, greatest, whether these are allowed themselves
    (Dpo, "beta"): (0.0, 100.0, False, True),
    (Dpo, "label_smoothing"): (0.0, 0.5, True, False),
    (Grpo, "temperature"): (0.0, 10.0, False, True),
    (Grpo, "clip"): (0.0, 1.0, False, False),
    (Reward, "centre"): (0.0, 10.0, True, True),
    (Distill, "temperature"): (0.0, 100.0, False, True),
    (Distill, "hard"): (0.0, 1.0, True, True),
    (Private, "epsilon"): (0.0, 20.0, False, True),
    (Private, "delta"): (1e-12, 0.1, True, False),
    (Private, "clip"): (0.0, 1e6, False, True),
}
NEEDED = {
    Grpo: {"rewards": [{"name": "json"}]},
    Distill: {"teacher": "big"},
    Private: {"epsilon": 1.0, "delta": 1e-6},
}


@given(st.sampled_from(sorted(BOUNDS, key=str)), ANY)
def test_numbers_have_bounds(key, value):
    table, name = key
    least, greatest, with_least, with_greatest = BOUNDS[key]
    fits = (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and (least < value < greatest or (value == least and with_least) or (value == greatest and with_greatest))
    )
    try:
        found = msgspec.convert(NEEDED.get(table, {}) | {name: value}, table)
    except msgspec.ValidationError:
        assert not fits
    else:
        assert fits
        assert getattr(found, name) == value


@given(
    st.integers(1, 10**4), st.integers(1, 10**6), st.integers(1, 10**4), st.floats(1e-6, 20.0), st.floats(1e-12, 0.09)
)
def test_a_private_job_tells_the_broker_at_least_what_it_takes(batch, rows, steps, epsilon, delta):
    epochs = -(-steps * batch // rows)
    text = WHOLE.format(batch=batch, epochs=epochs, rows=rows, steps=steps, epsilon=epsilon, delta=delta)
    if batch > rows or epochs > 1000:
        with pytest.raises(TrainError, match="not valid"):
            Job.parse(text)
        return
    job = Job.parse(text)
    told = {name: int(value) for name, value in job.declared().items() if name != "method"}
    assert (told["steps"], told["rows"], told["epochs"]) == (steps, rows, epochs)
    assert told["epochs"] * rows >= steps * batch
    assert Decimal(told["epsilon_micros"]) >= Decimal(repr(epsilon)) * 10**6 > told["epsilon_micros"] - 1
    assert Decimal(told["delta_nanos"]) >= Decimal(repr(delta)) * 10**9 > told["delta_nanos"] - 1
    with pytest.raises(TrainError):
        Job.parse(text.replace("epochs = ", "epochs = 1"))


@given(st.text(), st.text())
def test_an_exact_answer_is_rewarded_with_and_without_markers(answer, around):
    assert Exact().score(f" {answer}\n", {"answer": answer}) == 1.0
    if "<<" not in answer and ">>" not in answer and not answer.endswith(">") and not answer.startswith("<"):
        marked = Exact(after="<<", before=">>").score(f"{around}<<{answer}>>", {"answer": answer})
        assert marked == 1.0


@given(st.lists(st.text("ab", max_size=3), min_size=1, max_size=5), st.lists(st.text("ab", max_size=4), max_size=4))
def test_a_format_is_met_by_what_fills_its_gaps(parts, fillings):
    fillings = (fillings + [""] * 4)[: len(parts) - 1]
    text = parts[0] + "".join(gap + part for gap, part in zip(fillings, parts[1:], strict=True))
    assert Format(template="{}".join(parts) or "{}").score(text, {}) == 1.0


@given(st.text(), st.integers(1, 10**6))
def test_a_length_is_a_share(text, target):
    assert 0.0 <= Length(target=target).score(text, {}) <= 1.0
