"""TCB levels: matching and converging as Intel's library does it."""

from __future__ import annotations

import json

import pytest

from attest_lab import NOW, replace
from mitai.attest import TcbRules
from mitai.attest.dcap.tcb import TcbStatus, _converge, parse_qe_identity, parse_tcb_info
from mitai.attest.sim import intel

ALL = tuple(set(TcbStatus) - {TcbStatus.REVOKED})
S = TcbStatus


def level(svns=intel.COMPONENT_SVNS, pcesvn=intel.PCE_SVN, tdx=intel.TEE_TCB_SVN, status="UpToDate", advisories=()):
    tcb = {"sgxtcbcomponents": [{"svn": svn} for svn in svns], "pcesvn": pcesvn}
    tcb["tdxtcbcomponents"] = [{"svn": svn} for svn in tdx]
    return {"tcb": tcb, "tcbDate": "2025-01-01T00:00:00Z", "tcbStatus": status, "advisoryIDs": list(advisories)}


def isv(svn, status="UpToDate", advisories=()):
    date = "2025-01-01T00:00:00Z"
    return {"tcb": {"isvsvn": svn}, "tcbDate": date, "tcbStatus": status, "advisoryIDs": list(advisories)}


def lax(lab, **changes):
    rules = {"accepted_statuses": ALL, "accepted_advisories": ("any",), **changes}
    return replace(lab.policy, tcb=TcbRules(**rules))


def appraise(lab, policy=None, **changes):
    return lab.verify(collateral=lab.resign(**changes), policy=policy or lax(lab))


def above(position: int) -> tuple[int, ...]:
    svns = list(intel.COMPONENT_SVNS)
    svns[position] += 1
    return tuple(svns)


@pytest.mark.parametrize("position", range(16))
def test_every_component_counts(lab, position):
    levels = [level(above(position)), level(status="OutOfDate", advisories=["A"])]
    appraisal = appraise(lab, tcb={"tcbLevels": levels})
    assert (appraisal.tcb_status, appraisal.advisory_ids) == ("OutOfDate", ("A",))


@pytest.mark.parametrize("position", range(2, 16))
def test_every_tdx_component_counts(lab, position):
    svns = list(intel.TEE_TCB_SVN)
    svns[position] += 1
    levels = [level(tdx=svns), level(status="OutOfDate")]
    assert appraise(lab, tcb={"tcbLevels": levels}).tcb_status == "OutOfDate"


@pytest.mark.parametrize("position", [0, 1])
def test_module_components_do_not_count_twice(lab, position):
    svns = list(intel.TEE_TCB_SVN)
    svns[position] += 1
    assert appraise(lab, tcb={"tcbLevels": [level(tdx=svns)]}).tcb_status == "UpToDate"


def test_pce_counts(lab):
    levels = [level(pcesvn=intel.PCE_SVN + 1), level(status="ConfigurationNeeded")]
    assert appraise(lab, tcb={"tcbLevels": levels}).tcb_status == "ConfigurationNeeded"


def test_below_every_level(lab, refused):
    with refused("attest.tcb-not-supported", "8 tcb") as refusal:
        appraise(lab, tcb={"tcbLevels": [level(above(0))]})
    assert "NotSupported(SGX)" in refusal.value.message
    svns = list(intel.TEE_TCB_SVN)
    svns[2] += 1
    with refused("attest.tcb-not-supported", "8 tcb") as refusal:
        appraise(lab, tcb={"tcbLevels": [level(tdx=svns)]})
    assert "NotSupported(TDX)" in refusal.value.message
    with refused("attest.tcb-not-supported", "8 tcb") as refusal:
        appraise(lab, qe={"tcbLevels": [isv(5)]})
    assert "NotSupported(QE)" in refusal.value.message


def test_module_level_pulls_down(lab):
    module = {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8}
    levels = [isv(6), isv(5, "OutOfDate", ["M"]), isv(1, "Revoked")]
    appraisal = appraise(lab, tcb={"tdxModuleIdentities": [{"id": "tdx_01", **module, "tcbLevels": levels}]})
    assert (appraisal.tcb_status, appraisal.advisory_ids) == ("OutOfDate", ("M",))


def test_qe_level_pulls_down_and_advisories_add_up(lab):
    appraisal = appraise(
        lab,
        tcb={"tcbLevels": [level(status="ConfigurationNeeded", advisories=["B", "A"])]},
        qe={"tcbLevels": [isv(4, "OutOfDate", ["Q", "A"])]},
    )
    assert appraisal.tcb_status == "OutOfDateConfigurationNeeded"
    assert appraisal.advisory_ids == ("A", "B", "Q")


@pytest.mark.parametrize(
    "changes", [{"tcb": {"tcbLevels": [level(status="Revoked")]}}, {"qe": {"tcbLevels": [isv(4, "Revoked")]}}]
)
def test_revoked_is_never_accepted(lab, refused, changes):
    with refused("attest.tcb-status-refused", "8 tcb"):
        appraise(lab, **changes)


def test_qe_status_that_makes_no_sense(lab, refused):
    with refused("attest.tcb-info-malformed", "8 tcb"):
        appraise(lab, qe={"tcbLevels": [isv(4, "ConfigurationNeeded")]})


