"""Fuzz: what a stranger sends as the proof of a statement.

Run `python tests/fuzz/fuzz_proof_verifier.py [libFuzzer options]` with atheris.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from mitai.errors import MitaiError
from mitai.proof import field
from mitai.proof.field import ONE
from mitai.proof.hiding import commit_hiding, commit_pads, prove_hidden
from mitai.proof.transcript import Prover, Verifier
from mitai.proof.verify.claims import Claim, check_claims
from mitai.proof.verify.commitment import check_openings
from mitai.proof.verify.hiding import Equation, Opening, check_hidden, inner, receive_pads
from mitai.proof.verify.lookups import check_lookups
from proof_rig import SHAPE, SQUARES, example, prove, verify

_X, _Y, PRODUCT = example()
_PROVER = Prover()
ROOT = prove(_X, _Y, PRODUCT, _PROVER).root
_HIDING = Prover()
_PADS, _COMMITTED = commit_pads(_HIDING, 2), commit_hiding(np.arange(2, dtype=np.uint64))
_WEIGHTS = field.array([ONE, ONE])
_FIRST, _SECOND = field.elements(_PADS.values)
EQUATION = Equation(
    _WEIGHTS,
    [(0, 1)],
    _WEIGHTS[:1],
    inner(_WEIGHTS, _PADS.values) + _FIRST * _SECOND + ONE,  # 0 and 1 are committed to
)
_OPENING = Opening(_COMMITTED.root, 1, 1, [], _WEIGHTS)
prove_hidden(_HIDING, _PADS, EQUATION, [(_COMMITTED, _OPENING)])
SEEDS = [_PROVER.proof, _PROVER.proof[:400], bytes(4096), _HIDING.proof]


def hidden(data: bytes) -> None:
    """Check a proof that hides two pads and two numbers."""
    verifier = Verifier(data)
    check_hidden(verifier, receive_pads(verifier, 2), EQUATION, [_OPENING])
    verifier.finish()


hidden(_HIDING.proof)


def one_input(data: bytes) -> None:
    """Nothing but an error of the tree may come out."""
    with contextlib.suppress(MitaiError):
        verify(data, ROOT, PRODUCT)
    with contextlib.suppress(MitaiError):
        check_lookups(Verifier(data), [SHAPE], SQUARES)
    with contextlib.suppress(MitaiError):
        hidden(data)
    with contextlib.suppress(MitaiError):
        check_claims(Verifier(data), 3, [Claim([ONE] * 3, ONE)])
    with contextlib.suppress(MitaiError):
        check_openings(Verifier(data), ROOT, 8, [Claim([ONE] * 8, ONE), Claim([ONE] * 5, ONE, 32)])


def main() -> None:
    """Fuzz until stopped."""
    import atheris
    from instrument import instrument_ours

    instrument_ours()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
