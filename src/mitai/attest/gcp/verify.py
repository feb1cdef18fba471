"""Google Compute Engine: a vTPM whose attestation key Google certifies, and the processor's own report beside it.

Follows Google's "Remote attestation of disaggregated machines" and "Shielded VM: virtual trusted platform module". The
vTPM runs in Google's hypervisor, outside of the confidential VM: its registers are Google's word about what booted.

Invariants:

- The certificate chain ends in one of Google's pinned roots and names a machine in production.
- A report of the hardware beside the quote covers the same bytes of the caller's. That both are of one machine is not
  proven by that: pin the instance, or the measurements, where it matters.

Steps: evidence → attestation key → those of the hardware's verifier → binding → TPM signature → registers → event log →
IMA.
"""

from __future__ import annotations

import hmac
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

from cryptography import x509
from cryptography.hazmat import asn1

from mitai.attest import snp
from mitai.attest.cache import VerifiedCache
from mitai.attest.checks import Checklist
from mitai.attest.gcp.rules import GcpRules
from mitai.attest.machine import Hardware, Machine
from mitai.attest.snp.report import REPORT_BYTES
from mitai.attest.tpm.composite import TpmEvidence
from mitai.attest.tpm.processor import appraise_processor
from mitai.attest.tpm.verify import appraise_quote, check_same_key, open_evidence, prefixed, verify_ak_chain
from mitai.attest.x509 import Certificate
from mitai.errors import AttestError, ParseError

if TYPE_CHECKING:
    from mitai.attest.policy import Policy

INSTANCE_OID = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.1.21")


@asn1.sequence
class SecurityProperties:
    """What Google says about how the machine is run; later fields are not used."""

    version: Annotated[int | None, asn1.Explicit(0)]
    production: Annotated[bool | None, asn1.Explicit(1)]
    field_2: Annotated[bool | None, asn1.Explicit(2)]
    field_3: Annotated[bool | None, asn1.Explicit(3)]
    field_4: Annotated[bool | None, asn1.Explicit(4)]
    field_5: Annotated[bool | None, asn1.Explicit(5)]


@asn1.sequence
class Instance:
    """Which virtual machine an attestation key is of (GceInstanceInfo)."""

    zone: str
    project_number: int
    project: str
    instance_id: int
    name: str
    security: Annotated[SecurityProperties | None, asn1.Explicit(0)]


def appraise(
    checks: Checklist,
    hardware: Hardware,
    policy: Policy,
    *,
    now: datetime,
    cache: VerifiedCache | None = None,
    snp_trust: snp.Trust | None = None,
) -> Machine:
    """Verify the evidence of a Compute Engine VM.

    Endorsements: `ak_chain` (PEM: the key's certificate first, Google's root last), and those of the SNP verifier.

    `snp_trust` stands in for AMD's roots in tests.

    Raises:
        AttestError: With the code and the step of the first check that failed.
    """
    rules = policy.gcp
    evidence, quote = open_evidence(checks, hardware, "hcl_report", "ak_spki")
    with checks.step("attestation key") as say:
        chain = hardware.endorsements.get("ak_chain", b"")
        if not chain:
            raise AttestError("attest.tpm-key-missing", "no certificate of the attestation key came with the evidence")
        certificate, not_after = verify_ak_chain(chain, rules.roots, now, cache)
        check_same_key(evidence, certificate.key, quote)
        instance = parse_instance(certificate)
        _check_instance(instance, rules)
        say(f"of instance {instance.instance_id} in {instance.zone}, project {instance.project}")
    nested = _appraise_hardware(checks, evidence, hardware, policy, now=now, cache=cache, snp_trust=snp_trust)
    quoted = appraise_quote(checks, evidence, quote, certificate.key, policy, event_log=hardware.event_log)
    if nested is not None:
        with checks.step("binding") as say:
            if not hmac.compare_digest(nested.report_data, quoted.report_data.ljust(64, b"\0")):
                raise AttestError(
                    "attest.gcp-hardware-unbound", "the hardware's report covers other bytes than the quote"
                )
            say("hardware and TPM cover the same bytes")
    return Machine(
        tee="gcp-vtpm",
        title="Google Compute Engine vTPM" + (f" beside {nested.title}" if nested else ""),
        simulated=nested.simulated if nested else False,
        memory="visible" if nested and nested.memory == "visible" else "isolated",  # the binding is not to one machine
        measurements=quoted.measurements | (prefixed(nested.measurements, nested.tee) if nested else {}),
        report_data=quoted.report_data,
        signed=quote.signed,
        tcb_status=nested.tcb_status if nested else "",
        advisory_ids=nested.advisory_ids if nested else (),
        tcb_evaluation_number=nested.tcb_evaluation_number if nested else 0,
        facts={
            **(nested.facts if nested else {}),
            **quoted.facts,
            "instance": f"{instance.name} ({instance.instance_id})",
            "zone": instance.zone,
            "project": f"{instance.project} ({instance.project_number})",
        },
        not_after=min(not_after, nested.not_after) if nested else not_after,
        checks=checks.passed,
    )


def parse_instance(certificate: Certificate) -> Instance:
    """Read which machine an attestation key is of; raise `ParseError` on anything malformed."""
    code = "attest.gcp-instance-malformed"
    try:
        extension = certificate.parsed.extensions.get_extension_for_oid(INSTANCE_OID).value
        return asn1.decode_der(Instance, extension.value if isinstance(extension, x509.UnrecognizedExtension) else b"")
    except (x509.ExtensionNotFound, ValueError) as error:
        raise ParseError(code, "the attestation key's certificate does not name a Compute Engine instance") from error


def _check_instance(instance: Instance, rules: GcpRules) -> None:
    if instance.security is None or instance.security.production is not True:
        raise AttestError("attest.gcp-not-production", "Google does not run this machine in production")
    for name, found, allowed in (
        ("project", instance.project, rules.projects),
        ("zone", instance.zone, rules.zones),
        ("instance", str(instance.instance_id), rules.instance_ids),
    ):
        if allowed and found not in allowed:
            raise AttestError(f"attest.gcp-{name}-refused", f"the policy does not list the {name} {found[:100]!r}")


def _appraise_hardware(
    checks: Checklist,
    evidence: TpmEvidence,
    hardware: Hardware,
    policy: Policy,
    *,
    now: datetime,
    cache: VerifiedCache | None,
    snp_trust: snp.Trust | None,
) -> Machine | None:
    if not evidence.hardware_quote and not policy.gcp.hardware:
        return None
    tee = "snp" if len(evidence.hardware_quote) == REPORT_BYTES else "tdx"
    if not evidence.hardware_quote or tee not in policy.gcp.hardware:
        raise AttestError("attest.gcp-hardware-missing", "no report of a processor that the policy accepts came along")
    amd = {name: value for name, value in hardware.endorsements.items() if name != "ak_chain"}
    nested = Hardware(tee=tee, quote=evidence.hardware_quote, endorsements=amd, collateral=hardware.collateral)
    return appraise_processor(checks, nested, policy, now=now, cache=cache, snp_trust=snp_trust)
