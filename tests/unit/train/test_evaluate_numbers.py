"""The numbers, by hand: log-likelihoods, acc_norm, perplexities, pass@k, intervals, normalisers, judgements."""

from __future__ import annotations

import itertools
import math

import msgspec
import numpy as np
import pytest
from evaluate_lab import ALPHABET, Chain, Letters, scorer

from mitai.errors import TrainError
from mitai.train.evaluate import judging
from mitai.train.evaluate.measure import Models, measure
from mitai.train.evaluate.normalise import normalise
from mitai.train.evaluate.run import evaluate
from mitai.train.evaluate.scoring import Sampling, Scorer
from mitai.train.evaluate.statistics import Series, pass_at_k
from mitai.train.evaluate.tasks import Evaluate, MultipleChoice, Perplexity

# a is followed by b half of the time, b by c with 0.8, a space by a with 0.25; "^" begins every text
PROBABILITIES = {
    "a": {"b": 0.5, "d": 0.3},
    "b": {"c": 0.8},
    " ": {"a": 0.25, "d": 0.4},
    "d": {"d": 0.7},
    "^": {"a": 0.1},
}
PLAN = Evaluate(min_group=1, resamples=100)


def test_a_continuation_is_scored_after_its_context():
    (one, two) = scorer(PROBABILITIES).loglikelihoods([("a", "bc"), ("a", "d")])
    assert one.total == pytest.approx(math.log(0.5 * 0.8), abs=1e-6)
    assert one.greedy
    assert one.tokens == 2
    assert two.total == pytest.approx(math.log(0.3), abs=1e-6)
    assert not two.greedy


def test_spaces_at_the_end_of_a_context_count_to_the_continuation():
    (spaced, plain) = scorer(PROBABILITIES).loglikelihoods([("a ", "a"), ("a", " a")])
    assert spaced == plain
    assert spaced.tokens == 2


def test_an_empty_context_is_the_start_token():
    (found,) = scorer(PROBABILITIES).loglikelihoods([("", "ab")])
    assert found.total == pytest.approx(math.log(0.1 * 0.5), abs=1e-6)


def test_a_long_context_is_cut_on_the_left():
    long = scorer(PROBABILITIES, length=4)
    (found,) = long.loglikelihoods([("h" * 50 + "a", "bc")])
    assert found.total == pytest.approx(math.log(0.4), abs=1e-6)
    assert long._model.seen == [4]
    assert [each.total for each in long.loglikelihoods([("a", "bcbcb"), ("a", "bc")])] == [-1e9, found.total]


def test_batches_change_nothing():
    requests = [("a" * n, "bc" * m) for n, m in itertools.product(range(4), range(1, 3))]
    assert scorer(PROBABILITIES, batch=1).loglikelihoods(requests) == scorer(PROBABILITIES, batch=5).loglikelihoods(
        requests
    )


def windows_of_the_harness(tokens, prefix, length):
    """lm-evaluation-harness's definition with context_len=1, written down anew: (context, predicted) pairs."""
    pairs = [([prefix], tokens[:length])]
    predicted = min(length, len(tokens))
    while predicted < len(tokens):
        size = min(len(tokens) - predicted, length)
        end = predicted + size
        before = tokens[end - length - 1 : end - 1]
        pairs.append((before[: len(before) - (size - 1)], tokens[predicted:end]))
        predicted += size
    return pairs


@pytest.mark.parametrize("length", [2, 3, 8])
@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 9, 17])
def test_rolling_windows_are_those_of_the_harness(length, count):
    tokens = [1 + n % 9 for n in range(count)]
    assert scorer({}, length)._windows(tokens) == windows_of_the_harness(tokens, 0, length)


