"""Fuzz: collateral in both JSON forms, TCB info, QE identity.

Run `python tests/fuzz/fuzz_attest_collateral.py [libFuzzer options]` with atheris.
"""

import contextlib
import sys

from mitai.attest.dcap.collateral import Collateral
from mitai.attest.dcap.tcb import parse_qe_identity, parse_tcb_info
from mitai.errors import MitaiError

SEEDS = [b'{"version":3,"id":"TDX","tcbLevels":[]}', b'{"version":2,"id":"TD_QE"}', b'{"tcb_info":"","pck_crl":""}']


def one_input(data: bytes) -> None:
    """Nothing but an error of the tree may come out."""
    with contextlib.suppress(MitaiError):
        parse_tcb_info(data)
    with contextlib.suppress(MitaiError):
        parse_qe_identity(data)
    with contextlib.suppress(MitaiError):
        Collateral.from_quote_collateral_v3(data)
    with contextlib.suppress(MitaiError):
        collateral = Collateral.decode(data)
        assert Collateral.decode(collateral.encode()) == collateral


if __name__ == "__main__":
    import atheris
    from instrument import instrument_ours

    instrument_ours()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
