"""A leaderboard that a workload signs: numbers of several models on one sealed test, without a word on which is whose.

Format: `docs/spec/evaluation.md`, "Leaderboards". A measured worker opens sealed reports, checks and compares them as
anybody would (`comparable`), and signs the numbers that were agreed on.

Invariants:

- A line is named by a digest that only who has its report can compute; it has no capsule, no name and no time, and
  lines stand in the order of these digests. The reports are named beside them, in the order of their capsules.
- Only the numbers that the description lists leave, and it is the owners' to agree on by its digest (`sha256`).
- Every report was made by the code, on the kind of machine, that the leaderboard's own evidence shows: what a report
  must be is not the host's to say.

Example:
    >>> board, appraisal = verify_board(path.read_bytes(), policy)  # doctest: +SKIP
    >>> board.lines[0].results[0].numbers[0].value  # doctest: +SKIP
    812345
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Final, Literal

import msgspec
from msgspec import Meta

from mitai.attest import Appraisal, Evidence, Policy
from mitai.errors import TrainError
from mitai.identity import Identity, PublicKey
from mitai.ledger.entry import Digest, Id, utc
from mitai.train.evaluate.leaderboard import Leaderboard, Row, Tested, comparable, lined_up
from mitai.train.evaluate.report import REPORT, Group, InputRef, Metric, Report, Result, verify_report
from mitai.train.evaluate.signed import File, Kind, Stated, Struct, digest_of
from mitai.train.evaluate.tasks import Label
from mitai.train.tables import CapsuleId, Input, Table

if TYPE_CHECKING:
    from mitai.train.job import Job

BOARD_LABEL: Final = "mitai leaderboard v1"
FILE_LABEL: Final = "mitai leaderboard file v1"
PAYLOAD_TYPE = "application/vnd.mitai.leaderboard+json"
BOARD_NAME = "leaderboard.json"
MAX_LINES = 16  # what a broker releases together, and the owners that a capsule may have
_AGREED_LABEL, _LINE_LABEL = b"mitai leaderboard description v1\0", b"mitai leaderboard line v1\0"


class Chosen(Table, frozen=True, order=True):
    """A number that the table tells."""

    task: Label
    metric: Metric
    group: Group = ""


class Compare(Table, frozen=True, kw_only=True):
    """The table `[leaderboard]` of a job file."""

    reports: Annotated[tuple[CapsuleId, ...], Meta(min_length=2, max_length=MAX_LINES)]
    evaluation: Digest
    numbers: Annotated[tuple[Chosen, ...], Meta(min_length=1, max_length=64)]
    min_group: Annotated[int, Meta(ge=1, le=1 << 31)] = 20

    def __post_init__(self) -> None:
        if len(set(self.numbers)) != len(self.numbers):
            raise ValueError("a number is asked for twice")

    def inputs(self) -> tuple[Input, ...]:
        """Return the reports."""
        return tuple(Input("report", capsule, "report") for capsule in self.reports)

    def unfit(self, job: Job) -> str | None:
        """Say what does not go together: a table is made of reports and nothing else."""
        about = job.job
        others = (
            about.model,
            about.data,
            about.adapter,
            about.evaluation,
            job.lora,
            job.evaluation,
            job.early_stopping,
            job.transcript,
        )
        stated = any(getattr(job.limits, field) is not None for field in job.limits.__struct_fields__)
        return "is made of its reports, and has no other inputs, settings and limits" if stated or any(others) else None

    def declared(self) -> dict[str, str]:
        """Return what the broker is told."""
        told = {"output": "aggregate", "min_group": str(self.min_group), "evaluation": self.evaluation}
        return told | {"leaderboard": self.sha256(), "reports": str(len(self.reports))}

    def sha256(self) -> str:
        """Return the digest of what owners agree on: of which evaluation the table is, and what it tells."""
        agreed = msgspec.json.encode([self.evaluation, self.min_group, sorted(self.numbers)])
        return hashlib.sha256(_AGREED_LABEL + agreed).hexdigest()


class ReportRef(Struct, frozen=True, kw_only=True):
    """A report that stands in the table; which line is its is not said."""

    capsule: Id
    manifest_sha256: Digest


class BoardLine(Struct, frozen=True, kw_only=True):
    """The numbers of one report, under a digest that who has the report can compute (`line_of`)."""

    line: Digest
    results: Annotated[tuple[Result, ...], Meta(min_length=1, max_length=16)]


class Board(Stated, frozen=True, kw_only=True):
    """What the workload signs."""

    v: Literal["mitai leaderboard v1"] = BOARD_LABEL
    evaluation_sha256: Digest
    min_group: Annotated[int, Meta(ge=1, le=1 << 31)]
    data: Annotated[tuple[InputRef, ...], Meta(min_length=1, max_length=64)]
    reports: Annotated[tuple[ReportRef, ...], Meta(min_length=2, max_length=MAX_LINES)]
    lines: Annotated[tuple[BoardLine, ...], Meta(min_length=2, max_length=MAX_LINES)]

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(each.role not in {"data", "judge"} for each in self.data):
            raise ValueError("a table is of data, and a judge perhaps")
        if len(self.lines) != len(self.reports):
            raise ValueError("a table has a line for each of its reports")
        for keys in ([each.capsule for each in self.reports], [each.line for each in self.lines]):
            if keys != sorted(set(keys)):
                raise ValueError("a table's reports and lines ascend, each of them once")
        if any(numbers_of(each.results) != numbers_of(self.lines[0].results) for each in self.lines):
            raise ValueError("a table's lines tell the same numbers")
        if any(number.n < self.min_group for each in self.lines for task in each.results for number in task.numbers):
            raise ValueError("a number speaks of fewer records than may be told of")

    def opened(self) -> set[tuple[str, str]]:
        """Return the reports' capsules, and the digests of their manifests."""
        return {(each.capsule, each.manifest_sha256) for each in self.reports}


