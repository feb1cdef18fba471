"""Properties of the KBS protocol's boundary: every byte counts, and nothing but the tree's errors comes out."""

from __future__ import annotations

import base64
import hashlib
import json
from contextlib import suppress
from functools import partial
from typing import get_args

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc.jwk import ECKey

from attest_snp_lab import amd
from kbs_guest import canonical, snp_report_json
from mitai.attest.snp import parse_report
from mitai.broker.kbs.evidence import hardware_of
from mitai.broker.kbs.messages import Tee, parse_attestation, parse_request
from mitai.errors import ParseError

KEY = ECKey.generate_key("P-256").as_dict(private=False)
RUNTIME = {
    "nonce": "bm9uY2U=",
    "tee-pubkey": {"kty": "EC", "crv": "P-256", "alg": "ECDH-ES+A256KW", "x": KEY["x"], "y": KEY["y"]},
}
BODY = json.dumps(
    {"runtime-data": RUNTIME, "tee-evidence": {"primary_evidence": {}, "additional_evidence": ""}}
).encode()
DIGEST = parse_attestation(BODY).report_digest()
REPORT = amd().report()


LEAVES = st.none() | st.integers() | st.text(max_size=20) | st.sampled_from(["EC", "P-256", "A" * 43, "AA=="])
NAMES = st.sampled_from(
    ["runtime-data", "tee-evidence", "tee-pubkey", "nonce", "kty", "x", "quote", "token", "version"]
)
TREES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=5))


@given(st.binary(max_size=400) | TREES.map(lambda tree: json.dumps(tree).encode()))
def test_any_bytes(data: bytes) -> None:
    for parse in (parse_request, parse_attestation, *(partial(hardware_of, tee) for tee in get_args(Tee))):
        with suppress(ParseError):
            parse(data)


@given(offset=st.integers(0, len(BODY) - 1), mask=st.integers(1, 255))
def test_a_changed_byte_of_the_runtime_data_is_refused_or_another_digest(offset: int, mask: int) -> None:
    changed = BODY[:offset] + bytes([BODY[offset] ^ mask]) + BODY[offset + 1 :]
    with suppress(ParseError):
        attestation = parse_attestation(changed)
        attestation.recipient()
        said = json.loads(changed)["runtime-data"]
        assert said == RUNTIME or attestation.report_digest() != DIGEST


@given(st.text())
def test_the_nonce_is_hashed_as_rfc_8785_writes_it(nonce: str) -> None:
    body = json.dumps({**json.loads(BODY), "runtime-data": {**RUNTIME, "nonce": nonce}}).encode(
        "utf-8", "surrogatepass"
    )
    with suppress(ParseError):
        digest = parse_attestation(body).report_digest()
        expected = canonical({**RUNTIME, "nonce": nonce, "additional-evidence": ""})
        assert digest == hashlib.sha384(expected).digest()


@settings(max_examples=50)
@given(offset=st.integers(0, 0x2A0 + 95), mask=st.integers(1, 255))
def test_a_report_survives_json_or_is_no_report(offset: int, mask: int) -> None:
    changed = bytearray(REPORT)
    changed[offset] ^= mask
    written = hardware_of("snp", json.dumps({"attestation_report": snp_report_json(bytes(changed), "Genoa")}).encode())
    with suppress(ParseError):
        if parse_report(bytes(changed)).product == "Genoa":
            tcb = {0x38, 0x180, 0x1E0, 0x1F0}
            reserved = any(start + 2 <= offset < start + 6 for start in tcb)  # in the JSON these are not there
            assert (written.quote == bytes(changed)) != reserved


@settings(max_examples=20)
@given(st.integers(0, 255), st.integers(0, 65))
def test_a_point_off_the_curve_is_refused(byte: int, position: int) -> None:
    numbers = ec.generate_private_key(ec.SECP521R1()).public_key().public_numbers()
    data = bytearray(numbers.y.to_bytes(66))
    if data[position] == byte:
        return
    data[position] = byte
    key = {
        name: base64.urlsafe_b64encode(value).rstrip(b"=").decode()
        for name, value in (("x", numbers.x.to_bytes(66)), ("y", bytes(data)))
    }
    runtime = {"nonce": "", "tee-pubkey": {"kty": "EC", "crv": "P-521", "alg": "ECDH-ES+A256KW", **key}}
    body = json.dumps({**json.loads(BODY), "runtime-data": runtime}).encode()
    with pytest.raises(ParseError):
        parse_attestation(body).recipient()
