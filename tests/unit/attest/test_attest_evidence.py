"""Evidence and claims: exact, bounded, versioned."""

from __future__ import annotations

import hashlib

import msgspec
import pytest

from attest_lab import CLAIMS, replace
from mitai.attest import CapsuleClaim, Claims, Collateral, Evidence, LedgerClaim, report_data
from mitai.attest.dcap.collateral import MAX_COLLATERAL_BYTES
from mitai.attest.evidence import MAX_CLAIMS_BYTES, MAX_EVIDENCE_BYTES


def test_report_data_is_what_the_specification_says():
    nonce, claims, devices = bytes(range(32)), b"claims", b"[]"
    parts = b"mitai report data v1\0" + nonce + hashlib.sha256(claims).digest() + hashlib.sha256(devices).digest()
    assert report_data(nonce, claims, devices) == hashlib.sha512(parts).digest()


def test_report_data_separates_its_parts(refused):
    assert report_data(bytes(32), b"a", b"b") != report_data(bytes(32), b"ab", b"")
    assert report_data(bytes(32), b"a", b"b") != report_data(bytes(32), b"b", b"a")
    with refused("attest.nonce-malformed"):
        report_data(bytes(31), b"a", b"b")


def test_claims_round_trip():
    claims = Claims(
        workload="serve",
        key_config=b"\x00\xff",
        receipt_key=bytes(32),
        tls_key_sha256="ab" * 32,
        capsules=(CapsuleClaim("a", "cd" * 32), CapsuleClaim("b", "cd" * 32)),
        policies=("ef" * 32,),
        ledger=LedgerClaim("ledger.example", "vkey", b"checkpoint"),
        extra={"region": "eu"},
    )
    assert Claims.decode(claims.encode()) == claims


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"v": 2}, "attest.claims-version-unsupported"),
        ({"v": "1"}, "attest.claims-malformed"),
        ({"workload": ""}, "attest.claims-malformed"),
        ({"workload": "Serve"}, "attest.claims-malformed"),
        ({"workload": "a\x1b[2J"}, "attest.claims-malformed"),
        ({"workload": "a" * 65}, "attest.claims-malformed"),
        ({"key_config": "not base64!"}, "attest.claims-malformed"),
        ({"receipt_key": "AAAA"}, "attest.claims-malformed"),
        ({"tls_key_sha256": "AB" * 32}, "attest.claims-malformed"),
        ({"policies": ["short"]}, "attest.claims-malformed"),
        ({"capsules": [{"id": "a", "manifest_sha256": "x"}]}, "attest.claims-malformed"),
        ({"capsules": [{"id": "a", "manifest_sha256": "ab" * 32}] * 2}, "attest.claims-malformed"),
        ({"unknown": 1}, "attest.claims-malformed"),
    ],
)
def test_claims_that_are_refused(refused, change, code):
    fields = msgspec.json.decode(CLAIMS.encode())
    with refused(code):
        Claims.decode(msgspec.json.encode({**fields, **change}))


def test_sizes(lab, refused):
    """Good in all but size: spaces after the value are JSON, too."""
    evidence = lab.evidence()
    with refused("attest.claims-malformed"):
        Claims.decode(CLAIMS.encode() + b" " * MAX_CLAIMS_BYTES)
    with refused("attest.evidence-malformed"):
        Evidence.decode(evidence.encode() + b" " * MAX_EVIDENCE_BYTES)
    with refused("attest.collateral-malformed"):
        Collateral.decode(evidence.collateral.encode() + b" " * MAX_COLLATERAL_BYTES)
    with refused("attest.collateral-malformed"):
        Collateral.from_quote_collateral_v3(quote_collateral_v3(evidence.collateral) + b" " * MAX_COLLATERAL_BYTES)


def quote_collateral_v3(collateral: Collateral, **change) -> bytes:
    binary = {"tcb_info_signature", "qe_identity_signature", "root_ca_crl", "pck_crl"}
    fields = {
        name: getattr(collateral, name).hex() if name in binary else getattr(collateral, name)
        for name in Collateral.__struct_fields__
        if getattr(collateral, name) is not None
    }
    return msgspec.json.encode({**fields, **change})


def test_evidence_version(lab, refused):
    fields = msgspec.json.decode(lab.evidence().encode())
    with refused("attest.evidence-version-unsupported"):
        Evidence.decode(msgspec.json.encode({**fields, "v": 2}))
    with refused("attest.evidence-version-unsupported"):
        replace(lab.evidence(), v=2)


@pytest.mark.parametrize("data", [b"", b"null", b"{}", b"[1", b"\xff\xfe", b"[" * 100000])
def test_bytes_that_are_nothing(refused, data):
    with refused("attest.evidence-malformed"):
        Evidence.decode(data)
    with refused("attest.claims-malformed"):
        Claims.decode(data)
    with refused("attest.collateral-malformed"):
        Collateral.decode(data)
    with refused("attest.collateral-malformed"):
        Collateral.from_quote_collateral_v3(data)


def test_quote_collateral_v3(lab, refused):
    collateral = lab.platform.collateral()
    assert Collateral.from_quote_collateral_v3(quote_collateral_v3(collateral)) == collateral
    for change in ({"pck_crl": "xyz"}, {"unknown": "1"}, {"pck_crl": 1}):
        with refused("attest.collateral-malformed"):
            Collateral.from_quote_collateral_v3(quote_collateral_v3(collateral, **change))
