"""Nitro documents of our own hypervisor: accepted as they are, and refused for each reason by its own code."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from attest_cose_lab import Raw, cbor, sign1
from attest_nitro_lab import NAMES, NOW, PCRS, USER_DATA, Lab, key
from mitai.attest.cache import VerifiedCache
from mitai.attest.checks import Checklist
from mitai.attest.machine import Hardware
from mitai.attest.nitro import NitroRules, appraise, parse_document
from mitai.attest.nitro.roots import AWS_NITRO_ROOT_G1_SHA256
from mitai.attest.policy import Policy
from mitai.errors import ParseError

LAB = Lab.build()
HOUR = timedelta(hours=1)


@pytest.mark.parametrize("message", [{}, {"tagged": True}])
@pytest.mark.parametrize("indefinite", [False, True])
def test_accepted(message, indefinite):
    machine = LAB.appraise(LAB.document(message=message, indefinite=indefinite, nonce=b"n", public_key=b"k"))
    assert machine.tee == "nitro"
    assert machine.platform == ""
    assert machine.title == "AWS Nitro Enclave"
    assert not machine.simulated
    assert machine.report_data == USER_DATA
    assert machine.measurements["pcr0"] == "01" * 48
    assert list(machine.measurements) == [f"pcr{number}" for number in range(16)]
    assert machine.not_after == NOW + 2 * HOUR
    assert machine.facts["nonce"] == b"n".hex()
    assert machine.facts["public key"] == b"k".hex()
    assert [step for step, _ in machine.checks] == ["1 document", "2 chain", "3 signature", "4 time", "5 registers"]
    assert (
        machine.signed
        == parse_document(LAB.document(nonce=b"n", public_key=b"k", indefinite=indefinite)).message.signed
    )


def test_absent_and_null_fields_are_the_same():
    without = LAB.appraise(LAB.document(user_data=..., nonce=..., public_key=...))
    assert without.report_data == b""
    assert "nonce" not in without.facts
    assert LAB.appraise(LAB.document(user_data=None)).report_data == b""
    assert LAB.appraise(LAB.document(user_data=b"")).report_data == b""


def test_identity_of_the_evidence_is_what_was_signed():
    one = LAB.document()
    other = LAB.document()
    assert one != other  # ECDSA is randomised
    assert LAB.appraise(one).signed == LAB.appraise(other).signed
    assert LAB.appraise(one).signed != LAB.appraise(LAB.document(nonce=b"n")).signed


MALFORMED = {
    "unknown field": {"extra": 1},
    "no module": {"module_id": ...},
    "empty module": {"module_id": ""},
    "long module": {"module_id": "x" * 257},
    "module with control characters": {"module_id": "i-\x1b[31m"},
    "module of bytes": {"module_id": b"i-"},
    "no digest": {"digest": ...},
    "SHA256": {"digest": "SHA256"},
    "digest of bytes": {"digest": b"SHA384"},
    "no timestamp": {"timestamp": ...},
    "timestamp 0": {"timestamp": 0},
    "timestamp below 0": {"timestamp": -1},
    "timestamp beyond years": {"timestamp": 2**64 - 1},
    "timestamp of text": {"timestamp": "now"},
    "timestamp true": {"timestamp": True},
    "no PCRs": {"pcrs": ...},
    "no PCR": {"pcrs": {}},
    "PCRs in a list": {"pcrs": [bytes(48)]},
    "PCR 32": {"pcrs": {32: bytes(48)}},
    "PCR by name": {"pcrs": {"0": bytes(48)}},
    "PCR below 0": {"pcrs": {-1: bytes(48)}},
    "PCR of SHA-256": {"pcrs": {0: bytes(32)}},
    "PCR of text": {"pcrs": {0: "0" * 48}},
    "PCR twice": {"pcrs": Raw(b"\xa2" + 2 * (b"\x00" + cbor(bytes(48))))},
    "both kinds of PCRs": {"nitrotpm_pcrs": PCRS},
    "no certificate": {"certificate": ...},
    "empty certificate": {"certificate": b""},
    "long certificate": {"certificate": bytes(1025)},
    "certificate that is none": {"certificate": b"\x30\x00"},
    "no bundle": {"cabundle": ...},
    "empty bundle": {"cabundle": []},
    "long bundle": {"cabundle": [b"x"] * 9},
    "bundle that is none": {"cabundle": b""},
    "bundle of text": {"cabundle": ["x"]},
    "bundle with an empty certificate": {"cabundle": [b""]},
    "bundle that is no certificates": {"cabundle": [b"x"]},
    "empty key": {"public_key": b""},
    "long key": {"public_key": bytes(1025)},
    "long user data": {"user_data": bytes(1025)},
    "user data of text": {"user_data": "x"},
    "user data false": {"user_data": False},
    "long nonce": {"nonce": bytes(1025)},
}


@pytest.mark.parametrize("changes", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_documents(changes, refused):
    with refused("attest.nitro-malformed"):
        LAB.appraise(LAB.document(**changes))


@pytest.mark.parametrize("field", ["public_key", "user_data", "nonce"])
def test_the_longest_optional_fields(field):
    LAB.appraise(LAB.document(**{field: bytes(1024)}))


def test_malformed_envelopes(refused):
    document = LAB.document()
    for data in (
        b"",
        document + b"\x00",
        document[:-1],
        bytes(17 << 10),
        LAB.document(message={"protected": {1: -7}}),
        LAB.document(message={"protected": {1: -35, 4: b"kid"}}),
        LAB.document(message={"unprotected": {4: b"kid"}}),
        sign1(b"\x80", key("leaf")),
        sign1(cbor(LAB.fields() | {1: 1}), key("leaf")),
    ):
        with refused("attest.nitro-malformed", "1 document"):
            LAB.appraise(data)


def test_a_field_twice(refused):
    payload = cbor(LAB.fields())
    twice = bytes([payload[0] + 1]) + cbor("module_id") + cbor("i-other") + payload[1:]
    with refused("attest.nitro-malformed", "1 document"):
        LAB.appraise(sign1(twice, key("leaf")))


@pytest.mark.parametrize(
    "extra", [{"event_log": b"x"}, {"endorsements": {"chain": b"x"}}], ids=["event log", "endorsement"]
)
def test_a_document_comes_alone(extra, refused):
    with refused("attest.nitro-extra-input", "1 document"):
        appraise(Checklist(), Hardware(tee="nitro", quote=LAB.document(), **extra), NitroRules(), now=NOW)


def test_signature(refused):
    with refused("attest.nitro-signature-invalid", "3 signature"):
        LAB.appraise(LAB.document(signer="instance"))


def test_root(refused):
    """The chain ends in our root; only who trusts it accepts it. AWS's is the default."""
    with refused("attest.nitro-root-untrusted", "2 chain"):
        LAB.appraise(roots=frozenset({AWS_NITRO_ROOT_G1_SHA256}))
    hardware = Hardware(tee="nitro", quote=LAB.document())
    with refused("attest.nitro-root-untrusted", "2 chain"):
        appraise(Checklist(), hardware, NitroRules(), now=NOW)


