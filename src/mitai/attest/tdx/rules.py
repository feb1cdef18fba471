"""What every TD must look like: the section `[tdx]` of an appraisal policy."""

from __future__ import annotations

import msgspec

from mitai.attest.dcap.quote import INTEL_QE_VENDOR
from mitai.attest.fields import ANY, check_hex

_ZERO_48 = "00" * 48


class TdxRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What every TD must look like. Masks and registers in the byte order of the quote."""

    td_attributes_required: str = "0000001000000000"  # SEPT_VE_DISABLE
    td_attributes_allowed: str = "000000d000000080"  # SEPT_VE_DISABLE, PKS, KL, PERFMON: no DEBUG, no reserved bit
    xfam_required: str = "0300000000000000"  # FP and SSE
    xfam_allowed: str = "e7db060000000000"  # XFAM_FIXED0 of TDX module 1.x
    mrsignerseam: str = _ZERO_48  # the TDX module is Intel's
    seam_attributes: str = "0000000000000000"
    mrservicetd: str = _ZERO_48  # no service TD, hence no migration
    mrseam: tuple[str, ...] = ()  # allow-list; empty: any that Intel's TCB info accepts
    mrconfigid: str = ANY
    mrowner: str = ANY
    mrownerconfig: str = ANY
    min_tee_tcb_svn: str = "00" * 16  # per component
    qe_vendor_id: str = INTEL_QE_VENDOR.hex()

    def __post_init__(self) -> None:
        for name in ("td_attributes_required", "td_attributes_allowed", "xfam_required", "xfam_allowed"):
            check_hex(name, getattr(self, name), 8)
        for name in ("mrsignerseam", "mrservicetd", "mrconfigid", "mrowner", "mrownerconfig"):
            check_hex(name, getattr(self, name), 48, any_allowed=True)
        for value in self.mrseam:
            check_hex("mrseam", value, 48)
        check_hex("seam_attributes", self.seam_attributes, 8, any_allowed=True)
        check_hex("min_tee_tcb_svn", self.min_tee_tcb_svn, 16)
        check_hex("qe_vendor_id", self.qe_vendor_id, 16)
