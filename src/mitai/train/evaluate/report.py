"""The report of an evaluation: numbers about named capsules, signed by the workload that measured them.

Format: `docs/spec/evaluation.md`, "Reports". The exact bytes travel in a DSSE envelope signed by the workload key that
the evidence beside it names; whoever has the file and an appraisal policy checks it offline.

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

from mitai.attest import Appraisal, Evidence, Policy, evidence_sha256, verify
from mitai.errors import ParseError, TrainError
from mitai.identity import Envelope, Identity, PublicKey
from mitai.ledger.entry import Digest, Id, Time, decode_canonical, encode_canonical, utc
from mitai.train.evaluate.tasks import Label

REPORT_LABEL: Final = "mitai evaluation report v1"
FILE_LABEL: Final = "mitai evaluation report file v1"
PAYLOAD_TYPE = "application/vnd.mitai.evaluation-report+json"
REPORT_NAME, MEASURED_NAME = "report.json", "measured.json"
MAX_REPORT_BYTES = 4 << 20
MAX_FILE_BYTES = 64 << 20  # evidence holds event logs and collateral
WORKLOAD = "train"
MICROS = 1_000_000

_FIXED = "exact_match|acc|acc_norm|word_perplexity|byte_perplexity|bits_per_byte|token_perplexity|rating|rated"
Metric = Annotated[str, Meta(pattern=rf"^(?:{_FIXED}|win_rate|consistent|pass@[1-9][0-9]{{0,2}})\Z")]
Micros = Annotated[int, Meta(ge=-(1 << 53) + 1, le=(1 << 53) - 1)]
Group = Annotated[str, Meta(pattern=r"^(?:[A-Za-z0-9][A-Za-z0-9 ._-]{0,63})?\Z")]  # a `Label`, or "" for the whole
Role = Literal["model", "adapter", "data", "judge"]


class Struct(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of a report: strict."""


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


class Report(Struct, frozen=True, kw_only=True):
    """What the workload signs; `created` is UTC, `YYYY-MM-DDThh:mm:ssZ`."""

    v: Literal["mitai evaluation report v1"] = REPORT_LABEL
    created: Time
    inputs: Annotated[tuple[InputRef, ...], Meta(min_length=2, max_length=64)]
    measured: Measured
    evidence_sha256: Digest

    def __post_init__(self) -> None:
        datetime.fromisoformat(self.created)  # `Time` alone would let a 30 February pass
        roles = [each.role for each in self.inputs]
        if roles.count("model") != 1 or "data" not in roles or roles.count("adapter") > 1 or roles.count("judge") > 1:
            raise ValueError("a report is about one model and some data")
        if len({each.capsule for each in self.inputs}) != len(self.inputs):
            raise ValueError("a capsule is named twice")

    def of(self, *roles: Role) -> tuple[InputRef, ...]:
        """Return the inputs with these roles, sorted."""
        return tuple(sorted((each for each in self.inputs if each.role in roles), key=lambda each: each.capsule))


class ReportFile(Struct, frozen=True, kw_only=True):
    """A report with what its check needs: `report.json` of a report capsule."""

    v: Literal["mitai evaluation report file v1"] = FILE_LABEL
    envelope: bytes  # the signed report, exact bytes
    evidence: bytes  # the signer's evidence, exact bytes


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
    report = Report(
        created=utc(now),
        measured=measured,
        inputs=tuple(inputs),
        evidence_sha256=evidence_sha256(evidence.tee, evidence.quote),
    )
    payload = encode_canonical(report, _REPORT, "train.report-malformed")
    envelope = signer.sign(payload, PAYLOAD_TYPE).encode()
    return encode_canonical(ReportFile(envelope=envelope, evidence=evidence.encode()), _FILE, "train.report-malformed")


def verify_report(data: bytes, policy: Policy) -> tuple[Report, Appraisal]:
    """Return a report, and the machine that signed it, when all of these hold.

    1. The file is well formed, and of a known version.
    2. The evidence held under `policy` when the report was made, and is of a training workload.
    3. The report is signed by the key in that evidence's claims, and well formed.
    4. It names this evidence, whose claims list exactly the report's capsules as open.

    Whether the machine's code is one that measures as this format says is for `policy` to decide: it should name it.

    Args:
        data: The content of `report.json`.
        policy: What the machine's evidence must show.

    Raises:
        MitaiError: A step failed; `step` names it for those of this module.
    """
    # 1. the file
    if len(data) > MAX_FILE_BYTES:
        raise ParseError("train.report-malformed", f"a report of {len(data)} bytes is above the limit")
    file = decode_canonical(data, _FILE, "train.report-malformed")
    evidence, envelope = Evidence.decode(file.evidence), Envelope.decode(file.envelope)
    # 2. the machine, at the time that the report states; the signature below is what makes that time the signer's
    if len(envelope.payload) > MAX_REPORT_BYTES:
        raise ParseError("train.report-malformed", "a report is above the limit")
    stated = decode_canonical(envelope.payload, _REPORT, "train.report-malformed")
    now = datetime.fromisoformat(stated.created)
    appraisal = verify(evidence, policy, nonce=evidence.nonce, now=now)
    if appraisal.workload != WORKLOAD:
        raise TrainError(
            "train.report-workload", f"the machine runs {appraisal.workload!r}, which makes no reports", step="machine"
        )
    # 3. the signature
    if not appraisal.claims.receipt_key:
        raise TrainError("train.report-unsigned", "the machine's claims name no key that signs", step="signature")
    envelope.open(PAYLOAD_TYPE, PublicKey(appraisal.claims.receipt_key))
    # 4. the evidence
    if stated.evidence_sha256 != appraisal.evidence_sha256:
        raise TrainError(
            "train.report-evidence", "the report names other evidence than its file holds", step="evidence"
        )
    opened = {(capsule.id, capsule.manifest_sha256) for capsule in appraisal.claims.capsules}
    if opened != {(each.capsule, each.manifest_sha256) for each in stated.inputs}:
        raise TrainError(
            "train.report-inputs", "the machine had opened other capsules than the report names", step="inputs"
        )
    return stated, appraisal


_MEASURED = msgspec.json.Decoder(Measured)
_REPORT = msgspec.json.Decoder(Report)
_FILE = msgspec.json.Decoder(ReportFile)
