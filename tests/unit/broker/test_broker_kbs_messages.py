"""The KBS protocol's messages: hashes, keys, answers, and evidence of each kind, as upstream writes them."""

from __future__ import annotations

import base64
import hashlib
import json

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from joserfc.jwk import ECKey, RSAKey

from attest_snp_lab import amd
from kbs_guest import canonical, snp_report_json, unb64url
from mitai.attest.collateral import Resource, Services
from mitai.attest.machine import Hardware
from mitai.broker.kbs import messages
from mitai.broker.kbs.endorse import ASKED_AT_ONCE, Endorser
from mitai.broker.kbs.evidence import hardware_of
from mitai.broker.kbs.messages import Recipient, parse_attestation
from mitai.errors import AttestError, ParseError

EC = {"kty": "EC", "alg": "ECDH-ES+A256KW", **ECKey.generate_key("P-256").as_dict(private=False)}
RSA = {"kty": "RSA", "alg": "RSA-OAEP-256", **RSAKey.generate_key(2048).as_dict(private=False)}


def attestation(key: dict[str, object] | None = None, **changes: object) -> bytes:
    runtime = {"nonce": "bm9uY2U=", "tee-pubkey": key or EC}
    evidence = {"primary_evidence": {"quote": "AA=="}, "additional_evidence": ""}
    return json.dumps({"runtime-data": runtime, "tee-evidence": evidence} | changes).encode()


# --- Hash and key -----------------------------------------------------------------------------------------------------


def test_the_digest_is_trustees() -> None:
    """The known answer is from the tests of Trustee's attestation service (`parse_runtimedata_json_binding`)."""
    value = {"b": 1, "a": "test", "c": {"d": "e"}}
    known = "e71ce8e70d814ba6639c3612ebee0ff1f76f650f8dbb5e47157e0f3f525cd22c4597480a186427c813ca941da78870c3"
    assert hashlib.sha384(messages._canonical(value)).hexdigest() == known
    runtime = {"tee-pubkey": EC, "nonce": "bm9uY2U=", "additional-evidence": ""}
    expected = hashlib.sha384(canonical(runtime)).digest()
    assert parse_attestation(attestation()).report_digest() == expected


def test_strings_are_written_as_rfc_8785_does() -> None:
    text = '\u20ac$\u000f\nA\'B"\\\\"/\x7f'
    assert messages._canonical({"s": text}) == '{"s":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/\x7f"}'.encode()


def test_runtime_data_and_evidence_change_the_digest() -> None:
    other = {**EC, **ECKey.generate_key("P-256").as_dict(private=False), "alg": "ECDH-ES+A256KW"}
    empty = {"primary_evidence": {}, "additional_evidence": "{}"}
    runtime = {"nonce": "bm9uY2UK", "tee-pubkey": EC}
    bodies = [attestation(), attestation(other), attestation(**{"tee-evidence": empty, "runtime-data": runtime})]
    bodies.append(attestation(**{"tee-evidence": empty}))
    assert len({parse_attestation(body).report_digest() for body in bodies}) == 4


def small_rsa() -> dict[str, object]:
    numbers = rsa.generate_private_key(65537, 1024).public_key().public_numbers()
    return {**RSA, "n": base64.urlsafe_b64encode(numbers.n.to_bytes(128)).rstrip(b"=").decode()}


@pytest.mark.parametrize(
    "key",
    [
        {**EC, "crv": "P-384"},
        {**EC, "crv": "P-521"},
        {**EC, "alg": "ECDH-ES"},
        {**EC, "alg": "RSA-OAEP-256"},
        {**EC, "alg": "none"},
        {**EC, "d": "AA"},
        {**EC, "kty": "OKP"},
        {**EC, "kty": "oct", "k": "AA"},
        {**EC, "y": EC["x"]},
        {**EC, "x": str(EC["x"]) + "="},
        {**EC, "x": str(EC["x"])[:-1]},
        {**EC, "x": "*" * 43},
        {**EC, "x": "A" * 43, "y": "A" * 43},
        {**RSA, "alg": "RSA1_5"},
        {**RSA, "alg": "RSA-OAEP"},
        {**RSA, "e": "Aw"},
        {**RSA, "n": base64.urlsafe_b64encode(b"\xff" * 513).decode()},
        small_rsa(),
        {name: value for name, value in EC.items() if name != "alg"},
    ],
)
def test_keys_that_nothing_is_sealed_to(key: dict[str, object]) -> None:
    with pytest.raises(ParseError) as refusal:
        parse_attestation(attestation(key)).recipient()
    assert refusal.value.code == "broker.kbs-malformed"


def test_an_answer_has_the_form_that_guests_read() -> None:
    key = ec.generate_private_key(ec.SECP521R1())
    sealed = json.loads(Recipient(key.public_key()).seal(b"secret"))
    assert set(sealed) == {"protected", "encrypted_key", "iv", "ciphertext", "tag"}
    header = unb64url(sealed["protected"]).decode()
    assert header.startswith('{"alg":"ECDH-ES+A256KW","enc":"A256GCM","epk":{"crv":"P-521","kty":"EC","x":"')
    assert (len(unb64url(sealed["iv"])), len(unb64url(sealed["tag"]))) == (12, 16)
    assert len(unb64url(sealed["encrypted_key"])) == 40
    again = json.loads(Recipient(key.public_key()).seal(b"secret"))
    assert not set(sealed.values()) & set(again.values())


