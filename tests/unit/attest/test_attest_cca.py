"""CCA tokens of our own platform: accepted as they are, and refused for each reason by its own code."""

from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from attest_cca_lab import (
    CHALLENGE,
    COMPONENTS,
    CURRENT,
    IMPLEMENTATION,
    INSTANCE,
    LEGACY,
    NOW,
    REALM,
    REMS,
    RIM,
    RPV,
    anchor,
    base64url,
    check,
    coordinates,
    cose_key,
    key,
    point,
    reference,
    rules,
    token,
)
from attest_cose_lab import Open, Raw, cbor, sign1
from mitai.attest.cache import VerifiedCache
from mitai.attest.cbor import Tag, decode
from mitai.attest.cca import (
    CcaRules,
    PlatformReference,
    RealmReference,
    ReferenceComponent,
    TrustAnchor,
    anchor_from_jwk,
    anchors_from_tastore,
    appraise,
    parse_token,
    references_from_rvstore,
)
from mitai.attest.checks import Checklist
from mitai.attest.machine import Hardware
from mitai.attest.policy import Policy
from mitai.errors import ParseError

MALFORMED = "attest.cca-malformed"


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("profile", [LEGACY, CURRENT])
@pytest.mark.parametrize("realm_profile", [None, REALM])
def test_accepted(wrapped, profile, realm_profile):
    machine = check(token(wrapped=wrapped, profile=profile, realm_profile=realm_profile))
    assert machine.tee == "cca"
    assert machine.title == "Arm CCA"
    assert not machine.simulated
    assert machine.report_data == CHALLENGE
    assert machine.measurements == {
        "rim": RIM.hex(),
        **{f"rem{number}": value.hex() for number, value in enumerate(REMS)},
        "rpv": RPV.hex(),
        "implementation_id": IMPLEMENTATION.hex(),
        "platform_configuration": "cfcfcfcf",
    }
    assert machine.facts == {
        "instance": INSTANCE.hex(),
        "lifecycle": "0x3003 (secured)",
        "firmware": "BL2 1.0, RMM",
    }
    assert machine.platform == f"arm-instance:{INSTANCE.hex()}"
    steps = ["1 token", "2 platform signature", "3 binding", "4 realm signature", "5 platform", "6 realm"]
    assert [step for step, _ in machine.checks] == steps
    assert machine.not_after.year == 9999


@pytest.mark.parametrize("curve", ["P-256", "P-384", "P-521"])
def test_curves_of_both_keys(curve):
    rak, cpak = key("other rak", curve), key("other cpak", curve)
    data = decode(token(realm={"private": rak}), "it", "code").value
    payloads = {label: decode(entry, "it", "code").value[2] for label, entry in data.items()}
    entries = {44234: sign1(payloads[44234], cpak), 44241: sign1(payloads[44241], rak)}  # untagged, too
    check(cbor(Tag(399, entries)), rules(trust_anchors=(anchor("other cpak", curve),)))


def test_headers_that_say_nothing():
    check(token(message={"unprotected": {4: b"a key id"}}))
    check(token(message={"protected": {1: -35, 3: "application/eat+cwt"}}))


def test_unknown_claims_are_ignored():
    check(token(platform={"_99999": "x"}, realm={"_44242": [1]}))


def test_optional_claims():
    check(token(platform={"_2400": ...}))
    parsed = parse_token(token(platform={"_2399": [{2: b"\x0a" * 32, 5: b"\x0b" * 32}]}))
    assert parsed.platform.components[0].component_type == ""


def test_identity_of_the_evidence_is_what_was_signed():
    assert check(token()).signed == check(token(wrapped=True)).signed
    assert check(token()).signed != check(token(realm={"_10": bytes(64)})).signed
    assert check(token()).signed != check(token(platform={"_2395": 0x3000})).signed


