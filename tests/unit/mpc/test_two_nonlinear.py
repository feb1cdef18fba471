"""Bits, comparison, splines and bounds of the setting 2+1, against plain numbers."""

import hashlib
import itertools
import math
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mitai.mpc import nonlinear
from mitai.mpc.clear import ClearEngine
from mitai.mpc.engine import Secret
from mitai.mpc.link import pair
from mitai.mpc.ring import WINDOW_BITS, encode
from mitai.mpc.spline import Octaves, Spline
from mitai.mpc.two import bits, ladders, pieces, splines, waves
from mitai.mpc.two.bits import unpack
from mitai.mpc.two.compare import chain
from mitai.mpc.two.core import Two
from mitai.mpc.two.engine import Dealer, Party
from mitai.mpc.two.local import Local, run
from mitai.mpc.two.masked import Opened
from mitai.mpc.two.tape import HEADER

END = 1 << (WINDOW_BITS - 1)
REACH = (-524.0, 0.0)  # of what softmax takes powers of
seeds = st.integers(0, 1 << 32)


def computed(operation, *arrays):
    """What an operation on these numbers gives, by both parties' word."""

    def program(engine):
        result = operation(engine, *(engine.input("client", array.shape, array) for array in arrays))
        assert result.shape == ClearEngine.constant(ClearEngine(), np.zeros(result.shape)).shape
        return engine.reveal(result)

    first, second = run(program).results
    assert (first == second).all()
    return first


def cost(operation, shape):
    """Return rounds, bytes that a party sends and bytes that the dealer sends party 1, for an operation by itself."""
    local = Local()

    def program(engine):
        operation(engine, engine.input("client", shape))

    (ready,) = local.prepare([(program,) * 3])
    local.play((program,) * 3, ready, {"client": [np.zeros(shape, np.uint64)]})
    agreement = 48  # bytes, and a round, before each run
    return local.cost.rounds[0] - 1, local.cost.sent_bytes[0] - agreement, ready.plan.corrections


# --- bits ---


def xored(operation, *shares):
    """Put together what an operation on bits gives to each party from its own share."""
    program = lambda engine: operation(engine, *(pair[engine.role % 2] for pair in shares))  # noqa: E731
    first, second, blank = Local().do((program,) * 3)
    assert blank.shape == first.shape
    return first, second


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.lists(st.sets(st.integers(0, 4), min_size=2), min_size=1, max_size=4), min_size=1, max_size=3), seeds
)
def test_sums_of_products(sums, seed):
    rng = np.random.default_rng(seed)
    shares = rng.integers(0, 256, (2, 5, 3), np.uint8)
    plain = shares[0] ^ shares[1]
    terms = [[tuple(sorted(term)) for term in total] for total in sums]
    first, second = xored(lambda engine, planes: bits.add_products(engine, planes, terms), shares)
    for got, total in zip(first ^ second, terms, strict=True):
        products = [np.bitwise_and.reduce(plain[list(term)], axis=0) for term in total]
        assert (got == np.bitwise_xor.reduce(products, axis=0)).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint64])
@pytest.mark.parametrize("n", [1, 8, 13])
def test_bits_become_numbers(dtype, n):
    rng = np.random.default_rng(n)
    shares = rng.integers(0, 256, (2, 3, -(-n // 8)), np.uint8)
    first, second = xored(lambda engine, planes: bits.to_ring(engine, planes, n, dtype), shares)
    assert first.dtype == dtype
    assert (first + second == bits.unpack(shares[0] ^ shares[1], n)).all()


def test_the_borrow_of_digits():
    rng = np.random.default_rng(2)
    for digits in (1, 2, 3, 5):
        c, r = rng.integers(0, 3, (2, 500, digits))
        planes = np.concatenate([c[:, :-1] == r[:, :-1], r[:, 1:] > c[:, 1:]], axis=1)
        borrow = r[:, 0] > c[:, 0]
        for term in chain(digits):
            borrow ^= planes[:, list(term)].all(axis=1)
        places = 3 ** np.arange(digits)[::-1]
        assert (borrow == (r @ places > c @ places)).all()


# --- less ---


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(-END, END - 1), st.integers(-3, 3)), min_size=1, max_size=20))
def test_less_is_exact(pairs):
    x = np.array([one for one, _ in pairs])
    y = np.clip(x + np.array([other for _, other in pairs]), -END, END - 1)
    got = computed(lambda engine, a, b: engine.less(a, b), x / 65536, y / 65536)
    assert (got == (x < y)).all()


