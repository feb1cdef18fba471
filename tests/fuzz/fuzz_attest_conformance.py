"""Fuzz: the conformance command, every stage.

Run `python tests/fuzz/fuzz_attest_conformance.py [libFuzzer options]` with atheris.
"""

import sys

from mitai.attest.conformance import ACCEPTED, MALFORMED, REJECTED, STAGES, main

SEEDS = [
    b'{"schema_version":"1","quote_b64":"","expiration_check_date_unix":0,"collateral":{}}',
    b'{"schema_version":"1","source":{"type":"https://tinfoil.sh/predicate/tdx-guest/v2","registers":["00"]}}',
    b'{"schema_version":"1","mode":"pinned","pinned_measurement":{"type":"","registers":[]},"attestation_sev":{}}',
]


def one_input(data: bytes) -> None:
    """A verdict must come out, whatever goes in."""
    for stage in STAGES:
        exit_code, _ = main([stage], data)
        assert exit_code in {ACCEPTED, REJECTED, MALFORMED}


if __name__ == "__main__":
    import atheris
    from instrument import instrument_ours

    instrument_ours()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
