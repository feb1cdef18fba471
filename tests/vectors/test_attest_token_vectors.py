"""Attestation results and wrappers of other projects: every `tokens` entry of the vectors' index."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from joserfc import jws

from attest_lab import vector_entries, vector_file
from mitai.attest.results import cmw, ear
from mitai.attest.results.ar4si import Tier
from mitai.attest.results.tokens import TokenTrust, accept
from mitai.errors import AttestError

ENTRIES = [entry for entry in vector_entries() if entry["tee"] == "tokens"]
ABSENT = [pytest.param(None, marks=pytest.mark.skip(reason="no vectors: set MITAI_VECTORS"))]


def entries(name: str) -> list:
    return [pytest.param(entry, id=entry["id"]) for entry in ENTRIES if name in entry["files"]] or ABSENT


@pytest.mark.parametrize("entry", entries("token.jwt"))
def test_signed_tokens(entry):
    token = vector_file(entry, "token.jwt").decode().strip()
    claims = json.loads(vector_file(entry, "claims.json"))
    now = datetime.fromtimestamp(claims["iat"] + 1, UTC)
    with pytest.raises(AttestError) as refusal:  # the key that it brings itself proves nothing
        accept(token, TokenTrust(), now=now)
    assert refusal.value.code == "attest.token-key-untrusted"
    brought = jws.extract_compact(token.encode()).headers()["jwk"]
    trust = TokenTrust(keys=(brought,))
    result = accept(token, trust, now=now)
    assert {name: submod.status for name, submod in result.submods.items()} == entry["expected"]["ear_status"]
    for at in range(0, len(token), 5):
        changed = token[:at] + ("A" if token[at] != "A" else "Q") + token[at + 1 :]
        if changed[-1] == token[-1] or at != len(token) - 1:  # the last character has unused bits
            with pytest.raises(Exception, match=r".+") as refused:
                accept(changed, trust, now=now)
            assert type(refused.value).__name__ in {"AttestError", "ParseError"}
    with pytest.raises(AttestError):
        accept(token, trust, now=now + timedelta(hours=1))


@pytest.mark.parametrize("entry", [*entries("claims.json"), *entries("ear.json")])
def test_claims_sets(entry):
    """Whole results, and Veraison's maps of submodules."""
    raw = json.loads(vector_file(entry, "claims.json" if "claims.json" in entry["files"] else "ear.json"))
    if "submods" in raw:
        submods = ear.AttestationResult.decode(json.dumps(raw).encode()).submods
    else:
        submods = {name: ear.submodule(claims, ear.VERAISON) for name, claims in raw.items()}
    expected = entry["expected"].get("ear_status")
    for name, submod in submods.items():
        claims = raw.get("submods", raw)[name]
        assert submod.status == claims["ear.status"]
        assert submod.vector == claims["ear.trustworthiness-vector"]
        if isinstance(expected, str):
            assert submod.status == Tier(expected)


@pytest.mark.parametrize("entry", entries("collection-cbor-mixed-keys.cbor"))
def test_wrappers(entry):
    message = cmw.decode(vector_file(entry, "collection-cbor-mixed-keys.cbor"))
    assert message == cmw.Collection({"string": cmw.Record(0, b"\xff"), 1024: cmw.Record(0, b"\xaa")})


DIAGNOSTIC = {
    "collection-cbor-ok.diag": cmw.Collection(
        {
            1: cmw.Record("application/signed-corim+cbor", bytes.fromhex("d28443a10126a1"), 3),
            2: cmw.Record(29884, bytes.fromhex("2347da55")),
            "s": cmw.Record(30001, bytes.fromhex("2347da55")),
        }
    ),
    "collection-cbor-mixed-keys.diag": cmw.Collection({"string": cmw.Record(0, b"\xff"), 1024: cmw.Record(0, b"\xaa")}),
}


@pytest.mark.parametrize(("name", "meant"), DIAGNOSTIC.items())
def test_wrappers_in_diagnostic_notation(name, meant):
    """What the diagnostic text means, as CBOR of ours, is read as that; each of its values is in the text."""
    found = [entry for entry in ENTRIES if name in entry["files"]]
    if not found:
        pytest.skip("no vectors: set MITAI_VECTORS")
    text = vector_file(found[0], name).decode()
    assert cmw.decode(cmw.encode_cbor(meant)) == meant
    for label, record in meant.members.items():
        assert str(label) in text
        assert record.value.hex() in text
