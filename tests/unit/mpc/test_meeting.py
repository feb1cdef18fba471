"""Parties find each other, whoever else connects."""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from mitai.errors import MpcError
from mitai.identity import Identity
from mitai.mpc.meeting import Address, connected, gathered, listening
from mitai.mpc.sockets import SocketLink
from mitai.mpc.tls import secured

SERVER, ALICE, BOB, EVE = (Identity.generate() for _ in range(4))
NAMES = {ALICE.key_id: "alice", BOB.key_id: "bob"}


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("127.0.0.1:7800", "127.0.0.1", 7800), ("[::1]:0", "::1", 0), ("a-b.example:65535", "a-b.example", 65535)],
)
def test_addresses(text, host, port):
    assert Address.parse(text) == Address(host, port)
    assert str(Address(host, port)) == text


@pytest.mark.parametrize(
    "text", ["", "host", ":1", "host:", "host:65536", "a b:1", "::1:80", "[::1]", "host:1x", "[x]:1"]
)
def test_what_is_no_address(text):
    with pytest.raises(MpcError) as caught:
        Address.parse(text)
    assert caught.value.code == "mpc.address"


@pytest.fixture
def server():
    with listening(Address("127.0.0.1", 0)) as server:
        yield server


def welcome(end):
    channel = secured(end, SERVER, lambda key: key.key_id in NAMES, serving=True, within_s=60)
    return NAMES[channel.peer.key_id], SocketLink(channel, 60)


def come(server, identity):
    end = connected(Address(*server.getsockname()), time.monotonic() + 60)
    try:
        return SocketLink(secured(end, identity, lambda key: key == SERVER.public, serving=False), 60)
    except MpcError:
        end.close()
        raise


def test_each_link_goes_to_whom_it_is_for(server):
    with ThreadPoolExecutor(3) as pool:
        here = pool.submit(gathered, server, welcome, 2, time.monotonic() + 60)
        there = {"alice": come(server, ALICE), "bob": come(server, BOB)}
        links = here.result()
    for name, link in there.items():
        link.send(name.encode())
        assert bytes(links[name].receive(len(name))) == name.encode()
        link.abort()
        links[name].abort()


def test_strangers_are_turned_away_and_keep_nobody_waiting(server):
    told = []
    silent = [socket.create_connection(server.getsockname()) for _ in range(5)]
    with ThreadPoolExecutor(3) as pool:
        here = pool.submit(gathered, server, welcome, 1, time.monotonic() + 60, told.append)
        with pytest.raises(MpcError):
            come(server, EVE)
        link = come(server, BOB)
        assert list(here.result()) == ["bob"]
    assert [error.code for error in told if error is not None] == ["mpc.peer-unknown"]
    assert told.count(None) == 1
    for each in silent:
        each.settimeout(60)
        while each.recv(4096):  # they were cut off
            continue
        each.close()
    link.abort()
    here.result()["bob"].abort()


def test_who_comes_again_takes_the_earlier_links_place(server):
    told = []
    with ThreadPoolExecutor(3) as pool:
        here = pool.submit(gathered, server, welcome, 2, time.monotonic() + 60, told.append)
        first = come(server, ALICE)
        while not told:
            time.sleep(0.01)
        again = come(server, ALICE)
        while len(told) < 2:  # with Bob all are there, and nobody's place is taken any more
            time.sleep(0.01)
        bob = come(server, BOB)
        links = here.result()
    with pytest.raises(MpcError):
        first.receive(1)
    again.send(b"x")
    assert bytes(links["alice"].receive(1)) == b"x"
    for link in (first, again, bob, *links.values()):
        link.abort()


def test_waiting_ends(server):
    with pytest.raises(MpcError) as caught:
        gathered(server, welcome, 2, time.monotonic() + 0.2)
    assert caught.value.code == "mpc.peer-absent"
    address = Address(*server.getsockname())
    server.close()
    with pytest.raises(MpcError) as caught:
        connected(address, time.monotonic() + 0.2)
    assert caught.value.code == "mpc.peer-absent"


def test_an_address_that_is_taken(server):
    with pytest.raises(MpcError) as caught:
        listening(Address(*server.getsockname()))
    assert caught.value.code == "mpc.address"
