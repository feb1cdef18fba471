"""Runs of the setting 2+1: the three sides in step, tapes used once, and what a party sees."""

import io
import threading
from collections import defaultdict

import numpy as np
import pytest

from mitai.errors import MpcError
from mitai.mpc.link import pair
from mitai.mpc.ring import encode
from mitai.mpc.two.core import Two
from mitai.mpc.two.engine import Dealer, Owner, Party
from mitai.mpc.two.local import Local, run
from mitai.mpc.two.pads import TapePads
from mitai.mpc.two.tape import HEADER, TapeHeader

W = np.arange(12.0).reshape(3, 4) / 8


def load(engine):
    return engine.weight(engine.input("model", W.shape, W))


def infer(engine, weight, rows=2):
    x = engine.linear(engine.input("client", (rows, 3)), weight)
    return engine.reveal(x * x)


def sides(program, states):
    return tuple(lambda engine, state=state: program(engine, state) for state in states)


def loaded(local):
    return local.do((load,) * 3, Owner().inputs(load))


def refused(code, work):
    with pytest.raises(MpcError) as caught:
        work()
    assert caught.value.code == code


def close_to(result, x):
    return np.abs(result - (x @ W) ** 2).max() < 1e-3


def test_a_batch_of_runs_of_one_model():
    """Runs of different shapes, each prepared with the others and run by itself, out of order."""
    local, rng = Local(), np.random.default_rng(1)
    models = loaded(local)
    batch = [sides(lambda e, m, rows=rows: infer(e, m, rows), models) for rows in (1, 2, 5)]
    ready = local.prepare(batch)
    for number in (2, 0, 1):
        x = rng.normal(size=((1, 2, 5)[number], 3))
        for result in local.play(batch[number], ready[number], {"client": [encode(x)]}):
            assert close_to(result, x)


def test_a_weight_of_the_same_run():
    x = np.ones((2, 3))
    done = run(lambda engine: engine.reveal(engine.linear(engine.input("client", (2, 3), x), load(engine))))
    assert np.abs(done.results[0] - x @ W).max() < 1e-3
    assert (done.results[0] == done.results[1]).all()
    assert done.cost.sent_bytes[0] == done.cost.sent_bytes[1] > 0
    assert done.cost.rounds == [5, 5]  # tapes, weight, linear, truncation, result


def test_the_dealer_has_no_data():
    local = Local()
    _, _, weight = loaded(local)
    assert not hasattr(weight, "share")
    seen = []
    local.prepare([(lambda engine: seen.append(engine.input("client", (2,), np.array([5.0, 6.0]))),) * 3])
    assert all(not secret.parts[0].any() for secret in seen)


class Tried:
    """A prepared run, whose tapes can be tampered with."""

    def __init__(self):
        self.local = Local()
        self.models = loaded(self.local)
        self.sides = sides(infer, self.models)
        self.ready = self.local.prepare([self.sides, self.sides])
        self.x = {"client": [encode(np.ones((2, 3)))]}

    def tape(self, role, number=0):
        return self.ready[number].tapes[role].getvalue()

    def play(self, tapes, sides=None):
        ready = self.ready[0]
        ready.tapes = tuple(map(io.BytesIO, tapes))
        return self.local.play(sides or self.sides, ready, self.x)


def test_a_tape_is_used_once():
    tried = Tried()
    tapes = tried.tape(0), tried.tape(1)
    tried.play(tapes)
    refused("mpc.tape-used", lambda: tried.play(tapes))


@pytest.mark.parametrize("role", [0, 1])
def test_wrong_tapes(role):
    def replaced(change):
        tried = Tried()
        tapes = [tried.tape(0), tried.tape(1)]
        tapes[role] = change(tried, tapes[role])
        return lambda: tried.play(tapes)

    refused("mpc.tape-mismatch", replaced(lambda tried, _: tried.tape(role, 1)))
    refused("mpc.tape-mismatch", replaced(lambda tried, _: tried.tape(1 - role)))
    refused("mpc.tape-damaged", replaced(lambda _, tape: tape[: HEADER.size - 1]))
    refused("mpc.tape-damaged", replaced(lambda _, tape: tape[: HEADER.size + 7]))
    refused("mpc.tape-damaged", replaced(lambda _, tape: tape + b"\0"))
    refused("mpc.tape-damaged", replaced(lambda _, tape: b"Mitai" + tape[5:]))
    for at in (81, 89):  # lengths
        refused("mpc.tape-damaged", replaced(lambda _, tape, at=at: tape[:at] + b"\xff" * 8 + tape[at + 8 :]))
    refused("mpc.tape-mismatch", replaced(lambda _, tape: tape[:33] + bytes(32) + tape[65:]))


def test_headers():
    good = TapeHeader(1, bytes(16), bytes(32), bytes(16), 3, 16)
    assert TapeHeader.decode(good.encode()) == good
    assert bytes(16).hex() in repr(good)
    assert "key" not in repr(good)
    bad = TapeHeader(2, bytes(16), bytes(32), bytes(16), 3, 16)
    refused("mpc.tape-damaged", lambda: TapeHeader.decode(bad.encode()))


def test_a_dealer_of_another_program():
    local = Local()
    models = loaded(local)
    one, other = sides(infer, models), sides(lambda e, m: infer(e, m, 3), models)
    refused("mpc.plan-mismatch", lambda: local.prepare([(*one[:2], other[2])]))


