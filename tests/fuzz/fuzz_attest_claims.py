"""Fuzz: claims.

Run `python tests/fuzz/fuzz_attest_claims.py [libFuzzer options]` with atheris.
"""

import contextlib
import sys

from mitai.attest import CapsuleClaim, Claims
from mitai.errors import MitaiError

SEEDS = [Claims(workload="a", key_config=b"", capsules=(CapsuleClaim("a", "00" * 32),)).encode()]


def one_input(data: bytes) -> None:
    """Nothing but an error of the tree may come out."""
    with contextlib.suppress(MitaiError):
        claims = Claims.decode(data)
        assert Claims.decode(claims.encode()) == claims


if __name__ == "__main__":
    import atheris
    from instrument import instrument_ours

    instrument_ours()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
