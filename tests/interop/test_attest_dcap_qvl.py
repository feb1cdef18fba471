"""A second opinion: Phala's `dcap-qvl` on the same quotes, real and simulated."""

from __future__ import annotations

import dataclasses

import pytest

from attest_lab import LAX, NOW, WORKLOAD, Lab, replace, vector_entries, vector_file, vector_time
from mitai.attest import Collateral, verify_quote
from mitai.attest.dcap.quote import EnclaveReport, split_quote
from mitai.attest.sim import intel, registers
from mitai.errors import AttestError

dcap_qvl = pytest.importorskip("dcap_qvl")

REAL = [entry for entry in vector_entries() if (entry["kind"] or "").startswith("quote-v")]


def theirs(quote: bytes, collateral: Collateral, root: bytes | None, now: int):
    """Return status and advisories as dcap-qvl finds them; raise what it raises."""
    given = dcap_qvl.QuoteCollateralV3(
        pck_crl_issuer_chain=collateral.pck_crl_issuer_chain,
        root_ca_crl=collateral.root_ca_crl,
        pck_crl=collateral.pck_crl,
        tcb_info_issuer_chain=collateral.tcb_info_issuer_chain,
        tcb_info=collateral.tcb_info,
        tcb_info_signature=collateral.tcb_info_signature,
        qe_identity_issuer_chain=collateral.qe_identity_issuer_chain,
        qe_identity=collateral.qe_identity,
        qe_identity_signature=collateral.qe_identity_signature,
    )
    if root is None:
        report = dcap_qvl.verify(quote, given, now)
    else:
        report = dcap_qvl.verify_with_root_ca(quote, given, root, now)
    return report.status, sorted(report.advisory_ids)


@pytest.mark.parametrize(
    "entry", REAL or [pytest.param(None, marks=pytest.mark.skip(reason="set MITAI_VECTORS"))], ids=str
)
def test_real_quotes(entry):
    quote, _ = split_quote(vector_file(entry, "quote.bin"))
    collateral = Collateral.from_quote_collateral_v3(vector_file(entry, "collateral.json"))
    try:
        ours = verify_quote(quote, collateral, LAX, now=vector_time(entry))
    except AttestError:
        with pytest.raises(ValueError, match="erification"):
            theirs(quote, collateral, None, entry["verification_time_unix"])
        return
    try:
        found = theirs(quote, collateral, None, entry["verification_time_unix"])
    except ValueError as error:  # it refuses debug and paravisor TDs before it says how current they are
        assert "Debug mode" in str(error) or "SEPT_VE_DISABLE" in str(error)  # noqa: PT017
        return
    assert found == (ours.tcb_status, list(ours.advisory_ids))


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Lab:
    return Lab.build(tmp_path_factory.mktemp("machine") / "platform")


def test_simulated_quotes_are_in_intels_format(lab):
    """Another implementation reads and verifies what our simulator writes, given its root."""
    evidence = lab.evidence()
    root, now = lab.platform.root_certificate, int(NOW.timestamp())
    assert theirs(evidence.quote, evidence.collateral, root, now) == ("UpToDate", [])
    for offset in (50, 600, 640, 800):
        broken = evidence.quote[:offset] + bytes([evidence.quote[offset] ^ 1]) + evidence.quote[offset + 1 :]
        with pytest.raises(ValueError, match=r".+"):
            theirs(broken, evidence.collateral, root, now)
        with pytest.raises(AttestError):
            lab.verify(replace(evidence, quote=broken))


def test_every_kind_of_quote_that_we_write(lab):
    root, now = lab.platform.root_certificate, int(NOW.timestamp())
    report = intel.td_report(registers(WORKLOAD), bytes(64))
    fifteen = dataclasses.replace(report, tee_tcb_svn2=intel.TEE_TCB_SVN, mrservicetd=bytes(48))
    attributes = bytes.fromhex("0500000000000000e700000000000000")
    enclave = EnclaveReport(bytes(16), bytes(4), attributes, bytes(32), bytes(32), 0, 0, bytes(64))
    for body, version, tee in ((report, 5, "tdx"), (fifteen, 5, "tdx"), (enclave, 3, "sgx")):
        quote = lab.platform.quote(body, version=version)
        assert theirs(quote, lab.platform.collateral(tee), root, now) == ("UpToDate", [])
        policy = replace(lab.policy, workloads=())
        assert verify_quote(quote, lab.platform.collateral(tee), policy, now=NOW).tcb_status == "UpToDate"


def test_simulated_revocation(lab):
    collateral = lab.lists(ca=lab.authority.certificates["pck"].serial_number)
    with pytest.raises(ValueError, match=r".+"):
        theirs(lab.evidence().quote, collateral, lab.platform.root_certificate, int(NOW.timestamp()))
