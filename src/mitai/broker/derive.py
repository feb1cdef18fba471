"""Derived capsules: a workload hands over what it made of the capsules that it was given.

Follows `docs/spec/derived.md`. Checked without any state first, then applied by the writer with its ledger entry.

Invariants:

- Manifest and statement are signed by the receipt key of a workload that was given keys, and both name as parents
  every capsule that was ever released to it: none can be left out.
- The statement says of the workload what its evidence proved, and of the job what it declared.
- All owners of all parents become owners, without a policy of their own for it. Parents are known before their child,
  so there are no cycles.
- The same request again gives the same ledger index and changes nothing.

Example:
    >>> writer.submit(prepare(body, audience, now, limits)).result()
    42
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from mitai.broker import protocol
from mitai.broker.commands import Limits, check_clock, check_room, hold, keep, known_co_owner, open_signed, public_key
from mitai.broker.inheritance import any_ended, held
from mitai.broker.lineage import PAYLOAD_TYPE, Statement, statement_sha256
from mitai.broker.protocol import MAX_OWNERS, DeriveRequest, sha256_hex
from mitai.broker.records import Capsule, Grant, Made, Replica
from mitai.broker.store import Draft, Key
from mitai.broker.writer import Job
from mitai.capsule import Manifest, open_manifest
from mitai.capsule.opening import check_new
from mitai.errors import BrokerError, DeniedError, ParseError
from mitai.identity import Envelope, PublicKey
from mitai.ledger.entry import Derivation, utc

MAX_LINEAGE = 64  # ancestors of one capsule
MAX_DEPTH = 16
MAX_DERIVED = 1024  # capsules that one workload makes


@dataclass(frozen=True, repr=False)
class Offer:
    """A derived capsule that was checked on its own."""

    signer: PublicKey
    statement: Statement
    signed: Envelope
    manifest: Manifest
    envelope: bytes
    data_key: bytes


def prepare(body: bytes, audience: str, now: datetime, limits: Limits) -> Job[int]:
    """Check a request on its own and return the job that registers the capsule; its result is the ledger index.

    1. The statement is signed by the receipt key, is one, and names this broker.
    2. The manifest is signed by the same key, and is the one that the statement is about; the data key opens it, and
       its id follows from both keys, so that nobody else can have registered it.
    3. Manifest and statement name the same parents and kind.

    Raises:
        ParseError: The request is malformed or too large.
        MitaiError: A check failed.
    """
    request = protocol.decode(body, DeriveRequest, protocol.MAX_DERIVE_BYTES)
    signer = public_key(request.receipt_key)
    # 1. statement
    if len(request.statement.signatures) != 1:
        raise ParseError("broker.malformed", "a statement has one signature")
    statement = Statement.decode(open_signed(request.statement, PAYLOAD_TYPE, signer))
    if statement.internal.broker != audience:
        raise BrokerError("broker.wrong-audience", "this statement was signed for another broker")
    # 2. manifest
    manifest = open_manifest(request.manifest, owner=signer, manifest_sha256=statement.manifest_sha256)
    check_new(manifest, request.data_key, signer)
    # 3. both
    said = (statement.capsule, statement.internal.kind, tuple(statement.inputs))
    if said != (manifest.capsule_id, manifest.kind, manifest.parents):
        raise ParseError("broker.statement-mismatch", "statement and manifest differ in capsule, kind or parents")
    offer = Offer(signer, statement, request.statement, manifest, request.manifest, request.data_key)
    parents: list[Key] = [(Capsule, name) for name in manifest.parents]
    keys: tuple[Key, ...] = ((Replica, signer.raw.hex()), (Capsule, statement.capsule), *parents)
    return Job(lambda draft: _apply(draft, offer, now, limits), keys)


def _apply(draft: Draft, offer: Offer, now: datetime, limits: Limits) -> int:
    """Register a derived capsule, in the writer.

    1. The clock is not behind the ledger, and the workload was given keys.
    2. What is there already is the same: then that is the answer.
    3. The statement is true as far as the broker knows, and names all parents.
    4. No consent over any ancestor has ended; all bounds hold.
    """
    # 1. who
    check_clock(draft, now)
    replica = draft.get(Replica, offer.signer.raw.hex())
    if replica is None:
        raise DeniedError("broker.replica-unknown", "no keys were released to a workload with this receipt key")
    # 2. again
    there = draft.get(Capsule, offer.statement.capsule)
    if there is not None:
        return _again(there, offer)
    # 3. the truth
    _check_truth(offer.statement, replica)
    parents = [held(draft, name) for name in offer.manifest.parents]
    if any(
        offer.statement.inputs[parent.capsule] not in {parent.manifest_sha256, *parent.former} for parent in parents
    ):
        raise BrokerError("broker.statement-mismatch", "the statement names another manifest of an input")
    # 4. consent and bounds
    for parent in parents:
        refusal = any_ended(draft, parent, now)
        if refusal is not None:
            raise DeniedError(refusal.code, refusal.why)
    capsule = _capsule(offer, parents, replica, now, draft.next_index)
    if replica.derived >= MAX_DERIVED:
        raise _out_of_bounds(f"a workload makes at most {MAX_DERIVED} capsules")
    check_room(draft, "capsule", limits.capsules)
    draft.put(offer.signer.raw.hex(), msgspec.structs.replace(replica, derived=replica.derived + 1))
    return _register(draft, capsule, offer, replica)


def _again(there: Capsule, offer: Offer) -> int:
    made = there.made
    if (
        made is None
        or made.signer != offer.signer.raw
        or made.statement_sha256 != statement_sha256(offer.signed)
        or there.manifest_sha256 != offer.statement.manifest_sha256
    ):
        raise BrokerError("broker.capsule-exists", "another capsule with this id is registered already")
    return there.index


def _check_truth(statement: Statement, replica: Replica) -> None:
    """Raise unless the statement says what the broker knows of the workload, its job and its inputs."""
    if replica.mixed:
        raise DeniedError(
            "broker.derive-mixed",
            "this workload was given keys for different jobs: what it makes has no one origin",
            hint="begin each job with a fresh receipt key",
        )
    declared = statement.declared
    known = (replica.workload, replica.measurements, replica.purpose, replica.parameters)
    if (statement.workload, statement.measurements, declared.purpose, declared.parameters) != known:
        raise DeniedError("broker.statement-untrue", "the statement differs from what the workload proved and declared")
    if statement.internal.evidence_sha256 not in replica.evidence:
        raise DeniedError("broker.statement-untrue", "the statement names evidence that no keys were released for")
    if set(statement.inputs) != set(replica.capsules):
        raise DeniedError(
            "broker.parents-mismatch", "a derived capsule's parents are all capsules that its maker was given"
        )


def _capsule(offer: Offer, parents: list[Capsule], replica: Replica, now: datetime, index: int) -> Capsule:
    """Return the record of a derived capsule: all owners of its parents own it."""
    assert replica.platform is not None  # noqa: S101 - written with every release
    lineage = {name for parent in parents for name in (parent.capsule, *parent.lineage)}
    depth = 1 + max(parent.made.depth if parent.made else 0 for parent in parents)
    owners = tuple(dict.fromkeys(grant.party for parent in parents for grant in parent.grants))
    if len(lineage) > MAX_LINEAGE or depth > MAX_DEPTH or len(owners) > MAX_OWNERS:
        raise _out_of_bounds(
            f"a capsule derives from at most {MAX_LINEAGE} others, in {MAX_DEPTH} steps, with {MAX_OWNERS} owners"
        )
    manifest = offer.manifest
    return Capsule(
        capsule=manifest.capsule_id,
        owner=offer.signer.key_id,
        manifest_sha256=offer.statement.manifest_sha256,
        envelope_sha256=sha256_hex(offer.envelope),
        envelope_bytes=len(offer.envelope),
        data_key=offer.data_key,
        registered_s=int(now.timestamp()),
        grants=tuple(Grant(party) for party in owners),
        recent=(index,),
        kind=manifest.kind,
        index=index,
        made=Made(
            signer=offer.signer.raw,
            statement_sha256=statement_sha256(offer.signed),
            envelope_sha256=sha256_hex(offer.signed.encode()),
            parents=manifest.parents,
            lineage=tuple(sorted(lineage)),
            depth=depth,
            workload=replica.workload,
            measurements=replica.measurements,
            parameters=replica.parameters,
            platform=replica.platform,
        ),
    )


def _register(draft: Draft, capsule: Capsule, offer: Offer, replica: Replica) -> int:
    entry = Derivation(
        time=utc(datetime.fromtimestamp(capsule.registered_s, UTC)),
        capsule=capsule.capsule,
        kind=capsule.kind,
        name=offer.manifest.name,
        owners=tuple(grant.party for grant in capsule.grants),
        manifest_sha256=capsule.manifest_sha256,
        parents=offer.manifest.parents,
        workload=replica.workload,
        signer=offer.signer.key_id,
        statement_sha256=statement_sha256(offer.signed),
        evidence_sha256=offer.statement.internal.evidence_sha256,
        simulated=replica.simulated,
    )
    for content in (offer.envelope, offer.signed.encode()):
        keep(draft, content)
    draft.put(capsule.capsule, capsule)
    for grant in capsule.grants:
        hold(draft, grant.party, known_co_owner(draft, grant.party), capsule.capsule)
    return draft.append(entry.encode())


def _out_of_bounds(why: str) -> BrokerError:
    return BrokerError("broker.lineage-too-large", why)