@pytest.mark.parametrize("role", [0, 1])
@pytest.mark.parametrize("change", ["longer", "shorter", "ends", "goes on"])
def test_a_party_that_sends_something_else(role, change):
    """Whatever a party's message is too long, too short, or missing: the other one stops."""
    tried = Tried()
    part = {
        "longer": lambda e, m: (infer(e, m), e.exchange(np.zeros(9, np.uint8))),
        "shorter": lambda e, m: e.exchange(np.zeros(2, np.uint8)),
        "ends": lambda e, m: e.link.close(),
        "goes on": lambda e, m: (infer(e, m), e.pads.random((2,), np.uint64), e.open(np.zeros(2, np.uint64))),
    }[change]
    both = [lambda engine, model=model: (infer(engine, model), engine.link.close()) for model in tried.models]
    both[role] = lambda engine: part(engine, tried.models[role])
    with pytest.raises(MpcError):
        tried.play((tried.tape(0), tried.tape(1)), tuple(both))


def test_inputs_that_are_missing_or_of_another_shape():
    tried = Tried()
    tried.x = {}
    refused("mpc.input-missing", lambda: tried.play((tried.tape(0), tried.tape(1))))
    party, pads = Party(0, pair()[0]), TapePads(0, bytes(16), np.zeros(0, np.uint64), io.BytesIO())
    for wrong in (np.zeros((3, 2), np.uint64), np.zeros((2, 3), np.uint32)):
        feeds = {"client": [wrong]}
        refused("mpc.input-shape", lambda feeds=feeds: party.walk(pads, lambda e: e.input("client", (2, 3)), feeds))


def test_a_program_that_does_not_keep_to_its_plan():
    """Where both parties leave it alike, no message is missing; the result is wrong, and not given out."""

    def square(engine, again):
        x = engine.constant(1.0, (2,))
        return engine.reveal(x * x if again else engine.truncate(x.map(lambda part: part << np.uint64(1), 17)))

    local = Local()
    (ready,) = local.prepare([(lambda engine: square(engine, engine.offline),) * 3])
    refused("mpc.plan-mismatch", lambda: local.play((lambda engine: square(engine, engine.offline),) * 3, ready))


def test_nothing_outside_of_a_run():
    secret = []
    run(lambda engine: secret.append(engine.constant(1.0, (2,))))
    with pytest.raises(RuntimeError, match="outside of a run"):
        secret[0] * secret[0]
    with pytest.raises(RuntimeError, match="nobody to exchange with"):
        Dealer().plan(lambda engine: engine.exchange(np.zeros(1, np.uint8)))


def test_a_plan_waits_for_the_run_that_is_going_on():
    party, order, inside = Party(0, pair()[0]), [], threading.Event()

    def program(engine):
        inside.set()
        order.append("begun")
        other.join(0.2)
        order.append("ended")

    other = threading.Thread(target=lambda: (inside.wait(), party.plan(lambda _: order.append("next"))))
    other.start()
    party.plan(program)
    other.join()
    assert order == ["begun", "ended", "next"]


def test_messages_of_many_arrays_and_types(monkeypatch):
    """Openings of odd lengths and orders, in one message; nothing at all is sent for nothing."""
    opened = []

    def program(engine):
        if not engine.offline:
            arrays = [np.arange(n, dtype=dtype) for n, dtype in ((3, np.uint8), (0, np.uint64), (5, np.uint16))]
            arrays.append(np.arange(12, dtype=np.uint64).reshape(3, 4).T)
            opened.append((arrays, engine.open(*arrays), engine.open_xor(*arrays), engine.open(arrays[1])))

    assert run(program).cost.rounds == [3, 3]
    for arrays, sums, xors, nothing in opened:
        assert nothing[0].size == 0
        for array, total, xor in zip(arrays, sums, xors, strict=True):
            assert (total == 2 * array).all()
            assert total.dtype == array.dtype
            assert not xor.any()


# --- what a party sees ---


def everything(engine, weight):
    """All that is in this setting, on numbers that are all alike."""
    x = engine.input("client", (64, 3))
    y = engine.linear(x, weight)
    z = engine.matmul(y, y.swap()) * 0.25
    return z * z + engine.multiply(z, z.swap())


@pytest.fixture
def seeded(monkeypatch):
    """All randomness from one seed, so that no statistical test fails by chance."""
    monkeypatch.setattr("secrets.token_bytes", np.random.default_rng(7).bytes)


def views(monkeypatch, x):
    """Return all that each party receives, and all that is opened, as bytes."""
    seen = defaultdict(bytearray)
    lock = threading.Lock()
    exchange = Two.exchange

    def watched(self, *shares):
        its = exchange(self, *shares)
        with lock:
            for own, other in zip(shares, its, strict=True):
                seen["received", self.role] += other.tobytes()
                seen["opened", self.role] += (own + other).tobytes()
        return its

    monkeypatch.setattr(Two, "exchange", watched)
    local = Local()

    def first(engine):
        return engine.weight(engine.input("model", W.shape, np.full(W.shape, x)))

    models = local.do((first,) * 3, Owner().inputs(first))
    both = sides(everything, models)
    (ready,) = local.prepare([both])
    for role in (0, 1):
        seen["tape", role] += ready.tapes[role].getvalue()[HEADER.size :]
    local.play(both, ready, {"client": [encode(np.full((64, 3), x))]})
    return {name: np.frombuffer(bytes(data), np.uint8) for name, data in seen.items()}


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize("x", [0.0, -1.0, 1.5])
def test_what_a_party_sees_is_uniform(monkeypatch, x):
    for name, data in views(monkeypatch, x).items():
        assert data.size >= 2048, name
        counts = np.bincount(data, minlength=256)
        chi = ((counts - data.size / 256) ** 2).sum() / (data.size / 256)
        assert abs(chi - 255) < 5 * (2 * 255) ** 0.5, name
        words = data[: data.size // 8 * 8].reshape(-1, 8)
        bits = np.unpackbits(words, axis=1).mean(0)
        assert abs(bits - 0.5).max() < 5 * 0.5 / len(words) ** 0.5, name
