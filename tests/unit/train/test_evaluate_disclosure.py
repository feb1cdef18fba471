"""Which numbers leave: no group, no remainder and no dominant record below the smallest group."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mitai.train.evaluate.disclosure import told
from mitai.train.evaluate.statistics import Series


def groups_of(**sizes: int):
    total = sum(sizes.values())
    labels = np.repeat(list(sizes), list(sizes.values()))
    return Series.mean("acc", [0.0] * total), {name: labels == name for name in sizes if name != "undeclared"}


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({"a": 30, "b": 30}, {"", "a", "b"}),
        ({"a": 19}, set()),
        ({"a": 20}, {"", "a"}),
        # b alone would be the total minus the others: the smallest of them is withheld too
        ({"a": 50, "b": 5, "c": 30}, {"", "a"}),
        ({"a": 50, "b": 5}, {""}),
        ({"a": 50, "b": 12, "c": 12}, {"", "a"}),  # what is withheld is 24 together
        ({"a": 50, "undeclared": 3}, {""}),
        ({"a": 50, "undeclared": 30}, {"", "a"}),
        ({"a": 50, "b": 0}, {"", "a"}),
    ],
)
def test_small_groups_and_what_would_give_them_away(sizes, expected):
    assert set(told(*groups_of(**sizes), min_group=20)) == expected


def test_no_difference_of_what_is_told_isolates_few():
    for sizes in itertools.product((0, 1, 7, 20, 33), repeat=4):
        series, groups = groups_of(**dict(zip("abcu", sizes, strict=True)), undeclared=2)
        found = told(series, groups, min_group=20)
        if not found:
            continue
        shown = [rows for name, rows in found.items() if name]
        for count in range(len(shown) + 1):
            for some in itertools.combinations(shown, count):
                left = int(found[""].sum()) - sum(int(rows.sum()) for rows in some)
                assert left == 0 or left >= 20


def test_a_record_that_outweighs_the_others_is_withheld():
    weights = np.array([1.0] * 50 + [1000.0])
    assert told(Series("word_perplexity", -weights, weights, "exp"), {}, min_group=20) == {}
    weights = np.array([1.0] * 50 + [2.0])
    assert set(told(Series("word_perplexity", -weights, weights, "exp"), {}, min_group=20)) == {""}


def test_records_without_weight_make_no_group():
    series = Series("rating", np.ones(40), np.array([1.0] * 10 + [0.0] * 30))
    assert told(series, {"a": np.ones(40, dtype=bool)}, min_group=20) == {}


def test_nothing_is_told_of_nothing():
    assert told(Series.mean("acc", []), {}, min_group=1) == {}
