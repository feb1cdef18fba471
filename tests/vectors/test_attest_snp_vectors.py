"""Every public SEV-SNP vector: accepted or refused as its index says (see README.md)."""

from __future__ import annotations

import json

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from attest_lab import flip, vector_entries, vector_file, vector_folder, vector_time
from mitai.attest.cache import VerifiedCache
from mitai.attest.checks import Checklist
from mitai.attest.conformance import main
from mitai.attest.machine import Hardware
from mitai.attest.snp import SnpRules, Trust, appraise, parse_report, verify_endorsements
from mitai.attest.snp.launch import launch_digest
from mitai.attest.snp.report import tcb_components
from mitai.attest.snp.roots import AMD, published
from mitai.attest.x509 import parse_chain, parse_der, verify_chain, verify_crl
from mitai.errors import AttestError

ENTRIES = {entry["id"]: entry for entry in vector_entries() if entry["tee"] in {"snp", "refvalues"}}
LAX = SnpRules(policy_forbidden=(), allow_masked_chip_key=True)
REASONS = {"debug policy bit": {"attest.snp-debug"}, "migrate": {"attest.snp-migration-agent"}}


def entries(wanted) -> list:
    chosen = [pytest.param(entry, id=entry["id"]) for entry in ENTRIES.values() if wanted(entry)]
    return chosen or [pytest.param(None, marks=pytest.mark.skip(reason="no public vectors here: set MITAI_VECTORS"))]


def has(*names: str):
    return lambda entry: entry["tee"] == "snp" and set(names) <= set(entry.get("files", {}))


def hardware(vector: dict, *, chain: bool = True, report: bytes | None = None) -> Hardware:
    """Return the evidence; without its chain AMD's published certificates are taken."""
    endorsements = {"vek": vector_file(vector, "vek.der")}
    if chain:
        endorsements["chain"] = vector_file(vector, "ask_or_asvk.pem") + vector_file(vector, "ark.pem")
    return Hardware(tee="snp", quote=report or vector_file(vector, "report.bin"), endorsements=endorsements)


@pytest.mark.parametrize("chain", [True, False], ids=["chain", "published"])
@pytest.mark.parametrize("vector", entries(has("report.bin", "vek.der")))
def test_verdict(vector, chain):
    expected, evidence, now = vector["expected"], hardware(vector, chain=chain), vector_time(vector)
    if expected["signature_chain"] != "valid":
        with pytest.raises(AttestError) as refusal:
            appraise(Checklist(), evidence, LAX, now=now)
        assert refusal.value.step in {"2 endorsement", "3 signature"}
        return
    machine = appraise(Checklist(), evidence, LAX, now=now)
    assert machine.tee == "snp"
    assert not machine.simulated
    if expected["strict_policy"] == "accept":
        appraise(Checklist(), evidence, SnpRules(), now=now)
        return
    with pytest.raises(AttestError) as refusal:
        appraise(Checklist(), evidence, SnpRules(), now=now)
    known = [REASONS[reason] for reason in expected["strict_policy_reasons"] if reason in REASONS]
    assert refusal.value.code in set().union(*known) or not known


@pytest.mark.parametrize("vector", entries(lambda entry: bool(entry["tee"] == "snp" and entry.get("key_fields"))))
def test_parsed_fields(vector):
    fields = vector["key_fields"]
    report = parse_report(vector_file(vector, "report.bin"))
    assert report.version == fields["version"]
    assert report.guest_svn == fields["guest_svn"]
    assert report.policy == int(fields["policy"], 16)
    assert report.vmpl == fields["vmpl"]
    assert report.platform_info == fields["platform_info"]
    assert (report.author_key_en, report.mask_chip_key) == (bool(fields["author_key_en"]), bool(fields["mask_chip"]))
    assert report.signing_key == ("vcek", "vlek")[fields["signing_key"]]
    for name in ("report_data", "measurement", "host_data", "id_key_digest", "author_key_digest", "report_id"):
        assert getattr(report, name).hex() == fields[name]
    for name in ("current_tcb", "reported_tcb", "committed_tcb", "launch_tcb", "chip_id"):
        assert getattr(report, name).hex() == fields[name]
    for flag in ("debug", "migrate_ma", "smt", "single_socket"):
        assert (flag.replace("_", "-") in report.policy_flags) == fields[flag]
    vek = verify_endorsements(
        {"vek": vector_file(vector, "vek.der")}, report.signing_key, vector_time(vector)
    ).value.vek
    names = {"bootloader": "bl", "tee": "tee", "snp": "snp", "microcode": "ucode", "fmc": "fmc"}
    assert {names[name]: level for name, level in tcb_components(vek.product, vek.tcb).items()} == fields["tcb"]
    assert vek.product == fields["product"].partition("-")[0]
    if fields["csp"] is not None:
        assert vek.csp_id == bytes.fromhex(fields["csp"])[2:].decode()


@pytest.mark.parametrize("vector", entries(lambda entry: entry["tee"] == "snp" and entry["kind"] == "mutation"))
def test_mutations_are_refused(vector):
    base, cache = ENTRIES[vector["base"]], VerifiedCache()
    appraise(Checklist(), hardware(base), LAX, now=vector_time(base), cache=cache)
    for mutation in vector["mutations"]:
        original = vector_file(base, vector["file"])
        mutated = flip(original, mutation["offset"], mutation["xor"])
        with pytest.raises(AttestError):
            appraise(Checklist(), hardware(base, report=mutated), LAX, now=vector_time(base), cache=cache)


