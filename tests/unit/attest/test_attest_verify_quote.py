"""Bare quotes, TDX and SGX: the same checks without evidence around them."""

from __future__ import annotations

import dataclasses
import sys
from types import SimpleNamespace

import pytest

from attest_lab import CLAIMS, LAX, NONCE, NOW, WORKLOAD, Lab, replace
from mitai.attest import Policy, report_data, verify_quote
from mitai.attest.dcap.quote import EnclaveReport
from mitai.attest.evidence import NO_DEVICES
from mitai.attest.refvalues.trust import ReleaseTrust
from mitai.attest.sim import intel, registers
from mitai.identity import Identity


def body(**changes):
    report = intel.td_report(registers(WORKLOAD), report_data(NONCE, CLAIMS.encode(), NO_DEVICES))
    return dataclasses.replace(report, **changes)


def enclave(**changes) -> EnclaveReport:
    report = EnclaveReport(
        cpu_svn=bytes(16),
        misc_select=bytes(4),
        attributes=bytes.fromhex("0500000000000000e700000000000000"),
        mrenclave=b"\1" * 32,
        mrsigner=b"\2" * 32,
        isv_prod_id=7,
        isv_svn=3,
        report_data=bytes(64),
    )
    return dataclasses.replace(report, **changes)


def appraise_enclave(lab: Lab, policy: Policy | None = None, **changes):
    quote = lab.platform.quote(enclave(**changes), version=3)
    return verify_quote(quote, lab.platform.collateral("sgx"), policy or bare(lab), now=NOW)


def bare(lab: Lab, **changes) -> Policy:
    return replace(lab.policy, workloads=(), **changes)


def test_enclave(lab, refused):
    appraisal = appraise_enclave(lab)
    assert appraisal.tee == "sgx"
    assert appraisal.measurements["mrenclave"] == "01" * 32
    assert appraisal.memory == "encrypted"
    debug = bytes.fromhex("0700000000000000e700000000000000")
    with refused("attest.enclave-debug", "8 enclave"):
        appraise_enclave(lab, attributes=debug)
    allowed = appraise_enclave(lab, bare(lab, sgx=replace(lab.policy.sgx, allow_debug=True)), attributes=debug)
    assert allowed.memory == "visible"
    assert ("8 enclave", "DEBUG MODE, which the policy allows") in allowed.checks
    with refused("attest.enclave-not-initialised", "8 enclave"):
        appraise_enclave(lab, attributes=bytes.fromhex("0400000000000000e700000000000000"))


def test_trust_in_releases_without_one_accepts_no_code(lab, refused):
    policy = bare(lab, releases=(ReleaseTrust("serve", key=Identity.generate().public.raw.hex()),))
    with refused("attest.workload-unknown"):
        appraise_enclave(lab, policy)


def test_enclave_rules(lab, refused):
    def rules(**changes) -> Policy:
        return bare(lab, sgx=replace(lab.policy.sgx, **changes))

    appraise_enclave(lab, rules(mrenclave=("01" * 32,), mrsigner=("02" * 32,), isv_prod_id=7, min_isv_svn=3))
    for changes, code in (
        ({"mrenclave": ("ff" * 32,)}, "attest.mrenclave-not-allowed"),
        ({"mrsigner": ("ff" * 32,)}, "attest.mrsigner-not-allowed"),
        ({"isv_prod_id": 8}, "attest.enclave-version-refused"),
        ({"min_isv_svn": 4}, "attest.enclave-version-refused"),
    ):
        with refused(code, "8 enclave"):
            appraise_enclave(lab, rules(**changes))


def test_enclave_of_another_vendor(lab, refused, monkeypatch):
    monkeypatch.setattr(intel, "INTEL_QE_VENDOR", bytes(16))
    with refused("attest.qe-vendor-mismatch", "8 enclave"):
        appraise_enclave(lab)


