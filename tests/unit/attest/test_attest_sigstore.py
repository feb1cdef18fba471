"""Sigstore bundles: every refusal has its own code; the lab makes bundles that fail in one point each."""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from attest_sigstore_lab import (
    NOW,
    REPOSITORY,
    SHA256_OID,
    SIGNED_AT,
    TSTINFO,
    WORKFLOW,
    SigstoreLab,
    attribute,
    claims,
    encode,
    octets,
    sequence,
    spki,
    text,
)
from mitai.attest.refvalues import rekor
from mitai.attest.refvalues.fulcio import SignerClaims
from mitai.attest.refvalues.sigstore import GITHUB, MAX_BUNDLE_BYTES, SigstoreIdentity, Thresholds, verify_bundle
from mitai.attest.refvalues.statement import MAX_STATEMENT_BYTES, Statement
from mitai.attest.refvalues.timestamps import verify_timestamp
from mitai.attest.refvalues.trusted_root import MAX_ROOT_BYTES, TrustedRoot
from mitai.attest.x509 import parse_der
from mitai.errors import AttestError, MitaiError, ParseError
from mitai.ledger.proof import inclusion_proof
from mitai.ledger.tree import leaf_hash, node_hash

PAYLOAD = b'{"_type":"https://in-toto.io/Statement/v1","predicateType":"https://example.com/p","subject":[]}'
LAB = SigstoreLab()
ROOT = TrustedRoot.decode(LAB.trusted_root())


def verify(fields: dict, root: TrustedRoot = ROOT, **options):
    return verify_bundle(encode(fields), root, **{"now": NOW, **options})


def refusal(fields: dict, root: TrustedRoot = ROOT, **options) -> str:
    with pytest.raises((AttestError, ParseError)) as error:
        verify(fields, root, **options)
    return error.value.code


def entry_of(fields: dict) -> dict:
    return fields["verificationMaterial"]["tlogEntries"][0]


def flipped(data: str) -> str:
    raw = bytearray(base64.b64decode(data))
    raw[len(raw) // 2] ^= 1
    return text(bytes(raw))


def test_accepted():
    signed = verify(LAB.bundle(PAYLOAD))
    assert (signed.payload, signed.signed_at, signed.certificate_logs) == (PAYLOAD, SIGNED_AT, 1)
    assert signed.signer.repository == REPOSITORY
    assert signed.log_ids == tuple(ROOT.signature_logs)[:1]


def test_a_key_on_p384_is_accepted():
    assert verify(LAB.bundle(PAYLOAD, key=ec.generate_private_key(ec.SECP384R1()))).payload == PAYLOAD


def test_a_bundle_outlives_its_certificate():
    """What counts is when the log saw the signature."""
    assert verify(LAB.bundle(PAYLOAD), now=NOW + timedelta(days=400)).signed_at == SIGNED_AT


# -- 1 the bundle ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spoil",
    [
        lambda fields: fields.update(mediaType="application/vnd.dev.sigstore.bundle+json;version=0.2"),
        lambda fields: fields.update(unknown=1),
        lambda fields: fields["verificationMaterial"].pop("certificate"),
        lambda fields: fields["verificationMaterial"].update(x509CertificateChain={}),
        lambda fields: fields["verificationMaterial"].update(certificate={"rawBytes": "AAAA"}),
        lambda fields: fields["dsseEnvelope"].update(signatures=[]),
        lambda fields: fields["dsseEnvelope"].update(signatures=fields["dsseEnvelope"]["signatures"] * 2),
        lambda fields: entry_of(fields).update(logIndex="007"),
        lambda fields: entry_of(fields).update(integratedTime="-1"),
        lambda fields: entry_of(fields).update(integratedTime=0),
    ],
)
def test_malformed_bundles(spoil):
    fields = LAB.bundle(PAYLOAD)
    spoil(fields)
    assert refusal(fields) == "attest.sigstore-bundle-malformed"


