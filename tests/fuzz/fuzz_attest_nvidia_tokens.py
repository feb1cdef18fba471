"""Fuzz: what NVIDIA's services answer: OCSP responses, NRAS bundles, key sets.

Run `python tests/fuzz/fuzz_attest_nvidia_tokens.py [libFuzzer options]` with atheris.
"""

import contextlib
import sys
from pathlib import Path

from mitai.attest.cache import VerifiedCache
from mitai.attest.checks import Checklist
from mitai.attest.nvidia import NvidiaRules, device_nonce
from mitai.attest.nvidia.nras import verify_nras
from mitai.attest.nvidia.ocsp import StatusBook, check_status
from mitai.attest.x509 import parse_der
from mitai.errors import MitaiError

sys.path.insert(0, str(Path(__file__).parents[1]))

from attest_nvidia_lab import NONCE, NOW, nras_lab, nvidia_lab, ocsp_response

_LAB, _NRAS = nvidia_lab(), nras_lab()
_SUBJECT = _LAB.provisioner
_CERTIFICATE, _ISSUER = (parse_der(party.der, "x") for party in (_SUBJECT, _SUBJECT.issuer))
_BUNDLE, _JWKS = _NRAS.bundle(_NRAS.gpu_claims()), _NRAS.jwks()
SEEDS = [b"\0" + ocsp_response(_SUBJECT), b"\1" + _BUNDLE, b"\2" + _JWKS]


def one_input(data: bytes) -> None:
    """Nothing but an error of the tree may come out; the first byte chooses what the rest is."""
    kind, rest = data[0] if data else 0, data[1:]
    with contextlib.suppress(MitaiError):
        if kind == 0:
            cache = VerifiedCache()
            check_status(_CERTIFICATE, _ISSUER, StatusBook.parse((rest,)), NvidiaRules(), now=NOW, cache=cache)
        else:
            bundle, jwks = (rest, _JWKS) if kind == 1 else (_BUNDLE, rest)
            verify_nras(Checklist(), bundle, jwks, device_nonce(NONCE), _NRAS.rules(), now=NOW)


if __name__ == "__main__":
    import atheris
    from instrument import instrument_ours

    instrument_ours()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
