"""Trustee's evidence becomes ours, whatever its version, or is refused."""

from __future__ import annotations

import base64
import json

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from attest_snp_lab import amd
from attest_tpm_lab import SoftTpm, claims, hcl_report
from mitai.attest.tpm import TpmEvidence
from mitai.attest.tpm.structures import parse_signature
from mitai.attest.tpm.trustee import hardware_of_trustee

TPM = SoftTpm()
QUOTE = TPM.attest(b"challenge")
SIGNATURE = parse_signature(TPM.sign(QUOTE)).value
REPORT = hcl_report(amd().report(), claims(TPM))
VCEK = amd().vek()


def b64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def quote(form) -> dict:
    return {"message": form(QUOTE), "signature": form(SIGNATURE), "pcrs": [form(value) for value in TPM.values()]}


FORMS = {
    "v0": {
        "quote": quote(list),
        "report": list(REPORT),
        "vcek": x509.load_der_x509_certificate(VCEK).public_bytes(Encoding.PEM).decode(),
    },
    "v1": {"version": 1, "tpm_quote": quote(bytes.hex), "hcl_report": b64url(REPORT), "vcek": b64url(VCEK)},
    "v2": {"version": 2, "tpm_quote": quote(bytes.hex), "hcl_report": b64url(REPORT), "vcek": b64url(VCEK)},
}


@pytest.mark.parametrize("name", sorted(FORMS))
def test_versions_on_snp(name):
    hardware = hardware_of_trustee(json.dumps(FORMS[name]).encode())
    assert hardware.tee == "az-snp-vtpm"
    assert hardware.endorsements == {"vek": VCEK}
    evidence = TpmEvidence.decode(hardware.quote)
    assert (evidence.quote, evidence.signature) == (QUOTE, TPM.sign(QUOTE))
    assert (evidence.pcrs, evidence.hcl_report) == (TPM.values(), REPORT)


@pytest.mark.parametrize("form", [list, b64url])
def test_versions_on_tdx(form):
    data = {"tpm_quote": quote(bytes.hex), "hcl_report": form(REPORT), "td_quote": form(b"a quote")}
    hardware = hardware_of_trustee(json.dumps(data).encode())
    assert (hardware.tee, hardware.endorsements) == ("az-tdx-vtpm", {})
    assert TpmEvidence.decode(hardware.quote).hardware_quote == b"a quote"


def test_a_bare_tpm():
    data = {"tpm_quote": quote(bytes.hex), "ak_public": base64.b64encode(TPM.spki()).decode()}
    data["tpm_quote"] |= {"message": base64.b64encode(QUOTE).decode(), "signature": b64url(TPM.sign(QUOTE))}
    hardware = hardware_of_trustee(json.dumps(data).encode())
    assert hardware.tee == "tpm"
    assert TPM.appraise(hardware, TPM.policy(aks=(TPM.key_pin,))).report_data == b"challenge"


def changed(**more) -> bytes:
    return json.dumps({**FORMS["v1"], **more}).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"[" * 3000,
        b" " * (13 << 20),
        changed(version=3),
        changed(tpm_quote=None),
        changed(tpm_quote={"message": "x", "signature": "", "pcrs": []}),
        changed(tpm_quote={"message": [256], "signature": "", "pcrs": []}),
        changed(something="new"),
        changed(hcl_report="!"),
        changed(hcl_report="QR"),
        changed(tpm_quote=quote(lambda data: data.hex().upper())),
        changed(hcl_report=[-1]),
        changed(vcek="-----BEGIN CERTIFICATE-----"),
        changed(vcek=FORMS["v0"]["vcek"] * 2),
    ],
)
def test_malformed(refused, data):
    with refused("attest.trustee-evidence-malformed"):
        hardware_of_trustee(data)
