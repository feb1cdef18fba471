"""Exports: a capsule leaves in the clear when every owner agreed to exactly that, for exactly this recipient.

Follows `docs/spec/exports.md`. Commands are checked as all owners' commands are, then applied by the writer.

Invariants:

- A request is named by the digest of its signed command: capsule, manifest digest, recipient with its key, and end.
  A vote names that digest, so it is about nothing else.
- Every owner consents: by its own vote, by as many of its delegates as it demands, or, for a report that a workload
  made, by policies that permit `export`. Consent is counted anew when the key is collected.
- One refusal, the end of the time, and a revocation at the capsule or anything above it end a request.
- The key is sealed to the recipient's key of the request, once; it is logged before anybody sees it, and the same
  answer is given again until the request's end.

Example:
    >>> writer.submit(prepare(body, audience, now, limits, policies)).result()
    17
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from mitai.broker import protocol
from mitai.broker.commands import (
    MAX_RECENT,
    Context,
    Limits,
    accept,
    check_addressing,
    check_room,
    keep,
    known_co_owner,
    once,
    open_signed,
    owned,
    public_key,
)
from mitai.broker.consent import Policies
from mitai.broker.inheritance import any_ended, held
from mitai.broker.protocol import (
    CollectExport,
    CommandRequest,
    ExportCommand,
    ExportedKey,
    RequestExport,
    SetDelegates,
    VoteExport,
    export_info,
    sha256_hex,
)
from mitai.broker.records import Capsule, ExportRequest, Party, Vote
from mitai.broker.standing import FINAL, check_collector, ending, known, permitted, stand, unknown
from mitai.broker.store import Draft, Key
from mitai.broker.writer import Job
from mitai.channel.hpke import setup_sender
from mitai.channel.ohttp import KeyConfig
from mitai.errors import BrokerError, DeniedError, ParseError
from mitai.identity import Envelope
from mitai.ledger.entry import Approval, DelegatesSet, Export, ExportRequested, utc

MAX_LIFE_S = 30 * 86400
MAX_OPEN = 4  # requests of one owner about one capsule
MAX_VOTES = 32  # of one owner's delegates, present and former
MAX_KEPT = 64  # requests that a capsule remembers: 16 owners' open ones, at least


@dataclass(frozen=True)
class Command:
    """A checked command, and what its application needs."""

    command: ExportCommand
    envelope: Envelope
    context: Context
    policies: Policies

    @property
    def id(self) -> str:
        """The digest of the signed payload: a request's id."""
        return self.context.command_sha256

    @property
    def now(self) -> datetime:
        """When it came."""
        return self.context.now


def prepare(body: bytes, audience: str, now: datetime, limits: Limits, policies: Policies) -> Job[int]:
    """Check a command on its own and return the job that applies it; the job's result is its ledger index.

    Raises:
        ParseError: The request is malformed or too large.
        BrokerError: A check failed.
    """
    request = protocol.decode(body, CommandRequest, protocol.MAX_EXPORT_BYTES)
    signer = public_key(request.public_key)
    payload = open_signed(request.command, protocol.COMMAND_TYPE, signer)
    command = protocol.decode_export_command(payload)
    check_addressing(command, signer, audience, now)
    if request.data_key is not None or request.manifest is not None or len(request.command.signatures) != 1:
        raise ParseError("broker.malformed", "a command about exports carries one signature, and nothing else")
    _check_content(command, now)
    checked = Command(command, request.command, Context(sha256_hex(payload), now, limits), policies)
    return Job(lambda draft: _apply(draft, checked), _keys(command))


def _check_content(command: ExportCommand, now: datetime) -> None:
    if isinstance(command, RequestExport):
        config = KeyConfig.decode(command.recipient.key)
        setup_sender(config.kem, config.public, b"", config.aeads[0])  # a key that nothing can be sealed to is refused
        if not 0 < command.not_after_s - now.timestamp() <= MAX_LIFE_S:
            raise BrokerError("broker.export-term", f"a request for export ends within {MAX_LIFE_S // 86400} days")
    if isinstance(command, SetDelegates):
        count = len(command.delegates)
        once_each = len({*command.delegates, command.party}) == count + 1
        if not once_each or not min(1, count) <= command.threshold <= count:
            raise ParseError(
                "broker.malformed", "delegates are others, named once each, and it takes one to all of them"
            )


