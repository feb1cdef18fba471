"""An owner's side of the key broker: verify it, register, publish keys under policies, revoke, look.

Invariants:

- Nothing is sent before the broker's evidence was accepted under the owner's policy; all is sealed to its attested key.
- Commands are signed for the ledger key in those very claims: another broker can't use them.
- A command whose answer is lost, as while brokers fail over, is sent again as it is; the broker applies it once.
- A data key goes only to a broker that shows nobody else who could have it, but whom the owner's policy names; that is
  looked at again whenever the broker is verified again, as after a restart in the middle of a request.
- What the broker answers is checked: every index against a checkpoint of the attested ledger key.

Example:
    >>> owner = Owner("http://127.0.0.1:8700/broker", identity, Policy.from_toml(text))
    >>> owner.register("Alice")
    >>> owner.publish(sealed.capsule_id, sealed.envelope, sealed.data_key, policy=cedar, uses=100)
"""

from __future__ import annotations

import base64
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import msgspec
from msgspec import UNSET

from mitai.attest import Appraisal, LedgerClaim, Policy
from mitai.bodies import bounded
from mitai.broker import protocol
from mitai.broker.protocol import (
    CAPSULES_PER_PAGE,
    Amounts,
    Budget,
    CapsulesAnswer,
    CapsuleView,
    CollectExport,
    Command,
    CommandAnswer,
    CommandRequest,
    DecisionsAnswer,
    ExportAnswer,
    ExportCommand,
    ExportsAnswer,
    LineageAnswer,
    Query,
    QueryHeader,
    Recipient,
    RegisterCapsule,
    RegisterParty,
    RequestExport,
    Revoke,
    RotateKey,
    SetDelegates,
    SetPolicy,
    VoteExport,
    sha256_hex,
)
from mitai.capsule.manifest import PAYLOAD_TYPE
from mitai.client.again import again
from mitai.client.exports import Exported, Pending, RecipientKey, open_export, verify_view
from mitai.client.http import session_client
from mitai.client.lineage import Lineage, proven, verify_lineage
from mitai.client.session import Session
from mitai.errors import BrokerError, ClientError
from mitai.identity import Envelope, Identity
from mitai.ledger.note import Checkpoint, parse_vkey, verify_checkpoint
from mitai.problem import error_from

MAX_ANSWER_BYTES = 16 << 20
T = TypeVar("T")


