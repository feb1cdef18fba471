"""Owners' commands: checked without any state first, then applied by the writer together with their ledger entries.

Invariants:

- A command counts only for the broker that it names, within five minutes of its time, and once: each party's
  sequence only grows, so that a command held back can't come after a newer one either.
- A party's newest command sent again changes nothing and gets the answer that it had.
- Only the key that a party is named after speaks for it; a capsule's manifest must be signed by whoever registers it.
- A stranger and an owner's mistake look alike: `broker.capsule-unknown`.
- Revocation is final, for a capsule and for a party.

Example:
    >>> writer.submit(prepare(body, audience, now, engine, limits)).result()
    17
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import msgspec

from mitai.broker import protocol
from mitai.broker.policy import PolicyEngine
from mitai.broker.protocol import (
    CAPSULES_PER_PAGE,
    Command,
    CommandRequest,
    RegisterCapsule,
    RegisterParty,
    Revoke,
    RotateKey,
    SetPolicy,
    Signed,
    sha256_hex,
)
from mitai.broker.records import Capsule, ExportRequest, Grant, Holding, Party
from mitai.broker.store import Draft, Key
from mitai.broker.writer import Job
from mitai.capsule import Manifest, open_manifest
from mitai.capsule.opening import check_data_key, check_new
from mitai.errors import BrokerError, DeniedError, MitaiError, ParseError
from mitai.identity import Envelope, PublicKey
from mitai.ledger.entry import CapsuleRegistered, CapsuleResealed, PartyRegistered, PolicySet, Revocation, utc

CLOCK_TOLERANCE_S = 60  # how far the clock may be behind the newest ledger entry
MAX_RECENT = 100  # ledger indices that a capsule remembers
MAX_FORMER = 16  # revisions before the present one


@dataclass(frozen=True)
class Limits:
    """How much the broker keeps, and for whom; no `allowed_parties` means anybody may register."""

    parties: int = 10_000
    capsules: int = 1_000_000
    capsules_per_party: int = 10_000
    replicas: int = 100_000
    exports: int = 100_000
    exports_per_party: int = 1_000
    allowed_parties: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Context:
    """What every command's application needs."""

    command_sha256: str
    now: datetime
    limits: Limits

    @property
    def time(self) -> str:
        """The ledger's spelling of now."""
        return utc(self.now)


@dataclass(frozen=True, repr=False)
class Offer:
    """What a capsule's registration brings along."""

    manifest: Manifest
    envelope: bytes
    data_key: bytes


def prepare(body: bytes, audience: str, now: datetime, engine: PolicyEngine, limits: Limits) -> Job[int]:
    """Check a command on its own and return the job that applies it; the job's result is its ledger index.

    1. The request parses, and its envelope is signed by the key that it carries.
    2. The command names this key's party, this broker, and a time close to now.
    3. What it carries fits: the manifest is that party's, the key opens it, the policy compiles.

    Raises:
        ParseError: The request is malformed or too large.
        BrokerError: A check failed.
    """
    # 1. signature
    request = protocol.decode(body, CommandRequest, protocol.MAX_COMMAND_BYTES)
    signer = public_key(request.public_key)
    payload = open_signed(request.command, protocol.COMMAND_TYPE, signer)
    command = protocol.decode_command(payload)
    # 2. who, to whom, when
    check_addressing(command, signer, audience, now)
    # 3. what
    context = Context(sha256_hex(payload), now, limits)
    offer = _check_content(request, command, signer, engine)
    return Job(lambda draft: _apply(draft, command, context, signer, offer), _keys(command))


def open_signed(envelope: Envelope, payload_type: str, signer: PublicKey) -> bytes:
    """Return the signed payload; raise `BrokerError` when `signer` did not sign it."""
    try:
        return envelope.open(payload_type, signer)
    except MitaiError as error:
        raise BrokerError("broker.signature-invalid", error.message) from None


def public_key(raw: bytes) -> PublicKey:
    """Return a key that a request carries; raise `ParseError` when it is none."""
    try:
        return PublicKey(raw)
    except ValueError:
        raise ParseError("broker.key-malformed", "these 32 bytes are not an Ed25519 key") from None


def check_addressing(
    signed: protocol.Signed | protocol.Query | protocol.LeaseStatement,
    signer: PublicKey,
    audience: str,
    now: datetime,
) -> None:
    """Raise unless the structure names its signer, this broker, and a time within five minutes of `now`."""
    if signed.party != signer.key_id:
        raise BrokerError("broker.party-mismatch", "the command names another party than the one that signed it")
    if signed.broker != audience:
        raise BrokerError(
            "broker.wrong-audience",
            "this was signed for another broker",
            hint="verify this broker again and sign for the ledger key in its claims",
        )
    if abs(now.timestamp() - signed.time_s) > protocol.CLOCK_WINDOW_S:
        raise BrokerError("broker.stale", "this was signed too long ago, or the clocks differ", hint="check the clock")


