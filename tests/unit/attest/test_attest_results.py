"""Attestation results: what relying parties of any verifier read, and what is refused of others' tokens."""

from __future__ import annotations

import base64
import hmac
import json
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from joserfc import jws
from joserfc.jwk import ECKey, OKPKey

from mitai.attest.machine import Machine
from mitai.attest.results import ar4si, cmw, ear, tokens
from mitai.attest.results.ar4si import Tier
from mitai.attest.results.ear import PROFILES, AttestationResult, Submodule
from mitai.attest.results.tokens import TokenTrust, accept, new_key, public_key, sign
from mitai.errors import AttestError, MitaiError, ParseError

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
NONCE = bytes(range(32))
KEY = new_key()
TRUST = TokenTrust(keys=(public_key(KEY),))


def machine(**changes: object) -> Machine:
    parts: dict[str, object] = {
        "tee": "tdx",
        "title": "Intel TDX",
        "measurements": {"mrtd": "00" * 48},
        "report_data": bytes(64),
        "signed": b"signed",
        "not_after": NOW + timedelta(days=1),
        "checks": (),
        "memory": "encrypted",
        "tcb_status": "UpToDate",
    }
    return Machine(**parts | changes)


def result(submod: Submodule | None = None, profile: ear.Profile = ear.IETF) -> AttestationResult:
    submod = submod or Submodule.accepted(machine(), policy_id="sha256:00", nonce=NONCE, workload="serve")
    return AttestationResult.of({"tdx": submod}, now=NOW, lifetime=timedelta(minutes=5), nonce=NONCE, profile=profile)


@pytest.mark.parametrize(
    ("changes", "workload", "status"),
    [
        ({}, "serve", Tier.AFFIRMING),
        ({"tcb_status": ""}, "serve", Tier.AFFIRMING),
        ({}, None, Tier.WARNING),
        ({"tcb_status": "OutOfDate"}, "serve", Tier.WARNING),
        ({"tcb_status": "ConfigurationNeeded"}, "serve", Tier.WARNING),
        ({"simulated": True}, "serve", Tier.CONTRAINDICATED),
        ({"memory": "isolated"}, "serve", Tier.WARNING),
        ({"memory": "visible"}, "serve", Tier.CONTRAINDICATED),
    ],
)
def test_status_of_an_accepted_machine(changes, workload, status):
    assert Submodule.accepted(machine(**changes), policy_id="p", workload=workload).status is status


@pytest.mark.parametrize("step", ["6 signatures", "13 workload", "9 td", "8 tcb", None])
def test_a_refusal_is_contraindicated_and_says_why(step):
    submod = Submodule.refused(AttestError("attest.example", "no good", step=step), policy_id="p")
    assert submod.status is Tier.CONTRAINDICATED
    assert ar4si.at_most(submod.status, ar4si.worst(submod.vector.values()))
    assert AttestationResult.decode(result(submod).encode()).submods["tdx"].problem == "attest.example: no good"


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.tag)
def test_every_profile_is_written_and_read(profile):
    made = result(profile=profile)
    assert AttestationResult.decode(made.encode()) == made
    assert accept(sign(made, KEY), TRUST, now=NOW, nonce=NONCE) == made


def test_names_of_the_profiles():
    assert result().claims().keys() >= {"ear_status", "ear_verifier_id", "eat_nonce", "submods", "iat", "exp"}
    dotted = result(profile=ear.TRUSTEE).claims()
    assert dotted.keys() >= {"ear.verifier-id", "submods"}
    assert dotted["submods"]["tdx"].keys() >= {
        "ear.status",
        "ear.trustworthiness-vector",
        "ear.appraisal-policy-id",
        "ear.veraison.annotated-evidence",
    }


def test_the_whole_is_as_good_as_its_worst_part():
    good = Submodule.accepted(machine(), policy_id="p", workload="serve")
    bad = Submodule.refused(AttestError("attest.example", "no"), policy_id="p")
    both = AttestationResult.of({"cpu": good, "gpu": bad}, now=NOW, lifetime=timedelta(1))
    assert both.status is Tier.CONTRAINDICATED
    assert AttestationResult.of({"cpu": good}, now=NOW, lifetime=timedelta(1)).status is Tier.AFFIRMING


def edited(path: tuple[str, ...], value: object) -> bytes:
    claims = json.loads(result().encode())
    where = claims
    for name in path[:-1]:
        where = where[name]
    if value is None:
        del where[path[-1]]
    else:
        where[path[-1]] = value
    return json.dumps(claims).encode()


