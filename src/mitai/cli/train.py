"""`mitai train`: submit jobs to the training worker of a platform, watch them, end them."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from mitai.cli.options import JsonFlag, OperatorToken, UploadToken, platform_url, token_for
from mitai.cli.output import Output, data
from mitai.errors import ClientError, MitaiError
from mitai.fleet import training
from mitai.fleet.home import Home
from mitai.train.job import Job

_POLL_S = 0.3
_ENDED = {"done", "failed", "cancelled"}
_BLOCKS = " ▁▂▃▄▅▆▇█"
_WIDTH, _HEIGHT = 64, 8  # of the loss curve, in characters

app = App(
    name="train",
    help="""Post-training and evaluation over sealed models and data.

A job file names capsules and a method; `docs/spec/training.md` lists its keys. The output is a capsule of its own that
belongs to the owners of all inputs.""",
    help_format="markdown",
    help_epilogue="",
)
JobFile = Annotated[Path, Parameter(help="A job file (TOML).")]
JobId = Annotated[str, Parameter(help="The job's id, as `mitai train submit` says it.")]
UrlOption = Annotated[str | None, Parameter(help="The gateway; by default that of the local platform.")]


@app.command
def check(job: JobFile, *, json: JsonFlag = False) -> None:
    """Check a job file, and say what it declares to the owners' policies.

    Example: `mitai train check job.toml`
    """
    out, parsed = Output(json), Job.parse(job.read_text(encoding="utf-8"))
    out.say(f"[green]✔[/] {data(parsed.job.name)}: a job of method {parsed.job.method}, digest {parsed.sha256()}")
    out.table(("input", "capsule"), [(each.role, each.capsule) for each in parsed.inputs()])
    out.table(("declares", ""), sorted(parsed.declared().items()))
    inputs = [{"role": each.role, "capsule": each.capsule, "kind": each.kind} for each in parsed.inputs()]
    out.result({"job_sha256": parsed.sha256(), "declared": parsed.declared(), "inputs": inputs})


@app.command
def submit(
    job: JobFile,
    *,
    wait: Annotated[bool, Parameter(negative="", help="Return when the job has ended.")] = False,
    url: UrlOption = None,
    operator_token: OperatorToken = None,
    upload_token: UploadToken = None,
    rank: Annotated[
        int | None, Parameter(help="For a job of several workers: this worker's rank; rank 0 leads, and listens.")
    ] = None,
    leader: Annotated[
        str | None, Parameter(help="For a job of several workers: where rank 0 listens for the others, as HOST:PORT.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Submit a job; a job that was killed resumes from its newest checkpoint when it is submitted again.

    Example: `mitai train submit job.toml --wait`
    """
    out, home = Output(json), Home.default()
    text = job.read_text(encoding="utf-8")
    Job.parse(text)
    gateway, token = _operator(home, url, operator_token)
    place = _place(rank, leader)
    told = training.submit(gateway, token, text, upload_token or token_for(home, gateway, "upload"), place)
    if wait:
        told = followed(out, gateway, token, str(told["id"]))
    else:
        out.say(f"[green]✔[/] submitted as {data(told['id'])}")
        out.say(f"  next: mitai train logs {data(told['id'])}")
    out.result(told)


@app.command
def status(
    job: Annotated[str | None, Parameter(help="A job's id; by default all.")] = None,
    *,
    url: UrlOption = None,
    operator_token: OperatorToken = None,
    json: JsonFlag = False,
) -> None:
    """Show the jobs of the training worker, or one."""
    out, (gateway, token) = Output(json), _operator(Home.default(), url, operator_token)
    if job is not None:
        told = training.show(gateway, token, job)
        rows = [told]
    else:
        told = training.every(gateway, token)
        rows = [each for each in told.get("jobs", []) if isinstance(each, dict)]
        out.simulated(told.get("simulated") is True)
    shown = [
        [str(each.get(name) or "") for name in ("id", "name", "method", "state", "step", "capsule")]
        + [_progress(each), f"{each.get('seconds')} s"]
        for each in rows
    ]
    out.table(("job", "name", "method", "state", "step", "capsule", "steps", ""), shown)
    for each in rows:
        if isinstance(each.get("error"), dict):
            out.say(data(f"{each.get('id')}: {each['error'].get('message')} [{each['error'].get('code')}]"))
    out.result(told)


