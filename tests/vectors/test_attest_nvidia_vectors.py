"""Every public NVIDIA vector gives the verdict that its index expects (see README.md)."""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import UTC, datetime

import msgspec
import pytest

from attest_lab import flip, vector_entries, vector_file, vector_folder, vector_time
from mitai.attest.checks import Checklist
from mitai.attest.nvidia import NVIDIA, Device, DeviceEvidence, NvidiaRules, appraise_entries
from mitai.attest.nvidia.report import Opaque, parse_report
from mitai.attest.nvidia.rim import parse_references, parse_rim, verify_rim
from mitai.attest.nvidia.roots import NRAS_INTERMEDIATES_SHA256
from mitai.attest.nvidia.xmldsig import parse_xml
from mitai.attest.x509 import parse_chain
from mitai.errors import AttestError, ParseError

ENTRIES = {entry["id"]: entry for entry in vector_entries() if entry["tee"] == "nvidia"}
SIGNATURE_ONLY = NvidiaRules(rims="if-present", ocsp="if-present", modes=("spt", "mpt", "ppcie"))
ALL_STATUSES = datetime(2025, 10, 24, 12, tzinfo=UTC)  # when the manifests' statuses are current, the devices' are late
GRACE_S = 65 * 86400


def entries(choose) -> list:
    chosen = [pytest.param(entry, id=entry["id"]) for entry in ENTRIES.values() if choose(entry)]
    return chosen or [pytest.param(None, marks=pytest.mark.skip(reason="no public vectors here: set MITAI_VECTORS"))]


def is_report(entry: dict) -> bool:
    return (entry["kind"] or "").startswith("spdm-")


def evidence(vector: dict, **changes) -> DeviceEvidence:
    files = sorted(vector["files"])
    fields = {
        "kind": "gpu",
        "report": vector_file(vector, "report.bin"),
        "certificates": vector_file(vector, "cert_chain.pem"),
        "rims": tuple(vector_file(vector, name) for name in files if name.endswith("_rim.xml")),
        "ocsp": tuple(vector_file(vector, name) for name in files if name.startswith("ocsp/")),
    }
    return DeviceEvidence(**{**fields, **changes})


def verify(
    *devices: DeviceEvidence, now: datetime, rules: NvidiaRules, nonce: bytes | None = None
) -> tuple[Device, ...]:
    return appraise_entries(Checklist(), devices, nonce, rules, now=now)


@pytest.mark.parametrize("vector", entries(is_report))
def test_reports(vector):
    fields, expected = vector["key_fields"], vector["expected"]
    assert expected["signature_chain"] == "valid"
    device_evidence = evidence(vector)
    nonce = bytes.fromhex(fields["nonce"])
    (device,) = verify(device_evidence, now=vector_time(vector), rules=SIGNATURE_ONLY, nonce=nonce)
    assert device.chip == {"HOPPER": "GH100", "BLACKWELL": "GB100"}[fields["arch"]]
    assert device.driver == fields["driver_version"]
    assert len(device.measurements) == fields["measurement_count"]
    report = parse_report(device_evidence.report)
    assert report.opaque[Opaque.VBIOS_VERSION].hex() == fields["vbios_raw"]
    assert report.opaque[Opaque.FWID].hex() == fields["fwid"]
    assert (fields["feature_flag"] or "") == report.opaque.get(Opaque.FEATURE_FLAG, b"").hex()
    assert report.text(Opaque.PROJECT) == fields["project"]
    assert report.text(Opaque.PROJECT_SKU) == fields["project_sku"]
    assert report.text(Opaque.CHIP_SKU) == fields["chip_sku"]
    if device_evidence.rims:
        assert not expected["mismatches"]
        assert expected["strict_policy"] == "accept"
        assert device.measured == "32 of 64 as NVIDIA published"
    else:
        assert device.measured == "not compared: no manifests"
        with pytest.raises(AttestError) as refusal:
            verify(device_evidence, now=vector_time(vector), rules=NvidiaRules(ocsp="if-present"))
        assert refusal.value.code == "attest.nvidia-driver-rim-missing"


@pytest.mark.parametrize("vector", entries(lambda entry: is_report(entry) and len(entry["files"]) > 3))
def test_everything_required(vector):
    """All seven statuses count at once only with a grace: those of the device are two months older than the others."""
    rules = NvidiaRules(min_gpus=1, ocsp_grace_s=GRACE_S)
    (device,) = verify(evidence(vector), now=ALL_STATUSES, rules=rules)
    assert device.mode == "spt"
    for name in (file for file in vector["files"] if file.startswith("ocsp/")):
        kept = tuple(vector_file(vector, file) for file in vector["files"] if file.startswith("ocsp/") and file != name)
        with pytest.raises(AttestError) as refusal:
            verify(evidence(vector, ocsp=kept), now=ALL_STATUSES, rules=rules)
        assert refusal.value.code == "attest.nvidia-ocsp-missing", name
    with pytest.raises(AttestError) as refusal:
        verify(evidence(vector), now=ALL_STATUSES, rules=NvidiaRules())
    assert refusal.value.code == "attest.nvidia-ocsp-expired"
    with pytest.raises(AttestError) as refusal:
        verify(evidence(vector), now=vector_time(vector), rules=NvidiaRules())
    assert refusal.value.code == "attest.nvidia-ocsp-not-yet-valid"


