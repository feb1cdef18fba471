"""The conformance suite's stage for SEV-SNP, on an authority of our own."""

from __future__ import annotations

import base64
import gzip
import json
import struct

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from attest_snp_lab import (
    CHIP,
    CURRENT,
    KEY_INFO,
    NOW,
    PLATFORM,
    POLICY,
    PROFILE,
    VMPL,
    amd,
    amd_name,
    pem,
)
from mitai.attest.conformance import main, sev

STAGE = "verify-attestation-sev"
CLEAN = {POLICY: struct.pack("<Q", 0x30000), PLATFORM: b"\x03"}


@pytest.fixture(autouse=True)
def short_keys(monkeypatch):
    """RSA keys as long as AMD's take seconds to make."""
    monkeypatch.setattr(sev, "AMD", PROFILE)


def given(changes=None, policy=None, **fields) -> dict:
    authority = amd()
    report = authority.report({**CLEAN, **(changes or {})})
    inputs = {
        "schema_version": "1",
        "attestation_doc_b64": base64.b64encode(gzip.compress(report)).decode(),
        "vcek_der_b64": base64.b64encode(authority.vek()).decode(),
        "amd_root_ca_pem": pem(authority.ark).decode(),
        "ask_pem": pem(authority.ask).decode(),
        "expiration_check_date_unix": int(NOW.timestamp()),
        **fields,
    }
    inputs |= {"policy": policy} if policy is not None else {}
    return {name: value for name, value in inputs.items() if value is not None}


def run(inputs: dict) -> tuple[int, str | None, dict]:
    exit_code, output = main([STAGE], json.dumps(inputs).encode())
    said = json.loads(output)
    assert said["stage"] == STAGE
    return exit_code, said.get("rejection", {}).get("code"), said


def test_accepted():
    exit_code, _, said = run(given())
    assert exit_code == 0
    assert said["outputs"]["measurement"]["registers"] == ["11" * 48]
    fields = said["outputs"]["body_fields"]
    assert fields["current_tcb_hex"] == fields["reported_tcb_hex"] == "db18000000000009"
    assert (fields["current_major"], fields["current_minor"], fields["current_build"]) == (1, 55, 40)
    assert fields["chip_id_hex"] == CHIP.hex()
    assert fields["policy_decoded"]["smt"]
    assert not fields["policy_decoded"]["debug"]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({POLICY: struct.pack("<Q", 0xB0000)}, "GUEST_POLICY_DEBUG_SET"),
        ({POLICY: struct.pack("<Q", 0x70000)}, "GUEST_POLICY_MIGRATE_MA_SET"),
        ({POLICY: struct.pack("<Q", 0x10000)}, "GUEST_POLICY_RESERVED_BIT_SET"),
        ({POLICY: struct.pack("<Q", 0x230000)}, "QV_RESULT_TERMINAL_UNSPECIFIED"),
        ({PLATFORM: b"\x01"}, "PLATFORM_INFO_INVALID"),
        ({KEY_INFO: b"\x1c"}, "SIGNER_INFO_INVALID"),
        ({0x1A0: b"\xbb"}, "VCEK_HWID_MISMATCH"),
        ({0: b"\x01"}, "WRONG_REPORT_VERSION"),
        ({0x4C: b"\x01"}, "REPORT_FORMAT_UNSUPPORTED"),
        ({VMPL: b"\x04"}, "QV_RESULT_TERMINAL_UNSPECIFIED"),
        ({CURRENT: bytes((10, 55, 1, 0, 10, 55, 1, 0))}, "TCB_OUT_OF_DATE"),
        ({CURRENT: bytes((41, 55, 1, 0, 40, 55, 1, 0))}, "TCB_OUT_OF_DATE"),
    ],
)
def test_refused_reports(changes, code):
    assert run(given(changes))[:2] == (10, code)


def test_masked_chip_key_is_accepted():
    assert run(given({KEY_INFO: b"\x02", 0x1A0: bytes(64)}))[0] == 0


