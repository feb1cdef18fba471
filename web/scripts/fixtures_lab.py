"""What fixtures are made with: seeded mutations, verdicts, and the file that holds them."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from mitai.attest.policy import Policy
from mitai.errors import MitaiError

FOLDER = Path(__file__).parents[1] / "packages/verify/test/fixtures"
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
NONCE = bytes(range(32))
PUT = [
    b"\0",
    b"\n",
    b"\r",
    b" ",
    b"=",
    b'"',
    b"\\",
    b"0",
    b"A",
    b"{",
    b"]",
    b",",
    b"\xff",
    b"\xc3",
    b"\x7f",
    b"e",
    b"-",
]
Edit = tuple[int, int, bytes]
Run = list[object]


def outcome(check: Callable[[], object]) -> tuple[str, str]:
    """Return the code of the refusal, or nothing and what came out."""
    try:
        result = check()
    except MitaiError as error:
        return error.code, ""
    return "", result if isinstance(result, str) else ""


def written(policy: Policy) -> str:
    """Return a policy without the sections that say what is so by default."""
    usual = Policy().to_toml().strip().split("\n\n")
    return "\n\n".join(part for part in policy.to_toml().strip().split("\n\n") if part not in usual)


def edited(data: bytes, edits: Sequence[Edit]) -> bytes:
    """Return the input with changes."""
    for at, drop, put in edits:
        data = data[:at] + put + data[at + drop :]
    return data


def mutations(data: bytes, count: int, seed: str) -> list[list[Edit]]:
    """Return changes of a byte or a few: flips, exchanges, losses, insertions, repetitions."""
    dice = random.Random(seed)
    changes: list[list[Edit]] = []
    for _ in range(count):
        at = dice.randrange(len(data))
        size = dice.choice((1, 1, 1, 2, 5, 20))
        kind = dice.randrange(6)
        if kind == 0:
            change = (at, 1, bytes([data[at] ^ 1 << dice.randrange(8)]))
        elif kind == 1:
            change = (at, 1, dice.choice(PUT))
        elif kind == 2:
            change = (at, size, b"")
        elif kind == 3:
            change = (at, 0, dice.choice(PUT))
        elif kind == 4:
            change = (at, 0, data[at : at + size])
        else:
            change = (at, 1, bytes([data[at] ^ 0x20]))
        changes.append([change])
    return changes


class Fixtures:
    """Collects inputs and verdicts, and writes them."""

    def __init__(self) -> None:
        self.bases: dict[str, str] = {}
        self.settings: dict[str, dict[str, object]] = {}
        self.runs: list[Run] = []

    def base(self, name: str, data: bytes) -> bytes:
        """Keep an input."""
        self.bases[name] = base64.b64encode(data).decode()
        return data

    def add(self, what: str, base: str, setting: str, edits: Sequence[Edit], check: Callable[[bytes], object]) -> None:
        """Check an input with changes, and keep the verdict."""
        data = edited(base64.b64decode(self.bases[base]), edits)
        code, result = outcome(lambda: check(data))
        self.runs.append(
            [what, base, setting, [[at, drop, put.decode("latin-1")] for at, drop, put in edits], code, result]
        )

    def mutate(self, what: str, base: str, setting: str, count: int, check: Callable[[bytes], object]) -> None:
        """Check an input as it is, and so many mutations of it."""
        self.add(what, base, setting, [], check)
        for edits in mutations(base64.b64decode(self.bases[base]), count, f"{what} {base} {setting}"):
            self.add(what, base, setting, edits, check)

    def replace(
        self, what: str, base: str, setting: str, pairs: Sequence[tuple[bytes, bytes]], check: Callable[[bytes], object]
    ) -> None:
        """Exchange the first place of each first text for the second."""
        data = base64.b64decode(self.bases[base])
        for old, new in pairs:
            self.add(what, base, setting, [(data.index(old), len(old), new)], check)

    def write(self, name: str) -> None:
        """Write the file."""
        head = {"bases": self.bases, "settings": self.settings}
        lines = ",\n".join(json.dumps(run, separators=(",", ":")) for run in self.runs)
        text = json.dumps(head, indent=1)[:-2] + ',\n "runs": [\n' + lines + "\n]}\n"
        (FOLDER / name).write_text(text)
