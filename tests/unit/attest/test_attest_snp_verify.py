"""Appraisal of SEV-SNP evidence: each refusal has its code and its step."""

from __future__ import annotations

import struct
from datetime import timedelta

import pytest

from attest_snp_lab import (
    CHIP,
    COMMITTED,
    COMMITTED_TCB,
    CPUID,
    CURRENT,
    CURRENT_TCB,
    END,
    KEY_INFO,
    LAUNCH_TCB,
    NOW,
    PLATFORM,
    POLICY,
    REPORTED_TCB,
    TCB,
    VMPL,
    amd,
    integer,
    text,
)
from mitai.attest.cache import VerifiedCache
from mitai.attest.dcap.collateral import Collateral
from mitai.attest.machine import Hardware
from mitai.attest.snp import SnpRules, SnpTcb
from mitai.errors import ParseError

GENOA = TCB["Genoa"]


def appraise(changes=None, rules=None, *, product="Genoa", version=3, kind="vcek", **more):
    authority = amd(product)
    report = authority.report(changes, version=version, kind=kind)
    return authority.appraise(authority.hardware(report, kind=kind, **more), rules)


def bits(offset: int, *numbers: int) -> dict[int, bytes]:
    base = {POLICY: 0x20000, PLATFORM: 0}[offset]
    return {offset: struct.pack("<Q", base | sum(1 << number for number in numbers))}


@pytest.mark.parametrize("kind", ["vcek", "vlek"])
@pytest.mark.parametrize("version", [2, 3, 4, 5])
@pytest.mark.parametrize("product", ["Milan", "Genoa", "Turin"])
def test_accepted(product, version, kind):
    machine = appraise(product=product, version=version, kind=kind)
    assert (machine.tee, machine.title, machine.simulated) == ("snp", "AMD SEV-SNP", False)
    assert machine.measurements["measurement"] == "11" * 48
    assert machine.measurements["host_data"] == "22" * 32
    assert machine.report_data == b"\x33" * 64
    assert machine.not_after == END
    assert machine.facts["product"] == product
    assert machine.facts["signed by"] == ("VCEK" if kind == "vcek" else "VLEK of CN=cloud.example")
    assert machine.platform == f"amd-chip:{machine.facts['chip']}"
    steps = ["1 report", "2 endorsement", "3 signature", "4 binding", "5 tcb", "6 guest", "7 platform"]
    assert [step for step, _ in machine.checks] == steps
    assert machine.summary()[0] == ("hardware", "genuine AMD SEV-SNP")


def test_nothing_but_report_and_endorsements(refused):
    base = amd().hardware()
    collateral = Collateral("", b"", "", "", b"", "", b"", b"", "")
    for extra in ({"event_log": b"log"}, {"collateral": collateral}):
        with refused("attest.snp-extra-input", "1 report"):
            amd().appraise(Hardware(tee="snp", quote=base.quote, endorsements=base.endorsements, **extra))


def test_signature(refused):
    report = bytearray(amd().report())
    for offset in (0x90, 0x2A0, 0x2A0 + 72):
        spoiled = bytes(report[:offset]) + bytes([report[offset] ^ 1]) + bytes(report[offset + 1 :])
        with refused("attest.snp-signature-invalid", "3 signature"):
            amd().appraise(amd().hardware(spoiled))
    zeros = bytes(report[:0x2A0]) + bytes(512)
    with refused("attest.snp-signature-invalid", "3 signature"):
        amd().appraise(amd().hardware(zeros))


def test_key_of_another_machine(refused):
    """A genuine certificate whose key did not sign this report."""
    authority = amd()
    other = authority.certificate("vcek", key=authority.keys["vlek"], extensions=authority.extensions("vcek"))
    with refused("attest.snp-signature-invalid", "3 signature"):
        authority.appraise(authority.hardware(vek=other))


def test_selector_names_the_other_key(refused):
    """The report says VLEK, the certificate is a VCEK: its signature would hold."""
    with refused("attest.snp-role-mismatch", "2 endorsement"):
        appraise({KEY_INFO: struct.pack("<I", 4)})


