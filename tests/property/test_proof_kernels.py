"""All paths of the prover's kernels give the same bits as numpy's, which `tests/unit/proof` compares with integers."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mitai.proof import field, kernels
from mitai.proof.field import K, P

each_path = pytest.mark.parametrize("path", [path for path in kernels.PATHS if path != "python"])
few = settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
logs, seeds, threads = st.integers(1, 9), st.integers(0, 1 << 32), st.integers(1, 3)
EDGES = np.array([0, 1, P - 1, P - 2, 0xFFFFFFFF, 1 << 32, P >> 1], np.uint64)


class Source:
    """Random elements, with extremes among them."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)

    def words(self, *shape):
        x = self.rng.integers(0, P, shape, np.uint64)
        return np.where(self.rng.random(shape) < 0.3, self.rng.choice(EDGES, shape), x)

    def table(self, size):
        x = self.words(size, 2) if self.rng.random() < 0.5 else self.words(size)
        return np.repeat(x, 2, axis=0)[::2] if self.rng.random() < 0.3 else x  # not adjacent

    def element(self):
        return field.elements(self.words(1, 2))[0]

    def point(self, log):
        return [self.element() for _ in range(log)]


def same(monkeypatch, path, count, work):
    """Do it on the path and in numpy, and compare."""
    monkeypatch.setattr(kernels, "THREADS", count)
    results = []
    for one in (path, "python"):
        monkeypatch.setattr(kernels, "PATH", one)
        results.append(work())
    ours, expected = results
    if isinstance(ours, tuple) and isinstance(ours[0], K):
        assert ours == expected
    else:
        for x, y in zip(*((one if isinstance(one, tuple) else (one,)) for one in results), strict=True):
            np.testing.assert_array_equal(x, y)


