"""The conformance command on inputs that its vectors do not have."""

from __future__ import annotations

import base64
import json
from datetime import timedelta

import pytest

from attest_lab import NOW, Lab
from mitai.attest import conformance
from mitai.attest.conformance import tdx


def text(der: bytes) -> str:
    return base64.b64encode(der).decode()


def make(lab: Lab, **policy) -> dict:
    """Return an input made from a simulated machine: its root is given as the one to trust."""
    collateral = lab.platform.collateral()
    return {
        "schema_version": "1",
        "quote_b64": text(lab.evidence().quote),
        "collateral": {
            "tcb_info_json": f'{{"tcbInfo":{collateral.tcb_info},"signature":"{collateral.tcb_info_signature.hex()}"}}',
            "qe_identity_json": (
                f'{{"enclaveIdentity":{collateral.qe_identity},"signature":"{collateral.qe_identity_signature.hex()}"}}'
            ),
            "pck_crl_der_b64": text(collateral.pck_crl),
            "root_crl_der_b64": text(collateral.root_ca_crl),
            "intel_root_ca_pem": lab.authority.chain("root"),
            "tcb_info_issuer_chain_pem": collateral.tcb_info_issuer_chain,
            "qe_identity_issuer_chain_pem": collateral.qe_identity_issuer_chain,
        },
        "expiration_check_date_unix": int(NOW.timestamp()),
        "policy": policy,
    }


def run(given) -> tuple[int, dict]:
    exit_code, output = conformance.main([tdx.STAGE], json.dumps(given).encode())
    return exit_code, json.loads(output)


def test_accepted(lab):
    exit_code, output = run(make(lab))
    assert (exit_code, output["outputs"]["tee_type"]) == (conformance.ACCEPTED, "TDX")
    assert output["outputs"]["body_fields"]["td_attributes_decoded"]["sec_sept_ve_disable"] is True


@pytest.mark.parametrize(
    ("policy", "code"),
    [
        ({"expected_xfam_hex": "00" * 8}, "XFAM_MISMATCH"),
        ({"min_tcb_evaluation_data_number": 99}, "TCB_EVAL_DATA_NUMBER_TOO_LOW"),
        ({"expected_mrtd_hex": "00" * 48}, "MRTD_MISMATCH"),
    ],
)
def test_policy(lab, policy, code):
    exit_code, output = run(make(lab, **policy))
    assert (exit_code, output["rejection"]["code"]) == (conformance.REJECTED, code)


@pytest.mark.parametrize(
    ("member", "value", "code"),
    [
        ("tcb_info_json", "not JSON", "TCB_INFO_SIGNATURE_INVALID"),
        ("tcb_info_json", '{"tcbInfo":{},"signature":"xyz"}', "TCB_INFO_SIGNATURE_INVALID"),
        ("qe_identity_json", "not JSON", "QE_IDENTITY_SIGNATURE_INVALID"),
        ("intel_root_ca_pem", "", "ROOT_CA_UNTRUSTED"),
        ("intel_root_ca_pem", None, "ROOT_CA_UNTRUSTED"),
        ("root_crl_der_b64", "AAAA", "PCK_CHAIN_INVALID"),
    ],
)
def test_collateral(lab, member, value, code):
    given = make(lab)
    given["collateral"][member] = value
    exit_code, output = run(given)
    assert exit_code == conformance.REJECTED
    assert output["rejection"]["code"] == code


def test_status_that_is_not_accepted(lab):
    given = make(lab)
    levels = json.loads(lab.platform.collateral().tcb_info)["tcbLevels"]
    for status, code in (("Revoked", "TCB_REVOKED"), ("OutOfDate", "QV_RESULT_NOT_ACCEPTED_BY_POLICY")):
        collateral = lab.resign(tcb={"tcbLevels": [{**levels[0], "tcbStatus": status}]})
        signature = collateral.tcb_info_signature.hex()
        given["collateral"]["tcb_info_json"] = f'{{"tcbInfo":{collateral.tcb_info},"signature":"{signature}"}}'
        assert run(given)[1]["rejection"]["code"] == code


def test_other_tee(lab):
    from test_attest_verify_quote import enclave

    given = make(lab)
    given["quote_b64"] = text(lab.platform.quote(enclave(), version=3))
    assert run(given)[1]["rejection"]["code"] == "QUOTE_FORMAT_UNSUPPORTED"


def test_malformed_input(lab):
    given = make(lab)
    for spoiled in (
        {**given, "schema_version": "2"},
        {**given, "expiration_check_date_unix": 10**30},
        {**given, "unknown": 1},
        {**given, "quote_b64": "not base64!"},
    ):
        assert run(spoiled)[0] == conformance.MALFORMED
    assert conformance.main([], b"{}")[0] == conformance.UNSUPPORTED
    assert conformance.main([tdx.STAGE], bytes(conformance.MAX_INPUT_BYTES + 1))[0] == conformance.MALFORMED


def test_time_is_the_inputs(lab):
    given = make(lab)
    given["expiration_check_date_unix"] = int((NOW + timedelta(days=40)).timestamp())
    assert run(given)[1]["rejection"]["code"] == "TCB_INFO_EXPIRED"
