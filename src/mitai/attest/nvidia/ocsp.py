"""OCSP responses that travel with the evidence: whether a certificate was revoked, as its issuer says.

Follows RFC 6960: the response is signed by the certificate's issuer, or by a responder to whom that issuer gave a
certificate for just this (section 4.2.2.2); it names the certificate by hashes of the issuer's name and key and by the
serial number (section 4.1.1).

Invariants:

- A response counts only for the certificate that it names, under the issuer that the verified chain has.
- It counts from `thisUpdate` (less five minutes, for clocks that differ) to `nextUpdate` (plus the policy's grace); one
  without an end is refused.
- Where several name the certificate the latest of those that count does: an old "good" can't hide a new "revoked".
- A response outside its window is none: refused where one is required, otherwise without effect, as if left away.
- Status good; "on hold" if the policy says so; nothing else.

Example:
    >>> book = StatusBook.parse(responses)
    >>> not_before, not_after = check_status(certificate, issuer, book, rules, now=now, cache=cache)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NoReturn

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, SignatureAlgorithmOID

from mitai.attest.cache import BEGINNING, NO_END, Verified, VerifiedCache
from mitai.attest.nvidia.rules import NvidiaRules
from mitai.attest.x509 import P384, Certificate, Profile, parse_der, verify_chain
from mitai.errors import AttestError, ParseError

MAX_RESPONSE_BYTES = 16 << 10
_CODE = "attest.nvidia-ocsp-malformed"
_CLOCK_SKEW = timedelta(minutes=5)
_RESPONDER = Profile(P384.signatures, P384.curves, critical=P384.critical | {ExtensionOID.EXTENDED_KEY_USAGE})
_MALFORMED = (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)
_HASHES = (hashes.SHA1, hashes.SHA256, hashes.SHA384, hashes.SHA512)


@dataclass(frozen=True, slots=True)
class Response:
    """A parsed response about one certificate; nothing in it counts before its signature was checked."""

    der: bytes
    parsed: ocsp.OCSPResponse
    this_update: datetime
    next_update: datetime


@dataclass(frozen=True, slots=True)
class StatusBook:
    """Responses by the serial number that they name."""

    by_serial: Mapping[int, tuple[Response, ...]]

    @staticmethod
    def parse(responses: tuple[bytes, ...]) -> StatusBook:
        """Parse all responses; raise `ParseError` if one is malformed or of no use."""
        book: dict[int, tuple[Response, ...]] = {}
        for der in responses:
            response = _parse(der)
            serial = response.parsed.serial_number
            book[serial] = (*book.get(serial, ()), response)
        return StatusBook(book)


def check_status(
    certificate: Certificate,
    issuer: Certificate,
    book: StatusBook,
    rules: NvidiaRules,
    *,
    now: datetime,
    cache: VerifiedCache,
) -> tuple[datetime, datetime] | None:
    """Check that a certificate is not revoked; return when that holds, or nothing where no response is needed.

    Args:
        certificate: Whose status is wanted.
        issuer: The next certificate of its verified chain.
        book: All responses at hand.
        rules: Whether a response is required, the grace, and what to do with certificates on hold.
        now: Time of the check.
        cache: Remembers responses whose signatures hold.
    """
    known = book.by_serial.get(certificate.parsed.serial_number, ())
    candidates = [response for response in known if _names(response, issuer)]
    usable = [response for response in candidates if _start(response) <= now <= _end(response, rules)]
    if not usable:
        if rules.ocsp == "required":
            _refuse_unusable(candidates, certificate, now)
        return None
    response = max(usable, key=lambda each: each.this_update)
    start, end = _start(response), _end(response, rules)

    def verify() -> Verified[None]:
        _verify_signature(response, issuer, now)
        return Verified(None, start, end)

    cache.get("nvidia ocsp", (response.der, issuer.der), now, verify)
    _check_good(response, certificate, rules)
    return start, end


def _start(response: Response) -> datetime:
    return max(response.this_update, BEGINNING + _CLOCK_SKEW) - _CLOCK_SKEW


def _end(response: Response, rules: NvidiaRules) -> datetime:
    grace = timedelta(seconds=rules.ocsp_grace_s)
    return min(response.next_update, NO_END - grace) + grace


def _refuse_unusable(candidates: list[Response], certificate: Certificate, now: datetime) -> NoReturn:
    """Say why no response tells a certificate's status now."""
    name = certificate.common_name
    if not candidates:
        raise AttestError(
            "attest.nvidia-ocsp-missing",
            f"nothing says whether {name!r} was revoked",
            hint='the attester sends OCSP responses along; or the policy says ocsp = "if-present"',
        )
    latest = max(candidates, key=lambda each: each.this_update)
    if now < _start(latest):
        raise AttestError("attest.nvidia-ocsp-not-yet-valid", f"the status of {name!r} is from the future")
    raise AttestError(
        "attest.nvidia-ocsp-expired",
        f"the status of {name!r} ended on {latest.next_update:%F %T} UTC",
        hint="the attester must fetch a new one; or the policy gives more ocsp_grace_s",
    )


