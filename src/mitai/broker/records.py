"""What the broker keeps: parties, capsules with each owner's grant, replicas that may send receipts, and the head.

Records are frozen values in MessagePack, sealed by `vault`; `store` reads and writes them.

Invariants:

- A record never changes in place: a decision makes a new value, and the group commit writes it with its ledger entry.
- `repr` shows no key.
"""

from __future__ import annotations

from typing import Literal, TypeVar

import msgspec

from mitai.broker.protocol import Amounts, Budget, Recipient
from mitai.errors import BrokerError


class Record(msgspec.Struct, frozen=True):
    """One sealed row."""


class Party(Record, frozen=True):
    """An owner; `sequence` is that of its last accepted command, `revoked` ends all of its grants."""

    public_key: bytes
    name: str
    registered_s: int
    sequence: int = -1
    revoked: bool = False
    capsules: int = 0  # how many it has registered
    held: int = 0  # how many it has a say over, its own and those that others named it a co-owner of
    exports: int = 0  # how many it has asked for
    delegates: tuple[str, ...] = ()  # who votes on exports in its place
    threshold: int = 0  # how many of them it takes
    delegates_version: int = 0
    last_sha256: str = ""  # of its newest command
    last_index: int = 0  # of that command's ledger entry


class Grant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One owner's say over a capsule; without a policy yet, it is a no.

    A member that this version does not know may be a limit: such a record is refused, not read without it.
    """

    party: str
    policy_sha256: str | None = None
    version: int = 0
    budget: Budget = Budget()
    uses: int = 0
    revoked: bool = False
    spent: Amounts = Amounts()


class Platform(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a workload that was given keys ran on, as its evidence showed, and the signed release that it is of."""

    tee: str
    simulated: bool
    tcb_status: str
    advisory_ids: tuple[str, ...]
    tcb_evaluation_number: int
    release: tuple[str, int, str] | None  # name, version, publisher
    residency: tuple[str, ...] = ()  # what auditors said of where it stood