def test_bytes_that_are_no_bundle():
    for data in (b"", b"{}", b"[]", b"\xff", b"[" * 100_000, bytes(MAX_BUNDLE_BYTES + 1)):
        with pytest.raises(ParseError) as error:
            verify_bundle(data, ROOT, now=NOW)
        assert error.value.code == "attest.sigstore-bundle-malformed"


def test_number_of_log_entries():
    fields = LAB.bundle(PAYLOAD)
    entry = entry_of(fields)
    assert refusal(fields, thresholds=Thresholds(log_entries=2)) == "attest.sigstore-entry-count"
    assert refusal(fields, thresholds=Thresholds(max_log_entries=0)) == "attest.sigstore-entry-count"
    fields["verificationMaterial"]["tlogEntries"] = [entry, entry]
    assert refusal(fields) == "attest.sigstore-entry-count"
    fields["verificationMaterial"]["tlogEntries"] = []
    assert refusal(fields) == "attest.sigstore-entry-count"


def test_one_entry_under_two_numbers_counts_once():
    fields = LAB.bundle2(PAYLOAD)
    entry = entry_of(fields)
    fields["verificationMaterial"]["tlogEntries"] = [entry, {**entry, "logIndex": "7"}]  # nobody signed the number
    assert refusal(fields, thresholds=Thresholds(log_entries=2)) == "attest.sigstore-entry-count"


# -- 2 the log ---------------------------------------------------------------------------------------------------


def test_untrusted_log():
    other = ec.generate_private_key(ec.SECP256R1())
    assert refusal(LAB.bundle(PAYLOAD, rekor=other)) == "attest.sigstore-log-untrusted"
    later = TrustedRoot.decode(_changed("tlogs", publicKey=_key(validFor={"start": "2026-03-01T00:00:00Z"})))
    assert refusal(LAB.bundle(PAYLOAD), later) == "attest.sigstore-log-untrusted"
    long_ago = LAB.bundle(PAYLOAD, logged_at=SIGNED_AT - timedelta(days=900))
    assert refusal(long_ago) == "attest.sigstore-certificate-expired"
    fields = LAB.bundle(PAYLOAD)
    entry_of(fields)["integratedTime"] = "9" * 15
    assert refusal(fields) == "attest.sigstore-bundle-malformed"


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda proof: proof.update(rootHash=flipped(proof["rootHash"])), "attest.sigstore-checkpoint-mismatch"),
        (lambda proof: proof.update(treeSize="4"), "attest.sigstore-checkpoint-mismatch"),
        (lambda proof: proof.update(logIndex="1"), "attest.sigstore-inclusion-invalid"),
        (lambda proof: proof.update(logIndex="3"), "attest.sigstore-inclusion-invalid"),
        (lambda proof: proof.update(hashes=[]), "attest.sigstore-inclusion-invalid"),
        (lambda proof: proof.update(hashes=proof["hashes"] * 2), "attest.sigstore-inclusion-invalid"),
        (lambda proof: proof.update(hashes=["AAAA"]), "attest.sigstore-inclusion-invalid"),
        (
            lambda proof: proof["hashes"].__setitem__(0, flipped(proof["hashes"][0])),
            "attest.sigstore-inclusion-invalid",
        ),
    ],
)
def test_proof(spoil, code):
    fields = LAB.bundle(PAYLOAD)
    spoil(entry_of(fields)["inclusionProof"])
    assert refusal(fields) == code


@pytest.mark.parametrize(
    "spoil",
    [
        lambda note: note.replace("\n3\n", "\n4\n"),
        lambda note: note.replace("— rekor.example", "— other.example"),
        lambda note: note.replace("— ", "- "),
        lambda note: note.partition("\n\n")[0] + "\n",
        lambda note: note[:-4],
        lambda note: "",
    ],
)
def test_checkpoint(spoil):
    fields = LAB.bundle(PAYLOAD)
    checkpoint = entry_of(fields)["inclusionProof"]["checkpoint"]
    checkpoint["envelope"] = spoil(checkpoint["envelope"])
    assert refusal(fields) == "attest.sigstore-checkpoint-invalid"


