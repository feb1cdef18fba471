"""Fuzz: SEV-SNP reports and the tables of certificates beside them.

Run `python tests/fuzz/fuzz_attest_snp_report.py [libFuzzer options]` with atheris.
"""

import contextlib
import struct
import sys

from mitai.attest.snp.report import REPORT_BYTES, SIGNED_BYTES, parse_certificate_table, parse_report
from mitai.errors import MitaiError


def _report(version: int, cpuid: bytes) -> bytes:
    body = bytearray(REPORT_BYTES)
    struct.pack_into("<IIQ", body, 0, version, 0, 0x30000)
    struct.pack_into("<I", body, 0x34, 1)
    body[0x188 : 0x188 + len(cpuid)] = cpuid
    return bytes(body)


SEEDS = [_report(2, b""), _report(3, b"\x19\x01"), _report(4, b"\x19\x11"), _report(5, b"\x1a\x02")]
SEEDS += [bytes(24), b"\1" * 16 + struct.pack("<II", 48, 1) + bytes(24) + b"x"]


def one_input(data: bytes) -> None:
    """Nothing but an error of the tree may come out."""
    with contextlib.suppress(MitaiError):
        assert parse_report(data).signed == data[:SIGNED_BYTES]
    with contextlib.suppress(MitaiError):
        assert all(blob in data for blob in parse_certificate_table(data).values())


if __name__ == "__main__":
    import atheris
    from instrument import instrument_ours

    instrument_ours()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