@app.command
def logs(
    job: JobId,
    *,
    png: Annotated[Path | None, Parameter(help="Write the loss curve as a picture; needs matplotlib.")] = None,
    url: UrlOption = None,
    operator_token: OperatorToken = None,
    json: JsonFlag = False,
) -> None:
    """Show a job's numbers: the loss curve, and the newest steps.

    Example: `mitai train logs JOB --png loss.png`
    """
    out, (gateway, token) = Output(json), _operator(Home.default(), url, operator_token)
    rows = training.numbers(gateway, token, job)
    for line in curve([row["loss"] for row in rows if "loss" in row]):
        out.say(data(line))
    names = sorted({name for row in rows[-8:] for name in row} - {"step", "steps"})[:8]
    cells = [[f"{row.get('step', 0):g}", *(_cell(row, name) for name in names)] for row in rows[-8:]]
    out.table(("step", *names), cells)
    if png is not None:
        picture(rows, png)
        out.say(f"[green]✔[/] {data(png)}")
    out.result({"job": job, "numbers": rows})


@app.command
def cancel(job: JobId, *, url: UrlOption = None, operator_token: OperatorToken = None, json: JsonFlag = False) -> None:
    """End a job at once; nothing of it stays in the worker's memory."""
    out, (gateway, token) = Output(json), _operator(Home.default(), url, operator_token)
    told = training.cancel(gateway, token, job)
    out.say(f"[green]✔[/] {data(job)} is ended")
    out.result(told)


def _place(rank: int | None, leader: str | None) -> dict[str, object] | None:
    if rank is None and leader is None:
        return None
    host, _, port = (leader or "").rpartition(":")
    if rank is None or not host or not port.isdecimal():
        raise ClientError(
            "cli.place", "a job of several workers needs both: --rank, and --leader as HOST:PORT", hint="see --help"
        )
    return {"rank": rank, "host": host, "port": int(port)}


def _operator(home: Home, url: str | None, token: str | None) -> tuple[str, str]:
    gateway = platform_url(home, url)
    return gateway, token or token_for(home, gateway, "operator")


def followed(out: Output, gateway: str, token: str, job: str) -> dict[str, Any]:
    """Wait with a progress bar; raise what the job failed with."""
    with out.steps(f"training {job}") as report:
        while (told := training.show(gateway, token, job)).get("state") not in _ENDED:
            newest = told.get("newest")
            numbers = newest if isinstance(newest, dict) else {}
            report(str(told.get("step")), numbers.get("step"), numbers.get("steps"), numbers.get("loss"))
            time.sleep(_POLL_S)
    if told.get("state") != "done":
        error = told.get("error")
        fields = error if isinstance(error, dict) else {}
        raise MitaiError(
            str(fields.get("code") or f"train.{told.get('state')}"),
            str(fields.get("message") or f"the job is {told.get('state')}"),
            hint=str(fields["hint"]) if fields.get("hint") else None,
        )
    for line in curve([row["loss"] for row in training.numbers(gateway, token, job) if "loss" in row]):
        out.say(data(line))
    if told.get("capsule"):
        made = f"{data(told.get('kind'))} {data(told.get('capsule'))}"
        out.say(f"[green]✔[/] {made}: it belongs to the owners of all inputs")
    else:
        out.say("[green]✔[/] this worker has done its part; that of rank 0 makes the output")
    return told


def _progress(told: dict[str, Any]) -> str:
    newest = told.get("newest")
    return f"{newest.get('step', 0):g}/{newest.get('steps', 0):g}" if isinstance(newest, dict) else ""


def _cell(row: dict[str, float], name: str) -> str:
    return f"{row[name]:.6g}" if name in row else ""


def curve(losses: Sequence[float], width: int = _WIDTH, height: int = _HEIGHT) -> list[str]:
    """Return a loss curve as lines of text, averaged into at most `width` columns."""
    finite = [loss for loss in losses if math.isfinite(loss)]
    if not finite:
        return []
    columns = min(width, len(finite))
    cuts = [len(finite) * at // columns for at in range(columns + 1)]
    means = [sum(finite[start:end]) / (end - start) for start, end in itertools.pairwise(cuts)]
    low, high = min(means), max(means)
    eighths = [1 + round((mean - low) / ((high - low) or 1.0) * (8 * height - 1)) for mean in means]
    lines = []
    for row in reversed(range(height)):
        label = f"{high:9.4g}" if row == height - 1 else f"{low:9.4g}" if row == 0 else " " * 9
        lines.append(f"{label} ┤" + "".join(_BLOCKS[min(8, max(0, level - 8 * row))] for level in eighths))
    return [*lines, " " * 11 + f"loss of {len(finite)} steps"]


def picture(rows: Sequence[dict[str, float]], path: Path) -> None:
    """Write the loss curve, and that of the evaluations, as a PNG."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ClientError(
            "client.no-matplotlib", "a picture needs matplotlib, which is not installed", hint="pip install matplotlib"
        ) from None
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for name, label in (("loss", "training"), ("eval_loss", "evaluation")):
        points = [(row["step"], row[name]) for row in rows if name in row and "step" in row]
        if points:
            axes.plot(*zip(*points, strict=True), label=label)
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, format="png")
