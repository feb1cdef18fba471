"""The state that a service's two processes share: what was acknowledged is kept, everything is bounded."""

from __future__ import annotations

import os
import signal
import stat
import threading
from contextlib import closing, suppress
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import case, insert, select, update
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs

from mitai.errors import MitaiError
from mitai.ledger.lots import Lots
from mitai.ledger.receipt import receipt_sha256
from mitai.proof.sampling import Sampling, commitment
from mitai.proof.service import sealed, state
from mitai.proof.service.receipts import Said
from mitai.proof.service.store import ATTEMPTS, MOST_SEEDS, SEED_S, Answered, Store
from mitai.proof.service.tables import answers, seeds, sessions
from mitai.serve.schema import RequestError
from proof_service_rig import STATE_KEY, config, receipt, said

LOTS = Lots(b"s" * 32, 2)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(scope="module")
def one_url(postgres):
    with postgres.database() as url:
        yield url


@pytest.fixture(params=[False, True], ids=["sqlite", "postgresql"])
def store(request, tmp_path, clock):
    own = config(tmp_path, places=8, state_url=request.getfixturevalue("one_url") if request.param else "")
    Store(own, b"k" * 32).close()  # which deletes what the test before has left there
    store = Store(own, STATE_KEY, clock=clock)
    yield store
    store.close()


def add(store, *numbers, promise="on-demand", session=""):
    sample = store.sample(session) if session else None
    for number in numbers:
        store.add(said(number), receipt(said(number), promise, sample), promise, session)


def fetched(store, number):
    size, parts = store.proof(said(number).id)
    proof = b"".join(parts)
    assert len(proof) == size
    return proof


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
    assert fetched(store, 3) == b"proof"
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
        own = Store(store._config, STATE_KEY)
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


def test_what_is_old_or_too_much_is_forgotten(tmp_path, store, clock):
    store._config = msgspec.structs.replace(store._config, keep_s=100, keep_answers=4, keep_gib=9 / (1 << 30))
    add(store, 1, 2, 3, promise="follows")
    for number in (1, 2):
        store.take()
        store.done(said(number).id, b"12345")
    store.take()
    (tmp_path / "state" / "proofs" / f"{'5f' * 16}.part").write_bytes(b"")  # by one that was killed
    assert store.purge() == 1  # 2 and 3 remain, of 5 bytes
    assert fetched(store, 2) == b"12345"
    assert len(list((tmp_path / "state" / "proofs").iterdir())) == 1
    refused("proof.answer-unknown", store.look, said(1).id)
    session = store.open_session(LOTS.sample, 2)
    add(store, 4, session=session, promise="sampled")
    add(store, 5, 6, 7, 8)
    assert store.purge() == 1  # not 3, which is being proven, nor 4, which may be drawn
    assert not list((tmp_path / "state" / "proofs").iterdir())
    clock.now += 101
    assert store.purge() == 4
    assert [store.look(said(number).id).state for number in (3, 4)] == ["proving", "kept"]
    clock.now += 3601
    assert store.purge() == 1
    assert store.open_session(LOTS.sample, 2)  # its commitment is forgotten, too


def test_a_seed_is_for_one_answer(store, clock):
    promised = store.seed()
    assert commitment(store.spend(promised)) == promised
    refused("proof.seed-unknown", store.spend, promised)
    refused("proof.seed-unknown", store.spend, "0" * 64)
    old = store.seed()
    rows = [{"tag": number.to_bytes(16), "sealed": b"", "created": clock.now} for number in range(MOST_SEEDS - 1)]
    with store._state.writing() as db:
        db.execute(insert(seeds), rows)
    refused("proof.too-many-seeds", store.seed)
    clock.now += SEED_S + 1
    store.seed()
    refused("proof.seed-unknown", store.spend, old)