@pytest.mark.parametrize("note", ["rekor.example\nthree\nAAAA\n", "rekor.example\n3\n", "rekor.example\n²\nAAAA\n"])
def test_a_signed_checkpoint_that_is_none(note):
    fields = LAB.bundle(PAYLOAD)
    log_id = next(iter(ROOT.signature_logs))
    signature = text(log_id[:4] + LAB.rekor_key.sign(note.encode(), ec.ECDSA(SHA256())))
    entry_of(fields)["inclusionProof"]["checkpoint"]["envelope"] = f"{note}\n— rekor.example {signature}\n"
    assert refusal(fields) in {"attest.sigstore-checkpoint-invalid", "attest.sigstore-checkpoint-mismatch"}


def test_no_proof():
    fields = LAB.bundle(PAYLOAD)
    entry_of(fields).pop("inclusionProof")
    assert refusal(fields) == "attest.sigstore-inclusion-missing"


def test_time():
    fields = LAB.bundle(PAYLOAD)
    entry_of(fields)["integratedTime"] = str(int(SIGNED_AT.timestamp()) + 1)
    assert refusal(fields) == "attest.sigstore-time-invalid"
    entry_of(fields).pop("inclusionPromise")
    assert refusal(fields) == "attest.sigstore-time-missing"
    assert refusal(LAB.bundle(PAYLOAD), now=SIGNED_AT - timedelta(minutes=6)) == "attest.sigstore-time-in-future"


def test_without_times_the_verifiers_clock_counts():
    fields = LAB.bundle(PAYLOAD)
    entry_of(fields).pop("inclusionPromise")
    assert refusal(fields, thresholds=Thresholds(times=0)) == "attest.sigstore-certificate-expired"
    assert verify(fields, thresholds=Thresholds(times=0), now=SIGNED_AT).signed_at == SIGNED_AT


# -- 3 the certificate -------------------------------------------------------------------------------------------


def test_certificate_window():
    late = LAB.bundle(PAYLOAD, start=SIGNED_AT - timedelta(hours=1))
    assert refusal(late) == "attest.sigstore-certificate-expired"
    early = LAB.bundle(PAYLOAD, start=SIGNED_AT + timedelta(hours=1))
    assert refusal(early) == "attest.sigstore-certificate-expired"


def test_chain():
    impostor = ec.generate_private_key(ec.SECP384R1())
    assert refusal(LAB.bundle(PAYLOAD, signer=impostor)) == "attest.sigstore-chain-invalid"
    nobody = TrustedRoot.decode(LAB.trusted_root(certificateAuthorities=[]))
    assert refusal(LAB.bundle(PAYLOAD), nobody) == "attest.sigstore-chain-invalid"
    authority = LAB.root_fields()["certificateAuthorities"][0]
    authority["validFor"] = {"start": "2025-01-01T00:00:00Z", "end": "2025-06-01T00:00:00Z"}
    retired = TrustedRoot.decode(LAB.trusted_root(certificateAuthorities=[authority]))
    assert refusal(LAB.bundle(PAYLOAD), retired) == "attest.sigstore-chain-invalid"


def test_purpose():
    for options in (
        {"usage": x509.KeyUsage(True, False, False, False, False, True, False, False, False)},
        {"usage": x509.KeyUsage(False, False, True, False, False, False, False, False, False)},
        {"purposes": x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])},
    ):
        assert refusal(LAB.bundle(PAYLOAD, **options)) == "attest.sigstore-chain-invalid"


def test_a_certificate_that_says_nothing_of_its_purpose():
    """The authority's own certificate has no purpose to sign code with."""
    fields = LAB.bundle(PAYLOAD, key=LAB.ca_key, certificate=LAB.ca)
    assert refusal(fields) == "attest.sigstore-chain-invalid"


# -- 4 certificate logs ------------------------------------------------------------------------------------------


