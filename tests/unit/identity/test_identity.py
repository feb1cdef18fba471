"""Identities and envelopes: one signer, one type, one payload, and nothing else opens."""

from __future__ import annotations

import base64
import contextlib
import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from mitai import identity
from mitai.errors import MitaiError, ParseError
from mitai.identity import Envelope, Identity, PublicKey, Signature

KIND = "application/vnd.mitai.example+json"
ALICE = Identity.from_seed(bytes(range(32)))
BOB = Identity.from_seed(bytes(range(1, 33)))
SIGNED = ALICE.sign(b'{"v":1}', KIND)


def code_of(use, *arguments: object) -> str:
    with pytest.raises(MitaiError) as caught:
        use(*arguments)
    return caught.value.code


# -- envelopes -----------------------------------------------------------------------------------------------


def test_the_example_of_the_specification():
    """DSSE protocol.md, "Test vectors": the pre-authentication encoding of `hello world`."""
    assert identity._pre_authentication_encoding("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_an_envelope_survives_the_way():
    received = Envelope.decode(SIGNED.encode())
    assert received == SIGNED
    assert received.open(KIND, BOB.public, ALICE.public) == b'{"v":1}'
    assert set(json.loads(SIGNED.encode())) == {"payload", "payloadType", "signatures"}


def test_a_signature_of_another_or_of_none():
    assert code_of(SIGNED.open, KIND, BOB.public) == "identity.signature-invalid"
    assert code_of(SIGNED.open, KIND) == "identity.signature-invalid"
    unsigned = Envelope(SIGNED.payload, KIND, ())
    assert code_of(unsigned.open, KIND, ALICE.public) == "identity.signature-invalid"


def test_a_manifest_is_no_command():
    assert code_of(SIGNED.open, "application/vnd.mitai.command+json", ALICE.public) == "identity.payload-type"
    relabelled = Envelope(SIGNED.payload, "application/vnd.mitai.command+json", SIGNED.signatures)
    assert code_of(relabelled.open, relabelled.payload_type, ALICE.public) == "identity.signature-invalid"


def test_the_key_id_is_a_hint_and_proves_nothing():
    signature = SIGNED.signatures[0].sig
    assert Envelope(SIGNED.payload, KIND, (Signature(signature, "lie"),)).open(KIND, ALICE.public) == SIGNED.payload
    claimed = Envelope(SIGNED.payload, KIND, (Signature(bytes(64), ALICE.key_id),))
    assert code_of(claimed.open, KIND, ALICE.public) == "identity.signature-invalid"


def test_of_many_signatures_only_the_first_sixteen_are_tried():
    junk = (Signature(bytes(64)),) * 16
    assert Envelope(SIGNED.payload, KIND, junk[:15] + SIGNED.signatures).open(KIND, ALICE.public) == SIGNED.payload
    late = Envelope(SIGNED.payload, KIND, junk + SIGNED.signatures)
    assert code_of(late.open, KIND, ALICE.public) == "identity.signature-invalid"


@given(st.integers(0, len(SIGNED.encode()) - 1), st.integers(1, 255))
def test_flip_any_byte_of_an_envelope(position, flip):
    """Whatever changes, the payload that comes out is the one that was signed, or an error is raised."""
    data = bytearray(SIGNED.encode())
    data[position] ^= flip
    try:
        opened = Envelope.decode(bytes(data)).open(KIND, ALICE.public)
    except MitaiError:
        return
    assert opened == SIGNED.payload


@given(st.sampled_from(["payload", "type", "signature"]), st.integers(0, 1 << 20), st.integers(0, 7))
def test_flip_any_signed_bit(part, position, bit):
    kind, payload, signature = bytearray(KIND.encode()), bytearray(SIGNED.payload), bytearray(SIGNED.signatures[0].sig)
    changed = {"payload": payload, "type": kind, "signature": signature}[part]
    changed[position % len(changed)] ^= 1 << bit
    name = kind.decode("latin-1")
    envelope = Envelope(bytes(payload), name, (Signature(bytes(signature)),))
    assert code_of(envelope.open, name, ALICE.public) == "identity.signature-invalid"


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_an_envelope_or_a_parse_error(data):
    with contextlib.suppress(ParseError):
        assert isinstance(Envelope.decode(data), Envelope)


GOOD = json.loads(SIGNED.encode())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"[" * 100_000,
        SIGNED.encode() + b"x",
        SIGNED.encode()[:-1],
        json.dumps(GOOD | {"extra": 1}).encode(),
        json.dumps({name: GOOD[name] for name in ("payload", "payloadType")}).encode(),
        json.dumps(GOOD | {"payload": GOOD["payload"].rstrip("=")}).encode(),
        json.dumps(GOOD | {"payload": GOOD["payload"] + "\n"}).encode(),
        json.dumps(GOOD | {"payload": "_-8="}).encode(),
        json.dumps(GOOD | {"signatures": [{"sig": 1}]}).encode(),
        json.dumps(GOOD | {"signatures": [{"keyid": "x"}]}).encode(),
        SIGNED.encode().replace(b"example", b"ex\xffmple"),
    ],
)
def test_malformed_envelopes(data):
    assert code_of(Envelope.decode, data) == "identity.envelope-malformed"


