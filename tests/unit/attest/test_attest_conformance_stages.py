"""The conformance stages on inputs that their vectors do not have."""

from __future__ import annotations

import json

import pytest
from test_attest_conformance import make as make_tdx

from attest_sigstore_lab import NOW, REPOSITORY, SIGNED_AT, SigstoreLab, claims, encode, text
from mitai.attest import conformance
from mitai.attest.conformance import full, measurement, outcome
from mitai.attest.conformance.measurement import MULTI_PLATFORM, SNP, TDX
from mitai.attest.conformance.outcome import ACCEPTED, MALFORMED, REJECTED
from mitai.attest.conformance.sigstore import CODES
from mitai.attest.refvalues.sigstore import GITHUB
from mitai.attest.refvalues.statement import PAYLOAD_TYPE

A, B, C, D, E = (letter * 96 for letter in "abcde")
NO_RTMR3 = "0" * 96
LAB = SigstoreLab()
DIGEST = "12" * 32


def run(stage: str, given) -> tuple[int, dict]:
    exit_code, output = conformance.main([stage], given if isinstance(given, bytes) else json.dumps(given).encode())
    return exit_code, json.loads(output)


def code(stage: str, given) -> str:
    exit_code, output = run(stage, given)
    assert exit_code == REJECTED
    return output["rejection"]["code"]


@pytest.mark.parametrize("stage", sorted(conformance.STAGES))
@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"schema_version":"2"}', b"[" * 100_000, b"\xff"])
def test_malformed_input(stage, data):
    assert run(stage, data)[0] == MALFORMED
    assert run(stage, bytes(outcome.MAX_INPUT_BYTES + 1))[0] == MALFORMED


def test_unknown_stages():
    for arguments in ([], ["verify-nothing"], ["verify-measurement", "verify-sigstore"]):
        assert conformance.main(arguments, b"{}")[0] == conformance.UNSUPPORTED


# -- measurements ------------------------------------------------------------------------------------------------


def measured(kind: str, *registers: str) -> dict:
    return {"type": kind, "registers": list(registers)}


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        (measured("https://example.com", A), None, "MEASUREMENT_TYPE_UNKNOWN"),
        (measured(SNP, A), measured("https://example.com", A), "MEASUREMENT_TYPE_UNKNOWN"),
        (measured(SNP, A, A), None, "MEASUREMENT_REGISTER_COUNT_INVALID"),
        (measured(SNP), None, "MEASUREMENT_REGISTER_COUNT_INVALID"),
        (measured(MULTI_PLATFORM, A, B, C), measured(TDX, D, E, C, B, NO_RTMR3), "MEASUREMENT_MISMATCH"),
        (measured(MULTI_PLATFORM, A, B, C), measured(TDX, D, E, B, C, A), "MEASUREMENT_RTMR3_NONZERO"),
        (measured(TDX, D, E, B, C, A), measured(MULTI_PLATFORM, A, B, C), "MEASUREMENT_RTMR3_NONZERO"),
        (measured(MULTI_PLATFORM, A, B, C), measured(SNP, B), "MEASUREMENT_MISMATCH"),
        (measured(SNP, A), measured(TDX, D, E, B, C, NO_RTMR3), "MEASUREMENT_TYPE_COMBINATION_UNSUPPORTED"),
        (measured(TDX, D, E, B, C, A), measured(TDX, D, E, B, C, B), "MEASUREMENT_MISMATCH"),
    ],
)
def test_measurements_that_differ(source, target, expected):
    assert code(measurement.STAGE, {"schema_version": "1", "source": source, "target": target}) == expected


def test_equal_measurements():
    for source, target in (
        (measured(MULTI_PLATFORM, A, B, C), measured(MULTI_PLATFORM, A, B, C)),
        (measured(TDX, D, E, B, C, A), measured(TDX, D, E, B, C, A.upper())),
        (measured(SNP, A), measured(MULTI_PLATFORM, A, B, C)),
    ):
        exit_code, output = run(measurement.STAGE, {"schema_version": "1", "source": source, "target": target})
        assert exit_code == ACCEPTED
        assert len(output["outputs"]["target_fingerprint_hex"]) in {64, 96}


def test_registers_are_hex():
    for register in ("xy", "abc", "ab\n"):
        given = {"schema_version": "1", "source": measured(SNP, register)}
        assert run(measurement.STAGE, given)[0] == MALFORMED


