"""Leases: a workload that was given keys asks every few seconds whether it may go on.

Follows `docs/spec/broker.md`, "Leases"; the workload's side is `lease_client`.

Invariants:

- A lease holds while, for every capsule that the workload names and every ancestor of it, every owner's consent stands:
  neither the owner nor the grant is revoked, and its time is not over. It never reaches beyond that time.
- Only capsules that were released to this receipt key are asked about.
- A renewal writes nothing. A refusal is logged once for each capsule of each receipt key.

Example:
    >>> answer_of(writer.submit(prepare(body, audience, now)).result())
    b'{"v":1,"nonce":"…","lease_s":60.0}'
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import msgspec

from mitai.broker import protocol
from mitai.broker.commands import MAX_RECENT, check_addressing, check_clock, open_signed, public_key
from mitai.broker.inheritance import Refusal, ancestors, ended, held
from mitai.broker.protocol import LEASE_S, LeaseAnswer, LeaseRequest, LeaseStatement
from mitai.broker.records import Capsule, Replica
from mitai.broker.store import Draft, Key
from mitai.broker.writer import Job
from mitai.errors import DeniedError
from mitai.ledger.entry import Denial, utc


@dataclass(frozen=True)
class Outcome:
    """What was decided: a lease of `lease_s`, or a refusal."""

    nonce: str
    lease_s: float = 0.0
    refusal: Refusal | None = None


def prepare(body: bytes, audience: str, now: datetime) -> Job[Outcome]:
    """Check a request on its own and return the job that decides it.

    1. The request parses, and its statement is signed by the receipt key that it carries.
    2. The statement names this key, this broker, and a time close to now.

    Raises:
        ParseError: The request is malformed or too large.
        BrokerError: A check failed.
    """
    # 1. signature
    request = protocol.decode(body, LeaseRequest, protocol.MAX_LEASE_BYTES)
    signer = public_key(request.receipt_key)
    payload = open_signed(request.lease, protocol.LEASE_TYPE, signer)
    statement = protocol.decode(payload, LeaseStatement, protocol.MAX_LEASE_BYTES)
    # 2. who, to whom, when
    check_addressing(statement, signer, audience, now)
    record = request.receipt_key.hex()
    keys: tuple[Key, ...] = ((Replica, record), *((Capsule, capsule) for capsule in statement.capsules))
    return Job(lambda draft: _decide(draft, record, statement, now), keys)


def answer_of(outcome: Outcome) -> bytes:
    """Return the answer of a decided request; raise `DeniedError` for a refusal."""
    if outcome.refusal is not None:
        raise DeniedError(outcome.refusal.code, outcome.refusal.why, hint="stop using it, and drop its keys")
    return protocol.encode(LeaseAnswer(nonce=outcome.nonce, lease_s=outcome.lease_s))


def _decide(draft: Draft, record: str, statement: LeaseStatement, now: datetime) -> Outcome:
    check_clock(draft, now)
    replica = draft.get(Replica, record)
    if replica is None:
        raise DeniedError("broker.replica-unknown", "no keys were released to a workload with this receipt key")
    lease_s = LEASE_S
    for name in statement.capsules:
        if name not in replica.capsules:
            raise DeniedError("broker.capsule-unknown", f"capsule {name} was not released to this receipt key")
        capsule = held(draft, name)
        for each in (capsule, *ancestors(draft, capsule)):
            for grant in each.grants:
                over = ended(draft, grant, now)
                if over is not None:
                    refusal = Refusal(over.code, f"capsule {each.capsule}, owner {grant.party[:16]}: {over.why}")
                    if name not in replica.stopped:
                        _log(draft, {name: capsule, each.capsule: each}, refusal, replica, now)
                        draft.put(record, msgspec.structs.replace(replica, stopped=(*replica.stopped, name)))
                    return Outcome(statement.nonce, refusal=refusal)
                if grant.budget.not_after_s is not None:
                    lease_s = min(lease_s, grant.budget.not_after_s - now.timestamp())
    return Outcome(statement.nonce, lease_s)


def _log(draft: Draft, capsules: Mapping[str, Capsule], refusal: Refusal, replica: Replica, now: datetime) -> None:
    """Log a refusal, for the owners of the capsule that was held and of the ancestor that ended it."""
    entry = Denial(
        time=utc(now),
        capsules=tuple(capsules),
        code=refusal.code,
        reasons=(refusal.why,),
        workload=replica.workload,
        purpose="lease",
        simulated=replica.simulated,
    )
    index = draft.append(entry.encode())
    for name, capsule in capsules.items():
        draft.put(name, capsule.noted(index, MAX_RECENT))