PLATFORM = {
    "no challenge": {"_10": ...},
    "challenge of 20 bytes": {"_10": bytes(20)},
    "several challenges": {"_10": [bytes(32)]},
    "no implementation": {"_2396": ...},
    "implementation of 31 bytes": {"_2396": bytes(31)},
    "instance of 32 bytes": {"_256": bytes(32)},
    "no configuration": {"_2401": ...},
    "configuration of text": {"_2401": "x"},
    "no lifecycle": {"_2395": ...},
    "lifecycle true": {"_2395": True},
    "no hash": {"_2402": ...},
    "hash by number": {"_2402": -16},
    "no components": {"_2399": ...},
    "components in a map": {"_2399": {1: 2}},
    "component in a list": {"_2399": [[1]]},
    "component without measurement": {"_2399": [{1: "BL2", 5: bytes(32)}]},
    "component without signer": {"_2399": [{1: "BL2", 2: bytes(32)}]},
    "component of 20 bytes": {"_2399": [{2: bytes(20), 5: bytes(32)}]},
    "component's type in bytes": {"_2399": [{1: b"BL2", 2: bytes(32), 5: bytes(32)}]},
    "component's version in numbers": {"_2399": [{4: 1, 2: bytes(32), 5: bytes(32)}]},
    "component's hash in numbers": {"_2399": [{6: 1, 2: bytes(32), 5: bytes(32)}]},
    "component with more": {"_2399": [{3: 1, 2: bytes(32), 5: bytes(32)}]},
    "profile by number": {"_265": 1},
}
REALMS = {
    "no challenge": {"_10": ...},
    "challenge of 32 bytes": {"_10": bytes(32)},
    "no RPV": {"_44235": ...},
    "RPV of 32 bytes": {"_44235": bytes(32)},
    "no RIM": {"_44238": ...},
    "RIM of 20 bytes": {"_44238": bytes(20)},
    "no REM": {"_44239": ...},
    "REM in bytes": {"_44239": bytes(256)},
    "three REMs": {"_44239": REMS[:3]},
    "REM of text": {"_44239": ["x"] * 4},
    "no hash": {"_44236": ...},
    "no key": {"_44237": ...},
    "no hash of the key": {"_44240": ...},
    "key that is no map": {"_44237": cbor([1])},
    "key that is a point": {"_44237": point(key("rak"))},
    "symmetric key": {"_44237": cose_key(key("rak"), fields={1: 4})},
    "key without type": {"_44237": cose_key(key("rak"), fields={1: ...})},
    "key without curve": {"_44237": cose_key(key("rak"), fields={-1: ...})},
    "unknown curve": {"_44237": cose_key(key("rak"), fields={-1: 8})},
    "curve true": {"_44237": cose_key(key("rak"), fields={-1: True})},
    "curve in a list": {"_44237": cose_key(key("rak"), fields={-1: [1]})},
    "other curve": {"_44237": cose_key(key("rak"), fields={-1: 1})},
    "compressed key": {"_44237": cose_key(key("rak"), fields={-3: True})},
    "key off the curve": {"_44237": cose_key(key("rak"), fields={-3: bytes(48)})},
    "private key": {"_44237": cose_key(key("rak"), fields={-4: bytes(48)})},
    "profile by number": {"_265": 1},
}


@pytest.mark.parametrize("changes", PLATFORM.values(), ids=PLATFORM.keys())
def test_malformed_platforms(changes, refused):
    with refused(MALFORMED, "1 token"):
        check(token(platform=changes))


@pytest.mark.parametrize("changes", REALMS.values(), ids=REALMS.keys())
def test_malformed_realms(changes, refused):
    with refused(MALFORMED, "1 token"):
        check(token(realm=changes))


@pytest.mark.parametrize("claim", [b"\x04" + bytes(96), b"\x02" + point(key("rak"))[1:], point(key("rak", "P-256"))])
def test_malformed_points(claim, refused):
    with refused(MALFORMED, "1 token"):
        check(token(realm_profile=None, realm={"_44237": claim}))


def test_claims_twice(refused):
    claims = Raw(b"\xa2" + cbor(10) + cbor(CHALLENGE) + cbor(10) + cbor(CHALLENGE))
    for changes in ({"realm": claims}, {"platform": claims}, {"realm": Raw(b"\x80")}, {"platform": Raw(b"\x80")}):
        with refused(MALFORMED, "1 token"):
            check(token(**changes))


