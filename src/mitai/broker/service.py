"""The key broker: requests as bytes in, answers as bytes out, errors of the tree otherwise.

Joins the parts in their order: parse and verify on worker threads, decide in the writer, answer after the commit.

Invariants:

- A release that was begun is finished whether or not its caller is still there; the same request finds the same answer.
- Refusals of evidence that proves nothing are logged too, but only so many a second: strangers can't fill the ledger.
- A broker that finds its state rolled back does not start.

Example:
    >>> broker = Broker.open(Settings("example.org/ledger", "sqlite:///broker.db", Path("ledger")), attester, policy)
    >>> broker.vkey
    'example.org/ledger+…'
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import itertools
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import structlog
from msgspec import UNSET

from mitai.attest import Attester, LedgerClaim, Policy, VerifiedCache
from mitai.broker import commands, derive, exports, leases, protocol, receipts, standing
from mitai.broker.anchor import Anchor, Witness
from mitai.broker.commands import Limits, check_addressing, open_signed, page_of, public_key
from mitai.broker.consent import Policies
from mitai.broker.inheritance import ancestors
from mitai.broker.nonces import NONCE_LIFE_S, Nonces
from mitai.broker.policy import CedarEngine, PolicyEngine
from mitai.broker.protocol import Amounts, LoggedEntry, ReleaseRequest, encode, sha256_hex
from mitai.broker.records import Capsule, ExportRequest, Grant, Head, Holding, LedgerKey, Party, Pin, R, Recovery
from mitai.broker.release import Case, Decision, Proof, decide, denied, prove, seal_answer
from mitai.broker.store import ROOT_LABEL, Database, Draft, EdgeStore, State
from mitai.broker.trusted import Trusted
from mitai.broker.vault import DIGEST_BYTES, Vault
from mitai.broker.writer import Job, Writer
from mitai.errors import BrokerError, DeniedError, MitaiError, ParseError, RollbackError
from mitai.identity import Envelope, Identity
from mitai.ledger.log import Log
from mitai.ledger.note import sign_checkpoint, vkey
from mitai.ledger.tree import EMPTY_ROOT

UNPROVEN_AT_ONCE = 200
LARGE_BYTES = 256 << 10
T = TypeVar("T")
logger = structlog.get_logger("mitai.broker")


@dataclass(frozen=True)
class Settings:
    """Where the broker keeps what, and how much of it.

    Args:
        origin: The ledger's name, a schema-less URL.
        state_url: The database, as SQLAlchemy spells it.
        publish_folder: Where the ledger is published as tiles.
        witnesses: Who cosigns it.
        limits: How much is kept, and for whom.
        unproven_per_s: How many refusals of worthless evidence are logged per second, above 200 at once.
        releases: Signed releases (files) of workloads; the appraisal policy says whose count.
        residency: A folder with auditors' statements of where machines stand; owners' policies say whose count.
    """

    origin: str
    state_url: str
    publish_folder: Path
    witnesses: tuple[Witness, ...] = ()
    limits: Limits = field(default_factory=Limits)
    unproven_per_s: float = 1.0
    releases: tuple[Path, ...] = ()
    residency: Path | None = None


class Meter:
    """A token bucket."""

    def __init__(self, per_s: float, burst: float, clock: Callable[[], float]) -> None:
        self._per_s, self._burst, self._clock = per_s, burst, clock
        self._tokens, self._at = burst, clock()

    def take(self) -> bool:
        """Take one token, if there is one."""
        now = self._clock()
        self._tokens, self._at = min(self._burst, self._tokens + (now - self._at) * self._per_s), now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Broker:
    """A running broker; `open` makes one.

    Args:
        settings: As configured.
        trusted: What workloads that ask for keys must be.
        database: The opened database.
        state: Its checked state.
        signer: The ledger's key.
        anchor: Publishes the ledger.
        engine: The policy language.
        clock: Returns the time, UTC.
        leads: Whether this process may decide; see `leadership`.
    """

    def __init__(
        self,
        settings: Settings,
        trusted: Trusted,
        database: Database,
        state: State,
        *,
        signer: Identity,
        anchor: Anchor,
        engine: PolicyEngine,
        clock: Callable[[], datetime],
        leads: Callable[[], bool] = lambda: True,
    ) -> None:
        self.settings, self.trusted, self._database, self._signer = settings, trusted, database, signer
        self._engine, self._clock, self._anchor = engine, clock, anchor
        self.vkey = vkey(settings.origin, signer.public)
        self.audience = protocol.audience(signer.public)
        self._collateral = VerifiedCache()
        self._policies = Policies(engine)
        self._nonces = Nonces(time.monotonic)
        self._unproven = Meter(settings.unproven_per_s, UNPROVEN_AT_ONCE, time.monotonic)
        self._receipts = receipts.Known()
        self._last_signed: tuple[Head | None, bytes] = (None, b"")
        self._tasks: set[asyncio.Task[None]] = set()
        self._pool = ThreadPoolExecutor(max(2, os.cpu_count() or 2), "broker-crypto")
        self.plan = _plan(database, state)  # the recovery plan in force, which this process's evidence tells of
        self._writer = Writer(
            database,
            state,
            signer,
            settings.origin,
            clock,
            committed=anchor.wake,
            leads=leads,
            continues=self._check_continues,
        )
        anchor.start(lambda: self._writer.snapshot, self._pin)
        anchor.wake()

    @staticmethod
    def open(
        settings: Settings,
        attester: Attester,
        policy: Policy,
        *,
        engine: PolicyEngine | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        leads: Callable[[], bool] = lambda: True,
    ) -> Broker:
        """Open or create the state, check it against everything that remembers, and start.

        Where several processes reach the database, call it in the one that leads, with `leads` from its `leadership`.

        Raises:
            RollbackError: Something remembers more than the database holds.
            BrokerError: The state was sealed by another machine or other code, or a witness can't be asked.
        """
        releases = [path.read_bytes() for path in settings.releases]
        trusted = Trusted.load(policy, releases, clock(), settings.residency)
        database = Database(settings.state_url, Vault(attester.sealing_key(ROOT_LABEL)))
        with ExitStack() as opened:
            opened.callback(database.engine.dispose)
            key, state = _load_or_create(database, settings)
            signer = Identity.from_seed(key.seed)
            anchor = Anchor(database, signer, key.origin, settings.publish_folder, settings.witnesses)
            opened.callback(anchor.close)
            anchor.check(state)
            if database.shared:
                anchor.catch_up(state)
            opened.pop_all()
        return Broker(
            settings,
            trusted,
            database,
            state,
            signer=signer,
            anchor=anchor,
            engine=engine or CedarEngine(),
            clock=clock,
            leads=leads,
        )

    def close(self) -> None:
        """Finish what was begun, publish, and let go of database and folder."""
        self._writer.close()
        self._anchor.close()
        self._pool.shutdown()
        self._database.engine.dispose()

    @property
    def witnesses(self) -> tuple[str, ...]:
        """Who cosigns the ledger, as configured."""
        return tuple(f"{witness.url}" if witness.vkey is None else witness.vkey for witness in self.settings.witnesses)

    @property
    def size(self) -> int:
        """How many ledger entries are committed."""
        return self._writer.snapshot.head.size

    def checkpoint(self) -> bytes:
        """Return a signed checkpoint of all that is committed."""
        return self._signed(self._writer.snapshot.head)

    def _signed(self, head: Head) -> bytes:
        """Sign a head's size and root, once for all that a commit answers."""
        last, note = self._last_signed
        if last is not head:
            note = sign_checkpoint(self.settings.origin, head.size, head.root, self._signer)
            self._last_signed = (head, note)
        return note

    def ledger_claim(self) -> LedgerClaim:
        """Return what the broker's evidence says of its ledger."""
        return LedgerClaim(self.settings.origin, self.vkey, self.checkpoint())

    def now(self) -> datetime:
        """Return the broker's time."""
        return self._clock()

    @property
    def database(self) -> Database:
        """Where the state is; changed through `submit`, or by who keeps its keys."""
        return self._database

    @property
    def signer(self) -> Identity:
        """The ledger's key."""
        return self._signer

    def check_current(self) -> None:
        """Raise unless this is the newest copy of the state, as far as witnesses can tell."""
        self._anchor.check_current()

    def all_of(self, kind: type[R]) -> list[R]:
        """Return all committed records of a kind."""
        return self._database.all_of(kind, self._writer.snapshot)

    def submit(self, job: Job[T]) -> Future[T]:
        """Queue a job for the writer."""
        return self._writer.submit(job)

    # --- Requests -------------------------------------------------------------------------------------------------

    async def command(self, body: bytes) -> bytes:
        """Apply an owner's command."""
        job = await self._run(commands.prepare, body, self.audience, self._clock(), self._engine, self.settings.limits)
        index = await self._decided(job)
        return encode(protocol.CommandAnswer(index=index, checkpoint=self.checkpoint()))

    def challenge(self) -> bytes:
        """Give a nonce for one release."""
        return encode(protocol.Challenge(nonce=self._nonces.issue().hex(), expires_s=NONCE_LIFE_S))

    async def release(self, body: bytes) -> bytes:
        """Decide a release; the same bytes again give the same answer.

        Raises:
            DeniedError: The evidence or an owner said no; the denial is in the ledger.
            BrokerError: The request could not be decided.
        """
        self._anchor.check_current()
        request = protocol.decode(body, ReleaseRequest, protocol.MAX_RELEASE_BYTES)
        answer, ours = self._nonces.claim(bytes.fromhex(request.nonce), sha256_hex(body))
        if ours:
            task = asyncio.create_task(self._release(request, body, answer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        waiting = asyncio.wrap_future(answer)
        waiting.add_done_callback(lambda done: done.cancelled() or done.exception())  # a caller that left asks no more
        return await asyncio.shield(waiting)

    async def _release(self, request: ReleaseRequest, body: bytes, answer: Future[bytes]) -> None:
        try:
            self._nonces.keep(bytes.fromhex(request.nonce), answer, await self._decide_release(request, body))
        except MitaiError as error:
            answer.set_exception(error)
        except Exception as error:  # noqa: BLE001 - a caller waits for `answer`: it must come to an end
            logger.error("release failed", kind=type(error).__name__)
            answer.set_exception(BrokerError("broker.internal", "the broker failed on this request"))

    async def _decide_release(self, request: ReleaseRequest, body: bytes) -> bytes:
        now = self._clock()
        proof = await self._compute(len(body), prove, request, self.trusted, now, self._collateral)
        if proof.appraisal is None:
            self._nonces.give_back(bytes.fromhex(request.nonce))
            if not self._unproven.take():
                raise BrokerError("broker.rate-limited", f"too many refusals at this time; this one: {proof.why}")
        decision = await self._decide(request, sha256_hex(body), proof, now)
        if decision.refusal is not None:
            raise denied(decision)
        size = sum(capsule.envelope_bytes for capsule in decision.capsules)
        return await self._compute(size, self._answer, body, proof, decision, self.checkpoint())

    async def release_proven(self, request: ReleaseRequest, request_sha256: str, proof: Proof) -> Decision:
        """Decide a release whose evidence came by another protocol; whoever calls seals the keys."""
        self._anchor.check_current()
        return await self._decide(request, request_sha256, proof, self._clock())

    async def _decide(self, request: ReleaseRequest, request_sha256: str, proof: Proof, now: datetime) -> Decision:
        case = Case(request, request_sha256, proof, self._policies, now, self.settings.limits.replicas)
        decision = await self._decided(Job(lambda draft: decide(draft, case), case.keys()))
        logger.info(
            "release" if decision.refusal is None else "denial",
            index=decision.index,
            code=decision.refusal.code if decision.refusal else "",
            capsules=request.capsules,
            simulated=proof.appraisal.simulated if proof.appraisal else None,
        )
        return decision

    def _answer(self, body: bytes, proof: Proof, decision: Decision, checkpoint: bytes) -> bytes:
        manifests = tuple(self._database.blob(capsule.envelope_sha256) for capsule in decision.capsules)
        return seal_answer(body, proof, decision, manifests, checkpoint)

    async def receipts(self, body: bytes) -> bytes:
        """Log a replica's receipts; return their entries with proofs."""
        job = await self._run(receipts.prepare, body, self._clock(), self._receipts)
        logged = await self._decided(job)
        for digest, index in logged:
            self._receipts.add(digest, index)
        entries, checkpoint = await self._run(self._prove_entries, tuple(index for _, index in logged))
        return encode(protocol.ReceiptsAnswer(entries=entries, checkpoint=checkpoint))

    async def lease(self, body: bytes) -> bytes:
        """Tell a workload how long it may go on with what it was given.

        Raises:
            DeniedError: It may not: an owner's consent is over.
            BrokerError: The request could not be decided.
        """
        self._anchor.check_current()  # a copy of this broker may not have heard of a revocation
        outcome = await self._decided(leases.prepare(body, self.audience, self._clock()))
        return leases.answer_of(outcome)

    async def derived(self, body: bytes) -> bytes:
        """Register a capsule that a workload made of what it was given."""
        job = await self._run(derive.prepare, body, self.audience, self._clock(), self.settings.limits)
        index = await self._decided(job)
        return encode(protocol.CommandAnswer(index=index, checkpoint=self.checkpoint()))

    async def proof(self, index: int) -> bytes:
        """Return a ledger entry with its proof."""
        entries, checkpoint = await self._run(self._prove_entries, (index,))
        return encode(protocol.ProofAnswer(entry=entries[0], checkpoint=checkpoint))

    async def capsules(self, page: int, header: str | None) -> bytes:
        """List a page of the capsules that a party has a say over."""
        party = self._asked_by(header, f"/v1/capsules?page={page}")
        answer = await self._decided(Job(lambda draft: _capsules(draft, party, page)))
        return encode(answer)

    async def capsule(self, capsule_id: str, header: str | None) -> bytes:
        """Tell an owner about its capsule."""
        party = self._asked_by(header, f"/v1/capsules/{capsule_id}")
        view = await self._decided(Job(lambda draft: _view(draft, party, capsule_id)))
        return encode(view)

    async def decisions(self, capsule_id: str, header: str | None) -> bytes:
        """List the newest ledger entries about an owner's capsule."""
        party = self._asked_by(header, f"/v1/decisions?capsule={capsule_id}")
        recent = await self._decided(Job(lambda draft: _owned(draft, party, capsule_id).recent))
        entries, checkpoint = await self._run(self._prove_entries, tuple(reversed(recent)))
        return encode(protocol.DecisionsAnswer(entries=entries, checkpoint=checkpoint))

    async def export_command(self, body: bytes) -> bytes:
        """Apply a command about exports."""
        self._anchor.check_current()
        job = await self._run(exports.prepare, body, self.audience, self._clock(), self.settings.limits, self._policies)
        index = await self._decided(job)
        return encode(protocol.CommandAnswer(index=index, checkpoint=self.checkpoint()))

    async def exports(self, capsule_id: str, header: str | None) -> bytes:
        """List the requests to let a capsule out, to its owners and their delegates."""
        party, now = self._asked_by(header, f"/v1/exports?capsule={capsule_id}"), self._clock()

        def views(draft: Draft) -> tuple[protocol.ExportView, ...]:
            capsule = _seen(draft, party, capsule_id)
            by_policy = standing.permitted(draft, self._policies, capsule, now)
            return tuple(
                _export_view(draft, request, standing.stand(draft, request, capsule, by_policy, now))
                for request in standing.listed(draft, capsule)
            )

        return encode(protocol.ExportsAnswer(exports=await self._decided(Job(views))))

    async def export(self, request_id: str, header: str | None) -> bytes:
        """Give the sealed key of a collected export, again and again until it ends."""
        self._anchor.check_current()
        party, now = self._asked_by(header, f"/v1/export?request={request_id}"), self._clock()
        request, capsule = await self._decided(Job(lambda draft: standing.collected(draft, request_id, party, now)))
        assert request.collected is not None  # noqa: S101 - `collected` saw to it
        manifest = await self._run(self._database.blob, capsule.envelope_sha256)
        entries, checkpoint = await self._run(self._prove_entries, (request.collected,))
        answer = protocol.ExportAnswer(
            sealed=request.sealed, manifest=manifest, entry=entries[0], checkpoint=checkpoint
        )
        return encode(answer)

    async def lineage(self, capsule_id: str, header: str | None) -> bytes:
        """Tell an owner what its capsule was made of, with the signed statements of all that went into it."""
        party = self._asked_by(header, f"/v1/lineage?capsule={capsule_id}")
        found = await self._decided(Job(lambda draft: _lineage(draft, party, capsule_id)))
        indices = [(capsule.index, *capsule.reseals) for capsule in found]
        entries, checkpoint = await self._run(self._prove_entries, tuple(itertools.chain.from_iterable(indices)))
        nodes = await self._run(self._nodes, found, iter(entries))
        return encode(protocol.LineageAnswer(nodes=nodes, checkpoint=checkpoint))

    def _nodes(self, found: list[Capsule], entries: Iterator[LoggedEntry]) -> tuple[protocol.LineageNode, ...]:
        return tuple(
            protocol.LineageNode(
                next(entries),
                tuple(itertools.islice(entries, len(capsule.reseals))),
                capsule.made.signer if capsule.made else None,
                Envelope.decode(self._database.blob(capsule.made.envelope_sha256)) if capsule.made else None,
            )
            for capsule in found
        )

    # --- Helpers --------------------------------------------------------------------------------------------------

    def _asked_by(self, header: str | None, target: str) -> str:
        """Return the party that signed a query for exactly this target."""
        try:
            data = base64.b64decode(header or "", validate=True)
        except (binascii.Error, ValueError):
            raise ParseError("broker.malformed", f"the header {protocol.QUERY_HEADER} is not base64") from None
        signed = protocol.decode(data, protocol.QueryHeader, protocol.MAX_QUERY_BYTES)
        signer = public_key(signed.public_key)
        payload = open_signed(signed.query, protocol.QUERY_TYPE, signer)
        query = protocol.decode(payload, protocol.Query, protocol.MAX_QUERY_BYTES)
        check_addressing(query, signer, self.audience, self._clock())
        if query.target != target:
            raise BrokerError("broker.query-mismatch", "this query was signed for another path")
        return query.party

    def _prove_entries(self, indices: tuple[int, ...]) -> tuple[tuple[LoggedEntry, ...], bytes]:
        state = self._writer.snapshot
        with self._database.reading() as connection:
            ledger = Log(EdgeStore(connection, state.head.size, state.edge), self._signer, self.settings.origin)
            entries = tuple(
                LoggedEntry(index, ledger.entry(index), tuple(ledger.inclusion_proof(index))) for index in indices
            )
        return entries, self._signed(state.head)

    def _check_continues(self, before: State, after: State) -> None:
        """Raise unless a state that was loaded again, as others may have written it, is this broker's still.

        1. The ledger's key is the same: whoever made up a state, under a root key of its own, does not have it.
        2. The ledger is that of before, or longer.
        3. The recovery plan is the one that this process's evidence tells of: nobody's key comes under another.
        """
        # 1. key
        if self._database.ledger_key().seed != self._signer.seed():
            raise RollbackError("broker.state-foreign", "the database holds another broker's state now")
        # 2. ledger
        self._anchor.check_continues(before, after)
        # 3. plan
        if _plan(self._database, after) != self.plan:
            raise BrokerError(
                "broker.plan-overtaken",
                "another process put another recovery plan into force than this one's evidence tells of",
                hint="start this broker again",
            )

    def _pin(self, witness_vkey: str) -> None:
        self.submit(Job(lambda draft: draft.put(witness_vkey, Pin(witness_vkey)), ((Pin, witness_vkey),)))

    async def _compute(self, size_bytes: int, function: Callable[..., T], *arguments: object) -> T:
        """Run short work here (a hop to a thread and back costs more than it), and large work on a thread."""
        return function(*arguments) if size_bytes <= LARGE_BYTES else await self._run(function, *arguments)

    async def _run(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)

    async def _decided(self, job: Job[T]) -> T:
        return await asyncio.wrap_future(self.submit(job))


def _plan(database: Database, state: State) -> bytes:
    """Return the exact bytes of the recovery plan in force; nothing when there is none."""
    return next((recovery.plan for recovery in database.all_of(Recovery, state)), b"")


def _load_or_create(database: Database, settings: Settings) -> tuple[LedgerKey, State]:
    state = database.take_over()
    if state is not None:
        key = database.ledger_key()
        if key.origin != settings.origin:
            raise BrokerError(
                "broker.origin-changed", f"this state's ledger is {key.origin!r}; a ledger keeps its name"
            )
        return key, state
    if (settings.publish_folder / "checkpoint").exists():
        raise RollbackError(
            "broker.state-missing",
            "a ledger was published here, and the database that it came from is gone",
            hint="restore the database, or begin a new broker in an empty folder",
        )
    key = LedgerKey(Identity.generate().seed(), settings.origin)
    return key, database.create(key, Head(0, EMPTY_ROOT, bytes(DIGEST_BYTES)))


def _owned(draft: Draft, party: str, capsule_id: str) -> Capsule:
    capsule = draft.get(Capsule, capsule_id)
    if capsule is None or capsule.grant_of(party) is None or draft.get(Party, party) is None:
        raise BrokerError("broker.capsule-unknown", "this party owns no such capsule here")
    return capsule


def _capsules(draft: Draft, party_id: str, page: int) -> protocol.CapsulesAnswer:
    party = draft.get(Party, party_id)
    if party is None:
        raise DeniedError("broker.party-unknown", "this party is not registered here")
    holding = draft.get(Holding, page_of(party_id, page)) or Holding()
    return protocol.CapsulesAnswer(name=party.name, revoked=party.revoked, capsules=holding.capsules, total=party.held)


def _view(draft: Draft, party: str, capsule_id: str) -> protocol.CapsuleView:
    capsule = _owned(draft, party, capsule_id)
    return protocol.CapsuleView(
        capsule=capsule.capsule,
        owner=capsule.owner,
        manifest_sha256=capsule.manifest_sha256,
        registered_s=capsule.registered_s,
        kind=capsule.kind,
        parents=capsule.made.parents if capsule.made else (),
        grants=tuple(_grant_view(draft, grant, own=grant.party == party) for grant in capsule.grants),
    )


def _lineage(draft: Draft, party: str, capsule_id: str) -> list[Capsule]:
    capsule = _seen(draft, party, capsule_id)
    return [capsule, *ancestors(draft, capsule)]


def _seen(draft: Draft, party: str, capsule_id: str) -> Capsule:
    """Return a capsule to its owners and their delegates."""
    capsule = draft.get(Capsule, capsule_id)
    if capsule is None or draft.get(Party, party) is None or not standing.may_look(draft, capsule, party):
        raise BrokerError("broker.capsule-unknown", "this party has no say over such a capsule here")
    return capsule


def _export_view(draft: Draft, request: ExportRequest, how: standing.Standing) -> protocol.ExportView:
    requester = draft.get(Party, request.requester)
    assert requester is not None  # noqa: S101 - it signed the request
    return protocol.ExportView(
        public_key=requester.public_key,
        command=Envelope.decode(draft.blob(request.command_sha256)),
        state=how.state,
        consents=how.consents,
        votes=tuple(protocol.ExportVote(vote.owner, vote.voter, vote.approve, vote.time_s) for vote in request.votes),
        index=request.index,
    )


def _grant_view(draft: Draft, grant: Grant, *, own: bool) -> protocol.GrantView:
    """Show an owner its own policy's text, and of the others the digest."""
    policy = draft.blob(grant.policy_sha256).decode() if own and grant.policy_sha256 else None
    return protocol.GrantView(
        grant.party,
        policy,
        grant.policy_sha256,
        grant.version,
        grant.budget,
        grant.uses,
        grant.revoked,
        UNSET if grant.spent == Amounts() else grant.spent,
    )
