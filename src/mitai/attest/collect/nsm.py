"""AWS Nitro enclaves through `/dev/nsm`: attestation documents and registers.

Follows Linux's `include/uapi/linux/nsm.h` (one ioctl carries a CBOR message each way) and the messages of the "AWS
Nitro Enclaves NSM API" (`Request`, `Response`, `ErrorCode`).

Invariants:

- The answer is decoded strictly; an answer of another kind than the request's is refused.

Example:
    >>> document = collect(report_data).quote
"""

from __future__ import annotations

import os
import struct

from mitai.attest.cbor import Value, decode
from mitai.attest.collect.guest import (
    HERE,
    Guest,
    address_of,
    check_answer,
    check_report_data,
    iowr,
    malformed,
    opened,
    refusals,
)
from mitai.attest.machine import Hardware
from mitai.errors import AttestError, ParseError

DEVICE = "dev/nsm"
WHAT = "the Nitro secure module (/dev/nsm)"
_RAW = struct.Struct("<QQQQ")  # nsm_raw: address and length of request and response
NSM_IOCTL_RAW = iowr(0x0A, 0, _RAW.size)
MAX_RESPONSE_BYTES = 0x3000
_CODE = "attest.collect-malformed"


def collect(
    report_data: bytes, *, nonce: bytes | None = None, public_key: bytes | None = None, guest: Guest = HERE
) -> Hardware:
    """Return an attestation document with the report data as `user_data`; `nonce` and `public_key` as given."""
    check_report_data(report_data)
    fields = {"user_data": report_data, "nonce": nonce, "public_key": public_key}
    body = b"".join(_text(name) + (b"\xf6" if value is None else _bytes(value)) for name, value in fields.items())
    answer = _ask(guest, "Attestation", b"\xa1" + _text("Attestation") + b"\xa3" + body)
    document = answer.get("document")
    if type(document) is not bytes:
        raise malformed(WHAT, "it holds no document")
    check_answer("nitro", document, report_data, WHAT)
    return Hardware(tee="nitro", quote=document)


def describe_pcr(index: int, *, guest: Guest = HERE) -> tuple[bytes, bool]:
    """Return a register's value, and whether it is locked."""
    request = b"\xa1" + _text("DescribePCR") + b"\xa1" + _text("index") + _head(0, index)
    answer = _ask(guest, "DescribePCR", request)
    value, locked = answer.get("data"), answer.get("lock")
    if type(value) is not bytes or type(locked) is not bool:
        raise malformed(WHAT, "a register has a value and a lock")
    return value, locked


def _ask(guest: Guest, kind: str, request: bytes) -> dict[int | str, Value]:
    sent, received = bytearray(request), bytearray(MAX_RESPONSE_BYTES)
    argument = bytearray(_RAW.pack(address_of(sent), len(sent), address_of(received), len(received)))
    with refusals(WHAT), opened(guest, DEVICE, os.O_RDWR) as device:
        guest.ioctl(device, NSM_IOCTL_RAW, argument)
    size: int = _RAW.unpack(argument)[3]
    if size > len(received):
        raise malformed(WHAT, "it is longer than its buffer")
    try:
        answer = decode(bytes(received[:size]), "the module's answer", _CODE)
    except ParseError as error:
        raise malformed(WHAT, error.message) from error
    if not isinstance(answer, dict) or len(answer) != 1:
        raise malformed(WHAT, "it is not one response")
    if "Error" in answer:
        name = str(answer["Error"])[:32]
        raise AttestError("attest.collect-firmware-error", f"{WHAT} refused the request: {name!r}")
    response = answer.get(kind)
    if not isinstance(response, dict):
        raise malformed(WHAT, "it answers another request")
    return response


def _head(major: int, number: int) -> bytes:
    """Return the head of a CBOR item in its shortest form (RFC 8949, section 3)."""
    if number < 24:
        return bytes([major << 5 | number])
    return bytes([major << 5 | 24, number]) if number < 256 else bytes([major << 5 | 25]) + number.to_bytes(2, "big")


def _text(text: str) -> bytes:
    return _head(3, len(text)) + text.encode("ascii")


def _bytes(data: bytes) -> bytes:
    if len(data) > 1024:
        raise ParseError("attest.collect-report-data-malformed", "a field of an attestation document has 1024 bytes")
    return _head(2, len(data)) + data