def test_certificate_logs():
    assert refusal(LAB.bundle(PAYLOAD, scts=0)) == "attest.sigstore-sct-missing"
    assert refusal(LAB.bundle(PAYLOAD, scts=2)) == "attest.sigstore-sct-duplicate"
    unknown = ec.generate_private_key(ec.SECP256R1())
    assert refusal(LAB.bundle(PAYLOAD, sct_log=unknown)) == "attest.sigstore-sct-missing"
    assert refusal(LAB.bundle(PAYLOAD), thresholds=Thresholds(certificate_logs=2)) == "attest.sigstore-sct-missing"
    assert refusal(LAB.bundle(PAYLOAD, timestamps=b"\0\1\0")) == "attest.sigstore-certificate-malformed"
    log = LAB.root_fields()["ctlogs"][0]
    log["publicKey"]["rawBytes"] = LAB.root_fields()["tlogs"][0]["publicKey"]["rawBytes"]
    swapped = TrustedRoot.decode(LAB.trusted_root(ctlogs=[log]))
    assert refusal(LAB.bundle(PAYLOAD), swapped) == "attest.sigstore-sct-invalid"
    log = LAB.root_fields()["ctlogs"][0]
    log["publicKey"]["validFor"]["end"] = "2025-02-01T00:00:00Z"
    retired = TrustedRoot.decode(LAB.trusted_root(ctlogs=[log]))
    assert refusal(LAB.bundle(PAYLOAD), retired) == "attest.sigstore-sct-invalid"


def test_certificate_logs_may_be_waived():
    assert verify(LAB.bundle(PAYLOAD, scts=0), thresholds=Thresholds(certificate_logs=0)).certificate_logs == 0


# -- 5, 6 the signature ------------------------------------------------------------------------------------------


def test_signature():
    fields = LAB.bundle(PAYLOAD)
    fields["dsseEnvelope"]["payload"] = text(PAYLOAD + b" ")
    assert refusal(fields) == "attest.sigstore-signature-invalid"
    fields = LAB.bundle(PAYLOAD)
    fields["dsseEnvelope"]["signatures"][0]["sig"] = "AAAA"
    assert refusal(fields) == "attest.sigstore-signature-invalid"


def test_payload_type():
    fields = LAB.bundle(PAYLOAD, payload_type="text/plain")
    assert refusal(fields) == "attest.sigstore-payload-type-mismatch"
    assert verify(fields, payload_type="text/plain").payload == PAYLOAD


def test_an_entry_about_another_signature():
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = LAB.certificate(key)
    fields, other = (LAB.bundle(PAYLOAD, key=key, certificate=certificate) for _ in range(2))
    fields["verificationMaterial"]["tlogEntries"] = other["verificationMaterial"]["tlogEntries"]
    assert refusal(fields) == "attest.sigstore-entry-mismatch"
    wrong_payload = {"payloadHash": {"algorithm": "sha256", "value": "00" * 32}}
    assert refusal(LAB.bundle(PAYLOAD, logged=wrong_payload)) == "attest.sigstore-entry-mismatch"


@pytest.mark.parametrize("logged", [{"signatures": []}, {"signatures": [{"signature": "AAAA", "verifier": "AAAA"}]}])
def test_entries_of_other_kinds(logged):
    assert refusal(LAB.bundle(PAYLOAD, logged=logged)) == "attest.sigstore-entry-unsupported"
    fields = LAB.bundle(PAYLOAD)
    entry_of(fields)["kindVersion"] = {"kind": "intoto", "version": "0.0.2"}
    assert refusal(fields) == "attest.sigstore-entry-mismatch"


def test_every_entry_must_hold():
    fields = LAB.bundle(PAYLOAD)
    other = LAB.entry(b'{"apiVersion":"0.0.1","kind":"hashedrekord","spec":{}}', neighbours=5)
    fields["verificationMaterial"]["tlogEntries"].append(other)
    assert refusal(fields) == "attest.sigstore-entry-unsupported"


@pytest.mark.parametrize("size", range(1, 20))
def test_inclusion_as_the_ledger_proves_it(size):
    leaves = [leaf_hash(b"%d" % number) for number in range(size)]

    def mth(start: int, end: int) -> bytes:
        return _mth(leaves[start:end])

    for index, leaf in enumerate(leaves):
        proof = inclusion_proof(mth, index, size)
        assert rekor._climb(leaf, index, size, proof) == _mth(leaves)
        assert rekor._climb(leaf, index, size, (*proof, leaf)) is None
        assert rekor._climb(leaf, size, size, proof) is None


