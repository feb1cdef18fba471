"""The door of a party: hostile and careless clients, and what is left for the others."""

from __future__ import annotations

import contextlib
import secrets
import socket
import time
from contextlib import contextmanager

import numpy as np
import pytest

from mitai.errors import MpcError
from mitai.identity import Identity
from mitai.mpc import clients
from mitai.mpc.attested import Credentials
from mitai.mpc.clients import BLIND_BYTES, GO, NOT_OFFERED, TOO_MANY, Door, Peer, Places, reach
from mitai.mpc.meeting import Address, listening
from mitai.mpc.sampling import Sampling
from mitai.mpc.sockets import SocketLink
from mitai.mpc.tasks import Offer, Question, agree

PARTY, CLIENT, OTHER = (Identity.generate() for _ in range(3))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(clients, "_LOOK_EVERY_S", 0.02)


class Doubled:
    """Two numbers, twice."""

    name, kind = "doubled", "sampled"

    def answer(self, engine, loaded, client, emit, sampling):
        emit(client.secret(2) + client.secret(3)[:2])


OFFER = Offer(bytes(16), "0" * 64, "exact", lambda engine: None, (Doubled(),))
QUESTION = Question(Doubled(), Sampling(0.5))


@contextmanager
def opened():
    with listening(Address("127.0.0.1", 0)) as server:
        door = Door(server, Credentials(PARTY), {CLIENT.key_id, OTHER.key_id}, OFFER)
        try:
            yield door, Peer(PARTY.key_id, Address("127.0.0.1", server.getsockname()[1]))
        finally:
            door.close()


@pytest.fixture
def door():
    with opened() as both:
        yield both


@contextmanager
def asking(peer, identity=CLIENT, said=None):
    """A client that has asked, and not shared yet."""
    with contextlib.suppress(MpcError), reach(Credentials(identity), peer, time.monotonic() + 20, 20) as link:
        agree(link, OFFER)
        link.send(said or secrets.token_bytes(16) + QUESTION.encode())
        yield link


def admitted(peer):
    with contextlib.suppress(MpcError), reach(Credentials(CLIENT), peer, time.monotonic() + 20, 20) as link:
        agree(link, OFFER)
        link.send(secrets.token_bytes(16) + QUESTION.encode())
        return bytes(link.receive(1)) == GO
    return False


def share(link, words=(2, 3)):
    link.send(bytes(BLIND_BYTES))
    for size in words:
        link.send(np.arange(size, dtype="<u8").data.cast("B"))


def next_of(door, within_s=20.0):
    until = time.monotonic() + within_s

    def going_on():
        if time.monotonic() > until:
            raise TimeoutError

    return door.next(lambda guest: True, going_on)


def wait_for(what):
    until = time.monotonic() + 20
    while not what():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_question_and_its_shares(door):
    door, peer = door
    with asking(peer) as link:
        assert bytes(link.receive(1)) == GO
        share(link)
        guest = next_of(door)
        assert [array.tolist() for (array,) in guest.shares] == [[0, 1], [0, 1, 2]]
        assert guest.question.sampling == Sampling(0.5)
        guest.end(b"receipt")
        assert not door._places._held[CLIENT.key_id]  # when it has its receipt, it may ask again
        guest.end()
        assert door._places._free == clients.PLACES
        assert bytes(link.receive(4)) == (7).to_bytes(4, "big")
        assert bytes(link.receive(7)) == b"receipt"


def test_one_client_does_not_take_all_places(door):
    door, peer = door
    with asking(peer) as first, asking(peer) as second:
        for link in (first, second):
            assert bytes(link.receive(1)) == GO
        with asking(peer) as third:
            assert bytes(third.receive(1)) == TOO_MANY
        with asking(peer, OTHER) as other:
            assert bytes(other.receive(1)) == GO
        share(first)
        next_of(door).end()
        wait_for(lambda: admitted(peer))


def test_one_client_does_not_crowd_the_door(door):
    """It proves its key, and then says nothing."""
    _, peer = door
    with contextlib.ExitStack() as stack:
        crowd = [reach(Credentials(CLIENT), peer, time.monotonic() + 20, 20) for _ in range(6)]
        for link in crowd:
            stack.callback(link.abort)
        wait_for(lambda: sum(link.ended() for link in crowd) == 2)
        with asking(peer, OTHER) as other:
            assert bytes(other.receive(1)) == GO
        assert sum(link.ended() for link in crowd) == 2


def test_who_finds_no_place_waits(monkeypatch):
    monkeypatch.setattr(clients, "PLACES", 1)
    with opened() as (door, peer), asking(peer) as first:
        assert bytes(first.receive(1)) == GO
        with asking(peer, OTHER) as other:
            share(first)
            next_of(door).end()
            assert bytes(other.receive(1)) == GO


