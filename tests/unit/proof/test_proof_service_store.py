"""The state that a service's two processes share: what was acknowledged is kept, everything is bounded."""

from __future__ import annotations

import os
import signal
import stat

import pytest

from mitai.errors import MitaiError
from mitai.ledger.lots import Lots
from mitai.ledger.receipt import receipt_sha256
from mitai.proof.sampling import Sampling, commitment
from mitai.proof.service.store import ATTEMPTS, MOST_SEEDS, SEED_S, Store
from proof_service_rig import config, receipt, said

LOTS = Lots(b"s" * 32, 2)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(tmp_path, clock):
    store = Store(tmp_path, config(tmp_path, places=8), clock=clock)
    yield store
    store.close()


def add(store, *numbers, promise="on-demand", session=""):
    sample = store.sample(session) if session else None
    for number in numbers:
        store.add(said(number), receipt(said(number), promise, sample), promise, session)


def refused(code, function, *arguments):
    with pytest.raises(MitaiError) as error:
        function(*arguments)
    assert error.value.code == code


def test_proofs_are_made_in_the_order_in_which_they_were_asked_for(store, clock):
    add(store, 1, 2, 3)
    assert store.take() is None
    assert store.look(said(1).id).state == "kept"
    for number in (3, 1, 3):
        store.ask(said(number).id)
    assert [store.look(said(number).id).ahead for number in (3, 1)] == [0, 1]
    job, sampling = store.take()
    assert (job, sampling) == (said(3), None)
    clock.now += 7
    standing = store.look(said(3).id)
    assert (standing.state, standing.seconds, standing.expected_s) == ("proving", 7.0, None)
    assert store.counts() == {"waiting": 2, "reserved": 0, "answers": 3}
    store.done(said(3).id, b"proof")
    path = store.proof(said(3).id)
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode), path.stem) == (b"proof", 0o600, said(3).exchange)
    assert store.look(said(3).id).state == "done"
    assert store.look(said(1).id).expected_s == 7.0
    assert store.ask(said(3).id).state == "done"
    assert store.take()[0] == said(1)
    assert store.take() is None


def test_an_answer_is_returned_with_its_receipt(store):
    add(store, 1)
    assert store.get(said(1).id) == (said(1), receipt(said(1)))
    for function in (store.get, store.ask, store.look):
        refused("proof.answer-unknown", function, said(2).id)


def test_how_an_answer_was_drawn_comes_back_with_it(store):
    sampling = Sampling(temperature=700, seed=b"s" * 32, nonce=b"n" * 32)
    store.add(said(1), receipt(said(1)), "follows", sampling=sampling)
    assert store.take() == (said(1), sampling)


def test_what_was_acknowledged_outlives_a_kill(tmp_path, store):
    add(store, 1, 2)
    child = os.fork()
    if not child:
        own = Store(tmp_path, config(tmp_path))
        own.ask(said(1).id)
        own.add(said(3), b"receipt", "follows")
        own.take()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert store.look(said(1).id).state == "proving"
    store.again()
    assert [store.take()[0].id, store.take()[0].id, store.take()] == [said(1).id, said(3).id, None]


def test_a_proof_that_kills_its_worker_is_given_up_and_may_be_asked_for_again(store):
    add(store, 1, 2, promise="follows")
    for _ in range(ATTEMPTS):
        assert store.take()[0] == said(1)
        store.again()
    assert store.look(said(1).id).state == "failed"
    assert store.take()[0] == said(2)
    assert store.ask(said(1).id).state == "waiting"
    assert store.take()[0] == said(1)
    store.failed(said(1).id)
    assert store.look(said(1).id).state == "failed"


def test_places_are_bounded(store, clock):
    add(store, *range(10))
    session = store.open_session(LOTS.sample, 7)
    assert store.counts()["reserved"] == 4
    for number in range(4):
        store.ask(said(number).id)
    store.ask(said(0).id)  # has its place
    refused("proof.queue-full", store.ask, said(4).id)
    refused("proof.queue-full", store.require_place)
    refused("proof.queue-full", store.open_session, Lots(b"t" * 32, 2).sample, 1)
    store.reveal(session, LOTS.seed)
    assert store.counts()["reserved"] == 0
    store.ask(said(4).id)
    store.open_session(Lots(b"t" * 32, 2).sample, 6)
    refused("proof.queue-full", store.require_place)
    clock.now += 3601  # nobody reveals
    store.require_place()


