"""HPKE against the two other implementations at hand: pyhpke, and the one-shot HPKE of cryptography."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import hpke as pyca
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from pyhpke import AEADId, CipherSuite, KDFId, KEMId

from mitai.channel import hpke
from mitai.channel.hpke import Aead, Kem, PrivateKey

AEADS = pytest.mark.parametrize("aead", list(Aead), ids=lambda a: a.name)
SEED = bytes(range(32))
PYHPKE = {
    Aead.AES_128_GCM: AEADId.AES128_GCM,
    Aead.AES_256_GCM: AEADId.AES256_GCM,
    Aead.CHACHA20_POLY1305: AEADId.CHACHA20_POLY1305,
}


@AEADS
def test_we_seal_and_pyhpke_opens(aead):
    suite = CipherSuite.new(KEMId.DHKEM_X25519_HKDF_SHA256, KDFId.HKDF_SHA256, PYHPKE[aead])
    private = PrivateKey.from_seed(Kem.X25519, SEED)
    sender = hpke.setup_sender(Kem.X25519, private.public, b"info", aead)
    recipient = suite.create_recipient_context(sender.enc, suite.kem.deserialize_private_key(SEED), info=b"info")
    for i in range(3):
        assert recipient.open(sender.seal(b"m%d" % i, b"aad"), b"aad") == b"m%d" % i
    assert recipient.export(b"ctx", 40) == sender.export(b"ctx", 40)


@AEADS
def test_pyhpke_seals_and_we_open(aead):
    suite = CipherSuite.new(KEMId.DHKEM_X25519_HKDF_SHA256, KDFId.HKDF_SHA256, PYHPKE[aead])
    private = PrivateKey.from_seed(Kem.X25519, SEED)
    enc, sender = suite.create_sender_context(suite.kem.deserialize_public_key(private.public), info=b"info")
    recipient = hpke.setup_recipient(private, enc, b"info", aead)
    for i in range(3):
        assert recipient.open(sender.seal(b"m%d" % i, b"aad"), b"aad") == b"m%d" % i


def pyca_suite(kem, aead):
    names = {Kem.X25519: pyca.KEM.X25519, Kem.X_WING: pyca.KEM.MLKEM768_X25519}
    return pyca.Suite(names[kem], pyca.KDF.HKDF_SHA256, getattr(pyca.AEAD, aead.name))


def pyca_public(kem, public):
    x25519 = X25519PublicKey.from_public_bytes(public[-32:])
    if kem is Kem.X25519:
        return x25519
    return pyca.MLKEM768X25519PublicKey(MLKEM768PublicKey.from_public_bytes(public[:-32]), x25519)


@AEADS
@pytest.mark.parametrize("kem", list(Kem), ids=lambda k: k.name)
def test_cryptography_seals_and_we_open(kem, aead):
    private = PrivateKey.from_seed(kem, SEED)
    sealed = pyca_suite(kem, aead).encrypt(b"hello", pyca_public(kem, private.public), b"info")
    enc, ciphertext = sealed[: kem.enc_bytes], sealed[kem.enc_bytes :]
    assert hpke.setup_recipient(private, enc, b"info", aead).open(ciphertext) == b"hello"


@AEADS
@pytest.mark.parametrize("kem", list(Kem), ids=lambda k: k.name)
def test_we_seal_and_cryptography_opens(kem, aead):
    if kem is Kem.X25519:
        theirs = X25519PrivateKey.generate()
        public = theirs.public_key().public_bytes_raw()
    else:
        mlkem, x25519 = MLKEM768PrivateKey.generate(), X25519PrivateKey.generate()
        theirs = pyca.MLKEM768X25519PrivateKey(mlkem, x25519)
        public = mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()
    sender = hpke.setup_sender(kem, public, b"info", aead)
    assert pyca_suite(kem, aead).decrypt(sender.enc + sender.seal(b"hello"), theirs, b"info") == b"hello"
