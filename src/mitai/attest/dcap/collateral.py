"""Collateral: what Intel says about a platform on a given day, and the proof that Intel said it.

Follows "Intel SGX and TDX Provisioning Certification Service API" version 4 (TCB info version 3, enclave identity
version 2, CRLs) and Intel's QuoteVerificationLibrary for the order and meaning of the checks.

Invariants:

- Signatures are checked over the exact bytes received; JSON is parsed only afterwards.
- Every chain ends in the one root that the caller names by fingerprint.
- A `VerifiedCollateral` knows the window in which it may be used; outside of it, it is refused.

Example:
    >>> verified = verify_collateral(Collateral.decode(data), root_fingerprint, now)
    >>> verified.tcb_info.tcbEvaluationDataNumber
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import msgspec

from mitai.attest.dcap.pck import PckTcb
from mitai.attest.dcap.tcb import QeIdentity, TcbInfo, parse_qe_identity, parse_tcb_info
from mitai.attest.x509 import (
    Certificate,
    RevocationList,
    parse_chain,
    verify_chain,
    verify_crl,
    verify_signature,
)
from mitai.errors import AttestError, ParseError

MAX_COLLATERAL_BYTES = 1 << 20


class Collateral(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The parts as Intel serves them: PEM chains and JSON as text, CRLs (DER) and signatures (r ‖ s) as bytes.

    `pck_certificate_chain` is for quotes that do not carry their PCK certificates; where it is there, it is used.
    """

    tcb_info: str
    tcb_info_signature: bytes
    tcb_info_issuer_chain: str
    qe_identity: str
    qe_identity_signature: bytes
    qe_identity_issuer_chain: str
    root_ca_crl: bytes
    pck_crl: bytes
    pck_crl_issuer_chain: str
    pck_certificate_chain: str | None = None

    def encode(self) -> bytes:
        """Return our JSON form: binary parts in base64."""
        return msgspec.json.encode(self)

    @staticmethod
    def decode(data: bytes) -> Collateral:
        """Parse our JSON form; raise `ParseError` on anything else or above 1 MiB."""
        _refuse_oversize(data)
        try:
            return msgspec.json.decode(data, type=Collateral)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise ParseError("attest.collateral-malformed", "these bytes are not collateral") from error

    @staticmethod
    def from_quote_collateral_v3(data: bytes) -> Collateral:
        """Parse the JSON form of Intel's `QuoteCollateralV3`: the same names, binary parts in hex."""
        _refuse_oversize(data)
        try:
            parts: dict[str, object] = dict(msgspec.json.decode(data, type=dict[str, str]))
            parts |= {name: bytes.fromhex(str(parts[name])) for name in _BINARY}
            return msgspec.convert(parts, Collateral)
        except (msgspec.MsgspecError, ValueError, KeyError, RecursionError) as error:
            raise ParseError("attest.collateral-malformed", "these bytes are not a QuoteCollateralV3") from error


_BINARY = ("tcb_info_signature", "qe_identity_signature", "root_ca_crl", "pck_crl")


def _refuse_oversize(data: bytes) -> None:
    if len(data) > MAX_COLLATERAL_BYTES:
        raise ParseError("attest.collateral-malformed", f"collateral of {len(data)} bytes is above the limit")


@dataclass(frozen=True, slots=True)
class VerifiedChain:
    """A PCK chain that was verified under some collateral."""

    leaf: Certificate
    tcb: PckTcb
    not_before: datetime
    not_after: datetime


@dataclass(frozen=True, slots=True)
class VerifiedCollateral:
    """Collateral whose every signature holds; use it for any number of quotes while `check_window` passes."""

    root_fingerprint: str
    tcb_info: TcbInfo
    qe_identity: QeIdentity
    root_crl: RevocationList
    pck_crl: RevocationList
    pck_crl_issuer: Certificate
    not_before: datetime
    not_after: datetime
    # PCK chains that were verified under it, by SHA-256 of their PEM
    chains: OrderedDict[bytes, VerifiedChain] = field(default_factory=OrderedDict, repr=False, compare=False)

    def covers(self, now: datetime) -> bool:
        """Tell whether every part is valid at `now`."""
        return self.not_before <= now <= self.not_after


