"""What the ledger's entries say: canonical JSON, one type per kind of event.

Canonical JSON is RFC 8785. `docs/spec/ledger.md` lists the types and their fields.

Invariants:

- Entries hold ids, names, digests, counts and reasons; never content, prompts or keys.
- There is one encoding of an entry: what does not encode back to the same bytes is refused.
- Unknown versions, types and fields are refused; every field is bounded, so that the largest entry fits into a bundle.

Example:
    >>> entry = Revocation(time="2026-01-02T03:04:05Z", owner="0" * 64, subject="capsule:model-1", reason="ended")
    >>> decode(entry.encode()) == entry
    True
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Final, Literal, TypeVar

import msgspec
import rfc8785

from mitai.errors import ParseError
from mitai.ledger.tiles import MAX_ENTRY_BYTES

ENTRY_LABEL: Final = "mitai ledger entry v1"

Digest = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]  # SHA-256, lower-case hex
Id = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@/+-]{0,127}\Z")]
Name = Annotated[str, msgspec.Meta(pattern=r"^[^\x00-\x1f\x7f]{1,256}\Z")]
Reason = Annotated[str, msgspec.Meta(pattern=r"^[^\x00-\x1f\x7f]{1,512}\Z")]
Time = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z\Z")]
Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 53) - 1)]
Ids = Annotated[tuple[Id, ...], msgspec.Meta(max_length=256)]
Digests = Annotated[tuple[Digest, ...], msgspec.Meta(max_length=64)]
Reasons = Annotated[tuple[Reason, ...], msgspec.Meta(max_length=8)]

T = TypeVar("T")


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """What all entries have; `time` is UTC, `YYYY-MM-DDThh:mm:ssZ`."""

    v: Literal["mitai ledger entry v1"] = ENTRY_LABEL
    time: Time

    def __post_init__(self) -> None:
        datetime.fromisoformat(self.time)  # `Time` alone would let a 30 February pass

    def encode(self) -> bytes:
        """Return the canonical bytes; raise `ParseError` when a field is out of its bounds."""
        return encode_canonical(self, _DECODER, "ledger.entry-malformed")


class PartyRegistered(Entry, frozen=True, tag="party-registered"):
    """A key became a party."""

    party: Digest  # key id
    name: Name


class CapsuleRegistered(Entry, frozen=True, tag="capsule-registered"):
    """A sealed model, data set, adapter or report became known."""

    capsule: Id
    kind: Id
    name: Name
    owners: Digests
    manifest_sha256: Digest
    parents: Ids = ()


class Derivation(Entry, frozen=True, tag="derivation"):
    """A workload made a capsule of others; it belongs to all their owners."""

    capsule: Id
    kind: Id
    name: Name
    owners: Digests
    manifest_sha256: Digest
    parents: Ids
    workload: Name
    signer: Digest  # key id of the workload's receipt key
    statement_sha256: Digest  # of the signed statement's payload
    evidence_sha256: Digest
    simulated: bool


class PolicySet(Entry, frozen=True, tag="policy-set"):
    """An owner set or replaced a policy."""

    capsule: Id
    owner: Digest
    policy_sha256: Digest
    version: Count
    command_sha256: Digest | None = None  # the owner's signed command


class CapsuleResealed(Entry, frozen=True, tag="capsule-resealed"):
    """An owner gave a capsule a new data key, and so a new manifest."""

    capsule: Id
    owner: Digest
    manifest_sha256: Digest
    previous_sha256: Digest
    command_sha256: Digest | None = None  # the owner's signed command


class Release(Entry, frozen=True, tag="release"):
    """Keys were released to an attested workload."""

    release: Id
    capsules: Ids
    workload: Name
    purpose: Name
    evidence_sha256: Digest
    recipient_sha256: Digest  # of the key configuration that the keys were sealed to
    policies: Digests
    simulated: bool
    reasons: Reasons = ()


class Denial(Entry, frozen=True, tag="denial"):
    """Keys were not released."""

    capsules: Ids
    code: Id
    reasons: Reasons
    workload: Name | None = None
    purpose: Name | None = None
    evidence_sha256: Digest | None = None
    policies: Digests = ()
    simulated: bool | None = None


class Deployment(Entry, frozen=True, tag="deployment"):
    """A workload began to serve, or ended."""

    deployment: Id
    capsules: Ids
    workload: Name
    state: Id
    evidence_sha256: Digest | None = None


class Revocation(Entry, frozen=True, tag="revocation"):
    """An owner took a capsule, a policy, a key or an approval back."""

    owner: Digest
    subject: Id
    reason: Reason
    command_sha256: Digest | None = None


class DelegatesSet(Entry, frozen=True, tag="delegates-set"):
    """An owner named who votes on exports in its place, or nobody."""

    owner: Digest
    delegates: Digests
    threshold: Count
    version: Count
    command_sha256: Digest


class ExportRequested(Entry, frozen=True, tag="export-requested"):
    """An owner asked to let a capsule out in the clear."""

    request: Digest  # of the owner's signed command
    capsule: Id
    manifest_sha256: Digest
    owner: Digest
    recipient: Digest  # party
    recipient_sha256: Digest  # of the key configuration that it will be sealed to
    not_after: Time

    def __post_init__(self) -> None:
        Entry.__post_init__(self)
        datetime.fromisoformat(self.not_after)


class Approval(Entry, frozen=True, tag="approval"):
    """An owner agreed to, or refused, what a request asks."""

    owner: Digest
    request: Id
    approved: bool
    subject_sha256: Digest
    delegate: Digest | None = None  # who said so in the owner's place
    command_sha256: Digest | None = None


class Export(Entry, frozen=True, tag="export"):
    """Something derived left in the clear, with all its owners' approvals."""

    export: Id
    capsule: Id
    owners: Digests
    approvals: Digests
    recipient: Digest


