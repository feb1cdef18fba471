"""Intel SGX: what an enclave's report must look like beyond its signature.

Follows the Intel SDM, volume 3D, chapter 38 (ATTRIBUTES).
"""

from __future__ import annotations

from mitai.attest.dcap.quote import INTEL_QE_VENDOR, EnclaveReport, Header
from mitai.attest.sgx.rules import SgxRules
from mitai.errors import AttestError

_INIT, _DEBUG = 0x01, 0x02


def check_enclave(header: Header, report: EnclaveReport, rules: SgxRules) -> None:
    """Raise `AttestError` unless the enclave is one that the rules allow."""
    if header.qe_vendor_id != INTEL_QE_VENDOR:
        raise AttestError("attest.qe-vendor-mismatch", "the quote names another vendor of the quoting enclave")
    if debugged(report) and not rules.allow_debug:
        raise AttestError("attest.enclave-debug", "the enclave is in debug mode: its host can read its memory")
    if not report.attributes[0] & _INIT:
        raise AttestError("attest.enclave-not-initialised", "the enclave's INIT attribute is clear")
    for name in ("mrenclave", "mrsigner"):
        allowed = getattr(rules, name)
        if allowed and getattr(report, name).hex() not in allowed:
            raise AttestError(f"attest.{name}-not-allowed", f"{name.upper()} is not on the policy's list")
    if rules.isv_prod_id not in {None, report.isv_prod_id} or report.isv_svn < rules.min_isv_svn:
        raise AttestError("attest.enclave-version-refused", "the enclave's product id or security version is refused")


def debugged(report: EnclaveReport) -> bool:
    """Return whether the enclave is in debug mode."""
    return bool(report.attributes[0] & _DEBUG)


def measurements(report: EnclaveReport) -> dict[str, str]:
    """Return the registers by name, in hex."""
    return {
        name: getattr(report, name).hex() for name in ("mrenclave", "mrsigner", "attributes", "cpu_svn", "misc_select")
    }
