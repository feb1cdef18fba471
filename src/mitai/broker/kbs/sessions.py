"""Guests of Confidential Containers at the broker: challenge, attestation, and the keys that owners let them have.

Follows "KBS Attestation Protocol" 0.4 (confidential-containers/trustee); `docs/spec/kbs.md` says what of it is served.

Invariants:

- A session begins with evidence over this broker's own nonce and the guest's key, under the broker's appraisal policy;
  whatever a session gets is sealed to that key. So a stolen cookie or token opens nothing.
- Before that, nothing is kept: a challenge is authenticated by a MAC. Sessions are bounded in number and in time.
- A nonce begins one session: the same bytes again get the same token, other bytes are refused.
- A capsule is decided once a session, in the writer, by every owner's policy and budget; asking again spends nothing.

Example:
    >>> cookie, challenge = kbs.auth(request)
    >>> token = await kbs.attest(cookie, attestation)
    >>> sealed = await kbs.resource(Credential(cookie=cookie), "capsule", capsule_id, "key")
"""

from __future__ import annotations

import asyncio
import base64
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import get_args

import anyio
import msgspec
import structlog

from mitai.attest import Appraisal, Claims, Policy, VerifiedCache, verify_hardware
from mitai.attest.machine import Hardware, Machine
from mitai.attest.policy import ClaimRules
from mitai.attest.results import AttestationResult, Submodule, TokenTrust, accept, sign
from mitai.attest.results.ear import TRUSTEE
from mitai.attest.results.tokens import new_key, public_key
from mitai.attest.tees import evidence_digest
from mitai.broker import protocol
from mitai.broker.kbs.evidence import hardware_of
from mitai.broker.kbs.messages import Attestation, Recipient, Tee, parse_attestation, parse_request
from mitai.broker.nonces import Nonces
from mitai.broker.protocol import ReleasedKeys, ReleaseRequest, sha256_hex
from mitai.broker.release import Decision, Proof, denied
from mitai.broker.service import Broker
from mitai.errors import AttestError, BrokerError, DeniedError, MitaiError

SESSION_S = 300.0
MAX_SESSIONS = 1024
MAX_CAPSULES = 16  # a session
MAX_WAITING = 64
PURPOSE = "inference"
PARAMETERS = {"protocol": "kbs"}
_LABEL = b"mitai kbs release v1\x00"
_COOKIE = re.compile(rf"([0-9a-f]{{64}})\.({'|'.join(get_args(Tee))})")
_CAPSULE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
logger = structlog.get_logger("mitai.broker")


@dataclass(frozen=True)
class Credential:
    """What a guest shows for its session; the token counts where there are both."""

    cookie: str = ""
    token: str = ""


@dataclass
class Session:
    """A guest that proved what it is."""

    nonce: bytes
    proof: Proof
    recipient: Recipient
    ends: float
    decided: dict[str, asyncio.Task[dict[str, bytes]]] = field(default_factory=dict)


