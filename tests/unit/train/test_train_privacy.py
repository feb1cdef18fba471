"""The plan of a private run against opacus' own accountants, and the noise against what was planned."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opacus.accountants import PRVAccountant, RDPAccountant

from mitai.errors import TrainError
from mitai.train.privacy import Plan, Randomness, epsilon_spent
from mitai.train.tables import Private

SECRET, JOB = bytes(range(32)), "ab" * 32
ASKED = {"epsilon": 3.0, "delta": 1e-5, "batch": 16, "rows": 800, "steps": 100, "clip": 1.0}


def test_the_plan_costs_what_opacus_says():
    plan = Plan.of(**ASKED)
    opacus = PRVAccountant()
    for _ in range(plan.steps):
        opacus.step(noise_multiplier=plan.noise_multiplier, sample_rate=plan.sample_rate)
    assert plan.spent == opacus.get_epsilon(plan.delta)
    assert plan.spent <= 3.0 < plan.spent + 0.02  # no more noise than needed
    renyi = RDPAccountant()
    renyi.history = [(plan.noise_multiplier, plan.sample_rate, plan.steps)]
    assert plan.spent < renyi.get_epsilon(plan.delta) < 1.3 * plan.spent  # another analysis, a looser bound


def test_more_steps_and_less_epsilon_need_more_noise():
    noise = Plan.of(**ASKED).noise_multiplier
    assert Plan.of(**ASKED | {"steps": 400}).noise_multiplier > noise
    assert Plan.of(**ASKED | {"epsilon": 1.0}).noise_multiplier > noise
    assert Plan.of(**ASKED | {"batch": 8}).noise_multiplier < noise


def test_all_records_in_each_step_is_the_plain_gaussian_mechanism():
    plan = Plan.of(**ASKED | {"batch": 800, "steps": 4})
    assert plan.sample_rate == 1.0
    assert Randomness(SECRET, JOB).sample(0, 5, plan.sample_rate) == [0, 1, 2, 3, 4]


def test_a_budget_that_is_too_large_does_not_buy_silence():
    plan = Plan.of(**ASKED | {"epsilon": 20.0, "steps": 1})
    assert plan.noise_multiplier == 0.3


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"batch": 801}, "train.batch-too-large"),
        ({"delta": 1 / 800}, "train.delta-too-large"),
        ({"epsilon": 1e-9}, "train.budget-unreachable"),
    ],
)
def test_what_promises_nothing_is_refused(changed, code):
    with pytest.raises(TrainError) as error:
        Plan.of(**ASKED | changed)
    assert error.value.code == code


def test_epsilon_grows_with_each_step():
    costs = [epsilon_spent(1.0, 0.02, steps, 1e-5) for steps in (1, 10, 100)]
    assert costs == sorted(costs)
    assert costs[0] < costs[-1]


@given(st.floats(1e-6, 1e6), st.floats(1e-9, 0.1))
def test_what_is_declared_is_never_less_than_what_is_spent(epsilon, delta):
    said = Private(epsilon=epsilon, delta=delta).declared()
    assert int(said["epsilon_micros"]) * 10**-6 >= epsilon * (1 - 1e-12)
    assert int(said["epsilon_micros"]) - 1 < epsilon * 10**6
    assert int(said["delta_nanos"]) * 10**-9 >= delta * (1 - 1e-12)
    assert Private(epsilon=0.1, delta=1e-10).declared() == {
        "epsilon_micros": "100000",
        "delta_nanos": "1",
        "chunk": "8",
    }


def test_noise_is_normal():
    noise = Randomness(SECRET, JOB).noise(0, b"sum", 0, 400_000)
    assert abs(noise.mean()) < 0.005
    assert abs(noise.std() - 1) < 0.004
    kurtosis = ((noise - noise.mean()) ** 4).mean() / noise.var() ** 2
    assert abs(kurtosis - 3) < 0.05
    assert abs(np.corrcoef(noise[:-1], noise[1:])[0, 1]) < 0.006


def test_noise_is_a_function_of_secret_job_step_part_and_what_it_hides():
    def draw(secret=SECRET, job=JOB, step=3, hidden=b"sum", part=1):
        return Randomness(secret, job).noise(step, hidden, part, 1000)

    again = draw()
    assert (again == draw()).all()
    for other in (draw(bytes(32)), draw(job="00" * 32), draw(step=4), draw(hidden=b"another"), draw(part=2)):
        assert abs(np.corrcoef(again, other)[0, 1]) < 0.15
        assert not (again == other).any()


def test_each_record_is_taken_with_the_planned_probability():
    randomness = Randomness(SECRET, JOB)
    taken = [randomness.sample(step, 2000, 0.05) for step in range(200)]
    assert abs(sum(map(len, taken)) / (200 * 2000) - 0.05) < 0.002
    assert taken[0] == randomness.sample(0, 2000, 0.05) != taken[1]
    assert taken[0] != Randomness(bytes(32), JOB).sample(0, 2000, 0.05)
    assert randomness.sample(0, 2000, 1e-18) == []


def test_a_short_secret_is_refused():
    with pytest.raises(TrainError, match="32 bytes"):
        Randomness(b"seed", JOB)
