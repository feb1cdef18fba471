"""Results of NVIDIA's remote attestation service (NRAS), as another way to know what a device is.

Follows NVIDIA's "Remote Attestation Service" API versions 3 and 4 (claims 2.0 and 3.0): a detached EAT bundle
(RFC 9711), `[["JWT", overall], {"GPU-0": token, …}]`, every token a JWT under ES384; the overall token holds the
SHA-256 of each device's token. Keys come as the service's JWKS, each with a chain (`x5c`) up to an intermediate.

Invariants:

- A key counts because its chain ends in a certificate that the policy pins; JWKS and bundle may come from anybody.
- Every token: signature, issuer, window, our nonce; device tokens are exactly those that the overall token lists.
- The claims are held to our rules one by one, whatever the overall result says: a false claim gives the code that the
  same failure has where mitai verifies a report itself. What must be true must be there.

Example:
    >>> devices = verify_nras(checks, bundle, jwks, device_nonce(nonce), policy.nvidia, now=now)
    >>> devices[0].driver
    '570.172.08'
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Literal, TypeVar

import msgspec
from cryptography.x509.oid import SignatureAlgorithmOID

from mitai.attest.cache import Verified, VerifiedCache
from mitai.attest.checks import Checklist
from mitai.attest.nvidia.certificates import verify_signing_chain, window
from mitai.attest.nvidia.device import MAX_DEVICES, Device, Kind
from mitai.attest.nvidia.rules import NvidiaRules
from mitai.attest.nvidia.verify import check_configuration, check_set
from mitai.attest.results.tokens import TokenTrust, verify_jws
from mitai.attest.x509 import P384, Certificate, Profile, parse_der
from mitai.errors import AttestError, ParseError
from mitai.wire import parse_json

MAX_BYTES = 1 << 20
T = TypeVar("T")
_CODE = "attest.nvidia-nras-malformed"
_SKEW = timedelta(seconds=60)
_NAME = re.compile(r"(GPU|SWITCH)-[0-9]{1,3}")
_CERTIFICATES = Profile(
    P384.signatures | {SignatureAlgorithmOID.RSA_WITH_SHA256, SignatureAlgorithmOID.RSA_WITH_SHA384},
    P384.curves,
    min_rsa_bits=2048,
)
# Claims that must be true where they are there, after `x-nvidia-gpu-` or `x-nvidia-switch-`, and their codes.
_CODES = {
    "attestation-report-parsed": "attest.nvidia-report-malformed",
    "attestation-report-nonce-match": "attest.nvidia-nonce-mismatch",
    "attestation-report-signature-verified": "attest.nvidia-report-signature-invalid",
    "attestation-report-cert-chain-validated": "attest.nvidia-device-chain-invalid",
    "attestation-report-cert-chain-fwid-match": "attest.nvidia-fwid-mismatch",
    "arch-check": "attest.nvidia-chip-not-allowed",
    "vbios-index-no-conflict": "attest.nvidia-rim-index-conflict",
    "rim-fetched": "attest.nvidia-*-rim-missing",
    "rim-measurements-available": "attest.nvidia-*-rim-missing",
    "rim-version-match": "attest.nvidia-*-rim-missing",
    "rim-schema-validated": "attest.nvidia-rim-malformed",
    "rim-cert-validated": "attest.nvidia-rim-chain-invalid",
    "rim-signature-verified": "attest.nvidia-rim-signature-invalid",
}
_RIM_CLAIMS = ("rim-fetched", "rim-signature-verified", "rim-measurements-available")
_RIMS = {"gpu": ("driver", "vbios"), "switch": ("bios",)}
_MAX_CERTIFICATES = 6
_DEMANDED = (
    "attestation-report-parsed",
    "attestation-report-nonce-match",
    "attestation-report-signature-verified",
    "arch-check",
)

_Digest = tuple[Literal["DIGEST"], tuple[Literal["SHA-256"], str]]


class _Bundle(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    overall: tuple[Literal["JWT"], str]
    tokens: dict[str, str]


class _Jwk(msgspec.Struct):
    kid: str
    x5c: tuple[bytes, ...]


class _Header(msgspec.Struct):
    kid: str


class _Jwks(msgspec.Struct):
    keys: tuple[_Jwk, ...]


class _Times(msgspec.Struct):
    iss: str
    exp: int
    nbf: int


class _Overall(msgspec.Struct):
    eat_nonce: str
    submods: dict[str, _Digest]
    result: bool = msgspec.field(name="x-nvidia-overall-att-result")


def verify_nras(
    checks: Checklist,
    bundle: bytes,
    jwks: bytes,
    expected_nonce: bytes,
    rules: NvidiaRules,
    *,
    now: datetime,
    cache: VerifiedCache | None = None,
) -> tuple[Device, ...]:
    """Verify a bundle of NRAS and hold what it says to the rules.

    The fabric can't be checked: these claims do not name what a device is linked to.

    Args:
        checks: Gets a step for each check.
        bundle: What the service answered.
        jwks: The service's keys (`/.well-known/jwks.json`) at about that time.
        expected_nonce: What the devices were asked to answer: `device_nonce` of the verifier's nonce.
        rules: What is accepted; `nras_roots` are the trust anchors.
        now: Time of the check.
        cache: Remembers chains of keys.

    Raises:
        AttestError: With the code and the step of the first check that failed.
    """
    cache = cache or VerifiedCache()
    with checks.step("nras token") as say:
        parts = _decode(bundle, _Bundle)
        keys = _decode(jwks, _Jwks)
        payload, until = _verify_token(parts.overall[1], keys, rules, now, cache)
        overall = _decode(payload, _Overall)
        _check_nonce(overall.eat_nonce, expected_nonce)
        _check_submodules(overall, parts.tokens)
        say(f"{len(parts.tokens)} devices, valid until {until:%F %T} UTC")
    devices = []
    for name, token in sorted(parts.tokens.items()):
        with checks.step(f"nras {name}") as say:
            payload, end = _verify_token(token, keys, rules, now, cache)
            claims = _decode(payload, dict[str, object])
            _check_claims(name, claims, expected_nonce, rules)
            devices.append(_device(name, claims, token, min(until, end)))
            check_configuration(devices[-1], rules)
            say(f"{devices[-1].chip}, firmware {devices[-1].vbios}")
    with checks.step("nras result") as say:
        if not overall.result:
            raise AttestError("attest.nvidia-nras-refused", "NVIDIA's service refuses these devices as a whole")
        check_set(devices, rules)
        counts = Counter(device.kind for device in devices)
        say(f"{counts['gpu']} GPUs, {counts['switch']} switches, no device twice")
    return tuple(devices)


def _decode(data: bytes | str, kind: type[T]) -> T:
    return parse_json(
        data, kind, MAX_BYTES, _CODE, "the service's answer or its key set is not of the form that is known"
    )


def _verify_token(
    token: str, keys: _Jwks, rules: NvidiaRules, now: datetime, cache: VerifiedCache
) -> tuple[bytes, datetime]:
    """Check signature, issuer and window of a token; return its claims and its end."""
    _, payload = verify_jws(token, TokenTrust(keys=(_trusted_key(token, keys, rules, now, cache),)), now)
    times = _decode(payload, _Times)
    if times.iss != rules.nras_issuer:
        raise AttestError("attest.nvidia-nras-issuer", f"the token was issued by {times.iss[:80]!r}")
    try:
        start, end = datetime.fromtimestamp(times.nbf, UTC), datetime.fromtimestamp(times.exp, UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise ParseError(_CODE, "the token's times are out of range") from error
    if now - _SKEW >= end:
        raise AttestError("attest.nvidia-nras-expired", f"the token ended on {end:%F %T} UTC")
    if now + _SKEW < start:
        raise AttestError("attest.nvidia-nras-not-yet-valid", f"the token begins on {start:%F %T} UTC")
    return payload, end


def _trusted_key(token: str, keys: _Jwks, rules: NvidiaRules, now: datetime, cache: VerifiedCache) -> dict[str, str]:
    """Return the key that the token names, as a JWK, from its certificate under a pinned one."""
    try:
        header = urlsafe_b64decode(token.partition(".")[0] + "==")
    except (binascii.Error, ValueError) as error:
        raise ParseError(_CODE, "a token's header is not base64url") from error
    kid = _decode(header, _Header).kid
    found = [key for key in keys.keys if key.kid == kid]
    if len(found) != 1:
        raise AttestError(
            "attest.nvidia-nras-key-unknown", f"the key set holds {len(found)} keys {kid[:80]!r}, not one"
        )

    def verify() -> Verified[Certificate]:
        if len(found[0].x5c) > _MAX_CERTIFICATES:
            raise ParseError(_CODE, f"a key's chain has {len(found[0].x5c)} certificates")
        chain = tuple(parse_der(der, _CODE) for der in found[0].x5c)
        ends = [depth for depth, certificate in enumerate(chain) if certificate.fingerprint in rules.nras_roots]
        if not ends or not ends[0]:
            raise AttestError("attest.nvidia-nras-key-untrusted", "the token's key is not certified by a pinned one")
        chain = chain[: ends[0] + 1]
        verify_signing_chain(chain, "nvidia-nras", now, _CERTIFICATES)
        return Verified(chain[0], *window(chain))

    inputs = (*(root.encode() for root in rules.nras_roots), b"", *found[0].x5c)
    leaf = cache.get("nvidia nras key", inputs, now, verify).value
    numbers = leaf.ec_key.public_numbers()
    x, y = (urlsafe_b64encode(number.to_bytes(48, "big")).decode().rstrip("=") for number in (numbers.x, numbers.y))
    return {"kty": "EC", "crv": "P-384", "kid": kid, "x": x, "y": y}


def _check_nonce(claimed: object, expected: bytes) -> None:
    if not isinstance(claimed, str) or not hmac.compare_digest(claimed.lower().encode(), expected.hex().encode()):
        raise AttestError("attest.nvidia-nonce-mismatch", "the service appraised evidence for another nonce")


def _check_submodules(overall: _Overall, tokens: Mapping[str, str]) -> None:
    """Check that the bundle's device tokens are exactly those that the overall token lists."""
    if len(tokens) > MAX_DEVICES or not all(_NAME.fullmatch(name) for name in tokens):
        raise ParseError(_CODE, "the bundle names its devices in a form that is not known, or too many")
    listed = {name: digest for name, (_, (_, digest)) in overall.submods.items()}
    if listed != {name: hashlib.sha256(token.encode()).hexdigest() for name, token in tokens.items()}:
        raise AttestError(
            "attest.nvidia-nras-digest-mismatch", "the device tokens are not those that the overall token lists"
        )


