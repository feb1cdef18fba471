"""Fuzz: quotes of all versions; what parses keeps its signed bytes.

Run `python tests/fuzz/fuzz_attest_quote.py [libFuzzer options]` with atheris.
"""

import contextlib
import sys

from mitai.attest.dcap.quote import parse_quote, split_quote
from mitai.errors import MitaiError

SEEDS = [b"\3\0\2\0" + bytes(600), b"\4\0\2\0\x81\0\0\0" + bytes(1300), b"\5\0\2\0\x81\0\0\0" + bytes(1400)]


def one_input(data: bytes) -> None:
    """Nothing but an error of the tree may come out."""
    with contextlib.suppress(MitaiError):
        assert data.startswith(parse_quote(data).signed)
        quote, rest = split_quote(data)
        assert quote + rest == data


if __name__ == "__main__":
    import atheris
    from instrument import instrument_ours

    instrument_ours()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
