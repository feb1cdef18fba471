"""Reports through the kernel's common interface, configfs-tsm: TDX quotes, SEV-SNP reports, Arm CCA tokens.

Follows Linux's `Documentation/ABI/testing/configfs-tsm-report` and `include/linux/tsm.h`: a directory made below
`/sys/kernel/config/tsm/report` is a request; what is written to its `inblob` is covered by what its `outblob` gives.

Invariants:

- The generation counts writes: after the report was read it is what our own writes make it. Otherwise somebody else
  wrote into the request, and what was read is thrown away.
- A request has a name of its own, and is removed whatever happens.
- A write's error would be lost (the kernel takes the bytes when the file is closed), so the report's own report data is
  compared too.

Example:
    >>> hardware = collect(report_data)
    >>> hardware.tee
    'tdx'
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from mitai.attest.collect.guest import (
    HERE,
    TRANSIENT,
    Guest,
    attempts,
    check_answer,
    check_report_data,
    malformed,
    opened,
    read_bytes,
    refusal,
    refusals,
)
from mitai.attest.collect.logs import ccel
from mitai.attest.machine import Hardware
from mitai.errors import AttestError

REPORTS = "sys/kernel/config/tsm/report"
TEES = {"tdx_guest": "tdx", "sev_guest": "snp", "arm_cca_guest": "cca"}
_DRIVERS = ("dev/sev-guest", "dev/tdx_guest", "sys/devices/platform/arm-cca-dev", "sys/module/arm_cca_guest")
MAX_BLOB_BYTES = 1 << 20  # the kernel's own limit is 32 KiB, or 16 MiB in later versions
WHAT = "the kernel's report interface (configfs-tsm)"


def collect(report_data: bytes, *, guest: Guest = HERE) -> Hardware:
    """Return the hardware's evidence over 64 bytes of report data.

    An SEV-SNP report brings the host's table of certificates (`certs`) where the host gives one, a TDX quote the CCEL.

    Raises:
        AttestError: `attest.collect-…`, where the interface is missing, refuses, or gives no consistent answer.
    """
    check_report_data(report_data)
    busy: OSError | None = None
    for _ in attempts(guest):
        try:
            hardware = _request(guest, report_data)
        except OSError as error:
            if error.errno not in TRANSIENT:
                raise refusal(error, WHAT) from error
            busy = error
            continue
        if hardware is not None:
            check_answer(hardware.tee, hardware.quote, report_data, WHAT)
            return hardware
        busy = None
    if busy is not None:
        raise refusal(busy, WHAT) from busy
    raise AttestError(
        "attest.collect-generation-changed",
        "another program wrote into our request for a report, at each attempt",
        hint="find which program writes below /sys/kernel/config/tsm/report",
    )


def available(guest: Guest = HERE) -> bool:
    """Return whether the kernel has the interface, and a driver of a processor behind it."""
    return guest.has(REPORTS) and any(guest.has(path) for path in _DRIVERS)


def provider(guest: Guest = HERE) -> str:
    """Return the name of the kernel's provider, such as `tdx_guest`."""
    with refusals(WHAT), _entry(guest) as entry:
        return _text(guest, f"{entry}/provider")


def _request(guest: Guest, report_data: bytes) -> Hardware | None:
    """Return evidence, or nothing when somebody else wrote into the request meanwhile."""
    with _entry(guest) as entry:
        name = _text(guest, f"{entry}/provider")
        tee = TEES.get(name)
        if tee is None:
            raise AttestError(
                "attest.collect-provider-unknown", f"{WHAT} has a provider that is unknown: {name[:32]!r}"
            )
        generation = _number(guest, f"{entry}/generation")
        floor = _floor(guest, entry)
        if floor:  # the least privileged level that may be named: that of this kernel
            _write(guest, f"{entry}/privlevel", str(floor).encode())
        _write(guest, f"{entry}/inblob", report_data)
        quote = read_bytes(guest, f"{entry}/outblob", MAX_BLOB_BYTES, WHAT)
        table = _optional(guest, f"{entry}/auxblob")
        if _number(guest, f"{entry}/generation") != generation + (2 if floor else 1):
            return None
    endorsements = {"certs": table} if tee == "snp" and table else {}
    event_log = ccel(guest) if tee == "tdx" else b""
    return Hardware(tee=tee, quote=quote, endorsements=endorsements, event_log=event_log)


@contextmanager
def _entry(guest: Guest) -> Iterator[str]:
    entry = f"{REPORTS}/mitai-{secrets.token_hex(8)}"
    guest.mkdir(guest.root / entry)
    try:
        yield entry
    finally:
        with suppress(OSError):
            guest.rmdir(guest.root / entry)


def _floor(guest: Guest, entry: str) -> int:
    """Return the least privilege level that may be asked for; providers without levels do not have the file."""
    try:
        return _number(guest, f"{entry}/privlevel_floor")
    except FileNotFoundError:
        return 0


def _optional(guest: Guest, path: str) -> bytes:
    try:
        return read_bytes(guest, path, MAX_BLOB_BYTES, WHAT)
    except FileNotFoundError:
        return b""


def _text(guest: Guest, path: str) -> str:
    return read_bytes(guest, path, 4096, WHAT).decode("ascii", "replace").removesuffix("\n")


def _number(guest: Guest, path: str) -> int:
    text = _text(guest, path)
    if not text.isdecimal():
        raise malformed(WHAT, "a number was expected")
    return int(text)


def _write(guest: Guest, path: str, data: bytes) -> None:
    with opened(guest, path, os.O_WRONLY) as descriptor:
        if os.write(descriptor, data) != len(data):
            raise malformed(WHAT, "it took a part of the request only")
