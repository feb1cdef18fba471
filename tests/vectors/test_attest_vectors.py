"""Every public TDX and SGX vector: the status it should have, accepted or refused as it should be (see README.md)."""

from __future__ import annotations

import msgspec
import pytest

from attest_lab import LAX, flip, replace, vector_entries, vector_file, vector_folder, vector_time
from mitai.attest import Collateral, Policy, verify_quote
from mitai.attest.conformance import tdx as conformance
from mitai.attest.dcap import verify as dcap
from mitai.attest.dcap.quote import (
    TD_REPORT_10_BYTES,
    parse_enclave_report,
    parse_quote,
    parse_td_report,
    split_quote,
)
from mitai.attest.dcap.tcb import check_qe_identity, parse_qe_identity
from mitai.attest.eventlog import check_replay, parse_event_log, replay
from mitai.attest.tdx import measurements
from mitai.attest.x509 import parse_chain, verify_chain
from mitai.errors import AttestError, ParseError

ENTRIES = {entry["id"]: entry for entry in vector_entries()}


def entries(*kinds: str | None, tees: tuple[str, ...] = ("tdx", "sgx")) -> list:
    chosen = [pytest.param(e, id=e["id"]) for e in ENTRIES.values() if e["kind"] in kinds and e["tee"] in tees]
    return chosen or [pytest.param(None, marks=pytest.mark.skip(reason="no public vectors here: set MITAI_VECTORS"))]


def entry(name: str) -> dict:
    vector_folder()
    return ENTRIES[name]


def quote_and_collateral(vector: dict) -> tuple[bytes, Collateral]:
    # One quote carries "extra bytes(only for testing purpose)" behind its end: `split_quote` is how a caller cuts them.
    quote, _ = split_quote(vector_file(vector, "quote.bin"))
    return quote, Collateral.from_quote_collateral_v3(vector_file(vector, "collateral.json"))


@pytest.mark.parametrize("vector", entries("quote-v3", "quote-v4", "quote-v5"))
def test_status_and_advisories(vector):
    quote, collateral = quote_and_collateral(vector)
    expected = vector["expected"]
    assert expected["signature_chain"] == "valid"
    if expected["tcb_status"].startswith("NotSupported"):
        with pytest.raises(AttestError) as refusal:
            verify_quote(quote, collateral, LAX, now=vector_time(vector))
        assert refusal.value.code == "attest.tcb-not-supported"
        assert refusal.value.message.endswith(expected["tcb_status"])
        assert refusal.value.step == "7 tcb"  # so the signature chain held
    else:
        appraisal = verify_quote(quote, collateral, LAX, now=vector_time(vector))
        assert appraisal.tcb_status == expected["tcb_status"]
        assert list(appraisal.advisory_ids) == expected["advisory_ids"]
        assert not appraisal.simulated


@pytest.mark.parametrize("vector", entries("quote-v3", "quote-v4", "quote-v5"))
def test_strict_policy(vector):
    quote, collateral = quote_and_collateral(vector)
    reasons = {
        "debug enabled": {"attest.td-debug", "attest.enclave-debug"},
        "SEPT_VE_DISABLE clear": {"attest.td-attributes-missing"},
        "MRSERVICETD non-zero": {"attest.mrservicetd-mismatch"},
    }
    if vector["expected"]["strict_policy"] == "accept":
        verify_quote(quote, collateral, Policy(), now=vector_time(vector))
        return
    codes = {"attest.tcb-not-supported", "attest.tcb-status-refused"}
    for reason in vector["expected"]["strict_policy_reasons"]:
        codes |= reasons.get(reason, set())
    with pytest.raises(AttestError) as refusal:
        verify_quote(quote, collateral, Policy(), now=vector_time(vector))
    assert refusal.value.code in codes


@pytest.mark.parametrize("vector", entries("quote-v3", "quote-v4", "quote-v5"))
def test_parsed_fields(vector):
    fields = vector["key_fields"]
    quote, _ = quote_and_collateral(vector)
    parsed = parse_quote(quote)
    assert parsed.header.version == fields["quote_version"]
    assert parsed.body.report_data.hex() == fields["reportdata"]
    names = {"tdattributes": "td_attributes", "seamattributes": "seam_attributes", "cpusvn": "cpu_svn"}
    names |= {
        name: name for name in ("mrtd", "mrseam", "mrsignerseam", "mrconfigid", "mrowner", "mrownerconfig", "xfam")
    }
    names |= {
        name: name for name in ("tee_tcb_svn", "tee_tcb_svn2", "mrservicetd", "mrenclave", "mrsigner", "attributes")
    }
    for theirs, ours in names.items():
        if theirs in fields:
            assert getattr(parsed.body, ours).hex() == fields[theirs], theirs
    for number in range(4):
        if f"rtmr{number}" in fields:
            assert parsed.body.rtmrs[number].hex() == fields[f"rtmr{number}"]
    tcb = dcap.pck_tcb(dcap.find_pck_chain(parsed, None).certificates[0])
    assert tcb.fmspc.hex() == fields["fmspc"]
    assert tcb.pce_id.hex() == fields["pce_id"]
    assert tcb.pce_svn == fields["pce_svn"]
    assert tcb.cpu_svn.hex() == fields["pck_cpusvn"]


