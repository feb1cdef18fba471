"""Verifiable rewards: what each scores, and that no answer stops or slows a run."""

from __future__ import annotations

import json
import time
from decimal import Decimal

import msgspec
import pytest

from mitai.train.rewards import AnyReward, Exact, Format, Json, Length, Numeric, number

CODE = {"name": "code", "capsule": "ab" * 16, "file": "reward.py", "sha256": "00" * 32}


@pytest.mark.parametrize(
    ("reward", "answer", "score"),
    [
        (Exact(), " Paris\n", 1.0),
        (Exact(), "paris", 0.0),
        (Exact(ignore_case=True), "pARIS", 1.0),
        (Exact(after="A:", before="."), "I think A: no. A: Paris. Surely.", 1.0),
        (Exact(after="A:"), "Paris", 0.0),
        (Exact(before="."), "Paris", 0.0),
        (Format(template="<a>{}</a>"), " <a>anything</a>\n", 1.0),
        (Format(template="<a>{}</a>"), "<a>anything", 0.0),
        (Format(template="<a>{}</a><b>{}</b>"), "<a>x</a><b>y</b>", 1.0),
        (Format(template="<a>{}</a><b>{}</b>"), "<b>y</b><a>x</a>", 0.0),
        (Format(template="<a>{}<a>"), "<a>", 0.0),  # the two ends may not be the same characters
        (Format(template="{}b{}ab{}"), "bab", 1.0),
        (Format(template="{}ab{}ab"), "ab", 0.0),
        (Format(template="yes"), "yes", 1.0),
        (Format(template="yes"), "yes!", 0.0),
        (Format(template="{}"), "", 1.0),
        (Length(target=4), "abcd", 1.0),
        (Length(target=4), "ab", 0.5),
        (Length(target=4), "", 0.0),
        (Length(target=4), "x" * 100, 0.0),
        (Json(), '{"a": [1, 2]}', 1.0),
        (Json(), "[1]", 0.0),
        (Json(), '{"a": 1} trailing', 0.0),
        (Json(keys=("a", "b")), '{"a": 1}', 0.0),
        (Json(keys=("a", "b")), '{"a": 1, "b": null}', 1.0),
        (Json(), "\ud800", 0.0),
        (Json(), "[" * 100_000, 0.0),
        (Json(), '{"a":' * 100_000, 0.0),
        (Json(), json.dumps({"a": "x" * (1 << 20)}), 0.0),
    ],
)
def test_scores(reward, answer, score):
    assert reward.score(answer, {"answer": "Paris"}) == score


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("so it is 1,234.50 then", "1234.50"),
        ("10-3", "3"),
        ("it is -3", "-3"),
        ("= +4.", "4"),
        ("3.", "3"),
        ("none", None),
        ("٣", None),
    ],
)
def test_the_last_number_of_a_text(text, value):
    assert number(text) == (None if value is None else Decimal(value))


def test_numbers_are_compared_exactly_or_within_a_tolerance():
    assert Numeric().score("0.30", {"answer": 0.3}) == 1.0
    assert Numeric().score("0.30000000000000000001", {"answer": 0.3}) == 0.0
    assert Numeric().score("1" + "0" * 60 + "1", {"answer": "1" + "0" * 61}) == 0.0
    assert Numeric(tolerance=0.01).score("99.5", {"answer": 100}) == 1.0
    assert Numeric(tolerance=0.01).score("98", {"answer": 100}) == 0.0
    assert Numeric().score("no number", {"answer": 100}) == 0.0
    assert Numeric().score("100", {"answer": "unknown"}) == 0.0


@pytest.mark.parametrize(
    "reward",
    [Exact(after="a" * 32), Numeric(), Format(template="a{}" * 80), Length(target=9), Json()],
    ids=lambda reward: type(reward).__name__,
)
@pytest.mark.parametrize("answer", ["a" * 200_000, "1," * 100_000, "1" * 200_000, "-1" * 100_000, "{" * 200_000])
def test_time_grows_with_the_answer_only(reward, answer):
    begun = time.process_time()
    assert 0.0 <= reward.score(answer, {"answer": "1"}) <= 1.0
    assert time.process_time() - begun < 2.0


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "regex", "pattern": "(a+)+$"},
        {"name": "exact", "pattern": "x"},
        {"name": "exact", "weight": 0},
        {"name": "exact", "weight": float("nan")},
        {"name": "numeric", "tolerance": 1.0},
        {"name": "length", "target": 0},
        {"name": "format"},
        {"name": "format", "template": "x" * 257},
        CODE | {"sha256": "00"},
        {key: value for key, value in CODE.items() if key != "sha256"},
    ],
    ids=str,
)
def test_what_a_job_may_not_ask(fields):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(fields, AnyReward)


def test_what_a_job_may_ask():
    exact = msgspec.convert({"name": "exact", "column": "label"}, AnyReward)
    assert (exact.columns(), exact.weight) == (("label",), 1.0)
    assert msgspec.convert(CODE, AnyReward).sha256 == "00" * 32
    assert Length(target=3).columns() == ()