def test_a_root_of_the_same_name(refused):
    """Another certificate of the root's name and key is not the root."""
    root = LAB.certificate("root", not_after=NOW + 3 * HOUR)
    with refused("attest.nitro-root-untrusted", "2 chain"):
        LAB.appraise(LAB.document(cabundle=[root, *LAB.fields()["cabundle"][1:]]))


def with_certificate(name: str, **changes) -> bytes:
    """Return a document with one certificate made again."""
    forged = LAB.certificate(name, **changes)
    if name == "leaf":
        return LAB.document(certificate=forged)
    return LAB.document(cabundle=[forged if other == name else LAB.certificates[other] for other in NAMES[:-1]])


@pytest.mark.parametrize("name", NAMES[1:])
def test_certificates_outside_their_time(name, refused):
    for changes in ({"not_after": NOW - timedelta(minutes=1)}, {"not_before": NOW + timedelta(minutes=1)}):
        with refused("attest.nitro-chain-expired", "2 chain"):
            LAB.appraise(with_certificate(name, **changes))


@pytest.mark.parametrize("name", NAMES[1:])
def test_certificates_of_others(name, refused):
    with refused("attest.nitro-chain-invalid", "2 chain"):
        LAB.appraise(with_certificate(name, issuer="leaf"))


@pytest.mark.parametrize("name", NAMES[1:-1])
def test_issuers_that_may_not_issue(name, refused):
    for changes in ({"ca": False}, {"constraints": False}):
        with refused("attest.nitro-chain-invalid", "2 chain"):
            LAB.appraise(with_certificate(name, **changes))