@each_path
@few
@given(seed=seeds, log=logs, count=threads, pairs=st.integers(1, 3), weighted=st.booleans(), upper=st.booleans())
def test_sums_and_folds(monkeypatch, path, seed, log, count, pairs, weighted, upper):
    source = Source(seed)
    size = 1 << log
    tables = [(source.table(size), source.table(size)) for _ in range(pairs)]
    weights = source.words(size // 2, 2) if weighted else None
    by = source.element()
    same(monkeypatch, path, count, lambda: kernels.half_sums(tables, weights, upper=upper))
    same(monkeypatch, path, count, lambda: kernels.fold(tables[0][0], by))
    same(monkeypatch, path, count, lambda: kernels.halves_sum(tables[0][1]))


@each_path
@few
@given(seed=seeds, log=logs, count=threads)
def test_element_by_element(monkeypatch, path, seed, log, count):
    source = Source(seed)
    size = 1 << log
    a, b, p, q = (source.table(size) for _ in range(4))
    by, constant, point = source.element(), source.element(), source.point(log)
    arrays = [source.words(size) for _ in range(3)]
    same(monkeypatch, path, count, lambda: kernels.add_multiple(a, by, b))
    same(monkeypatch, path, count, lambda: kernels.add_fractions(p, q))
    same(monkeypatch, path, count, lambda: kernels.combine(constant, point[:1] * 3, arrays))
    same(monkeypatch, path, count, lambda: kernels.equality(point))
    same(monkeypatch, path, count, lambda: (kernels.evaluate(arrays[0], point), by))


@each_path
@few
@given(seed=seeds, count=threads, stacks=st.integers(1, 5), inner=st.integers(1, 40), columns=st.integers(1, 200))
def test_contractions(monkeypatch, path, seed, count, stacks, inner, columns):
    source = Source(seed)
    x, weights = source.words(stacks, inner, columns), source.words(inner, 2)
    same(monkeypatch, path, count, lambda: kernels.contract(x, weights))
    same(monkeypatch, path, count, lambda: kernels.contract(x[:, :, :1], weights))
    wide = source.words(stacks, inner, 3, 2)
    same(monkeypatch, path, count, lambda: kernels.contract(wide, weights))
    expected = field.total(field.mul_k(wide, weights[:, None]), axis=1)
    np.testing.assert_array_equal(kernels.contract(wide, weights), expected)


@each_path
@few
@given(seed=seeds, count=threads, log=st.integers(0, 10), rows=st.integers(0, 5))
def test_codes(monkeypatch, path, seed, count, log, rows):
    x = Source(seed).words(1 << log, 1 << rows)
    same(monkeypatch, path, count, lambda: kernels.encode(x))


@each_path
@few
@given(
    seed=seeds,
    count=threads,
    log=st.integers(0, 8),
    rows=st.integers(0, 4),
    first=st.integers(1, 700),
    more=st.integers(0, 300),
)
def test_codes_of_any_number_of_coefficients(monkeypatch, path, seed, count, log, rows, first, more):
    source = Source(seed)
    x, rest = source.words(first, 1 << rows), source.words(more, 1 << rows)
    same(monkeypatch, path, count, lambda: kernels.encode(x, rest, 1 << log))
    same(monkeypatch, path, count, lambda: kernels.encode(x, None, 1 << log))


@each_path
@few
@given(
    seed=seeds,
    count=threads,
    messages=st.integers(1, 130),
    length=st.integers(0, 200),
    prefix=st.binary(min_size=1, max_size=1),
)
def test_hashes(monkeypatch, path, seed, count, messages, length, prefix):
    data = np.random.default_rng(seed).integers(0, 256, (messages, length), np.uint8)
    same(monkeypatch, path, count, lambda: kernels.hashes(prefix, data))


@each_path
def test_large_tables_by_several_threads(monkeypatch, path):
    source = Source(1)
    size = 1 << 17
    a, b = source.words(size, 2), source.words(size)
    by = source.element()
    same(monkeypatch, path, 3, lambda: kernels.fold(a, by))
    same(monkeypatch, path, 3, lambda: kernels.half_sums([(a, b)], a[: size // 2], upper=False))
    same(monkeypatch, path, 3, lambda: kernels.equality(source.point(0) + [by] * 16))
    same(monkeypatch, path, 3, lambda: kernels.encode(b.reshape(-1, 64)))
    same(monkeypatch, path, 3, lambda: kernels.contract(b.reshape(2, 4, -1), a[:4]))


def test_what_does_not_fit_is_refused():
    one, two, wide = np.zeros(1, np.uint64), np.zeros(2, np.uint64), np.zeros((2, 2), np.uint64)
    for call in (
        lambda: kernels.fold(one, K(1)),
        lambda: kernels.fold(np.zeros((2, 3), np.uint64), K(1)),
        lambda: kernels.half_sums([(two, np.zeros(4, np.uint64))], None, upper=False),
        lambda: kernels.half_sums([(two, two)], wide, upper=False),
        lambda: kernels.add_multiple(one, K(1), two),
        lambda: kernels.add_multiple(two, K(1), two, two),
        lambda: kernels.add_fractions(two, one),
        lambda: kernels.combine(K(1), [K(1)], [two, two]),
        lambda: kernels.combine(K(1), [K(1), K(1)], [two, one]),
        lambda: kernels.combine(K(1), [K(1)], [two], wide.T[:, :1]),
        lambda: kernels.contract(two, wide),
        lambda: kernels.encode(np.zeros((3, 2), np.uint64)),
        lambda: kernels.encode(np.zeros((2, 2), np.uint64), np.zeros((1, 4), np.uint64)),
        lambda: kernels.encode(np.zeros((2, 2), np.uint64), None, 3),
        lambda: kernels.halves_sum(one),
        lambda: kernels.hashes(b"", np.zeros((1, 1), np.uint8)),
        lambda: kernels.hashes(b"a", two.reshape(1, 2)),
        lambda: kernels.Hashes(b"a", 1).update(np.zeros((1, 0), np.uint8)),
        lambda: kernels.Hashes(b"a", 1).update(np.zeros((1, 63), np.uint8)),
        lambda: kernels.Hashes(b"a", 2).update(np.zeros((1, 64), np.uint8)),
    ):
        with pytest.raises(ValueError):  # noqa: PT011 - what is wrong differs
            call()


@each_path
@few
@given(seed=seeds, count=threads, n=st.integers(1, 70), blocks=st.lists(st.integers(1, 3), max_size=3))
def test_hashes_in_parts(monkeypatch, path, seed, count, n, blocks):
    rng = np.random.default_rng(seed)
    parts = [rng.integers(0, 256, (n, 64 * each)).astype(np.uint8) for each in blocks]

    def work():
        hashes = kernels.Hashes(b"\x07", n)
        for part in parts:
            hashes.update(part)
        return hashes.digests()

    same(monkeypatch, path, count, work)
    whole = np.concatenate([np.zeros((n, 0), np.uint8), *parts], 1)
    np.testing.assert_array_equal(work(), kernels.hashes(b"\x07", whole))


@each_path
@few
@given(seed=seeds, count=threads, n=st.integers(0, 300))
def test_residues_of_small_integers(monkeypatch, path, seed, count, n):
    rng = np.random.default_rng(seed)
    x = np.concatenate([rng.integers(-(1 << 31), 1 << 31, n), [0, -1, -(1 << 31), (1 << 31) - 1]]).astype(np.int32)
    same(monkeypatch, path, count, lambda: kernels.residues(x[::2]))
    np.testing.assert_array_equal(kernels.residues(x), field.signed(x.astype(np.int64)))
