"""Two parties and a dealer over TLS on this machine: answers, and what ends them."""

from __future__ import annotations

import struct
import threading
import time
from functools import partial

import numpy as np
import pytest

from mitai.errors import MpcError
from mitai.identity import Identity
from mitai.ledger.receipt import PartyReceipt
from mitai.mpc.attested import Credentials
from mitai.mpc.clients import BLIND_BYTES, GO, Guest, Peer, ask, reach
from mitai.mpc.meeting import Address, listening
from mitai.mpc.models.arrays import Arrays
from mitai.mpc.parties import ROLES, Own, deal, serve
from mitai.mpc.ring import encode
from mitai.mpc.sampling import Sampling
from mitai.mpc.tasks import Offer, Question, agree, any_question
from mitai.mpc.two.shares import split

WEIGHT = np.arange(12.0).reshape(3, 4) / 8 - 0.5
CLIENT, STRANGER = Identity.generate(), Identity.generate()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("mitai.mpc.clients._LOOK_EVERY_S", 0.02)


class Positive:
    """x W, and which numbers of it are positive."""

    kind = "greedy"

    def __init__(self, name="positive", rows=2):
        self.name, self._rows = name, rows

    def answer(self, engine, loaded, client, emit, sampling):
        product = engine.linear(client.secret(self._rows, 3), loaded)
        emit(product)
        emit(engine.less(product.map(np.negative), 0.0))


class Cooled:
    """x W divided by the temperature."""

    name, kind = "cooled", "sampled"

    def answer(self, engine, loaded, client, emit, sampling):
        emit(engine.scale(engine.linear(client.secret(1, 3), loaded), 1 / sampling.temperature))


def load(engine):
    return Arrays(engine, "model").weight(3, 4)


def offered(*tasks):
    return Offer(bytes(16), "0" * 64, "exact", load, tasks or (Positive(), Cooled()))


class Three:
    """The three as threads, in the roles' order; their receipts are kept in `logged`."""

    def __init__(self, folder, offers=None):
        offers = offers or [offered()] * 3
        identities = [Identity.generate() for _ in ROLES]
        ports = [self._free() for _ in range(2)]
        self.notes = {role: [] for role in ROLES}
        self.errors, self.logged, self.lines = {}, {role: {} for role in ROLES}, {}
        peers = {
            role: Peer(identity.key_id, Address("127.0.0.1", port) if port else None)
            for role, identity, port in zip(ROLES, identities, [*ports, 0], strict=True)
        }
        self.peers = peers
        halves = split(encode(WEIGHT))
        self.threads = []
        for number, (role, identity) in enumerate(zip(ROLES, identities, strict=True)):
            own = Own(
                role,
                Credentials(identity),
                peers[role].address,
                {CLIENT.key_id},
                note=self.notes[role].append,
                log=self.logged[role].__setitem__,
                show=partial(self.lines.__setitem__, role),
            )
            work = partial(deal, own, peers, offers[2])
            if role != "dealer":
                work = partial(serve, own, peers, offers[number], [halves[number]], folder / role)
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

    def wait_for_all(self):
        for role in ROLES[:2]:
            self.wait_for(role, "the model is loaded")

    def join(self):
        for thread in self.threads:
            thread.join(100)
            assert not thread.is_alive()


def question(three, x, identity=CLIENT, offer=None, asked=None, within_s=100, **peers):
    offer = offer or offered()
    asked = asked or Question(offer.tasks[0])
    return list(ask(Credentials(identity), three.peers | peers, offer, asked, [x], within_s=within_s))


def test_answers_from_three_over_tls(tmp_path):
    three = Three(tmp_path)
    three.wait_for_all()
    rng = np.random.default_rng(1)
    for _ in range(4):  # more than there are tapes ready
        x = rng.normal(size=(2, 3))
        product, positive = question(three, x)
        assert np.abs(product - x @ WEIGHT).max() < 1e-3
        assert (positive == (x @ WEIGHT > 0)).all()
    three.wait_for("p1", "run 3 of positive took")
    with pytest.raises(MpcError):  # a stranger
        question(three, np.zeros((2, 3)), STRANGER)
    refused(
        "mpc.tasks-differ", lambda: question(three, x, offer=Offer(bytes(16), "1" * 64, "exact", load, (Positive(),)))
    )
    with pytest.raises(MpcError):  # a client who knows one of the parties only as somebody else
        question(three, x, within_s=5, p1=Peer(STRANGER.key_id, three.peers["p1"].address))
    product, _ = question(three, x)
    assert np.abs(product - x @ WEIGHT).max() < 1e-3
    assert not three.errors


def test_all_parties_sign_what_they_computed(tmp_path):
    three = Three(tmp_path)
    three.wait_for_all()
    offer, x = offered(), np.ones((1, 3))
    stages = []
    question = Question(Cooled(), Sampling(0.5))
    answer = ask(Credentials(CLIENT), three.peers, offer, question, [x], told=stages.append)
    assert len([*answer]) == 1
    assert stages[-1] == "waiting for the turn"
    found = {role: PartyReceipt.open(answer.receipts[role], answer.keys[role]) for role in ROLES[:2]}
    for role, receipt in found.items():
        assert answer.keys[role].key_id == three.peers[role].key_id
        assert receipt.parties == {name: peer.key_id for name, peer in three.peers.items()}
        assert (receipt.task, receipt.temperature, receipt.protocol) == ("cooled", 0.5, "2+1")
        assert receipt.started <= receipt.finished
        three.wait_for(role, "run 0 of cooled took")
        wait_for(lambda role=role: three.logged[role])
        assert three.logged[role] == {receipt.exchange: answer.receipts[role]}
    assert found["p0"].exchange == found["p1"].exchange
    assert "answers: 1" in three.lines["p0"]()
    assert "tapes ready" in three.lines["p1"]()
    assert "runs dealt" in three.lines["dealer"]()


