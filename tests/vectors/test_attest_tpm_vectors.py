"""Public TPM quotes and Azure vTPM evidence: every entry's verdict (see README.md)."""

from __future__ import annotations

import hashlib
import struct
from datetime import UTC, datetime

import pytest

from attest_lab import LAX, flip, replace, vector_entries, vector_file, vector_folder, vector_time
from attest_tpm_lab import LabPolicy
from mitai.attest import Collateral, azure, tpm
from mitai.attest.azure import AzureRules, parse_hcl_report
from mitai.attest.azure.hcl import attestation_key, parse_claims
from mitai.attest.checks import Checklist
from mitai.attest.machine import Hardware, Machine
from mitai.attest.tpm import TpmEvidence, TpmRules
from mitai.attest.tpm.roots import KNOWN_ROOTS
from mitai.attest.tpm.structures import parse_quote
from mitai.attest.tpm.trustee import hardware_of_trustee
from mitai.attest.tpm.verify import AK_PROFILE
from mitai.attest.x509 import Certificate, parse_chain, verify_chain
from mitai.errors import AttestError, ParseError

ENTRIES = {entry["id"]: entry for entry in vector_entries()}
TDREPORT_UNCHECKED = {2, *range(16, 32), *range(224, 256)}
ANCHORS = "tpm/vtpm-trust-anchors"


def entries(*kinds: str):
    found = [entry for entry in ENTRIES.values() if entry["tee"] == "tpm" and entry["kind"] in kinds]
    return [pytest.param(entry, id=entry["id"]) for entry in found] or [
        pytest.param(
            None, marks=pytest.mark.skip(reason="no such public vectors here: set MITAI_VECTORS to their folder")
        )
    ]


def evidence(entry: dict) -> Hardware:
    """Return an entry's evidence; a TDX quote gets the collateral of an entry with a machine of the same kind."""
    hardware = hardware_of_trustee(vector_file(entry, "evidence.json"))
    if hardware.tee != "az-tdx-vtpm":
        return hardware
    data = vector_file(ENTRIES["tdx/trustee-azure-paravisor"], "collateral.json")
    return replace(hardware, collateral=Collateral.from_quote_collateral_v3(data))


def verify(entry: dict, hardware: Hardware, policy: LabPolicy | None = None) -> Machine:
    policy = policy or accepting(hardware)
    appraise = tpm.appraise if hardware.tee == "tpm" else azure.appraise
    return appraise(Checklist(), hardware, policy, now=time_of(entry))


def time_of(entry: dict) -> datetime:
    """Return when to verify; an entry without certificates names no time."""
    return vector_time(entry) if "verification_time_unix" in entry else datetime(2026, 1, 1, tzinfo=UTC)


def accepting(hardware: Hardware) -> LabPolicy:
    """Return the strictest policy under which an entry's verdict is that of its cryptography."""
    if hardware.tee == "az-snp-vtpm":
        return LabPolicy()
    if hardware.tee == "tpm":
        spki = TpmEvidence.decode(hardware.quote).ak_spki
        return LabPolicy(tpm=TpmRules(aks=(f"spki:{hashlib.sha256(spki).hexdigest()}",)))
    return LabPolicy(tcb=LAX.tcb, tdx=LAX.tdx, azure=AzureRules(mrtds=(MRTD,)))


MRTD = "024a32b070383331181619fa387cb4d55d1e38879f989933055ccad5bc2db795d1737b66205949d15469dc8c1ba7ab7b"


@pytest.mark.parametrize("entry", entries("azure-vtpm", "tpm2-quote"))
def test_verdict(entry):
    expected, hardware = entry["expected"], evidence(entry)
    assert expected["tpm_signature"] == "valid"
    assert expected["pcr_digest"] == "matches"
    machine = verify(entry, hardware)
    assert len([name for name in machine.measurements if name.startswith("pcr")]) == 24
    assert not machine.simulated
    if "extra_data" in expected:
        assert machine.report_data.hex() == expected["extra_data"]
    if "hardware_signature" in expected:
        assert expected["hardware_signature"].startswith("valid")
        assert {"snp.measurement", "tdx.mrtd"} & set(machine.measurements)


@pytest.mark.parametrize("entry", entries("azure-vtpm"))
def test_what_defaults_say(entry):
    """SEV-SNP passes under Microsoft's ID keys; a TD's attributes and its paravisor must be accepted knowingly."""
    hardware = evidence(entry)
    if hardware.tee == "az-snp-vtpm":
        assert verify(entry, hardware, LabPolicy()).tee == "az-snp-vtpm"
        return
    with pytest.raises(AttestError) as refusal:
        verify(entry, hardware, LabPolicy())
    assert refusal.value.code == "attest.tcb-status-refused"
    with pytest.raises(AttestError) as refusal:
        verify(entry, hardware, LabPolicy(tcb=LAX.tcb))
    assert refusal.value.code == "attest.td-attributes-missing"
    with pytest.raises(AttestError) as refusal:
        verify(entry, hardware, LabPolicy(tcb=LAX.tcb, tdx=LAX.tdx))
    assert refusal.value.code == "attest.azure-paravisor-unknown"


