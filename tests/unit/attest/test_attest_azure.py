"""Azure's paravisor: what ties its TPM to the processor, and every refusal."""

from __future__ import annotations

import hashlib
import json
import struct

import pytest

from attest_collect_lab import tdreport
from attest_lab import NOW, WORKLOAD, flip, replace
from attest_snp_lab import amd
from attest_tpm_lab import REPORT_DATA, LabPolicy, SoftTpm, claims, ec_key, hcl_report, lax, rsa_key
from mitai.attest import sim
from mitai.attest.azure import AzureRules, appraise, parse_hcl_report
from mitai.attest.azure.hcl import check_td_report
from mitai.attest.azure.rules import MICROSOFT_ID_KEYS
from mitai.attest.cache import VerifiedCache
from mitai.attest.checks import Checklist
from mitai.attest.dcap.quote import EnclaveReport
from mitai.attest.dcap.rules import TcbRules
from mitai.attest.eventlog import EventLogRules
from mitai.attest.machine import Hardware
from mitai.attest.sim import intel
from mitai.attest.tpm import TpmEvidence
from mitai.errors import ParseError

ID_KEY = bytes.fromhex(MICROSOFT_ID_KEYS[0])
FAR_FIELDS = {0xE0: ID_KEY}


def snp_hardware(tpm: SoftTpm, runtime: bytes, *, changes=None, hcl=None, evidence=None, **endorsements) -> Hardware:
    """Return evidence of a confidential VM on SEV-SNP."""
    covered = {0x50: hashlib.sha256(runtime).digest() + bytes(32), **FAR_FIELDS, **(changes or {})}
    report = hcl_report(amd().report(covered), runtime, **(hcl or {}))
    fields = {"hcl_report": report, "ak_public": b"", **(evidence or {})}
    given = {"vek": amd().vek(), "chain": amd().chain(), **endorsements}
    return Hardware(tee="az-snp-vtpm", quote=tpm.evidence(**fields).encode(), endorsements=given)


def on_snp(hardware: Hardware, policy: LabPolicy | None = None):
    return appraise(Checklist(), hardware, policy or LabPolicy(), now=NOW, snp_trust=amd().trust)


def test_snp():
    tpm = SoftTpm()
    tpm.extend(7, b"secure boot policy")
    machine = on_snp(snp_hardware(tpm, claims(tpm)))
    assert machine.tee == "az-snp-vtpm"
    assert machine.platform == ""  # no fresh word of the hardware says which it is
    assert machine.report_data == REPORT_DATA
    assert machine.measurements["snp.measurement"] == "11" * 48
    assert machine.measurements["pcr7"] == tpm.values()[7].hex()
    assert machine.facts["console"] == "enabled"
    assert machine.facts["tpm persisted"] == "not said"
    assert [step.split(" ", 1)[1] for step, _ in machine.checks] == [
        "evidence",
        "paravisor's report",
        "report",
        "endorsement",
        "signature",
        "binding",
        "tcb",
        "guest",
        "platform",
        "paravisor",
        "tpm signature",
        "registers",
        "event log",
        "configuration",
    ]


def test_with_the_public_area_beside(refused):
    tpm, other = SoftTpm(), SoftTpm(rsa_key(2048, 3))
    assert on_snp(snp_hardware(tpm, claims(tpm), evidence={"ak_public": tpm.public()})).tee == "az-snp-vtpm"
    with refused("attest.tpm-key-mismatch", "10 paravisor"):
        on_snp(snp_hardware(tpm, claims(tpm), evidence={"ak_public": other.public()}))
    with refused("attest.tpm-name-mismatch", "10 paravisor"):  # another key by its attributes
        on_snp(
            snp_hardware(tpm, claims(tpm), evidence={"ak_public": tpm.public(attributes=struct.pack(">I", 0x50472))})
        )


def test_a_key_that_the_hardware_does_not_cover(refused):
    tpm, other = SoftTpm(), SoftTpm(rsa_key(2048, 3))
    genuine = claims(other)
    with refused("attest.azure-claims-unbound", "10 paravisor"):
        on_snp(snp_hardware(tpm, claims(tpm), changes={0x50: hashlib.sha256(genuine).digest() + bytes(32)}))
    with refused("attest.azure-claims-unbound"):
        on_snp(snp_hardware(tpm, claims(tpm), changes={0x50: hashlib.sha256(claims(tpm)).digest() + bytes(31) + b"\1"}))
    with refused("attest.tpm-signature-invalid", "11 tpm signature"):
        on_snp(snp_hardware(tpm, genuine))


