"""Three parties with replicated shares: results, what goes over the wire, and what each sees."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from mitai.errors import MpcError
from mitai.mpc.link import pair
from mitai.mpc.ring import decode, encode
from mitai.mpc.settings import replicate
from mitai.mpc.spline import Spline
from mitai.mpc.three import Three
from mitai.mpc.three_local import connected, run

UNIT = 2.0**-16


def test_products_are_those_of_plain_numbers():
    rng = np.random.default_rng(1)
    x, w, b = rng.normal(size=(2, 3, 4)), rng.normal(size=(4, 5)), rng.normal(size=5)

    def program(engine):
        secret = engine.input("client", x.shape, x)
        weight = engine.weight(engine.input("model", w.shape, w))
        y = engine.linear(secret, weight, engine.input("model", b.shape, b))
        products = y, secret @ secret.swap(), secret * secret[0], y * 0.5 + 1.0, engine.constant(2.5, (2,)) - 1.0
        return [engine.reveal(result) for result in products]

    expected = [x @ w + b, x @ x.swapaxes(1, 2), x * x[0], (x @ w + b) * 0.5 + 1, np.full(2, 1.5)]
    done = run(program)
    for results in done.results:
        for result, plain in zip(results, expected, strict=True):
            assert np.abs(result - plain).max() < 8 * UNIT


def test_a_matrix_and_its_transpose():
    rng = np.random.default_rng(2)
    w, x, y = rng.normal(size=(6, 3)), rng.normal(size=(2, 3)), rng.normal(size=(2, 3))

    def program(engine):
        table, head = engine.tied(engine.input("model", w.shape, w), 2)
        products = zip((x, y), (table, head), strict=True)
        return [engine.reveal(engine.linear(engine.input("client", a.shape, a), weight)) for a, weight in products]

    for rows, columns in run(program).results:
        assert np.abs(rows - x @ w.reshape(3, 6)).max() < 8 * UNIT
        assert np.abs(columns - y @ w.T).max() < 8 * UNIT


def test_the_edges_of_the_window_survive_truncation():
    values = np.array([16383.9, -16383.9, 0, UNIT, -UNIT, 8191.5, -8192])

    def program(engine):
        return engine.reveal(engine.multiply(engine.input("client", (7,), values), engine.constant(1.0, (7,))))

    for _ in range(50):
        assert np.abs(run(program).results[2] - values).max() <= 2 * UNIT


def test_what_is_not_linear():
    x = np.array([[-3.0, 0.25, 2.5, 100.0], [0.0, -90.0, -4.0, 3.9]])
    bend = Spline.fit(np.tanh, low=-4, high=4, segments=16, degree=2, below=(-1, 0), above=(1, 0))

    def program(engine):
        secret = engine.input("client", x.shape, x)
        kept = engine.select(engine.less(secret, 0.0), -secret, secret)
        return [engine.reveal(result) for result in (kept, engine.spline(secret, bend), engine.upper(secret))]

    kept, bent, bound = run(program).results[1]
    assert np.abs(kept - np.abs(x)).max() < 4 * UNIT
    assert np.abs(bent - np.tanh(x)).max() < 1e-3
    largest = x.max(-1, keepdims=True)
    assert (largest <= bound).all()
    assert (bound <= largest + 4).all()


def test_noise_is_drawn_by_the_third():
    parts = run(lambda engine: engine.gumbel((4096,)).parts[0]).results
    noise = decode(sum(parts))
    assert abs(noise.mean() - 0.5772) < 0.2  # ten standard deviations
    assert len(np.unique(noise)) > 4000


def test_a_party_that_knows_the_noise_is_not_told_what_was_chosen_by_it():
    """With both, party 2 would learn of the probabilities."""

    def program(engine):
        return engine.reveal(engine.less(engine.gumbel((2,)), 0.0))

    links = connected(wait_s=0.2)
    for role in range(3):
        with pytest.raises(MpcError) as refused:
            Three(role, links[role]).run(program)
        assert refused.value.code == "mpc.known-noise"
    assert run(lambda engine: engine.reveal(engine.constant(1.0, (1,)))).results[0] == 1  # without noise


def test_a_program_that_is_not_the_planned_one_gives_no_result():
    links = connected(wait_s=5)

    def program(times):
        def doubled(engine):
            x = engine.input("client", (1,))
            for _ in range(times):
                x = x * 2.0
            return x.shape

        return doubled

    def party(role):
        own = Three(role, links[role])
        return own.run(program(2), {"client": [(np.zeros(1, np.uint64),) * 2]}, own.plan(program(1)))

    with ThreadPoolExecutor(3) as pool:
        parties = [pool.submit(party, role) for role in range(3)]
    for party in parties:
        assert isinstance(party.exception(), MpcError)
        assert party.exception().code == "mpc.plan-mismatch"


def test_what_is_sent():
    """A linear layer costs party 2 nothing but its sum, and the others a truncation and new shares."""
    x, w = np.ones((6, 4)), np.ones((4, 10))

    def program(engine):
        weight = engine.weight(engine.input("model", w.shape, w))
        return engine.linear(engine.input("client", x.shape, x), weight).shape

    sent = {ends: traffic.sent_bytes for ends, traffic in run(program).traffic.items()}
    assert sent[0, 1] == sent[1, 0] == 60 * (4 + 8)
    assert sent[2, 1] == 48 + 60 * (8 + 8)  # plan and key; its sum and what the truncation is given
    assert sent[2, 0] == 48
    assert sent[0, 2] == sent[1, 2] == 0


def test_any_two_shares_are_uniform():
    shares = replicate(np.zeros(1 << 14, np.uint64))
    for pair_of_shares in shares:
        for share in pair_of_shares:
            ones = np.unpackbits(share.view(np.uint8)).mean()
            assert abs(ones - 0.5) < 0.01  # ten standard deviations
    assert decode(shares[0][0] + shares[0][1] + shares[1][1]).max() == 0


def test_parties_that_run_different_programs_stop():
    links = connected(wait_s=0.2)

    def program(size):
        return lambda engine: engine.reveal(engine.multiply(*(engine.input("client", (size,)) for _ in range(2))))

    feeds = {"client": [(encode(np.ones(3)),) * 2] * 2}
    third = Three(2, links[2])
    with pytest.raises(MpcError) as lost:
        third.run(program(3), feeds)
    assert lost.value.code == "mpc.link-lost"
    with pytest.raises(MpcError) as refused:
        Three(0, links[0]).run(program(4), {"client": []})
    assert refused.value.code == "mpc.plan-mismatch"


@pytest.mark.parametrize("role", [0, 1, 2])
def test_inputs_that_do_not_fit_are_refused(role):
    links = connected(wait_s=0.2)
    if role < 2:
        other, links[role][2] = pair(0.2)
        told = Three(role, links[role])
        plan, _ = told._side.plan(lambda _: told.input("client", (2,)))
        other.send(plan.digest + bytes(16))
    for feeds, code in (({}, "mpc.input-missing"), ({"client": [(np.zeros(3, np.uint64),) * 2]}, "mpc.input-shape")):
        if role < 2 and code == "mpc.input-shape":
            other.send(plan.digest + bytes(16))
        with pytest.raises(MpcError) as refused:
            Three(role, links[role]).run(lambda engine: engine.input("client", (2,)), feeds)
        assert refused.value.code == code