def test_nothing_on_the_disk_can_be_read(tmp_path, monkeypatch):
    monkeypatch.setattr(sealed, "PART_BYTES", 100)
    words, proof = [0x61626364] * 8, b"proof " * 60
    one = Said(said(1).id, words, words)
    sampling = Sampling(temperature=700, seed=b"seed" * 8, nonce=b"nonce666" * 4)
    kept = Answered(one.id, words, words, receipt(one, "sampled", LOTS.sample), sampling)
    plaintext = msgspec.msgpack.encode(kept) + proof
    with closing(Store(config(tmp_path), STATE_KEY)) as store:
        session, seed = store.open_session(LOTS.sample, 4), store.seed()
        store.add(one, kept.receipt, "sampled", session, sampling)
        store.reveal(session, LOTS.seed)
        store.ask(one.id)
        assert store.take() == (one, sampling)
        store.done(one.id, proof)
        assert fetched(store, 1) == proof
        secret = [session, seed, LOTS.sample.commitment, LOTS.seed.hex(), one.exchange]
        secret = [text.encode() for text in secret] + [STATE_KEY, store.spend(seed)]
        secret += [plaintext[start : start + 8] for start in range(len(plaintext) - 8)]
        files = {path.name: path.read_bytes() for path in (tmp_path / "state").rglob("*") if path.is_file()}
        found = [(name, text) for name, content in files.items() for text in secret if text in content]
        assert found == []
        assert {"answers.db", "answers.db-wal", store._tag(one.id).hex()} <= set(files)
        folders = tmp_path / "state", tmp_path / "state" / "proofs"
        assert {stat.S_IMODE(path.stat().st_mode) for path in folders} == {0o700}


def test_what_another_key_sealed_is_deleted(store):
    add(store, 1, promise="follows")
    session = store.open_session(LOTS.sample, 4)
    store.take()
    store.done(said(1).id, b"proof")
    with closing(Store(store._config, STATE_KEY, clock=store._clock)) as other:  # started again
        assert (other.get(said(1).id), fetched(other, 1)) == ((said(1), receipt(said(1), "follows")), b"proof")
        assert other.sample(session) == LOTS.sample
    refused("proof.state-key", Store, store._config, bytes(32))  # while it is in use
    elsewhere = msgspec.structs.replace(store._config, state=f"{store._config.state}-2")
    if elsewhere.state_url:  # a service that has the same database, and a folder of its own
        refused("proof.state-key", Store, elsewhere, bytes(32))
    assert (fetched(store, 1), store.get(said(1).id)[0]) == (b"proof", said(1))
    store.close()
    for key in (bytes(32), STATE_KEY):
        with capture_logs() as told, closing(Store(store._config, key)) as other:
            assert other.counts() == {"waiting": 0, "reserved": 0, "answers": 0}
            assert not list((Path(store._config.state) / "proofs").iterdir())
            refused("proof.answer-unknown", other.get, said(1).id)
            Store(store._config, key).close()
            assert [line["event"] for line in told] == ["former state deleted: it was sealed under another key"]


def test_processes_that_begin_at_once_open_a_state_one_after_the_other(tmp_path):
    (tmp_path / "state").mkdir()
    opening = threading.Thread(target=lambda: Store(config(tmp_path), STATE_KEY).close())
    with state._alone(tmp_path / "state"):
        opening.start()
        opening.join(0.3)
        assert not (tmp_path / "state" / "answers.db").exists()
    opening.join()
    assert (tmp_path / "state" / "answers.db").exists()


@pytest.mark.slow
def test_a_database_that_went_away_is_there_again(postgres, postgres_url, tmp_path):
    with closing(Store(config(tmp_path, state_url=postgres_url), STATE_KEY)) as store:
        add(store, 1, promise="follows")
        postgres.crash()
        with pytest.raises(OperationalError):
            add(store, 2)
        add(store, 3)
        assert store.take()[0] == said(1)
        assert store.counts()["answers"] == 2


def test_a_folder_that_others_use_keeps_what_is_theirs(tmp_path):
    folder = tmp_path / "state"
    (folder / "proofs" / "more").mkdir(parents=True)
    own = [folder / "state.db", folder / "state.db.backup", folder / "proofs" / "thesis.proof"]
    own += [folder / "proofs" / f"{'5f' * 16}.proof", folder / "proofs" / "more" / ("5f" * 16)]
    for path in own:
        path.write_bytes(b"mine")
    for key in (STATE_KEY, bytes(32)):
        with closing(Store(config(tmp_path), key)) as store:
            store.purge()
    assert all(path.exists() for path in own)


