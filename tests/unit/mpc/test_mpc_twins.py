"""Six machines, one of which cheats: each message of it flipped, dropped, doubled or replaced."""

import itertools
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from mitai.errors import MpcError
from mitai.identity import Identity
from mitai.mpc.link import QueueLink, pair
from mitai.mpc.sockets import SocketLink
from mitai.mpc.spline import Spline
from mitai.mpc.tls import secured
from mitai.mpc.twins_local import run

X = np.array([1.5, -2.0, 0.25])
BEND = Spline.fit(np.tanh, low=-4, high=4, segments=16, degree=2, below=(-1, 0), above=(1, 0))
TWO = Identity.generate(), Identity.generate()
NAMES = ["parties", "deal 0", "deal 1"]  # of the links of one half, in the order in which they are made


def program(engine):
    """A product with a weight, a comparison, a function; and the result is revealed."""
    x = engine.input("client", (3,), X)
    weight = engine.weight(engine.input("model", (3, 2), np.eye(3)[:, :2]))
    y = engine.linear(x.reshape(1, 3), weight).reshape(2)
    z = engine.select(engine.less(y, 0.0), -y, y)
    return engine.reveal(engine.spline(z, BEND))


EXPECTED = np.tanh(np.abs(X[:2]))


class Lies:
    """An end that lies in one of its messages."""

    sent = 0
    at = -1
    how = "flip"
    before = memoryview(b"")

    def send(self, data):
        data = memoryview(data).cast("B").toreadonly()
        self.sent += 1
        lie = self.sent == self.at
        if lie and self.how == "drop":
            return
        if lie and self.how == "twice":
            super().send(data)
        if lie and self.how == "flip":
            changed = bytearray(data)
            changed[len(changed) // 2] ^= 1
            data = memoryview(bytes(changed))
        if lie and self.how == "replay":
            data = memoryview(bytes(itertools.islice(itertools.cycle(self.before.tolist() or [1]), len(data))))
        self.before = data
        super().send(data)


class Cheater(Lies, QueueLink):
    """A thread that lies."""


class CheaterFarAway(Lies, SocketLink):
    """One that lies over a connection."""


def far(wait_s):
    """Both ends of a TLS connection."""
    ends = socket.socketpair()
    alice, bob = TWO
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(secured, ends[0], alice, lambda key: key == bob.public, serving=True)
        other = pool.submit(secured, ends[1], bob, lambda key: key == alice.public, serving=False)
    return SocketLink(one.result(), wait_s), SocketLink(other.result(), wait_s)


def cheating(name, end, at, how, make=pair):
    """Return a maker of links, the named one of which (of the first half) lies at one end in message number `at`."""
    made = []

    def pairs(wait_s):
        ends = make(wait_s)
        if len(made) == NAMES.index(name):
            liar = ends[end]
            liar.__class__ = Cheater if make is pair else CheaterFarAway
            liar.at, liar.how = at, how
            pairs.liar = liar
        made.append(ends)
        return ends

    pairs.made = made
    return pairs


def test_honest_machines_agree():
    assert np.abs(run(program) - EXPECTED).max() < 1e-3


def test_twin_dealers_draw_the_same_noise():
    one, other = (run(lambda engine: engine.reveal(engine.gumbel((3,)))) for _ in range(2))
    assert (one != other).any()


@pytest.mark.parametrize("how", ["flip", "replay", "twice", "drop"])
@pytest.mark.parametrize(("name", "end"), [("parties", 0), ("parties", 1), ("deal 0", 0), ("deal 1", 0)])
def test_no_lie_gives_a_wrong_result(name, end, how):
    """Whatever one machine does to one message, the others stop; or it made no difference, and the result is right."""
    threads = threading.active_count()
    honest = cheating(name, end, -1, how)
    run(program, 20, honest)
    count = honest.liar.sent
    assert count >= 1
    caught = 0
    for at in range(1, count + 1):
        try:
            result = run(program, 0.5 if how in ("drop", "twice") else 20, cheating(name, end, at, how))
        except MpcError:
            caught += 1
        else:
            assert np.abs(result - EXPECTED).max() < 1e-3
    assert caught >= count - 1  # a message that is sent twice at the very end is never read
    assert threading.active_count() <= threads


@pytest.fixture
def network():
    """Runs the program over TLS with a liar; returns how many messages it sent, and whether it was caught."""
    used = []

    def go(name, end, at, how, wait_s=20):
        pairs = cheating(name, end, at, how, far)
        used.append(pairs.made)
        try:
            result = run(program, wait_s, pairs)
        except MpcError as error:
            return pairs.liar.sent, error.code
        assert np.abs(result - EXPECTED).max() < 1e-3
        return pairs.liar.sent, None

    yield go
    for link in itertools.chain(*itertools.chain(*used)):
        link.abort()


def test_lies_over_tls_are_found(network):
    """The first, a middle and the last message of a party; the test below has all of them, and of the dealer."""
    sent, _ = network("parties", 1, -1, "flip")
    for at, how in ((1, "flip"), (sent // 2, "replay"), (sent, "flip")):
        assert network("parties", 1, at, how)[1] is not None


@pytest.mark.slow
@pytest.mark.parametrize("how", ["flip", "replay", "twice", "drop"])
@pytest.mark.parametrize(("name", "end"), [("parties", 0), ("parties", 1), ("deal 0", 0), ("deal 1", 0)])
def test_no_lie_over_tls_gives_a_wrong_result(network, name, end, how):
    sent, _ = network(name, end, -1, how)
    codes = [network(name, end, at, how, 0.5 if how in ("drop", "twice") else 20)[1] for at in range(1, sent + 1)]
    assert codes.count(None) <= 1  # a message that is sent twice at the very end is never read


def test_a_party_that_lies_to_its_twin_only_stops_the_run():
    made = itertools.count()

    def pairs(wait_s):
        ends = pair(wait_s)
        if next(made) == 6:  # after three links in each half: the twins of party 0
            ends[0].__class__ = Cheater
            ends[0].at = 1
        return ends

    with pytest.raises(MpcError) as stopped:
        run(program, 5, pairs)
    assert stopped.value.code == "mpc.twin-mismatch"
