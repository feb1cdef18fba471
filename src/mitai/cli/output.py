"""How a command speaks: text by default, one JSON object with `--json`; progress always goes to standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

JsonFlag = Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON object instead of text.")]


class Output:
    """Where a command's words go."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.console = Console(highlight=False, quiet=as_json)
        self.errors = Console(stderr=True, highlight=False)

    def say(self, text: str = "") -> None:
        """Tell a person something; silent with `--json`."""
        self.console.print(text, soft_wrap=True)

    def note(self, text: str) -> None:
        """Tell a person something beside the result, on standard error."""
        self.errors.print(text, style="dim", markup=False, soft_wrap=True)

    def result(self, fields: Mapping[str, object]) -> None:
        """Print the machine-readable result, with `--json` only."""
        if self.as_json:
            sys.stdout.write(json.dumps(fields, ensure_ascii=False, default=_plain) + "\n")

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> None:
        """Print a table for a person."""
        table = Table(title=title, title_justify="left", show_header=any(columns), box=None, pad_edge=False)
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*row)
        self.console.print(table)

    @contextmanager
    def bar(self, label: str) -> Iterator[Callable[[int, int], None]]:
        """Show a progress bar in bytes; yields `report(done_bytes, total_bytes)`."""
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        hidden = self.as_json or not self.errors.is_terminal
        with Progress(*columns, TimeRemainingColumn(), console=self.errors, transient=True, disable=hidden) as progress:
            task = progress.add_task(label, total=None)

            def report(done: int, total: int) -> None:
                progress.update(task, completed=done, total=total)

            yield report


def _plain(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)


SIMULATED = (
    "[black on yellow] SIMULATED [/] The hardware is simulated: this proves that everything works, "
    "and protects nothing from whoever owns the machine."
)
