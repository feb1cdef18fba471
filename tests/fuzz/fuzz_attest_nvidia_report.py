"""Fuzz: reports of NVIDIA devices, and the JSON in which they travel.

Run `python tests/fuzz/fuzz_attest_nvidia_report.py [libFuzzer options]` with atheris.
"""

import contextlib
import struct
import sys

from mitai.attest.nvidia import decode_devices
from mitai.attest.nvidia.report import Opaque, parse_report, pdis, vbios_version
from mitai.errors import MitaiError

_OPAQUE = b"".join(
    struct.pack("<HH", kind, len(value)) + value
    for kind, value in ((3, b"570.10\0"), (6, bytes(8)), (20, bytes(48)), (22, bytes(16)), (34, b"\1\0"), (36, b"\0\0"))
)
_BLOCK = b"\1\1\x33\0\1\x30\0" + bytes(48)
_REPORT = b"\x11\xe0\1\xff" + bytes(33) + b"\x11\x60\0\0\1" + len(_BLOCK).to_bytes(3, "little") + _BLOCK
_REPORT += bytes(32) + struct.pack("<H", len(_OPAQUE)) + _OPAQUE + bytes(96)
SEEDS = [_REPORT, _REPORT + b"\0", b'[{"kind":"gpu","report":"AA==","certificates":"AA==","rims":["AA=="],"ocsp":[]}]']


def one_input(data: bytes) -> None:
    """Nothing but an error of the tree may come out."""
    with contextlib.suppress(MitaiError):
        report = parse_report(data)
        assert data.startswith(report.signed + report.signature)
        pdis(report.opaque.get(Opaque.PDI, b""))
        vbios_version(report)
        report.text(Opaque.DRIVER_VERSION)
    with contextlib.suppress(MitaiError):
        decode_devices(data)


if __name__ == "__main__":
    import atheris
    from instrument import instrument_ours

    instrument_ours()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