def _mth(leaves: list[bytes]) -> bytes:
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return node_hash(_mth(leaves[:split]), _mth(leaves[split:]))


# -- who signed --------------------------------------------------------------------------------------------------

WHO = SigstoreIdentity(issuer=GITHUB, repository=REPOSITORY, workflow=WORKFLOW)


def signer(**options) -> SignerClaims:
    return verify(LAB.bundle(PAYLOAD, **options)).signer


def test_identity():
    WHO.check(signer())


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"8": octets(b"https://evil.example", 12)}, "attest.sigstore-issuer-mismatch"),
        ({"8": None, "1": b"https://evil.example"}, "attest.sigstore-issuer-mismatch"),
        ({"8": octets(b"", 12)}, "attest.sigstore-issuer-mismatch"),
        ({"5": b"example/other"}, "attest.sigstore-repository-mismatch"),
        ({"5": None}, "attest.sigstore-repository-mismatch"),
        ({"6": b"refs/heads/main@refs/tags/v1"}, "attest.sigstore-ref-mismatch"),
        ({"6": b"refs/tags/v9"}, "attest.sigstore-workflow-mismatch"),
    ],
)
def test_identity_mismatch(changes, code):
    found = signer(extensions=claims(**changes))
    with pytest.raises(AttestError) as error:
        WHO.check(found)
    assert error.value.code == code


def test_a_person():
    person = SigstoreIdentity(issuer=GITHUB, subject="who@example.com")
    person.check(signer(subject=x509.RFC822Name("who@example.com")))
    with pytest.raises(AttestError) as error:
        person.check(signer())
    assert error.value.code == "attest.sigstore-subject-mismatch"


def test_an_identity_names_one_kind_of_signer():
    for fields in ({}, {"repository": "a/b", "subject": "who@example.com"}):
        with pytest.raises(ParseError):
            SigstoreIdentity(issuer=GITHUB, **fields)
    with pytest.raises(ParseError):
        SigstoreIdentity(issuer="", subject="who@example.com")


@pytest.mark.parametrize(
    "changes",
    [
        {"8": b"\x0c\x05abc"},
        {"8": b"\x0d\x03abc"},
        {"8": b"\x0c\x81\x03abc"},
        {"8": b"\x0c"},
        {"8": b""},
        {"5": b"\xff"},
    ],
)
def test_malformed_claims(changes):
    fields = LAB.bundle(PAYLOAD, extensions=claims(**changes))
    assert refusal(fields) == "attest.sigstore-certificate-malformed"


def test_a_subject_of_another_kind():
    assert refusal(LAB.bundle(PAYLOAD, subject=x509.DNSName("example.com"))) == "attest.sigstore-certificate-malformed"


def test_claims_of_a_certificate_without_any():
    assert SignerClaims.read(parse_der(LAB.ca.public_bytes(Encoding.DER), "x")).subject == ""


# -- the trusted root --------------------------------------------------------------------------------------------


def _changed(part: str, **changes) -> bytes:
    fields = LAB.root_fields()[part][0]
    return LAB.trusted_root(**{part: [{**fields, **changes}]})


def _key(**changes) -> dict:
    return {**LAB.root_fields()["tlogs"][0]["publicKey"], **changes}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not JSON",
        b"[" * 100_000,
        bytes(MAX_ROOT_BYTES + 1),
        LAB.trusted_root(mediaType="application/vnd.dev.sigstore.trustedroot+json;version=9"),
        LAB.trusted_root(unknown=1),
        LAB.trusted_root(tlogs=LAB.root_fields()["tlogs"] * 2),
        _changed("tlogs", publicKey=_key(rawBytes="AAAA")),
        _changed("tlogs", publicKey=_key(validFor=None)),
        _changed("tlogs", publicKey=_key(validFor={"start": "2025-01-01T00:00:00"})),
        _changed("tlogs", logId={"keyId": "AAAA"}),
        _changed("certificateAuthorities", certChain={"certificates": []}),
        _changed("certificateAuthorities", certChain={"certificates": [{"rawBytes": "AAAA"}]}),
        _changed("certificateAuthorities", validFor={"start": "2025-01-01T00:00:00"}),
    ],
)
def test_malformed_roots(data):
    with pytest.raises(ParseError) as error:
        TrustedRoot.decode(data)
    assert error.value.code == "attest.sigstore-root-malformed"


