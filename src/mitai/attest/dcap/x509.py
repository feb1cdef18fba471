"""Intel's certificate chains and revocation lists, walked step by step against one given root.

Follows "Intel SGX PCK Certificate and Certificate Revocation List Profile Specification" 1.5 and RFC 5280, section 6,
for the fields that this profile uses. Every chain has a fixed shape: leaf, at most one intermediate, root.

Invariants:

- The root is trusted because it is byte for byte the one that the caller gave (by SHA-256), never because of its name.
- Every certificate: P-256, ECDSA with SHA-256, inside its validity, no unknown critical extension; an issuer has CA
  and keyCertSign.
- PEM is read strictly: nothing before, between or after the certificates, canonical base64.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import ExtensionOID, NameOID, SignatureAlgorithmOID

from mitai.errors import AttestError, ParseError

MAX_PEM_BYTES = 64 << 10
_ECDSA_SHA256 = ec.ECDSA(SHA256())
_UNUSABLE = (
    ValueError,
    TypeError,
    InvalidSignature,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
_PEM = re.compile(
    rb"-----BEGIN CERTIFICATE-----\r?\n((?:[A-Za-z0-9+/=]{1,76}\r?\n){1,200})-----END CERTIFICATE-----(?:\r?\n)?"
)
_KNOWN_CRITICAL = {ExtensionOID.KEY_USAGE, ExtensionOID.BASIC_CONSTRAINTS}


@dataclass(frozen=True, slots=True)
class Certificate:
    """A parsed certificate together with its exact bytes."""

    der: bytes
    parsed: x509.Certificate

    @property
    def fingerprint(self) -> str:
        """Return SHA-256 over the DER, in hex."""
        return hashlib.sha256(self.der).hexdigest()

    @property
    def common_name(self) -> str:
        """Return the subject's common name, for checks of role and for messages; nothing where there is not one."""
        try:
            names = self.parsed.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        except ValueError:
            return ""
        return str(names[0].value)[:64] if len(names) == 1 else ""

    @property
    def key(self) -> ec.EllipticCurvePublicKey:
        """Return the P-256 key; refuse any other."""
        try:
            key = self.parsed.public_key()
        except _UNUSABLE:
            key = None
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
            raise AttestError("attest.certificate-key-unsupported", f"the key of {self.common_name!r} is not on P-256")
        return key


def parse_chain(pem: bytes, code: str) -> tuple[Certificate, ...]:
    """Parse concatenated PEM certificates, leaf first; one NUL may end them, as Intel's quotes do."""
    if len(pem) > MAX_PEM_BYTES:
        raise ParseError(code, f"a certificate chain of {len(pem)} bytes is above the limit")
    certificates, offset = [], 0
    end = len(pem) - 1 if pem.endswith(b"\0") else len(pem)
    while offset < end:
        block = _PEM.match(pem, offset, end)
        if block is None:
            raise ParseError(code, "the certificate chain holds something that is not a PEM certificate")
        certificates.append(_certificate(re.sub(rb"\r?\n", b"", block[1]), code))
        offset = block.end()
    return tuple(certificates)


def _certificate(base64_text: bytes, code: str) -> Certificate:
    try:
        der = base64.b64decode(base64_text, validate=True)
        canonical = base64.b64encode(der) == base64_text
        parsed = x509.load_der_x509_certificate(der)
    except _UNUSABLE as error:
        raise ParseError(code, "a certificate of the chain is malformed") from error
    if not canonical:
        raise ParseError(code, "a certificate of the chain is not in canonical base64")
    return Certificate(der, parsed)


def verify_chain(chain: tuple[Certificate, ...], what: str, now: datetime) -> None:
    """Check signatures, roles and validity from leaf to root; whether the root is trusted is the caller's decision.

    Args:
        chain: Leaf first, root last.
        what: Which chain, as error codes name it (`pck`, `tcb-info`, …).
        now: Time of the check.
    """
    for certificate in chain:
        _usable(certificate, what, now)
    for depth, (child, issuer) in enumerate(pairwise(chain)):
        _may_issue(issuer, depth, what)
        try:
            child.parsed.verify_directly_issued_by(issuer.parsed)
        except _UNUSABLE as error:
            raise AttestError(
                f"attest.{what}-chain-invalid", f"{child.common_name!r} is not signed by {issuer.common_name!r}"
            ) from error


