"""Fuzz: evidence bundles.

Run `python tests/fuzz/fuzz_attest_evidence.py [libFuzzer options]` with atheris.
"""

import contextlib
import sys

from mitai.attest import Evidence
from mitai.errors import MitaiError

SEEDS = [Evidence(tee="tdx", quote=b"", claims=b"{}", nonce=bytes(32)).encode()]


def one_input(data: bytes) -> None:
    """Nothing but an error of the tree may come out."""
    with contextlib.suppress(MitaiError):
        evidence = Evidence.decode(data)
        assert Evidence.decode(evidence.encode()) == evidence


if __name__ == "__main__":
    import atheris
    from instrument import instrument_ours

    instrument_ours()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
