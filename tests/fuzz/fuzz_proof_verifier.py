"""Fuzz: what a stranger sends as the proof of a statement.

Run `python tests/fuzz/fuzz_proof_verifier.py [libFuzzer options]` with atheris.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from mitai.errors import MitaiError
from mitai.proof.field import ONE
from mitai.proof.transcript import Prover, Verifier
from mitai.proof.verify.claims import Claim, check_claims
from mitai.proof.verify.commitment import check_openings
from mitai.proof.verify.lookups import check_lookups
from proof_rig import SHAPE, SQUARES, example, prove, verify

_X, _Y, PRODUCT = example()
_PROVER = Prover()
ROOT = prove(_X, _Y, PRODUCT, _PROVER).root
SEEDS = [_PROVER.proof, _PROVER.proof[:400], bytes(4096)]


def one_input(data: bytes) -> None:
    """Nothing but an error of the tree may come out."""
    with contextlib.suppress(MitaiError):
        verify(data, ROOT, PRODUCT)
    with contextlib.suppress(MitaiError):
        check_lookups(Verifier(data), [SHAPE], SQUARES)
    with contextlib.suppress(MitaiError):
        check_claims(Verifier(data), 3, [Claim([ONE] * 3, ONE)])
    with contextlib.suppress(MitaiError):
        check_openings(Verifier(data), ROOT, 8, [Claim([ONE] * 8, ONE), Claim([ONE] * 5, ONE, 32)])


def main() -> None:
    """Fuzz until stopped."""
    import atheris

    atheris.instrument_all()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