@pytest.mark.parametrize("vector", entries("mutation"))
def test_mutations_are_refused(vector):
    base = entry(vector["base"])
    quote, collateral = quote_and_collateral(base)
    verify_quote(quote, collateral, LAX, now=vector_time(base))
    for mutation in vector["mutations"]:
        mutated = flip(quote, mutation["offset"], mutation["xor"])
        with pytest.raises(AttestError) as refusal:
            verify_quote(mutated, collateral, LAX, now=vector_time(base))
        assert refusal.value.step == "5 signatures", mutation["what"]


def test_trailing_bytes_are_refused():
    vector = entry("tdx/gtg-spr-e4-tcb-not-supported")
    data = vector_file(vector, "quote.bin")
    assert split_quote(data)[1] == b"\nextra bytes(only for testing purpose)\n"
    with pytest.raises(ParseError) as refusal:
        parse_quote(data)
    assert refusal.value.code == "attest.quote-malformed"


def test_collateral_survives_our_own_form():
    vector = entry("tdx/phala-v4-uptodate")
    _, collateral = quote_and_collateral(vector)
    assert Collateral.decode(collateral.encode()) == collateral


def test_ccel_of_a_real_machine_replays():
    vector = entry("tdx/gtg-cos113-gcp-uptodate-ccel")
    quote, _ = quote_and_collateral(vector)
    log = vector_file(vector, "ccel_data.bin")
    check_replay(log, parse_quote(quote).body.rtmrs)
    first = next(parse_event_log(log))
    where = log.index(first.digests[12])
    with pytest.raises(AttestError) as refusal:
        check_replay(flip(log, where), parse_quote(quote).body.rtmrs)
    assert refusal.value.code == "attest.event-log-mismatch"


@pytest.mark.parametrize("vector", entries(None, tees=("eventlog",)))
def test_event_logs(vector):
    log = vector_file(vector, next(name for name in vector["files"] if name.endswith(".bin")))
    if vector["id"] == "eventlog/trustee-CCEL_data":  # its padding was trimmed, and with it zeros of the last event
        log += bytes(4096)
    expected = vector["expected"]
    events = list(parse_event_log(log))
    if "replayed_rtmrs_sha384" in expected:
        replayed = {str(register - 1): value.hex() for register, value in replay(log).items()}
        assert replayed == expected["replayed_rtmrs_sha384"]
    elif "replayed" in expected:
        algorithm = {"sha256": 0x0B, "sha384": 0x0C}[expected["alg"]]
        replayed = {str(register): value.hex() for register, value in replay(log, algorithm, expected["alg"]).items()}
        assert replayed == expected["replayed"]
    assert events


def test_raw_td_report_parses():
    """Only a parse: the MAC of a TDREPORT can be checked on its own machine alone."""
    report = vector_file(entry("tdx/gtg-tdreport"), "tdreport.bin")
    # REPORTMACSTRUCT 256, TEE_TCB_INFO 239, reserved 17, TDINFO 512 bytes
    tcb_info, td_info = report[256 : 256 + 239], report[512:]
    body = tcb_info[8:24] + tcb_info[24:120] + tcb_info[120:128] + td_info[:8] + td_info[8:16]
    body += td_info[16:208] + td_info[208:400] + report[128:192]
    assert len(body) == TD_REPORT_10_BYTES
    parsed = parse_td_report(body)
    assert measurements(parsed)["mrtd"] == td_info[16:64].hex()
    assert parsed.xfam[0] & 3 == 3  # FP and SSE: the fields are where they should be