def test_log_keys_of_other_kinds():
    key = ed25519.Ed25519PrivateKey.generate()
    root = TrustedRoot.decode(_changed("tlogs", publicKey=_key(rawBytes=text(spki(key)))))
    (log,) = root.signature_logs.values()
    assert log.signed(b"message", key.sign(b"message"))
    assert not log.signed(b"another", key.sign(b"message"))
    rsa_key = rsa.generate_private_key(65537, 2048)
    left_out = TrustedRoot.decode(_changed("tlogs", publicKey=_key(rawBytes=text(spki(rsa_key)))))
    assert left_out.signature_logs == {}
    bare = rsa_key.public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1)
    assert TrustedRoot.decode(_changed("tlogs", publicKey=_key(rawBytes=text(bare)))).signature_logs == {}
    unknown = spki(key).replace(bytes.fromhex("06032b6570"), bytes.fromhex("06032b657f"))
    assert TrustedRoot.decode(_changed("tlogs", publicKey=_key(rawBytes=text(unknown)))).signature_logs == {}


def test_statements():
    assert Statement.decode(PAYLOAD).predicate_type == "https://example.com/p"
    for data in (b"", b"{}", b"[" * 100_000, PAYLOAD[:-1] + b',"more":1}', bytes(MAX_STATEMENT_BYTES + 1)):
        with pytest.raises(ParseError) as error:
            Statement.decode(data)
        assert error.value.code == "attest.statement-malformed"


# -- Rekor 2 and timestamps --------------------------------------------------------------------------------------

MESSAGE = b"a signature"


def test_rekor_2():
    signed = verify(LAB.bundle2(PAYLOAD))
    assert (signed.signed_at, signed.log_ids) == (SIGNED_AT, (LAB.rekor2_id,))


def test_rekor_2_has_no_time_of_its_own():
    fields = LAB.bundle2(PAYLOAD)
    fields["verificationMaterial"].pop("timestampVerificationData")
    assert refusal(fields) == "attest.sigstore-time-missing"
    entry_of(fields)["integratedTime"] = str(int(SIGNED_AT.timestamp()))  # nobody signed it
    assert refusal(fields) == "attest.sigstore-time-missing"


def test_a_timestamp_of_another_signature():
    fields, other = LAB.bundle2(PAYLOAD), LAB.bundle2(PAYLOAD)
    fields["verificationMaterial"]["timestampVerificationData"] = other["verificationMaterial"][
        "timestampVerificationData"
    ]
    assert refusal(fields) == "attest.sigstore-timestamp-invalid"


def test_a_timestamp_outside_the_certificate():
    for moment in (SIGNED_AT - timedelta(hours=1), SIGNED_AT + timedelta(hours=1)):
        assert refusal(LAB.bundle2(PAYLOAD, moment=moment)) == "attest.sigstore-certificate-expired"


def test_a_log_of_rekor_2_outside_its_window():
    fields = LAB.root_fields()
    fields["tlogs"][1]["publicKey"]["validFor"] = {"start": "2026-03-01T00:00:00Z"}
    root = TrustedRoot.decode(encode(fields))
    assert refusal(LAB.bundle2(PAYLOAD), root) == "attest.sigstore-log-untrusted"


