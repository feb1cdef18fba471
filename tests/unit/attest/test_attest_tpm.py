"""TPM quotes: what each part must be, and every refusal."""

from __future__ import annotations

import hashlib
import struct
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attest_lab import CLAIMS, NONCE, replace
from attest_tpm_lab import (
    AIK,
    AK_ATTRIBUTES,
    END,
    NOW,
    REPORT_DATA,
    RSAPSS,
    SHA1_BANK,
    SHA256_BANK,
    SHA384_BANK,
    SoftTpm,
    authority,
    ec_key,
    rsa_key,
    tpm2b,
)
from mitai.attest import Evidence, Policy, ReferenceValues, report_data, verify
from mitai.attest.cache import VerifiedCache
from mitai.attest.evidence import NO_DEVICES
from mitai.attest.tpm import TpmEvidence, TpmRules, signed_part
from mitai.attest.tpm.structures import parse_public, parse_quote, parse_signature, rsassa_signature
from mitai.errors import ParseError


def test_a_quote_under_a_pinned_key():
    tpm = SoftTpm()
    digest = tpm.extend(4, b"a boot loader")
    machine = tpm.appraise()
    assert machine.tee == "tpm"
    assert machine.memory == "isolated"
    assert ("memory", "not shown to be encrypted: the host may read it") in machine.summary()
    assert machine.report_data == REPORT_DATA
    assert machine.measurements["pcr4"] == hashlib.sha256(bytes(32) + digest).hexdigest()
    assert set(machine.measurements) == {f"pcr{number}" for number in range(24)}
    assert machine.signed == signed_part(tpm.hardware(tpm.evidence()).quote)
    assert [step for step, _ in machine.checks] == [
        "1 evidence",
        "2 attestation key",
        "3 tpm signature",
        "4 registers",
        "5 event log",
    ]
    assert machine.facts["tpm resets"] == "2, restarts 0"


@pytest.mark.parametrize(
    "tpm",
    [
        SoftTpm(),
        SoftTpm(scheme=RSAPSS),
        SoftTpm(ec_key()),
        SoftTpm(ec.derive_private_key(3**80, ec.SECP384R1())),
        SoftTpm(attributes=AK_ATTRIBUTES | 1 << 10),
    ],
    ids=["rsassa", "rsapss", "p256", "p384", "noDA"],
)
def test_kinds_of_keys(tpm):
    assert tpm.appraise().report_data == REPORT_DATA
    assert tpm.appraise(policy=tpm.policy(aks=(tpm.key_pin,))).report_data == REPORT_DATA
    bare = tpm.evidence(ak_public=b"", ak_spki=tpm.spki())
    assert tpm.appraise(tpm.hardware(bare), tpm.policy(aks=(tpm.key_pin,))).report_data == REPORT_DATA


def test_untrusted_keys(refused):
    tpm, other = SoftTpm(), SoftTpm(rsa_key(2048, 3))
    with refused("attest.tpm-key-untrusted", "2 attestation key"):
        other.appraise(policy=tpm.policy())
    with refused("attest.tpm-key-untrusted"):
        tpm.appraise(policy=tpm.policy(aks=()))
    with refused("attest.tpm-key-untrusted"):
        tpm.appraise(tpm.hardware(tpm.evidence(ak_public=b"", ak_spki=tpm.spki())))
    with refused("attest.tpm-key-missing"):
        tpm.appraise(tpm.hardware(tpm.evidence(ak_public=b"")))
    with refused("attest.tpm-signature-invalid", "3 tpm signature"):
        tpm.appraise(tpm.hardware(tpm.evidence(signature=other.sign(tpm.attest()))))
    with refused("attest.tpm-signature-invalid"):
        tpm.appraise(tpm.hardware(tpm.evidence(signature=SoftTpm(ec_key()).sign(tpm.attest()))))
    curve = SoftTpm(ec_key())
    with refused("attest.tpm-signature-invalid"):
        curve.appraise(curve.hardware(curve.evidence(signature=tpm.sign(curve.attest()))))


def test_a_certified_key():
    tpm = SoftTpm()
    policy = tpm.policy(aks=(), roots=(authority().pin,))
    hardware = tpm.hardware(endorsements={"ak_chain": authority().chain(tpm)})
    machine = tpm.appraise(hardware, policy)
    assert machine.not_after == END
    cache = VerifiedCache()
    for _ in range(2):
        assert tpm.appraise(hardware, policy, cache=cache).measurements == machine.measurements


