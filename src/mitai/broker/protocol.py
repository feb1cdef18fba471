"""What travels to and from the key broker, and what its ledger says: every structure, its limits, its digests.

Follows `docs/spec/broker.md`. JSON throughout; bytes are base64, digests and nonces lower-case hex.

Invariants:

- A command's signed payload holds no secret: the data key travels beside it and is bound by `key_commitment`, so that a
  signed command can be kept and shown as what its owner ordered.
- Every signed structure names its broker (`audience`) and its party; a command's `sequence` only grows, so it is
  accepted once.
- Unknown fields, versions, types, trailing bytes and anything above a limit are refused with `ParseError`.
- Ledger entries hold ids, digests, times and reason codes, never a key, a policy's text or a parameter.

Example:
    >>> request = decode(b'{"v":1,"command":…}', CommandRequest, MAX_COMMAND_BYTES)
    >>> command = decode(request.command.open(COMMAND_TYPE, owner), Command, MAX_COMMAND_BYTES)
"""

from __future__ import annotations

import hashlib
import re
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

from mitai.errors import ParseError
from mitai.identity import Envelope, PublicKey

COMMAND_TYPE = "application/vnd.mitai.command+json"
QUERY_TYPE = "application/vnd.mitai.query+json"
QUERY_HEADER = "mitai-query"

MAX_COMMAND_BYTES = 24 << 20  # a manifest in base64 and some
MAX_MANIFEST_BYTES = 16 << 20
MAX_RELEASE_BYTES = 4 << 20  # evidence with event log, devices and collateral
MAX_RECEIPTS_BYTES = 4 << 20
MAX_QUERY_BYTES = 8 << 10
MAX_POLICY_CHARS = 64 << 10
DATA_KEY_BYTES = 32
CLOCK_WINDOW_S = 300  # how far a signed structure's time may be from the broker's

_KEY_LABEL = b"mitai data key v1\x00"
_RELEASE_LABEL = b"mitai key release v1\x00"
_AUDIENCE_LABEL = b"mitai broker audience v1\x00"

_FIELD = re.compile(r"\$[A-Za-z0-9_.\[\]]*")