def test_binding(refused):
    with refused("attest.snp-product-mismatch", "4 binding"):
        appraise({0x188: CPUID["Turin"]})
    with refused("attest.snp-vek-tcb-mismatch", "4 binding"):
        appraise({REPORTED_TCB: bytes((8, 0, 0, 0, 0, 0, 24, 219))})
    with refused("attest.snp-vek-tcb-mismatch", "4 binding"):
        appraise({REPORTED_TCB: bytes((9, 0, 1, 0, 0, 0, 24, 219))})
    with refused("attest.snp-vek-tcb-mismatch", "4 binding"):
        appraise(vek=amd().vek(changes={"3.8": integer(218)}))
    with refused("attest.snp-chip-id-mismatch", "4 binding"):
        appraise({0x1A0: b"\xbb" * 64})
    with refused("attest.snp-chip-id-mismatch", "4 binding"):
        appraise({0x1A0 + 8: b"\x01"}, product="Turin")


@pytest.mark.parametrize("part", range(8))
def test_every_spl_counts(part, refused):
    reported = bytes(level + (index == part) for index, level in enumerate(TCB["Turin"]))
    with refused("attest.snp-vek-tcb-mismatch", "4 binding"):
        appraise({REPORTED_TCB: reported}, product="Turin")


@pytest.mark.parametrize(
    "changes",
    [
        {COMMITTED_TCB: bytes((8, 0, 0, 0, 0, 0, 24, 219))},
        {CURRENT_TCB: bytes((9, 0, 0, 0, 0, 0, 24, 218))},
        {LAUNCH_TCB: bytes((10, 0, 0, 0, 0, 0, 24, 219))},
        {COMMITTED: bytes((41, 55, 1))},
        {COMMITTED: bytes((0, 56, 1))},
    ],
)
def test_tcb_order(changes, refused):
    with refused("attest.snp-tcb-order", "5 tcb"):
        appraise(changes)


def test_minima(refused):
    appraise(rules=SnpRules(min_tcb={"Genoa": SnpTcb(bootloader=9, snp=24, microcode=219), "Milan": SnpTcb(tee=99)}))
    for low in (SnpTcb(bootloader=10), SnpTcb(tee=1), SnpTcb(snp=25), SnpTcb(microcode=220)):
        with refused("attest.snp-tcb-too-low", "5 tcb"):
            appraise(rules=SnpRules(min_tcb={"Genoa": low}))
    with refused("attest.snp-tcb-too-low", "5 tcb"):
        appraise(rules=SnpRules(min_tcb={"Turin": SnpTcb(fmc=2)}), product="Turin")
    appraise(rules=SnpRules(min_tcb={"Genoa": SnpTcb(fmc=2)}))  # no such component there
    for minima in ("min_tcb", "min_launch_tcb"):
        with refused("attest.snp-tcb-minimum-missing", "5 tcb"):
            appraise(rules=SnpRules(**{minima: {"Turin": SnpTcb(snp=2)}}))


def test_launch_minima(refused):
    old = {LAUNCH_TCB: bytes((1, 0, 0, 0, 0, 0, 24, 219))}
    appraise(old)
    with refused("attest.snp-launch-tcb-too-low", "5 tcb"):
        appraise(old, SnpRules(min_launch_tcb={"Genoa": SnpTcb(bootloader=2)}))


def test_firmware(refused):
    appraise(rules=SnpRules(min_firmware=(1, 55, 40), allow_provisional_firmware=False))
    for least in ((1, 55, 41), (1, 56, 0), (2, 0, 0)):
        with refused("attest.snp-firmware-too-old", "5 tcb"):
            appraise(rules=SnpRules(min_firmware=least))
    provisional = {CURRENT: bytes((41, 55, 1))}
    appraise(provisional)
    for changes in (provisional, {CURRENT_TCB: bytes((9, 0, 0, 0, 0, 0, 24, 220))}):
        with refused("attest.snp-firmware-provisional", "5 tcb"):
            appraise(changes, SnpRules(allow_provisional_firmware=False))


