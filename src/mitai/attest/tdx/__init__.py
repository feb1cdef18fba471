"""Intel TDX: what a TD's report must look like beyond its signature.

Follows the "Intel TDX Module Base Architecture Specification", section 20 (ATTRIBUTES and XFAM), and the appraisal
steps of the "Intel TDX DCAP" guides: no debug, no reserved bit, SEPT_VE_DISABLE, an Intel TDX module, no service TD.
"""

from __future__ import annotations

from mitai.attest.dcap.quote import Header, TdReport
from mitai.attest.fields import ANY
from mitai.attest.tdx.rules import TdxRules
from mitai.errors import AttestError

_DEBUG = 1  # bit 0 of TUD; the other seven bits of that byte are reserved


def check_td(header: Header, report: TdReport, rules: TdxRules) -> None:
    """Raise `AttestError` unless the TD's attributes, features and identities are those that the rules allow."""
    if header.qe_vendor_id.hex() != rules.qe_vendor_id:
        raise AttestError("attest.qe-vendor-mismatch", "the quote names another vendor of the quoting enclave")
    _check_attributes(report, rules)
    _check_mask("xfam", report.xfam, rules.xfam_required, rules.xfam_allowed)
    if rules.mrseam and report.mrseam.hex() not in rules.mrseam:
        raise AttestError("attest.mrseam-not-allowed", "the TDX module is not on the policy's list")
    for name in ("mrsignerseam", "seam_attributes", "mrconfigid", "mrowner", "mrownerconfig", "mrservicetd"):
        expected, found = getattr(rules, name), getattr(report, name)
        if found is not None and expected not in {ANY, found.hex()}:
            raise AttestError(
                f"attest.{name.replace('_', '-')}-mismatch", f"{name.upper()} is not what the policy demands"
            )
    if any(svn < least for svn, least in zip(report.tee_tcb_svn, bytes.fromhex(rules.min_tee_tcb_svn), strict=True)):
        raise AttestError("attest.tee-tcb-svn-too-low", "a component of TEE_TCB_SVN is below the policy's minimum")


def debugged(report: TdReport) -> bool:
    """Return whether the TD is in debug mode."""
    return bool(report.td_attributes[0] & _DEBUG)


def _check_attributes(report: TdReport, rules: TdxRules) -> None:
    if debugged(report) and not bytes.fromhex(rules.td_attributes_allowed)[0] & _DEBUG:
        raise AttestError("attest.td-debug", "the TD is in debug mode: its host can read its memory")
    _check_mask("td-attributes", report.td_attributes, rules.td_attributes_required, rules.td_attributes_allowed)


def _check_mask(name: str, value: bytes, required: str, allowed: str) -> None:
    found = int.from_bytes(value, "little")
    outside = found & ~int.from_bytes(bytes.fromhex(allowed), "little")
    missing = int.from_bytes(bytes.fromhex(required), "little") & ~found
    if outside:
        raise AttestError(
            f"attest.{name}-not-allowed", f"{name} has bit {outside.bit_length() - 1} set, which is not allowed"
        )
    if missing:
        raise AttestError(
            f"attest.{name}-missing", f"{name} has bit {missing.bit_length() - 1} clear, which is required"
        )


def measurements(report: TdReport) -> dict[str, str]:
    """Return the registers by name, in hex."""
    names = (
        "mrtd",
        "mrseam",
        "mrsignerseam",
        "mrconfigid",
        "mrowner",
        "mrownerconfig",
        "td_attributes",
        "xfam",
        "tee_tcb_svn",
    )
    registers = {name: getattr(report, name).hex() for name in names}
    registers |= {f"rtmr{number}": value.hex() for number, value in enumerate(report.rtmrs)}
    registers |= {"mrservicetd": report.mrservicetd.hex()} if report.mrservicetd is not None else {}
    return registers
