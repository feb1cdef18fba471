"""What travels to and from the key broker, every structure and its limits.

Follows `docs/spec/broker.md`. JSON throughout; bytes are base64, digests and nonces lower-case hex.

Invariants:

- A command's signed payload holds no secret: the data key travels beside it, and the manifest that the command names
  holds a check value of it. So a signed command can be shown to anybody as what its owner ordered.
- Every signed structure names its broker (`audience`) and its party; a command's `sequence` only grows, so it is
  accepted once.
- Unknown fields, versions, types, trailing bytes and anything above a limit are refused with `ParseError`.

Example:
    >>> request = decode(b'{"v":1,"command":…}', CommandRequest, MAX_COMMAND_BYTES)
    >>> command = decode(request.command.open(COMMAND_TYPE, owner), Command, MAX_COMMAND_BYTES)
"""

from __future__ import annotations

import hashlib
import re
from typing import Annotated, Literal, TypeVar, cast

import msgspec
import rfc8785
from msgspec import UNSET, Meta, UnsetType

from mitai.errors import ParseError
from mitai.identity import Envelope, PublicKey

COMMAND_TYPE = "application/vnd.mitai.command+json"
QUERY_TYPE = "application/vnd.mitai.query+json"
QUERY_HEADER = "mitai-query"
LEASE_TYPE = "application/vnd.mitai.lease+json"

MAX_COMMAND_BYTES = 24 << 20  # a manifest in base64 and some
MAX_MANIFEST_BYTES = 16 << 20
MAX_RELEASE_BYTES = 8 << 20  # evidence with event log, devices and collateral
MAX_DERIVE_BYTES = MAX_COMMAND_BYTES
MAX_RECEIPTS_BYTES = 4 << 20
MAX_QUERY_BYTES = 8 << 10
MAX_LEASE_BYTES = 128 << 10
MAX_EXPORT_BYTES = 64 << 10
MAX_DELEGATES = 8
MAX_THRESHOLD = 4
MAX_POLICY_CHARS = 64 << 10
CAPSULES_PER_PAGE = 100
LEASE_S = 60.0  # how long a workload may go on with what it was given, without asking again
CLOCK_WINDOW_S = 300  # how far a signed structure's time may be from the broker's

_RELEASE_LABEL = b"mitai key release v1\x00"
_REQUEST_LABEL = b"mitai release request v1\x00"
_EXPORT_LABEL = b"mitai key export v1\x00"
_AUDIENCE_LABEL = b"mitai broker audience v1\x00"

_FIELD = re.compile(r"\$[A-Za-z0-9_.\[\]]*")

