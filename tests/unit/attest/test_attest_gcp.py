"""Compute Engine's vTPM: whose key it is, and the processor's report beside it."""

from __future__ import annotations

import pytest

from attest_lab import NOW, WORKLOAD
from attest_snp_lab import amd
from attest_tpm_lab import REPORT_DATA, LabPolicy, SoftTpm, authority, instance, lax, rsa_key
from mitai.attest import sim
from mitai.attest.checks import Checklist
from mitai.attest.gcp import GcpRules, appraise
from mitai.attest.machine import Hardware
from mitai.attest.sim import intel


def rules(**more) -> GcpRules:
    return GcpRules(**{"roots": (authority().pin,), **more})


def hardware(tpm: SoftTpm, *, leaf: bytes | None = None, endorsements=None, collateral=None, **evidence) -> Hardware:
    chain = authority().chain(tpm, instance=instance() if leaf is None else leaf)
    given = {"ak_chain": chain, "vek": amd().vek(), "chain": amd().chain(), **(endorsements or {})}
    return Hardware(
        tee="gcp-vtpm",
        quote=tpm.evidence(**{"hardware_quote": amd().report({0x50: REPORT_DATA}), **evidence}).encode(),
        endorsements=given,
        collateral=collateral,
    )


def verify(evidence: Hardware, policy: LabPolicy | None = None):
    return appraise(Checklist(), evidence, policy or LabPolicy(gcp=rules()), now=NOW, snp_trust=amd().trust)


def test_beside_snp():
    machine = verify(hardware(SoftTpm()))
    assert machine.title == "Google Compute Engine vTPM beside AMD SEV-SNP"
    assert machine.platform == ""  # no fresh word of the hardware says which it is
    assert machine.report_data == REPORT_DATA
    assert machine.memory == "isolated"  # report and quote may be of two machines
    assert machine.measurements["snp.measurement"] == "11" * 48
    assert machine.facts["instance"] == "a-machine (234)"
    assert machine.facts["project"] == "a-project (5)"


def test_beside_tdx(lab):
    body = intel.td_report(sim.measure.registers(WORKLOAD), REPORT_DATA)
    policy = lax(gcp=rules(), allow_simulation=True, sim_roots=lab.policy.sim_roots)
    evidence = hardware(SoftTpm(), hardware_quote=lab.platform.quote(body), collateral=lab.platform.collateral())
    machine = verify(evidence, policy)
    assert machine.simulated
    assert machine.measurements["tdx.mrtd"] == sim.measure.registers(WORKLOAD)[0].hex()


def test_alone(refused):
    alone = hardware(SoftTpm(), hardware_quote=b"")
    with refused("attest.gcp-hardware-missing"):
        verify(alone)
    machine = verify(alone, LabPolicy(gcp=rules(hardware=())))
    assert machine.title == "Google Compute Engine vTPM"
    assert machine.memory == "isolated"  # the host can read it
    assert not machine.simulated
    with refused("attest.gcp-hardware-missing"):
        verify(hardware(SoftTpm()), LabPolicy(gcp=rules(hardware=("tdx",))))


def test_hardware_that_answers_somebody_else(refused):
    with refused("attest.gcp-hardware-unbound"):
        verify(hardware(SoftTpm(), hardware_quote=amd().report({0x50: bytes(64)})))


def test_roots_and_roles(refused):
    with refused("attest.tpm-root-untrusted", "2 attestation key"):
        verify(hardware(SoftTpm()), LabPolicy())
    with refused("attest.tpm-key-missing", "2 attestation key"):
        verify(hardware(SoftTpm(), endorsements={"ak_chain": b""}))
    with refused("attest.tpm-key-mismatch"):
        verify(hardware(SoftTpm(), ak_public=SoftTpm(rsa_key(2048, 3)).public()))
    with refused("attest.tpm-name-mismatch"):
        verify(hardware(SoftTpm(), ak_public=SoftTpm().public(name=b"\0\x0c")))


@pytest.mark.parametrize(
    ("leaf", "code"),
    [
        (b"", "attest.gcp-instance-malformed"),
        (instance() + b"\0", "attest.gcp-instance-malformed"),
        (instance()[:-1], "attest.gcp-instance-malformed"),
        (instance(security=False), "attest.gcp-not-production"),
        (instance(production=None), "attest.gcp-not-production"),
        (instance(production=b"\0"), "attest.gcp-not-production"),
    ],
)
def test_instances(refused, leaf, code):
    with refused(code, "2 attestation key"):
        verify(hardware(SoftTpm(), leaf=leaf))


def test_a_certificate_that_names_no_instance(refused):
    tpm = SoftTpm()
    with refused("attest.gcp-instance-malformed"):
        verify(hardware(tpm, endorsements={"ak_chain": authority().chain(tpm)}))


@pytest.mark.parametrize(
    ("names", "code"),
    [
        ({"projects": ("another",)}, "attest.gcp-project-refused"),
        ({"zones": ("europe-west4-a",)}, "attest.gcp-zone-refused"),
        ({"instance_ids": ("235",)}, "attest.gcp-instance-refused"),
        ({"projects": ("a-project",), "zones": ("us-central1-a",), "instance_ids": ("234",)}, None),
    ],
)
def test_allow_lists(refused, names, code):
    policy = LabPolicy(gcp=rules(**names))
    if code is None:
        assert verify(hardware(SoftTpm()), policy).measurements
        return
    with refused(code):
        verify(hardware(SoftTpm()), policy)


@pytest.mark.parametrize("wrong", [{"roots": ("x",)}, {"hardware": ("sgx",)}, {"instance_ids": ("a",)}])
def test_malformed_rules(refused, wrong):
    with refused("attest.policy-malformed"):
        GcpRules(**wrong)
