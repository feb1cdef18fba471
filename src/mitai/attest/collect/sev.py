"""SEV-SNP through `/dev/sev-guest`: reports, reports with the host's certificates, keys derived from the chip.

Follows Linux's `include/uapi/linux/sev-guest.h` and `Documentation/virt/coco/sev-guest.rst`, and "SEV Secure Nested
Paging Firmware ABI Specification" (56860), sections 7.2 (MSG_KEY_REQ) and 7.3 (MSG_REPORT_REQ).

Invariants:

- A report is taken only when the firmware says success, has exactly its size, and covers our report data.
- Busy answers are tried again a few times. The driver itself waits up to a minute for a throttled host; when even that
  failed it has closed its channel to the firmware, which only a restart opens again.
- A derived key depends on chip, policy, measurement, family and image id of this guest: another guest gets another key.

Example:
    >>> hardware = collect(report_data)
    >>> sorted(hardware.endorsements)      # nothing where the host gives none
    ['certs']
"""

from __future__ import annotations

import errno
import os
import struct
from dataclasses import dataclass

from mitai.attest.collect.guest import (
    HERE,
    TRANSIENT,
    Guest,
    address_of,
    attempts,
    check_answer,
    check_report_data,
    iowr,
    malformed,
    opened,
    read_bytes,
    refusal,
    refusals,
)
from mitai.attest.machine import Hardware
from mitai.attest.snp.report import REPORT_BYTES
from mitai.errors import AttestError

DEVICE = "dev/sev-guest"
VMPL = "sys/devices/system/cpu/sev/vmpl"
WHAT = "the SEV-SNP guest device (/dev/sev-guest)"
_GUEST_REQUEST = struct.Struct("<B7xQQII")  # snp_guest_request_ioctl: version, request, response, fw_error, vmm_error
_REPORT_REQUEST = struct.Struct("<64sI28x")  # snp_report_req: user data, VMPL
_EXT_REPORT_REQUEST = struct.Struct("<96sQI4x")  # snp_ext_report_req: the same, address and length of the table
_KEY_REQUEST = struct.Struct("<I4xQIIQ")  # snp_derived_key_req: root key, fields, VMPL, guest SVN, TCB version
SNP_GET_REPORT = iowr(ord("S"), 0, _GUEST_REQUEST.size)
SNP_GET_DERIVED_KEY = iowr(ord("S"), 1, _GUEST_REQUEST.size)
SNP_GET_EXT_REPORT = iowr(ord("S"), 2, _GUEST_REQUEST.size)
CERTS_BYTES = 0x4000  # SEV_FW_BLOB_MAX_SIZE: the driver takes no larger buffer
_RESPONSE_BYTES = 4000
_KEY_RESPONSE_BYTES = 64
_HEAD_BYTES = 32  # of both responses: status, then size or reserved bytes
_KEY_BYTES = 32
_INVALID_LEN, _VMM_BUSY = 1, 2  # SNP_GUEST_VMM_ERR_…
_NO_FIRMWARE_ERROR = frozenset({0, 0xFF, 0xFFFFFFFF})  # the firmware was not called
_POLICY, _IMAGE_ID, _FAMILY_ID, _MEASUREMENT = 1, 2, 4, 8  # GUEST_FIELD_SELECT
_STATUS = {0x16: "a parameter is invalid: the privilege level may be out of reach", 0x27: "the key is not available"}


@dataclass(frozen=True, slots=True)
class _Answer:
    """How a request ended: the driver's error number (0: success) and what the other sides said."""

    number: int
    firmware: int
    host: int


