"""Properties of evaluations: what is told never isolates few records, formats have one encoding, readers are strict."""

from __future__ import annotations

import contextlib
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitai.errors import MitaiError
from mitai.train.evaluate import judging
from mitai.train.evaluate.disclosure import told
from mitai.train.evaluate.report import Measured, Number, Result
from mitai.train.evaluate.statistics import Series, pass_at_k
from mitai.train.evaluate.tasks import fill

WEIGHTS = st.lists(st.tuples(st.integers(0, 4), st.sampled_from([0.0, 1.0, 1.0, 2.0, 9.0])), max_size=60)


@given(WEIGHTS, st.integers(1, 12))
def test_every_difference_of_told_numbers_speaks_of_enough_records(records, min_group):
    labels = np.array([label for label, _ in records])
    weights = np.array([weight for _, weight in records])
    series = Series("word_perplexity", -weights, weights, "exp")
    found = told(series, {str(label): labels == label for label in range(4)}, min_group)
    groups = [rows for name, rows in found.items() if name]
    for count in range(len(groups) + 1):
        for some in itertools.combinations(groups, count):
            rest = found[""].copy() if found else np.zeros(0, dtype=bool)
            for rows in some:
                rest &= ~rows
            left = weights[rest]
            assert not left.size or left.sum() >= min_group * left.max()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(0, 2**32 - 1))
def test_an_interval_lies_within_the_values(values, seed):
    series = Series.mean("acc", values)
    low, high = series.interval(np.ones(len(values), dtype=bool), 100, seed)
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_grows_with_k_and_with_what_passes(drawn):
    samples, passed, k = drawn
    value = pass_at_k(samples, passed, k)
    assert 0 <= value <= 1
    assert k == samples or pass_at_k(samples, passed, k + 1) >= value
    assert passed == samples or pass_at_k(samples, passed + 1, k) >= value
    assert pass_at_k(samples, passed, 1) == pytest.approx(passed / samples)


NUMBERS = st.builds(
    lambda metric, group, n, value, spread: Number(
        metric=metric, group=group, n=n, value=value, low=value - spread, high=value + spread
    ),
    st.sampled_from(["acc", "acc_norm", "rating", "pass@100", "bits_per_byte"]),
    st.sampled_from(["", "north", "a.b c"]),
    st.integers(20, 2**40),
    st.integers(-(2**50), 2**50),
    st.integers(0, 2**40),
)


@given(st.lists(NUMBERS, max_size=6, unique_by=lambda number: (number.metric, number.group)), st.data())
def test_results_have_one_encoding(numbers, data):
    found = Measured(evaluation_sha256="a" * 64, min_group=20, results=(Result(task="t", numbers=tuple(numbers)),))
    encoded = found.encode()
    assert Measured.decode(encoded) == found
    at = data.draw(st.integers(0, len(encoded) - 1))
    changed = encoded[:at] + bytes([encoded[at] ^ data.draw(st.integers(1, 255))]) + encoded[at + 1 :]
    with contextlib.suppress(MitaiError):
        assert Measured.decode(changed) != found


@given(st.text(), st.integers(2, 100))
def test_a_rating_is_within_its_scale(words, scale):
    for text in (words, f"{words} Rating: [[{scale}]]"):
        rated = judging.rating(text, scale)
        assert rated is None or 1 <= rated <= scale


@given(st.text(), st.text())
def test_what_is_filled_in_is_not_read_again(first, second):
    assert fill("{a}|{b}", {"a": first, "b": second}) == f"{first}|{second}"
