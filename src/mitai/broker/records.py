"""What the broker keeps: parties, capsules with each owner's grant, replicas that may send receipts, and the head.

Records are frozen values in MessagePack, sealed by `vault`; `store` reads and writes them.

Invariants:

- A record never changes in place: a decision makes a new value, and the group commit writes it with its ledger entry.
- `repr` shows no key.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from mitai.broker.protocol import Amounts, Budget
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

    def __repr__(self) -> str:
        return f"Capsule({self.capsule!r}, …)"

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


class Holding(Record, frozen=True):
    """One page of the capsules that a party has a say over, in the order of their registration."""

    capsules: tuple[str, ...] = ()


class Replica(Record, frozen=True):
    """A receipt key from the attested claims of a workload that was given keys."""

    workload: str
    simulated: bool
    seen_s: int
    capsules: tuple[str, ...] = ()  # all that were ever released to it, in order: what it derives has them as parents


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


class LedgerKey(Record, frozen=True):
    """The ledger's signing key and origin, made at first start."""

    seed: bytes
    origin: str

    def __repr__(self) -> str:
        return f"LedgerKey({self.origin!r})"


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