def test_a_certificate_that_is_not_of_an_attestation_key(refused):
    """A device identity's key is certified for signatures too, and would sign a forged quote."""
    tpm = SoftTpm()
    policy = tpm.policy(aks=(), roots=(authority().pin,))

    def appraise(*extended: str, public: bytes = b""):
        chain = authority().chain(tpm, extended=extended)
        return tpm.appraise(tpm.hardware(tpm.evidence(ak_public=public), endorsements={"ak_chain": chain}), policy)

    assert appraise("2.23.133.8.3").report_data == REPORT_DATA
    assert appraise("2.23.133.8.1", "2.23.133.8.3").report_data == REPORT_DATA
    for extended in ((), ("2.23.133.8.1",), ("2.23.133.8.3", "1.3.6.1.5.5.7.3.1")):
        for public in (b"", tpm.public()):  # which says that the key is restricted, but nobody signed that
            with refused("attest.tpm-certificate-role", "2 attestation key"):
                appraise(*extended, public=public)


def test_a_pinned_key_on_a_leap_day():
    assert SoftTpm().appraise(now=datetime(2028, 2, 29, tzinfo=UTC)).not_after.year == 9999


@pytest.mark.parametrize(
    ("leaf", "code"),
    [
        ({"usage": "key_encipherment"}, "attest.tpm-certificate-role"),
        ({"ca": True}, "attest.tpm-certificate-role"),
        ({"constraints": False}, "attest.tpm-certificate-role"),
        ({"window": (NOW - timedelta(2), NOW - timedelta(1))}, "attest.tpm-chain-expired"),
        ({"window": (NOW + timedelta(1), NOW + timedelta(2))}, "attest.tpm-chain-expired"),
    ],
)
def test_certificates_of_other_roles(refused, leaf, code):
    tpm = SoftTpm()
    hardware = tpm.hardware(endorsements={"ak_chain": authority().chain(tpm, **leaf)})
    with refused(code, "2 attestation key"):
        tpm.appraise(hardware, tpm.policy(roots=(authority().pin,)))


def test_chains(refused):
    tpm, ca = SoftTpm(), authority()
    policy = tpm.policy(roots=(ca.pin,))

    def appraise(*certificates, key=tpm):
        chain = b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)
        return tpm.appraise(tpm.hardware(endorsements={"ak_chain": chain}), policy)

    leaf = ca.issue("", tpm.key, "intermediate", ca.ca_key, extended=AIK)
    assert appraise(leaf, ca.ca, ca.root).not_after == END
    with refused("attest.tpm-root-untrusted"):
        appraise(leaf, ca.ca)
    with refused("attest.tpm-chain-invalid"):
        appraise(ca.root)
    with refused("attest.tpm-chain-invalid"):
        appraise(*[leaf] * 5, ca.root)
    with refused("attest.tpm-chain-invalid"):
        appraise(leaf, ca.root)
    with refused("attest.tpm-chain-invalid"):
        appraise(ca.issue("", tpm.key, "intermediate", ca.root_key, extended=AIK), ca.ca, ca.root)
    hardware = tpm.hardware(endorsements={"ak_chain": ca.chain(tpm)})
    assert tpm.appraise(hardware).not_after.year == 9999  # pinned: the chain plays no part
    with refused("attest.tpm-key-untrusted"):
        tpm.appraise(hardware, tpm.policy(aks=()))
    with refused("attest.tpm-root-untrusted"):
        tpm.appraise(hardware, tpm.policy(roots=("azure-vtpm",)))
    with refused("attest.tpm-key-mismatch"):
        appraise(ca.issue("", rsa_key(2048, 3), "intermediate", ca.ca_key, extended=AIK), ca.ca, ca.root)


