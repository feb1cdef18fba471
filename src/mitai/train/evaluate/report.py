"""The report of an evaluation: numbers about named capsules, signed by the workload that measured them.

Format: `docs/spec/evaluation.md`, "Reports"; how it is signed and checked is in `mitai.train.evaluate.signed`.

Invariants:

- Only what is here leaves: capsule ids and digests, the description's digest, and numbers under fixed names for groups
  that the description lists. There is no field for text.
- Numbers are integers in millionths, each with how many records it speaks of and its interval.
- There is one encoding of a report: what does not encode back to the same bytes is refused.

Example:
    >>> report, appraisal = verify_report(path.read_bytes(), policy)  # doctest: +SKIP
    >>> report.measured.results[0].numbers[0].metric  # doctest: +SKIP
    'acc'
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from mitai.attest import Appraisal, Evidence, Policy
from mitai.identity import Identity
from mitai.ledger.entry import Digest, Id, decode_canonical, encode_canonical, utc
from mitai.train.evaluate.signed import File, Kind, Stated, Struct, digest_of
from mitai.train.evaluate.tasks import Label

REPORT_LABEL: Final = "mitai evaluation report v1"
FILE_LABEL: Final = "mitai evaluation report file v1"
PAYLOAD_TYPE = "application/vnd.mitai.evaluation-report+json"
REPORT_NAME, MEASURED_NAME = "report.json", "measured.json"
MICROS = 1_000_000

_FIXED = "exact_match|acc|acc_norm|word_perplexity|byte_perplexity|bits_per_byte|token_perplexity|rating|rated"
Metric = Annotated[str, Meta(pattern=rf"^(?:{_FIXED}|win_rate|consistent|pass@[1-9][0-9]{{0,2}})\Z")]
Micros = Annotated[int, Meta(ge=-(1 << 53) + 1, le=(1 << 53) - 1)]
Group = Annotated[str, Meta(pattern=r"^(?:[A-Za-z0-9][A-Za-z0-9 ._-]{0,63})?\Z")]  # a `Label`, or "" for the whole
Role = Literal["model", "adapter", "data", "judge"]


class Number(Struct, frozen=True, kw_only=True):
    """One number: over the whole ("") or a group, of `n` records, with a 95 % interval; in millionths."""

    metric: Metric
    group: Group
    n: Annotated[int, Meta(ge=1, le=(1 << 53) - 1)]
    value: Micros
    low: Micros
    high: Micros

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError("an interval ends before it begins")


class Result(Struct, frozen=True, kw_only=True):
    """What one task gave; a number that may not leave is not there."""

    task: Label
    numbers: Annotated[tuple[Number, ...], Meta(max_length=1024)]

    def __post_init__(self) -> None:
        if len({(each.metric, each.group) for each in self.numbers}) != len(self.numbers):
            raise ValueError("a number is given twice")


class Measured(Struct, frozen=True, kw_only=True):
    """All results of an evaluation, before they are signed."""

    evaluation_sha256: Digest  # of the description: tasks, groups, seed, judge (`Evaluate.sha256`)
    min_group: Annotated[int, Meta(ge=1, le=1 << 31)]
    results: Annotated[tuple[Result, ...], Meta(min_length=1, max_length=16)]

    def __post_init__(self) -> None:
        if len({each.task for each in self.results}) != len(self.results):
            raise ValueError("a task is reported twice")
        if any(number.n < self.min_group for result in self.results for number in result.numbers):
            raise ValueError("a number speaks of fewer records than may be told of")

    def encode(self) -> bytes:
        """Return the canonical bytes; raise `ParseError` when a field is out of its bounds."""
        return encode_canonical(self, _MEASURED, "train.report-malformed")

    @staticmethod
    def decode(data: bytes) -> Measured:
        """Parse what `encode` returned; raise `ParseError` on anything else."""
        return decode_canonical(data, _MEASURED, "train.report-malformed")


class InputRef(Struct, frozen=True, kw_only=True):
    """A capsule that was opened, and as what. The manifest's digest commits to its name without telling it."""

    role: Role
    capsule: Id
    manifest_sha256: Digest


class Report(Stated, frozen=True, kw_only=True):
    """What the workload signs."""

    v: Literal["mitai evaluation report v1"] = REPORT_LABEL
    inputs: Annotated[tuple[InputRef, ...], Meta(min_length=2, max_length=64)]
    measured: Measured

    def __post_init__(self) -> None:
        super().__post_init__()
        roles = [each.role for each in self.inputs]
        if roles.count("model") != 1 or "data" not in roles or roles.count("adapter") > 1 or roles.count("judge") > 1:
            raise ValueError("a report is about one model and some data")
        if len({each.capsule for each in self.inputs}) != len(self.inputs):
            raise ValueError("a capsule is named twice")

    def of(self, *roles: Role) -> tuple[InputRef, ...]:
        """Return the inputs with these roles, sorted."""
        return tuple(sorted((each for each in self.inputs if each.role in roles), key=lambda each: each.capsule))

    def opened(self) -> set[tuple[str, str]]:
        """Return every capsule that was opened, and its manifest's digest."""
        return {(each.capsule, each.manifest_sha256) for each in self.inputs}


class ReportFile(File, frozen=True, kw_only=True):
    """A report with what its check needs: `report.json` of a report capsule."""

    v: Literal["mitai evaluation report file v1"] = FILE_LABEL


REPORT = Kind(ReportFile, PAYLOAD_TYPE, Report)


def sign_report(
    measured: Measured, inputs: Sequence[InputRef], *, signer: Identity, evidence: Evidence, now: datetime
) -> bytes:
    """Return the file of a report.

    Args:
        measured: What was measured.
        inputs: Every capsule that was opened.
        signer: The workload key, whose public half is in the evidence's claims.
        evidence: Made with that key in its claims.
        now: The time that the report states.

    Raises:
        ParseError: A field is out of its bounds.
    """
    report = Report(created=utc(now), measured=measured, inputs=tuple(inputs), evidence_sha256=digest_of(evidence))
    return REPORT.sign(report, signer=signer, evidence=evidence)


def verify_report(data: bytes, policy: Policy) -> tuple[Report, Appraisal]:
    """Return a report, and the machine that signed it, when all steps of `Kind.verify` hold.

    Args:
        data: The content of `report.json`.
        policy: What the machine's evidence must show.

    Raises:
        MitaiError: A step failed.
    """
    return REPORT.verify(data, policy)


_MEASURED = msgspec.json.Decoder(Measured)