# -- the key of EHBP ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("report_data", "offered", "exit_code"),
    [
        ("11" * 32 + "22" * 32, "22" * 32, ACCEPTED),
        ("AA" * 32 + "BB" * 32, "bb" * 32, ACCEPTED),
        ("11" * 32 + "22" * 32, "23" * 32, REJECTED),
        ("11" * 32 + "22" * 33, "22" * 32, MALFORMED),
        ("11" * 32 + "22" * 32, "22" * 31, MALFORMED),
        ("11" * 32 + "2g" * 32, "22" * 32, MALFORMED),
    ],
)
def test_ehbp(report_data, offered, exit_code):
    given = {"schema_version": "1", "report_data_hex": report_data, "offered_hpke_public_key_hex": offered}
    assert run("verify-ehbp-key-binding", given)[0] == exit_code


# -- sigstore ----------------------------------------------------------------------------------------------------


def statement(**changes) -> bytes:
    fields = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "release", "digest": {"sha256": DIGEST}}],
        "predicateType": MULTI_PLATFORM,
        "predicate": {"snp_measurement": A, "tdx_measurement": {"rtmr1": B, "rtmr2": C}},
    }
    return json.dumps({**fields, **changes}).encode()


def sigstore(payload: bytes | None = None, *, policy=None, bundle=None, **changes) -> dict:
    usual = {"oidc_issuer": GITHUB, "workflow_ref_prefix": "refs/tags/", "payload_type": PAYLOAD_TYPE}
    fields = {
        "schema_version": "1",
        "bundle_b64": text(encode(bundle or LAB.bundle(statement() if payload is None else payload))),
        "expected_digest_sha256_hex": DIGEST,
        "repo": REPOSITORY,
        "policy": {**usual, **(policy or {})},
        "trust_root_b64": text(LAB.trusted_root()),
        "verification_time_unix": int(SIGNED_AT.timestamp()),
    }
    return {**fields, **changes}


def test_sigstore_accepted():
    exit_code, output = run("verify-sigstore", sigstore())
    assert exit_code == ACCEPTED
    assert output["outputs"]["measurement"] == measured(MULTI_PLATFORM, A, B, C)
    assert output["outputs"]["cert_workflow_ref"] == "refs/tags/v1.2.3"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (sigstore(repo="example/other"), "WORKFLOW_REPOSITORY_MISMATCH"),
        (sigstore(policy={"payload_type": "text/plain"}), "PAYLOAD_TYPE_MISMATCH"),
        (sigstore(policy={"tlog_entries_min": 2}), "TLOG_COUNT_OUT_OF_RANGE"),
        (sigstore(policy={"tlog_entries_max": 0, "tlog_entries_min": 0}), "TLOG_COUNT_OUT_OF_RANGE"),
        (sigstore(policy={"sct_min": 2}), "SCT_INSUFFICIENT"),
        (sigstore(policy={"observer_timestamps_min": 2}), "OBSERVER_TIMESTAMP_INSUFFICIENT"),
        (sigstore(policy={"in_toto_statement_types_allowed": []}), "IN_TOTO_STATEMENT_TYPE_NOT_ALLOWED"),
        (sigstore(statement(predicateType="https://example.com/p")), "PREDICATE_MEASUREMENT_INVALID"),
        (sigstore(statement(predicate={"snp_measurement": A})), "PREDICATE_MEASUREMENT_INVALID"),
        (sigstore(statement(subject=[{"name": "x"}])), "SUBJECT_DIGEST_MISMATCH"),
        (sigstore(b"no statement"), "BUNDLE_MALFORMED"),
        (sigstore(bundle_b64=text(b"no bundle")), "BUNDLE_MALFORMED"),
        (sigstore(trust_root_b64=text(LAB.trusted_root(certificateAuthorities=[]))), "FULCIO_CHAIN_INVALID"),
        (sigstore(verification_time_unix=int(NOW.timestamp())), "CERT_EXPIRED"),
        (sigstore(bundle=LAB.bundle(statement(), extensions=claims(**{"6": None}))), "WORKFLOW_REF_PREFIX_MISMATCH"),
    ],
)
def test_sigstore_rejected(given, expected):
    assert code("verify-sigstore", given) == expected


def test_sigstore_malformed():
    for changes in (
        {"expected_digest_sha256_hex": "12"},
        {"repo": "example"},
        {"bundle_b64": "not base64!"},
        {"verification_time_unix": -1},
        {"verification_time_unix": 10**18},
        {"unknown": 1},
    ):
        assert run("verify-sigstore", sigstore(**changes))[0] == MALFORMED


