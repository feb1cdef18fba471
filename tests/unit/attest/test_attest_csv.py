"""CSV reports of our own secure processor: accepted as they are, and refused for each reason by its own code."""

from __future__ import annotations

import hashlib

import pytest

from attest_csv_lab import (
    ANONCE,
    MEASURE,
    NOW,
    REPORT_DATA,
    ca_certificate,
    check,
    chip_certificate,
    endorsement,
    extended,
    key_id,
    pek,
    report,
)
from attest_lab import flip
from mitai.attest.cache import VerifiedCache
from mitai.attest.checks import Checklist
from mitai.attest.csv import CsvRules, appraise, parse_report
from mitai.attest.csv.report import EXTENDED_BYTES, V1_BYTES
from mitai.attest.machine import Hardware
from mitai.attest.policy import Policy
from mitai.errors import ParseError

MALFORMED = "attest.csv-malformed"
CHIP = hashlib.sha256(endorsement()[832 : 832 + 1044]).hexdigest()


@pytest.mark.parametrize("form", ["sent", "unmasked", "erased"])
@pytest.mark.parametrize("pages", [False, True])
@pytest.mark.parametrize("anonce", [ANONCE, bytes(4)])
def test_version_1(form, pages, anonce):
    machine = check(report(form=form, pages=pages, anonce=anonce))
    assert machine.tee == "csv"
    assert machine.title == "Hygon CSV"
    assert not machine.simulated
    assert machine.report_data == REPORT_DATA
    assert machine.measurements == {
        "measure": MEASURE.hex(),
        "user_pubkey_digest": "01" * 32,
        "vm_id": "02" * 16,
        "vm_version": "03" * 16,
    }
    assert machine.facts["serial number (not signed)"] == "LAB0001"
    assert machine.facts["chip"] == CHIP
    assert machine.platform == f"hygon-chip:{CHIP}"
    assert "firmware build" not in machine.facts
    assert [step for step, _ in machine.checks] == ["1 report", "2 chain", "3 signature", "4 guest"]
    assert machine.not_after.year == 9999
    assert machine.summary()


@pytest.mark.parametrize("form", ["sent", "erased"])
@pytest.mark.parametrize("pages", [False, True])
def test_extended(form, pages):
    machine = check(extended(form=form, pages=pages), CsvRules(require_extended=True, min_build=2400))
    assert machine.report_data == REPORT_DATA
    assert machine.measurements["rtmr0"] == "10" * 32
    assert machine.measurements["rtmr4"] == "14" * 32
    assert machine.measurements["host_data"] == "0a" * 64
    assert machine.facts["firmware build"] == "2400"


def test_identity_of_the_evidence_is_what_was_signed():
    forms = {check(report(form=form, pages=pages)).signed for form in ("sent", "erased") for pages in (False, True)}
    assert len(forms) == 1
    assert forms != {check(report(measure=bytes(32))).signed}


@pytest.mark.parametrize("size", [0, V1_BYTES - 1, V1_BYTES + 1, EXTENDED_BYTES - 1, EXTENDED_BYTES + 1, 4095, 4097])
def test_sizes(size, refused):
    with refused(MALFORMED, "1 report"):
        check(extended(pages=True)[:size].ljust(size, b"\0"))


@pytest.mark.parametrize("make", [report, extended])
def test_bytes_behind_the_report(make, refused):
    with refused(MALFORMED, "1 report"):
        check(flip(make(pages=True), 4095))


def test_a_short_report_may_not_be_extended(refused):
    with refused(MALFORMED, "1 report"):
        check(report().ljust(EXTENDED_BYTES, b"\0"), CsvRules(require_extended=True))


@pytest.mark.parametrize("make", [report, extended])
@pytest.mark.parametrize("changes", [{"usage": 0x1001}, {"usage": 0}, {"algorithm": 3}, {"serial": b"\x1b[31m"}])
def test_malformed_reports(make, changes, refused):
    with refused(MALFORMED, "1 report"):
        check(make(**changes))


def test_serial_numbers_are_text(refused):
    with refused(MALFORMED, "1 report"):
        check(report(serial=b"\xff"))


@pytest.mark.parametrize(
    "where", [0x150, 0x150 + 2084, 0x150 + 2084 + 64, V1_BYTES - 1], ids=["PEK", "SN", "rest", "MAC"]
)
@pytest.mark.parametrize("form", ["sent", "unmasked"])
def test_mac(where, form, refused):
    offset = where + 200 if where == 0x150 else where
    with refused("attest.csv-mac-mismatch", "1 report"):
        check(flip(report(form=form), offset))