class Kbs:
    """The protocol's three steps; for one event loop.

    Args:
        broker: Decides.
        endorse: Puts collateral beside evidence that comes without.
        monotonic: Seconds, for the ends of nonces and sessions.

    Raises:
        BrokerError: The appraisal policy demands what guests of this protocol can't show.
    """

    def __init__(
        self,
        broker: Broker,
        endorse: Callable[[Hardware], Hardware],
        *,
        monotonic: Callable[[], float] = time.monotonic,
        max_sessions: int = MAX_SESSIONS,
    ) -> None:
        policy = broker.trusted.policy
        if policy.claims != ClaimRules() or policy.nvidia.min_gpus or policy.nvidia.min_switches:
            raise BrokerError(
                "broker.kbs-policy",
                "the appraisal policy demands claims or devices, which guests of the KBS protocol can't show here",
                hint="leave the protocol off (kbs = false), or take these demands out of the policy",
            )
        self._broker, self._endorse, self._monotonic, self._max = broker, endorse, monotonic, max_sessions
        self._policy_id = f"sha256:{policy.sha256}"
        self._nonces, self._cache = Nonces(monotonic), VerifiedCache()
        self._key = new_key()
        self._trust = TokenTrust(keys=(public_key(self._key),))
        self._sessions: OrderedDict[bytes, Session] = OrderedDict()  # by nonce, oldest first
        self._verifying = anyio.CapacityLimiter(4)
        self._waiting = 0

    def auth(self, body: bytes) -> tuple[str, bytes]:
        """Return a session's cookie and a challenge; nothing is kept."""
        request = parse_request(body)
        nonce = self._nonces.issue()
        return f"{nonce.hex()}.{request.tee}", msgspec.json.encode({"nonce": _text(nonce), "extra-params": ""})

    async def attest(self, cookie: str, body: bytes) -> bytes:
        """Begin the session of a guest that proves what it is; return its token."""
        nonce, tee = _parse_cookie(cookie)
        if self._waiting >= MAX_WAITING:
            raise BrokerError("broker.busy", "too many guests at once", hint="try again in a moment")
        answer, ours = self._nonces.claim(nonce, sha256_hex(body))
        if not ours:
            return await asyncio.shield(asyncio.wrap_future(answer))
        self._waiting += 1
        try:
            session, token = await anyio.to_thread.run_sync(self._verify, nonce, tee, body, limiter=self._verifying)
            self._remember(session)
            self._nonces.keep(nonce, answer, token)
        except BaseException as error:
            self._nonces.give_back(nonce)
            known = isinstance(error, MitaiError)
            answer.set_exception(
                error if known else BrokerError("broker.internal", "the broker failed on this request")
            )
            raise
        finally:
            self._waiting -= 1
        return token

    async def resource(self, credential: Credential, repository: str, kind: str, tag: str) -> bytes:
        """Return a capsule's key, sealed to the session's guest.

        Raises:
            DeniedError: An owner said no; the denial is in the ledger.
            BrokerError: There is no such session or resource.
        """
        session = self._session(credential)
        if repository != "capsule" or tag not in FORMS or not _CAPSULE.fullmatch(kind):
            raise BrokerError(
                "broker.kbs-resource-unknown",
                "there is no such resource",
                hint="ask for capsule/ID/key or capsule/ID/raw",
            )
        task = session.decided.get(kind)
        if task is None:
            if len(session.decided) >= MAX_CAPSULES:
                raise BrokerError("broker.rate-limited", f"a session asks for at most {MAX_CAPSULES} capsules")
            task = session.decided[kind] = asyncio.create_task(self._release(session, kind))
            task.add_done_callback(lambda done: _forget_failure(session, kind, done))
        return (await asyncio.shield(task))[tag]

    # --- Attestation --------------------------------------------------------------------------------------------------

    def _verify(self, nonce: bytes, tee: Tee, body: bytes) -> tuple[Session, bytes]:
        attestation = parse_attestation(body)
        if attestation.runtime_data.nonce != _text(nonce):
            raise AttestError("attest.nonce-mismatch", "the attestation answers another nonce than its session's")
        recipient = attestation.recipient()
        hardware = self._endorse(hardware_of(tee, attestation.tee_evidence.primary_evidence))
        now = self._broker.now()
        policy = self._broker.trusted.policy_at(now)
        machine = verify_hardware(hardware, policy, now=now, cache=self._cache)
        digest = attestation.report_digest()
        if machine.report_data != digest.ljust(len(machine.report_data), b"\0"):
            raise AttestError(
                "attest.report-data-mismatch",
                "the evidence does not cover this nonce and key",
                hint="the key was exchanged on the way, or the evidence belongs to another guest",
            )
        appraisal = _appraisal(machine, policy, attestation.key_json())
        left = min(SESSION_S, (appraisal.not_after - now).total_seconds())
        result = _result(attestation, appraisal, self._policy_id, nonce)
        life = timedelta(seconds=left)
        token = sign(AttestationResult.of(result, now=now, lifetime=life, nonce=nonce, profile=TRUSTEE), self._key)
        trusted = self._broker.trusted
        release, residency = trusted.release_of(appraisal, now), trusted.residency_of(appraisal, now)
        proof = Proof(appraisal, release=release, residency=residency)
        session = Session(nonce, proof, recipient, self._monotonic() + left)
        return session, msgspec.json.encode({"token": token})

    def _remember(self, session: Session) -> None:
        """Keep a session; too many push the oldest out, whose guest attests again."""
        self._sessions[session.nonce] = session
        while len(self._sessions) > self._max:
            self._sessions.popitem(last=False)
        appraisal = session.proof.appraisal
        logger.info("kbs session", workload=appraisal and appraisal.workload, tee=appraisal and appraisal.tee)

    # --- Resources ----------------------------------------------------------------------------------------------------

    def _session(self, credential: Credential) -> Session:
        try:
            if credential.token:
                nonce = accept(credential.token, self._trust, now=self._broker.now()).nonce
            else:
                nonce = _parse_cookie(credential.cookie)[0]
        except MitaiError:
            nonce = b""
        session = self._sessions.get(nonce)
        if session is None or session.ends <= self._monotonic():
            self._sessions.pop(nonce, None)
            raise AttestError("broker.kbs-session-unknown", "there is no such session, or it has ended", hint=_AGAIN)
        return session

    async def _release(self, session: Session, capsule: str) -> dict[str, bytes]:
        request = ReleaseRequest(
            evidence=b"", nonce=session.nonce.hex(), purpose=PURPOSE, capsules=(capsule,), parameters=PARAMETERS
        )
        digest = sha256_hex(_LABEL + session.nonce + capsule.encode())
        decision = await self._broker.release_proven(request, digest, session.proof)
        if decision.refusal is not None:
            raise denied(decision)
        return {tag: session.recipient.seal(form(decision)) for tag, form in FORMS.items()}