def test_convergence():
    """The table of Intel's library: convergeTcbStatusWithTdxModule and convergeTcbStatusWithQeTcbStatus."""
    worse = {
        S.UP_TO_DATE: S.OUT_OF_DATE,
        S.SW_HARDENING_NEEDED: S.OUT_OF_DATE,
        S.CONFIGURATION_NEEDED: S.OUT_OF_DATE_CONFIGURATION_NEEDED,
        S.CONFIGURATION_AND_SW_HARDENING_NEEDED: S.OUT_OF_DATE_CONFIGURATION_NEEDED,
        S.OUT_OF_DATE: S.OUT_OF_DATE,
        S.OUT_OF_DATE_CONFIGURATION_NEEDED: S.OUT_OF_DATE_CONFIGURATION_NEEDED,
        S.REVOKED: S.REVOKED,
    }
    for platform in TcbStatus:
        assert _converge(platform, S.UP_TO_DATE) is platform
        assert _converge(platform, S.OUT_OF_DATE) is worse[platform]
        assert _converge(platform, S.REVOKED) is S.REVOKED


def test_statuses_need_the_policy(lab, refused):
    changes = {"tcb": {"tcbLevels": [level(status="SWHardeningNeeded", advisories=["A"])]}}
    with refused("attest.tcb-status-refused", "8 tcb"):
        appraise(lab, lab.policy, **changes)
    accepted = ("UpToDate", "SWHardeningNeeded")
    with refused("attest.advisory-refused", "8 tcb"):
        appraise(lab, lax(lab, accepted_statuses=accepted, accepted_advisories=("B",)), **changes)
    policy = lax(lab, accepted_statuses=accepted, accepted_advisories=("A",))
    assert appraise(lab, policy, **changes).tcb_status == "SWHardeningNeeded"


def test_evaluation_number(lab, refused):
    number = intel.EVALUATION_NUMBER
    assert appraise(lab, lax(lab, min_evaluation_number=number)).tcb_evaluation_number == number
    for part in ("tcb", "qe"):  # the lower of both counts
        with refused("attest.tcb-evaluation-number-too-low", "8 tcb"):
            appraise(lab, lax(lab, min_evaluation_number=number), **{part: {"tcbEvaluationDataNumber": number - 1}})


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"fmspc": "00A06F000000"}, "attest.tcb-info-fmspc-mismatch"),
        ({"pceId": "0001"}, "attest.tcb-info-pceid-mismatch"),
        ({"fmspc": "00"}, "attest.tcb-info-malformed"),
        ({"fmspc": "xx" * 6}, "attest.tcb-info-malformed"),
        ({"id": "SGX"}, "attest.tcb-info-id-mismatch"),
        ({"version": 2}, "attest.tcb-info-version-unsupported"),
        ({"version": 4}, "attest.tcb-info-version-unsupported"),
        ({"tcbType": 1}, "attest.tcb-info-malformed"),
        ({"tcbLevels": []}, "attest.tcb-info-malformed"),
        ({"tcbLevels": [level(svns=(1,))]}, "attest.tcb-info-malformed"),
        ({"tcbLevels": [level(tdx=(1,))]}, "attest.tcb-info-malformed"),
        ({"tcbLevels": [level(status="Fine")]}, "attest.tcb-info-malformed"),
        ({"issueDate": "2026-06-01T00:00:00"}, "attest.tcb-info-malformed"),
        ({"issueDate": "2026-06-01T00:00:00+01:00"}, "attest.tcb-info-malformed"),
        ({"issueDate": "yesterday"}, "attest.tcb-info-malformed"),
        ({"tdxModuleIdentities": []}, "attest.tdx-module-unknown"),
    ],
)
def test_tcb_info_that_is_refused(lab, refused, change, code):
    with refused(code):
        appraise(lab, tcb=change)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"id": "QE"}, "attest.qe-identity-id-mismatch"),
        ({"version": 3}, "attest.qe-identity-version-unsupported"),
        ({"mrsigner": "00" * 32}, "attest.qe-signer-mismatch"),
        ({"mrsigner": "00"}, "attest.qe-identity-malformed"),
        ({"isvprodid": 3}, "attest.qe-identity-mismatch"),
        ({"miscselect": "00000001"}, "attest.qe-identity-mismatch"),
        ({"attributes": "15000000000000000000000000000000"}, "attest.qe-identity-mismatch"),
        ({"attributesMask": "FF"}, "attest.qe-identity-malformed"),
        ({"tcbLevels": [isv("4")]}, "attest.qe-identity-malformed"),
    ],
)
def test_qe_identity_that_is_refused(lab, refused, change, code):
    with refused(code):
        appraise(lab, qe=change)


def test_unknown_fields_of_intel_are_no_obstacle(lab):
    assert appraise(lab, tcb={"newField": 1}, qe={"newField": 1}).tcb_status == "UpToDate"


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b'{"version": "3"}', b"\xff", b'{"version":3}', b"[" * 100000])
def test_bytes_that_are_neither(refused, data):
    with refused("attest.tcb-info-malformed"):
        parse_tcb_info(data)
    if data != b'{"version":3}':
        with refused("attest.qe-identity-malformed"):
            parse_qe_identity(data)


def test_real_documents_have_the_shape_we_write(lab):
    info = json.loads(lab.platform.collateral().tcb_info)
    assert list(info)[:4] == ["id", "version", "issueDate", "nextUpdate"]
    assert info["issueDate"] < intel._time(NOW)
