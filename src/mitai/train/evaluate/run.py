"""A whole evaluation: every task over the same records, and of what they gave only what may leave.

Example:
    >>> measured = evaluate(plan, records, Models(scorer))  # doctest: +SKIP
    >>> measured.results[0].numbers[0].n  # doctest: +SKIP
    400
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mitai.errors import TrainError
from mitai.train.evaluate.disclosure import told
from mitai.train.evaluate.measure import Models, measure
from mitai.train.evaluate.report import MICROS, Measured, Number, Result
from mitai.train.evaluate.statistics import Mask, Series
from mitai.train.evaluate.tasks import Evaluate, Groups, Record

_LARGEST = (1 << 53) - 1


def evaluate(plan: Evaluate, records: Sequence[Record], models: Models) -> Measured:
    """Measure every task of `plan` over the records behind its examples.

    Raises:
        TrainError: The records lack a column, or are too few.
    """
    rows = records[plan.examples :]
    if len(rows) < plan.min_group:
        raise TrainError(
            "train.too-few-rows",
            f"{len(records)} records are fewer than {plan.examples} examples and min_group = {plan.min_group}",
        )
    groups = _groups(plan.groups, rows)
    results = (
        Result(task=task.name, numbers=_numbers(plan, measure(task, records, models, plan), groups))
        for task in plan.tasks
    )
    return Measured(evaluation_sha256=plan.sha256(), min_group=plan.min_group, results=tuple(results))


def _groups(groups: Groups | None, rows: Sequence[Record]) -> Mapping[str, Mask]:
    """Return which records are in each declared group; a record with another label is in none."""
    if groups is None:
        return {}
    if any(groups.column not in row for row in rows):
        raise TrainError("train.record-unfit", f"a record has no column {groups.column!r} to group by")
    return {label: np.array([str(row[groups.column]) == label for row in rows]) for label in groups.labels}


def _numbers(plan: Evaluate, found: Sequence[Series], groups: Mapping[str, Mask]) -> tuple[Number, ...]:
    return tuple(
        _number(plan, series, group, rows)
        for series in found
        for group, rows in told(series, groups, plan.min_group).items()
    )


def _number(plan: Evaluate, series: Series, group: str, rows: Mask) -> Number:
    low, high = series.interval(rows, plan.resamples, plan.seed)
    value, low, high = map(_micros, (series.number(rows), low, high))
    return Number(metric=series.metric, group=group, n=int(rows.sum()), value=value, low=low, high=high)


def _micros(value: float) -> int:
    return round(max(-_LARGEST, min(value * MICROS, _LARGEST)))
