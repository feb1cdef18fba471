"""Evidence in, claims out: the verifier.

Follows RFC 9334 (RATS): evidence and endorsements (collateral) are appraised under a policy that holds reference
values.

Invariants:

- No input, no clock and no trust anchor but those given: bytes and `now` go in, a frozen `Appraisal` comes out, or
  `AttestError`.
- `verify` is a numbered checklist. Each step must pass; the error names the step that did not.
- Keys and names are taken only from the claims whose hash the quote's report data covers.

Example:
    >>> appraisal = verify(Evidence.decode(body), policy, nonce=nonce, now=datetime.now(UTC))
    >>> appraisal.claims.key_config
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

import msgspec

from mitai.attest import nvidia
from mitai.attest.cache import VerifiedCache
from mitai.attest.checks import Checklist
from mitai.attest.dcap.collateral import Collateral
from mitai.attest.evidence import NO_DEVICES, Claims, Evidence, report_data
from mitai.attest.machine import Hardware, Machine
from mitai.attest.policy import ClaimRules, Policy
from mitai.attest.tees import appraise, evidence_digest, tee_of_quote
from mitai.errors import AttestError


@dataclass(frozen=True, slots=True)
class Appraisal:
    """What evidence proves about a process: its machine, its code and its keys."""

    tee: str
    simulated: bool
    workload: str
    claims: Claims
    claims_bytes: bytes
    measurements: Mapping[str, str]
    tcb_status: str
    advisory_ids: tuple[str, ...]
    tcb_evaluation_number: int
    evidence_sha256: str
    checks: tuple[tuple[str, str], ...]
    not_after: datetime
    machine: Machine
    devices: tuple[nvidia.Device, ...]

    def summary(self) -> list[tuple[str, str]]:
        """Return (name, value) lines for a terminal."""
        capsules = ", ".join(capsule.id for capsule in self.claims.capsules) or "none"
        ours = [("workload", self.workload), ("capsules", capsules), ("evidence", self.evidence_sha256)]
        seen = self.machine.summary()
        return [*seen[:1], *ours, *seen[1:], *(line for device in self.devices for line in device.summary())]


def verify(
    evidence: Evidence,
    policy: Policy,
    *,
    nonce: bytes,
    now: datetime,
    collateral: Collateral | None = None,
    cache: VerifiedCache | None = None,
    device_endorsements: nvidia.Endorsements | None = None,
) -> Appraisal:
    """Verify evidence.

    1. nonce: the evidence answers ours.
    2. the hardware: all steps of the verifier of its TEE (`docs/spec/evidence-*.md`). Of TDX: quote, root, collateral,
       platform, signatures, quoting enclave, tcb, td, event log.
    3. report data: what the hardware signed covers our nonce, the claims and the devices.
    4. devices: GPUs and switches, where there are any or the policy demands some; their reports answer our nonce too.
    5. claims: parse, and say what the policy demands.
    6. workload: the measurements are reference values of the workload that the claims name.

    Args:
        evidence: What was received.
        policy: What is accepted.
        nonce: The 32 bytes that the verifier chose for this exchange.
        now: Time of the check, with a time zone.
        collateral: Collateral from elsewhere; otherwise that in the evidence (signed: its carrier does not matter).
        cache: Remembers verified chains and collateral between calls.
        device_endorsements: Manifests and revocation statuses of devices, beside those in the evidence.

    Raises:
        AttestError: With the code and the step of the first check that failed.
    """
    checks = Checklist()
    with checks.step("nonce") as say:
        if not hmac.compare_digest(evidence.nonce, nonce):
            raise AttestError(
                "attest.nonce-mismatch", "the evidence answers another nonce: it is a replay, or was relayed"
            )
        expected_report_data = report_data(nonce, evidence.claims, evidence.devices)
        say("answers ours")
    hardware = evidence.hardware()
    if collateral is not None:
        hardware = msgspec.structs.replace(hardware, collateral=collateral)
    machine = appraise(checks, hardware, policy, now=now, cache=cache)
    with checks.step("report data") as say:
        if not hmac.compare_digest(machine.report_data, expected_report_data):
            raise AttestError(
                "attest.report-data-mismatch",
                "the quote does not cover these claims",
                hint="a key or a name was exchanged on the way, or the quote belongs to another process",
            )
        say("covers nonce, claims and devices")
    devices: tuple[nvidia.Device, ...] = ()
    if evidence.devices != NO_DEVICES or policy.nvidia.min_gpus or policy.nvidia.min_switches:
        devices = nvidia.appraise_devices(
            checks,
            evidence.devices,
            nonce,
            policy.nvidia,
            now=now,
            cache=cache,
            endorsements=device_endorsements or nvidia.Endorsements(),
        )
    with checks.step("claims") as say:
        claims = Claims.decode(evidence.claims)
        _check_claims(claims, policy.claims)
        number = len(claims.capsules)
        say(f"workload {claims.workload}, {number} capsule{'' if number == 1 else 's'}")
    with checks.step("workload") as say:
        _check_workload(claims.workload, machine, policy)
        say(f"measured as {claims.workload}")
    return Appraisal(
        tee=machine.tee,
        simulated=machine.simulated,
        workload=claims.workload,
        claims=claims,
        claims_bytes=evidence.claims,
        measurements=machine.measurements,
        tcb_status=machine.tcb_status,
        advisory_ids=machine.advisory_ids,
        tcb_evaluation_number=machine.tcb_evaluation_number,
        evidence_sha256=evidence_digest(machine.signed),
        checks=checks.passed,
        not_after=machine.not_after,
        machine=machine,
        devices=devices,
    )


def verify_hardware(
    hardware: Hardware, policy: Policy, *, now: datetime, cache: VerifiedCache | None = None
) -> Machine:
    """Verify evidence of the hardware alone, and the reference values where the policy has any, or trusts releases.

    Nothing is said about report data: who has only this must compare `machine.report_data` himself.

    Raises:
        AttestError: With the code and the step of the first check that failed.
    """
    checks = Checklist()
    machine = appraise(checks, hardware, policy, now=now, cache=cache)
    if policy.workloads or policy.releases:  # releases without any that was given: no code is known, none is accepted
        with checks.step("workload"):
            _check_workload(None, machine, policy)
        machine = replace(machine, checks=checks.passed)
    return machine


def verify_quote(
    quote: bytes, collateral: Collateral, policy: Policy, *, now: datetime, cache: VerifiedCache | None = None
) -> Machine:
    """Verify a bare quote of Intel's, TDX or SGX; see `verify_hardware`."""
    hardware = Hardware(tee=tee_of_quote(quote), quote=quote, collateral=collateral)
    return verify_hardware(hardware, policy, now=now, cache=cache)


