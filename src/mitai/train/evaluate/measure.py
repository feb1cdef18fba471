"""Runs tasks over records: what each record gave, still in memory.

Formulas are those of lm-evaluation-harness: `acc_norm` divides a choice's log-likelihood by its characters, words of a
perplexity are what white space separates, bytes are UTF-8.

Example:
    >>> measure(task, records, models, plan)  # doctest: +SKIP
    [Series(metric='acc', form='mean'), Series(metric='acc_norm', form='mean')]
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, assert_never

import numpy as np

from mitai.errors import TrainError
from mitai.train.evaluate import judging
from mitai.train.evaluate.normalise import normalise
from mitai.train.evaluate.prompts import Prompter, gold
from mitai.train.evaluate.scoring import Sampling, Scorer
from mitai.train.evaluate.statistics import Series, pass_at_k
from mitai.train.evaluate.tasks import (
    Evaluate,
    ExactMatch,
    Judged,
    MultipleChoice,
    PassAtK,
    Perplexity,
    Preferred,
    Record,
    Task,
    fill,
)
from mitai.train.sandbox import Limits, passes

_BLOCK = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL)


class Models(NamedTuple):
    """The model that is evaluated, and the judge where there is one."""

    judged: Scorer
    judge: Scorer | None = None


def measure(task: Task, records: Sequence[Record], models: Models, plan: Evaluate) -> list[Series]:
    """Run one task over the records behind the examples.

    Raises:
        TrainError: The records lack a column, the model can't be asked so, or this machine has no sandbox.
    """
    prompter = Prompter(task, models.judged, records[: plan.examples], plan.seed)
    rows = records[plan.examples :]
    match task:
        case ExactMatch():
            return _exact_match(task, rows, prompter, models.judged)
        case MultipleChoice():
            return _multiple_choice(task, rows, prompter, models.judged)
        case Perplexity():
            return _perplexity(task, rows, models.judged)
        case PassAtK():
            return _pass_at_k(task, rows, prompter, models.judged, plan.seed)
        case Judged():
            return _judged(task, rows, prompter, models)
        case Preferred():
            return _preferred(task, rows, prompter, models)
        case _:
            assert_never(task)


def _exact_match(task: ExactMatch, rows: Sequence[Record], prompter: Prompter, model: Scorer) -> list[Series]:
    answers = model.generate([prompter(row) for row in rows], Sampling(task.max_tokens, task.until))
    right = [
        float(normalise(answer, task.normalise) == normalise(fill(task.target, row), task.normalise))
        for row, answer in zip(rows, answers, strict=True)
    ]
    return [Series.mean("exact_match", right)]


def _multiple_choice(task: MultipleChoice, rows: Sequence[Record], prompter: Prompter, model: Scorer) -> list[Series]:
    choices = [[fill(choice, row) for choice in task.choices] for row in rows]
    contexts = [prompter(row) for row in rows]
    requests = [(c, prompter.gap + choice) for c, each in zip(contexts, choices, strict=True) for choice in each]
    logs = np.array([each.total for each in model.loglikelihoods(requests)]).reshape(len(rows), -1)  # (rows, choices)
    lengths = np.array([[max(len(choice), 1) for choice in each] for each in choices]).reshape(logs.shape)
    right = np.array([gold(task, row) for row in rows])
    return [
        Series.mean("acc", list(map(float, logs.argmax(axis=1) == right))),
        Series.mean("acc_norm", list(map(float, (logs / lengths).argmax(axis=1) == right))),
    ]


def _perplexity(task: Perplexity, rows: Sequence[Record], model: Scorer) -> list[Series]:
    texts = [fill(task.prompt, row) for row in rows]
    scored = model.rolling(texts)
    logs = np.array([each.total for each in scored])
    size = np.array([len(text.encode()) for text in texts], dtype=np.float64)
    full = size > 0  # an empty text is no text
    words = np.array([len(re.split(r"\s+", text)) for text in texts], dtype=np.float64) * full
    tokens = np.array([each.tokens for each in scored], dtype=np.float64)
    return [
        Series("word_perplexity", logs, words, "exp"),
        Series("byte_perplexity", logs, size, "exp"),
        Series("bits_per_byte", logs, size, "bits"),
        Series("token_perplexity", logs, tokens, "exp"),
    ]


def _pass_at_k(task: PassAtK, rows: Sequence[Record], prompter: Prompter, model: Scorer, seed: int) -> list[Series]:
    draw = int.from_bytes(hashlib.sha256(f"{seed}:{task.name}".encode()).digest()[:4])
    sampling = Sampling(task.max_tokens, task.until, task.temperature, task.top_p, draw)
    prompts = [prompter(row) for row in rows for _ in range(task.samples)]
    completions = model.generate(prompts, sampling)
    owners = [row for row in rows for _ in range(task.samples)]
    limits = Limits(wall_s=2.0 * task.cpu_s, cpu_s=task.cpu_s, memory_bytes=task.memory_mib << 20)

    def check(row: Record, completion: str) -> bool:
        program = fill(task.program, {**row, "completion": _code(completion) if task.code_block else completion})
        return passes(program, fill(task.tests, row), fill(task.function, row), limits)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        passed = np.array(list(pool.map(check, owners, completions)), dtype=int).reshape(len(rows), task.samples)
    return [
        Series.mean(f"pass@{k}", [pass_at_k(task.samples, int(count), k) for count in passed.sum(axis=1)])
        for k in task.k
    ]


def _judged(task: Judged, rows: Sequence[Record], prompter: Prompter, models: Models) -> list[Series]:
    prompts, answers = _answers(task, rows, prompter, models)
    filled = [
        fill(task.rubric, {**row, "prompt": prompt, "answer": answer})
        for row, prompt, answer in zip(rows, prompts, answers, strict=True)
    ]
    ratings = [judging.rating(words, task.scale) for words in _ask_judge(models, filled, task.judge_tokens)]
    rated = [float(each is not None) for each in ratings]
    values = np.array([float(each or 0) for each in ratings])
    return [Series("rating", values, np.array(rated)), Series.mean("rated", rated)]


def _preferred(task: Preferred, rows: Sequence[Record], prompter: Prompter, models: Models) -> list[Series]:
    prompts, answers = _answers(task, rows, prompter, models)
    filled = []
    for row, prompt, answer in zip(rows, prompts, answers, strict=True):
        other = fill(task.against, row)
        for a, b in ((answer, other), (other, answer)):
            filled.append(fill(task.rubric, {**row, "prompt": prompt, "answer_a": a, "answer_b": b}))
    sides = [judging.preference(words) for words in _ask_judge(models, filled, task.judge_tokens)]
    outcomes = [judging.outcome(*pair) for pair in zip(sides[::2], sides[1::2], strict=True)]
    return [
        Series.mean("win_rate", [win for win, _ in outcomes]),
        Series.mean("consistent", [float(agree) for _, agree in outcomes]),
    ]


def _answers(
    task: Judged | Preferred, rows: Sequence[Record], prompter: Prompter, models: Models
) -> tuple[list[str], list[str]]:
    prompts = [fill(task.prompt, row) for row in rows]
    return prompts, models.judged.generate([prompter(row) for row in rows], Sampling(task.max_tokens, task.until))


def _ask_judge(models: Models, filled: list[str], max_tokens: int) -> list[str]:
    if models.judge is None:
        raise TrainError("train.no-judge", "a task needs a judge model, and the job names none", hint="evaluate.judge")
    judge = models.judge
    return judge.generate([judge.chat([{"role": "user", "content": text}]) for text in filled], Sampling(max_tokens))


def _code(completion: str) -> str:
    found = _BLOCK.search(completion)
    return found[1] if found else completion