# --- Evidence ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tee", ["tdx", "sgx"])
def test_quotes(tee: str) -> None:
    evidence = json.dumps({"cc_eventlog": "bG9n", "quote": "cXVvdGU="}).encode()
    assert hardware_of(tee, evidence) == Hardware(tee=tee, quote=b"quote", event_log=b"log")
    assert hardware_of(tee, b'{"quote":"cXVvdGU=","cc_eventlog":null}') == Hardware(tee=tee, quote=b"quote")


@pytest.mark.parametrize(
    ("product", "version", "kind"),
    [("Milan", 2, "vcek"), ("Genoa", 3, "vcek"), ("Genoa", 5, "vlek"), ("Turin", 3, "vcek"), ("Turin", 5, "vcek")],
)
def test_reports_of_sev_snp(product: str, version: int, kind: str) -> None:
    maker = amd(product)
    report = maker.report(version=version, kind=kind)
    crl, vek = maker.crl(), maker.vek(kind)
    chain = [
        {"cert_type": kind.upper(), "data": list(vek)},
        {"cert_type": "ASK", "data": [1, 2]},
        {"cert_type": "CRL", "data": list(crl)},
        {"cert_type": {"OTHER": "ecae0c0f-9502-43b1-afa2-0ae2e0d565b6"}, "data": [3]},
    ]
    evidence = {"attestation_report": snp_report_json(report, product), "cert_chain": chain}
    hardware = hardware_of("snp", json.dumps(evidence).encode())
    assert hardware == Hardware(tee="snp", quote=report, endorsements={"vek": vek, "crl": crl})
    full = msgspec.structs.replace(hardware, endorsements={**hardware.endorsements, "chain": maker.chain(kind)})
    assert maker.appraise(full).tee == "snp"
    bare = json.dumps({"attestation_report": snp_report_json(report, product), "cert_chain": None}).encode()
    assert hardware_of("snp", bare) == Hardware(tee="snp", quote=report)


def test_realms_and_tpms() -> None:
    assert hardware_of("cca", b'{"token":[1,2,255]}') == Hardware(tee="cca", quote=b"\x01\x02\xff")
    with pytest.raises(ParseError) as refusal:
        hardware_of("azsnpvtpm", b"{}")
    assert refusal.value.code == "attest.trustee-evidence-malformed"


REPORT = snp_report_json(amd().report(), "Genoa")


@pytest.mark.parametrize(
    ("tee", "evidence"),
    [
        ("tdx", {"svn": "1", "report_data": "AA=="}),  # a `sample`
        ("tdx", {"quote": "*"}),
        ("tdx", {"quote": "AA==", "more": 1}),
        ("cca", {"token": [256]}),
        ("snp", {"attestation_report": {**REPORT, "measurement": [0] * 47}}),
        ("snp", {"attestation_report": {**REPORT, "chip_id": [0] * 65}}),
        ("snp", {"attestation_report": {**REPORT, "version": -1}}),
        ("snp", {"attestation_report": {**REPORT, "policy": 1 << 64}}),
        ("snp", {"attestation_report": {**REPORT, "_reserved": 0}}),
    ],
)
def test_evidence_that_is_none(tee: str, evidence: dict[str, object]) -> None:
    with pytest.raises(ParseError) as refusal:
        hardware_of(tee, json.dumps(evidence).encode())
    assert refusal.value.code == "broker.kbs-evidence-malformed"


# --- Collateral -------------------------------------------------------------------------------------------------------


class Asked:
    """A service that counts, and knows nothing."""

    def __init__(self) -> None:
        self.count = 0

    def ask(self, _resource: Resource) -> tuple[bytes, str]:
        self.count += 1
        raise AttestError("attest.collateral-unknown", "nobody knows this machine")


def test_questions_of_strangers_are_rationed_and_forgotten() -> None:
    asked, now = Asked(), [0.0]
    endorser = Endorser(Services(), asked, clock=lambda: now[0], asked_before_renewal=10)
    first = endorser._cache
    for number in range(ASKED_AT_ONCE + 5):
        report = amd().report({0x1A0: number.to_bytes(64)})
        with pytest.raises(AttestError) as refusal:
            endorser(Hardware(tee="snp", quote=report))
        rationed = number >= ASKED_AT_ONCE
        assert refusal.value.code == f"attest.collateral-{'rationed' if rationed else 'unknown'}"
    assert asked.count == ASKED_AT_ONCE
    assert endorser._cache is not first
    assert len(endorser._cache._failed) <= 10 + 5
    now[0] += 1
    with pytest.raises(AttestError):
        endorser(Hardware(tee="snp", quote=amd().report({0x1A0: b"\xee" * 64})))
    assert asked.count == ASKED_AT_ONCE + 1
