"""What a job file may say under [evaluate], and what it means."""

from __future__ import annotations

import msgspec
import pytest
from train_rig import job

from mitai.errors import TrainError
from mitai.train.evaluate.tasks import Evaluate, fill

TASK = {"kind": "exact-match", "name": "sums", "prompt": "{q}", "target": "{a}"}
JUDGE = {"kind": "judge", "name": "style", "prompt": "{q}", "rubric": "{prompt} {answer}"}
CODE = {"kind": "pass-at-k", "name": "code", "prompt": "{q}", "tests": "{t}", "function": "f"}
TEXT = {"kind": "perplexity", "name": "text", "prompt": "{q}"}
SAID = """
[evaluate]
min_group = 25
examples = 2
groups = { column = "site", labels = ["north", "south"] }

[[evaluate.tasks]]
kind = "multiple-choice"
name = "triage"
prompt = "Question: {question}"
choices = ["{a}", "{b}"]
gold = "answer"
shots = 2
"""


def plan(*tasks: dict[str, object], **more: object) -> Evaluate:
    return msgspec.convert({"tasks": list(tasks), **more}, Evaluate, strict=False)


def test_a_job_file_says_what_is_measured_and_what_the_broker_is_told():
    found = job(SAID, method="evaluate")
    assert found.options.tasks[0].choices == ("{a}", "{b}")
    told = found.declared()
    assert told["min_group"] == "25"
    assert told["evaluation"] == found.options.sha256()
    assert [(each.role, each.capsule) for each in found.inputs()] == [("model", "base"), ("data", "records")]


def test_a_judge_is_an_input():
    said = SAID.replace("[evaluate]", '[evaluate]\njudge = "judge-model"') + (
        '\n[[evaluate.tasks]]\nkind = "judge"\nname = "style"\nprompt = "{q}"\nrubric = "{answer}"\n'
    )
    assert ("judge", "judge-model", "model") in job(said, method="evaluate").inputs()


@pytest.mark.parametrize(
    "change",
    [
        {"shots": 1},  # of no examples
        {"kind": "python"},
        {"name": "../x"},
        {"name": ""},
        {"extra": 1},
        {"normalise": ["eval"]},
        {"max_tokens": 0},
        {"until": [""]},
        {"target": 3},
    ],
)
def test_what_is_not_known_is_refused(change):
    with pytest.raises(msgspec.ValidationError):
        plan(TASK | change)


@pytest.mark.parametrize(
    ("tasks", "more"),
    [
        ([TASK, TASK], {}),
        ([JUDGE], {}),
        ([CODE | {"shots": 1}], {"examples": 1}),
        ([TEXT | {"shots": 1}], {"examples": 1}),
        ([TEXT | {"chat": True}], {}),
        ([TEXT | {"instructions": "Read."}], {}),
        ([TASK], {"judge": "judge-model"}),
        ([TASK], {"min_group": 0}),
        ([TASK], {"groups": {"column": "site", "labels": ["a", "a"]}}),
        ([TASK], {"groups": {"column": "site", "labels": []}}),
        ([TASK], {"groups": {"column": "site", "labels": ["a\nb"]}}),
        ([CODE | {"k": [1, 20]}], {}),
        ([CODE | {"k": [1, 1]}], {}),
        ([CODE | {"temperature": 0}], {}),
        ([TASK | {"name": str(n)} for n in range(17)], {}),
    ],
)
def test_what_does_not_go_together_is_refused(tasks, more):
    with pytest.raises(msgspec.ValidationError):
        plan(*tasks, **more)


def test_an_evaluation_without_tasks_is_refused():
    with pytest.raises(TrainError) as caught:
        job("", method="evaluate")
    assert caught.value.code == "train.job-malformed"


def test_the_digest_covers_everything_and_defaults_too():
    digest = plan(TASK).sha256()
    assert plan(TASK | {"normalise": ["strip"], "until": ["\n\n"]}, min_group=20, seed=0).sha256() == digest
    others = [plan(TASK | {"max_tokens": 9}), plan(TASK | {"prompt": "{q} "}), plan(TASK, seed=1), plan(TASK, batch=4)]
    others += [plan(TASK, min_group=21), plan(TASK, groups={"column": "site", "labels": ["a"]}), plan(TASK, examples=1)]
    assert digest not in {each.sha256() for each in others}
    assert len({each.sha256() for each in others}) == len(others)


def test_templates_fill_in_columns_once_and_nothing_else():
    record = {"q": "{a} {0.__class__}", "a": "secret", "n": 3, "x": 0.5, "yes": True, "list": []}
    assert fill("{q}|{n}|{x}|{yes}", record) == "{a} {0.__class__}|3|0.5|True"
    assert fill("{} {0} {q.__class__} {{", record) == "{} {0} {q.__class__} {{"
    for column in ("missing", "list"):
        with pytest.raises(TrainError) as caught:
            fill(f"{{{column}}}", record)
        assert caught.value.code == "train.record-unfit"
        assert "secret" not in str(caught.value)
