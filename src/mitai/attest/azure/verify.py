"""Azure confidential VMs: a vTPM in a paravisor that the processor measured.

Follows "Azure confidential VMs: guest attestation design". Below the guest runs Microsoft's paravisor (at VMPL 0 on
SEV-SNP, as the outer part of a TD on TDX). It holds the vTPM and asks the hardware for a report over its claims, and
those name the vTPM's attestation key. What the guest booted is in the TPM's registers.

Invariants:

- The attestation key is taken only from claims whose hash the hardware signed.
- The hardware's report vouches for the paravisor that the policy knows: by who signed its ID block, or by MRTD. Any
  other program in a confidential VM can say what it likes about a TPM of its own.
- The quote answers the caller; the hardware's report is as old as the last start, unless user data binds it too.

Steps: evidence → paravisor's report → those of the hardware's verifier → paravisor → TPM signature → registers → event
log → IMA → configuration.
"""

from __future__ import annotations

import hmac
from datetime import datetime
from typing import TYPE_CHECKING

from mitai.attest import snp
from mitai.attest.azure.hcl import (
    HclReport,
    RuntimeClaims,
    attestation_key,
    check_td_report,
    parse_claims,
    parse_hcl_report,
)
from mitai.attest.azure.rules import AzureRules
from mitai.attest.cache import VerifiedCache
from mitai.attest.checks import Checklist
from mitai.attest.fields import ANY
from mitai.attest.machine import Hardware, Machine
from mitai.attest.tpm.processor import appraise_processor
from mitai.attest.tpm.verify import appraise_quote, check_same_key, open_evidence, prefixed
from mitai.errors import AttestError

if TYPE_CHECKING:
    from mitai.attest.policy import Policy

TEES = {"az-snp-vtpm": "snp", "az-tdx-vtpm": "tdx"}


def appraise(
    checks: Checklist,
    hardware: Hardware,
    policy: Policy,
    *,
    now: datetime,
    cache: VerifiedCache | None = None,
    snp_trust: snp.Trust | None = None,
) -> Machine:
    """Verify the evidence of an Azure confidential VM.

    Endorsements are those of the SNP verifier (`vek`, `chain`, `crl`); `hardware.collateral` is Intel's.

    `snp_trust` stands in for AMD's roots in tests.

    Raises:
        AttestError: With the code and the step of the first check that failed.
    """
    unused = ("hardware_quote", "collateral") if hardware.tee == "az-snp-vtpm" else ("endorsements",)
    evidence, quote = open_evidence(checks, hardware, "ak_spki", *unused)
    with checks.step("paravisor's report") as say:
        report = parse_hcl_report(evidence.hcl_report)
        if TEES.get(hardware.tee) != report.tee:
            raise AttestError("attest.tee-mismatch", f"the report is of {report.tee}, not of {hardware.tee[:32]!r}")
        say(f"on {report.tee.upper()}")
    processor = (
        Hardware(tee="snp", quote=report.hardware_report, endorsements=hardware.endorsements)
        if report.tee == "snp"
        else Hardware(tee="tdx", quote=evidence.hardware_quote, collateral=hardware.collateral)
    )
    nested = appraise_processor(checks, processor, policy, now=now, cache=cache, snp_trust=snp_trust)
    with checks.step("paravisor") as say:
        _check_paravisor(report, nested, policy.azure)
        if not hmac.compare_digest(nested.report_data, report.report_data):
            raise AttestError("attest.azure-claims-unbound", "the hardware does not vouch for the paravisor's claims")
        if report.tee == "tdx":
            check_td_report(report, evidence.hardware_quote)
        claims = parse_claims(report.claims)
        key = attestation_key(claims)
        check_same_key(evidence, key, quote)
        say("the hardware covers the claims, which name the attestation key")
    quoted = appraise_quote(checks, evidence, quote, key, policy, event_log=hardware.event_log)
    with checks.step("configuration") as say:
        _check_configuration(claims, quoted.report_data, policy.azure)
        say("secure boot" if claims.vm_configuration.secure_boot else "no secure boot")
    return Machine(
        tee=hardware.tee,
        title=f"Azure vTPM on {nested.title}",
        simulated=nested.simulated,
        memory=nested.memory,
        measurements=quoted.measurements | prefixed(nested.measurements, report.tee),
        report_data=quoted.report_data,
        signed=quote.signed,
        tcb_status=nested.tcb_status,
        advisory_ids=nested.advisory_ids,
        tcb_evaluation_number=nested.tcb_evaluation_number,
        facts={**nested.facts, **quoted.facts, **_facts(claims)},
        not_after=nested.not_after,
        checks=checks.passed,
    )


def _check_paravisor(report: HclReport, nested: Machine, rules: AzureRules) -> None:
    if report.tee == "snp":
        if snp.parse_report(report.hardware_report).vmpl != 0:
            raise AttestError("attest.azure-vmpl-refused", "the report was not requested by the paravisor, at VMPL 0")
        allowed, found = rules.id_key_digests, nested.measurements["id_key_digest"]
    else:
        allowed, found = rules.mrtds, nested.measurements["mrtd"]
    if found not in allowed and ANY not in allowed:
        raise AttestError(
            "attest.azure-paravisor-unknown",
            f"the policy does not know this paravisor ({'ID key' if report.tee == 'snp' else 'MRTD'} {found})",
            hint="only a paravisor that is known can vouch for a TPM: name it in the policy's section azure",
        )


def _check_configuration(claims: RuntimeClaims, report_data: bytes, rules: AzureRules) -> None:
    vm = claims.vm_configuration
    user_data = claims.user_data.lower()
    if not vm.tpm_enabled:
        raise AttestError("attest.azure-tpm-disabled", "the virtual machine was configured without a TPM")
    if not vm.secure_boot and not rules.allow_insecure_boot:
        raise AttestError("attest.azure-secure-boot-off", "the virtual machine was configured without secure boot")
    if vm.console_enabled and not rules.allow_console:
        raise AttestError("attest.azure-console-enabled", "the virtual machine was configured with a console")
    if rules.vm_ids and vm.vm_unique_id.lower() not in {vm_id.lower() for vm_id in rules.vm_ids}:
        raise AttestError("attest.azure-vm-refused", "the policy does not list this virtual machine")
    if rules.user_data not in {ANY, user_data}:
        raise AttestError("attest.azure-user-data-mismatch", "the user data is not what the policy demands")
    if rules.bind_user_data and user_data != report_data.ljust(64, b"\0").hex():
        raise AttestError("attest.azure-user-data-unbound", "the hardware's report does not cover the report data")


def _facts(claims: RuntimeClaims) -> dict[str, str]:
    vm = claims.vm_configuration
    return {
        "vm id": "".join(letter for letter in vm.vm_unique_id[:64] if letter.isprintable()),
        "secure boot configured": "yes" if vm.secure_boot else "no",
        "console": "enabled" if vm.console_enabled else "disabled",
        "tpm persisted": {None: "not said", True: "yes", False: "no"}[vm.tpm_persisted],
    }
