"""Properties of TPM evidence: no byte can be changed, and no bytes whatever do more than raise an error of the tree."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attest_lab import flip, replace
from attest_snp_lab import amd
from attest_tpm_lab import NOW, LabPolicy, SoftTpm, authority, claims, ec_key, hcl_report, instance
from mitai.attest import azure, gcp
from mitai.attest.azure import AzureRules
from mitai.attest.azure.hcl import parse_claims
from mitai.attest.cache import VerifiedCache
from mitai.attest.checks import Checklist
from mitai.attest.gcp import GcpRules
from mitai.attest.machine import Hardware
from mitai.attest.tpm import TpmEvidence
from mitai.attest.tpm.structures import parse_public, parse_quote, parse_signature
from mitai.attest.tpm.trustee import hardware_of_trustee
from mitai.errors import AttestError, MitaiError

# A flip can make a serial number negative or a name too long: `cryptography` warns, and we refuse it.
pytestmark = [
    pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Attribute's length must be:UserWarning"),
]
BYTE = st.integers(1, 255)
ANYWHERE = st.floats(0, 1, exclude_max=True)
CACHE = VerifiedCache()


def snp_evidence() -> tuple[TpmEvidence, Hardware]:
    tpm = SoftTpm()
    runtime = claims(tpm)
    report = amd().report({0x50: azure.HclReport("snp", b"", runtime).report_data, 0xE0: b"\x44" * 48})
    evidence = tpm.evidence(hcl_report=hcl_report(report, runtime))
    given = {"vek": amd().vek(), "chain": amd().chain()}
    return evidence, Hardware(tee="az-snp-vtpm", quote=b"", endorsements=given)


AZURE, AZURE_HARDWARE = snp_evidence()
AZURE_POLICY = LabPolicy(azure=AzureRules(id_key_digests=("44" * 48,)))
CURVE = SoftTpm(ec_key())
GCP_HARDWARE = Hardware(
    tee="gcp-vtpm",
    quote=CURVE.evidence().encode(),
    endorsements={"ak_chain": authority().chain(CURVE, instance=instance())},
)
GCP_POLICY = LabPolicy(gcp=GcpRules(roots=(authority().pin,), hardware=()))


def verify_azure(evidence: TpmEvidence = AZURE, hardware: Hardware = AZURE_HARDWARE):
    hardware = replace(hardware, quote=evidence.encode())
    return azure.appraise(Checklist(), hardware, AZURE_POLICY, now=NOW, cache=CACHE, snp_trust=amd().trust)


def verify_gcp(hardware: Hardware = GCP_HARDWARE):
    return gcp.appraise(Checklist(), hardware, GCP_POLICY, now=NOW, cache=CACHE)


def test_unchanged_it_is_accepted():
    assert verify_azure().measurements
    assert verify_gcp().measurements
    assert CURVE.appraise().measurements


@given(part=st.sampled_from(["quote", "signature", "hcl_report", "ak_public"]), where=ANYWHERE, mask=BYTE)
@settings(max_examples=600)
def test_flip_any_byte_of_azures_evidence(part, where, mask):
    data = getattr(AZURE, part)
    with pytest.raises(AttestError):
        verify_azure(replace(AZURE, **{part: flip(data, int(where * len(data)), mask)}))


@given(name=st.sampled_from(["vek", "chain"]), where=ANYWHERE, mask=BYTE)
@settings(max_examples=200)
def test_flip_any_byte_of_azures_endorsements(name, where, mask):
    data = AZURE_HARDWARE.endorsements[name]
    spoiled = AZURE_HARDWARE.endorsements | {name: flip(data, int(where * len(data)), mask)}
    with pytest.raises(AttestError):
        verify_azure(hardware=replace(AZURE_HARDWARE, endorsements=spoiled))


@given(where=ANYWHERE, mask=BYTE)
@settings(max_examples=300)
def test_flip_any_byte_of_a_key_chain(where, mask):
    data = GCP_HARDWARE.endorsements["ak_chain"]
    spoiled = {"ak_chain": flip(data, int(where * len(data)), mask)}
    with pytest.raises(AttestError):
        verify_gcp(replace(GCP_HARDWARE, endorsements=spoiled))


@given(part=st.sampled_from(["quote", "signature", "ak_public"]), where=ANYWHERE, mask=BYTE)
@settings(max_examples=300)
def test_flip_any_byte_of_a_tpms_evidence(part, where, mask):
    evidence = CURVE.evidence()
    data = getattr(evidence, part)
    spoiled = replace(evidence, **{part: flip(data, int(where * len(data)), mask)})
    with pytest.raises(AttestError):
        CURVE.appraise(CURVE.hardware(spoiled))


@given(register=st.integers(0, 23), where=st.integers(0, 31), mask=BYTE)
@settings(max_examples=100)
def test_flip_any_byte_of_a_register(register, where, mask):
    evidence = CURVE.evidence()
    pcrs = [flip(value, where, mask) if number == register else value for number, value in enumerate(evidence.pcrs)]
    with pytest.raises(AttestError):
        CURVE.appraise(CURVE.hardware(replace(evidence, pcrs=tuple(pcrs))))


@pytest.mark.slow
@pytest.mark.parametrize("part", ["quote", "signature", "hcl_report", "ak_public"])
def test_flip_every_byte_of_azures_evidence(part):
    data = getattr(AZURE, part)
    for offset in range(len(data)):
        for mask in (1, 0x20, 0x80):
            with pytest.raises(AttestError):
                verify_azure(replace(AZURE, **{part: flip(data, offset, mask)}))


@pytest.mark.slow
def test_flip_every_byte_of_a_key_chain():
    data = GCP_HARDWARE.endorsements["ak_chain"]
    for offset in range(len(data)):
        with pytest.raises(AttestError):
            verify_gcp(replace(GCP_HARDWARE, endorsements={"ak_chain": flip(data, offset, 0x01)}))


SEEDS = (AZURE.quote, AZURE.signature, CURVE.public(), SoftTpm().public(), AZURE.hcl_report, AZURE.encode(), b"{}")


@given(seed=st.sampled_from(SEEDS), cut=ANYWHERE, tail=st.binary(max_size=64))
@settings(max_examples=600)
def test_any_bytes(seed, cut, tail):
    data = seed[: int(cut * len(seed))] + tail
    parsers = (parse_quote, parse_signature, parse_public, azure.parse_hcl_report, parse_claims)
    for parse in (*parsers, TpmEvidence.decode, hardware_of_trustee):
        with contextlib.suppress(MitaiError):
            parse(data)


@given(extra=st.binary(max_size=66), registers=st.sets(st.integers(0, 23)))
def test_whatever_is_quoted_is_read_back(extra, registers):
    tpm = SoftTpm(banks={11: {number: bytes([number]) * 32 for number in sorted(registers)}})
    quote = parse_quote(tpm.attest(extra))
    assert quote.extra_data == extra
    assert quote.selection == ((11, tuple(sorted(registers))),)