Hex32 = Annotated[str, Meta(pattern="^[0-9a-f]{64}\\Z")]
CapsuleId = Annotated[str, Meta(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,127}\\Z")]
Purpose = Annotated[str, Meta(pattern="^[a-z][a-z-]{0,31}\\Z")]
Parameters = Annotated[
    dict[Annotated[str, Meta(min_length=1, max_length=64)], Annotated[str, Meta(max_length=256)]], Meta(max_length=32)
]
CapsuleIds = Annotated[tuple[CapsuleId, ...], Meta(min_length=1, max_length=64)]
PartyIds = Annotated[tuple[Hex32, ...], Meta(max_length=16)]
Count = Annotated[int, Meta(ge=0, le=2**53)]


class Wire(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What all structures share: a version, and no field that we do not know."""

    v: Literal[1] = 1


# --- Owners' commands and queries (payloads of DSSE envelopes) ------------------------------------------------------


class Budget(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How often and how long an owner lets a capsule's key go; None is no limit of that kind."""

    uses: Count | None = None
    not_after_s: Count | None = None


class Signed(Wire, frozen=True, tag_field="type"):
    """Who says it, to which broker, when, and after what."""

    broker: Hex32
    party: Hex32
    sequence: Count
    time_s: Count


class RegisterParty(Signed, frozen=True, tag="register-party"):
    """Make a key known to the broker; signed by that key."""

    public_key: Annotated[bytes, Meta(min_length=32, max_length=32)]
    name: Annotated[str, Meta(min_length=1, max_length=200)]


class RegisterCapsule(Signed, frozen=True, tag="register-capsule"):
    """Hand over a capsule's key under a policy; each of `co_owners` must set a policy of its own before any release."""

    capsule: CapsuleId
    manifest_sha256: Hex32
    key_commitment: Hex32
    policy: Annotated[str, Meta(min_length=1, max_length=MAX_POLICY_CHARS)]
    budget: Budget
    co_owners: PartyIds = ()


class SetPolicy(Signed, frozen=True, tag="set-policy"):
    """Replace the signer's own policy and budget over a capsule."""

    capsule: CapsuleId
    policy: Annotated[str, Meta(min_length=1, max_length=MAX_POLICY_CHARS)]
    budget: Budget


class Revoke(Signed, frozen=True, tag="revoke"):
    """End the signer's consent for one capsule, or, without a capsule, for all of them; for good."""

    capsule: CapsuleId | None = None


Command = RegisterParty | RegisterCapsule | SetPolicy | Revoke


class Query(Wire, frozen=True):
    """An owner's right to read: signed over the exact path and query string that it asks."""

    broker: Hex32
    party: Hex32
    time_s: Count
    target: Annotated[str, Meta(max_length=2048)]


# --- Requests and answers -------------------------------------------------------------------------------------------


class CommandRequest(Wire, frozen=True):
    """A signed command; where it registers a capsule, with what it commits to: data key and manifest's envelope."""

    command: Envelope
    data_key: Annotated[bytes, Meta(min_length=DATA_KEY_BYTES, max_length=DATA_KEY_BYTES)] | None = None
    manifest: Annotated[bytes, Meta(max_length=MAX_MANIFEST_BYTES)] | None = None

    def __repr__(self) -> str:
        return "CommandRequest(…)"


class CommandAnswer(Wire, frozen=True):
    """The command is durable, as ledger entry `index`."""

    index: int
    command_sha256: str
    checkpoint: bytes


class Challenge(Wire, frozen=True):
    """A nonce for one release; worthless after `expires_s` or a restart of the broker."""

    nonce: Hex32
    expires_s: int


class ReleaseRequest(Wire, frozen=True):
    """Evidence over the challenge's nonce, and what the keys are wanted for."""

    evidence: bytes
    nonce: Hex32
    purpose: Purpose
    capsules: CapsuleIds
    parameters: Parameters = {}


class ReleasedKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One capsule's key with what it belongs to; travels sealed to the workload only."""

    capsule: CapsuleId
    data_key: bytes
    manifest_sha256: Hex32
    owner: bytes
    policies: tuple[Hex32, ...]

    def __repr__(self) -> str:
        return f"ReleasedKey({self.capsule!r}, …)"


class ReleasedKeys(Wire, frozen=True):
    """The plaintext under `ReleaseAnswer.sealed`."""

    keys: tuple[ReleasedKey, ...]
    index: int

    def __repr__(self) -> str:
        return f"ReleasedKeys({len(self.keys)} keys, index={self.index})"


class ReleaseAnswer(Wire, frozen=True):
    """Keys sealed to the attested HPKE key; manifests' envelopes in the order of the request's capsules."""

    sealed: bytes
    manifests: tuple[bytes, ...]
    checkpoint: bytes


class ReceiptsRequest(Wire, frozen=True):
    """Receipts that a replica signed with the receipt key of its claims."""

    receipt_key: Annotated[bytes, Meta(min_length=32, max_length=32)]
    receipts: Annotated[tuple[Envelope, ...], Meta(min_length=1, max_length=256)]


class ReceiptsAnswer(Wire, frozen=True):
    """Where the ledger holds each receipt, in the order of the request."""

    indices: tuple[int, ...]
    checkpoint: bytes


class InclusionAnswer(Wire, frozen=True):
    """An entry's inclusion proof at a checkpoint."""

    index: int
    proof: tuple[bytes, ...]
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


class CapsuleView(Wire, frozen=True):
    """What an owner sees of a capsule."""

    capsule: str
    owner: str
    manifest_sha256: str
    registered_s: int
    grants: tuple[GrantView, ...]


class DecisionView(msgspec.Struct, frozen=True):
    """A ledger entry about a capsule, with its index."""

    index: int
    entry: msgspec.Raw


class DecisionsAnswer(Wire, frozen=True):
    """Newest first; `before` continues the list when it is not None."""

    decisions: tuple[DecisionView, ...]
    before: int | None


# --- Ledger entries -------------------------------------------------------------------------------------------------


class Entry(Wire, frozen=True, tag_field="type"):
    """What every entry of the broker's ledger holds."""

    time: str


class StartEntry(Entry, frozen=True, tag="broker-start"):
    """The ledger's first entry: this broker's key and software."""

    broker: str
    tee: str


class PartyEntry(Entry, frozen=True, tag="party"):
    """A party was registered."""

    party: str
    command_sha256: str


class CapsuleEntry(Entry, frozen=True, tag="capsule"):
    """A capsule's key was handed over."""

    party: str
    capsule: str
    manifest_sha256: str
    policy_sha256: str
    co_owners: tuple[str, ...]
    command_sha256: str


class PolicyEntry(Entry, frozen=True, tag="policy"):
    """An owner's policy was set or replaced."""

    party: str
    capsule: str
    version: int
    policy_sha256: str
    command_sha256: str
    previous: int | None


class RevocationEntry(Entry, frozen=True, tag="revocation"):
    """An owner's consent ended, for one capsule or (None) for all of its own."""

    party: str
    capsule: str | None
    command_sha256: str
    previous: int | None


class ReleaseEntry(Entry, frozen=True, tag="release"):
    """A decision over keys: `allow` with the policies that allowed, or `deny` with the reason.

    `previous` is, for each capsule, the index of the entry about it before this one: a chain that its owner can follow.
    """

    decision: Literal["allow", "deny"]
    reason: str
    capsules: tuple[str, ...]
    purpose: str
    workload: str
    tee: str
    simulated: bool
    nonce_sha256: str
    request_sha256: str
    evidence_sha256: str
    policies: tuple[str, ...]
    previous: tuple[int | None, ...]


class ReceiptEntry(Entry, frozen=True, tag="receipt"):
    """A replica's receipt, by its digest."""

    receipt_sha256: str
    receipt_key: str


LedgerEntry = StartEntry | PartyEntry | CapsuleEntry | PolicyEntry | RevocationEntry | ReleaseEntry | ReceiptEntry

# --- Encoding and digests -------------------------------------------------------------------------------------------

T = TypeVar("T")


def decode(data: bytes, kind: type[T], limit_bytes: int) -> T:
    """Parse JSON bytes strictly as `kind`; raise `ParseError` with `broker.too-large` or `broker.malformed`."""
    if len(data) > limit_bytes:
        raise ParseError("broker.too-large", f"{len(data)} bytes are above the limit of {limit_bytes}")
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        where = _FIELD.search(str(error))  # the rest of msgspec's message may quote a value
        at = f" at {where.group()[:80]}" if where else ""
        raise ParseError("broker.malformed", f"these bytes do not follow the protocol{at}") from None


def encode(value: msgspec.Struct) -> bytes:
    """Return the JSON form."""
    return msgspec.json.encode(value)


def sha256_hex(data: bytes) -> str:
    """SHA-256 in lower-case hex."""
    return hashlib.sha256(data).hexdigest()


def audience(ledger_key: PublicKey) -> str:
    """Name the broker in signed structures: the digest of its ledger's public key, which it keeps for life."""
    return sha256_hex(_AUDIENCE_LABEL + ledger_key.raw)


def key_commitment(capsule: str, data_key: bytes) -> str:
    """Bind a command to a data key without holding it; the key is 32 random bytes, so the digest hides it."""
    return sha256_hex(_KEY_LABEL + capsule.encode() + b"\x00" + data_key)


def release_info(request_bytes: bytes) -> bytes:
    """HPKE `info` of a release: binds the sealed keys to the exact request (nonce, evidence, purpose, capsules)."""
    return _RELEASE_LABEL + hashlib.sha256(request_bytes).digest()
