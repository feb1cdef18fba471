"""`mitai report` and `mitai leaderboard`: the signed report of an evaluation, and models side by side."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from mitai.attest import Appraisal, Policy
from mitai.attest.refvalues.release import with_releases
from mitai.cli.evidence import read_file
from mitai.cli.options import JsonFlag, PolicyOption, read_policy
from mitai.cli.output import SIMULATED, Output, data, plural
from mitai.cli.verify import brief
from mitai.errors import MitaiError
from mitai.fleet.home import Home
from mitai.train.evaluate.board import FILE_LABEL as BOARD_FILE_LABEL
from mitai.train.evaluate.board import Board, read_board, verify_board
from mitai.train.evaluate.leaderboard import Leaderboard, build, comparable
from mitai.train.evaluate.report import FILE_LABEL as REPORT_FILE_LABEL
from mitai.train.evaluate.report import MICROS, Number, Report, verify_report
from mitai.train.evaluate.signed import label

app = App(
    name="leaderboard",
    help="""Several models on the same sealed test: out of their signed reports, or signed by a workload that read them.

Anybody who has the reports makes the same table. Models are named by their capsules, or in a signed leaderboard by
nothing but a digest, until their owners reveal them.""",
    help_format="markdown",
    help_epilogue="",
)
Reports = Annotated[
    tuple[Path, ...],
    Parameter(
        help="The file `report.json` of each report capsule, or the one file `leaderboard.json` of a leaderboard."
    ),
]
ReleaseOption = Annotated[
    tuple[Path, ...],
    Parameter(negative="", help="A signed release manifest that the policy's [[releases]] trust. May be repeated."),
]
Verified = list[tuple[Report, Appraisal]]


def report(
    file: Annotated[Path, Parameter(help="The file `report.json` of a report capsule.")],
    *,
    policy: PolicyOption = None,
    release: ReleaseOption = (),
    json: JsonFlag = False,
) -> None:
    """Check the report of an evaluation and print its numbers: each with its records and its 95 % interval.

    Who signed it is judged by your policy: the evidence of the machine, its code, and the key that signed.
    """
    out = Output(json)
    ((found, appraisal),) = _verified((file,), _rules(policy, release))
    out.table(
        ("task", "metric", "group", "records", "value", "95 % interval"),
        [
            (
                result.task,
                number.metric,
                number.group or "(all)",
                str(number.n),
                _value(number.value),
                _interval(number),
            )
            for result in found.measured.results
            for number in result.numbers
        ],
    )
    out.say()
    inputs = [(each.role, f"{each.capsule}  manifest {each.manifest_sha256[:16]}…") for each in found.inputs]
    facts = [("evaluation", found.measured.evaluation_sha256), ("smallest group", str(found.measured.min_group))]
    out.table(("", ""), [*inputs, *facts, ("made", found.created), ("machine", brief(appraisal))])
    out.say("\n[bold green]✔ verified[/] under your policy")
    if appraisal.simulated:
        out.say(SIMULATED)
    out.result({"verdict": "verified", **_report(found, appraisal)})


@app.command
def verify(
    reports: Reports, *, policy: PolicyOption = None, release: ReleaseOption = (), json: JsonFlag = False
) -> None:
    """Check that each report holds, and that all are of the same evaluation, data, judge and code.

    A signed leaderboard: that it was made by a workload under your policy, which checked the same of its reports.
    """
    out, rules = Output(json), _rules(policy, release)
    if (data := _board_file(reports)) is not None:
        _checked(out, *verify_board(data, rules))
        return
    verified = _verified(reports, rules)
    comparable(verified)
    out.say(f"[bold green]✔ comparable[/]: {plural(len(verified), 'report', 'reports')} of one evaluation")
    if verified[0][1].simulated:
        out.say(SIMULATED)
    out.result({"verdict": "comparable", "reports": len(verified), "simulated": verified[0][1].simulated})


@app.command
def show(
    reports: Reports,
    *,
    task: Annotated[str | None, Parameter(help="Whose numbers; by default the first task's.")] = None,
    metric: Annotated[str | None, Parameter(help="Which number; by default the task's first.")] = None,
    group: Annotated[str, Parameter(help="Of which group of records; by default of all.")] = "",
    reveal: Annotated[
        tuple[Path, ...],
        Parameter(
            negative="",
            help="What an owner reveals: a model's signed manifest, or the report of a signed leaderboard's line. "
            "May be repeated.",
        ),
    ] = (),
    policy: PolicyOption = None,
    release: ReleaseOption = (),
    json: JsonFlag = False,
) -> None:
    """Print the table, best first. Where intervals overlap, the order says little."""
    out = Output(json)
    rules, shown = _rules(policy, release), {path: read_file(path) for path in reveal}
    if (signed := _board_file(reports)) is not None:
        lines = [path for path, found in shown.items() if label(found) == REPORT_FILE_LABEL]
        revealed = [(shown.pop(path), found) for path, (found, _) in zip(lines, _verified(lines, rules), strict=True)]
        board = read_board(
            verify_board(signed, rules),
            reports=revealed,
            task=task,
            metric=metric,
            group=group,
            reveals=tuple(shown.values()),
        )
    else:
        verified = _verified(reports, rules)
        board = build(verified, task=task, metric=metric, group=group, reveals=tuple(shown.values()))
    out.table(
        ("", "model", board.metric, "95 % interval", "records", "made"),
        [
            (
                str(place),
                line.name or " + ".join(each.capsule for each in line.inputs) or f"{line.label[:16]}…",
                _value(line.number.value),
                _interval(line.number),
                str(line.number.n),
                line.created,
            )
            for place, line in enumerate(board.lines, 1)
        ],
    )
    out.say(f"\ntask {data(board.task)}, evaluation {board.evaluation_sha256}")
    if board.simulated:
        out.say(SIMULATED)
    out.result(_board(board))


def _rules(policy: Path | None, release: tuple[Path, ...]) -> Policy:
    releases = [read_file(path) for path in release]
    return with_releases(read_policy(Home.default(), policy), releases, now=datetime.now(UTC))


def _board_file(paths: tuple[Path, ...]) -> bytes | None:
    """Return the content of a signed leaderboard, if that is the file."""
    found = read_file(paths[0]) if len(paths) == 1 else b""
    return found if label(found) == BOARD_FILE_LABEL else None


def _checked(out: Output, board: Board, appraisal: Appraisal) -> None:
    out.table(
        ("", ""),
        [
            ("lines", str(len(board.lines))),
            ("evaluation", board.evaluation_sha256),
            ("smallest group", str(board.min_group)),
            *((each.role, f"{each.capsule}  manifest {each.manifest_sha256[:16]}…") for each in board.data),
            *(("report", f"{each.capsule}  manifest {each.manifest_sha256[:16]}…") for each in board.reports),
            ("made", board.created),
            ("machine", brief(appraisal)),
        ],
    )
    out.say("\n[bold green]✔ verified[/] under your policy")
    if appraisal.simulated:
        out.say(SIMULATED)
    out.result(
        {
            "verdict": "verified",
            "created": board.created,
            "evaluation_sha256": board.evaluation_sha256,
            "min_group": board.min_group,
            "reports": [each.capsule for each in board.reports],
            "lines": [each.line for each in board.lines],
            "measurements": dict(appraisal.measurements),
            "simulated": appraisal.simulated,
        }
    )


def _verified(paths: Sequence[Path], rules: Policy) -> Verified:
    found: Verified = []
    for path in paths:
        try:
            found.append(verify_report(read_file(path), rules))
        except MitaiError as error:
            raise type(error)(error.code, f"{path}: {error.message}", step=error.step, hint=error.hint) from error
    return found


def _value(micros: int) -> str:
    return f"{micros / MICROS:.4f}"


def _interval(number: Number) -> str:
    return f"{_value(number.low)} … {_value(number.high)}"


def _number(number: Number) -> dict[str, object]:
    return {
        "metric": number.metric,
        "group": number.group,
        "n": number.n,
        "value": number.value / MICROS,
        "low": number.low / MICROS,
        "high": number.high / MICROS,
    }


def _report(report: Report, appraisal: Appraisal) -> dict[str, object]:
    return {
        "created": report.created,
        "evaluation_sha256": report.measured.evaluation_sha256,
        "min_group": report.measured.min_group,
        "inputs": [{"role": i.role, "capsule": i.capsule, "manifest_sha256": i.manifest_sha256} for i in report.inputs],
        "results": [
            {"task": result.task, "numbers": [_number(number) for number in result.numbers]}
            for result in report.measured.results
        ],
        "evidence_sha256": report.evidence_sha256,
        "measurements": dict(appraisal.measurements),
        "simulated": appraisal.simulated,
    }


def _board(board: Leaderboard) -> dict[str, object]:
    return {
        "task": board.task,
        "metric": board.metric,
        "group": board.group,
        "evaluation_sha256": board.evaluation_sha256,
        "simulated": board.simulated,
        "lines": [
            {
                "name": line.name,
                "label": line.label,
                "inputs": [each.capsule for each in line.inputs],
                **_number(line.number),
            }
            for line in board.lines
        ],
    }
