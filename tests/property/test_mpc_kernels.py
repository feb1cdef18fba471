"""All paths of the kernels give the same bits: those that numpy's own arithmetic gives."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mitai.mpc import kernels, portable

LARGEST = (1 << 64) - 1
each_path = pytest.mark.parametrize("path", kernels.PATHS)
few = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(autouse=True)
def _path(request, monkeypatch):
    if "path" in request.fixturenames:
        monkeypatch.setattr(kernels, "PATH", request.getfixturevalue("path"))


def words(rng, shape, dtype=np.uint64):
    """Random words, with extremes among them."""
    top = np.iinfo(dtype).max
    x = rng.integers(0, top, shape, dtype, endpoint=True)
    extremes = rng.choice(np.array([0, 1, top, top >> 1, (top >> 1) + 1], dtype), shape)
    return np.where(rng.random(shape) < 0.3, extremes, x)


def strange(rng, x):
    """The same values in memory in another order, or not adjacent, or not aligned."""
    match rng.integers(6):
        case 0:
            return np.ascontiguousarray(x.swapaxes(-1, -2)).swapaxes(-1, -2)
        case 1:
            return np.repeat(np.repeat(x, 2, axis=-1), 3, axis=-2)[..., ::3, ::2]
        case 2:
            return np.ascontiguousarray(x[..., ::-1, ::-1])[..., ::-1, ::-1]
        case 3:
            return np.frombuffer(b"\0" + x.tobytes(), x.dtype, offset=1).reshape(x.shape) if x.size else x
        case 4:
            x.flags.writeable = False
    return x


@each_path
@few
@given(
    seed=st.integers(0, 1 << 32),
    rows=st.integers(0, 40),
    inner=st.integers(0, 70) | st.integers(250, 530),
    columns=st.integers(0, 110),
    stacks=st.sampled_from([((), ()), ((2,), ()), ((), (2,)), ((2, 1), (1, 3)), ((0,), (1,)), ((2,), (2,))]),
    dtype=st.sampled_from([np.uint64, np.uint32]),
    threads=st.sampled_from([1, 1, 2, 5]),
)
def test_products(path, seed, rows, inner, columns, stacks, dtype, threads):
    rng = np.random.default_rng(seed)
    a = strange(rng, words(rng, (*stacks[0], rows, inner), dtype))
    b = strange(rng, words(rng, (*stacks[1], inner, columns), dtype))
    expected = a @ b
    out = np.full(expected.shape, 7, dtype)
    assert kernels.matmul(a, b, out, threads=threads) is out
    np.testing.assert_array_equal(out, expected)
    if b.ndim == 2:
        np.testing.assert_array_equal(kernels.matmul(a, kernels.pack(b), threads=threads), expected)


@each_path
@pytest.mark.parametrize("dtype", [np.uint64, np.uint32])
def test_long_products_of_largest_words(path, dtype):
    """An inner dimension beyond what 32 bits hold of products of bytes."""
    inner, top = 9_000, int(np.iinfo(dtype).max)
    for rows in (1, 5):
        product = kernels.matmul(np.full((rows, inner), top, dtype), np.full((inner, 33), top, dtype))
        assert (product == inner * top * top % (top + 1)).all()


@each_path
@few
@given(seed=st.integers(0, 1 << 32), n=st.integers(0, 200), bits=st.integers(0, 8))
def test_one_hot_vectors(path, seed, n, bits):
    size = 1 << bits
    r = np.random.default_rng(seed).integers(0, size, n, np.uint64)
    hot = kernels.one_hot(r, bits)
    assert hot.shape == (n, max(1, size // 64))
    assert all(
        sum(int(word) << 64 * q for q, word in enumerate(row)) == 1 << int(i) for row, i in zip(hot, r, strict=True)
    )


@each_path
@few
@given(
    seed=st.integers(0, 1 << 32),
    n=st.integers(0, 70) | st.sampled_from([512, 1025]),
    sums=st.lists(st.lists(st.lists(st.integers(0, 6), max_size=4), max_size=5), max_size=5),
)
def test_sums_of_products_of_bits(path, seed, n, sums):
    planes = strange(rng := np.random.default_rng(seed), words(rng, (7, n), np.uint8))
    made = kernels.sum_products(planes, kernels.Sums.of(sums))
    assert made.shape == (len(sums), n)
    for one, terms in zip(made, sums, strict=True):
        products = [np.bitwise_and.reduce([np.full(n, 0xFF, np.uint8), *planes[term]], axis=0) for term in terms]
        np.testing.assert_array_equal(one, np.bitwise_xor.reduce([np.zeros(n, np.uint8), *products], axis=0))


@each_path
@few
@given(seed=st.integers(0, 1 << 32), n=st.integers(0, 40) | st.sampled_from([512, 1300]), count=st.integers(0, 16))
def test_waves(path, seed, n, count):
    rng = np.random.default_rng(seed)
    turns, factors = rng.integers(0, 1 << 32, n, np.uint32), words(rng, (2 * count, n))
    circle = np.stack([turned(16.0 ** -(1 + level) * np.arange(16)) for level in range(2)])
    total = words(rng, n)
    expected = total.copy()
    portable.add_waves(expected, turns, circle, 2.0**22, factors)
    kernels.add_waves(total, turns, circle, 2.0**22, factors)
    np.testing.assert_array_equal(total, expected)
    a, b = rng.normal(scale=2.0**40, size=(2, count))
    made = kernels.turn_waves(turns, a, b)
    np.testing.assert_array_equal(made, portable.turn_waves(turns, a, b))
    angles = np.multiply.outer(np.arange(1, count + 1), turns / 2.0**32 * 2 * np.pi)
    np.testing.assert_allclose(
        made[::2].view(np.int64), a[:, None] * np.cos(angles) - b[:, None] * np.sin(angles), atol=2.0**5
    )


def turned(turns):
    """Cosines and sines of angles in turns."""
    return np.stack([np.cos(2 * np.pi * turns), np.sin(2 * np.pi * turns)])


@given(key=st.binary(min_size=16, max_size=16), stream=st.integers(0, LARGEST), offset=st.integers(0, LARGEST - 200))
def test_random_words_anywhere(key, stream, offset):
    whole = kernels.prg(key, stream, offset, 200)
    np.testing.assert_array_equal(kernels.prg(key, stream, offset + 77, 123), whole[77:])