def test_an_envelope_above_the_limit(monkeypatch):
    monkeypatch.setattr(identity, "MAX_ENVELOPE_BYTES", len(SIGNED.encode()))
    Envelope.decode(SIGNED.encode())
    assert code_of(Envelope.decode, SIGNED.encode() + b" ") == "identity.envelope-too-large"


def test_a_wrong_payload_type_is_quoted_only_in_part():
    envelope = Envelope(b"", "x" * 10_000, ())
    with pytest.raises(MitaiError) as caught:
        envelope.open(KIND)
    assert len(str(caught.value)) < 300


# -- keys ----------------------------------------------------------------------------------------------------


def test_public_keys_are_their_bytes():
    assert PublicKey(ALICE.public.raw) == ALICE.public
    assert len({PublicKey(ALICE.public.raw), ALICE.public, BOB.public}) == 2
    assert ALICE.public != ALICE.public.raw
    assert ALICE.public.key_id == ALICE.key_id == ALICE.sign(b"", "t").signatures[0].keyid
    assert repr(ALICE.public) == f"PublicKey({ALICE.key_id[:16]}…)"


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_keys_of_another_size(size):
    assert code_of(PublicKey, bytes(size)) == "identity.key-malformed"
    assert code_of(Identity.from_seed, bytes(size)) == "identity.key-malformed"


def test_rfc_8032_test_1():
    """RFC 8032 §7.1, TEST 1."""
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    key = Identity.from_seed(seed)
    assert key.public.raw.hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    assert key.sign_bytes(b"").hex() == (
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
    )
    assert key.seed() == seed


def test_raw_signatures():
    signature = ALICE.sign_bytes(b"message")
    ALICE.public.verify(b"message", signature)
    assert code_of(ALICE.public.verify, b"other", signature) == "identity.signature-invalid"
    assert code_of(BOB.public.verify, b"message", signature) == "identity.signature-invalid"
    for wrong in (b"", signature[:-1], signature + b"\0", bytes(64)):
        assert not ALICE.public.signed(b"message", wrong)


# -- files ---------------------------------------------------------------------------------------------------


def test_an_identity_is_kept_privately_and_never_overwritten(tmp_path):
    path = tmp_path / "deep" / "identity.pem"
    ALICE.save(path)
    assert Identity.load(path).key_id == ALICE.key_id
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        BOB.save(path)
    assert Identity.load(path).key_id == ALICE.key_id


def pem(key: object, password: bytes | None = None) -> bytes:
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 40,
        pem(Ed25519PrivateKey.generate())[:-40],
        pem(ec.generate_private_key(ec.SECP256R1())),
        pem(Ed25519PrivateKey.generate(), b"password"),
    ],
    ids=["empty", "not text", "truncated", "another kind", "encrypted"],
)
def test_files_that_hold_no_identity(tmp_path, content):
    path = tmp_path / "identity.pem"
    path.write_bytes(content)
    assert code_of(Identity.load, path) == "identity.key-malformed"


def test_a_file_that_is_not_there(tmp_path):
    assert code_of(Identity.load, tmp_path / "none.pem") == "identity.key-missing"


def test_no_secret_in_what_is_shown():
    shown = repr(ALICE) + str(ALICE) + repr(vars(ALICE))
    assert ALICE.seed().hex() not in shown
    assert base64.b64encode(ALICE.seed()).decode() not in shown


@pytest.mark.parametrize("sign_bit", [0, 0x80])
@pytest.mark.parametrize("point", sorted(identity._SMALL_ORDER))
def test_a_key_under_which_one_signature_fits_every_message_is_refused(point, sign_bit):
    assert code_of(PublicKey, point[:31] + bytes([point[31] | sign_bit])) == "identity.key-malformed"


def test_why_keys_of_small_order_are_refused():
    forged = b"\x01" + bytes(63)  # R is the neutral element, S is 0: it "signs" everything under that same point
    key = Ed25519PublicKey.from_public_bytes(b"\x01" + bytes(31))
    for message in (b"one manifest", b"another manifest"):
        key.verify(forged, message)  # raises if it does not fit