@pytest.mark.parametrize(
    "attributes",
    [
        AK_ATTRIBUTES & ~(1 << 1),
        AK_ATTRIBUTES & ~(1 << 4),
        AK_ATTRIBUTES & ~(1 << 5),
        AK_ATTRIBUTES & ~(1 << 16),
        AK_ATTRIBUTES & ~(1 << 18),
        AK_ATTRIBUTES | 1 << 11,
        AK_ATTRIBUTES | 1 << 17,
        AK_ATTRIBUTES | 1 << 19,
        AK_ATTRIBUTES | 1 << 31,
        AK_ATTRIBUTES | 1,
    ],
)
def test_attributes_of_a_key_that_could_sign_forgeries(refused, attributes):
    tpm = SoftTpm(attributes=attributes)
    with refused("attest.tpm-key-attributes-refused"):
        tpm.appraise()
    with refused("attest.tpm-key-attributes-refused"):
        tpm.appraise(
            tpm.hardware(endorsements={"ak_chain": authority().chain(tpm)}),
            tpm.policy(roots=(authority().pin,)),
        )


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"magic": b"\xffTCF"}, "attest.tpm-quote-magic-invalid"),
        ({"type": b"\x80\x17"}, "attest.tpm-quote-type-unsupported"),
        ({"signer": tpm2b(bytes(67))}, "attest.tpm-quote-malformed"),
        ({"extra": tpm2b(bytes(67))}, "attest.tpm-quote-malformed"),
        ({"clock": struct.pack(">QIIB", 1000, 2, 0, 2)}, "attest.tpm-quote-malformed"),
        ({"selection": struct.pack(">I", 9)}, "attest.tpm-quote-malformed"),
        ({"selection": struct.pack(">IHB", 1, 11, 5) + bytes(5)}, "attest.tpm-quote-malformed"),
        ({"selection": struct.pack(">I", 2) + 2 * (b"\0\x0b\3" + bytes(3))}, "attest.tpm-quote-malformed"),
        ({"end": b"\0"}, "attest.tpm-quote-malformed"),
        ({"digest": b"\0\x20"}, "attest.tpm-quote-malformed"),
        ({"end": bytes(5000)}, "attest.tpm-quote-malformed"),
    ],
)
def test_malformed_quotes(refused, changes, code):
    tpm = SoftTpm()
    with refused(code, "1 evidence"):
        tpm.appraise(tpm.hardware(tpm.evidence(quote=tpm.attest(**changes))))


def test_fields_of_a_quote():
    quote = parse_quote(SoftTpm().attest(b"nonce"))
    assert (quote.extra_data, quote.clock_ms, quote.reset_count, quote.restart_count) == (b"nonce", 1000, 2, 0)
    assert quote.safe
    assert quote.selection == ((SHA256_BANK, tuple(range(24))),)
    assert quote.qualified_signer == SoftTpm().qualified_name


@pytest.mark.parametrize(
    ("signature", "code"),
    [
        (b"", "attest.tpm-signature-malformed"),
        (b"\0\x10", "attest.tpm-scheme-unsupported"),
        (struct.pack(">HH", 0x1A, 11) + tpm2b(b"1"), "attest.tpm-scheme-unsupported"),
        (rsassa_signature(bytes(256)) + b"\0", "attest.tpm-signature-malformed"),
        (struct.pack(">HH", 0x18, 11) + tpm2b(bytes(67)) + tpm2b(b"1"), "attest.tpm-signature-malformed"),
        (rsassa_signature(bytes(256)), "attest.tpm-signature-invalid"),
        (rsassa_signature(b""), "attest.tpm-signature-invalid"),
        (rsassa_signature(bytes(256), 4), "attest.tpm-hash-refused"),
        (rsassa_signature(bytes(256), 0x12), "attest.tpm-hash-refused"),
        (struct.pack(">HH", 0x18, 11) + tpm2b(b"\1") + tpm2b(b"\1"), "attest.tpm-signature-invalid"),
    ],
)
def test_signatures(refused, signature, code):
    tpm = SoftTpm()
    with refused(code, "3 tpm signature"):
        tpm.appraise(tpm.hardware(tpm.evidence(signature=signature)))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"type": b"\0\x08"}, "attest.tpm-public-malformed"),
        ({"name": b"\0\x12"}, "attest.tpm-public-malformed"),
        ({"policy": tpm2b(b"12")}, "attest.tpm-public-malformed"),
        ({"cipher": b"\0\x06"}, "attest.tpm-public-malformed"),
        ({"scheme": b"\0\x10\0\x0b"}, "attest.tpm-scheme-unsupported"),
        ({"scheme": b"\0\x18\0\x0b"}, "attest.tpm-scheme-unsupported"),
        ({"size": struct.pack(">HI", 3072, 0)}, "attest.tpm-public-malformed"),
        ({"size": struct.pack(">HI", 2048, 3)}, "attest.tpm-public-malformed"),
        ({"size": struct.pack(">HI", 1024, 0), "unique": tpm2b(b"\xff" * 128)}, "attest.tpm-public-malformed"),
        ({"unique": tpm2b(b"\x40" + bytes(254) + b"\1")}, "attest.tpm-public-malformed"),
        ({"unique": tpm2b(b"\x80" + bytes(255))}, "attest.tpm-public-malformed"),
        ({"end": b"\0"}, "attest.tpm-public-malformed"),
    ],
)
def test_malformed_public_areas(refused, changes, code):
    tpm = SoftTpm()
    with refused(code, "2 attestation key"):
        tpm.appraise(tpm.hardware(tpm.evidence(ak_public=tpm.public(**changes))))


