"""How a request for export stands: which owners consent and by what, what ended it, and who may look.

Follows `docs/spec/exports.md`, "How a request stands". Asked by the writer, anew each time.

Invariants:

- Every owner's consent is needed: its own vote, as many of its delegates' as it demands, or, for a report that a
  workload made, policies that permit `export`.
- One refusal, the end of the time, and a revocation at the capsule or anything above it end a request.

Example:
    >>> stand(draft, request, capsule, permitted(draft, policies, capsule, now), now).state
    'open'
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from mitai.broker.commands import known_co_owner
from mitai.broker.consent import Policies, ask
from mitai.broker.inheritance import any_ended, asked, held
from mitai.broker.policy import Facts, ReleaseFact, job_of
from mitai.broker.protocol import ExportConsent, ExportState
from mitai.broker.records import Capsule, ExportRequest, Grant, Made, Vote
from mitai.broker.store import Draft
from mitai.errors import DeniedError

FINAL = frozenset({"collected", "refused", "expired", "ended"})


@dataclass(frozen=True)
class Standing:
    """How a request stands: its state, each owner's consent, and the commands of the votes that count."""

    state: ExportState
    consents: tuple[ExportConsent, ...]
    approvals: tuple[str, ...]


@dataclass(frozen=True)
class _Asking:
    policies: Policies
    now: datetime


def permitted(draft: Draft, policies: Policies, capsule: Capsule, now: datetime) -> frozenset[str]:
    """Return the owners whose policies let this capsule out: for a report that a workload made, and nothing else."""
    made = capsule.made
    if made is None or capsule.kind != "report":
        return frozenset()
    asking, facts = _Asking(policies, now), _facts(made, capsule, now)
    answers: dict[str, bool] = {}
    for grant, source in asked(draft, capsule):
        allowed = ask(draft, asking, facts, capsule, (grant, source)) is None
        answers[grant.party] = answers.get(grant.party, True) and allowed
    return frozenset(party for party, allowed in answers.items() if allowed)


def stand(draft: Draft, request: ExportRequest, capsule: Capsule, by_policy: frozenset[str], now: datetime) -> Standing:
    """Return how a request stands; `by_policy` are the owners whose policies let the capsule out."""
    consents, counted = [], []
    for grant in capsule.grants:
        consent, votes = _consent(draft, request, grant, by_policy)
        consents.append(consent)
        counted += votes
    state = ending(draft, request, capsule, now)
    if state == "open" and all(consent.by for consent in consents):
        state = "approved"
    return Standing(state, tuple(consents), tuple(vote.command_sha256 for vote in counted))


def ending(draft: Draft, request: ExportRequest, capsule: Capsule, now: datetime) -> ExportState:
    """Return the state that a request is in for good, or `open`."""
    if request.refused:
        return "refused"
    if now.timestamp() > request.not_after_s:
        return "expired"
    if request.ended or capsule.manifest_sha256 != request.manifest_sha256:
        return "ended"
    if any_ended(draft, capsule, now) is not None:
        return "ended"
    return "open" if request.collected is None else "collected"


def _consent(
    draft: Draft, request: ExportRequest, grant: Grant, by_policy: frozenset[str]
) -> tuple[ExportConsent, list[Vote]]:
    """Return one owner's consent, and the votes that make it."""
    owner = known_co_owner(draft, grant.party)
    voters, needed = (owner.delegates, owner.threshold) if owner.delegates else ((grant.party,), 1)
    votes = [
        vote
        for vote in request.votes
        if (vote.owner, vote.approve) == (grant.party, True)
        and vote.voter in voters
        and not known_co_owner(draft, vote.voter).revoked
    ]
    by: Literal["vote", "delegates", "policy"] | None = None
    if len(votes) >= needed:
        by = "delegates" if owner.delegates else "vote"
    elif grant.party in by_policy:
        by = "policy"
    counted = votes[:needed] if by in {"vote", "delegates"} else []
    return ExportConsent(grant.party, by, owner.delegates, owner.threshold), counted


def _facts(made: Made, capsule: Capsule, now: datetime) -> Facts:
    """Return what a policy sees of an export: the workload that made it, and what that declared."""
    platform = made.platform
    return Facts(
        workload=made.workload,
        purpose="export",
        time=now,
        tee=platform.tee,
        simulated=platform.simulated,
        measurements=tuple(made.measurements.items()),
        tcb_status=platform.tcb_status,
        advisory_ids=platform.advisory_ids,
        tcb_evaluation_number=platform.tcb_evaluation_number,
        parameters=made.parameters,
        release=ReleaseFact(*platform.release) if platform.release else None,
        residency=platform.residency,
        capsules=(capsule.capsule,),
        owners=tuple(grant.party for grant in capsule.grants),
        job=job_of(made.parameters),
        kind=capsule.kind,
        lineage=made.lineage,
    )


# --- Who may look -----------------------------------------------------------------------------------------------------


def check_collector(request: ExportRequest, capsule: Capsule, party: str) -> None:
    """Raise unless a party may have the sealed key fetched: the recipient, or an owner."""
    if party != request.recipient.party and capsule.grant_of(party) is None:
        raise unknown()


def may_look(draft: Draft, capsule: Capsule, party: str) -> bool:
    """Tell whether a party sees a capsule and its exports: an owner, or a delegate of one."""
    return capsule.grant_of(party) is not None or any(
        party in known_co_owner(draft, grant.party).delegates for grant in capsule.grants
    )


def listed(draft: Draft, capsule: Capsule) -> Iterator[ExportRequest]:
    """Return the requests about a capsule, newest first."""
    return (known(draft, name) for name in reversed(capsule.exports))


def collected(draft: Draft, name: str, party: str, now: datetime) -> tuple[ExportRequest, Capsule]:
    """Return a request whose key was collected, and its capsule, while that may still be fetched."""
    request = known(draft, name)
    capsule = held(draft, request.capsule)
    check_collector(request, capsule, party)
    state = ending(draft, request, capsule, now)
    if state != "collected":
        raise DeniedError("broker.export-not-approved", f"this request is {state}")
    return request, capsule


def known(draft: Draft, name: str) -> ExportRequest:
    """Return a request; raise `DeniedError` when there is none."""
    request = draft.get(ExportRequest, name)
    if request is None:
        raise unknown()
    return request


def unknown() -> DeniedError:
    """Return the error for strangers, and for what does not exist."""
    return DeniedError("broker.export-unknown", "this party has no say in such a request")