def _check_claims(name: str, claims: Mapping[str, object], expected_nonce: bytes, rules: NvidiaRules) -> None:
    """Check every claim about one device."""
    _check_error(claims)
    _check_nonce(claims.get("eat_nonce"), expected_nonce)
    kind = "gpu" if name.startswith("GPU") else "switch"
    prefix = f"x-nvidia-{kind}-"
    own = {claim.removeprefix(prefix): value for claim, value in claims.items() if claim.startswith(prefix)}
    demanded = [*_DEMANDED, *(f"{rim}-{claim}" for rim in _RIMS[kind] for claim in _RIM_CLAIMS)]
    for claim in [*demanded, *(claim for claim, value in own.items() if isinstance(value, bool))]:
        if own.get(claim) is not True:
            raise AttestError(_code(claim), f"the service says of {name} {claim}: {own.get(claim)!r:.40}")
    for part in ("attestation-report", *(f"{rim}-rim" for rim in _RIMS[kind])):
        _check_chain(f"{name} {part}", part, own, rules)
    for claim, good, code in (
        ("measres", "success", "attest.nvidia-measurement-mismatch"),
        ("secboot", True, "attest.nvidia-secure-boot-off"),
        ("dbgstat", "disabled", "attest.nvidia-debug-enabled"),
    ):
        if type(claims.get(claim)) is not type(good) or claims[claim] != good:
            raise AttestError(code, f"the service says of {name} {claim}: {claims.get(claim)!r:.40}")