def intel_sample(name: str) -> tuple[bytes, Collateral, Policy, dict]:
    """Return quote and collateral of Intel's AttestationApp samples, put together as that application does."""
    vector = entry(name)

    def pem(file: str) -> tuple:
        text = vector_file(vector, file).replace(b"\r", b"").rstrip(b"\n") + b"\n"
        return parse_chain(
            text.replace(b"-----END CERTIFICATE----------BEGIN", b"-----END CERTIFICATE-----\n-----BEGIN"), "x"
        )

    def chain(file: str) -> tuple:
        """Leaf first; the samples are in either order."""
        return tuple(sorted(pem(file), key=lambda c: c.parsed.issuer == c.parsed.subject))

    def text(*certificates) -> str:
        return "".join(conformance._pem(certificate.der) for certificate in certificates)

    tcb = msgspec.json.decode(vector_file(vector, "tcbInfo.json"), type=conformance._SignedTcbInfo)
    qe = msgspec.json.decode(vector_file(vector, "qeIdentity.json"), type=conformance._SignedQeIdentity)
    signers, issuers = chain("tcbSignChain.pem"), chain("pckSignChain.pem")
    collateral = Collateral(
        tcb_info=bytes(tcb.tcbInfo).decode(),
        tcb_info_signature=bytes.fromhex(tcb.signature),
        tcb_info_issuer_chain=text(*signers),
        qe_identity=bytes(qe.enclaveIdentity).decode(),
        qe_identity_signature=bytes.fromhex(qe.signature),
        qe_identity_issuer_chain=text(*signers),
        root_ca_crl=vector_file(vector, "rootCaCrl.der"),
        pck_crl=vector_file(vector, "intermediateCaCrl.der"),
        pck_crl_issuer_chain=text(*issuers),
        pck_certificate_chain=text(*pem("pckCert.pem"), *issuers),
    )
    (root,) = pem("trustedRootCaCert.pem")
    policy = replace(LAX, allow_simulation=True, sim_roots=(f"sha256:{root.fingerprint}",))
    return vector_file(vector, "quote.dat"), collateral, policy, vector


@pytest.mark.parametrize("name", ["sgx/intel-qvl-sample-sgx", "tdx/intel-qvl-sample-tdx"])
def test_intel_samples_signature_chain(name):
    """A PCK certificate out of band under a root of its own: the whole chain of signatures holds."""
    data, collateral, policy, vector = intel_sample(name)
    quote = parse_quote(data)
    chain = dcap.find_pck_chain(quote, collateral.pck_certificate_chain)
    assert dcap.check_root(chain, policy.roots(), allow_simulation=True)
    verify_chain(chain.certificates, "pck", vector_time(vector))
    dcap.verify_quote_signature(quote, chain.certificates[0])


def test_intel_sample_describes_its_quoting_enclave():
    """No field of this enclave is zero, so it fixes the byte order of each (MISCSELECT among them)."""
    data, collateral, _, _ = intel_sample("sgx/intel-qvl-sample-sgx")
    report = parse_enclave_report(parse_quote(data).signature.qe_report)
    identity = parse_qe_identity(collateral.qe_identity.encode())
    assert bytes(4) not in {report.misc_select, report.attributes[:4]}
    check_qe_identity(report, identity, "QE")


@pytest.mark.parametrize(
    ("name", "code"),
    [
        # TCB info version 2: retired by Intel together with version 3 of its service
        ("sgx/intel-qvl-sample-sgx", "attest.tcb-info-version-unsupported"),
        # the sample's QE identity does not describe the sample's quoting enclave
        ("tdx/intel-qvl-sample-tdx", "attest.qe-signer-mismatch"),
    ],
)
def test_intel_samples_are_refused_for_their_contents(name, code):
    data, collateral, policy, vector = intel_sample(name)
    with pytest.raises(AttestError) as refusal:
        verify_quote(data, collateral, policy, now=vector_time(vector))
    assert refusal.value.code == code


@pytest.mark.parametrize("name", ["sgx/intel-qvl-sample-sgx", "tdx/intel-qvl-sample-tdx"])
def test_intel_samples_need_their_own_root(name):
    data, collateral, _, vector = intel_sample(name)
    with pytest.raises(AttestError) as refusal:
        verify_quote(data, collateral, LAX, now=vector_time(vector))
    assert refusal.value.code == "attest.root-untrusted"


def test_all_entries_are_covered():
    """A vector that is added must be looked at, not skipped in silence."""
    vector_folder()
    known = {"quote-v3", "quote-v4", "quote-v5", "mutation", "conformance-attestation-tdx"}
    others = {name for name, e in ENTRIES.items() if e["tee"] in {"tdx", "sgx"} and e["kind"] not in known}
    assert others == {"sgx/intel-qvl-sample-sgx", "tdx/intel-qvl-sample-tdx", "tdx/gtg-tdreport"}
    assert sum(e["kind"] == "conformance-attestation-tdx" for e in ENTRIES.values()) == 51