def test_a_paravisor_of_somebody_else(refused):
    tpm = SoftTpm()
    mine = snp_hardware(tpm, claims(tpm), changes={0xE0: b"\x44" * 48})
    with refused("attest.azure-paravisor-unknown", "10 paravisor"):
        on_snp(mine)
    assert on_snp(mine, LabPolicy(azure=AzureRules(id_key_digests=("44" * 48,)))).measurements
    assert on_snp(mine, LabPolicy(azure=AzureRules(id_key_digests=("any",)))).measurements
    assert on_snp(snp_hardware(tpm, claims(tpm), changes={0xE0: bytes.fromhex(MICROSOFT_ID_KEYS[1])})).measurements


def test_a_report_that_the_guest_asked_for(refused):
    tpm = SoftTpm()
    with refused("attest.azure-vmpl-refused", "10 paravisor"):
        on_snp(snp_hardware(tpm, claims(tpm), changes={0x30: struct.pack("<I", 2)}))


def test_the_hardware_is_appraised(refused):
    tpm = SoftTpm()
    with refused("attest.snp-debug", "8 guest"):
        on_snp(snp_hardware(tpm, claims(tpm), changes={8: struct.pack("<Q", 0xB001F)}))


@pytest.mark.parametrize(
    ("hcl", "code"),
    [
        ({"signature": b"HCLB"}, "attest.azure-hcl-version-unsupported"),
        ({"version": struct.pack("<I", 3)}, "attest.azure-hcl-version-unsupported"),
        ({"request": struct.pack("<I", 1)}, "attest.azure-hcl-version-unsupported"),
        ({"reserved": bytes(15) + b"\1"}, "attest.azure-hcl-malformed"),
        ({"size": struct.pack("<I", 2600)}, "attest.azure-hcl-malformed"),
        ({"end": b"\1"}, "attest.azure-hcl-malformed"),
        ({"end": bytes(40000)}, "attest.azure-hcl-malformed"),
        ({"head": struct.pack("<IIIII", 20, 2, 2, 1, 0)}, "attest.azure-hcl-version-unsupported"),
        ({"head": struct.pack("<IIIII", 20, 1, 3, 1, 0)}, "attest.azure-hcl-version-unsupported"),
        ({"head": struct.pack("<IIIII", 20, 1, 2, 2, 0)}, "attest.azure-hcl-version-unsupported"),
        ({"head": struct.pack("<IIIII", 20, 1, 2, 1, 1 << 31)}, "attest.azure-hcl-malformed"),
        ({"head": struct.pack("<IIIII", 21, 1, 2, 1, 0), "runtime": b""}, "attest.azure-hcl-malformed"),
        (
            {"head": struct.pack("<IIIII", 20, 1, 4, 1, 0), "runtime": b"", "size": struct.pack("<I", 1236)},
            "attest.tee-mismatch",
        ),
    ],
)
def test_malformed_reports(refused, hcl, code):
    tpm = SoftTpm()
    with refused(code, "2 paravisor's report"):
        on_snp(snp_hardware(tpm, claims(tpm), hcl=hcl))


def test_truncated_report():
    tpm = SoftTpm()
    report = hcl_report(amd().report(), claims(tpm))
    used = struct.unpack("<I", report[8:12])[0]
    assert parse_hcl_report(report[:used]).tee == "snp"
    for size in (0, 10, 1215, 1220, used - 1):
        with pytest.raises(ParseError):
            parse_hcl_report(report[:size])


def keys(*entries: dict) -> list[dict]:
    genuine = json.loads(claims(SoftTpm()))["keys"][0]
    return [{**genuine, **entry} for entry in entries]


