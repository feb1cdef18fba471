"""Computed expectations: the registers that images should give, by TEE.

Example:
    >>> tdx_registers(firmware, kernel, initrd, "console=ttyS0", memory_bytes=8 << 30)["mrtd"]
"""

from __future__ import annotations

from mitai.attest import ovmf
from mitai.attest.fields import ANY
from mitai.attest.refvalues.boot import LAYOUTS, NO_RTMR, Layout, rtmr1, rtmr2
from mitai.attest.refvalues.tdvf import mrtd
from mitai.attest.snp.launch import launch_digest
from mitai.errors import ParseError


def tdx_registers(
    firmware: bytes,
    kernel: bytes | None = None,
    initrd: bytes = b"",
    cmdline: str = "",
    *,
    memory_bytes: int,
    layout: Layout = LAYOUTS["qemu"],
) -> dict[str, str]:
    """Return MRTD and RTMRs of a TD; "any" for what the images alone do not fix.

    RTMR0 holds the machine (memory map, ACPI tables, boot order): it is never computed. RTMR3 is the workload's own and
    empty after boot. Without a kernel, RTMR1 and RTMR2 stay open too.
    """
    booted = {"rtmr1": ANY, "rtmr2": ANY}
    if kernel is not None:
        booted = {
            "rtmr1": rtmr1(kernel, initrd, memory_bytes=memory_bytes, layout=layout).hex(),
            "rtmr2": rtmr2(initrd, cmdline, layout=layout).hex(),
        }
    return {"mrtd": mrtd(firmware, layout.page_order).hex(), "rtmr0": ANY, **booted, "rtmr3": NO_RTMR.hex()}


def snp_registers(
    firmware: bytes,
    kernel: bytes | None = None,
    initrd: bytes = b"",
    cmdline: str = "",
    *,
    vcpus: int,
    vcpu: str,
    vmm: str = "qemu",
) -> dict[str, str]:
    """Return MEASUREMENT of an SEV-SNP guest."""
    digest = launch_digest(firmware, vcpus=vcpus, vcpu=vcpu, kernel=kernel, initrd=initrd, cmdline=cmdline, vmm=vmm)
    return {"measurement": digest.hex()}


def supported_tees(firmware: bytes) -> tuple[str, ...]:
    """Return the TEEs that a firmware image is built for; none: it is no OVMF."""
    try:
        table = ovmf.entries(firmware, "attest.tdvf-malformed")
    except ParseError:
        return ()
    known = {"tdx": ovmf.TDX_METADATA, "snp": ovmf.SEV_METADATA}
    return tuple(tee for tee, guid in known.items() if guid in table)
