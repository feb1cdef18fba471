"""Fulcio's signing certificates: who signed, proven by a short-lived certificate and logged for all to see.

Follows Fulcio's certificate specification and OID table (sigstore/fulcio, `docs/`), RFC 6962 section 3.2 for the signed
certificate timestamps (SCT) inside the certificate.

Invariants:

- The certificate chains to an authority of the trusted root that was valid when the signature was logged; neither the
  bundle nor the certificate adds an authority.
- Two timestamps of one certificate log are refused; one that a known log did not sign is refused; logs that the trusted
  root does not know count for nothing.
- Where Fulcio writes a claim twice, in its old and its new form, the new form is the one that counts.

Example:
    >>> issuer = verify_certificate(leaf, root, signed_at)
    >>> verify_timestamps(leaf, issuer, root, minimum=1)
    >>> SignerClaims.read(leaf).repository
    'example/workload'
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.certificate_transparency import LogEntryType, SignedCertificateTimestamp
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, SignatureAlgorithmOID

from mitai.attest.refvalues.trusted_root import TrustedRoot
from mitai.attest.x509 import Certificate, Profile, verify_chain
from mitai.errors import AttestError, MitaiError

PROFILE = Profile(
    signatures=frozenset(
        {
            SignatureAlgorithmOID.ECDSA_WITH_SHA256,
            SignatureAlgorithmOID.ECDSA_WITH_SHA384,
            SignatureAlgorithmOID.RSA_WITH_SHA256,
            SignatureAlgorithmOID.RSA_WITH_SHA384,
        }
    ),
    curves=frozenset({"secp256r1", "secp384r1"}),
    min_rsa_bits=3072,  # authorities of private deployments
    critical=frozenset(
        {
            ExtensionOID.KEY_USAGE,
            ExtensionOID.BASIC_CONSTRAINTS,
            ExtensionOID.EXTENDED_KEY_USAGE,
            ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        }
    ),
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FULCIO = "1.3.6.1.4.1.57264.1."
_MALFORMED = (ValueError, TypeError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)


def verify_certificate(leaf: Certificate, root: TrustedRoot, moment: datetime) -> Certificate:
    """Check the signing certificate as of `moment`; return its issuer.

    1. `moment` is inside its validity.
    2. It is for signing code and is no authority.
    3. An authority of the trusted root, valid at `moment`, issued it.
    """
    # 1
    check_window(leaf, moment)
    # 2
    extensions = read_extensions(leaf)
    try:
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
        purposes = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound as error:
        raise AttestError(
            "attest.sigstore-chain-invalid", "the signing certificate does not say what it is for"
        ) from error
    if not usage.digital_signature or usage.key_cert_sign or ExtendedKeyUsageOID.CODE_SIGNING not in purposes:
        raise AttestError("attest.sigstore-chain-invalid", "the signing certificate is not for signing code")
    # 3
    for authority in root.authorities:
        if authority.window.covers(moment):
            try:
                verify_chain((leaf, *authority.chain), "sigstore", moment, PROFILE)
            except MitaiError:
                continue
            return authority.chain[0]
    raise AttestError(
        "attest.sigstore-chain-invalid", "no authority of the trusted root issued the signing certificate"
    )


def check_window(leaf: Certificate, moment: datetime) -> None:
    """Raise `AttestError` unless `moment` is inside the certificate's validity."""
    start, end = leaf.parsed.not_valid_before_utc, leaf.parsed.not_valid_after_utc
    if not start <= moment <= end:
        raise AttestError(
            "attest.sigstore-certificate-expired",
            f"the signing certificate is valid from {start:%F %T} to {end:%F %T} UTC, not on {moment:%F %T}",
        )


