"""Appraisal of Hygon CSV attestation reports.

The chain is HRK (Hygon's root key) → HSK → CEK (the chip) → PEK (the platform) → report, all SM2 with SM3. The steps
are numbered in `docs/spec/evidence-csv.md`.

Invariants:

- The root is Hygon's pinned key; HSK and CEK come along, the PEK is in the report.
- What is remembered between calls is the chain down to the PEK; the report's signature is verified every time.
- A version 1 report's mask is not signed: whoever compares neither report data nor a measurement knows little.

Example:
    >>> hardware = Hardware(tee="csv", quote=report, endorsements={"hsk_cek": hsk_cek})
    >>> machine = appraise(Checklist(), hardware, CsvRules(), now=datetime.now(UTC))
    >>> machine.measurements["measure"]
"""

from __future__ import annotations

import hashlib
from datetime import datetime

from mitai.attest.cache import BEGINNING, NO_END, Verified, VerifiedCache
from mitai.attest.checks import Checklist
from mitai.attest.csv.certificates import (
    CA_CERTIFICATE_BYTES,
    CEK,
    HSK,
    PEK,
    Issuer,
    parse_ca_certificate,
    parse_chip_certificate,
    verify_issued,
)
from mitai.attest.csv.report import Report, parse_report
from mitai.attest.csv.roots import HYGON_ROOT
from mitai.attest.csv.rules import CsvRules
from mitai.attest.fields import ANY
from mitai.attest.machine import Hardware, Machine
from mitai.errors import AttestError

ENDORSEMENT = "hsk_cek"  # as Hygon's server answers for a serial number: HSK and CEK, one behind the other


def appraise(
    checks: Checklist,
    hardware: Hardware,
    rules: CsvRules,
    *,
    now: datetime,
    cache: VerifiedCache | None = None,
    root: Issuer = HYGON_ROOT,
) -> Machine:
    """Verify a CSV report and appraise the guest.

    Args:
        checks: Where each step is noted.
        hardware: The report as `quote`, HSK and CEK as endorsement `hsk_cek`.
        rules: What is accepted.
        now: Time of the check, with a time zone.
        cache: Remembers verified chains.
        root: The root key that is trusted.

    Raises:
        AttestError: With the code and the step of the first check that failed.
    """
    with checks.step("report") as say:
        if hardware.event_log or hardware.collateral is not None or hardware.endorsements.keys() - {ENDORSEMENT}:
            raise AttestError("attest.csv-extra-input", f"only {ENDORSEMENT!r} is expected beside a CSV report")
        report = parse_report(hardware.quote)
        say("extended" if report.extended else "version 1")
    with checks.step("chain") as say:
        endorsement = hardware.endorsements.get(ENDORSEMENT)
        if endorsement is None:
            raise AttestError(
                "attest.csv-endorsement-missing",
                "the certificates of the chip's keys (HSK and CEK) did not come with the report",
                hint=f"send Hygon's answer for the chip's serial number along as endorsement {ENDORSEMENT!r}",
            )
        chip, platform = _verify_chain(endorsement, report.signer.pek, root, now, cache or VerifiedCache())
        if chip in rules.denied_chips:
            raise AttestError("attest.csv-chip-denied", "the policy denies this chip")
        say("HRK, HSK, CEK, PEK")
    with checks.step("signature") as say:
        signature = report.signature
        if not platform.key.signed(platform.user_id, report.message, signature.r, signature.s):
            raise AttestError("attest.csv-signature-invalid", "the report is not signed by the PEK in it")
        say("SM2 with SM3")
    with checks.step("guest") as say:
        _check_guest(report, rules)
        say(f"policy {', '.join(sorted(report.body.policy_bits))}")
    return Machine(
        tee="csv",
        title="Hygon CSV",
        measurements=_measurements(report),
        report_data=report.body.report_data,
        signed=report.signed,
        memory="encrypted" if "nodbg" in report.body.policy_bits else "visible",
        not_after=NO_END,  # Hygon's certificates have no window of validity
        checks=checks.passed,
        facts=_facts(report, chip),
        platform=f"hygon-chip:{chip}",
    )


def _verify_chain(
    endorsement: bytes, pek: bytes, root: Issuer, now: datetime, cache: VerifiedCache
) -> tuple[str, Issuer]:
    """Return the chip's name, SHA-256 of what is signed in its CEK's certificate, and the verified PEK."""

    def verify() -> Verified[tuple[str, Issuer]]:
        hsk = parse_ca_certificate(endorsement[:CA_CERTIFICATE_BYTES], "HSK")
        cek = parse_chip_certificate(endorsement[CA_CERTIFICATE_BYTES:], "CEK")
        platform = parse_chip_certificate(pek, "PEK")
        issuer = root
        for certificate, usage in ((hsk, HSK), (cek, CEK), (platform, PEK)):
            if certificate.subject.usage != usage:
                raise AttestError("attest.csv-chain-invalid", f"a {certificate.subject.name} is where another belongs")
            verify_issued(certificate, issuer)
            issuer = certificate.subject
        return Verified((hashlib.sha256(cek.signed).hexdigest(), issuer), BEGINNING, NO_END)

    return cache.get("csv chain", (repr(root).encode(), endorsement, pek), now, verify).value


def _check_guest(report: Report, rules: CsvRules) -> None:
    body = report.body
    if "nodbg" in rules.policy_required and "nodbg" not in body.policy_bits:
        raise AttestError("attest.csv-debug", "the guest may be debugged: its host can read its memory")
    missing = {*rules.policy_required} - body.policy_bits
    if missing:
        raise AttestError("attest.csv-policy-missing", f"the guest policy lacks {', '.join(sorted(missing))}")
    excess = {*rules.policy_forbidden} & body.policy_bits
    if excess:
        raise AttestError("attest.csv-policy-not-allowed", f"the guest policy has {', '.join(sorted(excess))}")
    if rules.require_extended and not report.extended:
        raise AttestError("attest.csv-version-refused", "the report is of version 1, the policy demands a later one")
    if report.build < rules.min_build:
        raise AttestError("attest.csv-build-too-low", f"firmware build {report.build} is below the policy's minimum")
    if rules.measure and body.measure.hex() not in rules.measure:
        raise AttestError("attest.csv-measure-mismatch", f"the guest was measured as {body.measure.hex()}")
    if rules.user_pubkey_digest not in {ANY, body.user_pubkey_digest.hex()}:
        raise AttestError("attest.csv-owner-mismatch", "the guest was launched for another owner's key")
    if rules.vm_id not in {ANY, body.vm_id.hex()}:
        raise AttestError("attest.csv-vm-id-mismatch", "the guest has another VM id than the policy demands")


def _measurements(report: Report) -> dict[str, str]:
    names = ("measure", "user_pubkey_digest", "vm_id", "vm_version")
    registers = {name: getattr(report.body, name).hex() for name in names}
    registers |= {f"rtmr{number}": value.hex() for number, value in enumerate(report.rtmrs)}
    return registers | ({"host_data": report.host_data.hex()} if report.extended else {})


def _facts(report: Report, chip: str) -> dict[str, str]:
    facts = {
        "guest policy": f"{report.body.policy:#010x} ({', '.join(sorted(report.body.policy_bits))})",
        "chip": chip,
        "serial number (not signed)": report.signer.serial_number,
        "nonce": report.body.mnonce.hex(),
    }
    return facts | ({"firmware build": str(report.build)} if report.extended else {})
