"""Attestation results as signed JWTs: ours, and those of other verifiers (Veraison, Trustee).

Follows RFC 7515, RFC 7519 and RFC 8725 (best current practices).

Invariants:

- The key is the verifier's choice: pinned, or certified (`x5c`) by a pinned root. A key that a token brings itself
  (`jwk`, `jku`, `x5u`) is never trusted.
- Algorithms are those of the pinned keys: ES256, ES384, Ed25519. No HMAC, no "none", no critical header extension.
- A token without an end is refused, one from the future too.

Example:
    >>> token = sign(result, key)
    >>> accept(token, TokenTrust(keys=(public_jwk,)), now=now).status
    <Tier.AFFIRMING: 'affirming'>
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, Key, OKPKey, import_key
from joserfc.jws import JWSRegistry

from mitai.attest.results.ear import MAX_RESULT_BYTES, AttestationResult
from mitai.attest.x509 import P256, P384, Profile, parse_der, verify_chain
from mitai.errors import AttestError, ParseError

ALGORITHMS: Final = {"P-256": "ES256", "P-384": "ES384", "Ed25519": "Ed25519"}
MAX_TOKEN_BYTES: Final = 12 << 20
_CERTIFICATES = Profile(P256.signatures | P384.signatures, P256.curves | P384.curves)
_MALFORMED: Final = "attest.token-malformed"
_UNTRUSTED: Final = "attest.token-key-untrusted"


class _Registry(JWSRegistry):
    max_header_length = 64 << 10  # with certificates in it
    max_payload_length = MAX_RESULT_BYTES * 4 // 3


@dataclass(frozen=True, slots=True)
class TokenTrust:
    """Whose results are believed: public keys (JWK), roots of `x5c` chains (SHA-256 of the DER, hex)."""

    keys: tuple[dict[str, str], ...] = ()
    roots: tuple[str, ...] = ()
    max_clock_skew_s: int = 60


def new_key() -> dict[str, str]:
    """Return a new ES256 signing key as a private JWK, with its RFC 7638 thumbprint as `kid`."""
    key = ECKey.generate_key("P-256", private=True)
    return {**_texts(key.as_dict(private=True)), "kid": key.thumbprint()}


def public_key(private: dict[str, str]) -> dict[str, str]:
    """Return what a relying party pins of a signing key."""
    key = _key(private)
    return {**_texts(key.as_dict(private=False)), "kid": key.thumbprint()}


def sign(result: AttestationResult, private: dict[str, str]) -> str:
    """Return the result as a compact JWS under a private JWK."""
    key = _key(private)
    if not key.is_private:
        raise ParseError("attest.token-key-malformed", "results are signed by a private key, and this is a public one")
    header = {"typ": "eat+jwt", "alg": ALGORITHMS[key.curve_name], "kid": key.thumbprint()}
    return jws.serialize_compact(header, result.encode(), key, algorithms=[header["alg"]])


def accept(
    token: str, trust: TokenTrust, *, now: datetime, nonce: bytes | None = None, max_age: timedelta | None = None
) -> AttestationResult:
    """Verify a token and return its result; what the result says is the caller's to judge.

    Args:
        token: A compact JWS.
        trust: Whose results are believed.
        now: Time of the check.
        nonce: Where given, the result must echo it.
        max_age: Where given, the result must not be older.

    Raises:
        ParseError: It is malformed.
        AttestError: Its signature, key, time or nonce does not hold.
    """
    header, payload = verify_jws(token, trust, now)
    if header.get("typ", "JWT") not in ("JWT", "eat+jwt"):
        raise ParseError(_MALFORMED, "the token is of another type than an attestation result")
    result = AttestationResult.decode(payload)
    skew = timedelta(seconds=trust.max_clock_skew_s)
    if result.expires_at is None or now - skew >= result.expires_at:
        raise AttestError("attest.token-expired", "the attestation result has ended, or has no end")
    if result.issued_at > now + skew:
        raise AttestError("attest.token-not-yet-valid", "the attestation result is of the future")
    if max_age is not None and now - result.issued_at > max_age + skew:
        raise AttestError("attest.token-expired", "the attestation result is older than accepted")
    if nonce is not None and result.nonce != nonce:
        raise AttestError("attest.token-nonce-mismatch", "the attestation result answers another nonce")
    return result


def verify_jws(token: str, trust: TokenTrust, now: datetime) -> tuple[dict[str, Any], bytes]:
    """Verify a compact JWS under the trusted keys; return its header and payload."""
    if len(token) > MAX_TOKEN_BYTES or not token.isascii():
        raise ParseError(_MALFORMED, f"a token of {len(token)} characters, or not of ASCII")
    header = _header(token)
    key = _trusted(header, trust, now)
    algorithm = ALGORITHMS[key.curve_name]
    if header.get("alg") != algorithm:
        raise AttestError(_UNTRUSTED, f"the token is signed with {header.get('alg')!r:.40}, its key is for {algorithm}")
    try:
        verified = jws.deserialize_compact(
            token, key, registry=_Registry(algorithms=[algorithm], strict_check_header=False)
        )
    except (JoseError, ValueError) as error:
        raise AttestError("attest.token-signature-invalid", "the token is not signed by the trusted key") from error
    return header, verified.payload or b""


def _header(token: str) -> dict[str, Any]:
    parts = token.split(".")
    if len(parts) != 3:
        raise ParseError(_MALFORMED, "the token does not consist of header, payload and signature")
    try:
        header = json.loads(base64.b64decode(parts[0] + "=" * (-len(parts[0]) % 4), b"-_", validate=True))
    except (binascii.Error, ValueError, RecursionError) as error:
        raise ParseError(_MALFORMED, "the token's header is not JSON in base64url") from error
    if not isinstance(header, dict) or "crit" in header:
        raise ParseError(_MALFORMED, "the token's header is no object, or demands an extension that is not known")
    return header


def _trusted(header: dict[str, Any], trust: TokenTrust, now: datetime) -> ECKey | OKPKey:
    """Return the key that must have signed: the pinned one that the header means, or one certified by a pinned root."""
    if trust.roots and "x5c" in header:
        return _certified(header["x5c"], trust, now)
    pinned = [_key(key) for key in trust.keys]
    brought = header.get("jwk")
    if isinstance(brought, dict):  # only tells which of the pinned keys it is
        wanted = _thumbprint(brought)
        matching = [key for key in pinned if key.thumbprint() == wanted]
    elif "kid" in header:
        kids = [key.get("kid") for key in trust.keys]
        matching = [key for key, kid in zip(pinned, kids, strict=True) if header["kid"] in (kid, key.thumbprint())]
    else:
        matching = pinned if len(pinned) == 1 else []
    if not matching:
        raise AttestError(
            _UNTRUSTED,
            "the token is signed by a key that is not pinned",
            hint="pin the verifier's key, or the root of its certificate",
        )
    return matching[0]


def _certified(x5c: object, trust: TokenTrust, now: datetime) -> ECKey | OKPKey:
    if not isinstance(x5c, list) or not 1 <= len(x5c) <= 8 or not all(isinstance(entry, str) for entry in x5c):
        raise ParseError(_MALFORMED, "the token's x5c is not a list of certificates")
    try:
        chain = tuple(parse_der(base64.b64decode(entry, validate=True), _MALFORMED) for entry in x5c)
    except (binascii.Error, ValueError) as error:
        raise ParseError(_MALFORMED, "a certificate of the token's x5c is not base64") from error
    if chain[-1].fingerprint not in trust.roots:
        raise AttestError(_UNTRUSTED, f"the token's certificates end in {chain[-1].common_name!r}, which is not pinned")
    verify_chain(chain, "token", now, _CERTIFICATES)
    pem = chain[0].ec_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return _checked(import_key(pem, "EC"))


def _key(jwk: dict[str, str]) -> ECKey | OKPKey:
    if jwk.get("kty") not in ("EC", "OKP"):  # a token's may be of any type
        raise ParseError("attest.token-key-malformed", "a key is no JWK on P-256, P-384 or Ed25519")
    try:
        return _checked(import_key(dict(jwk)))
    except (JoseError, ValueError, TypeError, KeyError) as error:
        raise ParseError("attest.token-key-malformed", "a key is no JWK on P-256, P-384 or Ed25519") from error


def _checked(key: Key) -> ECKey | OKPKey:
    if not isinstance(key, (ECKey, OKPKey)) or key.curve_name not in ALGORITHMS:
        raise ParseError("attest.token-key-malformed", "a key is no JWK on P-256, P-384 or Ed25519")
    return key


def _thumbprint(jwk: dict[str, Any]) -> str | None:
    try:
        return _key(jwk).thumbprint()
    except ParseError:
        return None


def _texts(jwk: Mapping[str, object]) -> dict[str, str]:
    return {name: value for name, value in jwk.items() if isinstance(value, str)}