def test_perplexities_by_hand():
    task = Perplexity(name="text", prompt="{text}")
    rows = [{"text": "ab"}, {"text": "a dd"}]
    series = {each.metric: each for each in measure(task, rows, Models(scorer(PROBABILITIES)), PLAN)}
    rest = (1 - 0.8) / (len(ALPHABET) - 2)  # a to space
    total = math.log(0.1 * 0.5) + math.log(0.1 * rest * 0.4 * 0.7)
    both = np.ones(2, dtype=bool)
    assert series["word_perplexity"].number(both) == pytest.approx(math.exp(-total / 3), rel=1e-5)  # 1 + 2 words
    assert series["byte_perplexity"].number(both) == pytest.approx(math.exp(-total / 6), rel=1e-5)
    assert series["bits_per_byte"].number(both) == pytest.approx(-total / 6 / math.log(2), rel=1e-5)
    assert series["token_perplexity"].number(both) == pytest.approx(math.exp(-total / 6), rel=1e-5)


def test_an_empty_text_does_not_count():
    task = Perplexity(name="text", prompt="{text}")
    series = measure(task, [{"text": ""}, {"text": "ab"}], Models(scorer(PROBABILITIES)), PLAN)
    assert [list(each.weights > 0) for each in series] == [[False, True]] * 4


def test_acc_and_acc_norm_by_hand():
    # after "^" nothing is likely; "d" alone costs less than "dddd", but more per character
    task = MultipleChoice(name="choice", prompt="{q}", choices=("{one}", "{two}"), gold="gold")
    row = {"q": "a", "one": "a", "two": "dddd", "gold": 1}
    both = scorer(PROBABILITIES).loglikelihoods([("a", " a"), ("a", " dddd")])
    assert both[0].total > both[1].total
    assert both[0].total / 1 < both[1].total / 4
    acc, acc_norm = measure(task, [row], Models(scorer(PROBABILITIES)), PLAN)
    assert (acc.metric, list(acc.values)) == ("acc", [0.0])
    assert (acc_norm.metric, list(acc_norm.values)) == ("acc_norm", [1.0])


def test_gold_may_be_the_text_of_a_choice():
    task = MultipleChoice(name="choice", prompt="{q}", choices=("a", "dddd"), gold="gold")
    models = Models(scorer(PROBABILITIES))
    acc, _ = measure(task, [{"q": "a", "gold": "a"}], models, PLAN)
    assert list(acc.values) == [1.0]
    for wrong in (2, -1, True, "b", 0.0, None):  # no choice is right, and nobody is told by a failed job
        acc, acc_norm = measure(task, [{"q": "a", "gold": wrong}], models, PLAN)
        assert list(acc.values) == list(acc_norm.values) == [0.0]


def test_an_empty_choice_is_a_choice():
    task = MultipleChoice(name="choice", prompt="{q}", choices=("a", "{two}"), gold="gold")
    acc, _ = measure(task, [{"q": "a", "two": "", "gold": 0}], Models(scorer(PROBABILITIES)), PLAN)
    assert list(acc.values) == [0.0]