def test_profiles(refused):
    for changes in ({"profile": "tag:arm.com,2023:cca_platform#2.0.0"}, {"realm_profile": REALM + "x"}):
        with refused("attest.cca-profile-unsupported", "1 token"):
            check(token(**changes))
    with refused(MALFORMED, "1 token"):
        check(token(platform={"_265": ...}))


ENTRIES = decode(token(), "it", "code").value


@pytest.mark.parametrize(
    "data",
    [
        b"",
        token() + b"\x00",
        token()[:-1],
        bytes(65 << 10),
        cbor(ENTRIES),
        cbor(Tag(400, ENTRIES)),
        cbor(Tag(399, [1])),
        cbor(Tag(399, {44234: ENTRIES[44234]})),
        cbor(Tag(399, ENTRIES | {1: b""})),
        cbor(Tag(399, {44234: b"", 44241: b""})),
        cbor(Tag(399, {label: [263, entry] for label, entry in ENTRIES.items()})),
        cbor(Tag(907, ENTRIES)),
        cbor(Tag(907, {label: [60, entry] for label, entry in ENTRIES.items()})),
        cbor(Tag(907, {label: [[263], entry] for label, entry in ENTRIES.items()})),
        cbor(Tag(907, {label: [263, entry, 4] for label, entry in ENTRIES.items()})),
        cbor(Tag(907, {label: [263, [entry]] for label, entry in ENTRIES.items()})),
        token(message={"protected": {1: -35, 2: [1]}}),
        token(message={"unprotected": {33: b"x5chain"}}),
    ],
)
def test_malformed_collections(data, refused):
    with refused(MALFORMED, "1 token"):
        check(data)


def test_wrappers_may_name_the_media_type():
    check(cbor(Tag(907, {label: ["application/eat+cwt", entry] for label, entry in ENTRIES.items()})))


def test_indefinite_lengths_are_read():
    """The profile wants definite lengths; signatures cover the bytes as they are, so nothing depends on it."""
    check(cbor(Tag(399, Open(ENTRIES))))


@pytest.mark.parametrize("extra", [{"event_log": b"x"}, {"endorsements": {"cpak": b"x"}}])
def test_a_token_comes_alone(extra, refused):
    with refused("attest.cca-extra-input", "1 token"):
        appraise(Checklist(), Hardware(tee="cca", quote=token(), **extra), rules(), now=NOW)


def test_trust_anchors(refused):
    for anchors in ((), (anchor(instance_id="01" + "00" * 32),), (anchor(implementation_id="00" * 32),)):
        with refused("attest.cca-trust-anchor-missing", "2 platform signature"):
            check(policy=rules(trust_anchors=anchors))
    check(policy=rules(trust_anchors=(anchor(instance_id="any", implementation_id="any"),)))
    check(policy=rules(trust_anchors=(anchor("rak"), anchor("cpak"))))  # whichever fits


def test_default_rules_accept_nothing(refused):
    with refused("attest.cca-trust-anchor-missing"):
        check(policy=CcaRules())


def test_platform_signature(refused):
    with refused("attest.cca-platform-signature-invalid", "2 platform signature"):
        check(token(cpak="rak"))
    with refused("attest.cca-platform-signature-invalid", "2 platform signature"):
        check(policy=rules(trust_anchors=(anchor("rak"),)))
    with refused("attest.cca-platform-signature-invalid", "2 platform signature"):
        check(policy=rules(trust_anchors=(anchor("cpak 256", "P-256"),)))  # the algorithm does not fit the key


def test_realm_signature(refused):
    with refused("attest.cca-realm-signature-invalid", "4 realm signature"):
        check(token(rak="cpak"))


def test_binding(refused):
    with refused("attest.cca-binding-mismatch", "3 binding"):
        check(token(platform={"_10": bytes(32)}))
    with refused("attest.cca-binding-mismatch", "3 binding"):
        check(token(realm={"_44240": "sha-512"}))
    with refused("attest.cca-hash-unsupported", "3 binding"):
        check(token(realm={"_44240": "sha-1"}))


