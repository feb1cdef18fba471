"""TDX through `/dev/tdx_guest` and the host's quote generation service: for kernels without configfs-tsm.

Follows Linux's `include/uapi/linux/tdx-guest.h` (TDX_CMD_GET_REPORT0), the "Intel TDX Module Base Architecture
Specification" (REPORTMACSTRUCT), and the messages of Intel's Quote Generation Service (`qgs_msg_get_quote_req_t`,
version 1.0), which listens on a vsock port of the host.

A TDREPORT alone proves nothing to anybody else: its MAC can be checked on the same processor only. The host's quoting
enclave checks it and signs a quote; that the host carries it does not matter, as Intel's keys sign.

Example:
    >>> collect(report_data).tee
    'tdx'
"""

from __future__ import annotations

import os
import re
import socket
import struct

from mitai.attest.collect.guest import (
    HERE,
    Guest,
    check_answer,
    check_report_data,
    iowr,
    malformed,
    opened,
    oversized,
    read_bytes,
    refusals,
)
from mitai.attest.collect.logs import ccel
from mitai.attest.machine import Hardware
from mitai.errors import AttestError

DEVICE = "dev/tdx_guest"
CONFIGURATION = "etc/tdx-attest.conf"
WHAT = "the TDX guest device (/dev/tdx_guest)"
QGS = "the host's quote generation service"
TDREPORT_BYTES = 1024
TDX_CMD_GET_REPORT0 = iowr(ord("T"), 1, 64 + TDREPORT_BYTES)
DEFAULT_PORT = 4050
MAX_MESSAGE_BYTES = 1 << 20
_HOST_CID = 2  # VMADDR_CID_HOST
_TDX_REPORT = b"\x81\x00"  # REPORTTYPE: TDX, subtype 0
_REPORT_DATA = slice(128, 192)
_HEADER = struct.Struct("<HHIII")  # qgs_msg_header_t: major, minor, type, size, error
_SIZES = struct.Struct("<II")  # request: report, list of ids; response: selected id, quote
_GET_QUOTE_REQUEST, _GET_QUOTE_RESPONSE = 0, 1
_PORT = re.compile(r"^\s*port\s*=\s*(\d{1,10})\s*$", re.MULTILINE)


def collect(report_data: bytes, *, guest: Guest = HERE, port: int | None = None) -> Hardware:
    """Return a quote over 64 bytes, and the CCEL.

    Args:
        report_data: What the quote is to cover.
        guest: The machine.
        port: The service's vsock port; by default that of `/etc/tdx-attest.conf`, or 4050.

    Raises:
        AttestError: `attest.collect-…`.
    """
    quote = quote_of(tdreport(report_data, guest=guest), guest=guest, port=port)
    check_answer("tdx", quote, report_data, QGS)
    return Hardware(tee="tdx", quote=quote, event_log=ccel(guest))


def tdreport(report_data: bytes, *, guest: Guest = HERE) -> bytes:
    """Return the TDREPORT: evidence for this processor only."""
    check_report_data(report_data)
    argument = bytearray(report_data + bytes(TDREPORT_BYTES))
    with refusals(WHAT), opened(guest, DEVICE, os.O_RDWR) as device:
        guest.ioctl(device, TDX_CMD_GET_REPORT0, argument)
    report = bytes(argument[64:])
    if not report.startswith(_TDX_REPORT) or report[_REPORT_DATA] != report_data:
        raise malformed(WHAT, "it is not the TDREPORT that was asked for")
    return report


def quote_of(report: bytes, *, guest: Guest = HERE, port: int | None = None) -> bytes:
    """Return the quote that the host's service makes of a TDREPORT."""
    size = _HEADER.size + _SIZES.size + len(report)
    message = _HEADER.pack(1, 0, _GET_QUOTE_REQUEST, size, 0) + _SIZES.pack(len(report), 0) + report
    address = (_HOST_CID, _port(guest) if port is None else port)
    with refusals(QGS), guest.connect(socket.AF_VSOCK, address) as connection:
        connection.sendall(len(message).to_bytes(4, "big") + message)
        size = int.from_bytes(_receive(connection, 4), "big")
        if size > MAX_MESSAGE_BYTES:
            raise oversized(QGS)
        answer = _receive(connection, size)
    return _parse(answer)


def _port(guest: Guest) -> int:
    try:
        text = read_bytes(guest, CONFIGURATION, 1 << 16, f"/{CONFIGURATION}").decode("utf-8", "replace")
    except OSError:
        return DEFAULT_PORT
    found = _PORT.search(text)
    return int(found[1]) if found else DEFAULT_PORT


def _receive(connection: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        chunk = connection.recv(size - len(data))
        if not chunk:
            raise malformed(QGS, "it ends early")
        data += chunk
    return bytes(data)


def _parse(answer: bytes) -> bytes:
    if len(answer) < _HEADER.size:
        raise malformed(QGS, "it ends early")
    major, minor, kind, size, error = _HEADER.unpack_from(answer)
    if (major, kind, size) != (1, _GET_QUOTE_RESPONSE, len(answer)):
        raise malformed(QGS, f"a message of version {major}.{minor}, type {kind}, with a size that may be wrong")
    if error:
        raise AttestError("attest.collect-firmware-error", f"{QGS} refused the request with error {error:#x}")
    if len(answer) < _HEADER.size + _SIZES.size:
        raise malformed(QGS, "it ends early")
    id_size, quote_size = _SIZES.unpack_from(answer, _HEADER.size)
    start = _HEADER.size + _SIZES.size + id_size
    if start + quote_size != len(answer):
        raise malformed(QGS, "its sizes contradict each other")
    return answer[start:]