@pytest.mark.parametrize(("name", "length"), [("region", 1), ("zone", 0)])
def test_path_lengths_count_the_whole_chain(name, length, refused):
    """The leaf counts too, though it is verified apart from its issuers."""
    with refused("attest.nitro-chain-invalid", "2 chain"):
        LAB.appraise(with_certificate(name, path_length=length))


@pytest.mark.parametrize("name", NAMES[1:])
def test_unknown_critical_extensions(name, refused):
    with refused("attest.nitro-chain-invalid", "2 chain"):
        LAB.appraise(with_certificate(name, critical=True))


def test_other_algorithms(refused):
    with refused("attest.nitro-chain-invalid", "2 chain"):
        LAB.appraise(with_certificate("leaf", hash=SHA256()))
    with refused("attest.certificate-key-unsupported", "2 chain"):
        LAB.appraise(with_certificate("leaf", key=ec.generate_private_key(ec.SECP256R1())))


@pytest.mark.parametrize("changes", [{"ca": True, "path_length": None}, {"sign": False}, {"constraints": False}])
def test_leaves_that_may_not_sign_documents(changes, refused):
    with refused("attest.nitro-leaf-invalid", "2 chain"):
        LAB.appraise(with_certificate("leaf", **changes))


def test_order_of_the_bundle(refused):
    bundle = LAB.fields()["cabundle"]
    with refused("attest.nitro-root-untrusted", "2 chain"):
        LAB.appraise(LAB.document(cabundle=bundle[::-1]))
    with refused("attest.nitro-chain-invalid", "2 chain"):
        LAB.appraise(LAB.document(cabundle=[bundle[0], bundle[2], bundle[1], bundle[3]]))
    with refused("attest.nitro-chain-invalid", "2 chain"):
        LAB.appraise(LAB.document(cabundle=bundle[:-1]))


def test_a_bundle_of_the_root_alone():
    leaf = LAB.certificate("leaf", issuer="root")
    LAB.appraise(LAB.document(certificate=leaf, cabundle=[LAB.certificates["root"]]))


def test_age(refused):
    LAB.appraise(now=NOW + timedelta(seconds=300))
    with refused("attest.nitro-too-old", "4 time"):
        LAB.appraise(now=NOW + timedelta(seconds=301))
    LAB.appraise(rules=NitroRules(max_age_s=3600), now=NOW + timedelta(seconds=3600))
    LAB.appraise(now=NOW - timedelta(seconds=60))
    with refused("attest.nitro-from-the-future", "4 time"):
        LAB.appraise(now=NOW - timedelta(seconds=61))


@pytest.mark.parametrize("zero", [(0,), (1,), (2,), (0, 1, 2)])
def test_debug(zero, refused):
    document = LAB.document(pcrs=PCRS | dict.fromkeys(zero, bytes(48)))
    with refused("attest.nitro-debug", "5 registers"):
        LAB.appraise(document)
    allowed = LAB.appraise(document, NitroRules(allow_debug=True))
    assert allowed.measurements["pcr3"] == "00" * 48
    assert allowed.memory == "visible"
    assert LAB.appraise(rules=NitroRules(allow_debug=True)).memory == "encrypted"


