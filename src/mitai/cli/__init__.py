"""The `mitai` command: one thin file a group, all words of a person's first hour."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line. Imports take a moment: Ctrl-C within them ends as quietly as later."""
    try:
        from mitai.cli.commands import run

        run()
    except KeyboardInterrupt:
        sys.exit(130)
