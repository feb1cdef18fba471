"""Fuzz: TDVF images and kernels, of which expectations are computed.

Run `python tests/fuzz/fuzz_attest_boot_images.py [libFuzzer options]` with atheris.
"""

import contextlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from attest_boot_lab import Kernel, firmware
from mitai.attest.refvalues.boot import LAYOUTS, rtmr1
from mitai.attest.refvalues.expected import supported_tees
from mitai.attest.refvalues.tdvf import mrtd
from mitai.errors import MitaiError

# The last page holds everything that is parsed; a page of nothing before it keeps inputs small.
SEEDS = [firmware()[-4096:], Kernel().encode(), Kernel(signature=b"signature").encode()]


def one_input(data: bytes) -> None:
    """Nothing but an error of the tree may come out."""
    image = data.rjust(4096 * (len(data) // 4096 + 1), b"\0")
    supported_tees(image)
    with contextlib.suppress(MitaiError):
        assert len(mrtd(image)) == 48
    for layout in (LAYOUTS["qemu"], LAYOUTS["ovmf-2025.05"]):
        with contextlib.suppress(MitaiError):
            assert len(rtmr1(data, b"initrd", memory_bytes=1 << 30, layout=layout)) == 48


if __name__ == "__main__":
    import atheris
    from instrument import instrument_ours

    instrument_ours()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
