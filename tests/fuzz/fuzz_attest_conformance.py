"""Fuzz: the conformance command.

Run `python tests/fuzz/fuzz_attest_conformance.py [libFuzzer options]` with atheris.
"""

import contextlib
import sys

from mitai.attest.conformance import MALFORMED, REJECTED, STAGE, main
from mitai.errors import MitaiError

SEEDS = [b'{"schema_version":"1","quote_b64":"","expiration_check_date_unix":0,"collateral":{}}']


def one_input(data: bytes) -> None:
    """Nothing but an error of the tree may come out."""
    with contextlib.suppress(MitaiError):
        exit_code, _ = main([STAGE], data)
        assert exit_code in {REJECTED, MALFORMED}


if __name__ == "__main__":
    import atheris

    atheris.instrument_all()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