def _keys(command: ExportCommand) -> tuple[Key, ...]:
    keys: list[Key] = [(Party, command.party)]
    if isinstance(command, RequestExport):
        keys.append((Capsule, command.capsule))
    elif isinstance(command, SetDelegates):
        keys += [(Party, delegate) for delegate in command.delegates]
    else:
        keys.append((ExportRequest, command.request))
    return tuple(keys)


def _apply(draft: Draft, checked: Command) -> int:
    command = checked.command

    def carry_out() -> int:
        party = accept(draft, command)
        match command:
            case RequestExport():
                return _request(draft, command, checked, party)
            case VoteExport():
                return _vote(draft, command, checked)
            case SetDelegates():
                return _delegate(draft, command, checked, party)
            case CollectExport():
                return _collect(draft, command, checked)

    return once(draft, command.party, checked.context, carry_out)


# --- Commands ---------------------------------------------------------------------------------------------------------


def _request(draft: Draft, command: RequestExport, checked: Command, party: Party) -> int:
    capsule, _ = owned(draft, command.capsule, command.party)
    if capsule.manifest_sha256 != command.manifest_sha256:
        raise BrokerError("broker.capsule-mismatch", "the capsule has another manifest than the request names")
    over = any_ended(draft, capsule, checked.now)
    if over is not None:
        raise DeniedError(over.code, over.why)
    check_room(draft, "exportrequest", checked.context.limits.exports)
    if party.exports >= checked.context.limits.exports_per_party:
        raise BrokerError("broker.full", "this party has asked for as many exports as it may")
    kept = _room_for_one(draft, checked, capsule, command.party)
    entry = ExportRequested(
        time=checked.context.time,
        request=checked.id,
        capsule=command.capsule,
        manifest_sha256=command.manifest_sha256,
        owner=command.party,
        recipient=command.recipient.party,
        recipient_sha256=sha256_hex(command.recipient.key),
        not_after=utc(datetime.fromtimestamp(command.not_after_s, UTC)),
    )
    index = draft.append(entry.encode())
    request = ExportRequest(
        capsule=command.capsule,
        manifest_sha256=command.manifest_sha256,
        requester=command.party,
        recipient=command.recipient,
        not_after_s=command.not_after_s,
        index=index,
        command_sha256=keep(draft, checked.envelope.encode()),
    )
    draft.put(checked.id, request)
    draft.put(command.party, msgspec.structs.replace(party, exports=party.exports + 1))
    draft.put(capsule.capsule, msgspec.structs.replace(capsule, exports=(*kept, checked.id)).noted(index, MAX_RECENT))
    return index


def _room_for_one(draft: Draft, checked: Command, capsule: Capsule, party: str) -> tuple[str, ...]:
    """Return the requests that a capsule still remembers when one more comes; raise when its owner has enough open."""
    found = {name: known(draft, name) for name in capsule.exports}
    done = [name for name, each in found.items() if ending(draft, each, capsule, checked.now) in FINAL]
    if sum(each.requester == party for name, each in found.items() if name not in done) >= MAX_OPEN:
        raise BrokerError(
            "broker.export-open", f"{MAX_OPEN} requests of this party about this capsule are open", hint="refuse one"
        )
    forgotten = done[: max(0, len(found) + 1 - MAX_KEPT)]
    return tuple(name for name in capsule.exports if name not in forgotten)


