"""The handshake of two parties: pinned keys, and what strangers, liars and old protocols get."""

from __future__ import annotations

import os
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from mitai.errors import MpcError
from mitai.identity import Identity
from mitai.mpc import tls
from mitai.mpc.tls import MAGIC, certificate, secured, subject

ALICE, BOB, EVE = (Identity.generate() for _ in range(3))


def meet(alice, bob):
    """Run both ends; return what each got, a channel or an error."""
    ends = socket.socketpair()

    def outcome(end, side):
        try:
            return side(end)
        except MpcError as error:
            end.close()
            return error

    with ThreadPoolExecutor(2) as pool:
        sides = [pool.submit(outcome, end, side) for end, side in zip(ends, (alice, bob), strict=True)]
    results = [side.result() for side in sides]
    for end in ends:
        end.close()
    return results


def party(identity, peer, *, serving, within_s=60.0):
    return lambda end: secured(end, identity, lambda key: key == peer.public, serving=serving, within_s=within_s)


def test_two_who_know_each_other():
    one, other = meet(party(ALICE, BOB, serving=True), party(BOB, ALICE, serving=False))
    assert (one.peer, other.peer) == (BOB.public, ALICE.public)


def test_the_cipher_is_that_of_tls_13():
    one, _ = meet(party(ALICE, BOB, serving=True), party(BOB, ALICE, serving=False))
    assert one._tls.version() == "TLSv1.3"


@pytest.mark.parametrize("serving", [True, False])
def test_a_stranger_is_named_and_turned_away(serving):
    one, other = meet(party(ALICE, BOB, serving=serving), party(EVE, ALICE, serving=not serving))
    assert (one.code, other.code) == ("mpc.peer-unknown", "mpc.peer-refused")
    assert EVE.key_id in one.message


@pytest.mark.parametrize("serving", [True, False])
def test_a_certificate_without_its_key_is_of_no_use(serving, monkeypatch):
    real = certificate

    def stolen(identity):
        return real(BOB) if identity is EVE else real(identity)

    monkeypatch.setattr(tls, "certificate", stolen)
    monkeypatch.setattr(tls, "_context", contexts_of_a_thief(tls._context, real))
    alice, _ = meet(party(ALICE, BOB, serving=serving), party(EVE, ALICE, serving=not serving))
    assert alice.code == "mpc.peer-refused"


def contexts_of_a_thief(real, certificate_of):
    """Eve shows Bob's certificate beforehand; in TLS she can only show her own."""

    def context(identity, own, theirs, serving):
        return real(identity, certificate_of(identity), theirs, serving)

    return context


def test_who_says_nothing_is_not_waited_for():
    ours, theirs = socket.socketpair()
    with pytest.raises(MpcError) as caught:
        secured(ours, ALICE, lambda _: True, serving=True, within_s=0.2)
    assert caught.value.code == "mpc.peer-refused"
    ours.close()
    theirs.close()


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"GET / HTTP/1.1\r\n\r\n" * 4,
        MAGIC,
        MAGIC[:-1] + b"\1" + bytes(40),
        MAGIC + b"\0\0",
        MAGIC + b"\xff\xff" + bytes(70_000),
        MAGIC + b"\0\4junk",
        MAGIC + len(certificate(BOB)).to_bytes(2, "big") + certificate(BOB) + os.urandom(300),
    ],
)
@pytest.mark.parametrize("serving", [True, False])
def test_who_says_something_else(said, serving):
    ours, theirs = socket.socketpair()
    theirs.sendall(said)
    theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(MpcError) as caught:
        secured(ours, ALICE, lambda _: True, serving=serving, within_s=60)
    assert caught.value.code == "mpc.peer-refused"
    ours.close()
    theirs.close()


def test_a_certificate_is_always_the_same_and_names_its_key():
    assert certificate(ALICE) == certificate(ALICE)
    assert subject(certificate(ALICE)) == ALICE.public


def test_certificates_of_other_keys():
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    other = x509.CertificateBuilder(
        name, name, key.public_key(), 1, datetime(2020, 1, 1, tzinfo=UTC), datetime(2040, 1, 1, tzinfo=UTC)
    )
    with pytest.raises(MpcError) as caught:
        subject(other.sign(key, SHA256()).public_bytes(Encoding.DER))
    assert caught.value.code == "mpc.peer-refused"


def test_a_weak_key_is_refused():
    data = certificate(ALICE).replace(ALICE.public.raw, bytes(32))
    with pytest.raises(MpcError, match="weak"):
        subject(data)


def test_no_byte_of_a_certificate_may_change():
    real = certificate(BOB)
    for at in range(0, len(real), 7):
        changed = bytearray(real)
        changed[at] ^= 1

        def liar(end, changed=bytes(changed)):
            end.sendall(MAGIC + len(changed).to_bytes(2, "big") + changed)
            context = tls._context(BOB, real, certificate(ALICE), serving=False)
            try:
                with context.wrap_socket(SkippingHello(end), server_side=False) as end:
                    end.recv(1)
            except (ssl.SSLError, OSError):
                pass

        one, _ = meet(party(ALICE, BOB, serving=True), liar)
        assert one.code in {"mpc.peer-refused", "mpc.peer-unknown"}


def SkippingHello(end):
    end.settimeout(60)
    size = len(MAGIC) + 2 + len(certificate(ALICE))
    while size:
        size -= len(end.recv(size))
    return end
