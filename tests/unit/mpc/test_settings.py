"""`3pc` and `twins` as processes over TLS: answers, clients who lie, machines that lie, stall or end."""

from __future__ import annotations

import itertools
import secrets
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from mitai.errors import MpcError
from mitai.identity import Identity
from mitai.mpc import three_parties, twin_parties
from mitai.mpc.attested import Credentials
from mitai.mpc.clients import BLIND_BYTES, GO, Guest, Peer, ask, reach
from mitai.mpc.link import pair
from mitai.mpc.meeting import Address, listening
from mitai.mpc.models.arrays import Arrays
from mitai.mpc.parties import Own
from mitai.mpc.ring import encode
from mitai.mpc.sampling import Sampling, choose, index
from mitai.mpc.settings import SETTINGS
from mitai.mpc.sockets import SocketLink
from mitai.mpc.store import Store
from mitai.mpc.tasks import Offer, Question, agree

WEIGHT = np.arange(12.0).reshape(3, 4) / 8 - 0.5
CLIENT = Identity.generate()
ROLES = {name: setting.roles for name, setting in SETTINGS.items()}
X = np.array([[1.0, -2.0, 0.5], [0.25, 3.0, -1.0]])


class Positive:
    """x W, and which numbers of it are positive."""

    name, kind = "positive", "greedy"

    def answer(self, engine, loaded, client, emit, sampling):
        product = engine.linear(client.secret(2, 3), loaded)
        emit(product)
        emit(engine.less(product.map(np.negative), 0.0))


class Drawn:
    """The number of a column of x W that is drawn."""

    name, kind = "drawn", "sampled"

    def answer(self, engine, loaded, client, emit, sampling):
        emit(index(choose(engine.linear(client.secret(1, 3), loaded), sampling)))


def load(engine):
    return Arrays(engine, "model").weight(3, 4)


def offered(setting, *tasks):
    return Offer(bytes(16), "0" * 64, "exact", load, tasks or (Positive(), Drawn()), SETTINGS[setting])


class Stalled(Exception):
    """Processes that do not come to what is waited for."""


class Sides:
    """All processes of a setting, as threads."""

    def __init__(self, setting, folder, prepare=lambda ways: None):
        self.setting, self.offer = SETTINGS[setting], offered(setting)
        identities = {role: Identity.generate() for role in self.setting.roles}
        self.peers = {
            role: Peer(identity.key_id, Address("127.0.0.1", self._free())) for role, identity in identities.items()
        }
        self.notes, self.errors = {role: [] for role in identities}, {}
        self.ways = {role: Ways(identity) for role, identity in identities.items()}
        prepare(self.ways)
        parts = dict(zip(self.setting.parties, self.setting.cut(encode(WEIGHT)), strict=True))
        if setting == "twins":  # their folders are the same
            parts |= {f"p{number}-twin": parts[f"p{number}"] for number in (0, 1)}
        self.threads = []
        for role in identities:
            address, clients = self.peers[role].address, {CLIENT.key_id}
            own = Own(role, self.ways[role], address, clients, note=self.notes[role].append)
            peers = {name: peer for name, peer in self.peers.items() if name != role}
            if setting == "3pc":
                work = partial(three_parties.serve, own, peers, self.offer, [parts[role]])
            elif role in parts:
                work = partial(twin_parties.serve, own, peers, self.offer, [*parts[role]], folder / role)
            else:
                work = partial(twin_parties.deal, own, peers, self.offer)
            self.threads.append(threading.Thread(target=self._run, args=(role, work), name=role, daemon=True))
        for thread in self.threads:
            thread.start()

    @staticmethod
    def _free():
        while True:  # below the ports that the system gives to whoever connects
            port = secrets.choice(range(15000, 32000))
            with suppress(MpcError), listening(Address("127.0.0.1", port)):
                return port

    def _run(self, role, work):
        try:
            work()
        except MpcError as error:
            self.errors[role] = error.code

    def wait_for(self, words, within_s=100):
        until = time.monotonic() + within_s
        while not all(any(words in note for note in self.notes[role]) for role in self.setting.parties):
            if self.errors or time.monotonic() > until:
                raise Stalled(self.notes, self.errors)
            time.sleep(0.01)

    def ask(self, x=X, task=None, sampling=None, within_s=100):
        asked = Question(task or Positive(), sampling or Sampling())
        return list(ask(Credentials(CLIENT), self.peers, self.offer, asked, [x], within_s=within_s))

    def join(self):
        for thread in self.threads:
            thread.join(100)
            assert not thread.is_alive(), (self.notes, self.errors)


@pytest.fixture(params=["3pc", "twins"])
def sides(request, tmp_path):
    started = Sides(request.param, tmp_path)
    started.wait_for("the model is loaded")
    return started