Key32 = Annotated[bytes, Meta(min_length=32, max_length=32)]
Hex32 = Annotated[str, Meta(pattern="^[0-9a-f]{64}\\Z")]
CapsuleId = Annotated[str, Meta(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,127}\\Z")]
Purpose = Annotated[str, Meta(pattern="^[a-z][a-z-]{0,31}\\Z")]
Parameters = Annotated[
    dict[Annotated[str, Meta(min_length=1, max_length=64)], Annotated[str, Meta(max_length=256)]], Meta(max_length=32)
]
CapsuleIds = Annotated[tuple[CapsuleId, ...], Meta(min_length=1, max_length=16)]
MAX_OWNERS = 16  # of one capsule; an export's entry names the approvals of all, `MAX_THRESHOLD` each
CoOwners = Annotated[tuple[Hex32, ...], Meta(max_length=MAX_OWNERS - 1)]
MAX_COUNT = 2**53
Count = Annotated[int, Meta(ge=0, le=MAX_COUNT)]


class Wire(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What all structures share: a version, and no field that we do not know."""

    v: Literal[1] = 1


# --- Owners' commands and queries (payloads of DSSE envelopes) ------------------------------------------------------


class Amounts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What requests declare and owners ration, of one capsule: as a limit, None is none; as what was spent, nothing."""

    tokens: Count | None = None
    steps: Count | None = None
    epsilon_micros: Count | None = None  # differential privacy's epsilon, in millionths


class Budget(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How often, how long and how much an owner lets a capsule's key go; None is no limit of that kind."""

    uses: Count | None = None
    not_after_s: Count | None = None
    amounts: Amounts | UnsetType = UNSET


class Signed(Wire, frozen=True, tag_field="type"):
    """Who says it, to which broker, when, and after what."""

    broker: Hex32
    party: Hex32
    sequence: Count
    time_s: Count


class RegisterParty(Signed, frozen=True, tag="register-party"):
    """Make a key known to the broker; signed by that key."""

    name: Annotated[str, Meta(min_length=1, max_length=200)]


class RegisterCapsule(Signed, frozen=True, tag="register-capsule"):
    """Hand over a capsule's key under a policy; each of `co_owners` must set a policy of its own before any release."""

    capsule: CapsuleId
    manifest_sha256: Hex32
    policy: Annotated[str, Meta(min_length=1, max_length=MAX_POLICY_CHARS)]
    budget: Budget
    co_owners: CoOwners = ()


class SetPolicy(Signed, frozen=True, tag="set-policy"):
    """Replace the signer's own policy and budget over a capsule; only version `replaces` of it, where that is given."""

    capsule: CapsuleId
    policy: Annotated[str, Meta(min_length=1, max_length=MAX_POLICY_CHARS)]
    budget: Budget
    replaces: Count | UnsetType = UNSET


class RotateKey(Signed, frozen=True, tag="rotate-key"):
    """Replace a capsule's data key and manifest by those of the same files, sealed anew."""

    capsule: CapsuleId
    manifest_sha256: Hex32
    previous_sha256: Hex32


class Revoke(Signed, frozen=True, tag="revoke"):
    """End the signer's consent for one capsule, or, without a capsule, for all of them; for good."""

    capsule: CapsuleId | None = None


Command = RegisterParty | RegisterCapsule | SetPolicy | RotateKey | Revoke


class Recipient(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who is to have something in the clear: a name for people, a party, and the key that it is sealed to."""

    name: Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f]{1,200}\Z")]  # one line: it is shown to those who vote
    party: Hex32
    key: Annotated[bytes, Meta(max_length=2048)]  # RFC 9458 key configuration


class RequestExport(Signed, frozen=True, tag="request-export"):
    """Ask all owners to let exactly this capsule out, to this recipient; the request's id is its payload's digest."""

    capsule: CapsuleId
    manifest_sha256: Hex32
    recipient: Recipient
    not_after_s: Count


class VoteExport(Signed, frozen=True, tag="vote-export"):
    """Approve or refuse a request, for an owner: the signer itself, or one that named it a delegate."""

    request: Hex32
    owner: Hex32
    approve: bool


class SetDelegates(Signed, frozen=True, tag="set-delegates"):
    """Name who votes on exports in the signer's place, and how many of them it takes; none: the signer itself."""

    delegates: Annotated[tuple[Hex32, ...], Meta(max_length=MAX_DELEGATES)]
    threshold: Annotated[int, Meta(ge=0, le=MAX_THRESHOLD)]


class CollectExport(Signed, frozen=True, tag="collect-export"):
    """Have the key of an approved request sealed to its recipient."""

    request: Hex32


ExportCommand = RequestExport | VoteExport | SetDelegates | CollectExport


class Query(Wire, frozen=True):
    """An owner's right to read: signed over the path that it asks."""

    broker: Hex32
    party: Hex32
    time_s: Count
    target: Annotated[str, Meta(max_length=2048)]


class LeaseStatement(Wire, frozen=True):
    """A workload's wish to go on with capsules that were released to it; `party` is its receipt key's id."""

    broker: Hex32
    party: Hex32
    capsules: Annotated[tuple[CapsuleId, ...], Meta(min_length=1, max_length=256)]
    time_s: Count
    nonce: Hex32


# --- Requests and answers -------------------------------------------------------------------------------------------


class QueryHeader(Wire, frozen=True):
    """What the header `mitai-query` holds, as JSON in base64: a signed query and its signer's key."""

    public_key: Key32
    query: Envelope


class CommandRequest(Wire, frozen=True):
    """A signed command; where it registers a capsule, with what it commits to: data key and manifest's envelope."""

    public_key: Key32
    command: Envelope
    data_key: Key32 | None = None
    manifest: Annotated[bytes, Meta(max_length=MAX_MANIFEST_BYTES)] | None = None

    def __repr__(self) -> str:
        return "CommandRequest(…)"


class CommandAnswer(Wire, frozen=True):
    """The command is durable, as ledger entry `index`."""

    index: int
    checkpoint: bytes


class Challenge(Wire, frozen=True):
    """A nonce for one release; worthless after `expires_s` or a restart of the broker."""

    nonce: Hex32
    expires_s: int


class ReleaseRequest(Wire, frozen=True, kw_only=True):
    """What the keys are wanted for, and evidence over all of it: see `release_nonce`.

    In version 1 the evidence was over the challenge's nonce alone.
    """

    v: Literal[2] = 2  # type: ignore[assignment]  # of another version than the rest
    evidence: bytes
    nonce: Hex32
    purpose: Purpose
    capsules: CapsuleIds
    parameters: Parameters = {}

    def __post_init__(self) -> None:
        if len(set(self.capsules)) != len(self.capsules):
            raise ValueError("a capsule is asked for once")


class ReleasedKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One capsule's key with what it belongs to; travels sealed to the workload only.

    `derived`: a workload made it, and its manifest's parents are true; else they are its owner's word.
    """

    capsule: CapsuleId
    data_key: bytes
    manifest_sha256: Hex32
    owner: bytes
    policies: tuple[Hex32, ...]
    derived: bool | UnsetType = UNSET

    def __repr__(self) -> str:
        return f"ReleasedKey({self.capsule!r}, …)"


class Origin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the broker found a workload to be; the workload repeats it in statements about what it makes."""

    workload: str
    measurements: dict[str, str]
    evidence_sha256: Hex32


class ReleasedKeys(Wire, frozen=True):
    """The plaintext under `ReleaseAnswer.sealed`."""

    keys: tuple[ReleasedKey, ...]
    index: int
    origin: Origin | UnsetType = UNSET

    def __repr__(self) -> str:
        return f"ReleasedKeys({len(self.keys)} keys, index={self.index})"


class ReleaseAnswer(Wire, frozen=True):
    """Keys sealed to the attested HPKE key; manifests' envelopes in the order of the request's capsules."""

    sealed: bytes
    manifests: tuple[bytes, ...]
    checkpoint: bytes


class DeriveRequest(Wire, frozen=True):
    """A capsule that a workload made of what it was given: manifest and statement, both signed by its receipt key."""

    receipt_key: Key32
    statement: Envelope
    manifest: Annotated[bytes, Meta(max_length=MAX_MANIFEST_BYTES)]
    data_key: Key32

    def __repr__(self) -> str:
        return "DeriveRequest(…)"


class ReceiptsRequest(Wire, frozen=True):
    """Signed receipts (exact bytes of their envelopes) of the replica whose claims hold `receipt_key`."""

    receipt_key: Key32
    receipts: Annotated[tuple[bytes, ...], Meta(min_length=1, max_length=256)]


class LeaseRequest(Wire, frozen=True):
    """A lease statement, signed by the receipt key that stood in the claims of a release."""

    receipt_key: Key32
    lease: Envelope


class LeaseAnswer(Wire, frozen=True):
    """For how long from the moment it was asked the workload may go on; `nonce` is the statement's."""

    nonce: Hex32
    lease_s: Annotated[float, Meta(ge=0, le=LEASE_S)]


class LoggedEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A ledger entry with its inclusion proof."""

    index: int
    entry: bytes
    proof: tuple[bytes, ...]


class ReceiptsAnswer(Wire, frozen=True):
    """Each receipt's entry, in the order of the request, proven at `checkpoint`."""

    entries: tuple[LoggedEntry, ...]
    checkpoint: bytes


class ProofAnswer(Wire, frozen=True):
    """One entry, proven at `checkpoint`."""

    entry: LoggedEntry
    checkpoint: bytes


class GrantView(msgspec.Struct, frozen=True):
    """One owner's say over a capsule."""

    party: str
    policy: str | None
    policy_sha256: str | None
    version: int
    budget: Budget
    uses: int
    revoked: bool
    spent: Amounts | UnsetType = UNSET


class CapsuleView(Wire, frozen=True):
    """What an owner sees of a capsule."""

    capsule: str
    owner: str
    manifest_sha256: str
    registered_s: int
    grants: tuple[GrantView, ...]
    kind: str = ""
    parents: tuple[str, ...] = ()  # of a derived one


class CapsulesAnswer(Wire, frozen=True):
    """A page of the capsules that a party has a say over, oldest first; `total` counts all pages."""

    name: str
    revoked: bool
    capsules: tuple[str, ...]
    total: int


class DecisionsAnswer(Wire, frozen=True):
    """The newest entries about a capsule, newest first, proven at `checkpoint`; older ones are in the public ledger."""

    entries: tuple[LoggedEntry, ...]
    checkpoint: bytes


class LineageNode(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A capsule's first ledger entry, and those of its newer manifests; of a derived one also who made it, and how."""

    entry: LoggedEntry
    reseals: Annotated[tuple[LoggedEntry, ...], Meta(max_length=100)] = ()
    signer: Key32 | None = None
    statement: Envelope | None = None


class LineageAnswer(Wire, frozen=True):
    """A capsule and all that it derives from, proven at `checkpoint`."""

    nodes: Annotated[tuple[LineageNode, ...], Meta(min_length=1, max_length=256)]
    checkpoint: bytes


class ExportVote(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A vote, as it was counted when it was cast."""

    owner: Hex32
    voter: Hex32
    approve: bool
    time_s: Count


class ExportConsent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One owner's consent as it stands: `by` says how it was given, or that it is missing."""

    owner: Hex32
    by: Literal["vote", "delegates", "policy"] | None
    delegates: tuple[Hex32, ...] = ()
    threshold: int = 0


ExportState = Literal["open", "approved", "collected", "refused", "expired", "ended"]


class ExportView(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request with its requester's signature, and how it stands."""

    public_key: Key32
    command: Envelope
    state: ExportState
    consents: tuple[ExportConsent, ...]
    votes: tuple[ExportVote, ...]
    index: int


class ExportsAnswer(Wire, frozen=True):
    """Requests about a capsule, newest first."""

    exports: tuple[ExportView, ...]


class ExportAnswer(Wire, frozen=True):
    """A collected export: the key sealed to the recipient, the signed manifest, and the ledger's entry, proven."""

    sealed: bytes
    manifest: bytes
    entry: LoggedEntry
    checkpoint: bytes


class ExportedKey(Wire, frozen=True):
    """The plaintext under `ExportAnswer.sealed`; `signer` is the public key that signed the manifest."""

    request: Hex32
    capsule: CapsuleId
    manifest_sha256: Hex32
    data_key: Key32
    signer: Key32

    def __repr__(self) -> str:
        return f"ExportedKey({self.capsule!r}, …)"


# --- Encoding and digests -------------------------------------------------------------------------------------------

T = TypeVar("T")


def decode(data: bytes, kind: type[T], limit_bytes: int) -> T:
    """Parse JSON bytes strictly as `kind`.

    Raises:
        ParseError: `broker.too-large`, `broker.version-unsupported` or `broker.malformed`.
    """
    if len(data) > limit_bytes:
        raise ParseError("broker.too-large", f"{len(data)} bytes are above the limit of {limit_bytes}")
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        where = _FIELD.search(str(error))  # the rest of msgspec's message may quote a value
        if where and where.group() == "$.v":
            raise ParseError(
                "broker.version-unsupported",
                "this is of another version of the protocol",
                hint="workloads and broker must be of releases that fit together",
            ) from None
        at = f" at {where.group()[:80]}" if where else ""
        raise ParseError("broker.malformed", f"these bytes do not follow the protocol{at}") from None


def decode_command(payload: bytes) -> Command:
    """Parse a command's signed payload."""
    return decode(payload, cast("type[Command]", Command), MAX_COMMAND_BYTES)


def decode_export_command(payload: bytes) -> ExportCommand:
    """Parse the signed payload of a command about exports."""
    return decode(payload, cast("type[ExportCommand]", ExportCommand), MAX_EXPORT_BYTES)


def encode(value: msgspec.Struct) -> bytes:
    """Return the JSON form."""
    return msgspec.json.encode(value)


def sha256_hex(data: bytes) -> str:
    """SHA-256 in lower-case hex."""
    return hashlib.sha256(data).hexdigest()


def audience(ledger_key: PublicKey) -> str:
    """Name the broker in signed structures: the digest of its ledger's public key, which it keeps for life."""
    return sha256_hex(_AUDIENCE_LABEL + ledger_key.raw)


def release_nonce(request: ReleaseRequest) -> bytes:
    """Return the nonce of a request's evidence: a digest of all that the request says, but for the evidence itself.

    So nobody but the measured code says what its evidence is for.
    """
    said = {name: getattr(request, name) for name in request.__struct_fields__ if name != "evidence"}
    return hashlib.sha256(_REQUEST_LABEL + rfc8785.dumps(said)).digest()


def release_info(request_bytes: bytes) -> bytes:
    """HPKE `info` of a release: binds the sealed keys to the exact request (nonce, evidence, purpose, capsules)."""
    return _RELEASE_LABEL + hashlib.sha256(request_bytes).digest()


def export_info(request: str) -> bytes:
    """HPKE `info` of an export: binds the sealed key to the exact request that was approved."""
    return _EXPORT_LABEL + bytes.fromhex(request)
