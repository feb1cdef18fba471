"""Properties: no byte of evidence can be changed, and no bytes whatever do more than raise an error of the tree."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attest_lab import CLAIMS, NONCE, NOW, Lab, flip, replace
from mitai.attest import Claims, Collateral, Evidence, Policy, VerifiedCache
from mitai.attest.dcap.pck import parse_sgx_extension
from mitai.attest.dcap.quote import parse_quote, split_quote
from mitai.attest.dcap.tcb import parse_qe_identity, parse_tcb_info
from mitai.attest.eventlog import parse_event_log, replay_rtmrs
from mitai.attest.sim import intel
from mitai.attest.x509 import parse_chain, verify_crl
from mitai.errors import AttestError, MitaiError

# A flip can make a serial number negative or a country three letters long: `cryptography` warns, and we refuse it.
pytestmark = [
    pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Attribute's length must be:UserWarning"),
]

BYTE = st.integers(1, 255)
ANYWHERE = st.floats(0, 1, exclude_max=True)


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Lab:
    return Lab.build(tmp_path_factory.mktemp("machine") / "platform")


@pytest.fixture(scope="module")
def evidence(lab) -> Evidence:
    return lab.evidence()


def at(data: bytes, where: float) -> int:
    return int(where * len(data))


@given(where=ANYWHERE, mask=BYTE)
@settings(max_examples=600)
def test_flip_any_byte_of_the_quote(lab, evidence, where, mask):
    """Every byte, the certificates in it included; the cache does not make it blind."""
    spoiled = replace(evidence, quote=flip(evidence.quote, at(evidence.quote, where), mask))
    with pytest.raises(AttestError):
        lab.verify(spoiled, cache=CACHE)


CACHE = VerifiedCache()


@pytest.mark.slow
def test_flip_every_byte_of_the_quote(lab, evidence):
    for offset in range(len(evidence.quote)):
        for mask in (1, 0x20, 0x80):
            with pytest.raises(AttestError):
                lab.verify(replace(evidence, quote=flip(evidence.quote, offset, mask)), cache=CACHE)


@given(where=ANYWHERE, mask=BYTE)
@settings(max_examples=100)
def test_flip_any_byte_of_the_claims(lab, evidence, where, mask):
    with pytest.raises(AttestError):
        lab.verify(replace(evidence, claims=flip(evidence.claims, at(evidence.claims, where), mask)), cache=CACHE)


@given(where=ANYWHERE, mask=BYTE)
@settings(max_examples=50)
def test_flip_any_byte_of_the_nonce(lab, evidence, where, mask):
    nonce = flip(NONCE, at(NONCE, where), mask)
    with pytest.raises(AttestError):
        lab.verify(replace(evidence, nonce=nonce), cache=CACHE)
    with pytest.raises(AttestError):
        lab.verify(replace(evidence, nonce=nonce), nonce=nonce, cache=CACHE)
    with pytest.raises(AttestError):
        lab.verify(evidence, nonce=nonce, cache=CACHE)


@given(where=ANYWHERE, mask=BYTE)
@settings(max_examples=200)
def test_flip_any_byte_of_the_event_log(lab, evidence, where, mask):
    """Refused, or the changed byte is a description: then nothing that was appraised differs."""
    spoiled = replace(evidence, event_log=flip(evidence.event_log, at(evidence.event_log, where), mask))
    try:
        appraisal = lab.verify(spoiled, cache=CACHE)
    except AttestError:
        return
    assert appraisal == lab.verify(evidence, cache=CACHE)
    assert replay_rtmrs(spoiled.event_log) == replay_rtmrs(evidence.event_log)


PARTS = [name for name in Collateral.__struct_fields__ if name != "pck_certificate_chain"]


@pytest.mark.parametrize("part", PARTS)
@given(where=ANYWHERE, mask=BYTE)
@settings(max_examples=80)
def test_flip_any_byte_of_the_collateral(lab, evidence, part, where, mask):
    value = getattr(evidence.collateral, part)
    data = value.encode() if isinstance(value, str) else value
    changed = flip(data, at(data, where), mask)
    spoiled = changed.decode("latin-1") if isinstance(value, str) else changed
    if part.endswith("_chain") and parse_safely(changed) == parse_chain(data, "x"):
        return  # another line end: the same certificates
    with pytest.raises(AttestError):
        lab.verify(evidence, collateral=replace(evidence.collateral, **{part: spoiled}), cache=CACHE)


def parse_safely(pem: bytes):
    try:
        return parse_chain(pem, "x")
    except MitaiError:
        return None


@given(size=ANYWHERE)
@settings(max_examples=200)
def test_truncate_anything(lab, evidence, size):
    for part in ("quote", "claims", "nonce"):
        data = getattr(evidence, part)
        with pytest.raises(AttestError):
            lab.verify(replace(evidence, **{part: data[: at(data, size)]}), cache=CACHE)


def issuer(lab):
    return parse_chain(lab.authority.chain("root").encode(), "x")[0]


PARSERS = {
    "quote": parse_quote,
    "split": split_quote,
    "evidence": Evidence.decode,
    "claims": Claims.decode,
    "collateral": Collateral.decode,
    "collateral v3": Collateral.from_quote_collateral_v3,
    "tcb info": parse_tcb_info,
    "qe identity": parse_qe_identity,
    "chain": lambda data: parse_chain(data, "attest.pck-chain-invalid"),
    "extension": parse_sgx_extension,
    "event log": lambda data: list(parse_event_log(data)),
    "policy": lambda data: Policy.from_toml(data.decode("latin-1")),
}


def outcome(name: str, data: bytes) -> str:
    """Parse; return the code of the refusal. Any other exception fails the test."""
    try:
        PARSERS[name](data)
    except MitaiError as error:
        return error.code
    return "attest.accepted"


@pytest.mark.parametrize("name", PARSERS)
@given(data=st.binary(max_size=400) | st.text(max_size=200).map(str.encode))
@settings(max_examples=60)
def test_any_bytes(name, data):
    assert outcome(name, data).startswith("attest.")


@given(data=st.binary(max_size=400))
@settings(max_examples=60)
def test_any_revocation_list(lab, data):
    with pytest.raises(MitaiError):
        verify_crl(data, issuer(lab), "root-crl")


@pytest.mark.parametrize("name", ["quote", "evidence", "claims", "collateral", "event log", "extension", "chain"])
@given(where=ANYWHERE, mask=BYTE, cut=ANYWHERE)
@settings(max_examples=80)
def test_nearly_good_bytes(lab, evidence, name, where, mask, cut):
    good = {
        "quote": evidence.quote,
        "evidence": evidence.encode(),
        "claims": CLAIMS.encode(),
        "collateral": evidence.collateral.encode(),
        "event log": evidence.event_log,
        "extension": intel.sgx_extension(),
        "chain": lab.authority.chain("pck", "ca", "root").encode(),
    }[name]
    for data in (flip(good, at(good, where), mask), good[: at(good, cut)], good + good[at(good, cut) :]):
        assert outcome(name, data).startswith("attest.")


NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=20).filter(lambda name: name[0] != "-")
HEX32 = st.binary(min_size=32, max_size=32).map(bytes.hex)


@given(
    name=NAMES,
    key=st.binary(max_size=100),
    digests=st.lists(HEX32, max_size=3),
    extra=st.dictionaries(st.text(), st.text(), max_size=3),
)
@settings(max_examples=100)
def test_claims_round_trip(name, key, digests, extra):
    claims = Claims(workload=name, key_config=key, policies=tuple(digests), extra=extra)
    assert Claims.decode(claims.encode()) == claims


@given(text=st.text(max_size=50), root=HEX32)
@settings(max_examples=100)
def test_policies_round_trip(text, root):
    policy = Policy(sim_roots=(f"sha256:{root}",), claims=replace(Policy().claims, ledger_vkey=text))
    assert Policy.from_toml(policy.to_toml()) == policy


def test_the_unchanged_evidence_verifies(lab, evidence):
    """Or none of the above would mean anything."""
    assert lab.verify(evidence, cache=CACHE).workload == "serve"
    assert lab.verify(evidence, now=NOW).workload == "serve"
