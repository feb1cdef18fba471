"""Fuzz target: files of fingerprints, single ones, and kept answers. `python tests/fuzz/fuzz_serve_fingerprints.py`."""

from __future__ import annotations

import contextlib
import sys

import numpy as np

from mitai.client.kept import KeptAnswer
from mitai.errors import MitaiError
from mitai.serve.fingerprints import Fingerprints, compare

ROWS = np.random.default_rng(3).integers(0, 1 << 16, (2, 5), dtype=np.uint16)


def one_input(data: bytes) -> None:
    """Parse as everything that a service or a stranger's file can hold; only the tree's errors may come out."""
    with contextlib.suppress(MitaiError):
        file = Fingerprints.decode(data)
        assert file.encode() == data
        for choice in file.choices:
            for block in choice.blocks:
                compare(block, ROWS)
    with contextlib.suppress(MitaiError):
        assert 0 <= compare(data, ROWS).far <= 1
    with contextlib.suppress(MitaiError):
        KeptAnswer.decode(data)


def main() -> None:
    """Fuzz until stopped."""
    import atheris
    from instrument import instrument_ours

    instrument_ours()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
