"""Fuzz: appraisal policies.

Run `python tests/fuzz/fuzz_attest_policy.py [libFuzzer options]` with atheris.
"""

import contextlib
import sys

from mitai.attest import Policy
from mitai.errors import MitaiError

SEEDS = [Policy().to_toml().encode(), b'version = 1\nsim_roots = ["sha256:00"]']


def one_input(data: bytes) -> None:
    """Nothing but an error of the tree may come out."""
    with contextlib.suppress(MitaiError):
        policy = Policy.from_toml(data.decode(errors="replace"))
        assert Policy.from_toml(policy.to_toml()) == policy


if __name__ == "__main__":
    import atheris
    from instrument import instrument_ours

    instrument_ours()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