def test_registers_that_are_missing(refused):
    document = LAB.document(pcrs={number: value for number, value in PCRS.items() if number != 1})
    for rules in (NitroRules(), NitroRules(allow_debug=True)):
        with refused("attest.nitro-pcr-missing", "5 registers"):
            LAB.appraise(document, rules)
    with refused("attest.nitro-pcr-missing", "5 registers"):
        LAB.appraise(rules=NitroRules(required_pcrs=("pcr8",)))
    LAB.appraise(LAB.document(pcrs={8: b"\x08" * 48}), NitroRules(required_pcrs=("pcr8",)))


def test_registers_that_differ(refused):
    LAB.appraise(rules=NitroRules(pcrs={"pcr0": ("ff" * 48, "01" * 48), "pcr8": ("00" * 48,)}))
    for pcrs in ({"pcr0": ("ff" * 48,)}, {"pcr31": ("00" * 48,)}):
        with refused("attest.nitro-pcr-mismatch", "5 registers"):
            LAB.appraise(rules=NitroRules(pcrs=pcrs))


def test_modules(refused):
    LAB.appraise(rules=NitroRules(module_ids=("i-other", "i-0123456789abcdef0-")))
    with refused("attest.nitro-module-not-allowed", "5 registers"):
        LAB.appraise(rules=NitroRules(module_ids=("i-other",)))


def test_documents_of_a_nitro_tpm(refused):
    document = LAB.document(pcrs=..., nitrotpm_pcrs={number: bytes([number + 1]) * 48 for number in range(24)})
    with refused("attest.nitro-source-refused", "1 document"):
        LAB.appraise(document)
    machine = LAB.appraise(document, NitroRules(source="nitrotpm"))
    assert machine.title == "AWS NitroTPM"
    assert machine.memory == "isolated"
    assert machine.measurements["pcr23"] == "18" * 48
    with refused("attest.nitro-source-refused", "1 document"):
        LAB.appraise(rules=NitroRules(source="nitrotpm"))


def test_cache_answers_for_the_same_bytes_only(refused):
    cache = VerifiedCache()
    LAB.appraise(cache=cache)
    LAB.appraise(cache=cache)
    with refused("attest.nitro-signature-invalid"):
        LAB.appraise(LAB.document(signer="zone"), cache=cache)
    with refused("attest.nitro-root-untrusted"):
        LAB.appraise(roots=frozenset({AWS_NITRO_ROOT_G1_SHA256}), cache=cache)
    with refused("attest.nitro-leaf-invalid"):  # the issuers are known, this leaf is not
        LAB.appraise(with_certificate("leaf", sign=False), cache=cache)
    with refused("attest.nitro-chain-expired"):
        LAB.appraise(cache=cache, now=NOW + 3 * HOUR)
    with refused("attest.nitro-chain-invalid"):
        LAB.appraise(with_certificate("region", path_length=1), cache=cache)


@pytest.mark.parametrize(
    "rules",
    [
        {"pcrs": {"pcr32": ("00" * 48,)}},
        {"pcrs": {"0": ("00" * 48,)}},
        {"pcrs": {"pcr0": ()}},
        {"pcrs": {"pcr0": ("00" * 32,)}},
        {"pcrs": {"pcr0": ("AB" * 48,)}},
        {"required_pcrs": ("PCR0",)},
        {"max_age_s": -1},
        {"max_clock_skew_s": -1},
        {"module_ids": ("",)},
    ],
)
def test_rules_that_make_no_sense(rules):
    with pytest.raises(ParseError) as refusal:
        NitroRules(**rules)
    assert refusal.value.code == "attest.policy-malformed"


def test_rules_survive_the_policys_own_form():
    policy = Policy(nitro=NitroRules(pcrs={"pcr0": ("01" * 48,), "pcr8": ("08" * 48, "09" * 48)}, source="nitrotpm"))
    assert Policy.from_toml(policy.to_toml()) == policy
    with pytest.raises(ParseError):
        Policy.from_toml('[nitro]\nsource = "other"\n')