@pytest.mark.parametrize(
    "changes",
    [
        {"size": struct.pack(">HH", 0x20, 0x10)},
        {"size": struct.pack(">HH", 3, 0x20)},
        {"unique": tpm2b(bytes(32)) + tpm2b(bytes(32))},
        {"scheme": struct.pack(">HH", 0x14, 11)},
    ],
)
def test_malformed_public_areas_on_curves(changes):
    with pytest.raises(ParseError):
        parse_public(SoftTpm(ec_key()).public(**changes))


def test_name_is_what_tpms_compute():
    tpm = SoftTpm()
    assert "name:" + parse_public(tpm.public()).name.hex() == tpm.name_pin
    sha384 = tpm.public(name=b"\0\x0c")
    assert parse_public(sha384).name == b"\0\x0c" + hashlib.sha384(sha384).digest()


@pytest.mark.parametrize(
    "spki",
    [
        b"not a key",
        rsa.generate_private_key(65537, 1024).public_key(),
        ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key(),
        ec.derive_private_key(5, ec.SECP256K1()).public_key(),
    ],
)
def test_unusable_keys(refused, spki):
    der = spki if isinstance(spki, bytes) else spki.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    tpm = SoftTpm()
    with refused("attest.tpm-public-malformed"):
        tpm.appraise(tpm.hardware(tpm.evidence(ak_public=b"", ak_spki=der)))


def test_registers(refused):
    tpm = SoftTpm()
    for pcrs in (tpm.values()[:-1], (*tpm.values(), bytes(32)), (bytes(31), *tpm.values()[1:]), ()):
        with refused("attest.tpm-registers-incomplete", "4 registers"):
            tpm.appraise(tpm.hardware(tpm.evidence(pcrs=pcrs)))
    swapped = [bytes([number]) + bytes(31) for number in range(24)]
    with refused("attest.tpm-pcr-digest-mismatch", "4 registers"):
        tpm.appraise(tpm.hardware(tpm.evidence(pcrs=tuple(swapped))))
    few = SoftTpm(banks={SHA256_BANK: {number: bytes(32) for number in (0, 1, 2, 3, 4, 5, 7)}})
    with refused("attest.tpm-register-missing", "4 registers"):
        few.appraise()
    assert few.appraise(policy=few.policy(pcrs=(4, 7))).measurements["pcr7"] == "00" * 32
    nothing = SoftTpm(banks={SHA256_BANK: {}})
    with refused("attest.tpm-register-missing"):
        nothing.appraise()
    no_banks = tpm.attest(selection=bytes(4), digest=tpm2b(hashlib.sha256(b"").digest()))
    with refused("attest.tpm-registers-incomplete"):
        tpm.appraise(tpm.hardware(tpm.evidence(quote=no_banks, pcrs=())), tpm.policy(pcrs=()))


def test_banks(refused):
    both = SoftTpm(banks={SHA1_BANK: dict.fromkeys(range(24), bytes(20)), 11: dict.fromkeys(range(24), bytes(32))})
    with refused("attest.tpm-bank-refused", "4 registers"):
        both.appraise()
    measured = both.appraise(policy=both.policy(banks=("sha256", "sha1"))).measurements
    assert len(measured["pcr0"]), len(measured["sha1.pcr0"]) == (64, 40)
    wide = SoftTpm(banks={SHA384_BANK: dict.fromkeys(range(24), bytes(48))})
    with refused("attest.tpm-bank-refused"):
        wide.appraise()
    assert len(wide.appraise(policy=wide.policy(banks=("sha384",))).measurements["pcr0"]) == 96
    unknown = tpm_with_unknown_bank()
    with refused("attest.tpm-bank-refused"):
        unknown.appraise(policy=unknown.policy(banks=("sha1", "sha256", "sha384", "sha512")))


def tpm_with_unknown_bank() -> SoftTpm:
    return SoftTpm(banks={0x12: dict.fromkeys(range(24), bytes(32))})


def test_report_data_longer_than_the_tpm_takes(refused):
    tpm = SoftTpm()
    for digest in (hashlib.sha256, hashlib.sha384):
        evidence = tpm.evidence(digest(REPORT_DATA).digest(), report_data=REPORT_DATA)
        assert tpm.appraise(tpm.hardware(evidence)).report_data == REPORT_DATA
    for extra in (hashlib.sha512(REPORT_DATA).digest(), REPORT_DATA, b"", hashlib.sha1(REPORT_DATA).digest()):
        with refused("attest.tpm-extra-data-mismatch", "3 tpm signature"):
            tpm.appraise(tpm.hardware(tpm.evidence(extra, report_data=REPORT_DATA)))