def test_collateral_of_the_other_tee(lab, refused):
    quote = lab.platform.quote(enclave(), version=3)
    with refused("attest.qe-identity-id-mismatch", "6 quoting enclave"):
        verify_quote(quote, lab.platform.collateral("tdx"), bare(lab), now=NOW)
    mixed = replace(
        lab.platform.collateral("sgx"),
        tcb_info=lab.platform.collateral("tdx").tcb_info,
        tcb_info_signature=lab.platform.collateral("tdx").tcb_info_signature,
    )
    with refused("attest.tcb-info-id-mismatch", "7 tcb"):
        verify_quote(quote, mixed, bare(lab), now=NOW)


def test_an_enclave_can_not_pass_for_a_td(lab, refused):
    report = report_data(NONCE, CLAIMS.encode(), NO_DEVICES)
    evidence = replace(lab.evidence(), quote=lab.platform.quote(enclave(report_data=report), version=3))
    for tee, code in (("tdx", "attest.tee-mismatch"), ("sgx", "attest.event-log-unexpected")):
        with refused(code):
            lab.verify(replace(evidence, tee=tee), collateral=lab.platform.collateral("sgx"))


def test_bare_quote(lab, refused):
    evidence = lab.evidence()
    appraisal = verify_quote(evidence.quote, evidence.collateral, lab.policy, now=NOW)
    assert appraisal.checks[-1][0] == "10 workload"
    assert appraisal.summary()[0][1].startswith("SIMULATED")
    with refused("attest.measurement-mismatch", "10 workload"):
        verify_quote(lab.platform.quote(body(mrtd=bytes(48))), evidence.collateral, lab.policy, now=NOW)
    with refused("attest.simulation-refused", "2 root"):
        verify_quote(evidence.quote, evidence.collateral, LAX, now=NOW)


def test_only_machines_that_the_policy_names(lab, refused):
    evidence = lab.evidence()
    fmspc = verify_quote(evidence.quote, evidence.collateral, lab.policy, now=NOW).facts["fmspc"]
    named = replace(lab.policy, tcb=replace(lab.policy.tcb, fmspc=(fmspc,)))
    assert verify_quote(evidence.quote, evidence.collateral, named, now=NOW).tcb_status == "UpToDate"
    other = replace(lab.policy, tcb=replace(lab.policy.tcb, fmspc=("ab" * 6,)))
    with refused("attest.fmspc-refused", "4 platform"):
        verify_quote(evidence.quote, evidence.collateral, other, now=NOW)
    other = replace(lab.policy, tcb=replace(lab.policy.tcb, pce_ids=("abcd",)))
    with refused("attest.pceid-refused", "4 platform"):
        verify_quote(evidence.quote, evidence.collateral, other, now=NOW)


def test_a_second_opinion(lab, refused, monkeypatch):
    evidence = lab.evidence()
    policy = replace(lab.policy, tcb=replace(lab.policy.tcb, second_opinion=True))
    dcap_qvl = pytest.importorskip("dcap_qvl")
    appraisal = verify_quote(evidence.quote, evidence.collateral, policy, now=NOW)
    assert ("8 second opinion", "dcap-qvl agrees") in appraisal.checks

    def refuses(*_: object) -> object:
        raise ValueError("Verification failed")

    monkeypatch.setattr(dcap_qvl, "verify_with_root_ca", refuses)
    with refused("attest.second-opinion-differs", "8 second opinion"):
        verify_quote(evidence.quote, evidence.collateral, policy, now=NOW)
    other = SimpleNamespace(status="OutOfDate", advisory_ids=[])
    monkeypatch.setattr(dcap_qvl, "verify_with_root_ca", lambda *_: other)
    with refused("attest.second-opinion-differs", "8 second opinion"):
        verify_quote(evidence.quote, evidence.collateral, policy, now=NOW)
    monkeypatch.setitem(sys.modules, "dcap_qvl", None)
    with refused("attest.second-opinion-missing", "8 second opinion"):
        verify_quote(evidence.quote, evidence.collateral, policy, now=NOW)
