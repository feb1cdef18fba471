"""The parser of NVIDIA's reports: exact lengths, no repetition, no surprise."""

from __future__ import annotations

import struct

import pytest

from attest_nvidia_lab import MEASUREMENTS, NONCE, gpu_opaque, message, nvidia_lab, vbios_bytes
from mitai.attest.nvidia.report import MAX_REPORT_BYTES, Opaque, parse_report, pdis, vbios_version
from mitai.errors import ParseError

SIGNATURE = bytes(96)
GOOD = message(NONCE, MEASUREMENTS, gpu_opaque()) + SIGNATURE


def refused(data: bytes) -> str:
    with pytest.raises(ParseError) as refusal:
        parse_report(data)
    return refusal.value.code


def test_fields():
    report = parse_report(GOOD)
    assert report.nonce == NONCE
    assert report.measurements == MEASUREMENTS
    assert report.signed + report.signature == GOOD
    assert report.text(Opaque.DRIVER_VERSION) == "570.10.20"
    assert report.text(Opaque.CHIP_SKU) == "882"
    assert report.number(Opaque.FEATURE_FLAG) == 0
    assert report.number(Opaque.SWITCH_LOCK_STATUS) is None
    assert vbios_version(report) == "96.00.9F.00.01"


@pytest.mark.parametrize("length", [0, 1, 36, 37, 44, 45, 100, len(GOOD) - 1])
def test_truncated(length):
    assert refused(GOOD[:length]) == "attest.nvidia-report-malformed"


def test_alignment_padding_only():
    for size in range(1, 4):
        assert parse_report(GOOD + bytes(size)).signed == parse_report(GOOD).signed
    assert refused(GOOD + bytes(4)) == "attest.nvidia-report-malformed"
    assert refused(GOOD + b"\x01") == "attest.nvidia-report-malformed"
    assert refused(GOOD + bytes(MAX_REPORT_BYTES)) == "attest.nvidia-report-malformed"


@pytest.mark.parametrize(
    ("offset", "value", "code"),
    [
        (0, 0x12, "attest.nvidia-report-version-unsupported"),  # SPDM 1.2 signs with a prefix
        (37, 0x12, "attest.nvidia-report-version-unsupported"),
        (1, 0xE1, "attest.nvidia-report-malformed"),
        (2, 0x00, "attest.nvidia-report-malformed"),  # no signature asked for
        (3, 0x01, "attest.nvidia-report-malformed"),  # one measurement asked for
        (36, 0x01, "attest.nvidia-report-malformed"),  # another slot than the response's
        (38, 0x7F, "attest.nvidia-report-malformed"),  # an SPDM error message
        (39, 0x01, "attest.nvidia-report-malformed"),
        (41, 41, "attest.nvidia-report-malformed"),  # more blocks than the record holds
        (41, 39, "attest.nvidia-report-malformed"),  # fewer
        (45, 2, "attest.nvidia-report-malformed"),  # the second block's index, twice
        (45, 0, "attest.nvidia-report-malformed"),
        (46, 2, "attest.nvidia-report-malformed"),  # not DMTF's
        (50, 47, "attest.nvidia-report-malformed"),  # the value shorter than its block
        (50, 49, "attest.nvidia-report-malformed"),
    ],
)
def test_headers_and_blocks(offset, value, code):
    assert refused(GOOD[:offset] + bytes([value]) + GOOD[offset + 1 :]) == code


def test_opaque_data():
    repeated = message(NONCE, MEASUREMENTS, [*gpu_opaque(), (3, b"1.0\0")]) + SIGNATURE
    assert refused(repeated) == "attest.nvidia-report-malformed"
    unknown = message(NONCE, MEASUREMENTS, [*gpu_opaque(), (99, b"new")]) + SIGNATURE
    assert parse_report(unknown).opaque[99] == b"new"
    newer = message(NONCE, MEASUREMENTS, gpu_opaque(f34=b"\x02\x00")) + SIGNATURE
    assert refused(newer) == "attest.nvidia-opaque-version-unsupported"
    broken = message(NONCE, MEASUREMENTS, []) + SIGNATURE
    end = len(broken) - len(SIGNATURE)
    broken = broken[: end - 2] + struct.pack("<H", 3) + b"\x03\x00\x01" + SIGNATURE
    assert refused(broken) == "attest.nvidia-report-malformed"


@pytest.mark.parametrize("value", [b"", b"\0\0", b"5\xff", b"57\x000", b"5\n7", b"5" * 65])
def test_text_that_is_none(value):
    report = parse_report(message(NONCE, MEASUREMENTS, gpu_opaque(f3=value)) + SIGNATURE)
    with pytest.raises(ParseError) as refusal:
        report.text(Opaque.DRIVER_VERSION)
    assert refusal.value.code == "attest.nvidia-report-malformed"


@pytest.mark.parametrize("value", [None, b"96.00.9F.00.01"])
def test_vbios_version_of_eight_bytes(value):
    report = parse_report(message(NONCE, MEASUREMENTS, gpu_opaque(f6=value)) + SIGNATURE)
    with pytest.raises(ParseError):
        vbios_version(report)


def test_vbios_words():
    assert vbios_bytes("96.00.9F.00.01") == bytes.fromhex("009f009601000000")  # as an H100 reports it


def test_pdis_skip_what_is_not_there():
    assert pdis(bytes(8) + b"\xff" * 8 + b"12345678" * 2) == {b"12345678".hex()}


def test_lab_reports_parse():
    lab = nvidia_lab()
    assert parse_report(lab.report(lab.chip())).measurements == MEASUREMENTS