def test_policy_bits(refused):
    with refused("attest.snp-debug", "6 guest"):
        appraise(bits(POLICY, 19))
    with refused("attest.snp-migration-agent", "6 guest"):
        appraise(bits(POLICY, 18))
    assert appraise(bits(POLICY, 18, 19, 21), SnpRules(policy_forbidden=())).memory == "visible"
    assert appraise(bits(POLICY, 18, 21), SnpRules(policy_forbidden=())).memory == "encrypted"
    with refused("attest.snp-policy-forbidden", "6 guest"):
        appraise(bits(POLICY, 21), SnpRules(policy_forbidden=("cxl-allow",)))
    with refused("attest.snp-policy-missing", "6 guest"):
        appraise(bits(POLICY, 16), SnpRules(policy_required=("smt", "page-swap-disable")))
    appraise(bits(POLICY, 16, 25), SnpRules(policy_required=("smt", "page-swap-disable")))


def test_policy_abi(refused):
    appraise(rules=SnpRules(min_policy_abi=(0, 31)))
    for least in ((0, 32), (1, 0)):
        with refused("attest.snp-policy-abi-too-low", "6 guest"):
            appraise(rules=SnpRules(min_policy_abi=least))


def test_vmpl(refused):
    appraise({VMPL: b"\x03"})
    appraise({VMPL: b"\x01"}, SnpRules(max_vmpl=1))
    with refused("attest.snp-vmpl-too-high", "6 guest"):
        appraise({VMPL: b"\x02"}, SnpRules(max_vmpl=1))


def test_identities(refused):
    appraise(rules=SnpRules(min_guest_svn=7, family_id=b"family id 16 byt".hex(), host_data="22" * 32))
    for code, rules in (
        ("guest-svn-too-low", SnpRules(min_guest_svn=8)),
        ("family-id-mismatch", SnpRules(family_id="00" * 16)),
        ("image-id-mismatch", SnpRules(image_id="00" * 16)),
        ("host-data-mismatch", SnpRules(host_data="00" * 32)),
        ("id-key-not-allowed", SnpRules(id_key_digests=("00" * 48,))),
        ("author-key-not-allowed", SnpRules(author_key_digests=("00" * 48,))),
    ):
        with refused(f"attest.snp-{code}", "6 guest"):
            appraise(rules=rules)
    appraise(rules=SnpRules(id_key_digests=("00" * 48, "44" * 48), author_key_digests=("55" * 48,)))


def test_author_key_counts_only_when_enabled(refused):
    with refused("attest.snp-author-key-not-allowed", "6 guest"):
        appraise({KEY_INFO: bytes(4)}, SnpRules(author_key_digests=("55" * 48,)))


def test_products_and_keys(refused):
    with refused("attest.snp-product-not-allowed", "7 platform"):
        appraise(rules=SnpRules(products=("Milan", "Turin")))
    with refused("attest.snp-signing-key-not-allowed", "7 platform"):
        appraise(rules=SnpRules(signing_keys=("vcek",)), kind="vlek")
    with refused("attest.snp-csp-not-allowed", "7 platform"):
        appraise(rules=SnpRules(csp_ids=("CN=other.example",)), kind="vlek")
    appraise(rules=SnpRules(csp_ids=("CN=cloud.example",)), kind="vlek")
    appraise(rules=SnpRules(csp_ids=("CN=other.example",)))  # no VLEK at all


def test_cloud_by_another_name(refused):
    vek = amd().vek("vlek", changes={"5": text("CN=other.example")})
    with refused("attest.snp-csp-not-allowed", "7 platform"):
        appraise(rules=SnpRules(csp_ids=("CN=cloud.example",)), kind="vlek", vek=vek)


def test_masked_chip_key(refused):
    masked = {KEY_INFO: struct.pack("<I", 2)}
    with refused("attest.snp-chip-key-masked", "7 platform"):
        appraise(masked)
    appraise(masked, SnpRules(allow_masked_chip_key=True))


def test_denied_chips(refused):
    masked = {0x1A0: bytes(64)}
    denied, other = SnpRules(denied_chip_ids=(CHIP.hex(),)), SnpRules(denied_chip_ids=("ab" * 64,))
    appraise(rules=other)
    assert appraise(masked, other).platform == f"amd-chip:{CHIP.hex()}"  # the VCEK names it
    for changes, kind in (({}, "vcek"), (masked, "vcek"), ({}, "vlek")):
        with refused("attest.snp-chip-denied", "7 platform"):
            appraise(changes, denied, kind=kind)
    with refused("attest.snp-chip-unknown", "7 platform"):
        appraise(masked, other, kind="vlek")
    unknown = appraise(masked, kind="vlek")
    assert (unknown.facts["chip"], unknown.platform) == ("masked", "")
    with refused("attest.snp-chip-denied", "7 platform"):
        appraise({}, SnpRules(denied_chip_ids=(CHIP[:8].hex() + "00" * 56,)), product="Turin")


