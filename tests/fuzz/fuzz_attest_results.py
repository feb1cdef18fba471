"""Fuzz: attestation results, tokens and conceptual message wrappers.

Run `python tests/fuzz/fuzz_attest_results.py [libFuzzer options]` with atheris.
"""

import contextlib
import sys
from datetime import UTC, datetime, timedelta

from mitai.attest.results import cmw
from mitai.attest.results.ear import TRUSTEE, AttestationResult, Submodule
from mitai.attest.results.tokens import TokenTrust, accept, new_key, public_key, sign
from mitai.errors import AttestError, MitaiError

NOW = datetime(2026, 11, 22, tzinfo=UTC)
KEY = new_key()
TRUST = TokenTrust(keys=(public_key(KEY),), roots=("00" * 32,))
RESULTS = [
    AttestationResult.of(
        {"cpu": Submodule.refused(AttestError("attest.example", "no", step="1 root"), policy_id="p")},
        now=NOW,
        lifetime=timedelta(minutes=5),
        nonce=bytes(32),
        **profile,
    )
    for profile in ({}, {"profile": TRUSTEE})
]
RECORD = cmw.Record("application/eat+jwt", b"token", cmw.RESULTS)
NESTED = cmw.Collection({"a": RECORD, 1: cmw.Collection({"b": cmw.Record(30001, b"x")})}, "tag:x")
SEEDS = [
    *(result.encode() for result in RESULTS),
    *(sign(result, KEY).encode() for result in RESULTS),
    cmw.encode_cbor(NESTED),
    cmw.encode_json(NESTED),
]


def one_input(data: bytes) -> None:
    """Nothing but an error of the tree may come out; what is read can be written and read again."""
    with contextlib.suppress(MitaiError):
        result = AttestationResult.decode(data)
        assert AttestationResult.decode(result.encode()).submods.keys() == result.submods.keys()
    with contextlib.suppress(MitaiError):
        message = cmw.decode(data)
        assert cmw.decode(cmw.encode_cbor(message)) == message
    with contextlib.suppress(MitaiError):
        accept(data.decode("latin-1"), TRUST, now=NOW)


if __name__ == "__main__":
    import atheris
    from instrument import instrument_ours

    instrument_ours()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