def verify_collateral(
    collateral: Collateral, root_fingerprint: str, now: datetime, *, grace_s: int = 0
) -> VerifiedCollateral:
    """Check chains, signatures and windows of all parts.

    Args:
        collateral: What was received.
        root_fingerprint: SHA-256 of the root certificate in which every chain must end, in hex.
        now: Time of the check.
        grace_s: Seconds that TCB info, QE identity and CRLs may be past their end.

    Raises:
        AttestError: `attest.tcb-info-*`, `attest.qe-identity-*`, `attest.root-crl-*`, `attest.pck-crl-*`.
    """
    # TCB info
    tcb_chain = _signing_chain(collateral.tcb_info_issuer_chain, "tcb-info", root_fingerprint, now)
    tcb_bytes = collateral.tcb_info.encode()
    _check_signature(tcb_chain, collateral.tcb_info_signature, tcb_bytes, "tcb-info")
    tcb_info = parse_tcb_info(tcb_bytes)
    _check_window("tcb-info", tcb_info.issueDate, _later(tcb_info.nextUpdate, grace_s), now)
    # QE identity
    qe_chain = tcb_chain  # Intel's service sends the same chain with both
    if collateral.qe_identity_issuer_chain != collateral.tcb_info_issuer_chain:
        qe_chain = _signing_chain(collateral.qe_identity_issuer_chain, "qe-identity", root_fingerprint, now)
    qe_bytes = collateral.qe_identity.encode()
    _check_signature(qe_chain, collateral.qe_identity_signature, qe_bytes, "qe-identity")
    qe_identity = parse_qe_identity(qe_bytes)
    _check_window("qe-identity", qe_identity.issueDate, _later(qe_identity.nextUpdate, grace_s), now)
    # Revocation lists: the root's own, and that of the CA which issues PCK certificates
    root_crl = verify_crl(collateral.root_ca_crl, tcb_chain[-1], "root-crl")
    _check_window("root-crl", root_crl.not_before, _later(root_crl.not_after, grace_s), now)
    crl_chain = _chain(collateral.pck_crl_issuer_chain, "pck-crl", root_fingerprint, now)
    if not is_pck_ca(crl_chain[0]):
        raise AttestError("attest.pck-crl-chain-invalid", f"{crl_chain[0].common_name!r} is no PCK CA")
    pck_crl = verify_crl(collateral.pck_crl, crl_chain[0], "pck-crl")
    _check_window("pck-crl", pck_crl.not_before, _later(pck_crl.not_after, grace_s), now)
    for signer in (tcb_chain[0], qe_chain[0]):
        root_crl.refuse_revoked(signer, "attest.tcb-signing-revoked")
    root_crl.refuse_revoked(crl_chain[0], "attest.intermediate-revoked")
    certificates = [certificate.parsed for certificate in (*tcb_chain, *qe_chain, *crl_chain)]
    signed = (tcb_info, qe_identity)
    lists = (root_crl, pck_crl)
    return VerifiedCollateral(
        root_fingerprint=root_fingerprint,
        tcb_info=tcb_info,
        qe_identity=qe_identity,
        root_crl=root_crl,
        pck_crl=pck_crl,
        pck_crl_issuer=crl_chain[0],
        not_before=max(
            *(part.issueDate for part in signed),
            *(part.not_before for part in lists),
            *(certificate.not_valid_before_utc for certificate in certificates),
        ),
        not_after=min(
            *(_later(part.nextUpdate, grace_s) for part in signed),
            *(_later(part.not_after, grace_s) for part in lists),
            *(certificate.not_valid_after_utc for certificate in certificates),
        ),
    )


def is_pck_ca(certificate: Certificate) -> bool:
    """Tell whether the certificate names itself one of the two CAs that issue PCK certificates."""
    return "SGX PCK Platform CA" in certificate.common_name or "SGX PCK Processor CA" in certificate.common_name


def _chain(pem: str, what: str, root_fingerprint: str, now: datetime) -> tuple[Certificate, ...]:
    chain = parse_chain(pem.encode(), f"attest.{what}-chain-invalid")
    if len(chain) != 2:
        raise AttestError(
            f"attest.{what}-chain-invalid", f"the chain has {len(chain)} certificates, not issuer and root"
        )
    if chain[-1].fingerprint != root_fingerprint:
        raise AttestError(
            f"attest.{what}-chain-invalid", "the chain does not end in the root that the quote's chain ends in"
        )
    verify_chain(chain, what, now)
    return chain


def _signing_chain(pem: str, what: str, root_fingerprint: str, now: datetime) -> tuple[Certificate, ...]:
    chain = _chain(pem, what, root_fingerprint, now)
    if "SGX TCB Signing" not in chain[0].common_name:
        raise AttestError(f"attest.{what}-chain-invalid", f"{chain[0].common_name!r} is no TCB signing certificate")
    return chain


def _check_signature(chain: tuple[Certificate, ...], signature: bytes, message: bytes, what: str) -> None:
    why = f"the {what} is not signed by {chain[0].common_name!r}"
    verify_signature(chain[0].ec_key, signature, message, f"attest.{what}-signature-invalid", why)


def _later(moment: datetime, grace_s: int) -> datetime:
    try:
        return moment + timedelta(seconds=grace_s)
    except OverflowError:  # the end of the calendar
        return moment


def _check_window(what: str, start: datetime, end: datetime, now: datetime) -> None:
    if not start <= now <= end:
        raise AttestError(
            f"attest.{what}-expired",
            f"the {what} is valid from {start:%F %T} to {end:%F %T} UTC, not on {now:%F %T}",
            hint="fetch fresh collateral, and check this machine's clock",
        )
