"""Certificate chains and revocation lists of hardware vendors, walked step by step against one given root.

Follows RFC 5280, section 6, for what these chains use: a fixed order, leaf first, each the issuer of the one before.
What differs between vendors (curves, signature algorithms, critical extensions) is a `Profile`.

Invariants:

- The root is trusted because it is byte for byte the one that the caller gave (by SHA-256), never because of its name.
- Every certificate: a key and a signature of its profile, inside its validity, no unknown critical extension; an issuer
  has CA, keyCertSign and a sufficient path length.
- PEM is read strictly: nothing before, between or after the certificates, canonical base64.

Example:
    >>> chain = parse_chain(pem, "attest.pck-chain-invalid")
    >>> verify_chain(chain, "pck", now, P256)
    >>> chain[-1].fingerprint == INTEL_SGX_ROOT_CA_SHA256
    True
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
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm
from cryptography.x509.oid import ExtensionOID, NameOID, SignatureAlgorithmOID

from mitai.errors import AttestError, ParseError

MAX_PEM_BYTES = 64 << 10
_HASHES: dict[str, HashAlgorithm] = {"secp256r1": SHA256(), "secp384r1": SHA384(), "secp521r1": SHA512()}
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
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


@dataclass(frozen=True, slots=True)
class Profile:
    """What the certificates of one kind of chain look like."""

    signatures: frozenset[x509.ObjectIdentifier]
    curves: frozenset[str] = frozenset()  # names as `cryptography` has them
    min_rsa_bits: int = 0  # 0: no RSA keys
    critical: frozenset[x509.ObjectIdentifier] = frozenset({ExtensionOID.KEY_USAGE, ExtensionOID.BASIC_CONSTRAINTS})
    usage_optional: bool = False  # an issuer without keyUsage may issue (RFC 5280, section 6.1.4 n)

    def accepts(self, key: object) -> bool:
        """Return whether a key is of a kind that the profile has."""
        if isinstance(key, rsa.RSAPublicKey):
            return 0 < self.min_rsa_bits <= key.key_size
        return isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in self.curves


P256 = Profile(frozenset({SignatureAlgorithmOID.ECDSA_WITH_SHA256}), frozenset({"secp256r1"}))
P384 = Profile(frozenset({SignatureAlgorithmOID.ECDSA_WITH_SHA384}), frozenset({"secp384r1"}))


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
        except _UNUSABLE:
            return ""
        return str(names[0].value)[:64] if len(names) == 1 else ""

    @property
    def key(self) -> PublicKey:
        """Return the public key; refuse kinds that no vendor uses."""
        try:
            key = self.parsed.public_key()
        except _UNUSABLE:
            key = None
        if not isinstance(key, (ec.EllipticCurvePublicKey, rsa.RSAPublicKey)):
            raise AttestError(
                "attest.certificate-key-unsupported", f"the key of {self.common_name!r} is of no known kind"
            )
        return key

    @property
    def ec_key(self) -> ec.EllipticCurvePublicKey:
        """Return the public key of a certificate whose profile has elliptic curves only."""
        key = self.key
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise AttestError(
                "attest.certificate-key-unsupported", f"the key of {self.common_name!r} is not on a curve"
            )
        return key


def parse_chain(pem: bytes, code: str) -> tuple[Certificate, ...]:
    """Parse concatenated PEM certificates, leaf first; one NUL behind a newline may end them, as Intel's quotes do."""
    if len(pem) > MAX_PEM_BYTES:
        raise ParseError(code, f"a certificate chain of {len(pem)} bytes is above the limit")
    certificates, offset = [], 0
    end = len(pem) - 1 if pem.endswith(b"\n\0") else len(pem)
    while offset < end:
        block = _PEM.match(pem, offset, end)
        if block is None:
            raise ParseError(code, "the certificate chain holds something that is not a PEM certificate")
        certificates.append(_certificate(re.sub(rb"\r?\n", b"", block[1]), code))
        offset = block.end()
    return tuple(certificates)


def parse_der(der: bytes, code: str) -> Certificate:
    """Parse one DER certificate, to its last byte."""
    if len(der) > MAX_PEM_BYTES:
        raise ParseError(code, f"a certificate of {len(der)} bytes is above the limit")
    try:
        parsed = x509.load_der_x509_certificate(der)
        backwards = parsed.not_valid_before_utc > parsed.not_valid_after_utc  # read late: the year 0 fails only here
    except _UNUSABLE as error:
        raise ParseError(code, "a certificate of the chain is malformed") from error
    if backwards:
        raise ParseError(code, "a certificate of the chain ends before it begins")
    if parsed.serial_number < 0:
        raise ParseError(code, "the serial number of a certificate is negative")  # AMD's are 0
    if not _ends_with(der, parsed.signature):
        raise ParseError(code, "the signature of a certificate is not whole bytes")
    return Certificate(der, parsed)


def _ends_with(der: bytes, signature: bytes) -> bool:
    """Return whether a signature fills its BIT STRING: the number of unused bits before it is not signed."""
    return der.endswith(b"\0" + signature)