def collect(report_data: bytes, *, guest: Guest = HERE, vmpl: int | None = None) -> Hardware:
    """Return a report over 64 bytes, with the host's table of certificates (`certs`) where there is one.

    Args:
        report_data: What the report is to cover.
        guest: The machine.
        vmpl: Privilege level to name in the report: that of the kernel, as it says, unless given.

    Raises:
        AttestError: `attest.collect-…`.
    """
    check_report_data(report_data)
    level = kernel_vmpl(guest) if vmpl is None else vmpl
    request = bytearray(_REPORT_REQUEST.pack(report_data, level))
    table = bytearray(CERTS_BYTES)
    extended = bytearray(_EXT_REPORT_REQUEST.pack(bytes(request), address_of(table), len(table)))
    response = bytearray(_RESPONSE_BYTES)
    with refusals(WHAT), opened(guest, DEVICE, os.O_RDWR) as device:
        answer = _ask(guest, device, SNP_GET_EXT_REPORT, extended, response)
        if answer.host == _INVALID_LEN:  # the host's table is larger than any buffer: do without
            table = bytearray()
            answer = _ask(guest, device, SNP_GET_REPORT, request, response)
    _check(answer)
    report = _payload(response, REPORT_BYTES)
    if struct.unpack_from("<I", response, 4)[0] != REPORT_BYTES:
        raise malformed(WHAT, "the report has another size")
    check_answer("snp", report, report_data, WHAT)
    endorsements = {"certs": bytes(table)} if any(table) else {}
    return Hardware(tee="snp", quote=report, endorsements=endorsements)


def derived_key(*, guest: Guest = HERE, vmpl: int | None = None) -> bytes:
    """Return 32 bytes that the firmware derives from the chip's key for this guest's policy, measurement and ids."""
    level = kernel_vmpl(guest) if vmpl is None else vmpl
    fields = _POLICY | _IMAGE_ID | _FAMILY_ID | _MEASUREMENT
    request = bytearray(_KEY_REQUEST.pack(0, fields, level, 0, 0))
    response = bytearray(_KEY_RESPONSE_BYTES)
    with refusals(WHAT), opened(guest, DEVICE, os.O_RDWR) as device:
        _check(_ask(guest, device, SNP_GET_DERIVED_KEY, request, response))
    key = _payload(response, _KEY_BYTES)
    if not any(key):
        raise malformed(WHAT, "the derived key is empty")
    return key


def kernel_vmpl(guest: Guest) -> int:
    """Return the privilege level that the kernel runs at, 0 where it is too old to say."""
    try:
        text = read_bytes(guest, VMPL, 64, "the kernel's privilege level").strip()
    except OSError:
        return 0
    if text not in {b"0", b"1", b"2", b"3"}:
        raise malformed("the kernel's privilege level", "it is not 0 to 3")
    return int(text)


def _ask(guest: Guest, device: int, number: int, request: bytearray, response: bytearray) -> _Answer:
    """Send a request; try again while host or kernel are busy."""
    answer = _Answer(0, 0, 0)
    for _ in attempts(guest):
        argument = bytearray(_GUEST_REQUEST.pack(1, address_of(request), address_of(response), 0, 0))
        error = 0
        try:
            guest.ioctl(device, number, argument)
        except OSError as failure:
            error = failure.errno or errno.EIO
        *_, firmware, host = _GUEST_REQUEST.unpack(argument)
        answer = _Answer(error, firmware, host)
        if error not in TRANSIENT and not (error == errno.EIO and host == _VMM_BUSY):
            return answer
    return _Answer(errno.EBUSY, answer.firmware, answer.host)


def _check(answer: _Answer) -> None:
    if not answer.number:
        return
    if answer.number == errno.ENOTTY:
        raise AttestError(
            "attest.collect-channel-closed",
            f"{WHAT} has no channel to the firmware any more",
            hint="an earlier request failed half-way and the kernel closed the channel: restart this machine",
        )
    if answer.number == errno.EIO and answer.firmware not in _NO_FIRMWARE_ERROR:
        raise _firmware_error(answer.firmware)
    raise refusal(OSError(answer.number, os.strerror(answer.number)), WHAT)


def _payload(response: bytearray, size: int) -> bytes:
    status: int = struct.unpack_from("<I", response)[0]
    if status:
        raise _firmware_error(status)
    return bytes(response[_HEAD_BYTES : _HEAD_BYTES + size])


def _firmware_error(status: int) -> AttestError:
    return AttestError(
        "attest.collect-firmware-error",
        f"AMD's firmware refused the request with status {status:#x}: {_STATUS.get(status, 'see its specification')}",
    )
