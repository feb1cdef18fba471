"""Every request that a client or operator sends in the clear, to a peer that is dead, cuts, drips, lies or floods.

Whatever the peer does ends in an error of the tree, soon, and within bounded memory. What is sealed has tests of its
own (`tests/unit/channel`), the gateway's own requests too (`tests/unit/fleet`).
"""

from __future__ import annotations

import gzip
import socket
import threading
import time
import tracemalloc

import httpx2
import pytest

from mitai import bodies
from mitai.attest import Policy
from mitai.broker import anchor
from mitai.capsule import seal
from mitai.client import Session, objects, receipts
from mitai.errors import MitaiError
from mitai.fleet import platform
from mitai.identity import Identity
from mitai.ledger.note import verify_checkpoint, vkey

HEAD = b"HTTP/1.1 200 OK\r\nconnection: close\r\n"
ENDLESS = HEAD + b"transfer-encoding: chunked\r\n\r\n"
VKEY = vkey("test.mitai/ledger", Identity.generate().public)
BOMB = gzip.compress(bytes(256 << 20), 9)  # 256 KiB that stand for 256 MiB


def cut(_):
    yield HEAD + b"content-length: 1000\r\n\r\n" + b"x" * 500


def drip(_):
    yield ENDLESS
    while True:
        time.sleep(0.02)
        yield b"1\r\n0\r\n"


def lie(_):
    yield HEAD + b"content-length: 14\r\n\r\n" + b'{"v":"\xff"}' + b"[" * 5


def flood(_):
    yield ENDLESS
    while True:
        yield b"10000\r\n" + b"0" * 65536 + b"\r\n"


def bomb(_):
    yield HEAD + b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(BOMB) + BOMB


def silent(_):
    return iter(())


def garbage(_):
    yield bytes(range(256)) * 4


class Peer(threading.Thread):
    """A server that answers every request with the pieces that `say` gives."""

    def __init__(self, say):
        super().__init__(daemon=True)
        self.say, self.listening = say, socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listening.getsockname()[1]}"
        self.start()

    def run(self):
        while True:
            try:
                connection, _ = self.listening.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection):
        with connection:
            try:
                request = connection.recv(65536)
                for piece in self.say(request):
                    connection.sendall(piece)
            except OSError:
                return

    def close(self):
        self.listening.close()


@pytest.fixture(scope="module")
def capsule(tmp_path_factory):
    folder, owner = tmp_path_factory.mktemp("capsule"), Identity.generate()
    (folder / "plain").mkdir()
    (folder / "plain" / "a.txt").write_bytes(bytes(100_000))
    seal(folder / "plain", folder / "sealed", owner=owner, name="a", kind="data")
    return folder / "sealed", owner.public


REQUESTS = {
    "evidence": lambda url, _: Session(url, Policy()),
    "ledger": lambda url, _: verify_checkpoint(receipts.ledger_fetcher(url, httpx2.Client())("checkpoint"), VKEY),
    "operator": lambda url, _: platform.status(url, "t" * 20),
    "manifest": lambda url, _: platform.stored_name(url, "c" * 32),
    "upload": lambda url, capsule: objects.upload(capsule[0], url, "t" * 20, owner=capsule[1]),
    "object": lambda url, _: objects.HttpStore(url).read_into("0" * 32, 0, memoryview(bytearray(1000))),
    "witness": lambda url, _: anchor.Witness(url).key(),
}
PEERS = [cut, drip, lie, flood, bomb, silent, garbage]


@pytest.mark.parametrize("say", PEERS, ids=lambda say: say.__name__)
@pytest.mark.parametrize("request_of", REQUESTS)
def test_a_peer_that_does_not_behave(capsule, monkeypatch, request_of, say):
    monkeypatch.setattr(bodies.bounded, "__defaults__", (0.5,))
    monkeypatch.setattr(anchor, "ANSWER_WITHIN_S", 0.5)
    monkeypatch.setattr(objects, "_stored", lambda *_: False)  # the upload itself is asked
    peer = Peer(say)
    tracemalloc.start()
    began = time.monotonic()
    try:
        with pytest.raises(MitaiError):
            REQUESTS[request_of](peer.url, capsule)
        assert tracemalloc.get_traced_memory()[1] < 160 << 20
    finally:
        tracemalloc.stop()
        peer.close()
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("request_of", REQUESTS)
def test_a_peer_that_is_not_there(capsule, request_of):
    with pytest.raises(MitaiError) as gone:
        REQUESTS[request_of]("http://127.0.0.1:9", capsule)
    assert gone.value.code in {
        "client.unreachable",
        "fleet.gateway-unreachable",
        "capsule.store-failed",
        "broker.witness-unreachable",
    }


def test_numbers_do_not_make_it_an_answer():
    """What `bounded` gives is what was on the wire, whatever headers say of it."""
    peer = Peer(bomb)
    with httpx2.stream("GET", peer.url, headers=bodies.PLAIN) as answer:
        assert bodies.bounded(answer, 1 << 20) == BOMB
    with httpx2.stream("GET", peer.url) as answer:
        assert bodies.bounded(answer, 1000) is None
    peer.close()