def test_a_session_is_for_its_answers_until_its_seed_is_shown(store):
    session = store.open_session(LOTS.sample, 6)
    refused("proof.session-known", store.open_session, LOTS.sample, 6)
    add(store, 1, 2, 3, 4, 5, session=session, promise="sampled")
    add(store, 6)
    refused("ledger.lots-commitment", store.reveal, session, b"t" * 32)
    refused("proof.session-unknown", store.reveal, "ps-" + "0" * 32, LOTS.seed)
    assert store.counts()["waiting"] == 0
    own = [
        said(number).id
        for number in range(1, 6)
        if LOTS.draws(receipt_sha256(receipt(said(number), "sampled", LOTS.sample)))
    ]
    assert 0 < len(own) < 5
    assert store.reveal(session, LOTS.seed) == (5, own)
    assert store.counts()["waiting"] == len(own)
    assert store.reveal(session, LOTS.seed) == (5, own)  # the answer was lost on its way
    refused("proof.session-unknown", store.sample, session)
    refused("proof.session-unknown", store.add, said(7), b"", "sampled", session)
    refused("proof.session-known", store.open_session, LOTS.sample, 6)
    refused("proof.answer-unknown", store.look, said(7).id)


def test_a_session_has_no_more_answers_than_it_took_places_for(store):
    session = store.open_session(LOTS.sample, 2)
    add(store, 1, 2, session=session, promise="sampled")
    refused("proof.session-full", store.sample, session)
    refused("proof.session-full", store.add, said(3), b"", "sampled", session)


def test_a_session_ends_with_its_time(store, clock):
    session = store.open_session(LOTS.sample, 2)
    add(store, 1, session=session, promise="sampled")
    clock.now += 3601
    refused("proof.session-unknown", store.sample, session)
    refused("proof.session-unknown", store.reveal, session, LOTS.seed)


def test_what_is_old_or_too_much_is_forgotten(tmp_path, clock):
    store = Store(tmp_path, config(tmp_path, keep_s=100, keep_answers=4, keep_gib=9 / (1 << 30)), clock=clock)
    add(store, 1, 2, 3, promise="follows")
    for number in (1, 2):
        store.take()
        store.done(said(number).id, b"12345")
    store.take()
    (store.proofs / "left.part").write_bytes(b"")  # by one that was killed
    assert store.purge() == 1  # 2 and 3 remain, of 5 bytes
    assert [path.stem for path in store.proofs.iterdir()] == [said(2).exchange]
    refused("proof.answer-unknown", store.look, said(1).id)
    assert not store.proof(said(1).id).exists()
    session = store.open_session(LOTS.sample, 2)
    add(store, 4, session=session, promise="sampled")
    add(store, 5, 6, 7, 8)
    assert store.purge() == 1  # not 3, which is being proven, nor 4, which may be drawn
    assert not store.proof(said(2).id).exists()
    clock.now += 101
    assert store.purge() == 4
    assert [store.look(said(number).id).state for number in (3, 4)] == ["proving", "kept"]
    clock.now += 3601
    assert store.purge() == 1
    assert store.open_session(LOTS.sample, 2)  # its commitment is forgotten, too
    store.close()


def test_a_seed_is_for_one_answer(store, clock):
    promised = store.seed()
    assert commitment(store.spend(promised)) == promised
    refused("proof.seed-unknown", store.spend, promised)
    refused("proof.seed-unknown", store.spend, "0" * 64)
    old = store.seed()
    rows = [(f"{number:064x}", b"", clock.now) for number in range(MOST_SEEDS - 1)]
    with store._writing() as db:
        db.executemany("insert into seeds values (?, ?, ?)", rows)
    refused("proof.too-many-seeds", store.seed)
    clock.now += SEED_S + 1
    store.seed()
    refused("proof.seed-unknown", store.spend, old)
