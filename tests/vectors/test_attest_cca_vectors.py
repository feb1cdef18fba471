"""Every public CCA token: accepted as its entry says (see README.md)."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from attest_lab import flip, vector_entries, vector_file, vector_folder
from mitai.attest.cca import (
    CcaRules,
    anchor_from_jwk,
    anchors_from_tastore,
    appraise,
    parse_token,
    references_from_rvstore,
)
from mitai.attest.checks import Checklist
from mitai.attest.machine import Hardware
from mitai.errors import AttestError

NOW = datetime(2026, 6, 1, tzinfo=UTC)
ENTRIES = {entry["id"]: entry for entry in vector_entries() if entry["tee"] == "cca"}


def entries(*, file: str = "token.cbor") -> list:
    chosen = [pytest.param(entry, id=name) for name, entry in ENTRIES.items() if file in entry["files"]]
    return chosen or [pytest.param(None, marks=pytest.mark.skip(reason="no public vectors here: set MITAI_VECTORS"))]


def check(token: bytes, rules: CcaRules):
    return appraise(Checklist(), Hardware(tee="cca", quote=token), rules, now=NOW)


def lax(vector: dict) -> CcaRules:
    """Trust the entry's key for whatever platform it signs, in any state of firmware."""
    return CcaRules(trust_anchors=(anchor_from_jwk(vector_file(vector, "cpak_pub.jwk.json")),), allow_any_platform=True)


@pytest.mark.parametrize("vector", entries())
def test_signatures_and_binding(vector):
    expected = vector["expected"]
    assert (expected["platform_signature"], expected["realm_signature"], expected["rak_binding"]) == (
        "valid",
        "valid",
        True,
    )
    token = vector_file(vector, "token.cbor")
    machine = check(token, lax(vector))
    assert machine.report_data == parse_token(token).realm.challenge
    assert {"rim", "rem0", "rem3", "rpv"} <= machine.measurements.keys()
    if "lifecycle" in expected:
        value, state = expected["lifecycle"].split()
        assert machine.facts["lifecycle"] == f"{value} ({state})"


@pytest.mark.parametrize("vector", entries(file="rvstore.json"))
def test_stores(vector):
    store = references_from_rvstore(vector_file(vector, "rvstore.json"))
    anchors = anchors_from_tastore(vector_file(vector, "tastore.json"))
    token = vector_file(vector, "token.cbor")
    check(token, CcaRules(trust_anchors=anchors, platforms=store.platform, realms=store.realm))
    for rules, code in (
        (CcaRules(trust_anchors=anchors), "attest.cca-platform-mismatch"),
        (CcaRules(platforms=store.platform), "attest.cca-trust-anchor-missing"),
    ):
        with pytest.raises(AttestError) as refusal:
            check(token, rules)
        assert refusal.value.code == code


@pytest.mark.parametrize("vector", entries())
def test_keys_of_others(vector):
    token = vector_file(vector, "token.cbor")
    for other in ENTRIES.values():
        if other["id"] != vector["id"]:
            with pytest.raises(AttestError) as refusal:
                check(token, lax(other))
            assert refusal.value.code == "attest.cca-platform-signature-invalid"


@pytest.mark.slow
@pytest.mark.parametrize("vector", entries())
def test_flip_every_byte(vector):
    token, rules = vector_file(vector, "token.cbor"), lax(vector)
    for offset in range(len(token)):
        with pytest.raises(AttestError):
            check(flip(token, offset), rules)


def test_all_entries_are_covered():
    vector_folder()
    assert {entry["kind"] for entry in ENTRIES.values()} == {"cca"}