@pytest.mark.parametrize("vector", entries(lambda entry: entry["kind"] == "mutation"))
def test_mutations_are_refused(vector):
    base = ENTRIES[vector["base"]]
    verify(evidence(base), now=vector_time(base), rules=SIGNATURE_ONLY)
    for mutation in vector["mutations"]:
        data = flip(vector_file(base, vector["file"]), mutation["offset"], mutation["xor"])
        with pytest.raises(AttestError) as refusal:
            verify(evidence(base, report=data), now=vector_time(base), rules=SIGNATURE_ONLY)
        assert refusal.value.code == "attest.nvidia-report-signature-invalid", mutation["what"]


@pytest.mark.parametrize("vector", entries(lambda entry: "certchain" in entry["id"]))
def test_device_chains(vector):
    """The first case is complete; of the others a part is missing."""
    base = ENTRIES["nvidia/h100-550.90.07-full"]
    chain = vector_file(vector, "cert_chain.pem")
    changed = evidence(base, certificates=chain)
    if vector["id"].endswith("case1"):
        verify(changed, now=vector_time(base), rules=SIGNATURE_ONLY)
        return
    with pytest.raises(AttestError) as refusal:
        verify(changed, now=vector_time(base), rules=SIGNATURE_ONLY)
    assert refusal.value.code == "attest.nvidia-device-chain-incomplete"


@pytest.mark.parametrize("vector", entries(lambda entry: "/rim-" in entry["id"]))
def test_manifests(vector):
    """`success_payload_*` have neither Meta nor signature: their payloads parse, as manifests they are refused."""
    data = vector_file(vector, "rim.xml")
    if vector["expected"]["result"] == "parse-fail":
        for parse in (lambda: parse_references(parse_xml(data)), lambda: parse_rim(data)):
            with pytest.raises(ParseError) as refusal:
                parse()
            assert refusal.value.code == "attest.nvidia-rim-malformed"
        return
    assert parse_references(parse_xml(data))
    if b"Signature" in data:
        verify_rim(parse_rim(data), NVIDIA.rim, vector_time(vector))


def eight_gpus(vector: dict) -> list[DeviceEvidence]:
    return [
        DeviceEvidence(
            kind="gpu",
            report=base64.b64decode(gpu["AttestationReport"]["py/b64"]),
            certificates=b"".join(
                base64.b64decode(certificate["pem"])
                for certificate in gpu["CertificateChains"]["GpuAttestationCertificateChain"]
            ),
        )
        for gpu in json.loads(vector_file(vector, "test_mpt_data.json"))["gpus"]
    ]


def test_eight_gpus():
    vector_folder()
    vector = ENTRIES["nvidia/mpt-blackwell-json"]
    gpus, devices = json.loads(vector_file(vector, "test_mpt_data.json"))["gpus"], eight_gpus(vector)
    rules = msgspec.structs.replace(SIGNATURE_ONLY, min_gpus=8, modes=("mpt",), chips=("GB100",))
    found = verify(*devices, now=vector_time(vector), rules=rules)
    assert len({device.pdi for device in found}) == 8
    for gpu, device in zip(gpus, found, strict=True):
        assert (device.driver, device.vbios) == (gpu["DriverVersion"], gpu["VbiosVersion"])
    with pytest.raises(AttestError) as refusal:
        verify(*devices, devices[0], now=vector_time(vector), rules=rules)
    assert refusal.value.code == "attest.nvidia-device-repeated"


def test_nras_anchors_are_those_of_the_vectors():
    folder = vector_folder()
    pem = (folder / "tpm" / "vtpm-trust-anchors" / "nras_root.pem").read_bytes()
    found = {hashlib.sha256(certificate.der).hexdigest() for certificate in parse_chain(pem, "x")}
    assert found < set(NRAS_INTERMEDIATES_SHA256)


def test_all_entries_are_covered():
    """A vector that is added must be looked at, not skipped in silence."""
    vector_folder()
    others = {
        name
        for name, entry in ENTRIES.items()
        if not is_report(entry) and entry["kind"] != "mutation" and "/rim-" not in name and "certchain" not in name
    }
    assert others == {"nvidia/mpt-blackwell-json"}