def test_every_refusal_of_the_verifier_has_a_name_in_the_suite():
    """A code that is missing would come out as a malformed bundle."""
    import ast
    from pathlib import Path

    import mitai.attest.refvalues.sigstore as verifier

    folder = Path(verifier.__file__).parent
    sources = [
        folder / f"{name}.py" for name in ("fulcio", "rekor", "sigstore", "statement", "timestamps", "trusted_root")
    ]
    found = {
        node.value
        for path in sources
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value.startswith(("attest.sigstore-", "attest.statement-"))
    }
    ours_alone = {
        "attest.sigstore-subject-mismatch",
        "attest.sigstore-workflow-mismatch",
    }  # rules that it does not have
    assert found - ours_alone <= set(CODES)
    assert set(CODES) - found == {"attest.certificate-key-unsupported"}


# -- whole flows -------------------------------------------------------------------------------------------------


@pytest.fixture
def tdx(lab):
    """A simulated machine's quote, and what it measured."""
    given = make_tdx(lab)
    registers = run("verify-attestation-tdx", given)[1]["outputs"]["measurement"]["registers"]
    return {name: value for name, value in given.items() if name != "schema_version"}, registers


def whole(**parts) -> dict:
    return {"schema_version": "1", **parts}


def rejection(given) -> tuple[str, str]:
    exit_code, output = run(full.STAGE, given)
    assert exit_code == REJECTED, output
    return output["rejection"]["stage"], output["rejection"]["code"]


def test_pinned_tdx(tdx):
    attestation, registers = tdx
    pinned = measured(TDX, *registers)
    exit_code, output = run(full.STAGE, whole(mode="pinned", pinned_measurement=pinned, attestation_tdx=attestation))
    assert (exit_code, output["outputs"]["platform"]) == (ACCEPTED, "tdx")
    assert output["outputs"]["attestation_measurement"] == pinned
    other = measured(TDX, A, *registers[1:])
    given = whole(mode="pinned", pinned_measurement=other, attestation_tdx=attestation)
    assert rejection(given) == ("verify-measurement", "MEASUREMENT_MISMATCH")
    given["hardware_measurements"] = [{"id": "another", "mrtd": A, "rtmr0": A}]
    assert rejection(given) == ("verify-hardware-measurements", "HARDWARE_NO_MATCH")


def test_a_release_on_tdx_needs_a_known_machine(tdx):
    attestation, registers = tdx
    predicate = {"snp_measurement": A, "tdx_measurement": {"rtmr1": registers[2], "rtmr2": registers[3]}}
    block = {
        name: value for name, value in sigstore(statement(predicate=predicate)).items() if name != "schema_version"
    }
    given = whole(mode="standard", sigstore=block, attestation_tdx=attestation)
    assert rejection(given) == ("verify-hardware-measurements", "HARDWARE_NO_MATCH")
    given["hardware_measurements"] = [{"id": "ours", "mrtd": registers[0], "rtmr0": registers[1]}]
    exit_code, output = run(full.STAGE, given)
    if registers[4] == NO_RTMR3:
        assert (exit_code, output["outputs"]["matched_hardware"]["id"]) == (ACCEPTED, "ours")
    else:  # a simulated machine measures its workload there
        assert rejection(given) == ("verify-measurement", "MEASUREMENT_RTMR3_NONZERO")
    block.pop("verification_time_unix")
    assert run(full.STAGE, given)[0] == exit_code  # the time of the signature is enough


def test_a_part_that_refuses_is_named(tdx):
    attestation, registers = tdx
    block = {name: value for name, value in sigstore(repo="example/other").items() if name != "schema_version"}
    given = whole(mode="bundle", sigstore=block, attestation_tdx=attestation)
    assert rejection(given) == ("verify-sigstore", "WORKFLOW_REPOSITORY_MISMATCH")
    refused = {**attestation, "policy": {"expected_mrtd_hex": "00" * 48}}
    pinned = measured(TDX, *registers)
    given = whole(mode="pinned", pinned_measurement=pinned, attestation_tdx=refused)
    assert rejection(given) == ("verify-attestation-tdx", "MRTD_MISMATCH")


def test_incomplete_flows(tdx):
    attestation, registers = tdx
    pinned = measured(TDX, *registers)
    for given in (
        whole(mode="pinned", attestation_tdx=attestation),
        whole(mode="pinned", pinned_measurement=pinned),
        whole(mode="pinned", pinned_measurement=pinned, attestation_tdx=attestation, attestation_sev={}),
        whole(mode="standard", attestation_tdx=attestation, pinned_measurement=pinned),
    ):
        assert rejection(given) == (full.STAGE, "BUNDLE_MALFORMED")
    given = whole(mode="pinned", pinned_measurement=pinned, attestation_tdx={})
    assert run(full.STAGE, given)[0] == MALFORMED
    assert run(full.STAGE, whole(mode="other"))[0] == MALFORMED