@pytest.mark.parametrize("samples", [1, 4, 6])
def test_pass_at_k_is_the_share_of_samples_that_hold_a_program_that_passes(samples):
    for passed, k in itertools.product(range(samples + 1), range(1, samples + 1)):
        draws = list(itertools.combinations([True] * passed + [False] * (samples - passed), k))
        assert pass_at_k(samples, passed, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_an_interval_covers_the_mean_and_is_the_same_each_time():
    series = Series.mean("acc", [1.0, 0.0] * 200)
    everything = np.ones(400, dtype=bool)
    low, high = series.interval(everything, 1000, seed=1)
    assert (low, high) == series.interval(everything, 1000, seed=1)
    assert low < 0.5 < high
    assert high - low == pytest.approx(2 * 1.96 * 0.5 / math.sqrt(400), rel=0.1)  # the normal approximation


def test_an_interval_covers_the_truth_about_as_often_as_it_says():
    draw = np.random.default_rng(0)
    everything = np.ones(100, dtype=bool)
    covered = 0
    for seed in range(200):
        series = Series.mean("acc", list((draw.random(100) < 0.7).astype(float)))
        low, high = series.interval(everything, 200, seed)
        covered += low <= 0.7 <= high
    assert 175 <= covered <= 200


def test_records_of_no_weight_do_not_count():
    series = Series("rating", np.array([4.0, 0.0, 2.0]), np.array([1.0, 0.0, 1.0]))
    assert series.number(np.ones(3, dtype=bool)) == 3.0
    assert series.interval(np.ones(3, dtype=bool), 100, 0)[1] <= 4.0


@pytest.mark.parametrize(
    ("names", "text", "expected"),
    [
        ((), " As it is ", " As it is "),
        (("strip", "lower"), " YES ", "yes"),
        (("lower", "punctuation", "articles", "whitespace"), "The cat's  a 'pet'!", "cats pet"),
        (("first-line",), "\n one\ntwo", "one"),
        (("last-line",), "one\ntwo \n", "two"),
        (("number",), "12 x 100 = 1,200.50.", "1200.5"),
        (("number",), "none", ""),
        (("letter",), "It is (C), not D", "C"),
        (("letter",), "none", ""),
    ],
)
def test_normalisers(names, text, expected):
    assert normalise(text, names) == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("Good.\nRating: [[7]]", 7),
        ("Rating: [[10]]\n", 10),
        ("Rating: [[11]]", None),
        ("Rating: [[0]]", None),
        ("Rating: [[07]]", None),
        ("Rating: [[7.5]]", None),
        ("Rating: [[7]] I think", None),
        ("Rating: [[7]]\nRating: [[8]]", None),
        ("The answer says [[10]]. Rating: [[2]]", None),
        ("Rating: 7", None),
        ("", None),
    ],
)
def test_a_rating_is_read_strictly(words, expected):
    assert judging.rating(words, 10) == expected


@pytest.mark.parametrize(
    ("first", "swapped", "expected"),
    [
        ("Better: [[A]]", "Better: [[B]]", (1.0, True)),
        ("Better: [[B]]", "Better: [[A]]", (0.0, True)),
        ("Better: [[C]]", "Better: [[C]]", (0.5, True)),
        ("Better: [[A]]", "Better: [[A]]", (0.5, False)),  # whichever stands first is no preference
        ("Better: [[A]]", "both are fine", (0.5, False)),
        ("Better: [[A]] Better: [[B]]", "Better: [[B]]", (0.5, False)),
    ],
)
def test_a_preference_counts_only_both_ways_round(first, swapped, expected):
    assert judging.outcome(judging.preference(first), judging.preference(swapped)) == expected


def test_a_model_without_a_first_or_last_token_is_refused():
    letters = Letters()
    letters.bos_token_id = letters.eos_token_id = None
    with pytest.raises(TrainError) as caught:
        Scorer(Chain({}), letters)
    assert caught.value.code == "train.tokenizer-unfit"


def test_a_chat_needs_a_template_and_an_answer_needs_room():
    found = scorer({})
    with pytest.raises(TrainError) as caught:
        found.chat([])
    assert caught.value.code == "train.no-chat-template"
    with pytest.raises(TrainError) as caught:
        found.generate(["a"], Sampling(8))
    assert caught.value.code == "train.task-unfit"


@pytest.mark.parametrize("value", [math.nan, -math.inf, math.inf])
def test_a_likelihood_that_is_no_number_is_the_least_and_ends_nothing(value):
    plan = msgspec.structs.replace(PLAN, tasks=(Perplexity(name="text", prompt="{text}"),))
    model = scorer({"a": {"b": 0.5}})
    model._model.table[ALPHABET.index("a")] = value
    (result,) = evaluate(plan, [{"text": "ab"}, {"text": "h"}], Models(model)).results
    assert {number.metric: number.value for number in result.numbers}["word_perplexity"] == (1 << 53) - 1