@pytest.mark.parametrize(
    ("rekord", "code"),
    [
        ({"data": {"algorithm": "SHA2_256", "digest": text(bytes(32))}}, "attest.sigstore-entry-mismatch"),
        ({"data": {"algorithm": "SHA2_384", "digest": text(bytes(48))}}, "attest.sigstore-entry-mismatch"),
        ({"data": {"algorithm": "MD5", "digest": ""}}, "attest.sigstore-entry-unsupported"),
        ({"signature": {}}, "attest.sigstore-entry-unsupported"),
    ],
)
def test_entries_of_rekor_2(rekord, code):
    assert refusal(LAB.bundle2(PAYLOAD, rekord=rekord)) == code


def test_the_same_timestamp_counts_once():
    fields = LAB.bundle2(PAYLOAD)
    times = fields["verificationMaterial"]["timestampVerificationData"]
    times["rfc3161Timestamps"] *= 2
    assert refusal(fields, thresholds=Thresholds(times=2)) == "attest.sigstore-time-missing"


def test_too_many_timestamps():
    fields = LAB.bundle2(PAYLOAD)
    fields["verificationMaterial"]["timestampVerificationData"]["rfc3161Timestamps"] *= 9
    assert refusal(fields) == "attest.sigstore-bundle-malformed"


def stamp(**options) -> str:
    with pytest.raises((AttestError, ParseError)) as error:
        verify_timestamp(LAB.timestamp(MESSAGE, **options), MESSAGE, ROOT)
    return error.value.code


def test_timestamps():
    for options in ({}, {"algorithm": SHA384()}, {"status": 1}):
        assert verify_timestamp(LAB.timestamp(MESSAGE, **options), MESSAGE, ROOT) == SIGNED_AT
    bare = [attribute("2a864886f70d010903", octets(bytes.fromhex(TSTINFO), 6))]
    assert stamp(attributes=bare) == "attest.sigstore-timestamp-invalid"
    assert stamp(imprint=bytes(32)) == "attest.sigstore-timestamp-invalid"
    assert stamp(named=bytes(32)) == "attest.sigstore-timestamp-invalid"
    assert stamp(signer=ec.generate_private_key(ec.SECP384R1())) == "attest.sigstore-timestamp-invalid"
    assert stamp(moment=SIGNED_AT - timedelta(days=900)) == "attest.sigstore-timestamp-invalid"
    assert stamp(status=2) == "attest.sigstore-timestamp-malformed"
    assert stamp(info=sequence()) == "attest.sigstore-timestamp-malformed"


def test_a_timestamp_need_not_name_its_certificate():
    info = sequence(
        octets(b"\1", 2),
        octets(b"\x2a\3", 6),
        sequence(sequence(octets(bytes.fromhex(SHA256_OID), 6), b"\5\0"), octets(hashlib.sha256(MESSAGE).digest())),
        octets(b"\7", 2),
        octets(b"20260209120000Z", 0x18),
    )
    attributes = [
        attribute("2a864886f70d010903", octets(bytes.fromhex(TSTINFO), 6)),
        attribute("2a864886f70d010904", octets(hashlib.sha256(info).digest())),
    ]
    token = LAB.timestamp(MESSAGE, info=info, attributes=attributes)
    assert verify_timestamp(token, MESSAGE, ROOT) == SIGNED_AT
    extended = info[:1] + bytes([info[1] + 2]) + info[2:] + b"\xa1\0"
    spoiled = LAB.timestamp(MESSAGE, info=extended, attributes=attributes)
    assert _stamp_code(spoiled) == "attest.sigstore-timestamp-malformed"
    twice = LAB.timestamp(MESSAGE, info=info, attributes=[*attributes, attributes[0]])
    assert _stamp_code(twice) == "attest.sigstore-timestamp-malformed"


def _stamp_code(token: bytes, root: TrustedRoot = ROOT) -> str:
    with pytest.raises((AttestError, ParseError)) as error:
        verify_timestamp(token, MESSAGE, root)
    return error.value.code


