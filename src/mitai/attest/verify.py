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
from dataclasses import dataclass, replace
from datetime import datetime

from mitai.attest import sgx, tdx
from mitai.attest.checks import Checklist
from mitai.attest.dcap import tcb as dcap_tcb
from mitai.attest.dcap import verify as dcap
from mitai.attest.dcap.collateral import Collateral, CollateralCache, verify_collateral
from mitai.attest.dcap.quote import Quote, TdReport, parse_quote
from mitai.attest.eventlog import check_replay
from mitai.attest.evidence import NO_DEVICES, Claims, Evidence, evidence_sha256, report_data
from mitai.attest.policy import ClaimRules, Policy, TcbRules
from mitai.errors import AttestError


@dataclass(frozen=True, slots=True)
class QuoteAppraisal:
    """What a quote proves about a machine and what was measured into it."""

    tee: str
    simulated: bool
    quote: Quote
    measurements: dict[str, str]
    tcb_status: str
    advisory_ids: tuple[str, ...]
    tcb_evaluation_number: int
    not_after: datetime  # when the collateral ends
    checks: tuple[tuple[str, str], ...]

    def summary(self) -> list[tuple[str, str]]:
        """Return (name, value) lines for a terminal; the first says whether this is a simulation."""
        lines = [
            (
                "hardware",
                "SIMULATED: proves nothing about hardware" if self.simulated else f"genuine Intel {self.tee.upper()}",
            ),
            ("tcb status", self.tcb_status),
            ("advisories", ", ".join(self.advisory_ids) or "none"),
            ("tcb evaluation number", str(self.tcb_evaluation_number)),
            ("valid until", f"{self.not_after:%F %T} UTC"),
        ]
        return lines + list(self.measurements.items())


@dataclass(frozen=True, slots=True)
class Appraisal:
    """What evidence proves about a process: its machine, its code and its keys."""

    tee: str
    simulated: bool
    workload: str
    claims: Claims
    claims_bytes: bytes
    measurements: dict[str, str]
    tcb_status: str
    advisory_ids: tuple[str, ...]
    tcb_evaluation_number: int
    evidence_sha256: str
    checks: tuple[tuple[str, str], ...]
    not_after: datetime
    quote: QuoteAppraisal

    def summary(self) -> list[tuple[str, str]]:
        """Return (name, value) lines for a terminal."""
        capsules = ", ".join(capsule.id for capsule in self.claims.capsules) or "none"
        ours = [("workload", self.workload), ("capsules", capsules), ("evidence", self.evidence_sha256)]
        return [*self.quote.summary()[:1], *ours, *self.quote.summary()[1:]]


def verify(
    evidence: Evidence,
    policy: Policy,
    *,
    nonce: bytes,
    now: datetime,
    collateral: Collateral | None = None,
    cache: CollateralCache | None = None,
) -> Appraisal:
    """Verify evidence.

    1. nonce: the evidence answers ours.
    2. quote: parses, to the last byte.
    3. root: the chain ends in a root that the policy trusts; simulated only if the policy allows it.
    4. collateral: TCB info, QE identity and revocation lists are signed and current.
    5. platform: the PCK chain holds and nobody revoked it.
    6. signatures: PCK key → quoting enclave → attestation key → quote.
    7. quoting enclave: is Intel's.
    8. TCB: status, advisories and evaluation number are accepted.
    9. TD: attributes, features, TDX module.
    10. report data: covers our nonce, the claims and the devices.
    11. event log: replays to the RTMRs.
    12. claims: parse, and say what the policy demands.
    13. workload: the measurements are reference values of the workload that the claims name.

    Args:
        evidence: What was received.
        policy: What is accepted.
        nonce: The 32 bytes that the verifier chose for this exchange.
        now: Time of the check, with a time zone.
        collateral: Collateral from elsewhere; otherwise that in the evidence (signed: its carrier does not matter).
        cache: Remembers verified collateral between calls.

    Raises:
        AttestError: With the code and the step of the first check that failed.
    """
    checks = Checklist()
    with checks.step("nonce") as say:
        if evidence.tee != "tdx":
            raise AttestError("attest.tee-unsupported", f"evidence of TEE {evidence.tee[:32]!r}, expected 'tdx'")
        if not hmac.compare_digest(evidence.nonce, nonce):
            raise AttestError(
                "attest.nonce-mismatch", "the evidence answers another nonce: it is a replay, or was relayed"
            )
        expected_report_data = report_data(nonce, evidence.claims, evidence.devices)
        say("answers ours")
    machine = _appraise_quote(checks, evidence.quote, collateral or evidence.collateral, policy, now=now, cache=cache)
    body = machine.quote.body
    with checks.step("report data") as say:
        if not isinstance(body, TdReport) or not hmac.compare_digest(body.report_data, expected_report_data):
            raise AttestError(
                "attest.report-data-mismatch",
                "the quote does not cover these claims",
                hint="a key or a name was exchanged on the way, or the quote belongs to another process",
            )
        if evidence.devices != NO_DEVICES:
            raise AttestError(
                "attest.devices-unsupported", "the evidence holds devices, which this verifier cannot appraise"
            )
        say("covers nonce, claims and devices")
    with checks.step("event log") as say:
        if evidence.event_log:
            check_replay(evidence.event_log, body.rtmrs)
        say("replays to RTMR0..3" if evidence.event_log else "none sent; the registers themselves are compared")
    with checks.step("claims") as say:
        claims = Claims.decode(evidence.claims)
        _check_claims(claims, policy.claims)
        number = len(claims.capsules)
        say(f"workload {claims.workload}, {number} capsule{'' if number == 1 else 's'}")
    with checks.step("workload") as say:
        _check_workload(claims.workload, machine.measurements, policy)
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
        evidence_sha256=evidence_sha256(evidence),
        checks=checks.passed,
        not_after=machine.not_after,
        quote=machine,
    )


