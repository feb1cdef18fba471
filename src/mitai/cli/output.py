"""How a command speaks: text by default, one JSON object with `--json`; progress always goes to standard error.

Invariants:

- What others wrote (answers, names, entries of the ledger, reasons) can't steer the terminal or look like our own
  marks: it passes through `printable`, and markup is read only where we wrote it (`say`, `marked`).
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    Task,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

# C0 (but tab and newline), DEL and C1 controls, and what turns the direction of the text around it.
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Return what others wrote without anything that a terminal would obey."""
    return _STEERING.sub("", text)


def to_json(fields: Mapping[str, object]) -> str:
    """Return one line of JSON, in which what a terminal would obey is escaped."""
    text = json.dumps(fields, ensure_ascii=False, default=_plain)
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n"


def data(text: object) -> str:
    """Return what others wrote, to be put into a text of ours for `Output.say`."""
    return escape(printable(str(text)))


def marked(text: str) -> Text:
    """Return a table's cell with markup of ours in it."""
    return Text.from_markup(text)


class Output:
    """Where a command's words go."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.console = Console(highlight=False, quiet=as_json)
        self.errors = Console(stderr=True, highlight=False)

    def say(self, text: str = "") -> None:
        """Tell a person something, in rich's markup; silent with `--json`. What others wrote goes in as `data`."""
        self.console.print(text, soft_wrap=True)

    def note(self, text: str) -> None:
        """Tell a person something beside the result, on standard error."""
        self.errors.print(printable(text), style="dim", markup=False, soft_wrap=True)

    def result(self, fields: Mapping[str, object]) -> None:
        """Print the machine-readable result, with `--json` only."""
        if self.as_json:
            sys.stdout.write(to_json(fields))
            sys.stdout.flush()  # some commands go on running

    def simulated(self, simulated: bool | None) -> None:
        """Say on standard error that what was shown is of a simulated platform; None: nobody knows."""
        if simulated:
            self.errors.print(SIMULATED, soft_wrap=True)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str | Text]]) -> None:
        """Print aligned columns for a person; a long value is one piece, to be copied. Markup: in `marked` cells only.

        A cell is one line: what others wrote can't look like a row of ours.
        """
        head = [[Text(column, style="bold") for column in columns]] if any(columns) else []
        lines = head + [[Text(_one_line(cell)) if isinstance(cell, str) else cell for cell in row] for row in rows]
        widths = [max((row[at].cell_len for row in lines), default=0) for at in range(len(columns))]
        for row in lines:
            padded = [cell + " " * (width - cell.cell_len) for cell, width in zip(row[:-1], widths, strict=False)]
            line = Text("  ").join([*padded, row[-1]])
            line.rstrip()
            self.console.print(line, soft_wrap=True)

    @contextmanager
    def bar(self, label: str) -> Iterator[Callable[[int, int], None]]:
        """Show a progress bar in bytes; yields `report(done_bytes, total_bytes)`."""
        columns = (TextColumn("{task.description}"), BarColumn(), _Bytes(), TransferSpeedColumn())
        hidden = self.as_json or not self.errors.is_terminal
        with Progress(*columns, TimeRemainingColumn(), console=self.errors, transient=True, disable=hidden) as progress:
            task = progress.add_task(label, total=None)

            def report(done: int, total: int) -> None:
                progress.update(task, completed=done, total=total or None)

            yield report

    @contextmanager
    def live(self, line: Callable[[], str]) -> Iterator[None]:
        """Show on a terminal, below all notes, a line that is asked for anew twice a second; nothing elsewhere."""
        if self.as_json or not self.errors.is_terminal:
            yield
            return

        def shown() -> Text:
            return Text(_one_line(line()), style="dim", no_wrap=True, overflow="ellipsis")

        with Live(get_renderable=shown, console=self.errors, refresh_per_second=2, transient=True):
            yield

    @contextmanager
    def steps(self, label: str) -> Iterator[Callable[[str, object, object, object], None]]:
        """Show a progress bar in steps; yields `report(phase, step, steps, loss)`, whose values a stranger may give."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[told]}"),
            TimeRemainingColumn(),
        )
        hidden = self.as_json or not self.errors.is_terminal
        with Progress(*columns, console=self.errors, transient=True, disable=hidden) as progress:
            task = progress.add_task(label, total=None, told="")

            def report(phase: str, step: object, steps: object, loss: object) -> None:
                done, total = (value if isinstance(value, (int, float)) else 0 for value in (step, steps))
                tail = f", loss {loss:.4f}" if isinstance(loss, (int, float)) else ""
                told = f"step {done:g} of {total:g}{tail}" if total else data(phase)
                progress.update(task, completed=done, total=total or None, told=told)

            yield report


class _Bytes(DownloadColumn):
    """So many bytes of so many, once the total is known."""

    def render(self, task: Task) -> Text:
        return super().render(task) if task.total is not None else Text("loading …")


def _one_line(text: str) -> str:
    return " ".join(printable(text).split("\n")).replace("\t", " ")


def security(bits: float) -> str:
    """Return how hard a check is to deceive."""
    return f"{math.floor(bits)} bits of security"


def hides(uses: int, what: str) -> str:
    """Return what proofs of a model of so many uses hide: weights, and all numbers but what stands in the file."""
    return f"weights, and all numbers but {what}" if uses else "nothing"


def left(proofs: int | None, what: str) -> str:
    """Return how many more proofs can hide a model or net; nothing where nothing is hidden."""
    if proofs is None:
        return ""
    return f"\n  {plural(proofs, 'more proof', 'more proofs')} can hide this {what}; then it has to be prepared again"


def plural(number: int, one: str, many: str) -> str:
    """Return a number with its noun."""
    return f"{number} {one if number == 1 else many}"


def _plain(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)


SIMULATED = "[black on yellow] SIMULATED [/] No real TEE: all checks run, but the machine's owner can read all."
