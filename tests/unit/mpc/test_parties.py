"""Two parties and a dealer over TLS on this machine: answers, and what ends them."""

from __future__ import annotations

import threading
import time
from functools import partial

import numpy as np
import pytest

from mitai.errors import MpcError
from mitai.identity import Identity
from mitai.mpc.attested import Credentials
from mitai.mpc.clients import Peer, ask, reach
from mitai.mpc.meeting import Address, listening
from mitai.mpc.models.arrays import Arrays
from mitai.mpc.parties import ROLES, Own, deal, serve
from mitai.mpc.ring import encode
from mitai.mpc.tasks import agree, answering
from mitai.mpc.two.shares import split

WEIGHT = np.arange(12.0).reshape(3, 4) / 8 - 0.5
CLIENT, STRANGER = Identity.generate(), Identity.generate()


class Positive:
    """x W, and which numbers of it are positive."""

    def __init__(self, name="positive", rows=2):
        self.name, self.shares_id, self._rows = name, bytes(16), rows

    def load(self, engine):
        return Arrays(engine, "model").weight(3, 4)

    def answer(self, engine, loaded, client, emit):
        product = engine.linear(client.secret(self._rows, 3), loaded)
        emit(product)
        emit(engine.less(product.map(np.negative), 0.0))


class Three:
    """The three as threads, in the roles' order."""

    def __init__(self, folder, tasks):
        identities = [Identity.generate() for _ in ROLES]
        ports = [self._free() for _ in range(2)]
        self.notes = {role: [] for role in ROLES}
        self.errors = {}
        peers = {
            role: Peer(identity.key_id, Address("127.0.0.1", port) if port else None)
            for role, identity, port in zip(ROLES, identities, [*ports, 0], strict=True)
        }
        self.parties = [peers[role] for role in ROLES[:2]]
        halves = split(encode(WEIGHT))
        self.threads = []
        for number, (role, identity) in enumerate(zip(ROLES, identities, strict=True)):
            own = Own(role, Credentials(identity), peers[role].address, {CLIENT.key_id}, note=self.notes[role].append)
            work = partial(deal, own, peers, tasks[2])
            if role != "dealer":
                work = partial(serve, own, peers, tasks[number], [halves[number]], folder / role)
            self.threads.append(threading.Thread(target=self._run, args=(role, work), name=role, daemon=True))
            self.threads[-1].start()

    @staticmethod
    def _free():
        with listening(Address("127.0.0.1", 0)) as server:
            return server.getsockname()[1]

    def _run(self, role, work):
        try:
            work()
        except MpcError as error:
            self.errors[role] = error.code

    def wait_for(self, role, words):
        until = time.monotonic() + 100
        while not any(words in note for note in self.notes[role]):
            assert time.monotonic() < until, (self.notes, self.errors)
            time.sleep(0.01)

    def join(self):
        for thread in self.threads:
            thread.join(100)
            assert not thread.is_alive()


def question(three, x, identity=CLIENT, task=None, within_s=100):
    return list(ask(Credentials(identity), three.parties, task or Positive(), [x], within_s))


def test_answers_from_three_over_tls(tmp_path):
    three = Three(tmp_path, [Positive()] * 3)
    for role in ROLES[:2]:
        three.wait_for(role, "the model is loaded")
    rng = np.random.default_rng(1)
    for _ in range(4):  # more than there are tapes ready
        x = rng.normal(size=(2, 3))
        product, positive = question(three, x)
        assert np.abs(product - x @ WEIGHT).max() < 1e-3
        assert (positive == (x @ WEIGHT > 0)).all()
    three.wait_for("p1", "run 3 took")
    with pytest.raises(MpcError):  # a stranger
        question(three, np.zeros((2, 3)), STRANGER)
    with pytest.raises(MpcError) as caught:  # another program than the parties'
        question(three, np.zeros((2, 3)), task=Positive("other"))
    assert caught.value.code == "mpc.tasks-differ"
    with pytest.raises(MpcError):  # a client who knows one of the parties only as somebody else
        list(
            ask(
                Credentials(CLIENT),
                [three.parties[0], Peer(STRANGER.key_id, three.parties[1].address)],
                Positive(),
                [x],
                5,
            )
        )
    product, _ = question(three, x)
    assert np.abs(product - x @ WEIGHT).max() < 1e-3
    assert not three.errors


def test_a_client_who_goes_away_changes_nothing(tmp_path):
    three = Three(tmp_path, [Positive()] * 3)
    three.wait_for("p1", "the model is loaded")
    answers = ask(Credentials(CLIENT), three.parties, Positive(), [np.ones((2, 3))], 100)
    next(answers)
    answers.close()
    product, _ = question(three, np.ones((2, 3)))
    assert np.abs(product - np.ones((2, 3)) @ WEIGHT).max() < 1e-3


def test_a_client_does_not_take_the_place_of_another(tmp_path):
    three = Three(tmp_path, [Positive()] * 3)
    three.wait_for("p1", "the model is loaded")
    links = []
    for _ in range(2):
        links.append(reach(Credentials(CLIENT), three.parties[1], time.monotonic() + 20, 20))
        agree(links[-1], Positive())
        links[-1].send(bytes(16))  # the session
        links[-1].send(bytes(48))
        time.sleep(0.5)
    assert [link.ended() for link in links] == [False, True]


@pytest.mark.parametrize("other", [0, 1, 2])
def test_three_with_different_tasks_do_not_begin(tmp_path, other):
    tasks = [Positive() for _ in ROLES]
    tasks[other] = Positive("other")
    three = Three(tmp_path, tasks)
    three.join()
    assert "mpc.tasks-differ" in three.errors.values()
    assert set(three.errors) == set(ROLES)


def test_one_name_for_two_programs_is_noticed_by_the_plan(tmp_path):
    three = Three(tmp_path, [Positive(), Positive(), Positive(rows=5)])
    three.join()
    assert "mpc.plan-mismatch" in three.errors.values()
    assert set(three.errors) == set(ROLES)


def test_a_dealer_that_ends_ends_all(tmp_path, monkeypatch):
    monkeypatch.setattr("mitai.mpc.parties.answering", ending)
    three = Three(tmp_path, [Positive()] * 3)
    three.join()
    assert three.errors == {"p0": "mpc.link-lost", "p1": "mpc.link-lost", "dealer": "mpc.tape-mismatch"}


def ending(task, loaded, emit):
    """A dealer that stops after the model's masks."""
    if threading.current_thread().name == "dealer":
        raise MpcError("mpc.tape-mismatch", "it stops here")
    return answering(task, loaded, emit)


def test_a_party_listens(tmp_path):
    with pytest.raises(MpcError) as caught:
        serve(Own("p0", Credentials(CLIENT)), {}, Positive(), [], tmp_path)
    assert caught.value.code == "mpc.config"