def verify_timestamps(leaf: Certificate, issuer: Certificate, root: TrustedRoot, minimum: int) -> int:
    """Check the certificate logs' timestamps inside the certificate; return how many known logs vouch for it."""
    try:
        embedded = read_extensions(leaf).get_extension_for_class(x509.PrecertificateSignedCertificateTimestamps).value
        timestamps, precertificate = list(embedded), leaf.parsed.tbs_precertificate_bytes
    except x509.ExtensionNotFound:
        timestamps, precertificate = [], b""
    if len({timestamp.log_id for timestamp in timestamps}) != len(timestamps):
        raise AttestError("attest.sigstore-sct-duplicate", "one certificate log vouches twice for one certificate")
    vouched = 0
    for timestamp in timestamps:
        log = root.certificate_logs.get(timestamp.log_id)
        if log is None:
            continue
        moment = timestamp.timestamp.replace(tzinfo=UTC)
        supported = (
            timestamp.entry_type is LogEntryType.PRE_CERTIFICATE
            and isinstance(timestamp.signature_hash_algorithm, SHA256)
            and log.window.covers(moment)
        )
        if not supported or not log.signed(
            _signed_timestamp(timestamp, moment, issuer, precertificate), timestamp.signature
        ):
            raise AttestError("attest.sigstore-sct-invalid", "a certificate log did not sign the timestamp in its name")
        vouched += 1
    if vouched < minimum:
        raise AttestError(
            "attest.sigstore-sct-missing",
            f"{vouched} known certificate logs vouch for the signing certificate, expected at least {minimum}",
        )
    return vouched


def _signed_timestamp(
    timestamp: SignedCertificateTimestamp, moment: datetime, issuer: Certificate, precertificate: bytes
) -> bytes:
    """RFC 6962 section 3.2: version, type, time, entry type, issuer key hash, TBS, extensions."""
    issuer_key = issuer.parsed.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    head = struct.pack(">BBQH", 0, 0, (moment - _EPOCH) // timedelta(milliseconds=1), 1)
    extra = timestamp.extension_bytes
    return (
        head
        + hashlib.sha256(issuer_key).digest()
        + len(precertificate).to_bytes(3, "big")
        + precertificate
        + len(extra).to_bytes(2, "big")
        + extra
    )


@dataclass(frozen=True, slots=True)
class SignerClaims:
    """What Fulcio wrote about the signer; empty where it wrote nothing."""

    issuer: str  # the OpenID Connect issuer that logged the signer in
    subject: str  # of the certificate: a workflow's URI or an e-mail address
    repository: str  # owner/name
    ref: str
    commit: str
    build_signer: str

    @staticmethod
    def read(leaf: Certificate) -> SignerClaims:
        """Read the claims; raise `AttestError` when they are malformed."""
        found = {
            extension.oid.dotted_string.removeprefix(_FULCIO): extension.value.value
            for extension in read_extensions(leaf)
            if isinstance(extension.value, x509.UnrecognizedExtension)
            and extension.oid.dotted_string.startswith(_FULCIO)
        }
        return SignerClaims(
            issuer=_der_text(found.get("8")) if "8" in found else _text(found.get("1")),
            subject=_subject(leaf),
            repository=_text(found.get("5")),
            ref=_text(found.get("6")),
            commit=_text(found.get("3")),
            build_signer=_der_text(found.get("9")),
        )


def read_extensions(leaf: Certificate) -> x509.Extensions:
    """Return the certificate's extensions; raise `AttestError` when they are malformed."""
    try:
        return leaf.parsed.extensions
    except _MALFORMED as error:
        raise _malformed() from error


def _subject(leaf: Certificate) -> str:
    try:
        names = list(read_extensions(leaf).get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return ""
    if len(names) != 1 or not isinstance(names[0], (x509.UniformResourceIdentifier, x509.RFC822Name)):
        raise _malformed()
    return names[0].value


def _text(value: bytes | None) -> str:
    try:
        return (value or b"").decode()
    except UnicodeDecodeError as error:
        raise _malformed() from error


def _der_text(value: bytes | None) -> str:
    """Read a DER UTF8String."""
    try:
        return "" if value is None else asn1.decode_der(str, value)
    except ValueError as error:
        raise _malformed() from error


def _malformed() -> AttestError:
    return AttestError("attest.sigstore-certificate-malformed", "the signing certificate is malformed")