@pytest.mark.parametrize(
    ("path", "value", "code"),
    [
        (("eat_profile",), "tag:example,2026:other", "attest.result-profile-unknown"),
        (("eat_profile",), None, "attest.result-malformed"),
        (("iat",), 1.5, "attest.result-malformed"),
        (("iat",), True, "attest.result-malformed"),
        (("iat",), 1 << 70, "attest.result-malformed"),
        (("exp",), "soon", "attest.result-malformed"),
        (("eat_nonce",), "AAAA", "attest.result-malformed"),
        (("eat_nonce",), "????????????", "attest.result-malformed"),
        (("ear_verifier_id",), {"developer": "x"}, "attest.result-malformed"),
        (("submods",), {}, "attest.result-malformed"),
        (("submods",), {str(n): {} for n in range(65)}, "attest.result-malformed"),
        (("ear_status",), "contraindicated", "attest.result-inconsistent"),
        (("ear_status",), [], "attest.result-inconsistent"),
        (("submods", "tdx", "ear_status"), "splendid", "attest.result-malformed"),
        (("submods", "tdx", "ear_status"), None, "attest.result-malformed"),
        (("submods", "tdx", "ear_trustworthiness_vector", "hardware"), 96, "attest.result-inconsistent"),
        (("submods", "tdx", "ear_trustworthiness_vector", "hardware"), 128, "attest.result-malformed"),
        (("submods", "tdx", "ear_trustworthiness_vector", "luck"), 2, "attest.result-malformed"),
        (("submods", "tdx", "ear_appraisal_policy_ids"), [1], "attest.result-malformed"),
    ],
)
def test_a_malformed_result(path, value, code):
    with pytest.raises(ParseError) as refusal:
        AttestationResult.decode(edited(path, value))
    assert refusal.value.code == code


def test_unknown_claims_are_ignored():
    assert AttestationResult.decode(edited(("new_claim",), [1])) == result()


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b"{" * 100_000, b" " * (ear.MAX_RESULT_BYTES + 1)])
def test_no_result_at_all(data):
    with pytest.raises(ParseError):
        AttestationResult.decode(data)


def refused(code: str, token: str, trust: TokenTrust = TRUST, **more: object) -> None:
    with pytest.raises(MitaiError) as refusal:
        accept(token, trust, **{"now": NOW} | more)
    assert refusal.value.code == code


def test_times_and_nonce():
    token = sign(result(), KEY)
    refused("attest.token-expired", token, now=NOW + timedelta(minutes=7))
    refused("attest.token-expired", token, now=NOW + timedelta(minutes=3), max_age=timedelta(seconds=5))
    refused("attest.token-not-yet-valid", token, now=NOW - timedelta(minutes=7))
    refused("attest.token-nonce-mismatch", token, nonce=bytes(32))
    last = AttestationResult(NOW, result().submods, datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC))
    assert accept(sign(last, KEY), TRUST, now=NOW) == last
    endless = AttestationResult(NOW, result().submods)
    refused("attest.token-expired", sign(endless, KEY))


def test_any_changed_character_is_refused():
    token = sign(result(), KEY)
    for at in range(0, len(token), 7):
        changed = token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]
        with pytest.raises(MitaiError):
            accept(changed, TRUST, now=NOW)


def encoded(header: dict[str, object]) -> str:
    return base64.urlsafe_b64encode(json.dumps(header).encode()).rstrip(b"=").decode()


def test_forged_tokens():
    _, payload, _ = sign(result(), KEY).split(".")
    refused("attest.token-key-untrusted", f"{encoded({'alg': 'none'})}.{payload}.")
    public = json.dumps(public_key(KEY), separators=(",", ":")).encode()
    mac = hmac.digest(public, f"{encoded({'alg': 'HS256'})}.{payload}".encode(), "sha256")
    code = base64.urlsafe_b64encode(mac).rstrip(b"=").decode()
    refused("attest.token-key-untrusted", f"{encoded({'alg': 'HS256'})}.{payload}.{code}")
    other = ECKey.generate_key("P-256")
    refused("attest.token-signature-invalid", jws.serialize_compact({"alg": "ES256"}, result().encode(), other))


def test_a_key_that_the_token_brings_is_not_trusted():
    own = ECKey.generate_key("P-256", private=True)
    header = {"alg": "ES256", "jwk": own.as_dict(private=False)}
    token = jws.serialize_compact(header, result().encode(), own)
    refused("attest.token-key-untrusted", token)
    refused("attest.token-key-untrusted", jws.serialize_compact({"alg": "ES256", "kid": "x"}, b"{}", own))
    odd = jws.serialize_compact({"alg": "ES256"}, b"{}", own)
    refused(
        "attest.token-key-untrusted", ".".join((encoded({"alg": "ES256", "jwk": {"kty": "EC"}}), *odd.split(".")[1:]))
    )
    pinned = TokenTrust(keys=(public_key(KEY), {n: str(v) for n, v in own.as_dict(private=False).items()}))
    assert accept(token, pinned, now=NOW) == result()
    refused("attest.token-key-untrusted", jws.serialize_compact({"alg": "ES256"}, b"{}", own), pinned)


