"""Lineage: the signed statement with which a workload says what it made a capsule of, how, and what it is itself.

An in-toto statement (v1) with a SLSA provenance predicate (v1) in canonical JSON (RFC 8785), in a DSSE envelope that
the workload's receipt key signs. Follows `docs/spec/derived.md`, "Statement".

Invariants:

- There is one spelling of a statement: unknown members, versions and anything that does not encode back to the same
  bytes are refused.
- Inputs are listed by id in ascending order, each once, each with its manifest's digest.
- A statement names its broker, and holds digests, names and declared parameters; never content or keys.

Example:
    >>> statement = Statement.build(capsule, manifest_sha256, inputs, declared, origin, broker=audience, kind="adapter")
    >>> Statement.open(statement.sign(key), key.public) == statement
    True
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from mitai.broker.protocol import CapsuleId, Hex32, Origin, Parameters, Purpose, sha256_hex
from mitai.identity import Envelope, Identity, PublicKey
from mitai.ledger.entry import Time, decode_canonical, encode_canonical, utc

PAYLOAD_TYPE = "application/vnd.in-toto+json"
BUILDER = "https://mitai.dev/workload/"
MAX_PARENTS = 64
MAX_BYPRODUCTS = 32
_MALFORMED = "broker.statement-malformed"

Word = Annotated[str, Meta(pattern="^[A-Za-z0-9._-]{1,64}\\Z")]
Measured = Annotated[str, Meta(pattern="^[A-Za-z0-9._:-]{1,256}\\Z")]
Kind = Annotated[str, Meta(pattern="^[a-z][a-z0-9-]{0,31}\\Z")]


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """A part of a statement."""


class Digest(_Part, frozen=True):
    """in-toto's digest set, of one algorithm."""

    sha256: Hex32


class Named(_Part, frozen=True):
    """A capsule by id and manifest digest."""

    name: CapsuleId
    digest: Digest


class Byproduct(_Part, frozen=True):
    """Something else that was made, such as a training transcript."""

    name: Word
    digest: Digest


class Declared(_Part, frozen=True):
    """What the workload declared when it asked for its inputs."""

    purpose: Purpose
    parameters: Parameters


class Internal(_Part, frozen=True, rename=None):
    """What the workload itself adds: its broker, the kind of what it made, the evidence that it was given keys for."""

    broker: Hex32
    kind: Kind
    evidence_sha256: Hex32


class Definition(_Part, frozen=True):
    """SLSA's build definition."""

    build_type: Literal["https://mitai.dev/derivation/v1"]
    external_parameters: Declared
    internal_parameters: Internal
    resolved_dependencies: Annotated[tuple[Named, ...], Meta(min_length=1, max_length=MAX_PARENTS)]

    def __post_init__(self) -> None:
        names = [each.name for each in self.resolved_dependencies]
        if names != sorted(set(names)):
            raise ValueError("inputs come in ascending order, each once")


class Builder(_Part, frozen=True):
    """The measured workload; `version` holds its registers."""

    id: Annotated[str, Meta(pattern="^https://mitai\\.dev/workload/[a-z0-9._-]{1,64}\\Z")]
    version: Annotated[dict[Word, Measured], Meta(min_length=1, max_length=64)]


class Metadata(_Part, frozen=True):
    """When it was made, as the workload's clock says."""

    finished_on: Time

    def __post_init__(self) -> None:
        datetime.fromisoformat(self.finished_on)  # `Time` alone would let a 30 February pass


class Run(_Part, frozen=True):
    """SLSA's run details."""

    builder: Builder
    metadata: Metadata
    byproducts: Annotated[tuple[Byproduct, ...], Meta(max_length=MAX_BYPRODUCTS)]

    def __post_init__(self) -> None:
        names = [each.name for each in self.byproducts]
        if names != sorted(set(names)):
            raise ValueError("byproducts come in ascending order, each once")