class ReceiptEntry(Entry, frozen=True, tag="receipt"):
    """A replica signed a receipt."""

    exchange: Id
    receipt_sha256: Digest  # `receipt.receipt_sha256` of the signed envelope


class RootKey(Entry, frozen=True, tag="root-key"):
    """The root key of the broker's state was given to another machine, rotated, or recovered by owners."""

    event: Literal["shared", "rotated", "recovered"]
    epoch: Count
    evidence_sha256: Digest | None = None  # of the machine that it was given to
    recipient_sha256: Digest | None = None  # of the key configuration that it was sealed to
    simulated: bool | None = None
    recovery_sha256: Digest | None = None  # of the recovery plan in force


class RecoverySet(Entry, frozen=True, tag="recovery-set"):
    """A recovery plan came into force: who can give the root key to a new machine, and how many of them it takes."""

    recovery_sha256: Digest
    version: Count
    threshold: Count
    members: Digests  # key ids of the parties that hold a share


_DECODER: msgspec.json.Decoder[Entry] = msgspec.json.Decoder(
    PartyRegistered
    | CapsuleRegistered
    | Derivation
    | PolicySet
    | Release
    | Denial
    | Deployment
    | Revocation
    | DelegatesSet
    | ExportRequested
    | Approval
    | Export
    | ReceiptEntry
    | RootKey
    | CapsuleResealed
    | RecoverySet
)


def decode(data: bytes) -> Entry:
    """Parse an entry; raise `ParseError` on anything but its one canonical encoding."""
    if len(data) > MAX_ENTRY_BYTES:
        raise ParseError("ledger.entry-malformed", f"an entry of {len(data)} bytes is above the limit")
    return decode_canonical(data, _DECODER, "ledger.entry-malformed")


def utc(moment: datetime) -> str:
    """Return a moment as entries and receipts write it, cut to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def encode_canonical(value: msgspec.Struct, decoder: msgspec.json.Decoder[T], code: str) -> bytes:
    """Return RFC 8785 JSON that `decode_canonical` accepts; raise `ParseError` with `code` if it would not."""
    try:
        data = rfc8785.dumps(msgspec.to_builtins(value))
        decoder.decode(data)
    except (msgspec.MsgspecError, rfc8785.CanonicalizationError, TypeError, ValueError) as error:
        raise ParseError(code, "a field is missing, of the wrong kind or out of its bounds") from error
    return data


def decode_canonical(data: bytes, decoder: msgspec.json.Decoder[T], code: str) -> T:
    """Parse RFC 8785 JSON; raise `ParseError` with `code` on any other spelling."""
    try:
        value = decoder.decode(data)
        canonical = rfc8785.dumps(msgspec.to_builtins(value))
    except (msgspec.MsgspecError, rfc8785.CanonicalizationError, ValueError, RecursionError) as error:
        raise ParseError(code, "these bytes are not of a known version and type") from error
    if canonical != data:
        raise ParseError(code, "these bytes are not in their canonical form")
    return value