def test_other_curves():
    for key, alg in ((ECKey.generate_key("P-384"), "ES384"), (OKPKey.generate_key("Ed25519"), "Ed25519")):
        jwk = {name: str(value) for name, value in key.as_dict(private=True).items()}
        assert accept(sign(result(), jwk), TokenTrust(keys=(public_key(jwk),)), now=NOW) == result()
        assert json.loads(base64.urlsafe_b64decode(sign(result(), jwk).split(".")[0] + "==="))["alg"] == alg
    with pytest.raises(ParseError, match="private"):
        sign(result(), public_key(KEY))
    for jwk in ({"kty": "oct", "k": "AAAA"}, {"kty": "EC"}, {}, {"kty": "RSA", "n": "AQ", "e": "AQAB"}):
        with pytest.raises(ParseError):
            public_key(jwk)


@pytest.mark.parametrize(
    "token",
    ["", "a.b", "a.b.c.d", "é.b.c", "e30.e30.AA", "W10.e30.AA", "!!.e30.AA", "x" * (tokens.MAX_TOKEN_BYTES + 1)],
)
def test_malformed_tokens(token):
    with pytest.raises(MitaiError):
        accept(token, TokenTrust(keys=(public_key(KEY), public_key(new_key()))), now=NOW)


def test_headers_that_are_refused():
    key = ECKey.import_key(KEY)
    other = jws.serialize_compact({"alg": "ES256", "typ": "at+jwt"}, result().encode(), key)
    refused("attest.token-malformed", other)
    token = sign(result(), KEY).split(".")
    critical = encoded({"alg": "ES256", "crit": ["b64"], "b64": False})
    refused("attest.token-malformed", ".".join((critical, *token[1:])))
    for odd in ({"kid": []}, {"kid": {}}, {"jwk": {"kty": []}}, {"jwk": {"kty": "EC", "crv": {}}}):
        refused("attest.token-key-untrusted", ".".join((encoded({"alg": "ES256", **odd}), *token[1:])))


def certificate(key: ec.EllipticCurvePrivateKey, days: int = 1) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "verifier")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 7, NOW - timedelta(1), NOW + timedelta(days))
    return builder.sign(key, SHA256()).public_bytes(Encoding.DER)


def test_certified_keys():
    private = ec.generate_private_key(ec.SECP256R1())
    der = certificate(private)
    fingerprint = x509.load_der_x509_certificate(der).fingerprint(SHA256()).hex()
    header = {"alg": "ES256", "x5c": [base64.b64encode(der).decode()]}
    key = ECKey.import_key(private)
    token = jws.serialize_compact(header, result().encode(), key, registry=tokens._Registry())
    trust = TokenTrust(roots=(fingerprint,))
    assert accept(token, trust, now=NOW) == result()
    refused("attest.token-key-untrusted", token, TokenTrust(roots=("00" * 32,)))
    refused("attest.token-chain-expired", token, trust, now=NOW + timedelta(days=2))
    for chain in ([], ["?"], [1], "text", [base64.b64encode(b"no certificate").decode()]):
        broken = jws.serialize_compact({"alg": "ES256"}, result().encode(), key).split(".")
        broken[0] = encoded({"alg": "ES256", "x5c": chain})
        refused("attest.token-malformed", ".".join(broken), trust)


RECORD = cmw.Record("application/eat+jwt", b"token", cmw.RESULTS)
COLLECTION = cmw.Collection({"a": RECORD, "b": cmw.Collection({"c": cmw.Record(30001, b"x")})}, "tag:example,2026:x")


@pytest.mark.parametrize("message", [RECORD, COLLECTION])
def test_wrappers_in_both_forms(message):
    assert cmw.decode(cmw.encode_json(message)) == message
    assert cmw.decode(cmw.encode_cbor(message)) == message


def test_records_of_a_collection():
    paths = {path: record.value for path, record in COLLECTION.records()}
    assert paths == {("a",): b"token", ("b", "c"): b"x"}


def test_tags_stand_for_content_formats():
    assert cmw.decode(bytes.fromhex("da637476324161")) == cmw.Record(29884, b"a")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b'["a"]',
        b'["a","?!"]',
        b'["","YQ"]',
        b'["a","YQ",16]',
        b'["a","YQ",1,1]',
        b'[65536,"YQ"]',
        b'[null,"YQ"]',
        b'["a",7]',
        b'{"__cmwc_t":"x"}',
        b'{"__cmwc_t":1,"a":["a","YQ"]}',
        b'{"a":{"a":{"a":{"a":{"a":["a","YQ"]}}}}}',
        b'{"a":7}',
        b"[",
        bytes.fromhex("8261616161"),
        bytes.fromhex("c64161"),
        bytes.fromhex("da6374020041 61".replace(" ", "")),
        bytes.fromhex("820041ff00"),
        b" " * (cmw.MAX_BYTES + 1),
    ],
)
def test_malformed_wrappers(data):
    with pytest.raises(ParseError):
        cmw.decode(data)


def test_numbers_of_any_size_are_written():
    for number in (0, 23, 24, 255, 256, 65535, 65536, 1 << 32, -1, -500):
        assert list(cmw.decode(cmw.encode_cbor(cmw.Collection({number: RECORD}))).members) == [number]