FORMS: dict[str, Callable[[Decision], bytes]] = {
    "key": lambda decision: protocol.encode(ReleasedKeys(keys=decision.keys, index=decision.index)),
    "raw": lambda decision: decision.keys[0].data_key,
}
_AGAIN = "attest again: POST /kbs/v0/auth, then /kbs/v0/attest"


def _appraisal(machine: Machine, policy: Policy, key_json: bytes) -> Appraisal:
    """Return what the evidence proves; the workload is the one whose reference values are this machine's."""
    fitting = (
        values.name
        for values in policy.workloads
        if values.tee == machine.tee and values.mismatch(machine.measurements) is None
    )
    names = sorted(set(fitting))
    if len(names) != 1:
        raise AttestError(
            "attest.workload-unknown",
            f"the reference values of {len(names)} workloads are this machine's, not of one",
            hint="name the guest in the appraisal policy: docs/spec/kbs.md",
        )
    claims = Claims(workload=names[0], key_config=key_json)
    return Appraisal(
        tee=machine.tee,
        simulated=machine.simulated,
        workload=names[0],
        claims=claims,
        claims_bytes=claims.encode(),
        measurements=machine.measurements,
        tcb_status=machine.tcb_status,
        advisory_ids=machine.advisory_ids,
        tcb_evaluation_number=machine.tcb_evaluation_number,
        evidence_sha256=evidence_digest(machine.signed),
        checks=machine.checks,
        not_after=machine.not_after,
        machine=machine,
        devices=(),
    )


def _result(attestation: Attestation, appraisal: Appraisal, policy_id: str, nonce: bytes) -> dict[str, Submodule]:
    """Return the verdict as Trustee names and places it: the guest's key among the runtime data."""
    verdict = Submodule.accepted(appraisal.machine, policy_id=policy_id, nonce=nonce, workload=appraisal.workload)
    runtime = {"runtime_data_claims": msgspec.to_builtins(attestation.runtime_data)}
    return {"cpu0": replace(verdict, evidence={**verdict.evidence, **runtime})}


def _parse_cookie(cookie: str) -> tuple[bytes, Tee]:
    match = _COOKIE.fullmatch(cookie)
    if match is None:
        raise AttestError("broker.kbs-session-unknown", "the request has no session's cookie", hint=_AGAIN)
    return bytes.fromhex(match[1]), msgspec.convert(match[2], Tee)


def _forget_failure(session: Session, capsule: str, done: asyncio.Task[dict[str, bytes]]) -> None:
    """Keep keys and denials; what could not be decided may be asked again."""
    if done.cancelled() or not isinstance(done.exception(), DeniedError | None):
        session.decided.pop(capsule, None)


def _text(nonce: bytes) -> str:
    return base64.b64encode(nonce).decode()
