"""`[evaluate]`: what is measured, as a strict description without code; `docs/spec/evaluation.md` lists every key.

Task kinds follow lm-evaluation-harness (github.com/EleutherAI/lm-evaluation-harness): exact match of generated text,
multiple choice by log-likelihood, perplexity, pass@k by unit tests, and a judge model.

Invariants:

- A template fills in columns of the record and nothing else; it has no attributes, no indexes and no code.
- Everything that the numbers depend on besides models and records is here, and so in `sha256()`: the owners' policies
  can ask for it (parameter `evaluation`), and two reports with the same digest measured the same.
- Groups, examples and the smallest group are the whole evaluation's, so that two tasks never differ by a few records.

Example:
    >>> plan = msgspec.toml.decode(text, type=Evaluate)  # doctest: +SKIP
    >>> plan.tasks[0].name, plan.min_group  # doctest: +SKIP
    ('triage', 20)
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal, Union

import msgspec
from msgspec import Meta

from mitai.errors import TrainError
from mitai.train.tables import CapsuleId, Input, Table

if TYPE_CHECKING:
    from mitai.train.job import Job

DIGEST_LABEL = b"mitai evaluation v1\0"
Label = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}\Z")]
Column = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}\Z")]
Template = Annotated[str, Meta(max_length=16384)]
Tokens = Annotated[int, Meta(ge=1, le=16384)]
Stops = Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=64)], ...], Meta(max_length=16)]
Normaliser = Literal[
    "strip", "lower", "punctuation", "articles", "whitespace", "first-line", "last-line", "number", "letter"
]
_HOLE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]{0,63})\}")

Record = Mapping[str, object]


class Described(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """What all tasks have: a name for the report, a prompt, and so many worked examples before it."""

    name: Label
    prompt: Template
    instructions: Template = ""
    chat: bool = False  # by the model's chat template, examples as turns
    shots: Annotated[int, Meta(ge=0, le=64)] = 0


class ExactMatch(Described, frozen=True, kw_only=True, tag="exact-match"):
    """The answer, generated greedily, is the target after both went through the normalisers."""

    target: Template
    normalise: Annotated[tuple[Normaliser, ...], Meta(max_length=16)] = ("strip",)
    until: Stops = ("\n\n",)
    max_tokens: Tokens = 256


class MultipleChoice(Described, frozen=True, kw_only=True, tag="multiple-choice"):
    """The likeliest of the choices is the right one; `gold` is its number from 0, or its text."""

    choices: Annotated[tuple[Template, ...], Meta(min_length=2, max_length=26)]
    gold: Column


class Perplexity(Described, frozen=True, kw_only=True, tag="perplexity"):
    """How well the model predicts `prompt`, which is the text itself here."""


class PassAtK(Described, frozen=True, kw_only=True, tag="pass-at-k"):
    """Sampled programs pass unit tests in the sandbox. `{completion}` in `program` is what was generated."""

    program: Template = "{completion}"
    tests: Template
    function: Template
    samples: Annotated[int, Meta(ge=1, le=256)] = 10
    k: Annotated[tuple[Annotated[int, Meta(ge=1, le=256)], ...], Meta(min_length=1, max_length=8)] = (1,)
    temperature: Annotated[float, Meta(gt=0, le=4)] = 0.8
    top_p: Annotated[float, Meta(gt=0, le=1)] = 0.95
    until: Stops = ()
    code_block: bool = False  # the program is the first fenced block of the completion
    max_tokens: Tokens = 512
    cpu_s: Annotated[int, Meta(ge=1, le=600)] = 10
    memory_mib: Annotated[int, Meta(ge=128, le=65536)] = 512

    def __post_init__(self) -> None:
        if max(self.k) > self.samples or len(set(self.k)) != len(self.k):
            raise ValueError("each k is at most the number of samples, and named once")


class Judged(Described, frozen=True, kw_only=True, tag="judge"):
    """A second model rates the answer from 1 to `scale`; its words must end in `Rating: [[N]]`."""

    rubric: Template  # `{prompt}` and `{answer}` besides the record's columns
    scale: Annotated[int, Meta(ge=2, le=100)] = 10
    until: Stops = ()
    max_tokens: Tokens = 256
    judge_tokens: Tokens = 256


class Preferred(Described, frozen=True, kw_only=True, tag="judge-pairwise"):
    """A second model compares the answer with another, both ways round; its words must end in `Better: [[A]]`."""

    rubric: Template  # `{prompt}`, `{answer_a}` and `{answer_b}` besides the record's columns
    against: Template
    until: Stops = ()
    max_tokens: Tokens = 256
    judge_tokens: Tokens = 256


Task = Union[ExactMatch, MultipleChoice, Perplexity, PassAtK, Judged, Preferred]  # noqa: UP007 - read at run time


class Groups(Table, frozen=True):
    """Numbers are also told for the records whose `column` is one of `labels`; other labels are never told."""

    column: Column
    labels: Annotated[tuple[Label, ...], Meta(min_length=1, max_length=64)]


class Evaluate(Table, frozen=True, kw_only=True):
    """The table `[evaluate]` of a job file."""

    tasks: Annotated[tuple[Task, ...], Meta(max_length=16)] = ()
    min_group: Annotated[int, Meta(ge=1, le=1 << 31)] = 20
    groups: Groups | None = None
    examples: Annotated[int, Meta(ge=0, le=1024)] = 0  # the first so many records are for `shots`, and not measured
    judge: CapsuleId | None = None
    seed: Annotated[int, Meta(ge=0, lt=1 << 32)] = 0
    batch: Annotated[int, Meta(ge=1, le=1024)] = 8
    resamples: Annotated[int, Meta(ge=100, le=10_000)] = 1000

    def __post_init__(self) -> None:
        names = [task.name for task in self.tasks]
        if len(set(names)) != len(names):
            raise ValueError("two tasks have the same name")
        if self.groups and len(set(self.groups.labels)) != len(self.groups.labels):
            raise ValueError("a group is named twice")
        if any(task.shots > self.examples for task in self.tasks):
            raise ValueError("a task has more shots than there are examples")
        if any(task.shots and not isinstance(task, ExactMatch | MultipleChoice) for task in self.tasks):
            raise ValueError("only tasks with a right answer have shots")
        if any(isinstance(task, Perplexity) and (task.chat or task.instructions) for task in self.tasks):
            raise ValueError("a perplexity is of the text alone: it has no chat and no instructions")
        judged = any(isinstance(task, Judged | Preferred) for task in self.tasks)
        if judged != (self.judge is not None):
            raise ValueError("tasks of kind judge and judge-pairwise need `judge`, and no others do")

    def inputs(self) -> tuple[Input, ...]:
        """Return the capsules that the evaluation opens besides the job's; raise `TrainError` without tasks."""
        if not self.tasks:
            raise TrainError("train.job-malformed", "the job file is not valid: an evaluation has [[evaluate.tasks]]")
        return (Input("judge", self.judge, "model"),) if self.judge else ()

    def unfit(self, job: Job) -> str | None:
        """Say what does not go together: what is stated is declared to the broker, and must be held."""
        return "counts no tokens: limits.tokens is for training" if job.limits.tokens is not None else None

    def declared(self) -> dict[str, str]:
        """Return what the broker is told."""
        return {"output": "aggregate", "min_group": str(self.min_group), "evaluation": self.sha256()}

    def sha256(self) -> str:
        """Return the digest of everything that is said here, defaults written out."""
        return hashlib.sha256(DIGEST_LABEL + msgspec.json.encode(self, order="deterministic")).hexdigest()


def fill(template: str, record: Record) -> str:
    """Return the template with each `{column}` replaced by the record's value; what is filled in is not read again."""
    return _HOLE.sub(lambda hole: _text(record, hole[1]), template)


def _text(record: Record, column: str) -> str:
    value = record.get(column)
    if isinstance(value, str | int | float):
        return str(value)
    raise TrainError(
        "train.record-unfit",
        f"a template names the column {column!r}, and a record has no text or number there",
        hint="see docs/spec/evaluation.md, Templates",
    )
