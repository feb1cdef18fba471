"""Several models, one evaluation: a table out of signed reports, or out of a leaderboard that a workload signed.

Each line of the first is a report that its workload signed, and who has the reports and an appraisal policy makes the
same table. A model is shown by its capsule until its owner reveals its manifest, to which every report is bound by
digest; so vendors don't see the tests, and who runs the comparison does not see whose models they are. Who has no
reports reads a signed leaderboard (`mitai.train.evaluate.board`), of which a line says nothing but its numbers until
somebody shows its report.

Invariants:

- All reports are of the same description, data and judge, made by the same measured code; otherwise there is no table.
- A model has one line: a second report of it is refused, so that nobody keeps the best of several runs.
- A revealed name comes from the very manifest that a report names by digest.

Example:
    >>> board = build([verify_report(data, policy) for data in files], metric="acc")  # doctest: +SKIP
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mitai.attest import Appraisal
from mitai.capsule import Manifest
from mitai.errors import TrainError
from mitai.identity import Envelope
from mitai.train.evaluate.report import InputRef, Number, Report, Result

LESS_IS_BETTER = frozenset({"word_perplexity", "byte_perplexity", "bits_per_byte", "token_perplexity"})
MAX_REPORTS = 1000


@dataclass(frozen=True)
class Row:
    """What is known of a model, with an adapter perhaps: its numbers; by a report also which it is, and when.

    The label is one that no other row has: the capsules, or the digest that a signed leaderboard gives the line.
    """

    results: Sequence[Result]
    inputs: tuple[InputRef, ...]
    created: str
    label: str


@dataclass(frozen=True)
class Tested:
    """What all rows were measured by."""

    evaluation_sha256: str
    data: tuple[InputRef, ...]
    machine: Appraisal


@dataclass(frozen=True)
class Line:
    """A row's number; `name` where it was revealed."""

    inputs: tuple[InputRef, ...]
    number: Number
    created: str
    label: str
    name: str | None = None


@dataclass(frozen=True)
class Leaderboard:
    """Lines from best to worst, of one metric of one task over all records or a group."""

    evaluation_sha256: str
    data: tuple[InputRef, ...]
    measurements: Mapping[str, str]
    simulated: bool
    task: str
    metric: str
    group: str
    lines: tuple[Line, ...] = field(repr=False)


def comparable(reports: Sequence[tuple[Report, Appraisal]]) -> None:
    """Raise `TrainError` unless reports that were verified may stand in one table.

    1. There are two at least, and not too many.
    2. They describe the same evaluation: tasks, groups, examples, smallest group, seed.
    3. They opened the same data and the same judge.
    4. The same code measured: same measurements, and all or none simulated.
    5. No model is there twice.
    """
    if not 2 <= len(reports) <= MAX_REPORTS:
        raise TrainError("train.board-size", f"a leaderboard has 2 to {MAX_REPORTS} reports, not {len(reports)}")
    first, machine = reports[0]
    seen: set[tuple[str, ...]] = set()
    for number, (report, appraisal) in enumerate(reports, 1):
        # 2. the description
        if _description(report) != _description(first):
            raise _other(number, "another evaluation", "evaluation")
        # 3. data and judge
        if report.of("data", "judge") != first.of("data", "judge"):
            raise _other(number, "other data, or another judge,", "data")
        # 4. the code
        if (dict(appraisal.measurements), appraisal.simulated) != (dict(machine.measurements), machine.simulated):
            raise _other(number, "other code", "code")
        # 5. the model
        model = tuple(each.manifest_sha256 for each in report.of("model", "adapter"))
        if model in seen:
            raise TrainError("train.board-duplicate", f"report {number} is of a model that has a line", step="model")
        seen.add(model)


def _description(report: Report) -> tuple[object, ...]:
    tasks = tuple(result.task for result in report.measured.results)
    return report.measured.evaluation_sha256, report.measured.min_group, tasks


def build(
    reports: Sequence[tuple[Report, Appraisal]],
    *,
    task: str | None = None,
    metric: str | None = None,
    group: str = "",
    reveals: Sequence[bytes] = (),
) -> Leaderboard:
    """Return the table of verified reports.

    Args:
        reports: What `verify_report` returned for each.
        task: Whose number counts; the first one by default.
        metric: Which number; the task's first one by default.
        group: Of which records.
        reveals: Manifest envelopes of models whose owners reveal them.

    Raises:
        TrainError: They may not be compared, a number is missing, or a revealed manifest is of none of them.
    """
    comparable(reports)
    first, machine = reports[0]
    tested = Tested(first.measured.evaluation_sha256, first.of("data", "judge"), machine)
    return lined_up(
        [_row(report) for report, _ in reports], tested, task=task, metric=metric, group=group, reveals=reveals
    )


def _row(report: Report) -> Row:
    inputs = report.of("model", "adapter")
    return Row(report.measured.results, inputs, report.created, " + ".join(each.capsule for each in inputs))


def lined_up(
    rows: Sequence[Row],
    tested: Tested,
    *,
    task: str | None = None,
    metric: str | None = None,
    group: str = "",
    reveals: Sequence[bytes] = (),
) -> Leaderboard:
    """Return the table of rows that may stand in one; `build` says what the rest is."""
    names = {hashlib.sha256(payload).hexdigest(): Manifest.decode(payload) for payload in map(_payload, reveals)}
    if names.keys() - {each.manifest_sha256 for row in rows for each in row.inputs}:
        raise TrainError("train.reveal-unknown", "a revealed manifest is of no model in these reports")
    task = rows[0].results[0].task if task is None else task
    metric = _first_metric(rows[0], task) if metric is None else metric
    lines = [_line(row, names, (task, metric, group)) for row in rows]
    sign = 1 if metric in LESS_IS_BETTER else -1
    lines.sort(key=lambda line: (sign * line.number.value, line.label))
    return Leaderboard(
        evaluation_sha256=tested.evaluation_sha256,
        data=tested.data,
        measurements=tested.machine.measurements,
        simulated=tested.machine.simulated,
        task=task,
        metric=metric,
        group=group,
        lines=tuple(lines),
    )


def _payload(envelope: bytes) -> bytes:
    """Return a manifest's bytes; the reports' digest is what vouches for them."""
    return Envelope.decode(envelope).payload


def _first_metric(row: Row, task: str) -> str:
    for result in row.results:
        if result.task == task and result.numbers:
            return result.numbers[0].metric
    raise TrainError("train.board-number", f"the reports tell nothing of a task {task!r}")


def _line(row: Row, names: Mapping[str, Manifest], which: tuple[str, str, str]) -> Line:
    task, metric, group = which
    for result in row.results:
        for number in result.numbers:
            if (result.task, number.metric, number.group) == which:
                shown = [names[each.manifest_sha256].name for each in row.inputs if each.manifest_sha256 in names]
                return Line(row.inputs, number, row.created, row.label, " + ".join(shown) or None)
    told = [f"{result.task} {each.metric} {each.group}".rstrip() for result in row.results for each in result.numbers]
    raise TrainError(
        "train.board-number",
        f"a report has no {metric!r} of task {task!r} and group {group!r}, or withheld it",
        hint=f"it tells (task, metric, group): {'; '.join(told)}"[:1000],
    )


def _other(number: int, what: str, step: str) -> TrainError:
    return TrainError("train.board-mismatch", f"report {number} is of {what} than the first", step=step)