@pytest.mark.parametrize("vector", entries(lambda entry: str(entry["kind"]).startswith("conformance-attestation-sev")))
def test_conformance(vector):
    exit_code, output = main(["verify-attestation-sev"], vector_file(vector, "input.json"))
    expected, said = vector["expected"], msgspec.json.decode(output)
    assert exit_code == expected["exit_code"]
    assert said["accepted"] is (exit_code == 0)
    codes = expected["rejection_code"]
    if codes is not None:
        assert said["rejection"]["code"] in (codes if isinstance(codes, list) else [codes])


def test_conformance_outputs():
    """As recorded, but for what lies behind offset 0x1E0, which the suite's recording has shifted."""
    vector_folder()
    vector = ENTRIES["snp/conformance-attestation-sev-200-real-sev-snp-happy"]
    _, output = main(["verify-attestation-sev"], vector_file(vector, "input.json"))
    ours, theirs = msgspec.json.decode(output)["outputs"], json.loads(vector_file(vector, "expected.json"))["outputs"]
    assert ours["measurement"] == theirs["measurement"]
    assert ours["body_fields"].keys() == theirs["body_fields"].keys()
    different = {name for name, value in ours["body_fields"].items() if value != theirs["body_fields"][name]}
    parts = ("build", "minor", "major")
    shifted = {f"{name}_{part}" for name in ("current", "committed") for part in parts}
    assert different == shifted | {"reported_tcb_hex", "committed_tcb_hex", "launch_tcb_hex"}
    assert ours["body_fields"]["current_tcb_hex"] == ours["body_fields"]["committed_tcb_hex"]


@pytest.mark.parametrize("vector", entries(has("vcek.der", "cert_chain.pem")))
def test_chain_without_a_report(vector):
    leaf = parse_der(vector_file(vector, "vcek.der"), "code")
    now = leaf.parsed.not_valid_before_utc
    endorsements = {"vek": leaf.der, "chain": vector_file(vector, "cert_chain.pem")}
    vek = verify_endorsements(endorsements, "vcek", now).value.vek
    assert verify_endorsements({"vek": leaf.der}, "vcek", now).value.vek == vek
    assert len(vek.chip_id) == (8 if vek.product == "Turin" else 64)


@pytest.mark.parametrize("vector", entries(lambda entry: entry["id"] == "snp/amd-ark-crls"))
def test_revocation_lists(vector):
    for name in vector["files"]:
        parsed = x509.load_pem_x509_crl(vector_file(vector, name))
        der, product = parsed.public_bytes(Encoding.DER), name.split("_")[2].capitalize()
        crl = verify_crl(der, published()[f"ARK-{product}"], "snp-crl", AMD)
        assert crl.not_before < crl.not_after
        crl.refuse_revoked(published()[f"SEV-{product}"], "code")
        others = [certificate for common_name, certificate in published().items() if not common_name.endswith(product)]
        for other in others:
            with pytest.raises(AttestError):
                verify_crl(der, other, "snp-crl", AMD)


@pytest.mark.parametrize("vector", entries(lambda entry: entry["id"] == "snp/trustee-milan-v2"))
def test_revocation_list_with_a_report(vector):
    crls = ENTRIES["snp/amd-ark-crls"]
    crl = x509.load_pem_x509_crl(vector_file(crls, "test_amd_milan_crl.pem"))
    evidence = hardware(vector)
    evidence = msgspec.structs.replace(
        evidence, endorsements={**evidence.endorsements, "crl": crl.public_bytes(Encoding.DER)}
    )
    rules = SnpRules(crl_required=True)
    machine = appraise(Checklist(), evidence, rules, now=crl.last_update_utc)
    assert machine.not_after == crl.next_update_utc
    for now in (vector_time(vector), crl.next_update_utc.replace(year=2027)):
        with pytest.raises(AttestError) as refusal:
            appraise(Checklist(), evidence, rules, now=now)
        assert refusal.value.code == "attest.snp-crl-expired"


def test_published_certificates():
    """AMD's own certificates, in this package, hold up to the pinned roots."""
    for product in ("Milan", "Genoa", "Turin"):
        for name in (f"SEV-{product}", f"SEV-VLEK-{product}"):
            chain = (published()[name], published()[f"ARK-{product}"])
            assert Trust().product(chain[-1]) == product
            verify_chain((*chain, chain[-1]), "snp", chain[0].parsed.not_valid_before_utc, AMD)


@pytest.mark.parametrize("vector", entries(lambda entry: entry["id"] == "refvalues/snp-launch-digest"))
def test_launch_digests(vector):
    ovmf = vector_file(vector, "ovmf_AmdSev_suffix.bin")
    for case in json.loads(vector_file(vector, "cases.json")):
        found = launch_digest(
            ovmf,
            vcpus=case["vcpus"],
            vcpu=case["vcpu_type"],
            guest_features=case["guest_features"],
            vmm=case["vmm"].lower(),
            ovmf_hash=bytes.fromhex(case["ovmf_hash"]),
        )
        assert found.hex() == case["measurement"]


@pytest.mark.parametrize("vector", entries(has("report.bin", "ark.pem")))
def test_roots_of_the_vectors_are_ours(vector):
    root = parse_chain(vector_file(vector, "ark.pem"), "code")[0]
    assert published()[root.common_name].der == root.der