def _check_claims(claims: Claims, rules: ClaimRules) -> None:
    opened = {capsule.id: capsule.manifest_sha256 for capsule in claims.capsules}
    for pin in rules.capsules:
        if pin.id not in opened:
            raise AttestError("attest.capsule-missing", f"the workload has not opened capsule {pin.id!r}")
        if pin.manifest_sha256 not in {None, opened[pin.id]}:
            raise AttestError(
                "attest.capsule-mismatch", f"the workload has opened another version of capsule {pin.id!r}"
            )
    if not set(rules.policies) <= set(claims.policies):
        raise AttestError("attest.policy-digest-missing", "a policy that must be in force is not")
    if rules.ledger_vkey is not None and claims.ledger is None:
        raise AttestError(
            "attest.ledger-missing",
            "the workload writes to no ledger",
            hint="a replica does once a model is deployed: perhaps none is yet",
        )
    if rules.ledger_vkey is not None and claims.ledger is not None and claims.ledger.vkey != rules.ledger_vkey:
        raise AttestError("attest.ledger-mismatch", "the workload writes to another ledger than the policy demands")


def _check_workload(name: str | None, machine: Machine, policy: Policy) -> None:
    """Check that some reference values (of workload `name`, where given) are exactly this machine's."""
    candidates = [values for values in policy.workloads if name in {None, values.name} and values.tee == machine.tee]
    if not candidates:
        known = ", ".join(sorted({f"{values.name} on {values.tee}" for values in policy.workloads})) or "none"
        raise AttestError(
            "attest.workload-unknown",
            f"the policy has no reference values for {name or 'any workload'!r} on {machine.tee} (it has: {known})",
            hint="it trusts releases: give one (mitai verify --release)" if policy.releases else None,
        )
    mismatches = [values.mismatch(machine.measurements) for values in candidates]
    if None not in mismatches:
        raise AttestError(
            "attest.measurement-mismatch",
            f"the machine runs other code than the policy expects of {name or 'any workload'!r}: {mismatches[0]}",
            hint="either the code was changed, or the policy is of another release",
        )