@pytest.mark.parametrize("entry", entries("azure-vtpm", "tpm2-quote"))
def test_a_flipped_byte_is_refused(entry):
    """Every 7th byte of everything that is signed, hashed or certified."""
    hardware = evidence(entry)
    composite = TpmEvidence.decode(hardware.quote)
    runtime_end = len(composite.hcl_report.rstrip(b"\0"))
    policy = accepting(hardware)
    for name, size in (("quote", 1 << 16), ("signature", 1 << 16), ("hcl_report", runtime_end), ("ak_spki", 1 << 16)):
        data = getattr(composite, name)
        for offset in range(0, min(size, len(data)), 7):
            # Of a TDREPORT, CPUSVN, version and MAC can be checked by its own machine alone.
            in_report = offset - 32
            if name == "hcl_report" and hardware.tee == "az-tdx-vtpm" and in_report in TDREPORT_UNCHECKED:
                continue
            changed = replace(composite, **{name: flip(data, offset)})
            with pytest.raises(AttestError):
                verify(entry, replace(hardware, quote=changed.encode()), policy)
    for number in range(24):
        pcrs = list(composite.pcrs)
        pcrs[number] = flip(pcrs[number], number)
        with pytest.raises(AttestError) as refusal:
            verify(entry, replace(hardware, quote=replace(composite, pcrs=tuple(pcrs)).encode()), policy)
        assert refusal.value.code == "attest.tpm-pcr-digest-mismatch"


@pytest.mark.parametrize("entry", entries("azure-vtpm"))
def test_parts_of_another_machine_are_refused(entry):
    others = [each for each in ENTRIES.values() if each["kind"] == "azure-vtpm" and each["id"] != entry["id"]]
    hardware = evidence(entry)
    mine = TpmEvidence.decode(hardware.quote)
    for other in others:
        theirs = TpmEvidence.decode(evidence(other).quote)
        if (
            theirs.quote == mine.quote
            or parse_quote(theirs.quote).qualified_signer == parse_quote(mine.quote).qualified_signer
        ):
            continue
        for name in ("quote", "signature", "hcl_report"):
            mixed = replace(mine, **{name: getattr(theirs, name)})
            with pytest.raises(AttestError):
                verify(entry, replace(hardware, quote=mixed.encode()), accepting(hardware))


@pytest.mark.parametrize("entry", entries("azure-vtpm"))
def test_the_quotes_name_a_restricted_key(entry):
    """Azure's template, filled with the key of the claims, has the name that the TPM gives its signer."""
    hardware = evidence(entry)
    composite = TpmEvidence.decode(hardware.quote)
    key = attestation_key(parse_claims(parse_hcl_report(composite.hcl_report).claims))
    modulus = key.public_numbers().n.to_bytes(256, "big")
    head = struct.pack(">HHIHHHHHI", 0x0001, 0x000B, 0x50472, 0, 0x10, 0x14, 0x000B, 2048, 0)
    public = head + struct.pack(">H", 256) + modulus
    verify(entry, replace(hardware, quote=replace(composite, ak_public=public).encode()), accepting(hardware))
    changed = replace(composite, ak_public=flip(public, 6, 0x04))  # without noDA
    with pytest.raises(AttestError) as refusal:
        verify(entry, replace(hardware, quote=changed.encode()), accepting(hardware))
    assert refusal.value.code == "attest.tpm-name-mismatch"


@pytest.mark.parametrize("entry", entries("mutation"))
def test_mutations_are_refused(entry):
    base = ENTRIES[entry["base"]]
    name = entry.get("file") or next(iter(base["files"]))
    for mutation in entry["mutations"]:
        with pytest.raises((AttestError, ParseError)):
            verify(base, hardware_of_trustee(flip(vector_file(base, name), mutation["offset"], mutation["xor"])))


def test_user_data_binds_the_hardware_report():
    vector_folder()
    entry = ENTRIES["tpm/trustee-az-snp-vtpm-evidence-v2"]
    rules = AzureRules(bind_user_data=True)
    assert verify(entry, evidence(entry), LabPolicy(azure=rules)).report_data
    entry = ENTRIES["tpm/trustee-az-snp-vtpm-evidence-v1"]
    with pytest.raises(AttestError) as refusal:
        verify(entry, evidence(entry), LabPolicy(azure=rules))
    assert refusal.value.code == "attest.azure-user-data-unbound"


@pytest.mark.parametrize(
    ("root", "name", "intermediates"),
    [
        ("azure_tpm_root_2023.pem", "azure-vtpm", ("azure_tpm_intermediate_01.pem", "azure_tpm_intermediate_03.pem")),
        ("gce_ek_ak_root.pem", "gce-vtpm", ()),
    ],
)
def test_trust_anchors(root, name, intermediates):
    vector_folder()

    def parse(file: str) -> Certificate:
        lines = vector_file(ENTRIES[ANCHORS], file).splitlines(keepends=True)
        return parse_chain(b"".join(line for line in lines if not line.startswith(b"#")), "x")[0]

    anchor = parse(root)
    assert anchor.fingerprint == KNOWN_ROOTS[name]
    for file in intermediates:
        verify_chain((parse(file), anchor), "tpm", datetime(2025, 6, 1, tzinfo=UTC), AK_PROFILE)


def test_all_entries_are_covered():
    """A vector that is added must be looked at, not skipped in silence."""
    vector_folder()
    others = {name for name, e in ENTRIES.items() if e["tee"] == "tpm"} - {
        name for name, e in ENTRIES.items() if e["kind"] in {"azure-vtpm", "tpm2-quote", "mutation"}
    }
    assert others == {ANCHORS}
