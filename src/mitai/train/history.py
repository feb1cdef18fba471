"""What a worker's host was told of its jobs, in a file, for the worker that starts after this one.

`docs/spec/training.md`, "The host's addresses".

Invariants:

- The file holds what the host is shown anyway: no job file, no token, no key. It is the host's: what it writes there it
  only tells itself, and a file that can't be read is no history.
- A full disk costs the history, and no job.

Example:
    >>> keep(path, [run.shown() for run in runs])
    >>> [each.state for each in read(path, at_most=200).values()]
    ['done', 'failed']
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import structlog
from msgspec import Meta

from mitai.errors import TrainError
from mitai.train.tables import Name

MAX_BYTES = 4 << 20
ENDED = frozenset({"done", "failed", "cancelled"})
Word = Annotated[str, Meta(max_length=128)]
log = structlog.get_logger(__name__)


class Past(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A job of a worker that is no more, as its host was told of it; there is nothing left of it to be cancelled."""

    id: Annotated[str, Meta(pattern=r"^[0-9a-f]{16}\Z")]
    name: Name
    method: Word
    job_sha256: Word
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    step: Word
    capsule: Word
    kind: Word
    error: dict[Word, str] | None
    newest: dict[Word, float] | None
    seconds: float

    def shown(self) -> dict[str, object]:
        """Return what the host is told."""
        return dict(msgspec.structs.asdict(self))

    @property
    def numbers(self) -> list[dict[str, float]]:
        """What is left of the steps' numbers: the newest."""
        return [self.newest] if self.newest else []


def read(path: Path, at_most: int) -> dict[str, Past]:
    """Return the newest jobs of the worker before, by id; those that had not ended have failed."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        found = msgspec.json.decode(data if len(data) <= MAX_BYTES else b"", type=list[Past])
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        log.warning("history left out", reason=type(error).__name__)
        return {}
    return {each.id: each if each.state in ENDED else _cut_off(each) for each in found[-at_most:]}


def keep(path: Path, shown: Sequence[dict[str, object]]) -> None:
    """Write what the host is shown, whole or not at all."""
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(msgspec.json.encode(shown))
        part.replace(path)
    except OSError as error:
        log.warning("history not kept", reason=error.strerror)


def _cut_off(job: Past) -> Past:
    error = TrainError(
        "train.worker-restarted",
        "the worker was started anew while this job waited or ran",
        hint="submit the job again: it resumes from its newest checkpoint, and is a new use to the owners",
    )
    return msgspec.structs.replace(job, state="failed", error=error.to_dict())
