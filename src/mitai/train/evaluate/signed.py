"""Signed documents of evaluations: who has the file and an appraisal policy checks it offline.

Format: `docs/spec/evaluation.md`, "Reports". The exact bytes travel in a DSSE envelope signed by the workload key that
the evidence beside it names. A report and a leaderboard differ in their labels and in what they state.

Invariants:

- A document is of one kind: file label and payload type of another are refused.
- There is one encoding of it: what does not encode back to the same bytes is refused.
- It names exactly the capsules that the machine had opened.

Example:
    >>> report, appraisal = REPORT.verify(path.read_bytes(), policy)  # doctest: +SKIP
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final, Generic, TypeVar

import msgspec

from mitai.attest import Appraisal, Evidence, Policy, evidence_sha256, verify
from mitai.errors import ParseError, TrainError
from mitai.identity import Envelope, Identity, PublicKey
from mitai.ledger.entry import Digest, Time, decode_canonical, encode_canonical

MAX_STATED_BYTES = 4 << 20
MAX_FILE_BYTES = 64 << 20  # evidence holds event logs and collateral
WORKLOAD: Final = "train"
_CODE: Final = "train.report-malformed"


class Struct(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of a document: strict."""


class File(Struct, frozen=True, kw_only=True):
    """A document with what its check needs."""

    envelope: bytes  # what is signed, exact bytes
    evidence: bytes  # the signer's evidence, exact bytes


class Stated(Struct, frozen=True, kw_only=True):
    """What a document of any kind states; `created` is UTC, `YYYY-MM-DDThh:mm:ssZ`."""

    created: Time
    evidence_sha256: Digest  # of who signs

    def __post_init__(self) -> None:
        datetime.fromisoformat(self.created)  # `Time` alone would let a 30 February pass

    def opened(self) -> set[tuple[str, str]]:
        """Return the capsules that it is made of, and the digests of their manifests."""
        raise NotImplementedError


S = TypeVar("S", bound=Stated)


@dataclass(frozen=True)
class Kind(Generic[S]):
    """A kind of document.

    Attributes:
        file: The struct of its file; its `v` names the kind and version.
        payload_type: Of the envelope.
        stated: The struct of what is signed.
    """

    file: type[File]
    payload_type: str
    stated: type[S]

    def sign(self, stated: S, *, signer: Identity, evidence: Evidence) -> bytes:
        """Return the file of a document; raise `ParseError` when a field is out of its bounds.

        Args:
            stated: What is signed.
            signer: The workload key, whose public half is in the evidence's claims.
            evidence: Made with that key in its claims.
        """
        payload = encode_canonical(stated, msgspec.json.Decoder(self.stated), _CODE)
        envelope = signer.sign(payload, self.payload_type).encode()
        file = self.file(envelope=envelope, evidence=evidence.encode())
        return encode_canonical(file, msgspec.json.Decoder(self.file), _CODE)

    def read(self, data: bytes) -> File:
        """Parse a file, without a word on whether it is true; raise `ParseError` where it is none of this kind."""
        if len(data) > MAX_FILE_BYTES:
            raise ParseError("train.report-malformed", f"a report of {len(data)} bytes is above the limit")
        return decode_canonical(data, msgspec.json.Decoder(self.file), _CODE)

    def verify(self, data: bytes, policy: Policy) -> tuple[S, Appraisal]:
        """Return what a document states, and the machine that signed it, when all of these hold.

        1. The file is well formed, and of a known version.
        2. The evidence held under `policy` when the document was made, and is of a training workload.
        3. It is signed by the key in that evidence's claims, and well formed.
        4. It names this evidence, whose claims list exactly its capsules as open.

        Whether the machine's code is one that measures as this format says is for `policy` to say: it should name it.

        Raises:
            MitaiError: A step failed; `step` names it for those of this module.
        """
        # 1. the file
        file = self.read(data)
        evidence, envelope = Evidence.decode(file.evidence), Envelope.decode(file.envelope)
        # 2. the machine, at the time that is stated; the signature below is what makes that time the signer's
        if len(envelope.payload) > MAX_STATED_BYTES:
            raise ParseError("train.report-malformed", "a report is above the limit")
        stated = decode_canonical(envelope.payload, msgspec.json.Decoder(self.stated), _CODE)
        now = datetime.fromisoformat(stated.created)
        appraisal = verify(evidence, policy, nonce=evidence.nonce, now=now)
        if appraisal.workload != WORKLOAD:
            raise TrainError(
                "train.report-workload",
                f"the machine runs {appraisal.workload!r}, which makes no reports",
                step="machine",
            )
        # 3. the signature
        if not appraisal.claims.receipt_key:
            raise TrainError("train.report-unsigned", "the machine's claims name no key that signs", step="signature")
        envelope.open(self.payload_type, PublicKey(appraisal.claims.receipt_key))
        # 4. the evidence
        if stated.evidence_sha256 != appraisal.evidence_sha256:
            raise TrainError(
                "train.report-evidence", "the report names other evidence than its file holds", step="evidence"
            )
        if {(capsule.id, capsule.manifest_sha256) for capsule in appraisal.claims.capsules} != stated.opened():
            raise TrainError(
                "train.report-inputs", "the machine had opened other capsules than the report names", step="inputs"
            )
        return stated, appraisal


class _Labelled(msgspec.Struct):
    v: str = ""


def label(data: bytes) -> str:
    """Return which kind of file a stranger's bytes say they are: `v`, or nothing."""
    try:
        return msgspec.json.decode(data, type=_Labelled).v
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return ""


def digest_of(evidence: Evidence) -> str:
    """Return the digest by which documents name their evidence."""
    return evidence_sha256(evidence.tee, evidence.quote)