def test_less_at_the_ends_of_the_window():
    near = [0, 1, 2, 63, 64, 65, 4095, 4096, 1 << 24, END - 64, END - 2, END - 1]
    x = np.array([sign * v for v in near for sign in (1, -1)] + [-END] + [1 << k for k in range(30)]) / 65536
    repeated = np.tile(x, 40)
    assert (computed(lambda engine, a: engine.less(a, 0.0), repeated) == (repeated < 0)).all()


def test_less_broadcasts():
    x, y = np.arange(6.0).reshape(2, 3), np.array([1.0, 1.0, 4.0])
    assert (computed(lambda engine, a, b: engine.less(a, b), x, y) == (x < y)).all()
    assert (computed(lambda engine, a: engine.select(engine.less(a, 2.5), a, -a), x) == np.where(x < 2.5, x, -x)).all()


# --- ladders ---


@settings(max_examples=20, deadline=None)
@given(st.integers(6, 12), st.integers(12, 31), st.lists(st.integers(-END, END - 1), min_size=1, max_size=3), seeds)
def test_digits_of_a_mask_are_compared_with_public_ones(bits, top, bounds, seed):
    rng = np.random.default_rng(seed)
    x = rng.integers(-END, END - 1, 203)
    seen = {}

    def program(engine):
        opened = Opened.of(engine, engine.input("client", x.shape).parts[0])
        planes = ladders.read(opened, tuple(bounds), top=top, bits=bits)
        if not engine.offline:
            seen[engine.role] = opened.c, opened.halves[0], unpack(planes, x.size)

    Local().do((program,) * 3, {"client": [encode(x / 65536)]})
    (c, mine, one), (_, its, other) = seen[0], seen[1]
    digit = lambda number: number >> np.uint32(top - bits) & np.uint32((1 << bits) - 1)  # noqa: E731
    public, r = c - np.array(bounds)[:, None].astype(np.uint32), mine + its
    wanted = digit(r) > digit(public), digit(r) == digit(public), (r ^ public) >> np.uint32(top) & np.uint32(1)
    assert (one ^ other == np.stack(wanted)).all()


@pytest.mark.parametrize("at_once", [1 << 16, 1 << 6])
def test_a_narrow_range_takes_no_round_to_compare(at_once, monkeypatch):
    monkeypatch.setattr(ladders, "WORDS_AT_ONCE", at_once)
    table = nonlinear.exp_table(6)
    plan = pieces.pieces_of(table, REACH)
    assert (plan.digits.count, len(plan.pieces)) == (1, 2)
    x = np.concatenate(
        [np.linspace(-524, 0, 5001), np.linspace(-15, 0, 5001), [-524.0, 0.0, -12.5, -13.5, -(2.0**-16)]]
    )
    got = computed(lambda engine, a: engine.spline(a, table, REACH), x)
    assert np.abs(got - np.exp(x) * 64).max() < 64 * 2e-5
    assert (got[x < -13.5] == 0).all()


