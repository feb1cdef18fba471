"""Fuzz: the end of OVMF, from which a launch digest is computed.

Run `python tests/fuzz/fuzz_attest_snp_launch.py [libFuzzer options]` with atheris.
"""

import contextlib
import struct
import sys
import uuid

from mitai.attest.ovmf import PAGE
from mitai.attest.snp.launch import launch_digest
from mitai.errors import MitaiError

_SECTIONS = struct.pack("<III", 0x800000, PAGE, 1) + struct.pack("<III", 0x801000, PAGE, 0x10)
_METADATA = struct.pack("<4sIII", b"ASEV", 16 + len(_SECTIONS), 1, 2) + _SECTIONS
_ENTRIES = struct.pack("<IH", 512, 22) + uuid.UUID("dc886566-984a-4798-a75e-5585a7bf67cc").bytes_le
_ENTRIES += struct.pack("<IH", 0x801000, 22) + uuid.UUID("7255371f-3a3b-4b04-927b-1da6efa8d454").bytes_le
_FOOTER = struct.pack("<H", len(_ENTRIES) + 18) + uuid.UUID("96b582de-1fb2-45f7-baea-a366c55a082d").bytes_le
_END = _ENTRIES + _FOOTER + bytes(32)
SEEDS = [_METADATA.ljust(512 - len(_END), b"\0") + _END]


def one_input(data: bytes) -> None:
    """Nothing but an error of the tree may come out; the input is the end of a page."""
    with contextlib.suppress(MitaiError):
        digest = launch_digest(data[-PAGE:].rjust(PAGE, b"\0"), vcpus=1, vcpu=0, kernel=b"", ovmf_hash=bytes(48))
        assert len(digest) == 48


if __name__ == "__main__":
    import atheris
    from instrument import instrument_ours

    instrument_ours()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
