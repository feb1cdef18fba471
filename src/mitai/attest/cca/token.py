"""Parser of Arm CCA attestation tokens.

Follows draft-ffm-rats-cca-token and section A7.2 of the "Realm Management Monitor specification" (DEN0137): a
collection of two COSE_Sign1, the platform's token and the realm's. Two forms of the collection (tag 399 around byte
strings, tag 907 around conceptual message wrappers of type application/eat+cwt), two platform profiles and two forms of
the realm's key are known.

Invariants:

- Known claims have the type and size of the specification and are there once; unknown claims are ignored, as the
  profile demands ("MUST NOT error out"); they are signed like the others.
- An unknown profile is refused.

Example:
    >>> token = parse_token(data)
    >>> token.realm.initial_measurement.hex()
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from mitai.attest.cbor import Tag, Value, decode, expect
from mitai.attest.cose import ALGORITHM, CONTENT_TYPE, KEY_ID, Sign1, parse_sign1
from mitai.errors import ParseError

MALFORMED: Final = "attest.cca-malformed"
MAX_TOKEN_BYTES = 64 << 10
PLATFORM_PROFILES = ("http://arm.com/CCA-SSD/1.0.0", "tag:arm.com,2023:cca_platform#1.0.0")
REALM_PROFILE = "tag:arm.com,2023:realm#1.0.0"  # without it the RAK is a bare point, with it a COSE_Key
_COLLECTION, _WRAPPED_COLLECTION = 399, 907
_PLATFORM, _REALM = 44234, 44241
_WRAPPER_TYPES = (263, "application/eat+cwt")
_HEADERS = frozenset({ALGORITHM, CONTENT_TYPE, KEY_ID})
_HASH_SIZES = (32, 48, 64)
_CURVES: dict[Value, ec.EllipticCurve] = {1: ec.SECP256R1(), 2: ec.SECP384R1(), 3: ec.SECP521R1()}


@dataclass(frozen=True, slots=True, order=True)
class Component:
    """A piece of firmware that the platform measured."""

    component_type: str
    measurement_value: str  # hex
    signer_id: str  # hex
    version: str


@dataclass(frozen=True, slots=True)
class Platform:
    """Claims of the platform token; nothing of it is verified yet."""

    message: Sign1
    profile: str
    challenge: bytes  # the digest of the realm attestation key
    implementation_id: bytes
    instance_id: bytes
    configuration: bytes
    lifecycle: int
    hash_algorithm: str
    components: tuple[Component, ...]


@dataclass(frozen=True, slots=True)
class Realm:
    """Claims of the realm token; nothing of it is verified yet."""

    message: Sign1
    profile: str
    challenge: bytes
    personalization_value: bytes
    initial_measurement: bytes
    extensible_measurements: tuple[bytes, ...]
    hash_algorithm: str
    attestation_key: ec.EllipticCurvePublicKey  # RAK
    attestation_key_claim: bytes  # the RAK as the platform hashed it
    attestation_key_hash: str


@dataclass(frozen=True, slots=True)
class Token:
    """Both tokens of a collection."""

    platform: Platform
    realm: Realm

    @property
    def signed(self) -> bytes:
        """Return all bytes that the signatures of both tokens cover."""
        return self.realm.message.signed + self.platform.message.signed


def parse_token(data: bytes) -> Token:
    """Parse a CCA token, to its last byte; raise `ParseError`."""
    if len(data) > MAX_TOKEN_BYTES:
        raise ParseError(MALFORMED, f"a CCA token of {len(data)} bytes is above the limit")
    collection = decode(data, "the CCA token", MALFORMED)
    if not isinstance(collection, Tag) or collection.number not in {_COLLECTION, _WRAPPED_COLLECTION}:
        raise ParseError(MALFORMED, "the CCA token is not a collection with tag 399 or 907")
    entries = expect(collection.value, dict, "the collection", MALFORMED)
    if entries.keys() != {_PLATFORM, _REALM}:
        raise ParseError(MALFORMED, "the collection does not hold one platform token and one realm token")
    unwrap = _unwrapped if collection.number == _WRAPPED_COLLECTION else _byte_string
    return Token(_platform(unwrap(entries[_PLATFORM])), _realm(unwrap(entries[_REALM])))


def _byte_string(value: Value) -> bytes:
    return expect(value, bytes, "an entry of the collection", MALFORMED)


def _unwrapped(value: Value) -> bytes:
    wrapper = expect(value, list, "an entry of the collection", MALFORMED)
    if len(wrapper) != 2 or wrapper[0] not in _WRAPPER_TYPES:
        raise ParseError(MALFORMED, "an entry of the collection is not of type application/eat+cwt")
    return _byte_string(wrapper[1])


class _Claims:
    """Typed access to the claims of one token."""

    def __init__(self, message: Sign1, what: str) -> None:
        self._what = what
        self._claims: dict[int | str, Value] = expect(decode(message.payload, what, MALFORMED), dict, what, MALFORMED)

    def value(self, label: int) -> Value:
        if label not in self._claims:
            raise ParseError(MALFORMED, f"{self._what} lacks claim {label}")
        return self._claims[label]

    def number(self, label: int) -> int:
        return expect(self.value(label), int, f"claim {label}", MALFORMED)

    def text(self, label: int) -> str:
        return expect(self.value(label), str, f"claim {label}", MALFORMED)

    def data(self, label: int, *sizes: int) -> bytes:
        return _sized(self.value(label), f"claim {label}", sizes)

    def profile(self, known: tuple[str, ...], missing: str | None = None) -> str:
        profile = missing if missing is not None and 265 not in self._claims else self.text(265)
        if profile not in {*known, missing}:
            raise ParseError("attest.cca-profile-unsupported", f"{self._what} has the profile {profile[:80]!r}")
        return profile


def _platform(data: bytes) -> Platform:
    message = parse_sign1(data, "the platform token", MALFORMED, headers=_HEADERS)
    claims = _Claims(message, "the platform token")
    components = expect(claims.value(2399), list, "claim 2399", MALFORMED)
    return Platform(
        message=message,
        profile=claims.profile(PLATFORM_PROFILES),
        challenge=claims.data(10, *_HASH_SIZES),
        implementation_id=claims.data(2396, 32),
        instance_id=claims.data(256, 33),
        configuration=claims.data(2401),
        lifecycle=claims.number(2395),
        hash_algorithm=claims.text(2402),
        components=tuple(_component(component) for component in components),
    )


def _component(value: Value) -> Component:
    fields = expect(value, dict, "a software component", MALFORMED)
    if not {2, 5} <= fields.keys() <= {1, 2, 4, 5, 6}:
        raise ParseError(MALFORMED, "a software component lacks a field, or has one that does not belong in it")
    expect(fields.get(6, ""), str, "a component's hash algorithm", MALFORMED)
    return Component(
        expect(fields.get(1, ""), str, "a component's type", MALFORMED),
        _sized(fields[2], "a component's measurement", _HASH_SIZES).hex(),
        _sized(fields[5], "a component's signer", _HASH_SIZES).hex(),
        expect(fields.get(4, ""), str, "a component's version", MALFORMED),
    )


def _realm(data: bytes) -> Realm:
    message = parse_sign1(data, "the realm token", MALFORMED, headers=_HEADERS)
    claims = _Claims(message, "the realm token")
    profile = claims.profile((REALM_PROFILE,), missing="")
    registers = expect(claims.value(44239), list, "claim 44239", MALFORMED)
    if len(registers) != 4:
        raise ParseError(MALFORMED, f"the realm token has {len(registers)} extensible measurements, not 4")
    key = claims.data(44237)
    return Realm(
        message=message,
        profile=profile,
        challenge=claims.data(10, 64),
        personalization_value=claims.data(44235, 64),
        initial_measurement=claims.data(44238, *_HASH_SIZES),
        extensible_measurements=tuple(_sized(register, "claim 44239", _HASH_SIZES) for register in registers),
        hash_algorithm=claims.text(44236),
        attestation_key=_cose_key(key) if profile else _point(key),
        attestation_key_claim=key,
        attestation_key_hash=claims.text(44240),
    )


def _sized(value: Value, what: str, sizes: tuple[int, ...]) -> bytes:
    data = expect(value, bytes, what, MALFORMED)
    if sizes and len(data) not in sizes:
        raise ParseError(MALFORMED, f"{what} has {len(data)} bytes")
    return data


def _point(data: bytes) -> ec.EllipticCurvePublicKey:
    """Return the key of realms without profile: an uncompressed point of P-384."""
    if len(data) != 97 or data[0] != 4:
        raise ParseError(MALFORMED, "the realm attestation key is not an uncompressed point of P-384")
    return _public_key(ec.SECP384R1(), data[1:])


def _cose_key(data: bytes) -> ec.EllipticCurvePublicKey:
    """Return the key of a COSE_Key of type EC2 (RFC 9053, section 7.1.1)."""
    fields = expect(decode(data, "the realm attestation key", MALFORMED), dict, "the key", MALFORMED)
    curve = _CURVES.get(fields.get(-1)) if type(fields.get(-1)) is int else None
    if fields.get(1) != 2 or curve is None or not fields.keys() <= {1, 2, 3, 4, -1, -2, -3}:
        raise ParseError(MALFORMED, "the realm attestation key is not a COSE_Key on a known curve")
    size = (curve.key_size + 7) // 8
    coordinates = [
        _sized(fields.get(label), "a coordinate of the realm attestation key", (size,)) for label in (-2, -3)
    ]
    return _public_key(curve, b"".join(coordinates))


def _public_key(curve: ec.EllipticCurve, coordinates: bytes) -> ec.EllipticCurvePublicKey:
    """Return the key x ‖ y; refuse points that are not on the curve."""
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(curve, b"\x04" + coordinates)
    except ValueError as error:
        raise ParseError(MALFORMED, f"the realm attestation key is not a point of {curve.name}") from error
