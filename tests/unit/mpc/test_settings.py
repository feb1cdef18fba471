"""`3pc` and `twins` as processes over TLS: answers, clients who lie, machines that lie, stall or end."""

from __future__ import annotations

import itertools
import threading
import time
from functools import partial

import numpy as np
import pytest

from mitai.errors import MpcError
from mitai.identity import Identity
from mitai.mpc import three_parties, twin_parties
from mitai.mpc.attested import Credentials
from mitai.mpc.clients import GO, Peer, ask, reach
from mitai.mpc.meeting import Address, listening
from mitai.mpc.models.arrays import Arrays
from mitai.mpc.parties import Own
from mitai.mpc.ring import encode
from mitai.mpc.sampling import Sampling, choose, index
from mitai.mpc.settings import SETTINGS
from mitai.mpc.sockets import SocketLink
from mitai.mpc.tasks import Offer, Question, agree

WEIGHT = np.arange(12.0).reshape(3, 4) / 8 - 0.5
CLIENT = Identity.generate()
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


class Sides:
    """All processes of a setting, as threads."""

    def __init__(self, setting, folder):
        self.setting, self.offer = SETTINGS[setting], offered(setting)
        identities = {role: Identity.generate() for role in self.setting.roles}
        self.peers = {
            role: Peer(identity.key_id, Address("127.0.0.1", self._free())) for role, identity in identities.items()
        }
        self.notes, self.errors = {role: [] for role in identities}, {}
        parts = dict(zip(self.setting.parties, self.setting.cut(encode(WEIGHT)), strict=True))
        if setting == "twins":  # their folders are the same
            parts |= {f"p{number}-twin": parts[f"p{number}"] for number in (0, 1)}
        self.threads = []
        for role, identity in identities.items():
            address, clients = self.peers[role].address, {CLIENT.key_id}
            own = Own(role, Credentials(identity), address, clients, note=self.notes[role].append)
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
        with listening(Address("127.0.0.1", 0)) as server:
            return server.getsockname()[1]

    def _run(self, role, work):
        try:
            work()
        except MpcError as error:
            self.errors[role] = error.code

    def wait_for(self, words, *roles):
        until = time.monotonic() + 100
        while not all(any(words in note for note in self.notes[role]) for role in roles or self.setting.parties):
            assert time.monotonic() < until, (self.notes, self.errors)
            time.sleep(0.01)

    def ask(self, x=X, task=None, sampling=Sampling(), within_s=100):
        asked = Question(task or Positive(), sampling)
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