@pytest.mark.parametrize("within", [(-3000.0, 0.0), (-20.0, 0.0), (-9.0, 200.0)])
def test_other_ranges_cost_what_they_did(within):
    table = nonlinear.exp_table(6)
    assert pieces.pieces_of(table, within).digits == pieces.COARSE
    x = np.linspace(*within, 2001)
    x = x[(x <= 0) | (x > 0.125)]  # where either formula may be taken
    got = computed(lambda engine, a: engine.spline(a, table, within), x)
    assert np.abs(got - np.exp(np.minimum(x, 0)) * 64).max() < 64 * 2e-5


# --- waves ---


def test_public_waves_are_the_same_everywhere():
    tables = waves.circle()
    assert np.abs(tables[0][0] - np.cos(np.arange(2048) * 2 * np.pi / 2048)).max() < 1e-14
    assert np.abs(tables[1][1] - np.sin(np.arange(2048) * 2 * np.pi / 2**22)).max() < 1e-15
    digest = hashlib.sha256(tables.astype("<f8").tobytes()).hexdigest()
    assert digest == "0dc3eac73ef6aab8c33f7f06b242ed53b217fff8277fdacb0de25304ba1cebda"


@pytest.mark.parametrize("period_bits", [17, 22, 25])
def test_waves_of_a_masked_number(period_bits):
    rng = np.random.default_rng(period_bits)
    wave = waves.Wave(period_bits, -0.5, rng.normal(size=5), rng.normal(size=5))
    x = rng.integers(-END, END, 20_000)
    r = rng.integers(0, 1 << 32, x.size, np.uint32)
    c = x.astype(np.uint32) + r
    half = rng.integers(0, 1 << 64, (10, x.size), np.uint64)
    other = waves.dealt([wave], r[None]) - half
    total = waves.combine([wave], c[None], half, first=True) + waves.combine([wave], c[None], other, first=False)
    error = np.abs(total.view(np.int64) / 2.0**waves.FRACTION - wave(x / 65536))
    assert error.max() < 5e-5  # an angle has 22 bits


def test_fits_are_near():
    for function, low, high in ((np.tanh, -4, 4), (np.exp, -16, 0.125), (lambda x: 1 / x, 0.9, 2.1)):
        wave = waves.fit(function, low, high)
        x = np.linspace(low, high, 3001)
        assert np.abs(wave(x) - function(x)).max() < 2**-13
    assert waves.fit(np.sign, -1, 1) is None
    assert waves.fit(np.sqrt, -1, 1) is None


# --- splines ---


def gelu(x):
    return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


def around(table, n=400):
    """Numbers in the segments, near all borders, and anywhere in the window."""
    borders = table.low + table.step * np.arange(table.segments + 1)
    near = [border + off / 65536 for border in borders for off in (-3, -2, -1, 0, 1)]
    rng = np.random.default_rng(3)
    inner, outer = rng.uniform(table.low, table.high, n), rng.uniform(-END, END - 1, n) / 65536
    ends = [-END / 65536, (END - 1) / 65536, 0.0]
    return np.rint(np.concatenate([inner, outer, near, ends]) * 65536) / 65536


def test_gelu_is_near_everywhere():
    x = np.concatenate([around(nonlinear.GELU), np.linspace(-6, 6, 20_000)])
    got = computed(lambda engine, a: engine.spline(a, nonlinear.GELU), x)
    assert np.abs(got - gelu(np.clip(x, -30, None))).max() < 2e-4


@pytest.mark.parametrize("table", [nonlinear.SILU, nonlinear.TANH])
def test_tables_of_models(table):
    x = around(table)
    got = computed(lambda engine, a: engine.spline(a, table), x)
    assert np.abs(got - table(x)).max() < 1e-4


def test_a_table_with_jumps_is_exact_at_its_borders():
    rng = np.random.default_rng(4)
    table = Spline(-2.0, 0.5, rng.normal(size=(8, 3)), (3.0, -1.0), (-7.0, 2.0))
    x = around(table)
    got = computed(lambda engine, a: engine.spline(a, table), x)
    either = [np.abs(got - table(x + off / 65536)) for off in (0, 1, 2)]  # a number just below may count as above
    inside = np.abs(x) < 8000  # where the line's value is in the window, too
    assert np.minimum.reduce(either)[inside].max() < 2e-4
    assert len(pieces.pieces_of(table).pieces) == 10


