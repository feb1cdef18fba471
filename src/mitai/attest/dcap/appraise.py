"""Intel's quotes, TDX and SGX, appraised step by step.

Steps: quote → root → collateral → platform → signatures → quoting enclave → TCB → TD or enclave → event log.
"""

from __future__ import annotations

from datetime import datetime

from mitai.attest import sgx, tdx
from mitai.attest.cache import Verified, VerifiedCache
from mitai.attest.checks import Checklist
from mitai.attest.dcap import second_opinion
from mitai.attest.dcap import tcb as dcap_tcb
from mitai.attest.dcap import verify as dcap
from mitai.attest.dcap.collateral import Collateral, VerifiedCollateral, verify_collateral
from mitai.attest.dcap.pck import PckTcb
from mitai.attest.dcap.quote import EnclaveReport, Quote, TdReport, parse_quote
from mitai.attest.dcap.rules import TcbRules
from mitai.attest.eventlog import check_rtmr_log
from mitai.attest.machine import Hardware, Machine
from mitai.attest.policy import Policy
from mitai.errors import AttestError


def appraise(
    checks: Checklist, hardware: Hardware, policy: Policy, *, now: datetime, cache: VerifiedCache | None = None
) -> Machine:
    """Verify a quote and its collateral under the sections `tcb`, `tdx` and `sgx` of the policy.

    Raises:
        AttestError: With the code and the step of the first check that failed.
    """
    with checks.step("quote") as say:
        quote = parse_quote(hardware.quote)
        tee = "tdx" if isinstance(quote.body, TdReport) else "sgx"
        if tee != hardware.tee:
            raise AttestError("attest.tee-mismatch", f"the quote is of {tee}, the evidence says {hardware.tee[:32]!r}")
        say(f"{tee.upper()} version {quote.header.version}")
    with checks.step("root") as say:
        collateral = hardware.collateral
        if collateral is None:
            raise AttestError("attest.collateral-missing", "no collateral came with the evidence, and none was given")
        chain = dcap.find_pck_chain(quote, collateral.pck_certificate_chain)
        simulated = dcap.check_root(chain, policy.roots(), allow_simulation=policy.allow_simulation)
        say(chain.root.common_name)
    with checks.step("collateral") as say:
        verified = _collateral(collateral, chain.root.fingerprint, policy.tcb, now, cache)
        say(f"current until {verified.not_after:%F %T} UTC")
    with checks.step("platform") as say:
        platform = dcap.verify_pck_chain(chain, verified, now)
        _check_platform(platform.tcb, policy.tcb)
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
    if policy.tcb.second_opinion:
        with checks.step("second opinion") as say:
            second_opinion.ask(hardware.quote, collateral, chain.root.der, now, result)
            say("dcap-qvl agrees")
    measurements, facts = _appraise_body(checks, quote, hardware.event_log, policy)
    return Machine(
        tee=tee,
        title=f"Intel {tee.upper()}",
        simulated=simulated,
        memory="visible" if _debugged(quote.body) else "encrypted",
        measurements=measurements,
        report_data=quote.body.report_data,
        signed=quote.signed,
        tcb_status=result.status.value,
        advisory_ids=result.advisory_ids,
        tcb_evaluation_number=result.evaluation_number,
        facts={"fmspc": platform.tcb.fmspc.hex(), "pce id": platform.tcb.pce_id.hex()} | facts,
        platform=_name(platform.tcb, simulated=simulated),
        not_after=min(verified.not_after, platform.not_after),
        checks=checks.passed,
    )


def _name(platform: PckTcb, *, simulated: bool) -> str:
    kind = "simulated" if simulated else "intel-ppid"
    return f"{kind}:{platform.ppid.hex()}" if platform.ppid else ""


def _appraise_body(
    checks: Checklist, quote: Quote, event_log: bytes, policy: Policy
) -> tuple[dict[str, str], dict[str, str]]:
    """Check the TD or enclave and its event log; return measurements and facts."""
    body = quote.body
    with checks.step("td" if isinstance(body, TdReport) else "enclave") as say:
        if isinstance(body, TdReport):
            tdx.check_td(quote.header, body, policy.tdx)
            measurements = tdx.measurements(body)
        else:
            sgx.check_enclave(quote.header, body, policy.sgx)
            measurements = sgx.measurements(body)
        say("DEBUG MODE, which the policy allows" if _debugged(body) else "no debug, attributes as demanded")
    with checks.step("event log") as say:
        if isinstance(body, TdReport):
            facts = check_rtmr_log(event_log, body.rtmrs, policy.event_log)
            say("replays to RTMR0..3" if facts else "none sent; the registers themselves are compared")
            return measurements, facts
        if event_log:
            raise AttestError("attest.event-log-unexpected", "an enclave has no registers that a log replays to")
        say("none: an enclave has no such registers")
    return measurements, {}


def _debugged(body: TdReport | EnclaveReport) -> bool:
    return tdx.debugged(body) if isinstance(body, TdReport) else sgx.debugged(body)


def _collateral(
    collateral: Collateral, root_fingerprint: str, rules: TcbRules, now: datetime, cache: VerifiedCache | None
) -> VerifiedCollateral:
    def make() -> Verified[VerifiedCollateral]:
        verified = verify_collateral(collateral, root_fingerprint, now, grace_s=rules.collateral_grace_s)
        return Verified(verified, verified.not_before, verified.not_after)

    if cache is None:
        return make().value
    parts = (collateral.encode(), root_fingerprint.encode(), str(rules.collateral_grace_s).encode())
    return cache.get("dcap collateral", parts, now, make).value


def _check_platform(platform: PckTcb, rules: TcbRules) -> None:
    fmspc, pce_id = platform.fmspc.hex(), platform.pce_id.hex()
    if rules.fmspc and fmspc not in rules.fmspc:
        raise AttestError("attest.fmspc-refused", f"the policy does not accept machines of FMSPC {fmspc}")
    if rules.pce_ids and pce_id not in rules.pce_ids:
        raise AttestError("attest.pceid-refused", f"the policy does not accept the PCE {pce_id}")


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