class Owner:
    """A party and a verified broker.

    Args:
        base_url: Where the broker answers, such as `https://gateway.example/broker`.
        identity: The party's key.
        broker_policy: What the broker's evidence must show.
        cache: A folder that keeps the verified session for a few minutes.
        session: The broker, verified already; made when not given.
        client: An HTTP client that seals to `session`; made when not given.

    Raises:
        AttestError: The broker's evidence was refused; nothing was sent.
        ClientError: The broker can't be reached.
    """

    def __init__(
        self,
        base_url: str,
        identity: Identity,
        broker_policy: Policy,
        *,
        cache: Path | None = None,
        session: Session | None = None,
        client: httpx2.Client | None = None,
    ) -> None:
        self.identity = identity
        with ExitStack() as opened:
            http = opened.enter_context(httpx2.Client(timeout=30.0))
            self.session = session or Session(base_url, broker_policy, workload="broker", cache=cache, http=http)
            self._client = opened.enter_context(client or session_client(self.session))
            self._opened = opened.pop_all()
        self._base_url = self.session.base_url
        self._sequence = 0

    @property
    def ledger(self) -> LedgerClaim:
        """The ledger in the broker's verified claims."""
        claim = self.session.appraisal.claims.ledger
        if claim is None:
            raise ClientError("client.no-ledger", "the broker's claims name no ledger")
        return claim

    def close(self) -> None:
        """Let go of connections."""
        self._opened.close()

    # --- Commands -------------------------------------------------------------------------------------------------

    def register(self, name: str) -> int:
        """Make this party known; return the ledger index."""
        return self._command(RegisterParty(name=name, **self._signed()))

    def publish(
        self,
        capsule_id: str,
        envelope: bytes,
        data_key: bytes,
        *,
        policy: str,
        uses: int | None = None,
        not_after: datetime | None = None,
        amounts: Amounts | None = None,
        co_owners: Iterable[str] = (),
    ) -> int:
        """Hand over a capsule's key under a Cedar policy; return the ledger index.

        Args:
            capsule_id: The capsule's id.
            envelope: Its signed manifest, the exact bytes of `manifest.json`.
            data_key: Its data key, 32 bytes.
            policy: This owner's policy in Cedar; see `mitai.broker.policy` for its facts and templates.
            uses: How many releases are allowed; None: any number.
            not_after: Until when; None: no end.
            amounts: How many tokens and training steps, and how much epsilon, all releases together may declare.
            co_owners: Key ids of further owners, who must each set a policy before any release.

        Raises:
            ClientError: Others could have the broker's keys, and the owner's policy does not say that it knows.
            BrokerError: The broker refused, with its code.
        """
        payload = Envelope.decode(envelope).open(PAYLOAD_TYPE, self.identity.public)
        command = RegisterCapsule(
            capsule=capsule_id,
            manifest_sha256=sha256_hex(payload),
            policy=policy,
            budget=_budget(uses, not_after, amounts),
            co_owners=tuple(co_owners),
            **self._signed(),
        )
        return self._command(command, data_key, envelope)

    def set_policy(
        self,
        capsule_id: str,
        policy: str,
        *,
        uses: int | None = None,
        not_after: datetime | None = None,
        amounts: Amounts | None = None,
        replaces: int | None = None,
    ) -> int:
        """Replace this owner's policy and budget, which count from the first release on. Return the ledger index.

        With `replaces`, only while that version is in force: `broker.policy-changed` otherwise.
        """
        command = SetPolicy(
            capsule=capsule_id,
            policy=policy,
            budget=_budget(uses, not_after, amounts),
            replaces=UNSET if replaces is None else replaces,
            **self._signed(),
        )
        return self._command(command)

    def rotate_key(self, capsule_id: str, envelope: bytes, data_key: bytes, *, previous_sha256: str) -> int:
        """Replace a capsule's data key and manifest; what runs goes on with the former ones. Return the ledger index.

        Args:
            capsule_id: The capsule's id, which stays.
            envelope: Its new signed manifest, of the same files.
            data_key: Its new data key.
            previous_sha256: Of the manifest that is to be replaced; if another one is in force, nothing changes.
        """
        payload = Envelope.decode(envelope).open(PAYLOAD_TYPE, self.identity.public)
        command = RotateKey(
            capsule=capsule_id,
            manifest_sha256=sha256_hex(payload),
            previous_sha256=previous_sha256,
            **self._signed(),
        )
        return self._command(command, data_key, envelope)

    def revoke(self, capsule_id: str | None = None) -> int:
        """End the consent for a capsule, or for everything of this party, for good; return the ledger index."""
        return self._command(Revoke(capsule=capsule_id, **self._signed()))

    # --- Exports --------------------------------------------------------------------------------------------------

    def request_export(self, capsule_id: str, recipient: Recipient, not_after: datetime) -> str:
        """Ask all owners to let a capsule out to a recipient, as it is now; return the request's id."""
        command = RequestExport(
            capsule=capsule_id,
            manifest_sha256=self.capsule(capsule_id).manifest_sha256,
            recipient=recipient,
            not_after_s=int(not_after.timestamp()),
            **self._signed(),
        )
        self._command(command)
        return sha256_hex(protocol.encode(command))

    def vote_export(self, request: str, *, approve: bool, owner: str | None = None) -> int:
        """Approve or refuse a request, for oneself or, as its delegate, for `owner`; return the ledger index."""
        owner = owner or self.identity.key_id
        return self._command(VoteExport(request=request, owner=owner, approve=approve, **self._signed()))

    def set_delegates(self, delegates: Iterable[str], threshold: int) -> int:
        """Name who votes in one's place, and how many of them it takes; return the ledger index."""
        return self._command(SetDelegates(delegates=tuple(delegates), threshold=threshold, **self._signed()))

    def exports(self, capsule_id: str) -> list[Pending]:
        """Return the requests about a capsule, newest first, each verified to be what its requester signed."""
        answer = self._query(f"/v1/exports?capsule={capsule_id}", ExportsAnswer)
        return [verify_view(view, capsule_id, self._addressed()["broker"]) for view in answer.exports]

    def collect_export(self, request: str, key: RecipientKey) -> Exported:
        """Have an approved export's key sealed to `key`, and open it; again and again until the request's end."""
        self._command(CollectExport(request=request, **self._signed()))
        answer = self._query(f"/v1/export?request={request}", ExportAnswer)
        return open_export(answer, request, key, self._checkpoint(answer.checkpoint))

    # --- Queries --------------------------------------------------------------------------------------------------

    def capsules(self) -> list[str]:
        """Return the ids of the capsules that this party has a say over, oldest first."""
        found: list[str] = []
        while True:
            page = self._query(f"/v1/capsules?page={len(found) // CAPSULES_PER_PAGE}", CapsulesAnswer)
            found += page.capsules
            if len(page.capsules) < CAPSULES_PER_PAGE:
                return found

    def capsule(self, capsule_id: str) -> CapsuleView:
        """Return what the broker holds of a capsule: owners, policies, uses."""
        return self._query(f"/v1/capsules/{capsule_id}", CapsuleView)

    def decisions(self, capsule_id: str) -> list[tuple[int, bytes]]:
        """Return the newest ledger entries about a capsule, newest first, each proven to be in the attested ledger."""
        answer = self._query(f"/v1/decisions?capsule={capsule_id}", DecisionsAnswer)
        checkpoint = self._checkpoint(answer.checkpoint)
        return [(entry.index, proven(entry, checkpoint)) for entry in answer.entries]

    def lineage(self, capsule_id: str) -> Lineage:
        """Return what a capsule was made of, all the way up: every signature, link and place in the ledger verified."""
        answer = self._query(f"/v1/lineage?capsule={capsule_id}", LineageAnswer)
        broker = protocol.audience(parse_vkey(self.ledger.vkey).public)
        return verify_lineage(answer, self._checkpoint(answer.checkpoint), capsule_id, broker=broker)

    @contextmanager
    def _only_to_keepers(self) -> Iterator[None]:
        """Look who else could have what this broker is given, now and whenever it is verified anew, until the end."""
        self._check_keepers(self.session.appraisal)
        self.session.also = self._check_keepers
        try:
            yield
        finally:
            self.session.also = lambda _: None

    def _check_keepers(self, appraisal: Appraisal) -> None:
        """Raise unless this owner knows who could recover the keys that it is about to hand over."""
        claims, rules = appraisal.claims, self.session.policy.claims
        if "inherited" in claims.extra and rules.ledger_vkey is None:
            raise ClientError(
                "client.keys-inherited",
                "this broker's root key was given to it by its owners or another build: others may have it too, "
                "unless this is a broker that you know",
                hint="learn its ledger's key from an owner who used it before, and pin it: [claims] ledger_vkey",
            )
        plan = claims.extra.get("recovery")
        if plan is not None and plan not in rules.policies:
            raise ClientError(
                "client.recovery-unseen",
                f"others could recover this broker's keys together, by plan {plan}, which your policy does not name",
                hint="see who: mitai recovery show; if you agree, name the plan in your policy: [claims] policies",
            )

    # --- Helpers --------------------------------------------------------------------------------------------------

    def _addressed(self) -> dict[str, Any]:
        broker = protocol.audience(parse_vkey(self.ledger.vkey).public)
        return {"broker": broker, "party": self.identity.key_id, "time_s": int(time.time())}

    def _signed(self) -> dict[str, Any]:
        self._sequence = max(self._sequence + 1, time.time_ns() // 1000)
        return {"sequence": self._sequence, **self._addressed()}

    def _command(
        self, command: Command | ExportCommand, data_key: bytes | None = None, manifest: bytes | None = None
    ) -> int:
        envelope = self.identity.sign(protocol.encode(command), protocol.COMMAND_TYPE)
        request = CommandRequest(
            public_key=self.identity.public.raw, command=envelope, data_key=data_key, manifest=manifest
        )
        body = protocol.encode(request)
        path = "/v1/exports" if isinstance(command, ExportCommand) else "/v1/commands"
        with self._only_to_keepers() if data_key is not None else nullcontext():
            answer = again(lambda: self._send("POST", path, CommandAnswer, content=body))
        if self._checkpoint(answer.checkpoint).size <= answer.index:
            raise BrokerError("broker.answer-mismatch", "the broker's checkpoint does not cover what it says it logged")
        return answer.index

    def _query(self, target: str, kind: type[T]) -> T:
        query = msgspec.convert({"target": target, **self._addressed()}, Query)
        signed = self.identity.sign(protocol.encode(query), protocol.QUERY_TYPE)
        header = protocol.encode(QueryHeader(public_key=self.identity.public.raw, query=signed))
        headers = {protocol.QUERY_HEADER: base64.b64encode(header).decode()}
        return again(lambda: self._send("GET", target, kind, headers=headers))

    def _send(
        self, method: str, path: str, kind: type[T], *, content: bytes | None = None, headers: Mapping[str, str] = {}
    ) -> T:
        try:
            with self._client.stream(method, self._base_url + path, content=content, headers=headers) as answer:
                body = bounded(answer, MAX_ANSWER_BYTES)
            if body is None:
                raise ClientError("client.answer-too-large", "the broker's answer is too large")
        except httpx2.HTTPError as error:
            raise ClientError(
                "client.unreachable",
                f"the broker can't be reached ({type(error).__name__})",
                hint="a command may have arrived: ask for the capsule before sending it again",
            ) from error
        if answer.status_code != 200:
            raise error_from(BrokerError, answer.status_code, body, code="broker.refused", who="the broker")
        return protocol.decode(body, kind, MAX_ANSWER_BYTES)

    def _checkpoint(self, note: bytes) -> Checkpoint:
        return verify_checkpoint(note, self.ledger.vkey)


def _budget(uses: int | None, not_after: datetime | None, amounts: Amounts | None) -> Budget:
    return Budget(uses, int(not_after.timestamp()) if not_after else None, amounts or UNSET)
