"""Key release: evidence, every owner's consent, and keys that only the proven workload can open.

The steps are in `docs/spec/broker.md`, "Release"; nonces are in `nonces`, the order of the steps in `service`.

Invariants:

- Keys go only to the HPKE key in the claims that the evidence covers; it is over this broker's own nonce and all else
  that the request says.
- All owners' grants of all capsules must allow, at one moment, in the writer; the first refusal is the reason, and
  nothing is spent unless everything is allowed.
- The decision, its budget and its ledger entry are committed before anything is answered.

Example:
    >>> case = Case(request, sha256_hex(body), prove(request, trusted, now, cache), policies, now)
    >>> writer.submit(Job(lambda draft: decide(draft, case))).result().index
    17
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field, replace
from datetime import datetime

import msgspec
from msgspec import UNSET

from mitai.attest import Appraisal, Evidence, VerifiedCache, verify
from mitai.broker import budgets, protocol
from mitai.broker.commands import MAX_RECENT, check_clock, check_room
from mitai.broker.consent import Policies, ask
from mitai.broker.inheritance import Refusal, any_ended, asked
from mitai.broker.policy import Facts, ReleaseFact, job_of
from mitai.broker.protocol import Origin, ReleasedKey, ReleasedKeys, ReleaseRequest, sha256_hex
from mitai.broker.records import Capsule, Party, Platform, Replica
from mitai.broker.store import Draft, Key
from mitai.broker.trusted import Trusted
from mitai.capsule.manifest import MAX_PARENTS
from mitai.channel.hpke import setup_sender
from mitai.channel.ohttp import KeyConfig
from mitai.errors import AttestError, BrokerError, ChannelError, DeniedError, ParseError
from mitai.ledger.entry import Denial, Release, utc
from mitai.workload import SHOWN

MAX_MANIFESTS_BYTES = 48 << 20  # in one answer
MAX_REPLICA_CAPSULES = MAX_PARENTS  # of what it derives
MAX_EVIDENCE = 16  # the newest, that a statement of a replica may name
MAX_POLICIES = 64  # that one ledger entry names


# --- Evidence -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Proof:
    """What the evidence came to: an appraisal with the key to seal to, or the reason why it was refused."""

    appraisal: Appraisal | None = None
    recipient: KeyConfig | None = None
    release: ReleaseFact | None = None
    residency: tuple[str, ...] = ()
    code: str = ""
    why: str = ""


def prove(request: ReleaseRequest, trusted: Trusted, now: datetime, cache: VerifiedCache) -> Proof:
    """Verify a request's evidence under the broker's own policy, and the signed releases that it was given."""
    try:
        evidence, nonce = Evidence.decode(request.evidence), protocol.release_nonce(request)
        if not hmac.compare_digest(evidence.nonce, nonce):
            why = "this evidence was made for another request: challenge, purpose, capsules or parameters are others"
            return Proof(code="broker.request-mismatch", why=why)
        appraisal = verify(evidence, trusted.policy_at(now), nonce=nonce, now=now, cache=cache)
        if SHOWN.items() & appraisal.claims.extra.items():
            why = "this evidence is what the workload shows to anybody: it did not ask for keys"
            return Proof(code="broker.evidence-shown", why=why)
        recipient = KeyConfig.decode(appraisal.claims.key_config)
        return Proof(appraisal, recipient, trusted.release_of(appraisal, now), trusted.residency_of(appraisal, now))
    except (AttestError, ParseError, ChannelError) as error:
        simulated = error.code == "attest.simulation-refused"
        code = "broker.simulation-refused" if simulated else f"broker.evidence-refused:{error.code}"
        return Proof(code=code, why=error.message)


# --- The decision ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Decision:
    """What was decided and logged as entry `index`: keys, or a refusal."""

    index: int
    refusal: Refusal | None = None
    capsules: tuple[Capsule, ...] = ()
    keys: tuple[ReleasedKey, ...] = ()


@dataclass(frozen=True)
class Case:
    """A release that is to be decided."""

    request: ReleaseRequest
    request_sha256: str
    proof: Proof
    policies: Policies
    now: datetime
    max_replicas: int = 100_000
    facts: Facts | None = field(init=False)

    def __post_init__(self) -> None:
        appraisal = self.proof.appraisal
        facts = appraisal and Facts(
            workload=appraisal.workload,
            purpose=self.request.purpose,
            time=self.now,
            tee=appraisal.tee,
            simulated=appraisal.simulated,
            measurements=tuple(appraisal.measurements.items()),
            tcb_status=appraisal.tcb_status,
            advisory_ids=appraisal.advisory_ids,
            tcb_evaluation_number=appraisal.tcb_evaluation_number,
            parameters=self.request.parameters,
            release=self.proof.release,
            residency=self.proof.residency,
            capsules=self.request.capsules,
        )
        object.__setattr__(self, "facts", facts)

    def keys(self) -> tuple[Key, ...]:
        """Return the records that the decision will read, as far as they are known."""
        capsules: list[Key] = [(Capsule, capsule) for capsule in self.request.capsules]
        receipt_key = self.proof.appraisal.claims.receipt_key if self.proof.appraisal else b""
        return (*capsules, (Replica, receipt_key.hex())) if receipt_key else tuple(capsules)


def decide(draft: Draft, case: Case) -> Decision:
    """Decide a release, in the writer.

    1. The clock is not behind the ledger: budgets in time can't be won back by setting it.
    2. The evidence was accepted.
    3. For every capsule, for every owner: known, not revoked, not expired, budgets left, the policy allows.
    4. All budgets are decremented, and the release is logged; or nothing is, and the denial is logged.
    """
    # 1. clock
    check_clock(draft, case.now)
    found = [draft.get(Capsule, capsule) for capsule in case.request.capsules]
    # 2. and 3. the first refusal is the reason
    refusal = _first_refusal(draft, case, found)
    if refusal is not None:
        return _deny(draft, case, refusal, [capsule for capsule in found if capsule is not None])
    # 4. spend and log
    return _allow(draft, case, [capsule for capsule in found if capsule is not None])


def _first_refusal(draft: Draft, case: Case, found: list[Capsule | None]) -> Refusal | None:
    if case.facts is None:
        return Refusal(case.proof.code, case.proof.why)
    try:
        job = job_of(case.request.parameters)
    except ParseError as error:
        return Refusal(error.code, error.message)
    if _taken(draft, case):
        return Refusal("broker.receipt-key-taken", "another workload was given keys with this receipt key")
    facts = replace(case.facts, owners=_owners(found), job=job)
    room = MAX_MANIFESTS_BYTES
    for name, capsule in zip(case.request.capsules, found, strict=True):
        if capsule is None:
            return Refusal("broker.capsule-unknown", f"no capsule {name} is registered here")
        room -= capsule.envelope_bytes
        if room < 0:
            return Refusal("broker.answer-too-large", "these manifests do not fit into one answer: ask in several")
        if capsule.made is not None and (over := any_ended(draft, capsule, case.now)) is not None:
            return over
        about = replace(facts, kind=capsule.kind, lineage=capsule.lineage)
        for grant, source in asked(draft, capsule):
            refusal = ask(draft, case, about, capsule, (grant, source))
            if refusal is not None:
                return Refusal(refusal.code, f"capsule {name}, owner {grant.party[:16]}: {refusal.why}")
    return None


def _taken(draft: Draft, case: Case) -> bool:
    """Tell whether other code has the receipt key: what it was given would be told of this workload."""
    appraisal = case.proof.appraisal
    known = (
        draft.get(Replica, appraisal.claims.receipt_key.hex()) if appraisal and appraisal.claims.receipt_key else None
    )
    if appraisal is None or known is None:
        return False
    proven = (appraisal.workload, dict(appraisal.measurements), appraisal.simulated)
    return (known.workload, known.measurements, known.simulated) != proven


def _owners(found: list[Capsule | None]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(grant.party for capsule in found if capsule for grant in capsule.grants))


def _deny(draft: Draft, case: Case, refusal: Refusal, found: list[Capsule]) -> Decision:
    appraisal = case.proof.appraisal
    known = found if appraisal else []  # strangers can't push owners' newest entries out, nor have policies looked up
    entry = Denial(
        time=utc(case.now),
        capsules=case.request.capsules,
        code=refusal.code,
        reasons=(_printable(refusal.why),),
        workload=appraisal.workload if appraisal else None,
        purpose=case.request.purpose,
        evidence_sha256=appraisal.evidence_sha256 if appraisal else None,
        policies=_policies(draft, known)[:MAX_POLICIES],  # a refusal is logged, whatever was asked for
        simulated=appraisal.simulated if appraisal else None,
    )
    index = draft.append(entry.encode())
    for capsule in known:
        draft.put(capsule.capsule, capsule.noted(index, MAX_RECENT))
    return Decision(index, refusal)


def _allow(draft: Draft, case: Case, found: list[Capsule]) -> Decision:
    appraisal = case.proof.appraisal
    assert appraisal is not None  # noqa: S101 - `_first_refusal` saw to it
    policies = _policies(draft, found)
    if len(policies) > MAX_POLICIES:
        raise BrokerError(
            "broker.too-many-policies", f"a release asks at most {MAX_POLICIES} policies", hint="ask in several"
        )
    keys = tuple(_released(draft, capsule) for capsule in found)
    entry = Release(
        time=utc(case.now),
        release=case.request_sha256,
        capsules=case.request.capsules,
        workload=appraisal.workload,
        purpose=case.request.purpose,
        evidence_sha256=appraisal.evidence_sha256,
        recipient_sha256=sha256_hex(appraisal.claims.key_config),
        policies=policies,
        simulated=appraisal.simulated,
    )
    index = draft.append(entry.encode())
    declared = job_of(case.request.parameters).amounts
    for capsule in found:
        grants = tuple(
            msgspec.structs.replace(grant, uses=grant.uses + 1, spent=budgets.added(grant.spent, declared))
            for grant in capsule.grants
        )
        draft.put(capsule.capsule, msgspec.structs.replace(capsule, grants=grants).noted(index, MAX_RECENT))
    _know_replica(draft, case, appraisal)
    return Decision(index, None, tuple(found), keys)


def _released(draft: Draft, capsule: Capsule) -> ReleasedKey:
    owner = draft.get(Party, capsule.owner)
    signer = capsule.made.signer if capsule.made else owner.public_key if owner else b""
    policies = _policies(draft, [capsule])
    derived = True if capsule.made else UNSET
    return ReleasedKey(capsule.capsule, capsule.data_key, capsule.manifest_sha256, signer, policies, derived)


def _know_replica(draft: Draft, case: Case, appraisal: Appraisal) -> None:
    """Remember the receipt key in the claims that were given keys, and which: receipts, leases, what it derives."""
    receipt_key = appraisal.claims.receipt_key
    if not receipt_key:
        return
    known = draft.get(Replica, receipt_key.hex())
    if known is None:
        check_room(draft, "replica", case.max_replicas)
        known = Replica(
            appraisal.workload,
            appraisal.simulated,
            int(case.now.timestamp()),
            measurements=dict(appraisal.measurements),
            purpose=case.request.purpose,
            parameters=case.request.parameters,
        )
    capsules = tuple(dict.fromkeys((*known.capsules, *case.request.capsules)))
    if len(capsules) > MAX_REPLICA_CAPSULES:
        raise BrokerError(
            "broker.too-many-capsules",
            f"one process is given at most {MAX_REPLICA_CAPSULES} capsules in its life",
            hint="start it anew",
        )
    mixed = known.mixed or (known.purpose, known.parameters) != (case.request.purpose, case.request.parameters)
    evidence = known.evidence if mixed else (*known.evidence, appraisal.evidence_sha256)[-MAX_EVIDENCE:]
    platform = known.platform if mixed else _platform(appraisal, case.proof)
    new = msgspec.structs.replace(known, capsules=capsules, mixed=mixed, evidence=evidence, platform=platform)
    if new != known:
        draft.put(receipt_key.hex(), new)


def _platform(appraisal: Appraisal, proof: Proof) -> Platform:
    release = proof.release
    return Platform(
        tee=appraisal.tee,
        simulated=appraisal.simulated,
        tcb_status=appraisal.tcb_status,
        advisory_ids=appraisal.advisory_ids,
        tcb_evaluation_number=appraisal.tcb_evaluation_number,
        release=(release.name, release.version, release.publisher) if release else None,
        residency=proof.residency,
    )


def _policies(draft: Draft, capsules: list[Capsule]) -> tuple[str, ...]:
    asked_for = (source.policy_sha256 for capsule in capsules for _, source in asked(draft, capsule))
    return tuple(dict.fromkeys(digest for digest in asked_for if digest))


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)[:512] or "?"


# --- The answer -----------------------------------------------------------------------------------------------------


def denied(decision: Decision) -> DeniedError:
    """Return the error that stands for a refusal."""
    assert decision.refusal is not None  # noqa: S101 - the caller looked
    return DeniedError(decision.refusal.code, f"{decision.refusal.why} (ledger entry {decision.index})")


def seal_answer(
    body: bytes, proof: Proof, decision: Decision, manifests: tuple[bytes, ...], checkpoint: bytes
) -> bytes:
    """Seal released keys to the workload's attested key, bound to the exact request."""
    config = proof.recipient
    assert config is not None  # noqa: S101 - keys are released to proven workloads only
    appraisal = proof.appraisal
    assert appraisal is not None  # noqa: S101 - as above
    origin = Origin(appraisal.workload, dict(appraisal.measurements), appraisal.evidence_sha256)
    plaintext = protocol.encode(ReleasedKeys(keys=decision.keys, index=decision.index, origin=origin))
    context = setup_sender(config.kem, config.public, protocol.release_info(body), config.aeads[0])
    sealed = context.enc + context.seal(plaintext)
    return protocol.encode(protocol.ReleaseAnswer(sealed=sealed, manifests=manifests, checkpoint=checkpoint))
