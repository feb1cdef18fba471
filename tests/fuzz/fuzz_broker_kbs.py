"""Fuzz: what guests of Confidential Containers send: requests, attestations, keys, evidence.

Run `python tests/fuzz/fuzz_broker_kbs.py [libFuzzer options]` with atheris.
"""

from __future__ import annotations

import contextlib
import sys
from typing import get_args

from mitai.broker.kbs.evidence import hardware_of
from mitai.broker.kbs.messages import Tee, parse_attestation, parse_request
from mitai.errors import MitaiError

_EC = b'{"kty":"EC","crv":"P-256","alg":"ECDH-ES+A256KW","x":"%b","y":"%b"}' % (b"A" * 43, b"A" * 43)
_RSA = b'{"kty":"RSA","alg":"RSA-OAEP-256","n":"%b","e":"AQAB"}' % (b"_" * 342)
_OUTER = b'{"runtime-data":{"nonce":"AA==","tee-pubkey":%b},"tee-evidence":{"primary_evidence":{"quote":"AA=="}}}'
SEEDS = [
    b'{"version":"0.4.0","tee":"tdx","extra-params":{"supported-hash-algorithms":["sha384"]}}',
    b'{"version":"0.4.0","tee":"az-snp-vtpm","extra-params":""}',
    _OUTER % _EC,
    _OUTER % _RSA,
    b'{"quote":"BAAC","cc_eventlog":null}',
    b'{"token":[1,2,3]}',
    b'{"attestation_report":{"version":3,"current_tcb":{"bootloader":1,"tee":2,"snp":3,"microcode":4}}}',
]


def one_input(data: bytes) -> None:
    """Nothing but an error of the tree may come out."""
    with contextlib.suppress(MitaiError):
        parse_request(data)
    with contextlib.suppress(MitaiError):
        attestation = parse_attestation(data)
        attestation.report_digest()
        attestation.key_json()
        attestation.recipient().seal(b"secret")
    for tee in get_args(Tee):
        with contextlib.suppress(MitaiError):
            hardware_of(tee, data)


def main() -> None:
    """Fuzz until stopped."""
    import atheris
    from instrument import instrument_ours

    instrument_ours()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