def test_suite_profile_can_be_turned_off():
    old = {PLATFORM: b"\x01", CURRENT: bytes((10, 55, 1, 0, 10, 55, 1, 0))}
    assert run(given(old, policy={"enforce_spec_defaults": False}))[0] == 0
    debug = {POLICY: struct.pack("<Q", 0xB0000)}
    assert run(given(debug, policy={"enforce_spec_defaults": False}))[1] == "GUEST_POLICY_DEBUG_SET"


@pytest.mark.parametrize("name", ["measurement", "host_data", "report_data", "id_key_digest", "author_key_digest"])
def test_pins(name):
    found = {"measurement": "11" * 48, "host_data": "22" * 32, "report_data": "33" * 64}
    found |= {"id_key_digest": "44" * 48, "author_key_digest": "55" * 48}
    assert run(given(policy={f"expected_{name}_hex": found[name]}))[0] == 0
    assert run(given(policy={f"expected_{name}_hex": "00"}))[:2] == (10, f"{name.upper()}_MISMATCH")


def test_minima():
    assert run(given(policy={"min_tcb_bl_spl": 9, "min_tcb_ucode_spl": 219}))[0] == 0
    assert run(given(policy={"min_tcb_bl_spl": 0, "min_tcb_snp_spl": 99}))[1] == "TCB_OUT_OF_DATE"


def spoiled_root() -> str:
    der = bytearray(amd().ark)
    der[-15] ^= 0xFF
    return pem(bytes(der)).decode()


def test_injected_chains():
    authority = amd()
    assert run(given(amd_root_ca_pem=spoiled_root()))[1] == "VCEK_CHAIN_INVALID"
    assert run(given(amd_root_ca_pem=pem(amd("Milan").ark).decode()))[1] == "VCEK_CHAIN_INVALID"
    assert run(given(amd_root_ca_pem=pem(authority.ask, authority.ark).decode()))[1] == "ASK_INVALID"
    assert run(given(amd_root_ca_pem="no PEM"))[1] == "ASK_INVALID"
    named = authority.certificate("ark", name=amd_name("Mine"), issuer=amd_name("Mine"))
    assert run(given(amd_root_ca_pem=pem(named).decode(), ask_pem=None))[1] == "ARK_UNTRUSTED"
    assert run(given(amd_root_ca_pem=None))[:2] == (10, "VCEK_CHAIN_INVALID")
    assert run(given(amd_root_ca_pem=None, ask_pem=None))[0] == 10
    plain = authority.certificate("ask", usage=None)
    assert run(given(ask_pem=pem(plain).decode()))[0] == 0


def test_chains_of_the_suite_have_other_organizations():
    other = x509.load_der_x509_certificate(amd().certificate("ask", name=amd_name("SEV-Genoa", "Not AMD")))
    vcek = amd().vek(issuer=amd_name("SEV-Genoa", "Not AMD"))
    ask = other.public_bytes(Encoding.PEM).decode()
    fields = {"ask_pem": ask, "vcek_der_b64": base64.b64encode(vcek).decode()}
    assert run(given(**fields))[:2] == (10, "VCEK_CHAIN_INVALID")


@pytest.mark.parametrize(
    ("document", "code"),
    [
        (b"no gzip", "REPORT_FORMAT_UNSUPPORTED"),
        (gzip.compress(bytes(1183)), "REPORT_TRUNCATED"),
        (gzip.compress(b""), "REPORT_TRUNCATED"),
        (gzip.compress(bytes(1 << 20)), "REPORT_FORMAT_UNSUPPORTED"),
    ],
)
def test_documents(document, code):
    assert run(given(attestation_doc_b64=base64.b64encode(document).decode()))[:2] == (10, code)


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {**given(), "schema_version": "2"},
        {**given(), "more": 1},
        given(policy={"min_tcb_bl_spl": -1}),
        given(policy={"more": 1}),
        given(expiration_check_date_unix=1 << 62),
        given(vcek_der_b64="***"),
    ],
    ids=["empty", "version", "unknown", "negative", "unknown policy", "time", "base64"],
)
def test_malformed_inputs(inputs):
    assert run(inputs)[:2] == (30, "INPUT_MALFORMED")