class Made(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a workload made a capsule; a member that this version does not know may be a limit."""

    signer: bytes  # the workload's public key, which signed manifest and statement
    statement_sha256: str  # of the signed payload
    envelope_sha256: str  # of the signed statement as it is stored
    parents: tuple[str, ...]
    lineage: tuple[str, ...]  # parents, their parents, and so on; sorted
    depth: int  # steps up to the farthest ancestor
    workload: str
    measurements: dict[str, str]
    parameters: dict[str, str]  # as the workload declared them
    platform: Platform


class Capsule(Record, frozen=True):
    """A capsule's key and everything that decides over it; `recent` are the newest ledger entries about it."""

    capsule: str
    owner: str
    manifest_sha256: str
    envelope_sha256: str  # of the signed manifest as it is stored
    envelope_bytes: int
    data_key: bytes
    registered_s: int
    grants: tuple[Grant, ...]
    recent: tuple[int, ...] = ()
    kind: str = ""  # as its manifest says
    index: int = 0  # the ledger entry that made it known
    made: Made | None = None  # where a workload made it
    reseals: tuple[int, ...] = ()  # ledger entries of its newer manifests
    former: tuple[str, ...] = ()  # manifests before its data key was rotated, newest last: workloads may still use them
    exports: tuple[str, ...] = ()  # requests to let it out, the oldest that have ended are forgotten

    def __repr__(self) -> str:
        return f"Capsule({self.capsule!r}, …)"

    @property
    def lineage(self) -> tuple[str, ...]:
        """Ids of all capsules that this one derives from, sorted."""
        return self.made.lineage if self.made else ()

    def grant_of(self, party: str) -> Grant | None:
        """Return that party's grant, if it has one."""
        return next((grant for grant in self.grants if grant.party == party), None)

    def with_grant(self, grant: Grant) -> Capsule:
        """Return this capsule with that party's grant replaced."""
        grants = tuple(grant if old.party == grant.party else old for old in self.grants)
        return msgspec.structs.replace(self, grants=grants)

    def noted(self, index: int, at_most: int) -> Capsule:
        """Return this capsule with one more ledger entry about it."""
        return msgspec.structs.replace(self, recent=(*self.recent, index)[-at_most:])


class Vote(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A yes or no to an export, for an owner, by that owner or a delegate of it."""

    owner: str
    voter: str
    approve: bool
    time_s: int
    command_sha256: str


class ExportRequest(Record, frozen=True):
    """A wish to let a capsule out in the clear; its id is the digest of the signed command that asked."""

    capsule: str
    manifest_sha256: str
    requester: str
    recipient: Recipient
    not_after_s: int
    index: int  # the ledger entry of the request
    command_sha256: str  # of the signed command as it is stored
    votes: tuple[Vote, ...] = ()
    refused: bool = False
    ended: bool = False  # the capsule was given another key
    collected: int | None = None  # the ledger entry of the export
    sealed: bytes = b""  # the key, sealed to the recipient


class Holding(Record, frozen=True):
    """One page of the capsules that a party has a say over, in the order of their registration."""

    capsules: tuple[str, ...] = ()


class Replica(Record, frozen=True):
    """A receipt key from the attested claims of a workload that was given keys, and all that it was ever given.

    `mixed`: its requests declared different things, so that what it makes has no one origin.
    """

    workload: str
    simulated: bool
    seen_s: int
    measurements: dict[str, str] = {}
    purpose: str = ""
    parameters: dict[str, str] = {}
    evidence: tuple[str, ...] = ()  # digests of what it proved itself with, newest last
    capsules: tuple[str, ...] = ()  # in the order of their release
    platform: Platform | None = None
    mixed: bool = False
    derived: int = 0  # how many capsules it has made
    stopped: tuple[str, ...] = ()  # those of them for which a lease was refused, and logged


class Pin(Record, frozen=True):
    """A witness that has cosigned this broker's ledger; from then on the broker does not start without it."""

    vkey: str


class Head(Record, frozen=True):
    """The whole state in one row: ledger size and root, the set digest over all rows, how many there are, and when."""

    size: int
    root: bytes
    digest: bytes
    counts: dict[str, int] = {}  # rows of each kind
    time_s: int = 0
    epoch: int = 0  # of the root key that sealed it


class LedgerKey(Record, frozen=True):
    """The ledger's signing key and origin, made at first start."""

    seed: bytes
    origin: str

    def __repr__(self) -> str:
        return f"LedgerKey({self.origin!r})"


class Root(Record, frozen=True, forbid_unknown_fields=True):
    """The root key of the state and its epoch, which rises by one with each rotation."""

    epoch: int
    key: bytes
    v: Literal[1] = 1
    recovered: bool = False  # put together from owners' shares, which is to be logged
    inherited: bool = False  # somebody may know it whom this code can't vouch for: owners, or another build

    def __repr__(self) -> str:
        return f"Root(epoch={self.epoch})"


class Recovery(Record, frozen=True):
    """The exact bytes of the recovery plan in force; see `recovery`. `due`: former members' shares still fit."""

    plan: bytes
    due: bool = False


R = TypeVar("R", bound=Record)


def kind_of(record: type[Record]) -> str:
    """Return the kind under which rows of this type are stored."""
    return record.__name__.lower()


def pack(record: Record) -> bytes:
    """Return a record's bytes."""
    return msgspec.msgpack.encode(record)


def unpack(data: bytes, kind: type[R]) -> R:
    """Read back authenticated bytes; a failure means that another version of the broker wrote them."""
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except msgspec.MsgspecError:
        raise BrokerError("broker.state-version", f"a stored {kind_of(kind)} was written by another version") from None


def pack_row(identifier: str, record: Record) -> bytes:
    """Return the bytes of a row: the record's id, from which its tag is made, and the record."""
    return msgspec.msgpack.encode((identifier, record))


def unpack_row(data: bytes, kind: type[R]) -> tuple[str, R]:
    """Read a row back, as `unpack` does a record."""
    try:
        return msgspec.msgpack.decode(data, type=tuple[str, kind])  # type: ignore[valid-type]
    except msgspec.MsgspecError:
        raise BrokerError("broker.state-version", f"a stored {kind_of(kind)} was written by another version") from None


def row_id(data: bytes) -> str:
    """Return the id in a row's authenticated bytes, whatever its record is."""
    return msgspec.msgpack.decode(data, type=tuple[str, msgspec.Raw])[0]
