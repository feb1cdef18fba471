"""Fuzz: Hygon CSV reports and certificates, signatures included: none of a fuzzer's may fit.

Run `python tests/fuzz/fuzz_attest_csv.py [libFuzzer options]` with atheris.
"""

import contextlib
import dataclasses
import sys

from mitai.attest.csv import parse_report, sm2
from mitai.attest.csv.certificates import parse_ca_certificate, parse_chip_certificate, verify_issued
from mitai.attest.csv.report import PAGE_BYTES
from mitai.attest.csv.roots import HYGON_ROOT
from mitai.errors import MitaiError

KEY = b"\3\0\0\0" + sm2.G[0].to_bytes(72, "little") + sm2.G[1].to_bytes(72, "little") + b"\1\0" + b"x".ljust(254, b"\0")
HSK = b"\1\0\0\0" + bytes(32) + b"\x13\0\0\0" + bytes(24) + KEY + bytes(108) + b"\1".ljust(144, b"\0") + bytes(112)
SLOT = b"\x13\0\0\0\4\0\0\0" + b"\1".ljust(144, b"\0") + bytes(368)
CEK = b"\2\0\0\0\1\4\0\0\4\x10\0\0\4\0\0\0" + KEY + bytes(16) + bytes(608) + SLOT + b"\0\x10\0\0" + bytes(516)
REPORT = bytes(176) + b"\1\0\0\0\2\x10\0\0\4\0\0\0" + bytes(4 + 144) + CEK + b"S".ljust(64, b"\0") + bytes(64)
EXTENDED = bytes(176) + b"\1\0\0\0\2\x10\0\0\4\0\0\0" + bytes(836 + 144) + CEK + b"S".ljust(64, b"\0") + bytes(64)
NOBODY = dataclasses.replace(HYGON_ROOT, user_id=b"nobody")  # what Hygon signed, nobody did not
SEEDS = [HSK, CEK, REPORT, EXTENDED]


def one_input(data: bytes) -> None:
    """Nothing but an error of the tree may come out, and no certificate is issued by nobody."""
    with contextlib.suppress(MitaiError):
        parse_report(data)
    with contextlib.suppress(MitaiError):
        parse_report(data.ljust(PAGE_BYTES, b"\0"))
    for parse in (parse_ca_certificate, parse_chip_certificate):
        with contextlib.suppress(MitaiError):
            verify_issued(parse(data, "it"), NOBODY)
            raise AssertionError("a forged certificate passed")


if __name__ == "__main__":
    import atheris
    from instrument import instrument_ours

    instrument_ours()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
