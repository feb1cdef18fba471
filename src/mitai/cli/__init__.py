"""The `mitai` command: one thin file a group, all words of a person's first hour.

Exit status: 0 done; 1 refused or failed, with the reason; 2 the command line is wrong; 130 interrupted.
"""

from __future__ import annotations

import json
import os
import sys

from cyclopts import App, Group
from rich.console import Console

from mitai import __version__
from mitai.cli import demo, ledger, owner, platform, user
from mitai.cli.output import printable
from mitai.errors import MitaiError

app = App(
    name="mitai",
    version=__version__,
    help_format="markdown",
    help="""Confidential language models: seal a model, verify the machine, talk in private, prove it.

Start with `mitai demo`, or by hand: `mitai up --detach`, `mitai verify`, `mitai chat`.
Files are kept in `$MITAI_HOME`, by default `~/.mitai`.""",
)
_START, _TALK, _OWN, _PROVE = (
    Group.create_ordered(name) for name in ("Start", "Verify and talk", "Own a model", "Prove")
)
for group, commands in {
    _START: (demo.demo, platform.up, platform.down, platform.status, platform.doctor),
    _TALK: (user.verify, user.chat),
    _OWN: (owner.seal, owner.publish, platform.deploy, owner.revoke),
    _PROVE: (user.receipt,),
}.items():
    for command in commands:
        app.command(command, group=group)
ledger.app.group = (_PROVE,)
app.command(ledger.app)


def main() -> None:
    """Run the command line; an error of mitai's ends in a reason and a next step, never in a traceback."""
    try:
        app()
    except MitaiError as error:
        if "--json" in sys.argv:
            sys.stdout.write(json.dumps({"error": error.to_dict()}, ensure_ascii=False) + "\n")
        else:
            console = Console(stderr=True, highlight=False)
            console.print(f"✘ {printable(error.message)}", style="bold red", markup=False)
            console.print(
                printable(f"  code: {error.code}" + (f"   step: {error.step}" if error.step else "")), markup=False
            )
            if error.hint:
                console.print(f"  next: {printable(error.hint)}", markup=False)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
