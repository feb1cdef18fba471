"""A second opinion on a quote: Phala's `dcap-qvl` (Rust, MIT). Who disagrees refuses.

Only asked where the policy says so. It refuses some quotes that a policy of ours can accept (debug TDs, TDs without
SEPT_VE_DISABLE): then its refusal stands.
"""

from __future__ import annotations

from datetime import datetime

from mitai.attest.dcap.collateral import Collateral
from mitai.attest.dcap.tcb import TcbResult
from mitai.errors import AttestError

_PARTS = (
    "pck_crl_issuer_chain",
    "root_ca_crl",
    "pck_crl",
    "tcb_info_issuer_chain",
    "tcb_info",
    "tcb_info_signature",
    "qe_identity_issuer_chain",
    "qe_identity",
    "qe_identity_signature",
)


def ask(quote: bytes, collateral: Collateral, root: bytes, now: datetime, ours: TcbResult) -> None:
    """Raise `AttestError` unless `dcap-qvl` comes to the same status and advisories.

    Args:
        quote: The whole quote.
        collateral: What it was verified with.
        root: The root certificate (DER) that was accepted for it.
        now: Time of the check.
        ours: What this verifier found.
    """
    try:
        import dcap_qvl
    except ImportError:
        raise AttestError(
            "attest.second-opinion-missing",
            "the policy demands a second opinion, and dcap-qvl is not installed",
            hint="pip install dcap-qvl",
        ) from None
    given = dcap_qvl.QuoteCollateralV3(*(getattr(collateral, part) for part in _PARTS))
    try:
        theirs = dcap_qvl.verify_with_root_ca(quote, given, root, int(now.timestamp()))
    except ValueError as error:
        raise AttestError("attest.second-opinion-differs", f"dcap-qvl refuses what we accept: {error}"[:300]) from error
    if (theirs.status, sorted(theirs.advisory_ids)) != (ours.status.value, sorted(ours.advisory_ids)):
        raise AttestError(
            "attest.second-opinion-differs", f"dcap-qvl finds {theirs.status[:60]!r}, we find {ours.status.value!r}"
        )