def _check_content(request: CommandRequest, command: Command, signer: PublicKey, engine: PolicyEngine) -> Offer | None:
    if isinstance(command, RegisterCapsule | SetPolicy):
        engine.compile(command.policy)
    if not isinstance(command, RegisterCapsule | RotateKey):
        if request.data_key is not None or request.manifest is not None:
            raise ParseError(
                "broker.malformed", "only a capsule's registration or new key carries a key and a manifest"
            )
        return None
    if request.data_key is None or request.manifest is None:
        raise ParseError("broker.malformed", "a capsule's registration or new key carries its key and its manifest")
    manifest = open_manifest(request.manifest, owner=signer, manifest_sha256=command.manifest_sha256)
    if isinstance(command, RegisterCapsule):
        check_new(manifest, request.data_key, signer)  # nobody registers an id that it saw elsewhere
    else:
        check_data_key(manifest, request.data_key)
    if manifest.capsule_id != command.capsule:
        raise BrokerError("broker.capsule-mismatch", "the command names another capsule than its manifest")
    co_owners = command.co_owners if isinstance(command, RegisterCapsule) else ()
    if len({*co_owners, command.party}) != len(co_owners) + 1:
        raise ParseError("broker.malformed", "a capsule's owners are named once each")
    return Offer(manifest, request.manifest, request.data_key)


def _keys(command: Command) -> tuple[Key, ...]:
    capsule = getattr(command, "capsule", None)
    owners = command.co_owners if isinstance(command, RegisterCapsule) else ()
    parties: list[Key] = [(Party, party) for party in (command.party, *owners)]
    return (*parties, (Capsule, capsule)) if capsule else tuple(parties)


def check_clock(draft: Draft, now: datetime) -> None:
    """Raise when the clock is behind the ledger: what has ended does not begin again by setting it."""
    if now.timestamp() < draft.head.time_s - CLOCK_TOLERANCE_S:
        raise BrokerError("broker.clock-behind", "this machine's clock is behind the newest ledger entry")


def _apply(draft: Draft, command: Command, context: Context, signer: PublicKey, offer: Offer | None) -> int:
    return once(draft, command.party, context, lambda: _carry_out(draft, command, context, signer, offer))


def once(draft: Draft, party_id: str, context: Context, carry_out: Callable[[], int]) -> int:
    """Carry a command out, unless it is its party's newest: then its answer was lost, and is what it was."""
    check_clock(draft, context.now)
    before = draft.get(Party, party_id)
    if before is not None and before.last_sha256 == context.command_sha256:
        return before.last_index  # its answer was lost
    index = carry_out()
    party = draft.records[Party, party_id]
    assert isinstance(party, Party)  # noqa: S101 - every command changes its party's record
    last = {"last_sha256": context.command_sha256, "last_index": index}
    draft.put(party_id, msgspec.structs.replace(party, **last))
    return index


def _carry_out(draft: Draft, command: Command, context: Context, signer: PublicKey, offer: Offer | None) -> int:
    if isinstance(command, RegisterParty):
        return _register_party(draft, command, context, signer)
    party = accept(draft, command)
    if isinstance(command, Revoke):
        return _revoke(draft, command, context, party)
    if isinstance(command, SetPolicy):
        return _set_policy(draft, command, context)
    assert offer is not None  # noqa: S101 - `_check_content` made one
    if isinstance(command, RotateKey):
        return _rotate_key(draft, command, context, offer)
    if party.capsules >= context.limits.capsules_per_party:
        raise BrokerError("broker.full", "this party has registered as many capsules as it may")
    index = register_capsule(draft, command, context, offer)
    hold(draft, command.party, msgspec.structs.replace(party, capsules=party.capsules + 1), command.capsule)
    for co_owner in command.co_owners:
        hold(draft, co_owner, known_co_owner(draft, co_owner), command.capsule)
    return index