def test_nobody_waits_for_a_place_at_a_closed_door():
    places = Places(1, 1)
    assert places.enter("a", 20)
    places.close()
    assert not places.enter("b", 20)


def trickle(link, data):
    """Send the bytes of a message one by one, which TLS hands on only when a record is whole."""
    for piece in link._channel.seal(data):
        for at in range(len(piece)):
            link._channel.socket.sendall(piece[at : at + 1])
            time.sleep(0.05)


def test_shares_that_come_too_slowly(monkeypatch):
    monkeypatch.setattr(clients, "SHARING_S", 0.3)
    with opened() as (door, peer), asking(peer) as link:
        assert bytes(link.receive(1)) == GO
        began = time.monotonic()
        with pytest.raises(OSError, match=r"reset|pipe"):
            trickle(link, bytes(10_000))  # which would take eight minutes
        assert time.monotonic() - began < 15
        wait_for(lambda: not door._until)
        assert not door._places._held[CLIENT.key_id]


def test_strangers_who_say_nothing(monkeypatch):
    monkeypatch.setattr(clients, "ARRIVAL_S", 0.7)
    monkeypatch.setattr(clients, "AT_THE_DOOR", 4)
    with opened() as (_, peer), contextlib.ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(socket.create_connection((peer.address.host, peer.address.port)))
        wait_for(lambda: admitted(peer))


@pytest.mark.parametrize("words", [(3,), (1,), (2, 300)])
def test_a_client_that_lies_about_sizes(door, words):
    door, peer = door
    with asking(peer) as link:
        assert bytes(link.receive(1)) == GO
        share(link, words)
        wait_for(link.ended)
        wait_for(lambda: not door._places._held[CLIENT.key_id])
    assert not door._here


def test_a_client_that_sends_more_than_it_may(door):
    door, peer = door
    with asking(peer) as link:
        assert bytes(link.receive(1)) == GO
        share(link)
        share(link)
        link.send(bytes(8 << 20))
        guest = next_of(door)
        assert [array.size for (array,) in guest.shares] == [2, 3]
        began = time.monotonic()
        guest.end(b"receipt")
        assert time.monotonic() - began < 5  # it does not read, and nobody waits for it
        wait_for(lambda: not door._places._held[CLIENT.key_id])


def test_a_question_that_is_not_offered(door):
    _, peer = door
    for said in (bytes(48), bytes(16) + QUESTION.encode()[:16] + bytes(16)):
        with asking(peer, said=said) as link:
            assert bytes(link.receive(1)) == NOT_OFFERED


def test_both_parties_are_told_the_same(door):
    door, peer = door
    said = bytes(range(16)) + QUESTION.encode()
    with asking(peer, said=said) as link:
        assert bytes(link.receive(1)) == GO
        share(link)
        wait_for(lambda: door._here)
        assert door.find(said[:16] + Question(Doubled(), Sampling(0.7)).encode()) is None
        assert door.find(bytes(16) + QUESTION.encode()) is None
        assert door.find(said).said == said
        assert door.find(said) is None


def test_whom_only_one_party_knows_does_not_hold_up_others(door, monkeypatch):
    door, peer = door
    with asking(peer) as first, asking(peer, OTHER) as second:
        for link in (first, second):
            assert bytes(link.receive(1)) == GO
            share(link)
            wait_for(lambda link=link: len(door._here) == (1 if link is first else 2))
        guest = next_of(door)
        door.back(guest)
        guest.later = time.monotonic() + 1000  # so that this test is not about time
        assert next_of(door) is not guest
        guest.later = 0
        assert next_of(door) is guest
        monkeypatch.setattr(clients, "JOINING_S", -1.0)
        door.back(guest)
        wait_for(first.ended)
        assert not door._here


def test_who_waits_for_too_long_is_let_go(door, monkeypatch):
    door, peer = door
    with asking(peer) as link:
        assert bytes(link.receive(1)) == GO
        share(link)
        wait_for(lambda: door._here)
        monkeypatch.setattr(clients, "HELD_S", 0.0)
        wait_for(link.ended)
        assert not door._here


def test_a_closed_door_lets_go_who_is_at_it(door):
    with opened() as (inner, peer):
        end = socket.create_connection((peer.address.host, peer.address.port))
        wait_for(lambda: inner._until)
        began = time.monotonic()
    assert time.monotonic() - began < 10
    end.close()


def test_a_link_is_closed_even_if_its_client_is_gone(door):
    door, peer = door
    with asking(peer) as link:
        assert bytes(link.receive(1)) == GO
        share(link)
        guest = next_of(door)
        link.abort()
    assert isinstance(guest.link, SocketLink)
    guest.end(b"receipt")
    wait_for(lambda: guest.link._channel.socket.fileno() == -1)
