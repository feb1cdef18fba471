"""Every public CSV report: accepted or refused as its entry says (see README.md)."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import pytest

from attest_lab import flip, vector_entries, vector_file, vector_folder
from mitai.attest.checks import Checklist
from mitai.attest.csv import CsvRules, appraise, parse_report
from mitai.attest.csv.certificates import parse_ca_certificate
from mitai.attest.csv.roots import HYGON_ROOT
from mitai.attest.machine import Hardware
from mitai.errors import AttestError

NOW = datetime(2026, 6, 1, tzinfo=UTC)
ENTRIES = {entry["id"]: entry for entry in vector_entries() if entry["tee"] == "csv"}


def entries(kind: str) -> list:
    chosen = [pytest.param(entry, id=name) for name, entry in ENTRIES.items() if entry["kind"] == kind]
    return chosen or [pytest.param(None, marks=pytest.mark.skip(reason="no public vectors here: set MITAI_VECTORS"))]


def endorsement(vector: dict) -> bytes:
    return vector_file(vector, "hsk.cert") + vector_file(vector, "cek.cert")


def check(report: bytes, hsk_cek: bytes, rules: CsvRules | None = None):
    hardware = Hardware(tee="csv", quote=report, endorsements={"hsk_cek": hsk_cek})
    return appraise(Checklist(), hardware, rules or CsvRules(), now=NOW)


@pytest.mark.parametrize("vector", entries("csv-v1"))
def test_chain_and_fields(vector):
    assert vector["expected"]["signature_chain"] == "valid"
    assert vector_file(vector, "hsk_cek.cert") == endorsement(vector)
    report = vector_file(vector, "report.bin")
    machine = check(report, endorsement(vector))
    fields, parsed = vector["key_fields"], parse_report(report)
    assert machine.report_data.hex() == fields["report_data"]
    assert machine.measurements["measure"] == fields["measure"]
    assert machine.measurements["vm_id"] == fields["vm_id"]
    assert parsed.body.mnonce.hex() == fields["mnonce"]
    assert parsed.body.policy == fields["policy"]
    assert parsed.signer.serial_number == bytes.fromhex(fields["sn"]).decode()
    assert int.from_bytes(parsed.anonce, "little") == fields["anonce"]
    assert check(report.ljust(4096, b"\0"), endorsement(vector)).signed == machine.signed


@pytest.mark.parametrize("vector", entries("csv-v1"))
def test_root_is_the_pinned_one(vector):
    data = vector_file(vector, "hrk.cert")
    assert hashlib.sha256(data).hexdigest() == "296efa97580464aca0ab5eefe42199ee05862182508d1629f29cf4dc175b10cd"
    assert parse_ca_certificate(data, "HRK").subject == HYGON_ROOT


@pytest.mark.parametrize("vector", entries("mutation"))
def test_mutations_are_refused(vector):
    base = ENTRIES[vector["base"]]
    report, certificates = vector_file(base, vector["file"]), endorsement(base)
    check(report, certificates)
    for mutation in vector["mutations"]:
        with pytest.raises(AttestError) as refusal:
            check(flip(report, mutation["offset"], mutation["xor"]), certificates)
        assert refusal.value.code == "attest.csv-signature-invalid", mutation["what"]


@pytest.mark.slow
@pytest.mark.parametrize("vector", entries("csv-v1"))
def test_flip_every_byte(vector):
    report, certificates = vector_file(vector, "report.bin"), endorsement(vector)
    for offset in range(len(report)):
        with pytest.raises(AttestError):
            check(flip(report, offset), certificates)
    for offset in range(len(certificates)):
        with pytest.raises(AttestError):
            check(report, flip(certificates, offset))


def test_all_entries_are_covered():
    vector_folder()
    assert {entry["kind"] for entry in ENTRIES.values()} == {"csv-v1", "mutation"}