def test_signature(refused):
    with refused("attest.csv-signature-invalid", "3 signature"):
        check(report(key="CEK"))
    with refused("attest.csv-signature-invalid", "3 signature"):
        check(extended(key="CEK"))


def test_another_mask_does_not_pass_by_accident(refused):
    """The mask is not signed: whoever changes it alone breaks the fields that have one known value."""
    data = report(form="erased")
    with refused(MALFORMED, "1 report"):
        check(flip(data, 0xBC))


def test_a_mask_that_was_changed_with_everything_else_shows_in_the_measurement():
    """What docs/spec/evidence-csv.md says: version 1 proves its fields only together with a compared measurement."""
    forged = bytearray(report(form="erased", policy=0))
    for offset in (0xB4, 0xB8, 0xBC):  # usage, algorithm, mask
        forged[offset] ^= 1
    machine = check(bytes(forged))  # the guest had no `nodbg`; now it seems to have it
    assert machine.measurements["measure"] != MEASURE.hex()


def test_endorsements(refused):
    with refused("attest.csv-endorsement-missing", "2 chain"):
        check(endorsements={})
    with refused("attest.csv-extra-input", "1 report"):
        check(endorsements={"hsk_cek": endorsement(), "hrk": b"x"})
    for extra in ({"event_log": b"x"},):
        with refused("attest.csv-extra-input", "1 report"):
            appraise(Checklist(), Hardware(tee="csv", quote=report(), **extra), CsvRules(), now=NOW)


def test_root(refused):
    hardware = Hardware(tee="csv", quote=report(), endorsements={"hsk_cek": endorsement()})
    with refused("attest.csv-chain-invalid", "2 chain"):
        appraise(Checklist(), hardware, CsvRules(), now=NOW)  # Hygon's root is not ours


CHAIN = {
    "HSK by another": (ca_certificate(issuer="OCA", signer_id=key_id("HRK")), None, None),
    "HSK naming another": (ca_certificate(signer_id=key_id("OCA")), None, None),
    "HRK as HSK": (ca_certificate("HRK"), None, None),
    "HSK as PEK": (ca_certificate(usage=0x1002), None, None),
    "CEK by another": (None, chip_certificate(issuers=("OCA", None), signed_as=0x13), None),
    "CEK by HRK": (None, chip_certificate(issuers=("HRK", None)), None),
    "CEK without signature": (None, chip_certificate(issuers=(None, None)), None),
    "CEK naming another": (None, chip_certificate(signer_id=key_id("OCA")), None),
    "CEK signed in another role": (None, chip_certificate(signed_as=0x1001), None),
    "PEK as CEK": (None, chip_certificate(usage=0x1002), None),
    "PEK by its owner alone": (None, None, chip_certificate("PEK", ("OCA", None))),
    "PEK by HSK": (None, None, chip_certificate("PEK", ("HSK", None))),
    "PDH as PEK": (None, None, chip_certificate("PEK", ("CEK", None), usage=0x1003)),
}


@pytest.mark.parametrize(("hsk", "cek", "platform"), CHAIN.values(), ids=CHAIN.keys())
def test_chain(hsk, cek, platform, refused):
    parts = (hsk or endorsement()[:832]) + (cek or endorsement()[832:])
    with refused("attest.csv-chain-invalid", "2 chain"):
        check(report(certificate=platform), endorsements={"hsk_cek": parts})


@pytest.mark.parametrize("issuers", [("CEK", None), (None, "CEK"), ("OCA", "CEK")])
def test_either_signature_of_a_pek(issuers):
    check(report(certificate=chip_certificate("PEK", issuers)))


CERTIFICATE_FLIPS = {
    "HSK version": 0,
    "HSK curve": 0x40,
    "HSK key": 0x44,
    "HSK key beyond 256 bits": 0x44 + 40,
    "HSK user id's length": 0xD5,
    "HSK bytes behind the signature": 831,
    "CEK version": 832 + 1,
    "CEK algorithm": 832 + 12,
    "CEK curve": 832 + 16,
    "CEK key": 832 + 20,
    "CEK signature's algorithm": 832 + 0x418,
    "CEK bytes behind the signature": 832 + 0x414 + 8 + 144,
    "CEK no signature": 832 + 0x414 + 520 + 8,
    "CEK no signature's algorithm": 832 + 0x414 + 520 + 4,
    "CEK end": 832 + 2083,
}


@pytest.mark.parametrize("offset", CERTIFICATE_FLIPS.values(), ids=CERTIFICATE_FLIPS.keys())
def test_malformed_certificates(offset, refused):
    with refused(MALFORMED, "2 chain"):
        check(endorsements={"hsk_cek": flip(endorsement(), offset, 0x10)})