class Provenance(_Part, frozen=True):
    """SLSA's predicate."""

    build_definition: Definition
    run_details: Run


class Statement(_Part, frozen=True):
    """A workload's word on one capsule that it made."""

    kind: Literal["https://in-toto.io/Statement/v1"] = msgspec.field(name="_type")
    subject: tuple[Named]
    predicate_type: Literal["https://slsa.dev/provenance/v1"]
    predicate: Provenance

    @staticmethod
    def build(
        subject: tuple[str, str],
        inputs: Mapping[str, str],
        declared: Declared,
        origin: Origin,
        *,
        broker: str,
        kind: str,
        byproducts: Mapping[str, str],
        now: datetime | None = None,
    ) -> Statement:
        """Make a statement.

        Args:
            subject: Id and manifest digest of the capsule that was made.
            inputs: Manifest digest of each input by its id.
            declared: What the workload declared to be given them.
            origin: What the broker found the workload to be.
            broker: The broker's audience.
            kind: The capsule's kind.
            byproducts: SHA-256 by name, in hex.
            now: When; the clock's time if not given.
        """
        return Statement(
            kind="https://in-toto.io/Statement/v1",
            subject=(Named(subject[0], Digest(subject[1])),),
            predicate_type="https://slsa.dev/provenance/v1",
            predicate=Provenance(
                Definition(
                    "https://mitai.dev/derivation/v1",
                    declared,
                    Internal(broker, kind, origin.evidence_sha256),
                    tuple(Named(name, Digest(digest)) for name, digest in sorted(inputs.items())),
                ),
                Run(
                    Builder(BUILDER + origin.workload, origin.measurements),
                    Metadata(utc(now or datetime.now(UTC))),
                    tuple(Byproduct(name, Digest(digest)) for name, digest in sorted(byproducts.items())),
                ),
            ),
        )

    def sign(self, key: Identity) -> Envelope:
        """Return the signed envelope; raise `ParseError` when a field is out of its bounds."""
        return key.sign(encode_canonical(self, _DECODER, _MALFORMED), PAYLOAD_TYPE)

    @staticmethod
    def open(envelope: Envelope, key: PublicKey) -> Statement:
        """Return the statement that `key` signed; raise `MitaiError` otherwise."""
        return Statement.decode(envelope.open(PAYLOAD_TYPE, key))

    @staticmethod
    def decode(payload: bytes) -> Statement:
        """Parse a signed payload; raise `ParseError` on anything but the one spelling of a statement."""
        return decode_canonical(payload, _DECODER, _MALFORMED)

    @property
    def capsule(self) -> str:
        """The id of the capsule that was made."""
        return self.subject[0].name

    @property
    def manifest_sha256(self) -> str:
        """Its manifest's digest."""
        return self.subject[0].digest.sha256

    @property
    def inputs(self) -> dict[str, str]:
        """Manifest digests of what it was made of, by id."""
        return {each.name: each.digest.sha256 for each in self.predicate.build_definition.resolved_dependencies}

    @property
    def declared(self) -> Declared:
        """What the workload declared."""
        return self.predicate.build_definition.external_parameters

    @property
    def internal(self) -> Internal:
        """Broker, kind and evidence."""
        return self.predicate.build_definition.internal_parameters

    @property
    def workload(self) -> str:
        """The workload's name."""
        return self.predicate.run_details.builder.id.removeprefix(BUILDER)

    @property
    def measurements(self) -> dict[str, str]:
        """The workload's registers."""
        return self.predicate.run_details.builder.version

    @property
    def byproducts(self) -> dict[str, str]:
        """What else was made: SHA-256 by name."""
        return {each.name: each.digest.sha256 for each in self.predicate.run_details.byproducts}


def statement_sha256(envelope: Envelope) -> str:
    """Return the digest under which the ledger names a statement: SHA-256 of its payload."""
    return sha256_hex(envelope.payload)


_DECODER = msgspec.json.Decoder(Statement)
