r"""A request to try policies on, as a TOML table: what a release would show the broker.

Follows `docs/spec/policies.md`, "Request files".

Invariants:

- Unknown keys and wrong types are refused; parameters are read as the broker reads them.

Example:
    >>> read('purpose = "training"\\nworkload = "train"\\n[parameters]\\nepochs = 3')
    Request(workload='train', purpose='training', ...)
"""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from mitai.broker.policy.engine import CedarPolicy, Verdict
from mitai.broker.policy.facts import Facts, ReleaseFact, job_of
from mitai.broker.protocol import MAX_COUNT, Amounts
from mitai.errors import ParseError

MAX_FILE_CHARS = 1 << 20
Natural = Annotated[int, Meta(ge=0, le=MAX_COUNT)]
T = TypeVar("T")


class Release(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The signed release that the workload is of."""

    name: str
    version: Natural
    publisher: str


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the broker would know; by default an up-to-date TDX machine that declares nothing."""

    workload: str = "serve"
    purpose: str = "inference"
    capsule: str = "capsule"
    capsules: tuple[str, ...] = ()  # of the whole request; by default this one
    owners: tuple[str, ...] = ()
    kind: str = "model"
    lineage: tuple[str, ...] = ()
    time: datetime | None = None  # by default now
    uses: Natural = 0
    spent: Amounts = Amounts()
    tee: str = "tdx"
    simulated: bool = False
    measurements: dict[str, str] = {}
    tcb_status: str = "UpToDate"
    advisory_ids: tuple[str, ...] = ()
    tcb_evaluation_number: Natural = 0
    release: Release | None = None
    residency: tuple[str, ...] = ()
    parameters: dict[str, str | int] = {}

    def facts(self, now: datetime) -> Facts:
        """Return the facts; raise `ParseError` when a parameter is malformed."""
        parameters = {name: str(value) for name, value in self.parameters.items()}
        named = self.release
        return Facts(
            workload=self.workload,
            purpose=self.purpose,
            time=self.moment(now),
            tee=self.tee,
            simulated=self.simulated,
            measurements=tuple(self.measurements.items()),
            tcb_status=self.tcb_status,
            advisory_ids=self.advisory_ids,
            tcb_evaluation_number=self.tcb_evaluation_number,
            parameters=parameters,
            release=ReleaseFact(named.name, named.version, named.publisher) if named else None,
            residency=self.residency,
            capsules=self.capsules or (self.capsule,),
            owners=self.owners,
            job=job_of(parameters),
            kind=self.kind,
            lineage=self.lineage,
        )

    def moment(self, now: datetime) -> datetime:
        """Return the request's time, in UTC; one without a zone is UTC."""
        time = self.time or now
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)

    def ask(self, policy: CedarPolicy, now: datetime) -> Verdict:
        """Return what a policy decides; a malformed parameter is a no, as it is for the broker."""
        try:
            return policy.verdict(self.facts(now), self.capsule, self.uses, self.spent)
        except ParseError as error:
            return Verdict(allowed=False, errors=(error.message,))


class Case(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A request with what a policy should decide; `reason`, where given, is part of the explanation."""

    name: str
    allow: bool
    reason: str = ""
    request: dict[str, object] = {}


class Cases(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A file of cases; `request` is what all have in common."""

    cases: Annotated[tuple[Case, ...], Meta(min_length=1, max_length=10_000)] = msgspec.field(name="case")
    request: dict[str, object] = {}

    def all(self) -> list[tuple[Case, Request]]:
        """Return each case with its whole request; a table in it adds to that of the common one."""
        return [(case, convert(_merged(self.request, case.request), Request)) for case in self.cases]


def read(text: str) -> Request:
    """Read a request file."""
    return convert(_toml(text), Request)


def read_cases(text: str) -> Cases:
    """Read a file of cases."""
    return convert(_toml(text), Cases)


def convert(value: object, kind: type[T]) -> T:
    """Return what was read as `kind`; raise `ParseError` on unknown keys and wrong types."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ParseError("broker.request-malformed", f"this is no request to try a policy on: {error}") from None


def _toml(text: str) -> object:
    if len(text) > MAX_FILE_CHARS:
        raise ParseError("broker.request-malformed", f"a file of requests has at most {MAX_FILE_CHARS} characters")
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ParseError("broker.request-malformed", f"this is not TOML: {error}") from None


def _merged(common: dict[str, object], own: dict[str, object]) -> dict[str, object]:
    merged = {**common, **own}
    for name in common.keys() & own.keys():
        first, second = common[name], own[name]
        if isinstance(first, dict) and isinstance(second, dict):
            merged[name] = {**first, **second}
    return merged
