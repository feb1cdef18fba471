"""A service's queue loses nothing that it accepted; its draws are the client's, and nobody's choice."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import event

from mitai.ledger.lots import Lots
from mitai.ledger.receipt import receipt_sha256
from mitai.proof.service.config import ServiceConfig
from mitai.proof.service.sessions import Entry, SessionFile
from mitai.proof.service.store import Store
from mitai.serve.schema import RequestError
from proof_service_rig import IDENTITY, KEY, NAME, STATE_KEY, config, receipt, said

STEPS = st.lists(
    st.sampled_from(["add", "follows", "ask", "take", "done", "failed", "killed", "purge"]), min_size=1, max_size=40
)


def opened(bounds: ServiceConfig) -> Store:
    store = Store(bounds, STATE_KEY)
    event.listen(
        store._state._engine, "checkout", lambda own, *_: own.execute("pragma synchronous = off")
    )  # no power is cut
    return store


@settings(max_examples=20)
@given(STEPS)
def test_every_accepted_request_ends_in_a_proof_or_a_failure(steps):
    with tempfile.TemporaryDirectory() as folder:
        bounds = config(Path(folder), places=4, keep_answers=3)
        store, number, accepted, taken = opened(bounds), 0, {}, None
        for step in steps:
            if step in {"add", "follows"}:
                number += 1
                store.add(said(number), b"", "follows" if step == "follows" else "on-demand")
                accepted |= {said(number).id: "asked"} if step == "follows" else {}
            elif step == "ask" and number:
                with suppress(RequestError):  # refused: the queue is full, or the answer was forgotten
                    if store.ask(said(number).id).state == "waiting":
                        accepted[said(number).id] = "asked"
            elif step == "take" and taken is None:
                job = store.take()
                taken = job[0].id if job else None
            elif step in {"done", "failed"} and taken is not None:
                (store.done(taken, b"proof") if step == "done" else store.failed(taken))
                accepted[taken], taken = step, None
            elif step == "killed":  # and another one begins
                store.close()
                store, taken = opened(bounds), None
                store.again()
            elif step == "purge":
                store.purge()
        waiting = sorted(name for name, state in accepted.items() if state == "asked")
        if taken is None:
            store.again()
        found = [taken] if taken is not None else []
        while (job := store.take()) is not None:
            found.append(job[0].id)
        assert sorted(found) == waiting or set(waiting) - set(found) <= {
            name
            for name in waiting
            if store.look(name).state == "failed"  # began five times
        }
        assert len(found) == len(set(found))
        store.close()


@settings(max_examples=10)
@given(
    st.binary(min_size=32, max_size=32),
    st.integers(1, 4) | st.integers(1, 1 << 32),
    st.lists(st.integers(0, 255), unique=True, max_size=8),
)
def test_both_sides_draw_the_same(seed, one_in, numbers):
    lots = Lots(seed, one_in)
    with tempfile.TemporaryDirectory() as folder:
        store = opened(config(Path(folder), places=4096))
        session = store.open_session(lots.sample, 256)
        entries = []
        for number in numbers:
            envelope = receipt(said(number), "sampled", lots.sample)
            store.add(said(number), envelope, "sampled", session)
            entries.append(Entry(envelope, said(number).id))
        answers, drawn = store.reveal(session, seed)
        store.close()
    file = SessionFile(
        session=session, model=NAME, identity=IDENTITY, key=KEY.public.raw, one_in=one_in,
        commitment=lots.sample.commitment, seed=seed.hex(), receipts=tuple(entries),
    )  # fmt: skip
    assert SessionFile.parse(file.encode()) == file
    assert (answers, drawn) == (len(numbers), [entry.id for entry in file.drawn()])
    if one_in == 1:
        assert len(drawn) == answers


def test_one_in_so_many_is_drawn_whatever_an_answer_says():
    for one_in in (2, 5):
        lots = Lots(b"seed" * 8, one_in)
        drawn = sum(lots.draws(receipt_sha256(receipt(said(number), "sampled", lots.sample))) for number in range(1000))
        assert abs(drawn - 1000 / one_in) < 60  # the same each time: nothing here is random