class BoardFile(File, frozen=True, kw_only=True):
    """A leaderboard with what its check needs: `leaderboard.json` of a report capsule."""

    v: Literal["mitai leaderboard file v1"] = FILE_LABEL


BOARD = Kind(BoardFile, PAYLOAD_TYPE, Board)


def make_board(
    plan: Compare,
    files: Mapping[str, tuple[ReportRef, PublicKey, bytes]],
    policy: Policy,
    *,
    signer: Identity,
    evidence: Evidence,
    now: datetime,
) -> bytes:
    """Return the file of a leaderboard.

    1. Each report holds under `policy`, and was signed by who made its capsule.
    2. They may stand in one table, which is of the evaluation that the job names.
    3. Each tells every number that was asked for.

    Args:
        plan: What the job asks for.
        files: By capsule: its manifest, the workload's key that made it, and the content of its `report.json`.
        policy: What the reports' machines must be.
        signer: The workload key, whose public half is in the evidence's claims.
        evidence: Made with that key, and the reports' capsules, in its claims.
        now: The time that the leaderboard states.

    Raises:
        MitaiError: One of these does not hold.
    """
    # 1. the reports
    verified = [verify_report(files[capsule][2], policy) for capsule in plan.reports]
    for number, (capsule, (_, appraisal)) in enumerate(zip(plan.reports, verified, strict=True), 1):
        if files[capsule][1].raw != appraisal.claims.receipt_key:
            raise TrainError(
                "train.board-maker", f"report {number} was signed by another workload than made its capsule"
            )
    # 2. one table
    comparable(verified)
    first = verified[0][0]
    if (first.measured.evaluation_sha256, first.measured.min_group) != (plan.evaluation, plan.min_group):
        raise TrainError("train.board-mismatch", "the reports are of another evaluation than asked", step="evaluation")
    # 3. the numbers
    lines = [
        BoardLine(line=line_of(files[capsule][2]), results=_told(report, plan.numbers))
        for capsule, (report, _) in zip(plan.reports, verified, strict=True)
    ]
    board = Board(
        created=utc(now),
        evidence_sha256=digest_of(evidence),
        evaluation_sha256=plan.evaluation,
        min_group=plan.min_group,
        data=first.of("data", "judge"),
        reports=tuple(sorted((ref for ref, _, _ in files.values()), key=lambda ref: ref.capsule)),
        lines=tuple(sorted(lines, key=lambda each: each.line)),
    )
    return BOARD.sign(board, signer=signer, evidence=evidence)


def verify_board(data: bytes, policy: Policy) -> tuple[Board, Appraisal]:
    """Return a leaderboard, and the machine that signed it, when all steps of `Kind.verify` hold.

    Args:
        data: The content of `leaderboard.json`.
        policy: What the machine's evidence must show; the reports' machines showed the same measurements.

    Raises:
        MitaiError: A step failed.
    """
    return BOARD.verify(data, policy)


def line_of(report: bytes) -> str:
    """Return by which digest a report's file is named in a table: nobody knows its signature but who has it."""
    return hashlib.sha256(_LINE_LABEL + REPORT.read(report).envelope).hexdigest()


def read_board(
    verified: tuple[Board, Appraisal],
    *,
    reports: Sequence[tuple[bytes, Report]] = (),
    task: str | None = None,
    metric: str | None = None,
    group: str = "",
    reveals: Sequence[bytes] = (),
) -> Leaderboard:
    """Return the table of a leaderboard that was verified; what is not said here is as for `build`.

    Args:
        verified: What `verify_board` returned.
        reports: Files of reports, and what they say once verified: these lines are shown by their models' capsules.
        task: Whose number counts.
        metric: Which number.
        group: Of which records.
        reveals: Manifest envelopes of models among those reports.

    Raises:
        TrainError: A report has no line here, and what `build` raises.
    """
    board, machine = verified
    shown = {line_of(file): report for file, report in reports}
    if shown.keys() - {each.line for each in board.lines}:
        raise TrainError("train.reveal-unknown", "a revealed report has no line in this leaderboard")
    rows = []
    for each in board.lines:
        report = shown.get(each.line)  # which model it is of; the numbers are the table's
        inputs, created = (report.of("model", "adapter"), report.created) if report else ((), "")
        rows.append(Row(each.results, inputs, created, each.line))
    tested = Tested(board.evaluation_sha256, board.data, machine)
    return lined_up(rows, tested, task=task, metric=metric, group=group, reveals=reveals)


def numbers_of(results: Sequence[Result]) -> list[Chosen]:
    """Return which numbers results tell."""
    return [Chosen(each.task, number.metric, number.group) for each in results for number in each.numbers]


def _told(report: Report, chosen: Sequence[Chosen]) -> tuple[Result, ...]:
    """Return of a report's results the numbers that were asked for, in the report's order."""
    results = tuple(
        msgspec.structs.replace(
            each, numbers=tuple(n for n in each.numbers if Chosen(each.task, n.metric, n.group) in chosen)
        )
        for each in report.measured.results
    )
    if missing := sorted(set(chosen) - set(numbers_of(results))):
        one = missing[0]
        raise TrainError(
            "train.board-number",
            f"a report has no {one.metric!r} of task {one.task!r} and group {one.group!r}, or withheld it",
        )
    return tuple(each for each in results if each.numbers)
