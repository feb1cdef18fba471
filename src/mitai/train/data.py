"""Records out of data capsules: JSON lines with the column names that trl knows, in memory, up to a limit.

Every file of a capsule whose name ends in `.jsonl` is read, in the order of names; each line is one JSON object. What
the columns mean is trl's: `text`; `messages`; `prompt` and `completion`; `prompt`, `chosen` and `rejected`; further
columns (an expected answer, tests) are for the method that reads them.

Invariants:

- All records have the same columns, each one type throughout; a column is text, a number, a truth value or messages.
- Only the columns and rows that the job states are kept; a stated column that is not there is an error.
- Nothing is written, and no error says what a record holds: it names the file's number and the line.

Example:
    >>> records = read([capsule], columns=("messages",), rows=1000)
    >>> len(records), records.columns
    (1000, ('messages',))
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from mitai.capsule.sources import FileSource
from mitai.errors import TrainError

MAX_FILE_BYTES = 1 << 30
MAX_LINE_BYTES = 16 << 20
MAX_ROWS = 10_000_000
MAX_COLUMNS = 64


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str


Cell = str | int | float | bool | list[Message]


@dataclass(frozen=True)
class Records:
    """Rows of equal columns; a representation says how many, never what."""

    columns: tuple[str, ...]
    rows: list[dict[str, Cell]] = field(repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    def split(self, held_out: int) -> tuple[Records, Records]:
        """Return all but the last `held_out` rows, and those."""
        if held_out >= len(self.rows):
            raise TrainError("train.too-few-rows", f"{len(self)} rows are too few to hold out {held_out}")
        cut = len(self.rows) - held_out
        return Records(self.columns, self.rows[:cut]), Records(self.columns, self.rows[cut:])

    def plain(self) -> list[dict[str, object]]:
        """Return the rows with messages as dictionaries, as `datasets` takes them."""
        return [{name: msgspec.to_builtins(value) for name, value in row.items()} for row in self.rows]


def read(sources: Sequence[FileSource], *, columns: Sequence[str] | None = None, rows: int | None = None) -> Records:
    """Read the records of several data capsules, one after the other.

    Args:
        sources: The opened capsules.
        columns: The columns to keep; all, where not given.
        rows: The first so many rows of all together; all, where not given.

    Raises:
        TrainError: A file is no JSON lines, columns differ, or a limit is passed.
    """
    found: list[dict[str, Cell]] = []
    types: dict[str, type] = {}
    limit = MAX_ROWS if rows is None else rows
    for where, line in _lines(sources):
        if len(found) == limit:
            if rows is None:
                raise TrainError("train.too-many-rows", f"there are more than {MAX_ROWS} rows")
            break
        row = _row(line, where, columns)
        types = types or {name: type(value) for name, value in row.items()}
        if {name: type(value) for name, value in row.items()} != types:
            raise _malformed(where, "its columns, or their types, differ from those of the first row")
        found.append(row)
    if not found:
        raise TrainError("train.no-rows", "the data capsules hold no records", hint="records are lines of *.jsonl")
    return Records(tuple(types), found)


def _lines(sources: Sequence[FileSource]) -> Iterator[tuple[str, memoryview]]:
    """Yield each line that is not blank, with its place for messages."""
    for number, source in enumerate(sources, 1):
        for name in source.names():
            if not name.endswith(".jsonl"):
                continue
            if source.size(name) > MAX_FILE_BYTES:
                raise TrainError("train.data-too-large", f"a file of data set {number} has over {MAX_FILE_BYTES} bytes")
            content, start, count = source.read(name), 0, 0
            while start < len(content):
                end = content.find(b"\n", start)
                end = len(content) if end < 0 else end
                count += 1
                if content[start:end].strip():
                    yield f"data set {number}, line {count} of a file", memoryview(content)[start:end]
                start = end + 1


def _row(line: memoryview, where: str, columns: Sequence[str] | None) -> dict[str, Cell]:
    if len(line) > MAX_LINE_BYTES:
        raise _malformed(where, f"it has more than {MAX_LINE_BYTES} bytes")
    try:
        raw = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
        if len(raw) > MAX_COLUMNS or not raw:
            raise _malformed(where, f"a record has 1 to {MAX_COLUMNS} columns")
        wanted = sorted(raw) if columns is None else columns
        return {name: msgspec.json.decode(raw[name], type=Cell) for name in wanted}
    except KeyError:
        raise _malformed(where, "a column that the job states is missing") from None
    except (msgspec.MsgspecError, UnicodeError, RecursionError, ValueError):
        raise _malformed(where, "it is no JSON object of texts, numbers, truth values and messages") from None


def _malformed(where: str, why: str) -> TrainError:
    return TrainError("train.data-malformed", f"{where}: {why}", hint="see docs/spec/training.md, Records")
