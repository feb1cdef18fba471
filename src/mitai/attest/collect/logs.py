"""Event logs that a guest's kernel keeps: of firmware and loaders (CCEL, TCG), and of files (IMA).

Follows the ACPI specification, "CC Event Log ACPI Table" (CCEL), and the paths of Linux's `securityfs`.

A log explains registers, it proves nothing by itself: one that is absent, or that this user may not read, is left out,
and a verifier whose policy needs it refuses.
"""

from __future__ import annotations

from mitai.attest.collect.guest import Guest, read_bytes
from mitai.attest.eventlog.tcg import MAX_EVENT_LOG_BYTES

CCEL = "sys/firmware/acpi/tables/data/CCEL"
TCG = "sys/kernel/security/tpm0/binary_bios_measurements"
IMA = "sys/kernel/security/ima/ascii_runtime_measurements"
MAX_IMA_BYTES = 8 << 20


def ccel(guest: Guest) -> bytes:
    """Return the log of a TD's firmware, or nothing."""
    return _log(guest, CCEL, MAX_EVENT_LOG_BYTES)


def tcg(guest: Guest) -> bytes:
    """Return the log of the TPM's first registers, or nothing."""
    return _log(guest, TCG, MAX_EVENT_LOG_BYTES)


def ima(guest: Guest) -> bytes:
    """Return the list of files that the kernel measured, or nothing."""
    return _log(guest, IMA, MAX_IMA_BYTES)


def _log(guest: Guest, path: str, limit: int) -> bytes:
    try:
        return read_bytes(guest, path, limit, f"the log /{path}")
    except OSError:
        return b""
