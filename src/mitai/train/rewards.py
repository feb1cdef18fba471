"""Verifiable rewards: named functions of an answer and its record, part of the measured code.

A job names the rewards that it trains towards (`docs/spec/training-methods.md`, "Rewards"). They are data: a tag,
bounds on every value, and one method. A rule that they cannot express is code that an owner brings in a data capsule;
that runs in the sandbox only (`mitai.train.sandbox`), never here.

Invariants:

- A score is a finite number from 0 to 1, and a function of the answer and the record alone.
- The time of a score grows linearly with the answer: no regular expression comes from a job, so none can explode.
- What can't be read as asked scores 0; an answer is a model's output and must not be able to stop a run.

Example:
    >>> Numeric(after="answer:").score("Let me see. 6 x 7, so the answer: 42.", {"answer": 42})
    1.0
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Union

import msgspec
from msgspec import Meta

Row = Mapping[str, Any]
Weight = Annotated[float, Meta(gt=0, le=100)]
Column = Annotated[str, Meta(min_length=1, max_length=64)]
Marker = Annotated[str, Meta(max_length=64)]
MAX_JSON_CHARS = 1 << 20
# A sign counts where no digit or letter stands before it, so that "10-3" ends in 3; 400 digits are enough for anyone.
_NUMBER = re.compile(r"(?:(?<![0-9A-Za-z])[-+])?[0-9][0-9,]{0,399}(?:\.[0-9]{1,400})?")


class Reward(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="name", tag=str.lower):
    """What all rewards have in common: the weight in the sum, and the columns that they read."""

    weight: Weight = 1.0

    def columns(self) -> tuple[str, ...]:
        """Return the columns of a record that this reward reads."""
        return ()

    def score(self, answer: str, row: Row) -> float:
        """Return the score of an answer, 0 to 1."""
        raise NotImplementedError


class _Compared(Reward, frozen=True):
    """A reward that compares the answer, or what stands in it between two markers, with a column.

    With `after`, the answer is what follows its last occurrence; with `before`, what precedes the first one from there.
    """

    column: Column = "answer"
    after: Marker = ""
    before: Marker = ""

    def columns(self) -> tuple[str, ...]:
        """Return the one column."""
        return (self.column,)

    def _answer(self, text: str) -> str | None:
        """Return the marked part of an answer; None where a marker is missing."""
        if self.after:
            _, found, text = text.rpartition(self.after)
            if not found:
                return None
        if self.before:
            text, found, _ = text.partition(self.before)
            if not found:
                return None
        return text


class Exact(_Compared, frozen=True):
    """1 where the answer is the column's text, spaces at both ends aside."""

    ignore_case: bool = False

    def score(self, answer: str, row: Row) -> float:
        """Return 0 or 1."""
        given, wanted = self._answer(answer), str(row[self.column])
        if given is None:
            return 0.0
        if self.ignore_case:
            given, wanted = given.casefold(), wanted.casefold()
        return float(given.strip() == wanted.strip())


class Numeric(_Compared, frozen=True):
    """1 where the last number of the answer is the column's number, within a relative tolerance."""

    tolerance: Annotated[float, Meta(ge=0, lt=1)] = 0.0

    def score(self, answer: str, row: Row) -> float:
        """Return 0 or 1."""
        given, wanted = number(self._answer(answer) or ""), number(str(row[self.column]))
        if given is None or wanted is None:
            return 0.0
        return float(abs(given - wanted) <= abs(wanted) * Decimal(str(self.tolerance)))


class Format(Reward, frozen=True):
    """1 where the answer follows a template: literal parts, with `{}` for any text between them.

    `<think>{}</think><answer>{}</answer>`: begins with `<think>`, ends with `</answer>`, and holds the other parts in
    order. Spaces at both ends of the answer do not count.
    """

    template: Annotated[str, Meta(min_length=1, max_length=256)]

    def score(self, answer: str, row: Row) -> float:  # noqa: ARG002 - a format needs no record
        """Return 0 or 1."""
        return float(_follows(answer.strip(), self.template.split("{}")))


class Length(Reward, frozen=True):
    """1 for an answer of `target` characters, falling linearly to 0 at none and at twice as many."""

    target: Annotated[int, Meta(ge=1, le=1_000_000)]

    def score(self, answer: str, row: Row) -> float:  # noqa: ARG002 - a length needs no record
        """Return 0 to 1."""
        return max(0.0, 1.0 - abs(len(answer) - self.target) / self.target)


class Json(Reward, frozen=True):
    """1 where the answer is one JSON object that has all of `keys`."""

    keys: Annotated[tuple[Column, ...], Meta(max_length=64)] = ()

    def score(self, answer: str, row: Row) -> float:  # noqa: ARG002 - a syntax needs no record
        """Return 0 or 1."""
        if len(answer) > MAX_JSON_CHARS:
            return 0.0
        try:
            value = msgspec.json.decode(answer.strip(), type=dict[str, msgspec.Raw])
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return 0.0
        return float(all(key in value for key in self.keys))


class Code(Reward, frozen=True):
    """What a function that an owner brought says; it runs in the sandbox, pinned by its digest.

    `capsule` is one of the job's data capsules, `file` a file of it: Python that defines
    `reward(answer: str, record: dict) -> float`. What it returns is cut to 0 … 1.
    """

    capsule: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")]
    file: Annotated[str, Meta(min_length=1, max_length=255)]
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]


AnyReward = Union[Exact, Numeric, Format, Length, Json, Code]  # noqa: UP007 - msgspec reads the union at run time


def number(text: str) -> Decimal | None:
    """Return the last number of a text, thousands separated by commas or not; None where there is none."""
    found = _NUMBER.findall(text)
    if not found:
        return None
    try:
        return Decimal(found[-1].replace(",", ""))
    except InvalidOperation:
        return None


def _follows(text: str, parts: list[str]) -> bool:
    """Whether a text is the parts in order with anything between: the first fit of each part is the best one."""
    first, *middle = parts
    if not middle:
        return text == first
    last = middle.pop()
    if not text.startswith(first) or not text.endswith(last) or len(text) < len(first) + len(last):
        return False
    at, end = len(first), len(text) - len(last)
    for part in middle:
        at = text.find(part, at, end)
        if at < 0:
            return False
        at += len(part)
    return True
