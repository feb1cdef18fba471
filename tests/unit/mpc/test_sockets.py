"""Links over sockets: bytes, both ways at once, in both channels; and peers that die, lie, stall or flood."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from mitai.errors import MpcError
from mitai.identity import Identity
from mitai.mpc.sockets import Plain, SocketLink, cut
from mitai.mpc.tls import secured

ALICE, BOB = Identity.generate(), Identity.generate()


def plain(wait_s=60.0, limit_bytes=256 << 20):
    return tuple(SocketLink(Plain(end), wait_s, limit_bytes) for end in socket.socketpair())


def tls(wait_s=60.0, limit_bytes=256 << 20):
    ends = socket.socketpair()
    with ThreadPoolExecutor(2) as pool:
        alice = pool.submit(secured, ends[0], ALICE, lambda key: key == BOB.public, serving=True)
        bob = pool.submit(secured, ends[1], BOB, lambda key: key == ALICE.public, serving=False)
    return tuple(SocketLink(future.result(), wait_s, limit_bytes) for future in (alice, bob))


@pytest.fixture(params=[plain, tls])
def make(request):
    made = []

    def links(**options):
        made.extend(request.param(**options))
        return made[-2:]

    yield links
    for link in made:
        link.abort()


@pytest.mark.parametrize("size", [0, 1, 8, 65_536, 65_537, 3_000_001])
def test_what_is_sent_arrives(make, size):
    one, other = make()
    data = os.urandom(size)
    one.send(data)
    assert bytes(other.receive(size)) == data
    assert (one.traffic.sent_bytes, other.traffic.received_bytes, other.traffic.rounds) == (size, size, 1)


def test_messages_keep_their_order_whatever_their_sizes(make):
    one, other = make()
    messages = [os.urandom(size) for size in (1, 200_000, 3, 70_000, 0, 5_000_000, 7, 64)]
    for message in messages:
        one.send(message)
    assert [bytes(other.receive(len(message))) for message in messages] == messages


def test_both_ends_may_send_much_before_they_receive(make):
    one, other = make()
    data = {one: os.urandom(20_000_000), other: os.urandom(20_000_000)}
    with ThreadPoolExecutor(2) as pool:
        both = [
            pool.submit(lambda here=here: (here.send(data[here]), bytes(here.receive(20_000_000)))[1])
            for here in (one, other)
        ]
    assert [future.result() for future in both] == [data[other], data[one]]


def test_an_array_is_sent_as_its_bytes(make):
    one, other = make()
    one.send(memoryview(bytes(range(16))).cast("Q"))
    assert bytes(other.receive(16)) == bytes(range(16))


def test_what_waits_to_be_sent_is_bounded(make):
    one, _other = make(wait_s=0.5, limit_bytes=1 << 20)

    def flood():
        for _ in range(100):  # the other end takes nothing
            one.send(bytes(1 << 19))

    with pytest.raises(MpcError) as caught:
        flood()
    assert caught.value.code == "mpc.link-lost"
    assert one.traffic.sent_bytes < 30 << 20


def test_a_slow_receiver_gets_all_of_it(make):
    one, other = make(limit_bytes=1 << 20)
    total = 40
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(lambda: [one.send(bytes([n]) * (1 << 19)) for n in range(total)])
        assert [bytes(other.receive(1 << 19)[:1]) for n in range(total)] == [bytes([n]) for n in range(total)]
        sending.result()


def test_closing_sends_what_waits(make):
    one, other = make()
    one.send(bytes(8_000_000))
    with ThreadPoolExecutor(1) as pool:
        closing = pool.submit(one.close)
        assert len(other.receive(8_000_000)) == 8_000_000
        closing.result()
    with pytest.raises(MpcError) as caught:
        other.receive(1)
    assert caught.value.code == "mpc.link-lost"


@pytest.mark.parametrize("size", [7, 9, 1 << 40])
def test_another_size_than_the_programs_ends_it_and_takes_no_memory(make, size):
    one, other = make()
    one.send(bytes(size) if size < 100 else bytes(8))
    expected = 8 if size < 100 else 9
    with pytest.raises(MpcError) as caught:
        other.receive(expected)
    assert caught.value.code == "mpc.link-mismatch"
    with pytest.raises(MpcError):
        other.send(b"more")


def test_a_liar_about_sizes():
    ours, theirs = socket.socketpair()
    with SocketLink(Plain(ours), 60) as link:
        theirs.sendall((1 << 62).to_bytes(8, "little") + bytes(100))
        with pytest.raises(MpcError) as caught:
            link.receive(100)
    assert caught.value.code == "mpc.link-mismatch"
    theirs.close()


def test_silence_ends(make):
    one, _other = make(wait_s=0.3)
    began = time.monotonic()
    with pytest.raises(MpcError) as caught:
        one.receive(4)
    assert caught.value.code == "mpc.link-lost"
    assert time.monotonic() - began < 30
    with pytest.raises(MpcError):  # nothing is believed after a failure
        one.receive(4)


def test_drops_of_bytes_are_no_reason_to_wait_for_ever():
    ours, theirs = socket.socketpair()
    stop = threading.Event()

    def drip():
        theirs.sendall((1000).to_bytes(8, "little"))
        while not stop.wait(0.05):
            theirs.send(b"x")

    thread = threading.Thread(target=drip)
    thread.start()
    with SocketLink(Plain(ours), 0.4) as link, pytest.raises(MpcError) as caught:
        link.receive(1000)
    stop.set()
    thread.join()
    theirs.close()
    assert caught.value.code == "mpc.link-lost"


def test_an_aborted_link_ends_the_others_wait(make):
    one, other = make(wait_s=60)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(other.receive, 4)
        one.abort()
        with pytest.raises(MpcError) as caught:
            waiting.result(timeout=60)
    assert caught.value.code == "mpc.link-lost"


def test_an_error_within_cuts_the_link(make):
    one, other = make()
    with pytest.raises(KeyError), one:
        raise KeyError
    with pytest.raises(MpcError):
        other.receive(1)


def test_a_killed_process_is_noticed_at_once():
    server = socket.create_server(("127.0.0.1", 0))
    child = os.fork()
    if not child:
        with socket.create_connection(server.getsockname()) as end:
            end.sendall(b"x")
            signal.pause()
    end, _ = server.accept()
    server.close()
    end.recv(1)
    with SocketLink(Plain(end), 60) as link, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(link.receive, 4)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with pytest.raises(MpcError) as caught:
            waiting.result(timeout=60)
    assert caught.value.code == "mpc.link-lost"


def test_whether_the_other_end_is_there(make):
    one, other = make()
    assert not one.ended()
    other.abort()
    assert one.ended()


def test_more_patience(make):
    one, other = make(wait_s=0.2)
    one.be_patient(30)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(one.receive, 1)
        time.sleep(0.5)
        other.send(b"x")
        assert bytes(waiting.result()) == b"x"


def test_changed_bytes_on_the_way_end_a_link_in_tls():
    (inner, outer), (far, near) = socket.socketpair(), socket.socketpair()
    with ThreadPoolExecutor(4) as pool:
        relays = [pool.submit(relay, near, outer, {}), pool.submit(relay, outer, near, flip := {})]
        alice = pool.submit(secured, inner, ALICE, lambda key: key == BOB.public, serving=True)
        bob = pool.submit(secured, far, BOB, lambda key: key == ALICE.public, serving=False)
        one, other = (SocketLink(future.result(), 60) for future in (alice, bob))
        one.send(b"good")
        assert bytes(other.receive(4)) == b"good"
        flip["at"] = 20
        one.send(b"evil")
        with pytest.raises(MpcError) as caught:
            other.receive(4)
        assert caught.value.code == "mpc.link-lost"
        one.abort()
        other.abort()
        for each in relays:
            each.result()
    outer.close()
    near.close()


def relay(source, target, flip):
    while piece := source.recv(1 << 16):
        if flip:
            piece = bytearray(piece)
            piece[flip["at"]] ^= 1
        try:
            target.sendall(piece)
        except OSError:
            break
    for end in (source, target):
        cut(end)