def test_tokens_of_two_machines(refused):
    """A realm's token with its own key does not go with another platform's token."""
    theirs = decode(token(realm={"private": key("their rak")}, rak="their rak"), "it", "code").value
    with refused("attest.cca-binding-mismatch", "3 binding"):
        check(cbor(Tag(399, {44234: ENTRIES[44234], 44241: theirs[44241]})))


@pytest.mark.parametrize("lifecycle", [0, 0x1000, 0x2FFF, 0x3100, 0x4000, 0x50FF, 0x6000, 0x13000, -1, 2**64 - 1])
def test_lifecycle(lifecycle, refused):
    with refused("attest.cca-lifecycle-refused", "5 platform"):
        check(token(platform={"_2395": lifecycle}))


def test_lifecycles_that_the_policy_allows():
    allowed = rules(lifecycles=("secured", "recoverable-debug"))
    assert check(token(platform={"_2395": 0x5001}), allowed).memory == "visible"
    assert check(token(), allowed).memory == "encrypted"


def components(*changes) -> dict:
    return {"_2399": [component | change for component, change in zip(COMPONENTS, changes, strict=True)]}


@pytest.mark.parametrize(
    "platform",
    [
        {"_2396": bytes(32)},
        {"_2401": b""},
        {"_2399": []},
        {"_2399": COMPONENTS[:1]},
        {"_2399": [*COMPONENTS, COMPONENTS[0]]},
        {"_2399": [COMPONENTS[0], COMPONENTS[0]]},
        components({1: "BL3"}, {}),
        components({2: bytes(32)}, {}),
        components({5: bytes(32)}, {}),
        components({4: "2.0"}, {}),
    ],
)
def test_platforms_that_no_reference_describes(platform, refused):
    anchors = (anchor(implementation_id="any"),)
    with refused("attest.cca-platform-mismatch", "5 platform"):
        check(token(platform=platform), rules(trust_anchors=anchors))
    check(token(platform=platform), rules(trust_anchors=anchors, allow_any_platform=True))


def test_platforms_that_a_reference_describes(refused):
    check(token(platform={"_2399": COMPONENTS[::-1]}))  # the order says nothing
    check(token(platform=components({}, {4: "any version"})))  # the reference names none
    check(policy=rules(platforms=(reference(platform_configuration=""), reference())))
    with refused("attest.cca-platform-mismatch", "5 platform"):
        check(policy=rules(platforms=()))


def test_realms(refused):
    good = {
        "initial_measurement": RIM.hex(),
        "extensible_measurements": tuple(value.hex() for value in REMS),
        "personalization_value": RPV.hex(),
        "rak_hash_algorithm": "sha-256",
    }
    check(policy=rules(realms=(RealmReference(**good),)))
    check(policy=rules(realms=(RealmReference(initial_measurement=RIM.hex()),)))
    check(policy=rules(realms=(RealmReference(initial_measurement="00" * 32), RealmReference(**good))))
    other = {
        "initial_measurement": "00" * 64,
        "extensible_measurements": ("00" * 64,) * 4,
        "personalization_value": "00" * 64,
        "rak_hash_algorithm": "sha-512",
    }
    for name, value in other.items():
        with refused("attest.cca-realm-mismatch", "6 realm"):
            check(policy=rules(realms=(RealmReference(**(good | {name: value})),)))


def test_cache_answers_for_the_same_bytes_only(refused):
    cache, data = VerifiedCache(), token()
    check(data, cache=cache)
    check(data, cache=cache)
    with refused("attest.cca-platform-signature-invalid"):
        check(token(cpak="rak"), cache=cache)
    with refused("attest.cca-platform-signature-invalid"):
        check(data, rules(trust_anchors=(anchor("rak"),)), cache=cache)
    with refused("attest.cca-trust-anchor-missing"):
        check(data, CcaRules(), cache=cache)


def jwk(private: ec.EllipticCurvePrivateKey, **more) -> dict:
    x, y = coordinates(private)
    return {"kty": "EC", "crv": "P-384", "x": base64url(x), "y": base64url(y), **more}