def test_a_table_is_bent_only_where_it_is_not_a_line():
    for table, low, high in ((nonlinear.SILU, -12.5, 12.5), (nonlinear.TANH, -5.25, 5.25), (nonlinear.GELU, -4, 4)):
        first, last = pieces.pieces_of(table).borders
        assert low * 65536 <= first < (low + 0.5) * 65536
        assert (high - 0.4) * 65536 < last <= (high + 0.125) * 65536
    straight = Spline(0.0, 1.0, np.array([[1.0, 2.0], [3.0, 2.0]]), (1.0, 2.0), (1.0, 2.0))
    assert len(pieces.pieces_of(straight).pieces) == 3


def test_tables_that_cannot_be_computed():
    with pytest.raises(ValueError, match="slope"):
        pieces.pieces_of(Spline(0.0, 1.0, np.zeros((1, 1)), (0.0, 0.1), (0.0, 0.0)))
    steep = Spline(0.0, 1.0, np.array([[0.0] * 300 + [1e6]]), (0.0, 0.0), (0.0, 0.0))
    with pytest.raises(ValueError, match="rises and falls"):
        pieces.pieces_of(steep)


@pytest.mark.parametrize("part", [1, 7, 400])
def test_parts_of_numbers_are_as_good_as_all(part, monkeypatch):
    monkeypatch.setattr(splines, "PART", part)
    x = around(nonlinear.SILU, 30)
    assert np.abs(computed(lambda engine, x: engine.spline(x, nonlinear.SILU), x) - nonlinear.SILU(x)).max() < 2**-10
    octaves, y = Octaves(-1.0, 1.0, -4, 7, 20), np.geomspace(0.3, 60, 9)
    assert np.allclose(computed(lambda engine, y: engine.octaves(y, octaves), y), 1 / y, rtol=2**-9)


def test_sides_that_fit_differently_have_different_plans():
    def digest(side, wave):
        plan = pieces.Pieces((0,), (pieces.Piece(wave), pieces.Piece(pieces.Line(0, 0))), pieces.COARSE)
        program = lambda engine: splines.evaluated(engine, plan, engine.input("client", (3,)))  # noqa: E731
        return side.plan(program)[0].digest

    zeros = np.zeros(5)
    wave, other = waves.Wave(20, 0.0, zeros, zeros), waves.Wave(21, 0.0, zeros, zeros)
    assert digest(Dealer(), wave) == digest(Party(0, pair()[0]), waves.Wave(20, 0.0, zeros + 1e-9, zeros))
    assert digest(Dealer(), wave) != digest(Party(0, pair()[0]), other)


def test_any_shape():
    x = np.linspace(-3, 3, 24).reshape(2, 3, 4)
    got = computed(lambda engine, a: engine.spline(a.transpose(2, 0, 1), nonlinear.TANH), x)
    assert np.abs(got - np.tanh(x.transpose(2, 0, 1))).max() < 1e-4


# --- octaves ---


@pytest.mark.parametrize(
    ("table", "fraction"),
    [
        (Octaves(-1.0, 1.0, -6, 13, 32), 16),
        (Octaves(-1.0, 3.0, 0, 1, 20), 16),
        (Octaves(-1.0, 3000.0, 8, 10, 20), 16),
        (Octaves(-0.5, 28.0, 1, 28, 32), 32),
        (Octaves(-0.5, 0.1, -13, 14, 30), 16),
    ],
)
def test_powers_over_many_octaves(table, fraction):
    rng = np.random.default_rng(6)
    ends = 2.0 ** np.arange(table.low, table.high)
    x = np.concatenate([2 ** rng.uniform(table.low - 3, table.high, 1000), ends, ends - 2.0**-fraction, [0.0]])
    x = np.floor(x * 2.0**fraction) / 2.0**fraction

    def program(engine):
        return engine.reveal(engine.octaves(engine.input("client", x.shape, x, fraction), table))

    first, second = run(program).results
    assert (first == second).all()
    off = np.abs(first / table(x) - 1)
    blurred = np.abs(x / 2.0**table.low - 1) < 0.51
    assert off[~blurred].max() < 2**-15
    assert off.max() < 0.5
    assert np.abs(program(ClearEngine()) / table(x) - 1).max() < 2**-15


