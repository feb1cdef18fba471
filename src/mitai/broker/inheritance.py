"""Whose consent a capsule needs: its owners' own policies, and for a derived capsule those over what it was made of.

Follows `docs/spec/derived.md`, "Whose consent". Asked by the writer within the transaction that decides.

Invariants:

- Whoever owns an ancestor owns the derived capsule too. An owner without a policy of its own for it is asked by all its
  policies over the parents, as they are now; one that never set a policy there is a no.
- A derived capsule's own counters count, against those policies' limits.
- What is revoked or expired at any ancestor has ended for all that derives from it, whatever was set there.

Example:
    >>> [(grant.party, source.policy_sha256) for grant, source in asked(draft, adapter)]
    [('a11ce…', '5f1c…'), ('b0b…', '77aa…')]
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from mitai.broker.records import Capsule, Grant, Party
from mitai.broker.store import Draft
from mitai.errors import BrokerError


@dataclass(frozen=True)
class Refusal:
    """Why keys are not released."""

    code: str
    why: str


def asked(draft: Draft, capsule: Capsule) -> tuple[tuple[Grant, Grant], ...]:
    """Return for each policy that must allow: its owner's grant for `capsule`, and the grant that holds the policy."""
    if capsule.made is None:
        return tuple((grant, grant) for grant in capsule.grants)
    return tuple((grant, source) for grant in capsule.grants for source in _sources(draft, capsule, grant.party))


def any_ended(draft: Draft, capsule: Capsule, now: datetime) -> Refusal | None:
    """Return why consent has ended: an owner revoked it or its time is over, for the capsule or any ancestor."""
    for each in (capsule, *ancestors(draft, capsule)):
        for grant in each.grants:
            refusal = ended(draft, grant, now)
            if refusal is not None:
                return Refusal(refusal.code, f"capsule {each.capsule}, owner {grant.party[:16]}: {refusal.why}")
    return None


def ended(draft: Draft, grant: Grant, now: datetime) -> Refusal | None:
    """Return why this owner's consent is over, revoked or expired."""
    party = draft.get(Party, grant.party)
    if party is None or party.revoked or grant.revoked:
        return Refusal("broker.revoked", "the owner has revoked it")
    if grant.budget.not_after_s is not None and now.timestamp() > grant.budget.not_after_s:
        return Refusal("broker.policy-expired", "the time that the owner allowed is over")
    return None


def ancestors(draft: Draft, capsule: Capsule) -> Iterator[Capsule]:
    """Return all capsules that this one derives from."""
    return (held(draft, name) for name in capsule.lineage)


def held(draft: Draft, name: str) -> Capsule:
    """Return a capsule that must be there: others derive from it, and nothing is ever deleted."""
    capsule = draft.get(Capsule, name)
    if capsule is None:
        raise BrokerError("broker.state-damaged", f"capsule {name}, from which others derive, is missing")
    return capsule


def _sources(draft: Draft, capsule: Capsule, party: str) -> list[Grant]:
    """Return an owner's nearest grants with a policy on the ways up, the roots' in any case."""
    found: dict[object, Grant] = {}  # the same policy under the same limits is asked once
    open_, seen = [capsule], {capsule.capsule}
    while open_:
        current = open_.pop()
        grant = current.grant_of(party)
        if grant is None:
            continue
        if grant.policy_sha256 is not None or current.made is None:
            found.setdefault((grant.policy_sha256, grant.budget), grant)
        else:
            parents = [name for name in current.made.parents if name not in seen]
            seen.update(parents)
            open_ += [held(draft, name) for name in parents]
    return list(found.values())