def test_platform_bits(refused):
    with refused("attest.snp-platform-missing", "7 platform"):
        appraise(bits(PLATFORM, 0), SnpRules(platform_required=("tsme",)))
    with refused("attest.snp-platform-forbidden", "7 platform"):
        appraise(bits(PLATFORM, 0), SnpRules(platform_forbidden=("smt",)))
    appraise(bits(PLATFORM), SnpRules(platform_forbidden=("smt",)))
    appraise(bits(PLATFORM, 5, 7), SnpRules(platform_required=("alias-check-complete", "tio")))


def test_unknown_platform_bits(refused):
    with refused("attest.snp-platform-info-unknown", "7 platform"):
        appraise(bits(PLATFORM, 0, 8))
    appraise(bits(PLATFORM, 0, 8, 63), SnpRules(allow_unknown_platform_bits=True))
    appraise(bits(PLATFORM, *range(8)))


def test_mitigations(refused):
    appraise(rules=SnpRules(launch_mitigations=5, current_mitigations=6), version=5)
    for rules in (SnpRules(launch_mitigations=2), SnpRules(current_mitigations=8)):
        with refused("attest.snp-mitigation-missing", "7 platform"):
            appraise(rules=rules, version=5)
    with refused("attest.snp-mitigation-missing", "7 platform"):
        appraise(rules=SnpRules(launch_mitigations=1), version=4)


def test_revocation_list_can_be_demanded(refused):
    appraise(crl=None)
    appraise(rules=SnpRules(crl_required=True))
    with refused("attest.snp-crl-missing", "2 endorsement"):
        appraise(rules=SnpRules(crl_required=True), crl=None)


def test_cache_does_not_skip_the_report(refused):
    cache, evidence = VerifiedCache(), amd().hardware()
    first = amd().appraise(evidence, cache=cache)
    assert amd().appraise(evidence, cache=cache) == first
    spoiled = evidence.quote[:0x90] + b"\0" + evidence.quote[0x91:]
    with refused("attest.snp-signature-invalid", "3 signature"):
        amd().appraise(amd().hardware(spoiled, **evidence.endorsements), cache=cache)
    with refused("attest.snp-crl-missing", "2 endorsement"):
        amd().appraise(amd().hardware(crl=None), SnpRules(crl_required=True), cache=cache)
    with refused("attest.snp-chain-expired", "2 endorsement"):
        amd().appraise(evidence, cache=cache, now=NOW + timedelta(days=366))


@pytest.mark.parametrize(
    "fields",
    [
        {"products": ("Rome",)},
        {"signing_keys": ("ark",)},
        {"min_tcb": {"Rome": SnpTcb()}},
        {"min_launch_tcb": {"": SnpTcb()}},
        {"policy_required": ("reserved",)},
        {"policy_forbidden": ("Debug",)},
        {"platform_required": ("tme",)},
        {"platform_forbidden": ("",)},
        {"family_id": "00"},
        {"image_id": "AB" * 16},
        {"host_data": ""},
        {"id_key_digests": ("any",)},
        {"author_key_digests": ("00" * 32,)},
        {"denied_chip_ids": ("00" * 8,)},
        {"min_firmware": (-1, 0, 0)},
        {"max_vmpl": -1},
        {"launch_mitigations": -1},
    ],
)
def test_malformed_rules(fields, refused):
    with refused("attest.policy-malformed"):
        SnpRules(**fields)


def test_malformed_tcb_rules():
    for level in (-1, 256):
        with pytest.raises(ParseError):
            SnpTcb(snp=level)


def test_genoa_has_the_lab_levels():
    assert appraise().facts["reported tcb"] == f"bootloader {GENOA[0]} tee 0 snp 24 microcode 219"