def test_powers_that_cannot_be_computed():
    for table in (Octaves(-1.0, 1.0, -15, 14, 30), Octaves(-1.0, 1.0, 2, 2, 30)):
        with pytest.raises(ValueError, match="a power from"):
            pieces.octaves_of(table, 16)
    with pytest.raises(ValueError, match="between"):
        pieces.octaves_of(Octaves(-400.0, 1.0, 0, 4, 16), 16)
    four = ClearEngine().constant([4.0])
    with pytest.raises(OverflowError):
        four.engine.octaves(four, Octaves(-1.0, 1.0, 0, 2, 30))


# --- upper ---


def bounded(x):
    got = computed(lambda engine, a: engine.upper(a), x)
    above = got - np.maximum(x, -128).max(-1, keepdims=True)
    assert ((above >= 0) & (above <= 4)).all()


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 5), st.integers(1, 40), st.sampled_from([0.01, 1.0, 30.0, 300.0]), seeds)
def test_upper_is_a_tight_bound(rows, columns, scale, seed):
    bounded(np.clip(np.random.default_rng(seed).normal(0, scale, (rows, columns)), -382, 127.9))


def test_upper_at_its_ends():
    unit = 2.0**-16
    ends = [-382.0, -382 + unit, -256.0, -128 - unit, -128.0, -126 - unit, -126.0, -124.0, 0.0, 126.0, 128 - unit]
    bounded(np.repeat(ends, 60).reshape(-1, 1))
    bounded(np.tile(np.arange(-382, 128, 0.5), 12).reshape(-1, 1))
    bounded(np.array([[a, b] for a, b in itertools.product(ends, ends)]))


@pytest.mark.parametrize("columns", [255, 256, 511, 700])
def test_upper_of_long_rows(columns):
    rng = np.random.default_rng(columns)
    x = rng.normal(0, 5, (4, columns))
    x[1] = 2.5  # all in one bucket, more than a byte can count
    x[2] = -350
    x[3, -1] = 90
    bounded(x)


def test_rows_that_cannot_be_bounded():
    with pytest.raises(ValueError, match="rows of 0"):
        computed(lambda engine, a: engine.upper(a), np.zeros((1, 0)))
    with pytest.raises(ValueError, match="fraction"):
        computed(lambda engine, a: engine.upper(Secret(engine, a.parts, 10)), np.zeros((1, 2)))


# --- softmax ---


@pytest.mark.parametrize(("reach", "edge"), [(128, 127.9), (512, 511.0), (128, 3.0)])
def test_softmax_of_scores_of_which_some_are_hidden(reach, edge):
    """At the ends of what scores may be, and where nothing counts."""
    rng = np.random.default_rng(8)
    scores = rng.uniform(-edge, edge, (60, 9))
    scores[::3] = rng.choice([-edge, -edge + 1, edge - 1, edge], (20, 9))
    away = rng.random(scores.shape) < 0.4
    away[7], away[8] = True, False
    got = computed(
        lambda _, x, units: nonlinear.softmax(x, hidden=nonlinear.read(units, 0), reach=reach), scores, away / 65536
    )
    visible = np.where(away, -np.inf, scores)
    powers = np.exp(visible - visible.max(-1, keepdims=True, initial=-1e9))
    total = powers.sum(-1, keepdims=True)
    assert np.abs(got - powers / np.where(total > 0, total, 1)).max() < 5e-4