def _certificate(base64_text: bytes, code: str) -> Certificate:
    try:
        der = base64.b64decode(base64_text, validate=True)
    except ValueError as error:
        raise ParseError(code, "a certificate of the chain is malformed") from error
    if base64.b64encode(der) != base64_text:
        raise ParseError(code, "a certificate of the chain is not in canonical base64")
    return parse_der(der, code)


def verify_chain(
    chain: tuple[Certificate, ...], what: str, now: datetime, profile: Profile = P256, *, below: int = 0
) -> None:
    """Check signatures, roles and validity from leaf to root; whether the root is trusted is the caller's decision.

    Args:
        chain: Leaf first, root last.
        what: Which chain, as error codes name it (`pck`, `tcb-info`, …).
        now: Time of the check.
        profile: What its certificates must look like.
        below: How many certificates the whole chain has before these, for path lengths.
    """
    for certificate in chain:
        _usable(certificate, what, now, profile)
    for depth, (child, issuer) in enumerate(pairwise(chain), below):
        _may_issue(issuer, depth, what, profile)
        try:
            child.parsed.verify_directly_issued_by(issuer.parsed)
        except _UNUSABLE as error:
            raise AttestError(
                f"attest.{what}-chain-invalid", f"{child.common_name!r} is not signed by {issuer.common_name!r}"
            ) from error


def _usable(certificate: Certificate, what: str, now: datetime, profile: Profile) -> None:
    parsed = certificate.parsed
    if not parsed.not_valid_before_utc <= now <= parsed.not_valid_after_utc:
        raise AttestError(
            f"attest.{what}-chain-expired",
            f"the certificate {certificate.common_name!r} is valid from {parsed.not_valid_before_utc:%F %T} to "
            f"{parsed.not_valid_after_utc:%F %T} UTC, not on {now:%F %T}",
        )
    if not profile.accepts(certificate.key):
        raise AttestError(
            "attest.certificate-key-unsupported",
            f"the key of {certificate.common_name!r} is of another kind than expected",
        )
    if parsed.signature_algorithm_oid not in profile.signatures:
        raise AttestError(
            f"attest.{what}-chain-invalid", f"{certificate.common_name!r} is signed with an algorithm of another kind"
        )
    if any(
        extension.critical and extension.oid not in profile.critical for extension in _extensions(certificate, what)
    ):
        raise AttestError(
            f"attest.{what}-chain-invalid", f"{certificate.common_name!r} has an unknown critical extension"
        )


def _extensions(certificate: Certificate, what: str) -> x509.Extensions:
    try:
        return certificate.parsed.extensions
    except _UNUSABLE as error:
        raise AttestError(f"attest.{what}-chain-invalid", "a certificate has malformed extensions") from error


def _may_issue(issuer: Certificate, below: int, what: str, profile: Profile) -> None:
    extensions = _extensions(issuer, what)
    try:
        constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound as error:
        raise AttestError(
            f"attest.{what}-chain-invalid", f"{issuer.common_name!r} does not say that it is a CA"
        ) from error
    too_deep = constraints.path_length is not None and below > constraints.path_length
    usages = [extension.value for extension in extensions if isinstance(extension.value, x509.KeyUsage)]
    signs = all(usage.key_cert_sign for usage in usages) and (bool(usages) or profile.usage_optional)
    if not constraints.ca or not signs or too_deep:
        raise AttestError(f"attest.{what}-chain-invalid", f"{issuer.common_name!r} may not issue this certificate")


def verify_signature(key: ec.EllipticCurvePublicKey, raw_signature: bytes, message: bytes, code: str, why: str) -> None:
    """Check an ECDSA signature given as r ‖ s, with the hash that is as long as the curve; or raise `AttestError`."""
    half = (key.key_size + 7) // 8
    if len(raw_signature) != 2 * half:
        raise AttestError(code, f"{why} (a signature has {2 * half} bytes, not {len(raw_signature)})")
    der = encode_dss_signature(int.from_bytes(raw_signature[:half], "big"), int.from_bytes(raw_signature[half:], "big"))
    try:
        key.verify(der, message, ec.ECDSA(_HASHES[key.curve.name]))
    except InvalidSignature as error:
        raise AttestError(code, why) from error


def public_key(raw: bytes, code: str, curve: ec.EllipticCurve | None = None) -> ec.EllipticCurvePublicKey:
    """Return the key x ‖ y, on P-256 where no curve is given; refuse points that are not on the curve."""
    curve = curve or ec.SECP256R1()
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(curve, b"\x04" + raw)
    except ValueError as error:
        raise AttestError(code, f"the attestation key is not a point of {curve.name}") from error


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


def verify_crl(der: bytes, issuer: Certificate, what: str, profile: Profile = P256) -> RevocationList:
    """Parse a CRL and check that `issuer` signed it; the caller checks its window (`what`: `root-crl`, `pck-crl` …)."""
    try:
        parsed = x509.load_der_x509_crl(der)
        not_before, not_after = parsed.last_update_utc, parsed.next_update_utc
        critical = any(extension.critical for extension in parsed.extensions)
        valid = parsed.issuer == issuer.parsed.subject and parsed.is_signature_valid(issuer.key)
        valid = valid and parsed.signature_algorithm_oid in profile.signatures and _ends_with(der, parsed.signature)
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