def _usable(certificate: Certificate, what: str, now: datetime) -> None:
    parsed = certificate.parsed
    if not parsed.not_valid_before_utc <= now <= parsed.not_valid_after_utc:
        raise AttestError(
            f"attest.{what}-chain-expired",
            f"the certificate {certificate.common_name!r} is valid from {parsed.not_valid_before_utc:%F %T} to "
            f"{parsed.not_valid_after_utc:%F %T} UTC, not on {now:%F %T}",
        )
    certificate.key  # noqa: B018 - refuses other curves
    if parsed.signature_algorithm_oid != SignatureAlgorithmOID.ECDSA_WITH_SHA256:
        raise AttestError(
            f"attest.{what}-chain-invalid", f"{certificate.common_name!r} is not signed with ECDSA-SHA256"
        )
    if any(extension.critical and extension.oid not in _KNOWN_CRITICAL for extension in _extensions(certificate, what)):
        raise AttestError(
            f"attest.{what}-chain-invalid", f"{certificate.common_name!r} has an unknown critical extension"
        )


def _extensions(certificate: Certificate, what: str) -> x509.Extensions:
    try:
        return certificate.parsed.extensions
    except _UNUSABLE as error:
        raise AttestError(f"attest.{what}-chain-invalid", "a certificate has malformed extensions") from error


def _may_issue(issuer: Certificate, below: int, what: str) -> None:
    extensions = _extensions(issuer, what)
    try:
        constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound as error:
        raise AttestError(
            f"attest.{what}-chain-invalid", f"{issuer.common_name!r} does not say that it is a CA"
        ) from error
    too_deep = constraints.path_length is not None and below > constraints.path_length
    if not constraints.ca or not usage.key_cert_sign or too_deep:
        raise AttestError(f"attest.{what}-chain-invalid", f"{issuer.common_name!r} may not issue this certificate")


def verify_signature(key: ec.EllipticCurvePublicKey, raw_signature: bytes, message: bytes, code: str, why: str) -> None:
    """Check an ECDSA P-256 signature given as r ‖ s (64 bytes); raise `AttestError(code, why)`."""
    if len(raw_signature) != 64:
        raise AttestError(code, f"{why} (a signature has 64 bytes, not {len(raw_signature)})")
    der = encode_dss_signature(int.from_bytes(raw_signature[:32], "big"), int.from_bytes(raw_signature[32:], "big"))
    try:
        key.verify(der, message, _ECDSA_SHA256)
    except InvalidSignature as error:
        raise AttestError(code, why) from error


def public_key(raw: bytes, code: str) -> ec.EllipticCurvePublicKey:
    """Return the P-256 key x ‖ y (64 bytes); refuse points that are not on the curve."""
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + raw)
    except ValueError as error:
        raise AttestError(code, "the attestation key is not a point of P-256") from error


@dataclass(frozen=True, slots=True)
class RevocationList:
    """A verified CRL."""

    issuer_fingerprint: str
    parsed: x509.CertificateRevocationList
    not_before: datetime
    not_after: datetime

    def refuse_revoked(self, certificate: Certificate, code: str) -> None:
        """Raise `AttestError(code)` when the certificate is on the list."""
        if self.parsed.get_revoked_certificate_by_serial_number(certificate.parsed.serial_number) is not None:
            raise AttestError(code, f"the certificate {certificate.common_name!r} has been revoked")


def verify_crl(der: bytes, issuer: Certificate, what: str) -> RevocationList:
    """Parse a CRL and check that `issuer` signed it; the caller checks its window (`what`: `root-crl` or `pck-crl`)."""
    try:
        parsed = x509.load_der_x509_crl(der)
        not_before, not_after = parsed.last_update_utc, parsed.next_update_utc
        critical = any(extension.critical for extension in parsed.extensions)
        valid = parsed.issuer == issuer.parsed.subject and parsed.is_signature_valid(issuer.key)
        valid = valid and parsed.signature_algorithm_oid == SignatureAlgorithmOID.ECDSA_WITH_SHA256
    except _UNUSABLE as error:
        raise ParseError(f"attest.{what}-malformed", "the certificate revocation list is malformed") from error
    if not valid:
        raise AttestError(
            f"attest.{what}-signature-invalid", f"the revocation list is not signed by {issuer.common_name!r}"
        )
    if not_after is None or critical:
        raise AttestError(
            f"attest.{what}-malformed", "the revocation list has no end, or an unknown critical extension"
        )
    return RevocationList(issuer.fingerprint, parsed, not_before, not_after)
