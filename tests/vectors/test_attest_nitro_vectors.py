"""Every public Nitro document: accepted or refused as its entry says (see README.md)."""

from __future__ import annotations

from datetime import timedelta

import pytest

from attest_lab import flip, vector_entries, vector_file, vector_folder, vector_time
from mitai.attest.checks import Checklist
from mitai.attest.machine import Hardware
from mitai.attest.nitro import NitroRules, appraise
from mitai.attest.nitro.roots import AWS_NITRO_ROOT_G1_SHA256
from mitai.attest.x509 import parse_chain
from mitai.errors import AttestError

# A flip can make a serial number negative or a country three letters long: `cryptography` warns, and we refuse it.
pytestmark = [
    pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Attribute's length must be:UserWarning"),
]
LAX = NitroRules(allow_debug=True)
ENTRIES = {entry["id"]: entry for entry in vector_entries() if entry["tee"] == "nitro"}
CODES = {"debug mode: PCR0-2 all zero": "attest.nitro-debug"}


def entries(kind: str) -> list:
    chosen = [pytest.param(entry, id=name) for name, entry in ENTRIES.items() if entry["kind"] == kind]
    return chosen or [pytest.param(None, marks=pytest.mark.skip(reason="no public vectors here: set MITAI_VECTORS"))]


def check(document: bytes, vector: dict, rules: NitroRules, **more):
    hardware = Hardware(tee="nitro", quote=document)
    return appraise(Checklist(), hardware, rules, **{"now": vector_time(vector), **more})


@pytest.mark.parametrize("vector", entries("nitro"))
def test_chain_and_fields(vector):
    assert vector["expected"]["signature_chain"] == "valid"
    machine = check(vector_file(vector, "attestation_doc.cbor"), vector, LAX)
    fields = vector["key_fields"]
    assert machine.facts["module"] == fields["module_id"]
    assert machine.report_data.hex() == (fields["user_data"] or "")
    assert machine.facts.get("nonce") == fields["nonce"]
    assert machine.facts.get("public key") == fields["public_key"]
    registers = {name.removeprefix("pcr"): value for name, value in machine.measurements.items() if int(value, 16)}
    assert registers == fields["pcrs"]


@pytest.mark.parametrize("vector", entries("nitro"))
def test_strict_policy(vector):
    document = vector_file(vector, "attestation_doc.cbor")
    if vector["expected"]["strict_policy"] == "accept":
        check(document, vector, NitroRules())
        return
    with pytest.raises(AttestError) as refusal:
        check(document, vector, NitroRules())
    assert refusal.value.code in {CODES[reason] for reason in vector["expected"]["strict_policy_reasons"]}


@pytest.mark.parametrize("vector", entries("nitro"))
def test_root_is_the_pinned_one(vector):
    (root,) = parse_chain(vector_file(vector, "aws_root_g1.pem"), "code")
    assert root.fingerprint == AWS_NITRO_ROOT_G1_SHA256


@pytest.mark.parametrize("vector", entries("nitro"))
def test_another_day_is_refused(vector):
    """The leaf lives for three hours."""
    with pytest.raises(AttestError) as refusal:
        check(vector_file(vector, "attestation_doc.cbor"), vector, LAX, now=vector_time(vector) + timedelta(hours=4))
    assert refusal.value.code == "attest.nitro-chain-expired"


@pytest.mark.parametrize("vector", entries("mutation"))
def test_mutations_are_refused(vector):
    base = ENTRIES[vector["base"]]
    document = vector_file(base, vector["file"])
    check(document, base, LAX)
    for mutation in vector["mutations"]:
        with pytest.raises(AttestError):
            check(flip(document, mutation["offset"], mutation["xor"]), base, LAX)


@pytest.mark.slow
@pytest.mark.parametrize("vector", entries("nitro"))
def test_flip_every_byte(vector):
    document = vector_file(vector, "attestation_doc.cbor")
    for offset in range(len(document)):
        with pytest.raises(AttestError):
            check(flip(document, offset), vector, LAX)


def test_all_entries_are_covered():
    vector_folder()
    assert {entry["kind"] for entry in ENTRIES.values()} == {"nitro", "mutation"}