# --- cost ---


@pytest.mark.parametrize(
    ("operation", "rounds", "sent", "dealt"),
    [
        (lambda engine, x: engine.less(x, 0.0), 3, 4 + 1 + 1 / 8, 40 + 37 / 8 + 8),
        (lambda engine, x: engine.spline(x, nonlinear.GELU), 3, 4 + 1 + 2 / 8 + 4, 24 + 10 / 8 + 112 + 28 + 20),
        (lambda engine, x: engine.spline(x, nonlinear.TANH), 3, 4 + 1 + 3 / 8 + 4, 24 + 10 / 8 + 224 + 28 + 16),
        (
            lambda engine, x: engine.octaves(x, Octaves(-1.0, 1.0, -6, 13, 29)),
            2,
            4 + 10 * (3 / 8 + 4),
            2 * 512 + 10 * (2 * 7 * 8 + 8 + 7 * 8) + 19 * 7 * 12,
        ),
        (lambda engine, x: engine.upper(x), 3, 4 + 127 / 128 * 9 / 8, 256 + 127 / 128 * 40),
        (lambda engine, x: engine.spline(x, nonlinear.exp_table(6), REACH), 2, 4 + 1 / 8 + 4, 64 + 128 + 28),
    ],
)
def test_cost_an_element(operation, rounds, sent, dealt):
    shape = 64, 128
    n = math.prod(shape)
    assert cost(operation, shape) == (rounds, sent * n, dealt * n)


# --- what is seen ---


@pytest.fixture
def seeded(monkeypatch):
    """All randomness from one seed, so that no statistical test fails by chance."""
    monkeypatch.setattr("secrets.token_bytes", np.random.default_rng(7).bytes)


def views(monkeypatch, operation, x):
    """Return what each party receives and what both make of it, by message and place in it; and party 1's tape."""
    seen = defaultdict(bytes)
    exchange, count = Two.exchange, defaultdict(int)

    def watched(self, *shares):
        its = exchange(self, *shares)
        count[self.role] += 1
        for place, (own, other) in enumerate(zip(shares, its, strict=True)):
            seen["received", self.role, count[self.role], place] = other.tobytes()
            seen["added", self.role, count[self.role], place] = (own + other).tobytes()
            seen["xored", self.role, count[self.role], place] = (own ^ other).tobytes()
        return its

    monkeypatch.setattr(Two, "exchange", watched)
    local = Local()
    program = lambda engine: operation(engine, engine.input("client", x.shape))  # noqa: E731
    (ready,) = local.prepare([(program,) * 3])
    seen["tape"] = ready.tapes[1].getvalue()[HEADER.size :]
    local.play((program,) * 3, ready, {"client": [encode(x)]})
    return seen


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize("value", [0.0, -3.3, 5.0])
@pytest.mark.parametrize(
    "operation",
    [
        lambda engine, x: engine.less(x, 0.0),
        lambda engine, x: engine.spline(x, nonlinear.GELU),
        lambda engine, x: engine.octaves(x[:20], Octaves(-1.0, 1.0, -6, 13, 29)),
        lambda engine, x: engine.upper(x),
        lambda engine, x: engine.spline(x - 9.0, nonlinear.exp_table(6), REACH),
        lambda engine, x: nonlinear.exact(cut := engine.truncate(x + 0.0, 8), cut) * cut,
    ],
)
def test_what_a_party_sees_is_uniform(monkeypatch, operation, value):
    for name, raw in views(monkeypatch, operation, np.full((64, 128), value)).items():
        data = np.frombuffer(raw, np.uint8)
        counts = np.bincount(data, minlength=256)
        chi = ((counts - data.size / 256) ** 2).sum() / (data.size / 256)
        assert data.size >= 1016, name
        assert abs(chi - 255) < 6 * (2 * 255) ** 0.5, name