def _vote(draft: Draft, command: VoteExport, checked: Command) -> int:
    request = known(draft, command.request)
    capsule = held(draft, request.capsule)
    if capsule.grant_of(command.owner) is None:
        raise unknown()
    owner = known_co_owner(draft, command.owner)
    own = command.party == command.owner
    if not own and command.party not in owner.delegates:
        raise unknown()
    if own and command.approve and owner.delegates:
        raise DeniedError(
            "broker.export-delegated", "this owner's delegates approve in its place", hint="refuse, or end delegation"
        )
    state = ending(draft, request, capsule, checked.now)
    if state in FINAL:
        raise BrokerError("broker.export-ended", f"this request is {state}: there is nothing to vote on any more")
    mine = next((v for v in request.votes if (v.owner, v.voter) == (command.owner, command.party)), None)
    if mine is not None and (command.approve or not mine.approve):
        raise BrokerError("broker.export-voted", "this vote was cast before", hint="a yes can become a no, never back")
    if mine is None and not own and sum(vote.owner == command.owner for vote in request.votes) >= MAX_VOTES:
        raise BrokerError("broker.export-votes", f"{MAX_VOTES} votes for this owner were cast", hint="ask for it anew")
    entry = Approval(
        time=checked.context.time,
        owner=command.owner,
        request=command.request,
        approved=command.approve,
        subject_sha256=request.manifest_sha256,
        delegate=None if own else command.party,
        command_sha256=checked.id,
    )
    index = draft.append(entry.encode())
    vote = Vote(command.owner, command.party, command.approve, command.time_s, checked.id)
    votes = (*(other for other in request.votes if other is not mine), vote)
    refused = not command.approve and (own or _lost(owner, command.owner, votes))
    draft.put(command.request, msgspec.structs.replace(request, votes=votes, refused=refused))
    draft.put(capsule.capsule, capsule.noted(index, MAX_RECENT))
    return index


def _lost(owner: Party, name: str, votes: tuple[Vote, ...]) -> bool:
    """Tell whether so many delegates refused that the others are too few."""
    against = {vote.voter for vote in votes if vote.owner == name and not vote.approve}
    return len(set(owner.delegates) - against) < owner.threshold


def _delegate(draft: Draft, command: SetDelegates, checked: Command, party: Party) -> int:
    for delegate in command.delegates:
        known_co_owner(draft, delegate)
    version = party.delegates_version + 1
    entry = DelegatesSet(
        time=checked.context.time,
        owner=command.party,
        delegates=command.delegates,
        threshold=command.threshold,
        version=version,
        command_sha256=checked.id,
    )
    new = {"delegates": command.delegates, "threshold": command.threshold, "delegates_version": version}
    draft.put(command.party, msgspec.structs.replace(party, **new))
    return draft.append(entry.encode())


def _collect(draft: Draft, command: CollectExport, checked: Command) -> int:
    request = known(draft, command.request)
    capsule = held(draft, request.capsule)
    check_collector(request, capsule, command.party)
    by_policy = permitted(draft, checked.policies, capsule, checked.now)
    standing = stand(draft, request, capsule, by_policy, checked.now)
    if standing.state == "collected" and request.collected is not None:
        return request.collected
    if standing.state != "approved":
        missing = [consent.owner[:16] for consent in standing.consents if consent.by is None]
        raise DeniedError(
            "broker.export-not-approved",
            f"this request is {standing.state}" + (f"; missing: {', '.join(missing)}" if missing else ""),
        )
    entry = Export(
        time=checked.context.time,
        export=command.request,
        capsule=capsule.capsule,
        owners=tuple(grant.party for grant in capsule.grants),
        approvals=standing.approvals,
        recipient=request.recipient.party,
    )
    index = draft.append(entry.encode())
    sealed = _sealed(draft, request, capsule, command.request)
    draft.put(command.request, msgspec.structs.replace(request, collected=index, sealed=sealed))
    for consent in standing.consents:
        grant = capsule.grant_of(consent.owner)
        if consent.by == "policy" and grant is not None:
            capsule = capsule.with_grant(msgspec.structs.replace(grant, uses=grant.uses + 1))
    draft.put(capsule.capsule, capsule.noted(index, MAX_RECENT))
    return index


def _sealed(draft: Draft, request: ExportRequest, capsule: Capsule, name: str) -> bytes:
    """Seal the data key to the recipient whom the owners approved."""
    signer = capsule.made.signer if capsule.made else known_co_owner(draft, capsule.owner).public_key
    key = ExportedKey(
        request=name,
        capsule=capsule.capsule,
        manifest_sha256=capsule.manifest_sha256,
        data_key=capsule.data_key,
        signer=signer,
    )
    config = KeyConfig.decode(request.recipient.key)
    context = setup_sender(config.kem, config.public, export_info(name), config.aeads[0])
    return context.enc + context.seal(protocol.encode(key))