def test_stores_of_other_tools():
    stored = {"pkey": jwk(key("cpak"), kid="1"), "instance-id": INSTANCE.hex().upper(), "implementation-id": "01" * 32}
    assert anchors_from_tastore(json.dumps([stored]).encode()) == (anchor(),)
    assert anchor_from_jwk(json.dumps(jwk(key("cpak"))).encode()).key == key("cpak").public_key()
    platform = {
        "implementation-id": "01" * 32,
        "platform-configuration": "CF" * 4,
        "sw-components": [
            {"component-type": "BL2", "measurement-value": "0A" * 32, "signer-id": "0B" * 32, "version": "1.0"},
            {"component-type": "RMM", "measurement-value": "0c" * 48, "signer-id": "0b" * 32},
        ],
    }
    realm = {
        "initial-measurement": RIM.hex().upper(),
        "rak-hash-algorithm": "sha-256",
        "extensible-measurements": [value.hex().upper() for value in REMS],
        "personalization-value": RPV.hex(),
    }
    store = references_from_rvstore(json.dumps({"platform": [platform], "realm": [realm]}).encode())
    assert store.platform == (reference(),)
    check(policy=rules(platforms=store.platform, realms=store.realm))
    assert references_from_rvstore(b"{}").platform == ()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]x",
        b"{}",
        b"[1]",
        b"[" * 2000,
        b"\xff",
        json.dumps([{"pkey": jwk(key("cpak")), "instance-id": "01", "implementation-id": "00" * 32}]).encode(),
        json.dumps([{"pkey": jwk(key("cpak")), "instance-id": "01" * 33}]).encode(),
        json.dumps(
            [{"pkey": jwk(key("cpak"), kty="RSA"), "instance-id": "01" * 33, "implementation-id": "00" * 32}]
        ).encode(),
        b" " * (5 << 20),
    ],
)
def test_malformed_stores(data):
    with pytest.raises(ParseError) as refusal:
        anchors_from_tastore(data)
    assert refusal.value.code == "attest.policy-malformed"


X, Y = (base64url(part) for part in coordinates(key("cpak")))


@pytest.mark.parametrize(
    "make",
    [
        lambda: TrustAnchor(crv="P-192", x=X, y=Y),
        lambda: TrustAnchor(crv="P-256", x=X, y=Y),
        lambda: TrustAnchor(crv="P-384", x=X, y=X),
        lambda: TrustAnchor(crv="P-384", x="ü", y=Y),
        lambda: TrustAnchor(crv="P-384", x="a", y=Y),
        lambda: TrustAnchor(crv="P-384", x=X, y=Y, instance_id="01" * 32),
        lambda: TrustAnchor(crv="P-384", x=X, y=Y, implementation_id="01" * 33),
        lambda: ReferenceComponent(measurement_value="00" * 20, signer_id="00" * 32),
        lambda: ReferenceComponent(measurement_value="00" * 32, signer_id="00" * 40),
        lambda: ReferenceComponent(measurement_value="00" * 32, signer_id="XY" * 32),
        lambda: PlatformReference(implementation_id="00", platform_configuration="", sw_components=()),
        lambda: PlatformReference(implementation_id="00" * 32, platform_configuration="0", sw_components=()),
        lambda: RealmReference(initial_measurement=""),
        lambda: RealmReference(initial_measurement="00" * 32, extensible_measurements=("00" * 32,)),
        lambda: RealmReference(initial_measurement="00" * 32, personalization_value="00" * 32),
        lambda: CcaRules(lifecycles=("debug",)),
    ],
)
def test_rules_that_make_no_sense(make):
    with pytest.raises(ParseError) as refusal:
        make()
    assert refusal.value.code == "attest.policy-malformed"


def test_rules_survive_the_policys_own_form():
    realm = RealmReference(initial_measurement=RIM.hex(), extensible_measurements=tuple(v.hex() for v in REMS))
    policy = Policy(cca=rules(realms=(realm,), lifecycles=("secured", "unknown")))
    assert Policy.from_toml(policy.to_toml()) == policy