def right(answer):
    product, positive = answer
    assert np.abs(product - X @ WEIGHT).max() < 1e-3
    assert (positive == (X @ WEIGHT > 0)).all()


def test_answers_over_tls(sides):
    for _ in range(3):  # more than there are tapes ready
        right(sides.ask())
    sides.wait_for("run 2 of positive took")
    for _ in range(3):
        (drawn,) = sides.ask(np.full((1, 3), 8.0), Drawn(), Sampling(0.05))
        assert drawn == [3.0]  # ahead by 3, and noise times 0.05 is less than 2.1 apart
    assert not sides.errors


# -- clients who lie, and machines that end ------------------------------------------------------------------------


def code_of(work):
    with pytest.raises(MpcError) as caught:
        work()
    return caught.value.code


def let_go(sides, cut, monkeypatch):
    """Ask with shares that are cut like this, which is in vain."""
    lying = replace(sides.offer, setting=replace(sides.setting, cut=cut))
    answer = ask(Credentials(CLIENT), sides.peers, lying, Question(Positive()), [X], within_s=100)
    with monkeypatch.context() as hurried:
        hurried.setattr("mitai.mpc.clients.JOINING_S", 0.3)
        assert code_of(lambda: list(answer)) == "mpc.link-lost"


def test_a_client_who_tells_twins_different_things_ends_nothing(tmp_path, monkeypatch):
    sides = Sides("twins", tmp_path)
    sides.wait_for("the model is loaded")

    def unlike(values):
        first, second, *twins = SETTINGS["twins"].cut(values)
        return first, second, twins[0], (twins[1][0] + np.uint64(1),)

    let_go(sides, unlike, monkeypatch)
    right(sides.ask())
    assert not sides.errors


def test_a_client_who_tells_three_different_things_ends_nothing(tmp_path, monkeypatch):
    """It could learn the model's shares: products of what does not add up."""
    sides = Sides("3pc", tmp_path)
    sides.wait_for("the model is loaded")
    for party, piece in ((0, 1), (1, 1), (2, 1)):  # a share of which the next party has another

        def unlike(values, party=party, piece=piece):
            parts = [list(pieces) for pieces in SETTINGS["3pc"].cut(values)]
            parts[party][piece] = parts[party][piece] + np.uint64(1)
            return tuple(map(tuple, parts))

        let_go(sides, unlike, monkeypatch)
    right(sides.ask())
    assert not sides.errors


def test_a_client_whom_one_party_does_not_hear_ends_nothing(sides, monkeypatch):
    first = reach(Credentials(CLIENT), sides.peers["p0"], time.monotonic() + 20, 20)
    agree(first, sides.offer)
    first.send(bytes(16) + Question(Positive()).encode())
    assert bytes(first.receive(1)) == GO
    for size in [BLIND_BYTES] + sides.setting.pieces * [48]:
        first.send(bytes(size))
    first.be_patient(100)
    with monkeypatch.context() as hurried:
        hurried.setattr("mitai.mpc.clients.JOINING_S", 0.3)
        assert code_of(lambda: first.receive(1)) == "mpc.link-lost"  # it was let go
    first.abort()
    right(sides.ask())
    assert not sides.errors


def test_a_twin_that_tells_the_client_something_else_is_not_believed(tmp_path, monkeypatch):
    emit = Guest.emit

    def lying(guest, x):
        if threading.current_thread().name == "p1-twin":
            x = x.map(lambda part: part + np.uint64(1 << 16))  # the result would be off by one
        emit(guest, x)

    sides = Sides("twins", tmp_path)
    sides.wait_for("the model is loaded")
    monkeypatch.setattr(Guest, "emit", lying)
    assert code_of(sides.ask) == "mpc.twin-mismatch"


EACH = 0  # message


class Ways(Credentials):
    """Credentials that remember all links, and may lie in a message: of all that this side sends, number `at`."""

    def __init__(self, identity):
        super().__init__(identity)
        self.links, self.lock = [], threading.Lock()
        self.sent, self.at, self.how = 0, -1, ""

    def link(self, *args, **options):
        peer, link = super().link(*args, **options)
        link.__class__, link.ways, link.before = Liar, self, b""
        self.links.append(link)
        return peer, link

    def end(self):
        for link in self.links:
            link.abort()


class Liar(SocketLink):
    """A link of a side that may lie."""

    def send(self, data):
        data = bytes(memoryview(data).cast("B"))
        with self.ways.lock:
            self.ways.sent += 1
            how = self.ways.how if self.ways.at in {self.ways.sent, EACH} else ""
        if how == "late":
            time.sleep(0.03)
        if how == "flip":
            data = bytes([data[0] ^ 1]) + data[1:]
        elif how == "replay":
            data = bytes(itertools.islice(itertools.cycle(self.before or b"\1"), len(data)))
        elif how == "twice":
            super().send(data)
        self.before = data
        if how != "drop":
            super().send(data)