@pytest.mark.parametrize("size", [0, 831, 832, 2915, 2917])
def test_sizes_of_the_endorsement(size, refused):
    with refused(MALFORMED, "2 chain"):
        check(endorsements={"hsk_cek": endorsement()[:size].ljust(size, b"\0")})


def test_malformed_pek(refused):
    with refused(MALFORMED, "2 chain"):
        check(report(form="sent", certificate=flip(pek(), 16)))


def test_debug(refused):
    with refused("attest.csv-debug", "4 guest"):
        check(report(policy=0))
    machine = check(report(policy=0), CsvRules(policy_required=()))
    assert "guest policy" in machine.facts
    assert (machine.memory, check(report()).memory) == ("visible", "encrypted")


def test_policy(refused):
    check(report(policy=0b1101111), CsvRules(policy_required=("nodbg", "noks", "es", "nosend", "csv", "csv3")))
    with refused("attest.csv-policy-missing", "4 guest"):
        check(rules=CsvRules(policy_required=("nodbg", "es")))
    with refused("attest.csv-policy-not-allowed", "4 guest"):
        check(report(policy=0b10000001))
    check(report(policy=0b10000001), CsvRules(policy_forbidden=()))


def test_versions(refused):
    with refused("attest.csv-version-refused", "4 guest"):
        check(rules=CsvRules(require_extended=True))
    with refused("attest.csv-build-too-low", "4 guest"):
        check(rules=CsvRules(min_build=1))
    with refused("attest.csv-build-too-low", "4 guest"):
        check(extended(build=2399), CsvRules(min_build=2400))


def test_pins(refused):
    good = {"measure": ("00" * 32, MEASURE.hex()), "user_pubkey_digest": "01" * 32, "vm_id": "02" * 16}
    check(rules=CsvRules(**good))
    for name, value, code in (
        ("measure", ("00" * 32,), "attest.csv-measure-mismatch"),
        ("user_pubkey_digest", "00" * 32, "attest.csv-owner-mismatch"),
        ("vm_id", "00" * 16, "attest.csv-vm-id-mismatch"),
    ):
        with refused(code, "4 guest"):
            check(rules=CsvRules(**(good | {name: value})))


def test_denied_chips(refused):
    check(rules=CsvRules(denied_chips=("00" * 32,)))
    with refused("attest.csv-chip-denied", "2 chain"):
        check(rules=CsvRules(denied_chips=(CHIP,)))


def test_a_chip_has_one_name(refused):
    """Its certificate can be written in two ways: the signature in either of two places."""
    other = ca_certificate() + chip_certificate(issuers=(None, "HSK"), version=2, signer_id=key_id("HSK"))
    assert other != endorsement()
    assert check(endorsements={"hsk_cek": other}).facts["chip"] == CHIP
    with refused("attest.csv-chip-denied", "2 chain"):
        check(rules=CsvRules(denied_chips=(CHIP,)), endorsements={"hsk_cek": other})


def test_cache_answers_for_the_same_bytes_only(refused):
    cache = VerifiedCache()
    check(cache=cache)
    check(cache=cache)
    with refused("attest.csv-signature-invalid"):
        check(report(key="CEK"), cache=cache)
    with refused("attest.csv-chain-invalid"):
        check(report(certificate=chip_certificate("PEK", ("HSK", None))), cache=cache)
    hardware = Hardware(tee="csv", quote=report(), endorsements={"hsk_cek": endorsement()})
    with refused("attest.csv-chain-invalid"):
        appraise(Checklist(), hardware, CsvRules(), now=NOW, cache=cache)


@pytest.mark.parametrize(
    "rules",
    [
        {"measure": ("00",)},
        {"user_pubkey_digest": "none"},
        {"vm_id": "00" * 32},
        {"denied_chips": ("x",)},
        {"policy_required": ("debug",)},
        {"policy_forbidden": ("debug",)},
        {"min_build": -1},
    ],
)
def test_rules_that_make_no_sense(rules):
    with pytest.raises(ParseError) as refusal:
        CsvRules(**rules)
    assert refusal.value.code == "attest.policy-malformed"


def test_parsed_report():
    parsed = parse_report(extended())
    assert parsed.extended
    assert parsed.body.policy_bits == {"nodbg"}
    assert len(parsed.message) == 1024
    assert len(parse_report(report()).message) == 180


def test_rules_survive_the_policys_own_form():
    policy = Policy(csv=CsvRules(measure=(MEASURE.hex(),), policy_required=("nodbg", "csv3"), min_build=2400))
    assert Policy.from_toml(policy.to_toml()) == policy