def _parse(der: bytes) -> Response:
    if len(der) > MAX_RESPONSE_BYTES:
        raise ParseError(_CODE, f"an OCSP response of {len(der)} bytes is above the limit")
    try:
        parsed = ocsp.load_der_ocsp_response(der)
        if parsed.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            raise ParseError(_CODE, "the OCSP responder gave an error instead of a status")
        this_update, next_update = parsed.this_update_utc, parsed.next_update_utc
        known = isinstance(parsed.hash_algorithm, _HASHES)
        whole = b"\0" + parsed.signature in der  # a bit string of whole bytes: no second encoding of it
        critical = any(extension.critical for extension in (*parsed.extensions, *parsed.single_extensions))
    except _MALFORMED as error:
        raise ParseError(_CODE, "an OCSP response is malformed, or about more than one certificate") from error
    if next_update is None or not known or not whole or critical or len(parsed.certificates) > 1:
        raise ParseError(_CODE, "an OCSP response has no end, or something that this verifier does not know")
    return Response(der, parsed, this_update, next_update)


def _names(response: Response, issuer: Certificate) -> bool:
    """Return whether the response is about a certificate of this issuer."""
    algorithm = response.parsed.hash_algorithm
    key = issuer.ec_key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    names = _digest(algorithm, issuer.parsed.subject.public_bytes()), _digest(algorithm, key)
    return names == (response.parsed.issuer_name_hash, response.parsed.issuer_key_hash)


def _digest(algorithm: hashes.HashAlgorithm, data: bytes) -> bytes:
    digest = hashes.Hash(algorithm)
    digest.update(data)
    return digest.finalize()


def _verify_signature(response: Response, issuer: Certificate, now: datetime) -> None:
    """Check who signed: the issuer, or the responder that it appointed (which was valid while the response was)."""
    parsed = response.parsed
    signer = issuer
    if parsed.certificates:
        signer = parse_der(parsed.certificates[0].public_bytes(Encoding.DER), _CODE)
        verify_chain((signer, issuer), "nvidia-ocsp-responder", min(now, response.next_update), _RESPONDER)
        try:
            usage = signer.parsed.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        except x509.ExtensionNotFound:
            usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
        if ExtendedKeyUsageOID.OCSP_SIGNING not in usage:
            raise AttestError(
                "attest.nvidia-ocsp-responder-invalid",
                f"{signer.common_name!r} was not appointed to sign OCSP responses",
            )
    try:
        if parsed.signature_algorithm_oid != SignatureAlgorithmOID.ECDSA_WITH_SHA384:
            raise InvalidSignature
        signer.ec_key.verify(parsed.signature, parsed.tbs_response_bytes, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature as error:
        raise AttestError(
            "attest.nvidia-ocsp-signature-invalid", f"the OCSP response is not signed by {signer.common_name!r}"
        ) from error


def _check_good(response: Response, certificate: Certificate, rules: NvidiaRules) -> None:
    status, name = response.parsed.certificate_status, certificate.common_name
    if status is ocsp.OCSPCertStatus.UNKNOWN:
        raise AttestError(
            "attest.nvidia-certificate-status-unknown", f"its issuer does not know the certificate {name!r}"
        )
    if status is ocsp.OCSPCertStatus.REVOKED:
        on_hold = response.parsed.revocation_reason is x509.ReasonFlags.certificate_hold
        if not on_hold:
            raise AttestError("attest.nvidia-certificate-revoked", f"the certificate {name!r} has been revoked")
        if not rules.accept_hold:
            raise AttestError("attest.nvidia-certificate-on-hold", f"the certificate {name!r} has been suspended")