@pytest.mark.parametrize("lie", ["silent", "short", "long", "other"])
def test_an_answer_needs_receipts(tmp_path, monkeypatch, lie):
    three, end = Three(tmp_path), Guest.end
    three.wait_for_all()

    def told(guest, receipt=None):
        lies = {"silent": None, "short": b"{}", "long": bytes(65537), "other": receipt and receipt[:-9] + b"}"}
        end(guest, lies[lie])

    monkeypatch.setattr(Guest, "end", told)
    offer = offered()
    answer = iter(ask(Credentials(CLIENT), three.peers, offer, Question(offer.tasks[0]), [np.ones((2, 3))]))
    assert [next(answer).shape, next(answer).shape] == [(2, 4), (2, 4)]
    refused("mpc.receipt-wrong" if lie in {"short", "other"} else "mpc.receipt-missing", lambda: next(answer))


def wait_for(what):
    until = time.monotonic() + 100
    while not what():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_tasks_that_nobody_asked_for_have_no_tapes(tmp_path):
    three = Three(tmp_path)
    for role in ROLES[:2]:
        three.wait_for(role, "tape 1 of positive")
    assert not any("cooled" in note for note in three.notes["dealer"])
    x = np.ones((1, 3))
    for number, temperature in enumerate((0.5, 2.0)):  # values that tapes do not depend on
        (product,) = question(three, x, asked=Question(Cooled(), Sampling(temperature)))
        assert np.abs(product - x @ WEIGHT / temperature).max() < 1e-3
        three.wait_for("p0", f"tape {number + 1} of cooled")  # one is ready from then on
    assert not three.errors


def test_what_is_not_offered_is_refused_before_anything_is_shared(tmp_path):
    three = Three(tmp_path)
    three.wait_for_all()
    more = Positive("other")
    refused("mpc.not-offered", lambda: question(three, np.ones((2, 3)), offer=offered(more), asked=Question(more)))


def test_a_question_is_read_strictly():
    offer, task = offered(), Cooled()
    data = Question(task, Sampling(0.7)).encode()
    found = offer.question(data)
    assert (found.task.name, found.sampling, found.encode()) == ("cooled", Sampling(0.7), data)
    for wrong in (
        data[:16] + struct.pack("<dd", 0.0, 1.0),  # it samples
        data[:16] + struct.pack("<dd", 0.7, 0.5),  # and does not look at top_p
        data[:16] + struct.pack("<dd", 1e9, 1.0),
        data[:16] + struct.pack("<dd", float("nan"), 1.0),
        data[:16] + struct.pack("<dd", 0.7, float("nan")),
        bytes(16) + data[16:],
    ):
        refused("mpc.not-offered", lambda wrong=wrong: offer.question(wrong))
    with pytest.raises(ValueError, match="sampled"):
        Question(task)
    with pytest.raises(ValueError, match="one name"):
        offered(task, task)


def refused(code, work):
    with pytest.raises(MpcError) as caught:
        work()
    assert caught.value.code == code


def test_a_client_who_goes_away_changes_nothing(tmp_path):
    three = Three(tmp_path)
    three.wait_for_all()
    offer = offered()
    answers = iter(ask(Credentials(CLIENT), three.peers, offer, Question(offer.tasks[0]), [np.ones((2, 3))]))
    next(answers)
    answers.close()
    product, _ = question(three, np.ones((2, 3)))
    assert np.abs(product - np.ones((2, 3)) @ WEIGHT).max() < 1e-3


def test_a_client_does_not_take_the_place_of_another(tmp_path):
    three = Three(tmp_path)
    three.wait_for_all()
    links = []
    for _ in range(2):
        links.append(reach(Credentials(CLIENT), three.peers["p1"], time.monotonic() + 20, 20))
        agree(links[-1], offered())
        links[-1].send(bytes(16) + Question(Positive()).encode())  # with the session
        assert bytes(links[-1].receive(1)) == GO
        links[-1].send(bytes(BLIND_BYTES))
        links[-1].send(bytes(48))
        time.sleep(0.5)
    assert [link.ended() for link in links] == [False, True]


@pytest.mark.parametrize("other", [0, 1, 2])
def test_three_with_different_tasks_do_not_begin(tmp_path, other):
    offers = [offered() for _ in ROLES]
    offers[other] = offered(Positive(), Positive("other"))
    three = Three(tmp_path, offers)
    three.join()
    assert "mpc.tasks-differ" in three.errors.values()
    assert set(three.errors) == set(ROLES)


def test_one_name_for_two_programs_is_noticed_by_the_plan(tmp_path):
    three = Three(tmp_path, [offered(), offered(), offered(Positive(rows=5), Cooled())])
    three.join()
    assert "mpc.plan-mismatch" in three.errors.values()
    assert set(three.errors) == set(ROLES)


def test_a_dealer_that_ends_ends_all(tmp_path, monkeypatch):
    monkeypatch.setattr("mitai.mpc.parties.any_question", ending)
    three = Three(tmp_path)
    three.join()
    assert three.errors == {"p0": "mpc.link-lost", "p1": "mpc.link-lost", "dealer": "mpc.tape-mismatch"}


def ending(task):
    """A dealer that stops after the model's masks."""
    if threading.current_thread().name == "dealer":
        raise MpcError("mpc.tape-mismatch", "it stops here")
    return any_question(task)


def test_a_party_listens(tmp_path):
    with pytest.raises(MpcError) as caught:
        serve(Own("p0", Credentials(CLIENT)), {}, offered(), [], tmp_path)
    assert caught.value.code == "mpc.config"
