"""From a quote to its platform: the signature chain, then the TCB level.

Follows "Intel TDX DCAP Quoting Library API", appendix 3, and the checks of Intel's QuoteVerificationLibrary:
attestation key → QE report → PCK certificate → PCK CA → root.

Invariants:

- The attestation key is used only because the QE's report data is SHA-256(attestation key ‖ authentication data), and
  that report is signed by the PCK key, and that key's chain ends in a root that the caller trusts and is on no
  revocation list.
- Nothing of the quote is reported before its signature was checked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from mitai.attest.dcap import tcb
from mitai.attest.dcap.collateral import VerifiedChain, VerifiedCollateral, is_pck_ca
from mitai.attest.dcap.pck import pck_tcb
from mitai.attest.dcap.quote import CERT_PCK_CHAIN, EnclaveReport, Quote, TdReport, parse_enclave_report
from mitai.attest.x509 import Certificate, parse_chain, public_key, verify_chain, verify_signature
from mitai.errors import AttestError

_MAX_CHAINS = 256  # per collateral: one chain a platform


@dataclass(frozen=True, slots=True)
class PckChain:
    """A quote's certificate chain, parsed but not yet verified, and the root that it claims."""

    pem: bytes
    certificates: tuple[Certificate, Certificate, Certificate]

    @property
    def root(self) -> Certificate:
        """Return the last certificate."""
        return self.certificates[2]


def find_pck_chain(quote: Quote, out_of_band: str | None) -> PckChain:
    """Return the chain that came with the collateral or, where none came, the one in the quote."""
    if out_of_band is not None:
        pem = out_of_band.encode()
    elif quote.signature.cert_type == CERT_PCK_CHAIN:
        pem = quote.signature.cert_data
    else:
        raise AttestError(
            "attest.pck-chain-incomplete", "the quote carries no PCK certificate, and none came with the collateral"
        )
    chain = parse_chain(pem, "attest.pck-chain-invalid")
    if len(chain) != 3:
        raise AttestError(
            "attest.pck-chain-incomplete", f"the PCK chain has {len(chain)} certificates, not leaf, CA and root"
        )
    return PckChain(pem, (chain[0], chain[1], chain[2]))


def check_root(chain: PckChain, roots: Mapping[str, bool], *, allow_simulation: bool) -> bool:
    """Check that the chain's root is trusted; return whether it is a simulated one.

    Args:
        chain: The quote's chain.
        roots: SHA-256 fingerprint of each trusted root, and whether it is a simulated one.
        allow_simulation: The verifier's decision; what the evidence says about itself does not matter.
    """
    simulated = roots.get(chain.root.fingerprint)
    name = chain.root.common_name
    if simulated is None and "Simulation" not in name:
        raise AttestError(
            "attest.root-untrusted", f"the chain ends in the root {name!r}, which the policy does not trust"
        )
    if simulated is not False and not allow_simulation:
        raise AttestError(
            "attest.simulation-refused",
            f"the chain ends in the root {name!r}: a simulated machine, and the policy demands real hardware",
            hint="simulation proves nothing about hardware; for a trial, allow it and name its root in the policy",
        )
    if simulated is None:
        raise AttestError(
            "attest.simulated-root-unknown",
            f"the simulated root sha256:{chain.root.fingerprint} is none of the policy's sim_roots",
        )
    return simulated


def verify_pck_chain(chain: PckChain, collateral: VerifiedCollateral, now: datetime) -> VerifiedChain:
    """Check the chain and that nobody revoked it; remember it for as long as it and the collateral live."""
    digest = hashlib.sha256(chain.pem).digest()
    known = collateral.chains.get(digest)
    if known is not None and known.not_before <= now <= known.not_after:
        return known
    leaf, intermediate, root = chain.certificates
    if root.fingerprint != collateral.root_fingerprint:
        raise AttestError("attest.pck-chain-invalid", "the PCK chain and the collateral end in different roots")
    if "SGX PCK Certificate" not in leaf.common_name or not is_pck_ca(intermediate):
        raise AttestError(
            "attest.pck-chain-invalid", f"{leaf.common_name!r} under {intermediate.common_name!r} is no PCK chain"
        )
    verify_chain(chain.certificates, "pck", now)
    issuer = collateral.pck_crl_issuer
    if intermediate.parsed.subject != issuer.parsed.subject or intermediate.key != issuer.key:
        raise AttestError(
            "attest.pck-crl-issuer-mismatch", f"the PCK revocation list is not of {intermediate.common_name!r}"
        )
    collateral.root_crl.refuse_revoked(intermediate, "attest.intermediate-revoked")
    collateral.pck_crl.refuse_revoked(leaf, "attest.pck-revoked")
    parsed = [certificate.parsed for certificate in chain.certificates]
    verified = VerifiedChain(
        leaf,
        pck_tcb(leaf),
        max(certificate.not_valid_before_utc for certificate in parsed),
        min(certificate.not_valid_after_utc for certificate in parsed),
    )
    collateral.chains[digest] = verified
    while len(collateral.chains) > _MAX_CHAINS:
        collateral.chains.popitem(last=False)
    return verified


def verify_quote_signature(quote: Quote, leaf: Certificate) -> EnclaveReport:
    """Check PCK key → QE report → attestation key → quote; return the quoting enclave's report."""
    parts = quote.signature
    verify_signature(
        leaf.ec_key,
        parts.qe_signature,
        parts.qe_report,
        "attest.qe-report-signature-invalid",
        "the quoting enclave's report is not signed by the platform's PCK key",
    )
    qe_report = parse_enclave_report(parts.qe_report)
    binding = hashlib.sha256(parts.attestation_key + parts.qe_auth_data).digest()
    if qe_report.report_data != binding + bytes(32):
        raise AttestError(
            "attest.attestation-key-unbound", "the quoting enclave does not vouch for the key that signs the quote"
        )
    verify_signature(
        public_key(parts.attestation_key, "attest.quote-signature-invalid"),
        parts.signature,
        quote.signed,
        "attest.quote-signature-invalid",
        "the quote is not signed by its attestation key: a byte of it was changed",
    )
    return qe_report


def check_qe(quote: Quote, qe_report: EnclaveReport, collateral: VerifiedCollateral) -> None:
    """Check that the quoting enclave is Intel's."""
    expected_id = "TD_QE" if isinstance(quote.body, TdReport) else "QE"
    tcb.check_qe_identity(qe_report, collateral.qe_identity, expected_id)