def test_parts_that_are_of_no_use(refused, lab):
    tpm = SoftTpm()
    for more in ({"hcl_report": b"x"}, {"hardware_quote": b"x"}):
        with refused("attest.tpm-extra-input", "1 evidence"):
            tpm.appraise(tpm.hardware(tpm.evidence(**more)))
    with refused("attest.tpm-extra-input", "1 evidence"):
        tpm.appraise(tpm.hardware(collateral=lab.platform.collateral()))
    with refused("attest.tpm-extra-input", "2 attestation key"):
        tpm.appraise(tpm.hardware(endorsements={"vek": b"x"}))


def test_firmware(refused):
    tpm = SoftTpm(firmware=7)
    with refused("attest.tpm-firmware-too-low"):
        tpm.appraise(policy=tpm.policy(min_firmware_version=8))
    assert tpm.appraise(policy=tpm.policy(min_firmware_version=7)).facts["tpm firmware"] == f"{7:#018x}"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "attest.tpm-evidence-malformed"),
        (b"[]", "attest.tpm-evidence-malformed"),
        (b"[" * 5000, "attest.tpm-evidence-malformed"),
        (b'{"v":2,"quote":"","signature":"","pcrs":[]}', "attest.tpm-evidence-version-unsupported"),
        (b'{"quote":"","signature":"","pcrs":[],"more":1}', "attest.tpm-evidence-malformed"),
        (TpmEvidence.encode(SoftTpm().evidence())[:-1], "attest.tpm-evidence-malformed"),
        (b" " * (13 << 20), "attest.tpm-evidence-malformed"),
    ],
)
def test_malformed_evidence(refused, data, code):
    tpm = SoftTpm()
    with refused(code):
        tpm.appraise(type(tpm.hardware())(tee="tpm", quote=data))


def test_too_many_registers(refused):
    for pcrs in ((b"",) * 257, (bytes(65),)):
        with refused("attest.tpm-evidence-malformed"):
            TpmEvidence(quote=b"", signature=b"", pcrs=pcrs)


@pytest.mark.parametrize(
    "rules",
    [
        {"aks": ("spki:00",)},
        {"aks": ("00" * 32,)},
        {"aks": ("name:0004" + "00" * 20,)},
        {"roots": ("sha256:00",)},
        {"banks": ()},
        {"banks": ("md5",)},
        {"pcrs": (24,)},
        {"pcrs": (-1,)},
    ],
)
def test_malformed_rules(refused, rules):
    with refused("attest.policy-malformed"):
        TpmRules(**rules)


def test_an_undersized_structure_is_refused():
    for parse in (parse_quote, parse_signature, parse_public):
        with pytest.raises(ParseError):
            parse(b"")
        with pytest.raises(ParseError):
            parse(bytes(5000))


def test_a_whole_bundle(refused):
    """Evidence with claims, through the one verifier of all TEEs."""
    tpm = SoftTpm()
    tpm.extend(4, b"a boot loader")
    covered = report_data(NONCE, CLAIMS.encode(), NO_DEVICES)
    composite = tpm.evidence(hashlib.sha256(covered).digest(), report_data=covered)
    bundle = Evidence(tee="tpm", quote=composite.encode(), claims=CLAIMS.encode(), nonce=NONCE)
    boot_chain = {"pcr4": tpm.values()[4].hex(), "pcr7": "any", "pcr9": "any", "pcr11": "any"}
    values = ReferenceValues("serve", boot_chain, tee="tpm")
    policy = Policy(tpm=TpmRules(aks=(tpm.name_pin,)), workloads=(values,))
    appraisal = verify(bundle, policy, nonce=NONCE, now=NOW)
    assert appraisal.workload == "serve"
    assert appraisal.measurements["pcr4"] == tpm.values()[4].hex()
    with refused("attest.report-data-mismatch"):
        verify(replace(bundle, claims=replace(CLAIMS, receipt_key=b"\1" * 32).encode()), policy, nonce=NONCE, now=NOW)
    other = replace(policy, workloads=(replace(values, registers={**boot_chain, "pcr4": "00" * 32}),))
    with refused("attest.measurement-mismatch"):
        verify(bundle, other, nonce=NONCE, now=NOW)
