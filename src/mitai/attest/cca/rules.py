"""The `[cca]` section of an appraisal policy, and the JSON stores that Arm's and Veraison's tools use.

A `tastore.json` becomes trust anchors, an `rvstore.json` reference values: the forms of `ccatoken`'s "data-model.cddl",
which Confidential Containers' Trustee reads too.
"""

from __future__ import annotations

import base64
import binascii
from typing import TypeVar

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from mitai.attest.cca.token import Component, Platform, Realm
from mitai.attest.fields import ANY, POLICY_MALFORMED, check_hex
from mitai.errors import ParseError

LIFECYCLES = {
    0x00: "unknown",
    0x10: "assembly-and-test",
    0x20: "rot-provisioning",
    0x30: "secured",
    0x40: "non-recoverable-debug",
    0x50: "recoverable-debug",
    0x60: "decommissioned",
}
_CURVES: dict[str, ec.EllipticCurve] = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
_MAX_STORE_BYTES = 4 << 20
_HEX_FIELDS = {
    "implementation_id",
    "instance_id",
    "measurement_value",
    "signer_id",
    "platform_configuration",
    "initial_measurement",
    "extensible_measurements",
    "personalization_value",
}
T = TypeVar("T")


class TrustAnchor(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The public half of a platform's attestation key (CPAK), with the platform that it belongs to."""

    crv: str
    x: str  # base64url, as in a JWK
    y: str
    instance_id: str = ANY
    implementation_id: str = ANY

    def __post_init__(self) -> None:
        check_hex("[cca] instance_id", self.instance_id, 33, any_allowed=True)
        check_hex("[cca] implementation_id", self.implementation_id, 32, any_allowed=True)
        self.key  # noqa: B018 - refuses what is not a key

    @property
    def key(self) -> ec.EllipticCurvePublicKey:
        """Return the key."""
        curve = _CURVES.get(self.crv)
        if curve is None:
            raise ParseError(POLICY_MALFORMED, "a trust anchor in [cca] is not on P-256, P-384 or P-521")
        size = (curve.key_size + 7) // 8
        try:
            x, y = (base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in (self.x, self.y))
            if (len(x), len(y)) != (size, size):
                raise ValueError("size")
            return ec.EllipticCurvePublicKey.from_encoded_point(curve, b"\x04" + x + y)
        except (ValueError, binascii.Error) as error:
            raise ParseError(POLICY_MALFORMED, f"a trust anchor in [cca] is not a point of {self.crv}") from error

    def belongs_to(self, platform: Platform) -> bool:
        """Tell whether this is the anchor of a platform, by the ids in its token."""
        return self.instance_id in {ANY, platform.instance_id.hex()} and self.implementation_id in {
            ANY,
            platform.implementation_id.hex(),
        }


class ReferenceComponent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A piece of firmware that is accepted; without a version, any of that measurement."""

    measurement_value: str
    signer_id: str
    component_type: str = ""
    version: str | None = None

    def __post_init__(self) -> None:
        _check_digest("measurement_value", self.measurement_value)
        _check_digest("signer_id", self.signer_id)

    def matches(self, component: Component) -> bool:
        """Tell whether a component of a token is this one."""
        return (
            component.component_type == self.component_type
            and component.measurement_value == self.measurement_value
            and component.signer_id == self.signer_id
            and self.version in {None, component.version}
        )


class PlatformReference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One good state of one kind of platform: all of its firmware and its configuration."""

    implementation_id: str
    platform_configuration: str
    sw_components: tuple[ReferenceComponent, ...]

    def __post_init__(self) -> None:
        check_hex("[cca] implementation_id", self.implementation_id, 32)
        check_hex("[cca] platform_configuration", self.platform_configuration, len(self.platform_configuration) // 2)

    def matches(self, platform: Platform) -> bool:
        """Tell whether a platform is in this state: each of its components is in the list, and none is missing."""
        left = list(self.sw_components)
        for component in platform.components:
            found = next((reference for reference in left if reference.matches(component)), None)
            if found is None:
                return False
            left.remove(found)
        return (
            not left
            and platform.implementation_id.hex() == self.implementation_id
            and platform.configuration.hex() == self.platform_configuration
        )


class RealmReference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One good state of a realm; without extensible measurements, any."""

    initial_measurement: str
    extensible_measurements: tuple[str, ...] = ()
    personalization_value: str = ANY
    rak_hash_algorithm: str = ANY

    def __post_init__(self) -> None:
        for value in (self.initial_measurement, *self.extensible_measurements):
            _check_digest("a realm's measurement", value)
        check_hex("[cca] personalization_value", self.personalization_value, 64, any_allowed=True)
        if len(self.extensible_measurements) not in {0, 4}:
            raise ParseError(POLICY_MALFORMED, "a realm in [cca] does not have 4 extensible measurements")

    def matches(self, realm: Realm) -> bool:
        """Tell whether a realm is in this state."""
        registers = tuple(value.hex() for value in realm.extensible_measurements)
        return (
            realm.initial_measurement.hex() == self.initial_measurement
            and self.extensible_measurements in {(), registers}
            and self.personalization_value in {ANY, realm.personalization_value.hex()}
            and self.rak_hash_algorithm in {ANY, realm.attestation_key_hash}
        )


class CcaRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a platform and a realm must look like. Without trust anchors nothing is accepted."""

    trust_anchors: tuple[TrustAnchor, ...] = ()
    lifecycles: tuple[str, ...] = ("secured",)
    platforms: tuple[PlatformReference, ...] = ()
    allow_any_platform: bool = False  # accept firmware and configuration that no reference value describes
    realms: tuple[RealmReference, ...] = ()  # empty: realms are compared with the workloads' reference values alone

    def __post_init__(self) -> None:
        if not {*self.lifecycles} <= {*LIFECYCLES.values()}:
            raise ParseError(POLICY_MALFORMED, f"a lifecycle in [cca] is not one of {', '.join(LIFECYCLES.values())}")


class _Jwk(msgspec.Struct, frozen=True, tag_field="kty", tag="EC"):
    crv: str
    x: str
    y: str


class _StoredAnchor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pkey: _Jwk
    instance_id: str
    implementation_id: str


class ReferenceStore(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an `rvstore.json` holds: arguments of `CcaRules`."""

    platform: tuple[PlatformReference, ...] = ()
    realm: tuple[RealmReference, ...] = ()


def anchor_from_jwk(data: bytes) -> TrustAnchor:
    """Return a CPAK's JWK as an anchor for whatever platform the key belongs to."""
    key = _convert(data, _Jwk)
    return TrustAnchor(crv=key.crv, x=key.x, y=key.y)


def anchors_from_tastore(data: bytes) -> tuple[TrustAnchor, ...]:
    """Return the trust anchors of a `tastore.json`."""
    return tuple(
        TrustAnchor(
            crv=stored.pkey.crv,
            x=stored.pkey.x,
            y=stored.pkey.y,
            instance_id=stored.instance_id,
            implementation_id=stored.implementation_id,
        )
        for stored in _convert(data, tuple[_StoredAnchor, ...])
    )


def references_from_rvstore(data: bytes) -> ReferenceStore:
    """Return the reference values of an `rvstore.json`."""
    return _convert(data, ReferenceStore)


def _convert(data: bytes, kind: type[T]) -> T:
    """Decode a store: our structs, with dashes for underscores and hex in any case."""
    if len(data) > _MAX_STORE_BYTES:
        raise ParseError(POLICY_MALFORMED, f"a store of {len(data)} bytes is above the limit")
    try:
        return msgspec.convert(_ours(msgspec.json.decode(data)), kind)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ParseError(POLICY_MALFORMED, "the store of trust anchors or reference values is malformed") from error


def _ours(value: object, *, is_hex: bool = False) -> object:
    if isinstance(value, dict):
        names = {name: name.replace("-", "_") for name in value}
        return {names[name]: _ours(inner, is_hex=names[name] in _HEX_FIELDS) for name, inner in value.items()}
    if isinstance(value, list):
        return [_ours(inner, is_hex=is_hex) for inner in value]
    return value.lower() if is_hex and isinstance(value, str) else value


def _check_digest(name: str, value: str) -> None:
    check_hex(f"[cca] {name}", value, max(len(value) // 2, 32))
    if len(value) not in {64, 96, 128}:
        raise ParseError(POLICY_MALFORMED, f"[cca] {name} is not a digest of 32, 48 or 64 bytes")
