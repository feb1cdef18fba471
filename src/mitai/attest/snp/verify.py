"""The verifier of AMD SEV-SNP reports.

Follows RFC 9334 and "SEV Secure Nested Paging Firmware ABI Specification" (56860), section 7.3. The page for people is
`docs/spec/evidence-snp.md`.

Invariants:

- No input, no clock and no trust anchor but those given and AMD's pinned roots.
- A numbered checklist: what a field says is used only after the signature above it was verified.

Example:
    >>> hardware = Hardware(tee="snp", quote=report, endorsements={"vek": der})
    >>> machine = appraise(Checklist(), hardware, SnpRules(), now=datetime.now(UTC))
    >>> machine.measurements["measurement"]
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from itertools import pairwise

import msgspec

from mitai.attest.cache import VerifiedCache
from mitai.attest.checks import Checklist
from mitai.attest.fields import ANY
from mitai.attest.machine import Hardware, Machine
from mitai.attest.snp.report import PLATFORM_BITS, Report, parse_report, tcb_components
from mitai.attest.snp.roots import Trust
from mitai.attest.snp.rules import CHIP_ID_BYTES, SnpRules, SnpTcb
from mitai.attest.snp.vek import Vek, verify_endorsements
from mitai.attest.x509 import verify_signature
from mitai.errors import AttestError


def appraise(
    checks: Checklist,
    hardware: Hardware,
    rules: SnpRules,
    *,
    now: datetime,
    cache: VerifiedCache | None = None,
    trust: Trust | None = None,
) -> Machine:
    """Verify an SEV-SNP report.

    1. report: parses, to the last reserved bit; signed by a VCEK or VLEK, requested by the guest.
    2. endorsement: the key's certificate leads to AMD's root; nobody revoked the signing key above it.
    3. signature: the key signed the report.
    4. binding: product, TCB and chip in the certificate are those in the report.
    5. tcb: in order (reported ≤ committed ≤ current), and not below the minima.
    6. guest: policy, privilege level, identities.
    7. platform: features and processor as demanded.

    Args:
        checks: Where the steps are noted.
        hardware: The report (`quote`, 1184 bytes) and its endorsements: `vek`, `chain`, `crl` or `certs`.
        rules: What is accepted.
        now: Time of the check, with a time zone.
        cache: Remembers verified certificates and revocation lists between calls.
        trust: Which roots are trusted, where not AMD's: for tests.

    Raises:
        AttestError: With the code and the step of the first check that failed.
    """
    with checks.step("report") as say:
        if hardware.event_log or hardware.collateral is not None:
            raise AttestError("attest.snp-extra-input", "an SEV-SNP report has neither a log nor Intel's collateral")
        report = parse_report(hardware.quote)
        say(f"version {report.version}, signed by a {report.signing_key.upper()}")
    with checks.step("endorsement") as say:
        endorsed = verify_endorsements(hardware.endorsements, report.signing_key, now, trust=trust, cache=cache)
        vek, crl = endorsed.value.vek, endorsed.value.crl
        if rules.crl_required and crl is None:
            raise AttestError("attest.snp-crl-missing", "no revocation list of AMD's root came with the report")
        say(f"ARK-{vek.product}, {'not revoked' if crl else 'revocation not known'}")
    with checks.step("signature") as say:
        why = f"the report is not signed by this {vek.kind.upper()}"
        key = vek.certificate.ec_key
        verify_signature(key, report.signature, report.signed, "attest.snp-signature-invalid", why)
        say(f"by the {vek.kind.upper()}")
    with checks.step("binding") as say:
        _check_binding(report, vek)
        say("product, TCB and chip are the certificate's")
    with checks.step("tcb") as say:
        _check_tcb(report, vek.product, rules)
        say(_levels(vek.product, report.reported_tcb))
    with checks.step("guest") as say:
        _check_guest(report, rules)
        say(f"VMPL {report.vmpl}, policy {', '.join(sorted(report.policy_flags)) or 'without flags'}")
    with checks.step("platform") as say:
        _check_platform(report, vek, rules)
        say(", ".join(sorted(report.platform_flags)) or "no feature reported")
    return Machine(
        tee="snp",
        title="AMD SEV-SNP",
        memory="visible" if "debug" in report.policy_flags else "encrypted",
        measurements=_measurements(report),
        report_data=report.report_data,
        signed=report.signed,
        not_after=endorsed.not_after,
        checks=checks.passed,
        facts=_facts(report, vek),
        platform=f"amd-chip:{chip}" if (chip := _chip_id(report, vek)) else "",
    )


def _check_binding(report: Report, vek: Vek) -> None:
    if report.product not in {None, vek.product}:
        raise AttestError(
            "attest.snp-product-mismatch", f"a key for {vek.product} signed the report of a {report.product}"
        )
    if report.reported_tcb != vek.tcb:
        raise AttestError(
            "attest.snp-vek-tcb-mismatch",
            f"the key was derived from TCB {_levels(vek.product, vek.tcb)}, the report says "
            f"{_levels(vek.product, report.reported_tcb)}",
            hint="fetch the certificate for the TCB that the report names as reported",
        )
    if vek.chip_id is not None and any(report.chip_id) and report.chip_id != vek.chip_id.ljust(CHIP_ID_BYTES, b"\0"):
        raise AttestError("attest.snp-chip-id-mismatch", "the report and the key's certificate name different chips")


def _check_tcb(report: Report, product: str, rules: SnpRules) -> None:
    ordered = (report.reported_tcb, report.committed_tcb, report.current_tcb)
    if (
        not all(_at_most(lower, upper) for lower, upper in pairwise(ordered))
        or not _at_most(report.launch_tcb, report.current_tcb)
        or report.committed.version > report.current.version
    ):
        raise AttestError(
            "attest.snp-tcb-order", "reported, committed, launch and current TCB are in an order that can't be"
        )
    for name, tcb, minima in (
        ("tcb", report.reported_tcb, rules.min_tcb),
        ("launch-tcb", report.launch_tcb, rules.min_launch_tcb),
    ):
        if minima and product not in minima:  # an older generation may not stand in for one with minima
            raise AttestError(
                "attest.snp-tcb-minimum-missing", f"the policy has minima for the {name}, not for {product}"
            )
        least = msgspec.structs.asdict(minima.get(product, SnpTcb()))
        low = [part for part, level in tcb_components(product, tcb).items() if level < least[part]]
        if low:
            raise AttestError(
                f"attest.snp-{name}-too-low",
                f"{name} {_levels(product, tcb)} is below the policy's minimum of {', '.join(low)}",
                hint="the machine's owner must update firmware or microcode",
            )
    if report.committed.version < rules.min_firmware:
        raise AttestError(
            "attest.snp-firmware-too-old",
            f"SEV firmware {report.committed} is committed, demanded: {'.'.join(map(str, rules.min_firmware))}",
        )
    provisional = report.committed != report.current or report.committed_tcb != report.current_tcb
    if provisional and not rules.allow_provisional_firmware:
        raise AttestError(
            "attest.snp-firmware-provisional", "the current firmware is not committed: the host may go back to an older"
        )


def _at_most(lower: bytes, upper: bytes) -> bool:
    return all(a <= b for a, b in zip(lower, upper, strict=True))


def _levels(product: str, tcb: bytes) -> str:
    return " ".join(f"{name} {level}" for name, level in tcb_components(product, tcb).items())


def _check_guest(report: Report, rules: SnpRules) -> None:
    forbidden = report.policy_flags.intersection(rules.policy_forbidden)
    if "debug" in forbidden:
        raise AttestError("attest.snp-debug", "the guest's policy allows debugging: its host can read its memory")
    if "migrate-ma" in forbidden:
        raise AttestError(
            "attest.snp-migration-agent", "the guest's policy allows a migration agent, which can copy it"
        )
    _check_flags("policy", report.policy_flags, rules.policy_required, rules.policy_forbidden)
    if report.policy_abi < rules.min_policy_abi:
        raise AttestError(
            "attest.snp-policy-abi-too-low", "the guest's policy is content with an older ABI of firmware"
        )
    if report.vmpl > rules.max_vmpl:
        raise AttestError(
            "attest.snp-vmpl-too-high", f"the report was requested at VMPL {report.vmpl}, allowed: {rules.max_vmpl}"
        )
    if report.guest_svn < rules.min_guest_svn:
        raise AttestError(
            "attest.snp-guest-svn-too-low", f"guest SVN {report.guest_svn}, demanded: {rules.min_guest_svn}"
        )
    for name in ("family_id", "image_id", "host_data"):
        if getattr(rules, name) not in {ANY, getattr(report, name).hex()}:
            raise AttestError(
                f"attest.snp-{name.replace('_', '-')}-mismatch", f"{name.upper()} is not what the policy demands"
            )
    if rules.id_key_digests and report.id_key_digest.hex() not in rules.id_key_digests:
        raise AttestError("attest.snp-id-key-not-allowed", "the guest's ID key is not on the policy's list")
    if rules.author_key_digests and not (
        report.author_key_en and report.author_key_digest.hex() in rules.author_key_digests
    ):
        raise AttestError("attest.snp-author-key-not-allowed", "the guest's author key is not on the policy's list")


def _check_flags(what: str, found: frozenset[str], required: Iterable[str], forbidden: Iterable[str]) -> None:
    excess, missing = found.intersection(forbidden), set(required) - found
    if excess:
        raise AttestError(f"attest.snp-{what}-forbidden", f"the {what} has {min(excess)!r}, which is not allowed")
    if missing:
        raise AttestError(f"attest.snp-{what}-missing", f"the {what} lacks {min(missing)!r}, which is required")


def _check_platform(report: Report, vek: Vek, rules: SnpRules) -> None:
    if vek.product not in rules.products:
        raise AttestError("attest.snp-product-not-allowed", f"the policy does not allow processors of {vek.product}")
    if vek.kind not in rules.signing_keys:
        raise AttestError("attest.snp-signing-key-not-allowed", f"the policy allows no report signed by a {vek.kind}")
    if vek.csp_id is not None and rules.csp_ids and vek.csp_id not in rules.csp_ids:
        raise AttestError("attest.snp-csp-not-allowed", "AMD made this VLEK for a cloud that is not on the list")
    if report.mask_chip_key and not rules.allow_masked_chip_key:
        raise AttestError("attest.snp-chip-key-masked", "the host masks the chip's key (MASK_CHIP_KEY)")
    chip_id = _chip_id(report, vek)
    if rules.denied_chip_ids and chip_id is None:
        raise AttestError("attest.snp-chip-unknown", "the policy denies chips, and the report does not say which it is")
    if chip_id in rules.denied_chip_ids:
        raise AttestError("attest.snp-chip-denied", "the policy denies this chip")
    known = sum(1 << PLATFORM_BITS[name] for name in report.platform_flags)
    if report.platform_info != known and not rules.allow_unknown_platform_bits:
        raise AttestError("attest.snp-platform-info-unknown", "PLATFORM_INFO has a bit whose meaning is not known")
    _check_flags("platform", report.platform_flags, rules.platform_required, rules.platform_forbidden)
    for name in ("launch", "current"):
        demanded, found = getattr(rules, f"{name}_mitigations"), getattr(report, f"{name}_mit_vector")
        if demanded & ~(found or 0):
            raise AttestError(
                "attest.snp-mitigation-missing",
                f"the {name} mitigation vector lacks bit {(demanded & ~(found or 0)).bit_length() - 1}",
            )


def _chip_id(report: Report, vek: Vek) -> str | None:
    """Return the chip's id as reports write it, also where the host masks it but the VCEK names it."""
    if any(report.chip_id):
        return report.chip_id.hex()
    return None if vek.chip_id is None else vek.chip_id.ljust(CHIP_ID_BYTES, b"\0").hex()


def _measurements(report: Report) -> dict[str, str]:
    names = ("measurement", "host_data", "id_key_digest", "author_key_digest", "family_id", "image_id")
    return {name: getattr(report, name).hex() for name in names}


def _facts(report: Report, vek: Vek) -> dict[str, str]:
    facts = {
        "product": vek.product,
        "signed by": f"VLEK of {vek.csp_id}" if vek.csp_id else "VCEK",
        "chip": _chip_id(report, vek) or "masked",
        "report version": str(report.version),
        "firmware": f"{report.current} (committed {report.committed})",
        "vmpl": str(report.vmpl),
        "guest svn": str(report.guest_svn),
        "policy": f"{report.policy:#x}",
        "platform info": f"{report.platform_info:#x}",
        "report id": report.report_id.hex(),
    }
    for name in ("reported", "committed", "current", "launch"):
        facts[f"{name} tcb"] = _levels(vek.product, getattr(report, f"{name}_tcb"))
    return facts
