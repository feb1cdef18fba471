"""Writes what the tests of `@mitai/verify` compare themselves with: inputs, and the verdict of the Python package.

Run from the repository's root: `python web/scripts/fixtures.py`. Keys are fresh in each run; mutations are seeded.

A fixture file holds `bases` (inputs in base64), `settings` (what they are checked with) and `runs`:
`[what, base, setting, edits, code, result]`. Each edit is `[at, bytes to drop, bytes to put (Latin-1)]`. `code` is the
error's, or empty where the input was accepted; `result` is what then came out, as far as it is short.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from fixtures_evidence import evidence
from fixtures_lab import FOLDER
from fixtures_ledger import ledger

if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        evidence(Path(folder) / "platform")
    ledger()
