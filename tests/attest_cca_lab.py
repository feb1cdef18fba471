"""An Arm CCA platform of our own: tokens that tests can forge in every part."""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime
from functools import cache

from cryptography.hazmat.primitives.asymmetric import ec

from attest_cose_lab import Raw, cbor, sign1
from mitai.attest.cbor import Tag
from mitai.attest.cca import CcaRules, PlatformReference, ReferenceComponent, TrustAnchor, appraise
from mitai.attest.checks import Checklist
from mitai.attest.machine import Hardware

NOW = datetime(2026, 6, 1, 12, 0, 0, tzinfo=UTC)
CHALLENGE = bytes(range(64))
IMPLEMENTATION, INSTANCE = b"\x01" * 32, b"\x01" + b"\x02" * 32
RIM, REMS, RPV = b"\x03" * 64, [bytes([4 + register]) * 64 for register in range(4)], b"\x08" * 64
COMPONENTS = [
    {1: "BL2", 2: b"\x0a" * 32, 5: b"\x0b" * 32, 4: "1.0", 6: "sha-256"},
    {1: "RMM", 2: b"\x0c" * 48, 5: b"\x0b" * 32},
]
LEGACY, CURRENT = "http://arm.com/CCA-SSD/1.0.0", "tag:arm.com,2023:cca_platform#1.0.0"
REALM = "tag:arm.com,2023:realm#1.0.0"


@cache
def _key(name: str, curve: str) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key({"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}[curve])


def key(name: str, curve: str = "P-384") -> ec.EllipticCurvePrivateKey:
    return _key(name, curve)


def coordinates(private: ec.EllipticCurvePrivateKey) -> tuple[bytes, bytes]:
    numbers, size = private.public_key().public_numbers(), (private.key_size + 7) // 8
    return numbers.x.to_bytes(size, "big"), numbers.y.to_bytes(size, "big")


def point(private: ec.EllipticCurvePrivateKey) -> bytes:
    return b"\x04" + b"".join(coordinates(private))


def cose_key(private: ec.EllipticCurvePrivateKey, **changes) -> bytes:
    x, y = coordinates(private)
    fields = {1: 2, -1: {256: 1, 384: 2, 521: 3}[private.key_size], -2: x, -3: y} | changes.pop("fields", {})
    return cbor({label: value for label, value in fields.items() if value is not ...})


def realm_claims(profile=REALM, private=None, **changes) -> dict:
    """Return the realm's claims, with changes by "_label"; `...` leaves a claim out."""
    private = private or key("rak")
    claims = {
        10: CHALLENGE,
        44235: RPV,
        44236: "sha-512",
        44237: cose_key(private) if profile else point(private),
        44238: RIM,
        44239: REMS,
        44240: "sha-256",
    }
    claims |= {265: profile} if profile else {}
    return _changed(claims, changes)


def platform_claims(realm: dict, profile=CURRENT, **changes) -> dict:
    key_claim = realm.get(44237)
    digest = hashlib.sha256(key_claim if isinstance(key_claim, bytes) else b"").digest()
    claims = {
        265: profile,
        10: digest,
        2396: IMPLEMENTATION,
        256: INSTANCE,
        2401: b"\xcf" * 4,
        2395: 0x3003,
        2402: "sha-256",
        2400: "https://verifier.example",
        2399: COMPONENTS,
    }
    return _changed(claims, changes)


def _changed(claims: dict, changes: dict) -> dict:
    claims = claims | {int(name[1:]): value for name, value in changes.items()}
    return {label: value for label, value in claims.items() if value is not ...}


def token(
    *,
    platform=None,
    realm=None,
    profile=CURRENT,
    realm_profile=REALM,
    cpak="cpak",
    rak="rak",
    wrapped=False,
    message=None,
) -> bytes:
    """Return a token; `platform` and `realm` are changes of claims, or `Raw` payloads."""
    claims = realm if isinstance(realm, Raw) else realm_claims(realm_profile, **(realm or {}))
    theirs = claims if isinstance(claims, dict) else {}
    mine = platform if isinstance(platform, Raw) else platform_claims(theirs, profile, **(platform or {}))
    options = {"tagged": True} | (message or {})
    entries = {44234: sign1(cbor(mine), key(cpak), **options), 44241: sign1(cbor(claims), key(rak), **options)}
    if wrapped:
        return cbor(Tag(907, {label: [263, entry] for label, entry in entries.items()}))
    return cbor(Tag(399, entries))


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def anchor(name: str = "cpak", curve: str = "P-384", **ids) -> TrustAnchor:
    x, y = coordinates(key(name, curve))
    ids = {"instance_id": INSTANCE.hex(), "implementation_id": IMPLEMENTATION.hex()} | ids
    return TrustAnchor(crv=curve, x=base64url(x), y=base64url(y), **ids)


def reference(**changes) -> PlatformReference:
    components = tuple(
        ReferenceComponent(component_type=c[1], measurement_value=c[2].hex(), signer_id=c[5].hex(), version=c.get(4))
        for c in COMPONENTS
    )
    fields = {
        "implementation_id": IMPLEMENTATION.hex(),
        "platform_configuration": "cf" * 4,
        "sw_components": components,
    }
    return PlatformReference(**(fields | changes))


def rules(**changes) -> CcaRules:
    return CcaRules(**({"trust_anchors": (anchor(),), "platforms": (reference(),)} | changes))


def check(data: bytes | None = None, policy: CcaRules | None = None, **options):
    hardware = Hardware(tee="cca", quote=token() if data is None else data)
    return appraise(Checklist(), hardware, policy or rules(), **{"now": NOW, **options})
