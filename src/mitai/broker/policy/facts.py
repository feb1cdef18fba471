"""Facts: everything that a decision may look at, and how a request's parameters become numbers and columns.

Follows `docs/spec/policies.md`; the names and types are those of `schema.cedarschema`.

Invariants:

- A number is written in one way, in decimal digits and without a sign; anything else refuses the whole request.
- What a request does not declare is left out of the context: a policy that reads it fails, and so says no.

Example:
    >>> job_of({"epochs": "3", "columns": "age,sex", "method": "sft"})
    Job(numbers={'epochs': 3}, columns=('age', 'sex'))
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from mitai.broker.protocol import MAX_COUNT, Amounts
from mitai.errors import ParseError

PURPOSES = ("inference", "training", "evaluation", "export")
AMOUNTS = ("tokens", "steps", "epsilon_micros")
NUMBERS = (*AMOUNTS, "epochs", "delta_nanos", "rows", "min_group", "reports")
COLUMNS = "columns"  # further ones as columns.2, columns.3, ...: a parameter's value is short

_NUMBER = re.compile(r"0|[1-9][0-9]{0,15}")
_COLUMN = re.compile(r"[^\x00-\x1f\x7f,=\s](?:[^\x00-\x1f\x7f,=]{0,126}[^\x00-\x1f\x7f,=\s])?")
_COLUMNS_NAME = re.compile(r"columns(\.[1-9][0-9]?)?")


@dataclass(frozen=True)
class Job:
    """What a request declares in a form that policies can count and compare."""

    numbers: dict[str, int] = field(default_factory=dict)
    columns: tuple[str, ...] | None = None

    @property
    def amounts(self) -> Amounts:
        """What of it is charged to budgets."""
        return Amounts(**{name: self.numbers[name] for name in AMOUNTS if name in self.numbers})


@dataclass(frozen=True)
class ReleaseFact:
    """The signed release that a workload's measurements are of."""

    name: str
    version: int
    publisher: str


@dataclass(frozen=True)
class Facts:
    """What a decision may look at; everything but `uses`, `time`, `parameters` and `job` comes from verified evidence.

    `residency` is what auditors say about the evidence's hardware. `capsules` and `owners` are those of the whole
    request, which is allowed by all of them or not at all; `kind` and `lineage` are those of the one capsule that is
    decided about.
    """

    workload: str
    purpose: str
    time: datetime
    tee: str
    simulated: bool
    measurements: tuple[tuple[str, str], ...]
    tcb_status: str
    advisory_ids: tuple[str, ...]
    tcb_evaluation_number: int
    parameters: dict[str, str] = field(default_factory=dict)
    release: ReleaseFact | None = None
    residency: tuple[str, ...] = ()
    capsules: tuple[str, ...] = ()
    owners: tuple[str, ...] = ()
    job: Job = field(default_factory=Job)
    kind: str = ""
    lineage: tuple[str, ...] = ()


def job_of(parameters: Mapping[str, str]) -> Job:
    """Read the parameters whose names are known here.

    Raises:
        ParseError: One of them is not written as it must be, with `broker.parameter-malformed`.
    """
    numbers = {name: _number(name, parameters[name]) for name in NUMBERS if name in parameters}
    columns: list[str] | None = None
    for name, value in parameters.items():
        if "=" in name:
            raise _malformed("a parameter's name holds no '='")
        if _COLUMNS_NAME.fullmatch(name):
            columns = [*(columns or ()), *value.split(",")]
        elif name.startswith(COLUMNS):
            raise _malformed("columns are named in the parameters 'columns', 'columns.2', 'columns.3', ...")
    if columns is not None and not all(_COLUMN.fullmatch(column) for column in columns):
        raise _malformed("columns are names, separated by commas and nothing else")
    return Job(numbers, tuple(dict.fromkeys(columns)) if columns is not None else None)


def _number(name: str, text: str) -> int:
    if not _NUMBER.fullmatch(text) or int(text) > MAX_COUNT:
        raise _malformed(f"the parameter {name!r} is a number in decimal digits, at most 2^53")
    return int(text)


def _malformed(why: str) -> ParseError:
    return ParseError("broker.parameter-malformed", why)


def context_of(facts: Facts, uses: int, spent: Amounts) -> dict[str, object]:
    """Return Cedar's context; what the request does not hold is not there."""
    context: dict[str, object] = {
        "time": {"__extn": {"fn": "datetime", "arg": facts.time.strftime("%Y-%m-%dT%H:%M:%SZ")}},
        "uses": uses,
        "spent": {name: getattr(spent, name) or 0 for name in AMOUNTS},
        "tee": facts.tee,
        "simulated": facts.simulated,
        "measurements": [f"{name}={value}" for name, value in facts.measurements],
        "tcb_status": facts.tcb_status,
        "advisory_ids": list(facts.advisory_ids),
        "tcb_evaluation_number": facts.tcb_evaluation_number,
        "residency": list(facts.residency),
        "capsules": list(facts.capsules),
        "owners": list(facts.owners),
        "kind": facts.kind,
        "lineage": list(facts.lineage),
        "parameters": [f"{name}={value}" for name, value in facts.parameters.items()],
    }
    job: dict[str, object] = dict(facts.job.numbers)
    if facts.job.columns is not None:
        job[COLUMNS] = list(facts.job.columns)
    context["job"] = job
    if facts.release is not None:
        release = facts.release
        context["release"] = {"name": release.name, "version": release.version, "publisher": release.publisher}
    return context
