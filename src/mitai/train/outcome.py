"""What a job made, before it is sealed.

Example:
    >>> Outcome("report", {"report.json": b"{}"}, {}, ("report.json",)).kind
    'report'
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """What a job made.

    Attributes:
        kind: The capsule kind of the output: `adapter`, `model` or `report`.
        files: The output's files by name.
        metrics: Numbers only: losses, steps, tokens, rows. They are among the files too.
        byproducts: Which of the files the signed statement of lineage names by their digests.
    """

    kind: str
    files: dict[str, bytes] = field(repr=False)
    metrics: dict[str, Any]
    byproducts: tuple[str, ...] = ()
