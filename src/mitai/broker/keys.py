"""The broker's keeper of keys: gives the root key to peers, rotates it, and keeps the owners' recovery plan.

Follows `docs/spec/broker-keys.md`.

Invariants:

- Before the root key goes to a peer, the ledger says to which: machine, key and evidence.
- With every new root key, and every new plan, shares are made anew within the same transaction. A plan that follows
  another gets a new root key too: shares of former members open nothing that comes after.
- The digest of the plan in force is in the broker's claims: an owner sees who could recover before it gives anything.

Example:
    >>> keys = Keys(broker, attester, policy)
    >>> await keys.adopt(plan_envelope)
    >>> keys.rotate()
    2
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import anyio.to_thread
import msgspec

from mitai.attest import Attester, Policy, VerifiedCache, evidence_sha256
from mitai.attest.machine import Machine
from mitai.broker import protocol, rotation
from mitai.broker.commands import check_clock
from mitai.broker.nonces import NONCE_LIFE_S, Nonces
from mitai.broker.peers import RootRequest, appraise_peer, own_machine, same_build, seal_root
from mitai.broker.protocol import encode, sha256_hex
from mitai.broker.records import Party, Recovery, Root
from mitai.broker.recovery import RecoveryAnswer, check_plan, decode_plan, make_shares, read_shares
from mitai.broker.service import Broker, Meter
from mitai.broker.store import Draft
from mitai.broker.writer import Job
from mitai.errors import BrokerError, MitaiError
from mitai.identity import Envelope
from mitai.ledger.entry import RecoverySet, RootKey, utc

_CURRENT = "current"
SHARES = "shares"  # the document's name in the database
T = TypeVar("T")


class Keys:
    """What a broker does with its root key.

    Args:
        broker: The running broker.
        attester: Its hardware.
        policy: As configured; of a simulated broker's policy, peers' simulated roots are taken.
    """

    def __init__(self, broker: Broker, attester: Attester, policy: Policy) -> None:
        self._broker, self._attester, self._policy = broker, attester, policy
        self._nonces, self._cache = Nonces(time.monotonic), VerifiedCache()
        self._unproven = Meter(broker.settings.unproven_per_s, 20, time.monotonic)
        self._rotating = threading.Lock()
        self._own: Machine | None = None
        self.shares = b""  # the signed document of its members' shares

    async def start(self, plan: bytes | None = None) -> None:
        """Look at what is in force, put a signed plan into force if one is given, and tell what is not told yet.

        Raises:
            BrokerError: The plan may not follow the one in force.
            ParseError: It is malformed.
        """
        await self._tell_recovered()
        if plan is not None:
            await self.adopt(plan)
        if await self._decided(lambda draft: (draft.get(Recovery, _CURRENT) or Recovery(b"")).due):
            await anyio.to_thread.run_sync(self.rotate)
        await self._show()

    @property
    def plan(self) -> bytes:
        """The exact bytes of the plan in force; nothing when there is none."""
        return self._broker.plan

    @property
    def policies(self) -> tuple[str, ...]:
        """Digests of what is in force beside the appraisal policy: the plan's."""
        return (sha256_hex(self.plan),) if self.plan else ()

    @property
    def claims(self) -> dict[str, str]:
        """What the broker's evidence says of its keys."""
        root, told = self._broker.database.root, dict[str, str]()
        if self.plan:
            told["recovery"] = sha256_hex(self.plan)
            if decode_plan(self.plan).version > 1:  # those of former plans may have the ledger's key
                told["inherited"] = "former-plan"
        if root.inherited:
            told["inherited"] = "root-key"
        return {"epoch": str(root.epoch), **told}

    def shown(self) -> bytes:
        """Return the plan in force and the document of shares: both may be seen by anybody."""
        return encode(RecoveryAnswer(plan=self.plan, shares=self.shares))

    async def _decided(self, run: Callable[[Draft], T]) -> T:
        return await asyncio.wrap_future(self._broker.submit(Job(run, ((Recovery, _CURRENT),))))

    # --- Peers ----------------------------------------------------------------------------------------------------

    def challenge(self) -> bytes:
        """Give a nonce for one request of the root key."""
        return encode(protocol.Challenge(nonce=self._nonces.issue().hex(), expires_s=NONCE_LIFE_S))

    async def share(self, body: bytes) -> bytes:
        """Give the root key to a peer.

        1. This broker is no copy that was started beside another.
        2. The request parses; its nonce is ours and decides this request alone.
        3. The evidence holds under the rules for peers, and is a broker's.
        4. The ledger says so, durably.
        5. The key is sealed to the attested key, for this request.

        Raises:
            DeniedError: It is no peer.
            BrokerError: The request could not be decided.
        """
        # 1. current
        self._broker.check_current()
        # 2. nonce
        request = protocol.decode(body, RootRequest, protocol.MAX_RELEASE_BYTES)
        nonce = bytes.fromhex(request.nonce)
        if not self._nonces.claim(nonce, sha256_hex(body))[1]:
            raise BrokerError("broker.nonce-used", "this nonce has decided a request", hint="ask for a new challenge")
        # 3. evidence
        plan = self.plan
        now = self._broker.now()
        try:
            policy = await anyio.to_thread.run_sync(self._rules, plan)
            appraisal = await anyio.to_thread.run_sync(appraise_peer, request, policy, now, self._cache)
        except MitaiError:
            self._nonces.give_back(nonce)
            if not self._unproven.take():
                raise BrokerError("broker.rate-limited", "too many refusals at this time") from None
            raise

        # 4. ledger
        def share(draft: Draft) -> Root:
            check_clock(draft, now)
            root = self._broker.database.root
            entry = RootKey(
                time=utc(now),
                event="shared",
                epoch=root.epoch,
                evidence_sha256=appraisal.evidence_sha256,
                recipient_sha256=sha256_hex(appraisal.claims.key_config),
                simulated=appraisal.simulated,
                recovery_sha256=sha256_hex(plan) if plan else None,
            )
            draft.append(entry.encode())
            return root

        root = await self._decided(share)
        # 5. seal
        return seal_root(body, appraisal, root, self._broker.audience)

    def _rules(self, plan: bytes) -> Policy:
        """Return what a peer must be; the host has no say in it."""
        if plan and (rules := decode_plan(plan).policy):
            return Policy.from_toml(rules)
        if self._own is None:
            self._own = own_machine(self._attester, self._policy, self._broker.now())
        return same_build(self._own, self._policy)

    # --- The plan -------------------------------------------------------------------------------------------------

    async def adopt(self, envelope: bytes) -> None:
        """Put a recovery plan into force; one that is in force already changes nothing.

        Raises:
            BrokerError: It may not follow the one in force.
            ParseError: It is malformed.
        """
        signed, now, before = Envelope.decode(envelope), self._broker.now(), self.plan
        if signed.payload == before:
            return
        current = decode_plan(before) if before else None
        ask_all = current is None or not current.members
        parties = await anyio.to_thread.run_sync(self._broker.all_of, Party) if ask_all else []

        def put(draft: Draft) -> bytes:
            if ask_all and draft.head.counts.get("party", 0) != len(parties):
                raise BrokerError("broker.busy", "parties have registered meanwhile", hint="try again")
            plan = check_plan(signed, current, _holders(draft, parties), self._broker.audience)
            draft.put(_CURRENT, Recovery(signed.payload, due=bool(current and current.members)))
            entry = RecoverySet(
                time=utc(now),
                recovery_sha256=sha256_hex(signed.payload),
                version=plan.version,
                threshold=plan.threshold,
                members=tuple(sha256_hex(member.party) for member in plan.members),
            )
            draft.append(entry.encode())
            return self._share_out(draft, self._broker.database.root, signed.payload)

        self.shares = await self._decided(put)
        self._broker.plan = signed.payload

    def _share_out(self, draft: Draft, root: Root, plan: bytes) -> bytes:
        """Write a document of shares of `root`, if there is anybody to hold one."""
        shares = make_shares(root, plan, self._broker.signer) if plan and decode_plan(plan).members else b""
        draft.documents[SHARES] = shares
        return shares

    async def _show(self) -> None:
        """Find the document of shares; make it anew where the database holds another one, or none."""
        self.shares = await anyio.to_thread.run_sync(self._broker.database.document, SHARES)
        if self._fits(self.shares):
            return

        def again(draft: Draft) -> bytes:
            draft.put(_CURRENT, Recovery(self.plan))
            return self._share_out(draft, self._broker.database.root, self.plan)

        self.shares = await self._decided(again)

    def _fits(self, document: bytes) -> bool:
        """Tell whether these are shares of the root key by the plan in force; or nothing, where nobody holds any."""
        if not (self.plan and decode_plan(self.plan).members):
            return not document
        with suppress(MitaiError):
            shares = read_shares(document, self._broker.audience)
            return (shares.epoch, shares.plan) == (self._broker.database.root.epoch, self.plan)
        return False

    # --- The root key ---------------------------------------------------------------------------------------------

    def rotate(self) -> int:
        """Replace the root key and make shares of it anew; return its epoch.

        Raises:
            BrokerError: Nothing has changed.
        """
        made: list[bytes] = []

        def also(draft: Draft, root: Root) -> str | None:
            made.append(self._share_out(draft, root, self.plan))
            if draft.get(Recovery, _CURRENT) is not None:
                draft.put(_CURRENT, Recovery(self.plan))
            return sha256_hex(self.plan) if self.plan else None

        with self._rotating:
            self._broker.check_current()
            new = rotation.rotate(self._broker.database, self._broker.submit, utc(self._broker.now()), also)
            self.shares = made[-1]
            return new.epoch

    async def _tell_recovered(self) -> None:
        """Log it when this machine's root key came from the owners' shares; once, or once more after a crash."""
        database = self._broker.database
        root = database.root
        if not root.recovered:
            return
        now, plan = utc(self._broker.now()), self.plan
        evidence = await anyio.to_thread.run_sync(self._attester.evidence, b"", bytes(32))
        entry = RootKey(
            time=now,
            event="recovered",
            epoch=root.epoch,
            evidence_sha256=evidence_sha256(evidence.tee, evidence.quote),
            recovery_sha256=sha256_hex(plan) if plan else None,
        )
        await self._decided(lambda draft: draft.append(entry.encode()))
        await anyio.to_thread.run_sync(database.retell_root, msgspec.structs.replace(root, recovered=False))


def _holders(draft: Draft, parties: list[Party]) -> list[bytes]:
    """Return the keys of those that hold a capsule now."""
    now = [draft.get(Party, sha256_hex(party.public_key)) for party in parties]
    return [party.public_key for party in now if party is not None and party.held and not party.revoked]