def test_authorities_of_timestamps():
    token = LAB.timestamp(MESSAGE)
    nobody = TrustedRoot.decode(LAB.trusted_root(timestampAuthorities=[]))
    assert _stamp_code(token, nobody) == "attest.sigstore-timestamp-invalid"
    for purposes in ((), (ExtendedKeyUsageOID.CODE_SIGNING,), (ExtendedKeyUsageOID.TIME_STAMPING,) * 2):
        certificate = LAB.timestamp_certificate(purposes)
        authority = LAB.root_fields()["timestampAuthorities"][0]
        authority["certChain"]["certificates"][0] = {"rawBytes": text(certificate.public_bytes(Encoding.DER))}
        root = TrustedRoot.decode(LAB.trusted_root(timestampAuthorities=[authority]))
        assert _stamp_code(token, root) == "attest.sigstore-timestamp-invalid"


def test_tokens_that_are_none():
    token = LAB.timestamp(MESSAGE)
    for data in (b"", b"\x30", b"\x30\x00", b"\x30\x80\0\0", token[:-1], token + b"\0", b"\x3f\x01\0", bytes(70_000)):
        assert _stamp_code(data) == "attest.sigstore-timestamp-malformed"
    other_content = token.replace(bytes.fromhex(TSTINFO), bytes.fromhex(TSTINFO)[:-1] + b"\5", 1)
    assert _stamp_code(other_content) == "attest.sigstore-timestamp-malformed"
    padded = b"\x30\x83\0" + token[2:]  # the length in a longer form
    assert _stamp_code(padded) == "attest.sigstore-timestamp-malformed"


def test_any_changed_byte_of_a_timestamp_is_refused_or_changes_nothing():
    """One byte is free: the status, for which there are two words."""
    token = LAB.timestamp(MESSAGE)
    accepted = []
    for offset in range(len(token)):
        spoiled = token[:offset] + bytes([token[offset] ^ 1]) + token[offset + 1 :]
        try:
            assert verify_timestamp(spoiled, MESSAGE, ROOT) == SIGNED_AT
            accepted.append(spoiled)
        except (AttestError, ParseError):
            pass
    assert [data.startswith(token[:6]) for data in accepted] == [True]


# -- any byte ----------------------------------------------------------------------------------------------------


def signed_parts(fields: dict) -> list[tuple[dict, str]]:
    """Where a bundle holds bytes that somebody signed."""
    entry = entry_of(fields)
    return [
        (fields["verificationMaterial"]["certificate"], "rawBytes"),
        (fields["dsseEnvelope"], "payload"),
        (fields["dsseEnvelope"]["signatures"][0], "sig"),
        (entry, "canonicalizedBody"),
        (entry["logId"], "keyId"),
        (entry["inclusionPromise"], "signedEntryTimestamp"),
        (entry["inclusionProof"], "rootHash"),
    ]


def refuse_flips(step: int) -> None:
    original = LAB.bundle(PAYLOAD)
    for part in range(len(signed_parts(original))):
        holder, name = signed_parts(original)[part]
        data = base64.b64decode(holder[name])
        for offset in range(part % step, len(data), step):
            fields = json.loads(json.dumps(original))
            holder, name = signed_parts(fields)[part]
            holder[name] = text(data[:offset] + bytes([data[offset] ^ (1 << offset % 8)]) + data[offset + 1 :])
            with pytest.raises(MitaiError):
                verify(fields)
    note = entry_of(original)["inclusionProof"]["checkpoint"]["envelope"]
    for offset in range(0, len(note) - 2, step):
        fields = json.loads(json.dumps(original))
        changed = note[:offset] + chr(ord(note[offset]) ^ 1) + note[offset + 1 :]
        entry_of(fields)["inclusionProof"]["checkpoint"]["envelope"] = changed
        with pytest.raises(MitaiError):
            verify(fields)


def test_flip_some_bytes():
    refuse_flips(7)


def test_signatures_of_checkpoints_have_one_spelling():
    for spelled in ("QUJ=", "QQ", "Q Q==", "QR=="):  # the last bits of the first and last would be dropped
        assert rekor._base64(spelled) == b""
    assert rekor._base64("QQ==") == b"A"


@pytest.mark.slow
def test_flip_any_byte():
    refuse_flips(1)