def hold(draft: Draft, party_id: str, party: Party, capsule: str) -> None:
    """Add a capsule to the list of those that a party has a say over."""
    page = page_of(party_id, party.held // CAPSULES_PER_PAGE)
    held = draft.get(Holding, page) or Holding()
    draft.put(page, Holding((*held.capsules, capsule)))
    draft.put(party_id, msgspec.structs.replace(party, held=party.held + 1))


def page_of(party_id: str, number: int) -> str:
    """Name a page of a party's list of capsules."""
    return f"{party_id}/{number}"


def _register_party(draft: Draft, command: RegisterParty, context: Context, signer: PublicKey) -> int:
    limits = context.limits
    if limits.allowed_parties and command.party not in limits.allowed_parties:
        raise DeniedError("broker.party-not-allowed", "this broker serves a fixed list of parties, and this is none")
    if draft.get(Party, command.party) is not None:
        raise BrokerError("broker.party-exists", "this party is registered already")
    check_room(draft, "party", limits.parties)
    draft.put(command.party, Party(signer.raw, command.name, command.time_s, command.sequence))
    return draft.append(PartyRegistered(time=context.time, party=command.party, name=command.name).encode())


def accept(draft: Draft, command: Signed) -> Party:
    """Advance the party's sequence; raise when it is unknown, revoked, or said this before."""
    party = known_party(draft, command.party)
    if command.sequence <= party.sequence:
        raise BrokerError(
            "broker.replayed",
            "this command, or one after it, was accepted before",
            hint=f"a new command has a sequence above {party.sequence}",
        )
    party = msgspec.structs.replace(party, sequence=command.sequence)
    draft.put(command.party, party)
    return party


def known_party(draft: Draft, party_id: str) -> Party:
    """Return a registered party that may still command."""
    party = draft.get(Party, party_id)
    if party is None:
        raise DeniedError("broker.party-unknown", "this party is not registered here")
    if party.revoked:
        raise DeniedError("broker.revoked", "this party has revoked everything and can't command any more")
    return party


def known_co_owner(draft: Draft, party_id: str) -> Party:
    """Return a registered party, whether or not it may still command."""
    party = draft.get(Party, party_id)
    if party is None:
        raise BrokerError("broker.party-unknown", "a co-owner is not registered here")
    return party


def check_room(draft: Draft, kind: str, limit: int) -> None:
    """Raise `broker.full` when there are `limit` rows of that kind."""
    if draft.head.counts.get(kind, 0) >= limit:
        raise BrokerError("broker.full", f"this broker holds as many of kind {kind!r} as it may")


def register_capsule(draft: Draft, command: RegisterCapsule, context: Context, offer: Offer) -> int:
    """Write a capsule and log it; whoever calls this has checked the command and the offer."""
    if draft.get(Capsule, command.capsule) is not None:
        raise BrokerError("broker.capsule-exists", "this capsule is registered already", hint="replace its policy")
    for co_owner in command.co_owners:
        known_co_owner(draft, co_owner)
    check_room(draft, "capsule", context.limits.capsules)
    policy_sha256 = keep(draft, command.policy.encode())
    owner = Grant(command.party, policy_sha256, 1, command.budget)
    registered = CapsuleRegistered(
        time=context.time,
        capsule=command.capsule,
        kind=offer.manifest.kind,
        name=offer.manifest.name,
        owners=(command.party, *command.co_owners),
        manifest_sha256=command.manifest_sha256,
        parents=offer.manifest.parents,
    )
    indices = (draft.append(registered.encode()), draft.append(_policy_set(command, context, owner)))
    draft.put(
        command.capsule,
        Capsule(
            capsule=command.capsule,
            owner=command.party,
            manifest_sha256=command.manifest_sha256,
            envelope_sha256=keep(draft, offer.envelope),
            envelope_bytes=len(offer.envelope),
            data_key=offer.data_key,
            registered_s=command.time_s,
            grants=(owner, *(Grant(party) for party in command.co_owners)),
            recent=indices,
            kind=offer.manifest.kind,
            index=indices[0],
        ),
    )
    return indices[-1]


def _set_policy(draft: Draft, command: SetPolicy, context: Context) -> int:
    capsule, old = owned(draft, command.capsule, command.party)
    if command.replaces not in {msgspec.UNSET, old.version}:
        raise BrokerError(
            "broker.policy-changed",
            f"version {old.version} of this owner's policy is in force, not {command.replaces}",
            hint="look at it, then replace that one",
        )
    policy_sha256 = keep(draft, command.policy.encode())
    grant = msgspec.structs.replace(
        old, policy_sha256=policy_sha256, version=old.version + 1, budget=command.budget
    )  # what was used stays used
    index = draft.append(_policy_set(command, context, grant))
    draft.put(command.capsule, capsule.with_grant(grant).noted(index, MAX_RECENT))
    return index


def _rotate_key(draft: Draft, command: RotateKey, context: Context, offer: Offer) -> int:
    """Give a capsule a new data key and manifest.

    1. The signer registered it; it is nobody's derivation, of which many are owners, and no single one has the key.
    2. What it replaces is what is in force: a command that was overtaken changes nothing.
    3. It says of itself what the former one said, file by file; and the key is another.
    4. As nobody can see that the contents are the same, each co-owner has to set its policy anew, and what was to be
       let out is asked for anew, even if the former manifest comes back.
    """
    # 1. whose
    capsule, grant = owned(draft, command.capsule, command.party)
    if capsule.made is not None:
        raise BrokerError(
            "broker.derived-fixed", "a derived capsule's key can't be rotated by its owners", hint="derive it anew"
        )
    if capsule.owner != command.party:
        raise DeniedError("broker.not-registrant", "only the party that registered a capsule can give it a new key")
    # 2. what it replaces
    if command.previous_sha256 != capsule.manifest_sha256:
        raise BrokerError("broker.revision-overtaken", "another manifest is in force than this command would replace")
    if len(capsule.reseals) >= MAX_RECENT:  # all of them are shown to who verifies what was made of it
        raise BrokerError(
            "broker.too-many-revisions", f"a capsule is given at most {MAX_RECENT} new keys", hint="publish it anew"
        )
    # 3. the same files, another key
    former = open_manifest(
        draft.blob(capsule.envelope_sha256), owner=PublicKey(known_party(draft, command.party).public_key)
    )
    if _outline(former) != _outline(offer.manifest):
        raise BrokerError(
            "broker.revision-differs", "the new manifest is not of the same files: seal them as they were"
        )
    if offer.data_key == capsule.data_key:
        raise BrokerError("broker.key-unchanged", "the new data key is the former one")
    entry = CapsuleResealed(
        time=context.time,
        capsule=command.capsule,
        owner=command.party,
        manifest_sha256=command.manifest_sha256,
        previous_sha256=command.previous_sha256,
        command_sha256=context.command_sha256,
    )
    index = draft.append(entry.encode())
    # 4. co-owners, exports
    for name in capsule.exports:
        request = draft.get(ExportRequest, name)
        if request is not None:
            draft.put(name, msgspec.structs.replace(request, ended=True))
    others = (msgspec.structs.replace(other, policy_sha256=None) for other in capsule.grants if other != grant)
    resealed = msgspec.structs.replace(
        capsule,
        manifest_sha256=command.manifest_sha256,
        envelope_sha256=keep(draft, offer.envelope),
        envelope_bytes=len(offer.envelope),
        data_key=offer.data_key,
        former=(*capsule.former, capsule.manifest_sha256)[-MAX_FORMER:],
        reseals=(*capsule.reseals, index),
        grants=(grant, *others),
    )
    draft.put(command.capsule, resealed.noted(index, MAX_RECENT))
    return index


def _outline(manifest: Manifest) -> tuple[object, ...]:
    """Return what a manifest says of itself, but for how and when it was sealed."""
    files = tuple((file.name, file.size) for file in manifest.files)
    return manifest.name, manifest.kind, manifest.parents, manifest.labels, files


def _revoke(draft: Draft, command: Revoke, context: Context, party: Party) -> int:
    subject = f"capsule:{command.capsule}" if command.capsule else f"party:{command.party}"
    entry = Revocation(
        time=context.time,
        owner=command.party,
        subject=subject,
        reason="revoked by its owner",
        command_sha256=context.command_sha256,
    )
    if command.capsule is None:
        draft.put(command.party, msgspec.structs.replace(party, revoked=True))
        return draft.append(entry.encode())
    capsule, grant = owned(draft, command.capsule, command.party)
    index = draft.append(entry.encode())
    revoked = capsule.with_grant(msgspec.structs.replace(grant, revoked=True))
    draft.put(command.capsule, revoked.noted(index, MAX_RECENT))
    return index


def owned(draft: Draft, capsule_id: str, party: str) -> tuple[Capsule, Grant]:
    """Return a capsule with that party's grant; raise `DeniedError` when it has none, or revoked it."""
    capsule = draft.get(Capsule, capsule_id)
    grant = capsule.grant_of(party) if capsule else None
    if capsule is None or grant is None:
        raise DeniedError("broker.capsule-unknown", "this party owns no such capsule here")
    if grant.revoked:
        raise DeniedError("broker.revoked", "this capsule was revoked, for good", hint="seal and publish it anew")
    return capsule, grant


def _policy_set(command: RegisterCapsule | SetPolicy, context: Context, grant: Grant) -> bytes:
    return PolicySet(
        time=context.time,
        capsule=command.capsule,
        owner=command.party,
        policy_sha256=sha256_hex(command.policy.encode()),
        version=grant.version,
        command_sha256=context.command_sha256,
    ).encode()


def keep(draft: Draft, content: bytes) -> str:
    """Store content under its digest, and return that."""
    digest = sha256_hex(content)
    draft.blobs[digest] = content
    return digest