@pytest.mark.slow
@pytest.mark.parametrize(("setting", "role"), [("3pc", "p2"), ("3pc", "p1"), ("twins", "p0-twin"), ("twins", "dealer")])
def test_a_side_that_is_slow_is_waited_for(tmp_path, setting, role):
    sides = Sides(setting, tmp_path, lambda ways: ways[role].__dict__.update(how="late", at=EACH))
    sides.wait_for("the model is loaded")
    for _ in range(2):
        right(sides.ask())
    assert sides.ways[role].sent > 10
    assert not sides.errors


@pytest.mark.parametrize("role", [pytest.param("p1", marks=pytest.mark.slow), "p2"])
def test_three_parties_end_with_one_of_them(tmp_path, role):
    sides = Sides("3pc", tmp_path)
    sides.wait_for("the model is loaded")
    right(sides.ask())
    sides.ways[role].end()
    sides.join()
    assert set(sides.errors) == set(ROLES["3pc"])


@pytest.mark.parametrize("role", ["dealer-twin", pytest.param("p1", marks=pytest.mark.slow)])
def test_twins_end_with_one_of_them(tmp_path, role):
    sides = Sides("twins", tmp_path)
    sides.wait_for("the model is loaded")
    right(sides.ask())
    sides.ways[role].end()
    sides.join()
    assert set(sides.errors) == set(ROLES["twins"])


def lied(folder, role, how, at):
    """Have one of six lie once; return how many messages it sent until the client had its answer, or None."""
    sides = Sides("twins", folder, lambda ways: ways[role].__dict__.update(how=how, at=at))
    try:
        sides.wait_for("the model is loaded", within_s=100 if not how else 20)
        right(sides.ask(within_s=100 if not how else 4))
        return sides.ways[role].sent
    except (MpcError, Stalled):
        return None
    finally:
        for ways in sides.ways.values():
            ways.end()
        sides.join()


@pytest.fixture
def impatient(monkeypatch):
    """Lets sides wait for each other for seconds, not for days, from its call on."""

    def begin():
        for name in ("MEET_S", "RUN_S", "IDLE_S"):
            monkeypatch.setattr(f"mitai.mpc.parties.{name}", 1.5)
        monkeypatch.setattr("mitai.mpc.twin_parties.IDLE_S", 1.5)

    return begin


@pytest.mark.slow
def test_a_machine_that_lies_gives_no_wrong_answer(tmp_path, impatient):
    count = lied(tmp_path / "honest", "p1", "", -1)
    assert count > 20
    impatient()
    assert lied(tmp_path / "load", "p1", "flip", 7) is None
    lied(tmp_path / "run", "p1", "flip", count - 3)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["flip", "replay", "twice", "drop"])
@pytest.mark.parametrize("role", ROLES["twins"])
def test_no_lie_of_any_machine_gives_a_wrong_answer(tmp_path, impatient, role, how):
    count = lied(tmp_path / "honest", role, "", -1)
    impatient()
    caught = [lied(tmp_path / str(at), role, how, at) is None for at in (2, count // 2, count - 2)]
    assert any(caught)  # what it sends when the answer is out, or to a client twice, does nothing


def test_sides_of_different_settings_do_not_begin():
    links = pair(5)
    with ThreadPoolExecutor(2) as pool:
        one, other = (
            pool.submit(agree, link, offered(name)) for link, name in zip(links, ("3pc", "twins"), strict=True)
        )
    assert {one.exception().code, other.exception().code} == {"mpc.tasks-differ"}


@pytest.mark.parametrize("setting", ["3pc", "twins"])
def test_a_run_for_a_client_who_is_not_here_is_not_begun(setting, tmp_path):
    """Whatever party 0 says: with nobody's shares, a party has no part in a run."""
    ours, theirs = zip(*(pair(5) for _ in range(4)), strict=True)
    own, offer = Own("p1", Credentials(CLIENT)), offered(setting)
    if setting == "3pc":
        work = three_parties._Work(own, offer, {"p0": ours[0], "p2": ours[1]})
    else:
        work = twin_parties._Work(own, offer, ours[:2], Store(tmp_path, bytes(32), 1), ours[2:])
    theirs[0].send(bytes(48))  # a session and a question
    if setting == "3pc":
        theirs[0].send(bytes(32))
    for link in theirs[1:]:
        link.send(bytes(32))  # a digest of nobody's shares
    theirs[0].send(GO)
    absent = SimpleNamespace(find=lambda said: None)
    assert code_of(lambda: work._next(absent)) == "mpc.link-mismatch"
