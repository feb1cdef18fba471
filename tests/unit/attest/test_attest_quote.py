"""Quotes as bytes: exact lengths, known versions, nothing left over."""

from __future__ import annotations

import struct

import pytest

from attest_lab import flip
from mitai.attest.dcap.quote import MAX_QUOTE_BYTES, parse_enclave_report, parse_quote, parse_td_report, split_quote
from mitai.attest.sim import Workload, intel, registers


@pytest.fixture(scope="module")
def quote(lab) -> bytes:
    return lab.evidence().quote


def put(data: bytes, offset: int, form: str, value: int) -> bytes:
    raw = struct.pack(form, value)
    return data[:offset] + raw + data[offset + len(raw) :]


def test_what_was_written_is_read():
    report = intel.td_report(registers(Workload("a", bytes(32))), bytes(range(64)))
    assert parse_td_report(intel.encode_td_report(report)) == report


def test_what_was_signed_is_what_was_received(quote):
    parsed = parse_quote(quote)
    assert parsed.signed == quote[: 48 + 584]
    assert parsed.header.version == 4


@pytest.mark.parametrize(
    ("offset", "form", "value", "code"),
    [
        (0, "<H", 2, "attest.quote-version-unsupported"),
        (0, "<H", 6, "attest.quote-version-unsupported"),
        (0, "<H", 3, "attest.quote-tee-unsupported"),
        (2, "<H", 3, "attest.quote-key-type-unsupported"),
        (4, "<I", 0, "attest.quote-tee-unsupported"),
        (632, "<I", 0xFFFFFFFF, "attest.quote-malformed"),
        (632, "<I", 127, "attest.quote-malformed"),
        (764, "<H", 5, "attest.quote-cert-type-unsupported"),
        (766, "<I", 10, "attest.quote-malformed"),
        (1218, "<H", 0xFFFF, "attest.quote-malformed"),  # length of the authentication data
        (1252, "<H", 4, "attest.quote-cert-type-unsupported"),
        (1252, "<H", 6, "attest.quote-cert-type-unsupported"),
        (1254, "<I", 0, "attest.quote-malformed"),
    ],
)
def test_fields_that_are_refused(quote, refused, offset, form, value, code):
    with refused(code):
        parse_quote(put(quote, offset, form, value))


def test_version_5_bodies(lab, quote, refused):
    report = intel.td_report(registers(Workload("a", bytes(32))), bytes(64))
    fifth = lab.platform.quote(report, version=5)
    assert parse_quote(fifth).body == report
    assert parse_quote(fifth).signed == fifth[: 48 + 6 + 584]
    for body_type, size in ((1, 384), (2, 648), (3, 584), (4, 584), (2, 0)):
        with refused("attest.quote-body-unsupported"):
            parse_quote(put(put(fifth, 48, "<H", body_type), 50, "<I", size))


def test_every_truncation(quote, refused):
    for size in (0, 1, 47, 48, 631, 635, 636, 763, 769, 1217, 1253, len(quote) - 1):
        with refused("attest.quote-malformed"):
            parse_quote(quote[:size])


def test_padding_is_zero_and_bounded(quote, refused):
    assert parse_quote(quote + bytes(1000)) == parse_quote(quote)
    with refused("attest.quote-malformed"):
        parse_quote(flip(quote + bytes(1000), len(quote) + 500))
    with refused("attest.quote-too-large"):
        parse_quote(quote + bytes(MAX_QUOTE_BYTES))


def test_split(quote, refused):
    assert split_quote(quote + b"more") == (quote, b"more")
    assert split_quote(quote[:-1]) == (quote[:-1], b"")
    with refused("attest.quote-malformed"):
        split_quote(quote[:100])


def test_reports_have_one_size(refused):
    with refused("attest.quote-malformed"):
        parse_enclave_report(bytes(383))
    with refused("attest.quote-malformed"):
        parse_td_report(bytes(583))
    with refused("attest.quote-malformed"):
        parse_td_report(bytes(600))
    with refused("attest.quote-malformed"):
        parse_td_report(bytes(649))
