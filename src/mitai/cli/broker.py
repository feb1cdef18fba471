"""`mitai broker`: what the operator of a key broker does: new root keys, backups."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from mitai.cli.options import JsonFlag, PolicyOption, read_policy
from mitai.cli.output import Output, data, plural
from mitai.client.recovery import waiting_policy
from mitai.client.session import Session
from mitai.errors import FleetError
from mitai.fleet.home import Home

app = App(
    name="broker",
    help="The key broker's operation: a new root key, backups. None of it shows the operator a key.",
    help_format="markdown",
    help_epilogue="",
)
ROTATED_WITHIN_S = 120.0
ConfigOption = Annotated[
    Path | None,
    Parameter(name="--config", help="The broker's configuration; by default that of the local platform."),
]


@app.command
def rotate(*, policy: PolicyOption = None, json: JsonFlag = False) -> None:
    """Replace the root key of the local platform's broker: its whole state is sealed anew, while it goes on.

    Brokers elsewhere rotate when their leading process is sent SIGUSR1.
    """
    output, home = Output(json), Home.default()
    running = home.read_platform()
    rules = waiting_policy(read_policy(home, policy))

    def epoch() -> int:
        return int(Session(f"{running.gateway}/broker", rules, workload="broker").appraisal.claims.extra["epoch"])

    before = epoch()
    for name, pid in running.pids.items():
        if name.startswith("broker"):
            os.kill(pid, signal.SIGUSR1)  # those that stand by ignore it
    deadline = time.monotonic() + ROTATED_WITHIN_S
    while (now := epoch()) == before:
        if time.monotonic() > deadline:
            raise FleetError("fleet.not-rotated", "the root key was not rotated", hint="see the broker's log")
        time.sleep(0.2)
    output.say(f"[green]✔[/] root key of epoch {now}; those who keep sealed shares fetch them anew")
    output.result({"epoch": now})


@app.command
def backup(
    file: Annotated[Path, Parameter(help="The file to write; a new one.")],
    *,
    config: ConfigOption = None,
    json: JsonFlag = False,
) -> None:
    """Write the broker's database to a file, while it runs or not. All that is sealed in it stays sealed."""
    from mitai.broker.backup import backup as write  # what knows databases takes a moment to load

    output = Output(json)
    rows = write(_state(config), file)
    output.say(f"[green]✔[/] {plural(rows, 'row', 'rows')} in {data(file)}")
    output.result({"rows": rows, "file": str(file)})


@app.command
def restore(
    file: Annotated[Path, Parameter(help="A file that `mitai broker backup` wrote.")],
    *,
    config: ConfigOption = None,
    json: JsonFlag = False,
) -> None:
    """Fill the empty database that a broker's configuration names from a file; SQLite or PostgreSQL.

    A broker that is started on an older state than its ledger and witnesses remember does not go on: that is how owners
    know that no budget and no revocation was undone.
    """
    from mitai.broker.backup import restore as read

    output = Output(json)
    rows = read(_state(config), file)
    output.say(f"[green]✔[/] {plural(rows, 'row', 'rows')} restored; the broker opens it if this machine has its key")
    output.result({"rows": rows})


def _state(path: Path | None) -> str:
    """Return the database that a broker's configuration names."""
    from mitai.broker.config import Config

    return Config.read(path or Home.default().platform / "broker.toml").state