@pytest.mark.parametrize(
    "runtime",
    [
        b"",
        b"[]",
        b"{}",
        b"[" * 3000,
        claims(SoftTpm(), keys=[]),
        claims(SoftTpm(), keys=keys({"kid": "HCLEkPub"})),
        claims(SoftTpm(), keys=keys({}, {})),
        claims(SoftTpm(), keys=keys({"kty": "EC"})),
        claims(SoftTpm(), keys=keys({"e": "Aw"})),
        claims(SoftTpm(), keys=keys({"n": "AQAB"})),
        claims(SoftTpm(), keys=keys({"n": "!"})),
        claims(SoftTpm(), keys=keys({"n": "\u00e9" * 4})),
    ],
)
def test_malformed_claims(refused, runtime):
    with refused("attest.azure-claims-malformed", "10 paravisor"):
        on_snp(snp_hardware(SoftTpm(), runtime))


def test_claims_of_a_newer_paravisor():
    tpm = SoftTpm()
    machine = on_snp(snp_hardware(tpm, claims(tpm, **{"tpm-persisted": True, "something-new": [1]})))
    assert machine.facts["tpm persisted"] == "yes"


@pytest.mark.parametrize(
    ("vm", "rules", "code"),
    [
        ({"tpm-enabled": False}, {}, "attest.azure-tpm-disabled"),
        ({"secure-boot": False}, {}, "attest.azure-secure-boot-off"),
        ({"console-enabled": True}, {"allow_console": False}, "attest.azure-console-enabled"),
        ({}, {"vm_ids": ("00000000-0000-0000-0000-000000000000",)}, "attest.azure-vm-refused"),
        ({}, {"user_data": "11" * 64}, "attest.azure-user-data-mismatch"),
        ({}, {"bind_user_data": True}, "attest.azure-user-data-unbound"),
    ],
)
def test_configuration(refused, vm, rules, code):
    tpm = SoftTpm()
    with refused(code, "14 configuration"):
        on_snp(snp_hardware(tpm, claims(tpm, **vm)), LabPolicy(azure=AzureRules(**rules)))


def test_configurations_that_rules_accept():
    tpm = SoftTpm()
    runtime = claims(tpm, user_data=REPORT_DATA, **{"secure-boot": False, "console-enabled": False})
    rules = AzureRules(
        allow_insecure_boot=True,
        allow_console=False,
        vm_ids=("390cbcf5-6c67-4d9b-98ef-c3f1699cc8fc",),
        user_data=REPORT_DATA.hex(),
        bind_user_data=True,
    )
    machine = on_snp(snp_hardware(tpm, runtime), LabPolicy(azure=rules))
    assert machine.facts["console"] == "disabled"
    assert machine.facts["secure boot configured"] == "no"


def tdx_hardware(lab, tpm: SoftTpm, runtime: bytes, *, report_data: bytes | None = None, td_report=b"") -> Hardware:
    """Return evidence of a confidential VM on TDX, by the simulated platform."""
    covered = hashlib.sha256(runtime).digest() + bytes(32) if report_data is None else report_data
    body = intel.td_report(sim.measure.registers(WORKLOAD), covered)
    evidence = tpm.evidence(
        hcl_report=hcl_report(td_report or tdreport(covered), runtime, kind=4),
        hardware_quote=lab.platform.quote(body),
        ak_public=b"",
    )
    return Hardware(tee="az-tdx-vtpm", quote=evidence.encode(), collateral=lab.platform.collateral())


def test_tdx(lab, refused):
    tpm = SoftTpm()
    mrtd = sim.measure.registers(WORKLOAD)[0].hex()
    trusting = {"allow_simulation": True, "sim_roots": lab.policy.sim_roots}
    policy = lax(azure=AzureRules(mrtds=(mrtd,)), **trusting)
    machine = appraise(Checklist(), tdx_hardware(lab, tpm, claims(tpm)), policy, now=NOW)
    assert machine.simulated
    assert machine.title == "Azure vTPM on Intel TDX"
    assert machine.platform == ""  # no fresh word of the hardware says which it is
    assert machine.measurements["tdx.mrtd"] == mrtd
    assert machine.tcb_status == "UpToDate"
    with refused("attest.azure-paravisor-unknown"):
        appraise(Checklist(), tdx_hardware(lab, tpm, claims(tpm)), lax(**trusting), now=NOW)
    with refused("attest.event-log-missing", "15 event log"):  # the TPM's, not the TD's
        demanding = replace(policy, event_log=EventLogRules(required=True))
        appraise(Checklist(), tdx_hardware(lab, tpm, claims(tpm)), demanding, now=NOW)
    with refused("attest.azure-claims-unbound"):
        appraise(Checklist(), tdx_hardware(lab, tpm, claims(tpm), report_data=bytes(64)), policy, now=NOW)
    with refused("attest.simulation-refused", "4 root"):
        appraise(Checklist(), tdx_hardware(lab, tpm, claims(tpm)), replace(policy, allow_simulation=False), now=NOW)
    with refused("attest.tcb-evaluation-number-too-low"):
        strict = replace(policy, tcb=TcbRules(min_evaluation_number=10**6))
        appraise(Checklist(), tdx_hardware(lab, tpm, claims(tpm)), strict, now=NOW)


