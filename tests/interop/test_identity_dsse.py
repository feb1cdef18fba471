"""Our DSSE envelopes against securesystemslib's, both ways; it is the implementation that in-toto and TUF use."""

from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from mitai import identity
from mitai.errors import MitaiError
from mitai.identity import Envelope, Identity, PublicKey

dsse = pytest.importorskip("securesystemslib.dsse", reason="securesystemslib is the oracle (pip install mitai[dev])")
signer = pytest.importorskip("securesystemslib.signer")

KIND = "application/vnd.mitai.example+json"
SEED = bytes(range(32))
OURS = Identity.from_seed(SEED)


def theirs_of(ours: Identity, key_id: str | None = None):
    """The same key pair in the other library; it looks keys up by id, so it must use ours."""
    public = signer.SSlibKey.from_crypto(
        Ed25519PublicKey.from_public_bytes(ours.public.raw), keyid=key_id or ours.key_id
    )
    return signer.CryptoSigner(Ed25519PrivateKey.from_private_bytes(ours.seed()), public)


@given(st.binary(max_size=200), st.text(min_size=1, max_size=40, alphabet=st.characters(exclude_categories=["Cs"])))
def test_they_open_what_we_sign(payload, kind):
    received = dsse.Envelope.from_dict(json.loads(OURS.sign(payload, kind).encode()))
    assert received.payload == payload
    accepted = received.verify([theirs_of(OURS).public_key], 1)
    assert list(accepted) == [OURS.key_id]


@given(st.binary(max_size=200), st.text(min_size=1, max_size=40, alphabet=st.characters(exclude_categories=["Cs"])))
def test_we_open_what_they_sign(payload, kind):
    theirs = dsse.Envelope(payload, kind, {})
    theirs.sign(theirs_of(OURS))
    received = Envelope.decode(json.dumps(theirs.to_dict()).encode())
    assert received.open(kind, OURS.public) == payload


@given(st.binary(max_size=100), st.text(max_size=40, alphabet=st.characters(exclude_categories=["Cs"])))
def test_the_signed_bytes_are_the_same(payload, kind):
    assert identity._pre_authentication_encoding(kind, payload) == dsse.Envelope(payload, kind, {}).pae()


def test_both_refuse_a_changed_payload():
    changed = OURS.sign(b"payload", KIND).encode().replace(b'"payload":"c', b'"payload":"d')
    with pytest.raises(MitaiError, match=r"identity\.signature-invalid"):
        Envelope.decode(changed).open(KIND, OURS.public)
    with pytest.raises(Exception, match="Accepted signatures do not match threshold"):
        dsse.Envelope.from_dict(json.loads(changed)).verify([theirs_of(OURS).public_key], 1)


def test_two_signers_one_envelope():
    other = Identity.generate()
    theirs = dsse.Envelope(b"payload", KIND, {})
    for party in (OURS, other):
        theirs.sign(theirs_of(party))
    received = Envelope.decode(json.dumps(theirs.to_dict()).encode())
    for party in (OURS, other):
        assert received.open(KIND, PublicKey(party.public.raw)) == b"payload"
    with pytest.raises(MitaiError, match=r"identity\.signature-invalid"):
        received.open(KIND, Identity.generate().public)
