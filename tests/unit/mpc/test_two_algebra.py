"""Products and truncation of the setting 2+1, against plain numbers and against the ring itself."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mitai.mpc import kernels
from mitai.mpc.engine import concatenate
from mitai.mpc.ring import WINDOW_BITS
from mitai.mpc.spline import Spline
from mitai.mpc.two import algebra
from mitai.mpc.two.local import Cost, Local, run
from mitai.mpc.two.shares import join

EDGES = np.array([0, 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, (1 << 32) - 1, 1 << 32], np.uint64)
sizes = st.integers(1, 6)
seeds = st.integers(0, 1 << 32)


def ring(rng, *shape):
    """Any ring elements, edges among them."""
    values = rng.integers(0, 1 << 64, shape, np.uint64)
    return np.where(rng.random(shape) < 0.3, rng.choice(EDGES, shape), values)


def exact(program, **inputs):
    """Run a program on whole ring elements, and put its results together."""
    first, second, _ = Local().do((program,) * 3, {owner: list(arrays) for owner, arrays in inputs.items()})
    return [join(a.parts[0], b.parts[0]) for a, b in zip(first, second, strict=True)]


def test_products_are_those_of_plain_numbers():
    rng = np.random.default_rng(1)
    x, w, b = rng.normal(size=(3, 4)), rng.normal(size=(4, 5)), rng.normal(size=5)

    def program(engine):
        secret = engine.input("client", x.shape, x)
        weight = engine.weight(engine.input("model", w.shape, w))
        y = engine.linear(secret, weight, engine.input("model", b.shape, b))
        return [
            engine.reveal(result)
            for result in (y, secret @ secret.swap(), secret * secret, secret * secret[0], y * 0.5 + 1.0, 2.0 - y)
        ]

    expected = [x @ w + b, x @ x.T, x * x, x * x[0], (x @ w + b) * 0.5 + 1, 2 - (x @ w + b)]
    done = run(program)
    for results in done.results:
        for result, plain in zip(results, expected, strict=True):
            assert np.abs(result - plain).max() * 65536 < 8


@settings(max_examples=20, deadline=None)
@given(rows=sizes, inner=sizes, columns=sizes, seed=seeds)
def test_products_are_exact_in_the_ring(rows, inner, columns, seed):
    rng = np.random.default_rng(seed)
    x, y, w = ring(rng, 2, rows, inner), ring(rng, 2, inner, columns), ring(rng, inner, columns)

    def program(engine):
        a, b = engine.input("client", x.shape, None, 0), engine.input("client", y.shape, None, 0)
        weight = engine.weight(engine.input("model", w.shape, None, 0))
        return a @ b, a * a, a * a[:, :, :1], a[..., 0] * a[0, 0, 0], engine.linear(a, weight)

    got = exact(program, client=[x, y], model=[w])
    expected = [kernels.matmul(x, y), x * x, x * x[:, :, :1], x[..., 0] * x[0, 0, 0], kernels.matmul(x, w)]
    for result, plain in zip(got, expected, strict=True):
        assert result.shape == plain.shape
        assert (result == plain).all()


@pytest.mark.parametrize(("block", "fold"), [(1 << 22, 1), (7, 1), (7, 2)])
def test_a_matrix_and_its_transpose_are_opened_once(block, fold, monkeypatch):
    """In the run that opens them, and in later ones, for which products are prepared."""
    monkeypatch.setattr(algebra, "OPENED_WORDS", block)
    rng = np.random.default_rng(6)
    w, x, y = ring(rng, 6, 3), ring(rng, 2, 6 // fold), ring(rng, 2, 3)

    def load(engine):
        return engine.tied(engine.input("model", w.shape, None, 0), fold)

    def products(engine, both):
        a, b = engine.input("client", x.shape, None, 0), engine.input("client", y.shape, None, 0)
        return engine.linear(a, both[0]), engine.linear(b, both[1])

    local, wanted = Local(), (kernels.matmul(x, w.reshape(6 // fold, -1)), kernels.matmul(y, w.T))
    loaded = local.do((load,) * 3, {"model": [w]})
    assert local.cost.sent_bytes == [48 + 8 * w.size] * 2
    later = tuple(lambda engine, both=both: products(engine, both) for both in loaded)
    for programs in (later, (lambda engine: products(engine, load(engine)),) * 3):
        first, second, _ = local.do(programs, {"client": [x, y], "model": [w]})
        for one, other, plain in zip(first, second, wanted, strict=True):
            assert (join(one.parts[0], other.parts[0]) == plain).all()


def test_a_factor_is_opened_once():
    """In however many products it is, as far as it has to be; what its owner has given twice is two factors."""
    rng = np.random.default_rng(3)
    x, y = ring(rng, 5), ring(rng, 5)

    def program(engine):
        a, b, c = (engine.input("client", (5,), None, 0) for _ in range(3))
        e = a * b  # opens both
        f = a.map(lambda part: part) * a  # nothing
        g = e * a + b * e  # e
        h = (a + 0.0) * c  # both
        return e, f, g, h

    local = Local()
    first, second, _ = local.do((program,) * 3, {"client": [x, y, y]})
    expected = x * y, x * x, x * y * (x + y), x * y
    for a, b, plain in zip(first, second, expected, strict=True):
        assert (join(a.parts[0], b.parts[0]) == plain).all()
    assert local.cost.rounds == [4, 4]
    assert local.cost.sent_bytes == [48 + 8 * 5 * 5] * 2


def test_an_opened_factor_stays_the_number_that_it_is():
    """Other numbers in the same array would be opened under the mask of the first ones."""

    def program(engine):
        x = engine.input("client", (2,), np.ones(2))
        engine.multiply(x, x)
        x.parts[0][...] += np.uint64(1)

    with pytest.raises(ValueError, match="read-only"):
        run(program)


def test_a_cache_is_opened_once():
    """Rows that were masked are factors for free, cut and put together, in later runs too."""
    rng = np.random.default_rng(5)
    rows, x = ring(rng, 3, 4), ring(rng, 2, 4)

    def first(engine):
        return engine.masked(engine.input("client", (3, 4), None, 0))

    local = Local()
    caches = local.do((first,) * 3, {"client": [rows]})

    def product(engine, cache):
        new = engine.masked(engine.input("client", (2, 4), None, 0))
        grown = concatenate((cache[1:], new, new[:1].times(0)), 0)
        return new @ grown.swap(), grown.reshape(10, 2) @ grown[:2, :2], (-new + new.times(3)) * new, new + 0.0

    sides = tuple(lambda engine, cache=cache: product(engine, cache) for cache in caches)
    local.cost = Cost()
    results = local.do(sides, {"client": [x]})[:2]
    grown = np.concatenate([rows[1:], x, 0 * x[:1]])
    expected = kernels.matmul(x, grown.T), kernels.matmul(grown.reshape(10, 2), grown[:2, :2]), 2 * x * x, x
    for a, b, plain in zip(*results, expected, strict=True):
        assert (join(a.parts[0], b.parts[0]) == plain).all()
        assert len(a.parts) == 1
    assert local.cost.rounds == [2, 2]  # tapes, the new rows
    assert local.cost.sent_bytes == [48 + 8 * 8] * 2


def test_what_is_masked_is_another_factor_than_before():
    x = np.arange(3, dtype=np.uint64)

    def first(engine):
        plain = engine.input("client", (3,), None, 0)
        return plain, engine.masked(plain)

    local = Local()
    states = local.do((first,) * 3, {"client": [x]})
    done = local.do(tuple(lambda engine, both=both: (both[0] * both[1],) for both in states))
    assert (join(done[0][0].parts[0], done[1][0].parts[0]) == x * x).all()


def test_factors_of_few_and_of_all_bits():
    """Where 48 bits were opened and all are needed, the rest follows."""
    rng = np.random.default_rng(4)
    x = rng.integers(-(1 << 22), 1 << 22, 7).view(np.uint64)

    def program(engine):
        a = engine.input("client", (7,))
        cut = a * a
        whole = a.map(lambda part: part, 0)
        return cut, whole * whole, a * a

    local = Local()
    first, second, _ = local.do((program,) * 3, {"client": [x]})
    one, two, three = (join(a.parts[0], b.parts[0]) for a, b in zip(first, second, strict=True))
    assert (two == x * x).all()
    for result in (one, three):
        assert set((result.view(np.int64) - ((x * x).view(np.int64) >> 16)).tolist()) <= {0, 1}
    assert local.cost.sent_bytes == [48 + (32 + 16) + 32 + 56 + 32] * 2  # tapes, 48 bits, a cut, 64 bits, a cut


@pytest.mark.parametrize("cut", [1, 2, 15, 16, 31, 32])
def test_truncation_is_never_off_by_more_than_a_unit(cut, monkeypatch):
    """At the window's edges and everywhere else; which of two results it is follows from party 0's share alone."""
    rng = np.random.default_rng(cut)
    bound = 1 << (WINDOW_BITS - 1)
    near = np.array([-bound, -bound + 1, -1, 0, 1, bound - 2, bound - 1])[:, None]
    tops = np.concatenate([np.repeat(near, 4000, 1).ravel(), rng.integers(-bound, bound, 60_000)])
    lows = rng.integers(0, 1 << cut, tops.size)
    lows[::3], lows[1::3] = 0, (1 << cut) - 1
    x = (tops << cut) + lows

    share = ring(rng, x.size)
    monkeypatch.setattr("mitai.mpc.two.local.split", lambda values: (share, values - share))

    def program(engine):
        return (engine.truncate(engine.input("client", x.shape, None, 16 + cut)),)

    (got,) = exact(program, client=[x.view(np.uint64)])
    off = got.view(np.int64) - tops
    assert (off == (lows >= (share & np.uint64((1 << cut) - 1)).view(np.int64))).all()
    assert set(np.unique(off)) == {0, 1}


def test_truncations_together():
    """Several cuts take one round; what they have opened is not opened again."""
    x, y = np.array([1.5, -2.0, 3.25]), np.array([[0.5]])
    table = Spline.fit(np.tanh, low=-8, high=8, segments=128, degree=2, below=(-1, 0), above=(1, 0))

    def program(engine):
        a = engine.input("client", (3,), x, 40)
        b = engine.input("client", (1, 1), y, 24)
        cut = engine.truncate_all(a, b)
        return engine.reveal(cut[0]), engine.reveal(cut[1]), engine.reveal(engine.spline(cut[0], table))

    done = run(program)
    for first, second, tanh in done.results:
        assert np.abs(first - x).max() <= 2**-16
        assert np.abs(second - y).max() <= 2**-16
        assert np.abs(tanh - np.tanh(x)).max() < 1e-3
    assert done.cost.rounds == [1 + 1 + 3 + 2] * 2  # tapes, cuts, three results, and two of the three of a table


@settings(max_examples=20, deadline=None)
@given(rows=sizes, columns=sizes, seed=seeds)
def test_products_of_what_a_truncation_has_opened(rows, columns, seed):
    """They are exact, and open the other factor alone; a square, and a product with what was masked, open nothing."""
    rng = np.random.default_rng(seed)
    bound = 1 << (WINDOW_BITS - 1)
    z = rng.integers(-bound, bound, (rows, columns))
    z = np.where(
        rng.random(z.shape) < 0.4, rng.choice([-bound, -bound + 1, -1, 0, 1, bound - 2, bound - 1], z.shape), z
    )
    w, k, v = ring(rng, 3, rows, columns), ring(rng, columns), ring(rng, rows, 1)

    def first(engine):
        return engine.masked(engine.input("model", (columns,), None, 0))

    def program(engine, kept):
        x = engine.input("client", z.shape, None, 16)
        x, wide, narrow = (engine.truncate(x, 0), *(engine.input("client", y.shape, None, 0) for y in (w, v)))
        return x, x * x, kept * x, x * narrow, wide * x

    local = Local()
    kept = local.do((first,) * 3, {"model": [k]})
    local.cost = Cost()
    sides = tuple(lambda engine, one=one: program(engine, one) for one in kept)
    pairs = zip(*local.do(sides, {"client": [(z << 16).view(np.uint64), w, v]})[:2], strict=True)
    x, *products = (join(one.parts[0], other.parts[0]) for one, other in pairs)
    assert set(np.unique(x.view(np.int64) - z)) <= {0, 1}
    for product, plain in zip(products, (x * x, x * k, x * v, w * x), strict=True):
        assert product.shape == plain.shape
        assert (product == plain).all()
    assert local.cost.rounds == [4, 4]  # tapes, the truncation, and two factors that were closed
    assert local.cost.sent_bytes == [48 + -(-4 * z.size // 8) * 8 + 8 * v.size + 8 * w.size] * 2


def test_what_is_open_as_a_factor_is_multiplied_as_one():
    def program(engine):
        x = engine.truncate(engine.input("client", (2, 2), None, 32))
        return x @ x, x * x  # opens x as a factor; the masks' product alone is dealt for the second

    local = Local()
    (ready,) = local.prepare([(program,) * 3])
    assert ready.plan.corrections == 2 * 4 * 4 + (32 + 32) * 2
    local.play((program,) * 3, ready, {"client": [np.zeros((2, 2), np.uint64)]})
    assert local.cost.rounds == [1 + 1 + 2 + 1] * 2


def test_truncation_rounds_without_bias():
    """On average over shares, a number is rounded to itself."""
    x = np.full(1 << 16, 3 << 14, np.uint64)  # 0.75 units

    def program(engine):
        return (engine.truncate(engine.input("client", x.shape, None, 32)),)

    (got,) = exact(program, client=[x])
    assert abs(got.mean() - 0.75) < 0.02  # 12 standard deviations


def test_cuts_that_are_impossible():
    def program(engine, fraction):
        return engine.truncate(engine.input("client", (2,), np.ones(2)), fraction)

    for fraction in (17, -17):
        with pytest.raises(ValueError, match="can't be cut"):
            run(lambda engine, fraction=fraction: program(engine, fraction))
    with pytest.raises(ValueError, match="no product"):
        run(lambda engine: engine.input("client", (2, 3), np.ones((2, 3))) @ engine.constant(1.0, (2, 3)))
    with pytest.raises(ValueError, match="a weight is a matrix"):
        run(lambda engine: engine.weight(engine.constant(1.0, (2, 3, 4))))