def _code(claim: str) -> str:
    for ending, code in _CODES.items():
        if claim.endswith(ending):
            return code.replace("*", claim.partition("-")[0])  # driver, vbios, bios
    return "attest.nvidia-nras-refused"


def _check_error(claims: Mapping[str, object]) -> None:
    details = claims.get("x-nvidia-error-details")
    if isinstance(details, dict):
        raise AttestError(
            "attest.nvidia-nras-error",
            f"the service could not appraise it: {details.get('message', 'no reason')!r:.80}",
        )


def _check_chain(name: str, part: str, own: Mapping[str, object], rules: NvidiaRules) -> None:
    """Check what the service says of a certificate chain: an object (claims 3.0), or just that it is valid (2.0)."""
    which, validated = ("rim", "cert-validated") if part.endswith("-rim") else ("device", "cert-chain-validated")
    chain = own.get(f"{part}-cert-chain")
    if chain is None and own.get(f"{part}-{validated}") is True:
        return
    if not isinstance(chain, dict) or chain.get("x-nvidia-cert-status") != "valid":
        raise AttestError(f"attest.nvidia-{which}-chain-invalid", f"the service does not find {name}'s chain valid")
    if chain.get("x-nvidia-cert-ocsp-status") == "good":
        return
    on_hold = "hold" in str(chain.get("x-nvidia-cert-revocation-reason")).lower()
    if not on_hold:
        raise AttestError("attest.nvidia-certificate-revoked", f"a certificate of {name}'s chain is not good")
    if not rules.accept_hold:
        raise AttestError("attest.nvidia-certificate-on-hold", f"a certificate of {name}'s chain is suspended")


def _device(name: str, claims: Mapping[str, object], token: str, end: datetime) -> Device:
    kind: Kind = "gpu" if name.startswith("GPU") else "switch"
    firmware = "x-nvidia-gpu-vbios-version" if kind == "gpu" else "x-nvidia-switch-bios-version"
    driver = _text(claims, "x-nvidia-gpu-driver-version") if kind == "gpu" else ""
    mode = claims.get("x-nvidia-gpu-mode")
    return Device(
        kind=kind,
        chip=_text(claims, "hwmodel").partition(" ")[0].replace("_", ""),
        ueid=_text(claims, "ueid"),
        pdi="",
        driver=driver,
        vbios=_text(claims, firmware),
        mode=mode.lower() if isinstance(mode, str) else "",
        measurements={},
        measured="as NVIDIA's attestation service says",
        peers=frozenset(),
        signed=token.encode(),
        not_after=end,
    )


def _text(claims: Mapping[str, object], name: str) -> str:
    value = claims.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= 64 or not value.isprintable():
        raise ParseError(_CODE, f"the service does not say {name}")
    return value