def verify_quote(
    quote: bytes,
    collateral: Collateral,
    policy: Policy,
    *,
    now: datetime,
    cache: CollateralCache | None = None,
) -> QuoteAppraisal:
    """Verify a bare quote, TDX or SGX: steps 2 to 9 of `verify`, and the reference values where the policy has any.

    Nothing is said about report data: who has only a quote must compare `appraisal.quote.body.report_data` himself.
    """
    checks = Checklist()
    machine = _appraise_quote(checks, quote, collateral, policy, now=now, cache=cache)
    if policy.workloads:
        with checks.step("workload"):
            _check_workload(None, machine.measurements, policy)
        machine = replace(machine, checks=checks.passed)
    return machine


def _appraise_quote(
    checks: Checklist,
    data: bytes,
    collateral: Collateral | None,
    policy: Policy,
    *,
    now: datetime,
    cache: CollateralCache | None,
) -> QuoteAppraisal:
    with checks.step("quote") as say:
        quote = parse_quote(data)
        tee = "tdx" if isinstance(quote.body, TdReport) else "sgx"
        say(f"{tee.upper()} version {quote.header.version}")
    with checks.step("root") as say:
        if collateral is None:
            raise AttestError("attest.collateral-missing", "no collateral came with the evidence, and none was given")
        chain = dcap.find_pck_chain(quote, collateral.pck_certificate_chain)
        simulated = dcap.check_root(chain, policy.roots(), allow_simulation=policy.allow_simulation)
        say(chain.root.common_name)
    with checks.step("collateral") as say:
        check = cache.verify if cache is not None else verify_collateral
        verified = check(collateral, chain.root.fingerprint, now, grace_s=policy.tcb.collateral_grace_s)
        say(f"current until {verified.not_after:%F %T} UTC")
    with checks.step("platform") as say:
        platform = dcap.verify_pck_chain(chain, verified, now)
        say(f"FMSPC {platform.tcb.fmspc.hex()}, not revoked")
    with checks.step("signatures") as say:
        qe_report = dcap.verify_quote_signature(quote, platform.leaf)
        say("PCK key, quoting enclave, attestation key, quote")
    with checks.step("quoting enclave") as say:
        dcap.check_qe(quote, qe_report, verified)
        say(f"security version {qe_report.isv_svn}")
    with checks.step("tcb") as say:
        result = dcap_tcb.evaluate_tcb(quote.body, platform.tcb, qe_report, verified.tcb_info, verified.qe_identity)
        _check_tcb(result, policy.tcb)
        say(f"{result.status}, evaluation {result.evaluation_number}")
    with checks.step("td" if isinstance(quote.body, TdReport) else "enclave") as say:
        if isinstance(quote.body, TdReport):
            tdx.check_td(quote.header, quote.body, policy.tdx)
            measurements = tdx.measurements(quote.body)
        else:
            sgx.check_enclave(quote.header, quote.body, policy.sgx)
            measurements = sgx.measurements(quote.body)
        say("no debug, attributes as demanded")
    return QuoteAppraisal(
        tee=tee,
        simulated=simulated,
        quote=quote,
        measurements=measurements,
        tcb_status=result.status.value,
        advisory_ids=result.advisory_ids,
        tcb_evaluation_number=result.evaluation_number,
        not_after=min(verified.not_after, platform.not_after),
        checks=checks.passed,
    )


def _check_tcb(result: dcap_tcb.TcbResult, rules: TcbRules) -> None:
    if result.evaluation_number < rules.min_evaluation_number:
        raise AttestError(
            "attest.tcb-evaluation-number-too-low",
            f"the collateral is of TCB evaluation {result.evaluation_number}, demanded: {rules.min_evaluation_number}",
        )
    if result.status not in rules.accepted_statuses:
        raise AttestError(
            "attest.tcb-status-refused",
            f"the policy does not accept a platform that is {result.status} ({', '.join(result.advisory_ids)})",
            hint="the machine's owner must update firmware, microcode or TDX module",
        )
    unknown = set(result.advisory_ids) - set(rules.accepted_advisories)
    if unknown and "any" not in rules.accepted_advisories:
        raise AttestError(
            "attest.advisory-refused", f"open advisories that the policy does not accept: {', '.join(sorted(unknown))}"
        )


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


def _check_workload(name: str | None, measurements: dict[str, str], policy: Policy) -> None:
    """Check that some reference values (of workload `name`, where given) are exactly these measurements."""
    candidates = [values for values in policy.workloads if name in {None, values.name}]
    if not candidates:
        known = ", ".join(sorted({values.name for values in policy.workloads})) or "none"
        raise AttestError(
            "attest.workload-unknown", f"the policy has no reference values for workload {name!r} (it has: {known})"
        )
    mismatches = [values.mismatch(measurements) for values in candidates]
    if None not in mismatches:
        raise AttestError(
            "attest.measurement-mismatch",
            f"the machine runs other code than the policy expects of {name or 'any workload'!r}: {mismatches[0]}",
            hint="either the code was changed, or the policy is of another release",
        )