def test_a_td_report_of_another_td(lab, refused):
    """Every byte but CPUSVN, the version and the MAC, which only the machine itself can check."""
    tpm, trusting = SoftTpm(), {"allow_simulation": True, "sim_roots": lab.policy.sim_roots}
    policy, runtime, cache = lax(azure=AzureRules(mrtds=("any",)), **trusting), claims(SoftTpm()), VerifiedCache()
    genuine = tdreport(hashlib.sha256(runtime).digest() + bytes(32)).ljust(1184, b"\0")
    unchecked = {2, *range(16, 32), *range(224, 256)}
    for offset in sorted({*range(0, 1184, 13), 0, 1, 3, 495, 511, 1023, 1024, 1183}):
        evidence = tdx_hardware(lab, tpm, runtime, td_report=flip(genuine, offset))
        if offset in unchecked:
            appraise(Checklist(), evidence, policy, now=NOW, cache=cache)
            continue
        with refused("attest.azure-td-report-mismatch"):
            appraise(Checklist(), evidence, policy, now=NOW, cache=cache)


def test_a_quote_of_an_enclave_is_of_no_td(lab, refused):
    attributes = bytes.fromhex("0500000000000000e700000000000000")
    enclave = EnclaveReport(bytes(16), bytes(4), attributes, bytes(32), bytes(32), 0, 0, bytes(64))
    with refused("attest.azure-td-report-mismatch"):
        check_td_report(parse_hcl_report(hcl_report(b"", b"{}", kind=4)), lab.platform.quote(enclave, version=3))


def test_one_tee_is_not_the_other(lab, refused):
    tpm = SoftTpm()
    td = tdx_hardware(lab, tpm, claims(tpm))
    with refused("attest.tpm-extra-input"):
        appraise(Checklist(), Hardware(tee="az-snp-vtpm", quote=td.quote), LabPolicy(), now=NOW)
    with refused("attest.tee-mismatch"):
        appraise(Checklist(), Hardware(tee="tpm", quote=td.quote), LabPolicy(), now=NOW)


def test_a_key_on_a_curve_is_none_of_a_paravisors(refused):
    curve, tpm = SoftTpm(ec_key()), SoftTpm()
    with refused("attest.tpm-signature-invalid"):
        on_snp(snp_hardware(curve, claims(tpm)))


@pytest.mark.parametrize(
    "rules", [{"id_key_digests": ("00",)}, {"mrtds": ("x",)}, {"user_data": "00"}, {"vm_ids": ("machine",)}]
)
def test_malformed_rules(refused, rules):
    with refused("attest.policy-malformed"):
        AzureRules(**rules)


def test_parts_that_are_of_no_use(refused, lab):
    tpm = SoftTpm()
    for more in ({"hardware_quote": b"x"}, {"ak_spki": b"x"}):
        with refused("attest.tpm-extra-input", "1 evidence"):
            on_snp(snp_hardware(tpm, claims(tpm), evidence=more))
    with refused("attest.tpm-extra-input", "1 evidence"):
        on_snp(replace(snp_hardware(tpm, claims(tpm)), collateral=lab.platform.collateral()))
    with refused("attest.tpm-extra-input", "1 evidence"):
        td = replace(tdx_hardware(lab, tpm, claims(tpm)), endorsements={"vek": b"x"})
        appraise(Checklist(), td, LabPolicy(), now=NOW)


def test_no_report(refused):
    with refused("attest.azure-hcl-malformed"):
        hardware = Hardware(tee="az-snp-vtpm", quote=TpmEvidence.encode(SoftTpm().evidence()))
        appraise(Checklist(), hardware, LabPolicy(), now=NOW)
