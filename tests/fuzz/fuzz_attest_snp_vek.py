"""Fuzz: VCEK and VLEK certificates, chains, revocation lists and AMD's extensions.

Run `python tests/fuzz/fuzz_attest_snp_vek.py [libFuzzer options]` with atheris.
"""

import contextlib
import sys
from datetime import UTC, datetime

from cryptography.hazmat.primitives.serialization import Encoding

from mitai.attest.snp import vek
from mitai.attest.snp.roots import published
from mitai.errors import MitaiError

NOW = datetime(2026, 1, 1, tzinfo=UTC)
GENOA = published()["SEV-Genoa"]
SEEDS = [
    GENOA.der,
    GENOA.parsed.public_bytes(Encoding.PEM) + published()["ARK-Genoa"].parsed.public_bytes(Encoding.PEM),
    b"\x02\x02\x00\xdb",
    b"\x16\x05Genoa",
    b"\x04\x08" + bytes(8),
]


def one_input(data: bytes) -> None:
    """Nothing but an error of the tree may come out, and nothing is endorsed that AMD did not sign."""
    for kind in ("vcek", "vlek"):
        for name in ("vek", "chain", "crl", "certs"):
            with contextlib.suppress(MitaiError):
                vek.verify_endorsements({"vek": GENOA.der, name: data}, kind, NOW)
                raise AssertionError("an endorsement was forged")
    for read in (vek._integer, vek._text):
        with contextlib.suppress(MitaiError):
            read({"x": data}, "x")
    with contextlib.suppress(MitaiError):
        assert len(vek._chip_id(data, 8)) == 8


if __name__ == "__main__":
    import atheris
    from instrument import instrument_ours

    instrument_ours()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