def flipped(data):
    """Yield copies of bytes with one bit changed."""
    for place in range(len(data)):
        yield data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def test_proofs_that_are_swapped_changed_or_cut_off_do_not_open(tmp_path, monkeypatch):
    monkeypatch.setattr(sealed, "PART_BYTES", 4)
    with closing(Store(config(tmp_path), STATE_KEY)) as store:
        add(store, 1, 2, promise="follows")
        for number in (1, 2):
            store.take()
            store.done(said(number).id, b"0123456789")
        path, other = (tmp_path / "state" / "proofs" / store._tag(said(number).id).hex() for number in (1, 2))
        good, whole = path.read_bytes(), 4 + sealed._MORE_BYTES
        parts = [good[start : start + whole] for start in range(0, len(good), whole)]
        cut = [good[:size] for size in range(len(good))]
        swapped = [parts[1] + parts[0] + parts[2], parts[0] * 2 + parts[2], parts[0] + parts[2], good + parts[2]]
        mixed = [
            other.read_bytes(),
            other.read_bytes()[:whole] + good[whole:],
            good[:-whole] + other.read_bytes()[-whole:],
        ]
        for false in [*cut, *swapped, *mixed, good + b"\0", *flipped(good)]:
            path.write_bytes(false)
            refused("proof.state-damaged", fetched, store, 1)
        for false in (*cut[: 2 * whole + 1], swapped[0], *swapped[2:], mixed[0]):  # seen before anything is told
            path.write_bytes(false)
            refused("proof.state-damaged", store.proof, said(1).id)
        path.unlink()
        refused("proof.answer-unknown", fetched, store, 1)
        assert fetched(store, 2) == b"0123456789"


def test_rows_that_are_swapped_or_changed_do_not_open(store):
    add(store, 1, 2, 3, promise="follows")
    session = store.open_session(LOTS.sample, 4)
    other = store.open_session(Lots(b"t" * 32, 2).sample, 4)
    here, there = store._tag(said(1).id), store._tag(said(2).id)
    with store._state.writing() as db:
        good = db.scalar(select(answers.c.sealed).where(answers.c.tag == here))
        false = db.scalar(select(answers.c.sealed).where(answers.c.tag == there))
        db.execute(update(answers).where(answers.c.tag == here).values(sealed=false))
        one, two = db.scalars(select(sessions.c.sealed)).all()
        tag = sessions.c.tag == store._state.sealer.tag("session", session)
        db.execute(update(sessions).where(tag).values(sealed=case((sessions.c.sealed == one, two), else_=one)))
    refused("proof.state-damaged", store.get, said(1).id)
    refused("proof.state-damaged", store.sample, session)
    refused("proof.state-damaged", store.reveal, session, LOTS.seed)
    assert store.sample(other) == Lots(b"t" * 32, 2).sample
    assert store.get(said(2).id)[0] == said(2)
    assert store.take()[0] == said(2)  # not the one that can't be opened, which is in nobody's way
    assert store.look(said(1).id).state == "failed"
    for changed in flipped(good):
        refused("proof.state-damaged", store._state.sealer.open, "answer", here, changed)
    for kind, tag in (("session", here), ("answer", there)):
        refused("proof.state-damaged", store._state.sealer.open, kind, tag, good)


def test_many_at_once_take_no_job_twice_and_end_a_session_once(store):
    session, added, taken, revealed = store.open_session(LOTS.sample, 12), [], [], []
    numbers, enough = iter(range(24)), threading.Event()
    lock = threading.Lock()

    def answer():
        with closing(Store(store._config, STATE_KEY, clock=store._clock)) as own, suppress(RequestError):
            while (number := next_of()) is not None:
                own.add(said(number), receipt(said(number), "sampled", LOTS.sample), "sampled", session)
                added.append(number)
                if len(added) > 4:
                    enough.set()

    def next_of():
        with lock:
            return next(numbers, None)

    def reveal():
        enough.wait(60)
        with closing(Store(store._config, STATE_KEY, clock=store._clock)) as own:
            revealed.append(own.reveal(session, LOTS.seed))

    def take():
        with closing(Store(store._config, STATE_KEY, clock=store._clock)) as own:
            while (job := own.take()) is not None:
                taken.append(job[0].id)

    for targets in ([answer] * 3 + [reveal] * 2, [take] * 4):
        threads = [threading.Thread(target=target) for target in targets]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    [(count, drawn), again] = revealed
    assert (count, drawn) == again
    assert count == len(added) == store.counts()["answers"]
    assert sorted(taken) == sorted(drawn)
