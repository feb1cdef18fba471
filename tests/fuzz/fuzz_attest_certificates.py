"""Fuzz: PEM chains, certificates, revocation lists and the SGX extension.

Run `python tests/fuzz/fuzz_attest_certificates.py [libFuzzer options]` with atheris.
"""

import contextlib
import sys
from datetime import UTC, datetime

from mitai.attest.dcap.pck import parse_sgx_extension, pck_tcb
from mitai.attest.dcap.roots import INTEL_SGX_ROOT_CA
from mitai.attest.sim.intel import sgx_extension, x509
from mitai.attest.x509 import Certificate, parse_chain, verify_chain, verify_crl
from mitai.errors import MitaiError

ROOT = Certificate(INTEL_SGX_ROOT_CA, x509.load_der_x509_certificate(INTEL_SGX_ROOT_CA))
SEEDS = [sgx_extension(), INTEL_SGX_ROOT_CA, b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]


def one_input(data: bytes) -> None:
    """Nothing but an error of the tree may come out."""
    with contextlib.suppress(MitaiError):
        parse_sgx_extension(data)
    with contextlib.suppress(MitaiError):
        verify_crl(data, ROOT, "root-crl")
        raise AssertionError("a revocation list was forged")
    with contextlib.suppress(MitaiError):
        chain = parse_chain(data, "attest.pck-chain-invalid")
        verify_chain(chain, "pck", datetime(2026, 1, 1, tzinfo=UTC))
        pck_tcb(chain[0] if chain else ROOT)


if __name__ == "__main__":
    import atheris
    from instrument import instrument_ours

    instrument_ours()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
