"""The transcript: what a training run says about itself, signed by the workload's key.

`docs/spec/transcript.md`, "Transcript". Canonical JSON (RFC 8785) in a DSSE envelope.

Invariants:

- There is one encoding; unknown versions and members, other spellings and anything above its bound are refused.
- Segments follow each other without a gap: each begins where the one before it ended, so a chain can't be broken.
- It holds digests, counts, settings and losses: no record, no weight, no key.

Example:
    >>> transcript = Transcript.open(envelope, worker_key)  # doctest: +SKIP
    >>> transcript.steps  # doctest: +SKIP
    200
"""

from __future__ import annotations

import math
from datetime import datetime
from hashlib import sha256
from itertools import pairwise
from typing import Annotated, Final, Literal

import msgspec

from mitai.errors import ParseError, TrainError
from mitai.identity import Envelope, Identity, PublicKey
from mitai.ledger.entry import Count, Digest, Id, Name, Time, decode_canonical, encode_canonical
from mitai.train.transcript.commitment import MAX_COLUMNS, Column, MembershipProof, Record

TRANSCRIPT_LABEL: Final = "mitai training transcript v1"
PAYLOAD_TYPE: Final = "application/vnd.mitai.training-transcript+json"
MAX_TRANSCRIPT_BYTES = 8 << 20
MAX_SEGMENTS = 10_000

Positive = Annotated[int, msgspec.Meta(ge=1, le=(1 << 53) - 1)]
Text = Annotated[str, msgspec.Meta(max_length=1024)]
Table = Annotated[dict[Name, Text], msgspec.Meta(max_length=256)]


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Frozen, and nothing unknown in it."""


class Asset(_Part, frozen=True, kw_only=True):
    """A sealed input, by id and by its signed manifest."""

    capsule: Id
    manifest_sha256: Digest


class Data(_Part, frozen=True, kw_only=True):
    """The records that the run trained on, in their order."""

    columns: Annotated[tuple[Column, ...], msgspec.Meta(min_length=1, max_length=MAX_COLUMNS)]
    records: Count
    root: Digest  # of the tree in `commitment`


class Boundary(_Part, frozen=True, kw_only=True):
    """The state of the training between two steps."""

    step: Count  # optimizer steps before it
    weights_sha256: Digest  # trainable weights
    state_sha256: Digest  # weights, optimizer and random generators


class Segment(_Part, frozen=True, kw_only=True):
    """Some steps, and the state that they led to."""

    batches_mac: Digest  # over what entered the model, in order, under the run's secret
    loss: float | None  # mean over its steps; null where it is not finite
    end: Boundary

    def __post_init__(self) -> None:
        if self.loss is not None and not math.isfinite(self.loss):
            raise ValueError("a loss that is not finite is written as null")


class Declared(_Part, frozen=True, kw_only=True):
    """What a recorder is told about its run."""

    job: Name
    job_sha256: Digest
    method: Id
    inputs: Annotated[
        tuple[Asset, ...], msgspec.Meta(min_length=1, max_length=64)
    ]  # all capsules that the job opened, the model first
    data: Data
    seed: Count


class Transcript(Declared, frozen=True, kw_only=True):
    """One run, from the base model to the outputs."""

    v: Literal["mitai training transcript v1"] = TRANSCRIPT_LABEL
    settings: Table  # hyperparameters, as the trainer had them
    software: Table  # what a bit-equal re-execution needs to be the same
    started: Time
    finished: Time
    rows: Positive  # samples after tokenisation and packing
    passes: Count  # how often all of them were read
    start: Boundary
    segments: Annotated[tuple[Segment, ...], msgspec.Meta(min_length=1, max_length=MAX_SEGMENTS)]
    published: Count  # which boundary's weights are in the outputs: 0 is the start

    def __post_init__(self) -> None:
        datetime.fromisoformat(self.started)  # `Time` alone would let a 30 February pass
        datetime.fromisoformat(self.finished)
        steps = [boundary.step for boundary in self.boundaries]
        if steps[0] != 0 or any(later <= earlier for earlier, later in pairwise(steps)):
            raise ValueError("steps count upwards from zero")
        if self.published >= len(steps):
            raise ValueError("the published weights are those of a boundary")

    @property
    def boundaries(self) -> tuple[Boundary, ...]:
        """The start and the end of each segment: segment `i` lies between boundaries `i` and `i + 1`."""
        return (self.start, *(segment.end for segment in self.segments))

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.segments[-1].end.step

    def encode(self) -> bytes:
        """Return canonical JSON; raise `ParseError` when a field is out of its bounds."""
        return encode_canonical(self, _TRANSCRIPT, "train.transcript-malformed")

    @staticmethod
    def decode(data: bytes) -> Transcript:
        """Parse a transcript; raise `ParseError` on anything but its one canonical encoding."""
        if len(data) > MAX_TRANSCRIPT_BYTES:
            raise ParseError("train.transcript-malformed", f"a transcript of {len(data)} bytes is above the limit")
        return decode_canonical(data, _TRANSCRIPT, "train.transcript-malformed")

    def sign(self, key: Identity) -> bytes:
        """Return the signed envelope."""
        return key.sign(self.encode(), PAYLOAD_TYPE).encode()

    @staticmethod
    def open(envelope: bytes, signer: PublicKey) -> Transcript:
        """Return the transcript that `signer` signed; raise `MitaiError` otherwise."""
        if len(envelope) > 2 * MAX_TRANSCRIPT_BYTES:
            raise ParseError("train.transcript-malformed", f"an envelope of {len(envelope)} bytes is above the limit")
        return Transcript.decode(Envelope.decode(envelope).open(PAYLOAD_TYPE, signer))


_TRANSCRIPT = msgspec.json.Decoder(Transcript)


def check_membership(proof: MembershipProof, envelope: bytes, signer: PublicKey, document: Record) -> Transcript:
    """Return the transcript of the run that had the document among its data; raise `MitaiError` if that isn't proven.

    1. The workload's key signed the transcript, and the proof is about it.
    2. The proof holds for the document under the transcript's root.
    """
    # 1. transcript
    transcript = Transcript.open(envelope, signer)
    if proof.transcript_sha256 != sha256(envelope).hexdigest():
        raise TrainError("train.proof-transcript", "the proof is about another transcript", step="transcript")
    # 2. proof
    data = transcript.data
    proof.check(bytes.fromhex(data.root), data.records, data.columns, document)
    return transcript
