"""The field against Python's own integers."""

import numpy as np
import pytest

from mitai.proof import field
from mitai.proof.field import K, P

EDGES = [0, 1, 2, P - 1, P - 2, (1 << 32) - 1, 1 << 32, (1 << 32) + 1, P >> 1, (P >> 1) + 1, 1 << 63]


def words(*shape):
    rng = np.random.default_rng(3)
    return np.where(
        rng.random(shape) < 0.4, rng.choice(np.array(EDGES, np.uint64), shape), rng.integers(0, P, shape, np.uint64)
    )


def test_the_field_is_what_is_claimed():
    assert pow(7, (P - 1) // 2, P) == P - 1  # 7 is no square
    assert all(pow(7, (P - 1) // q, P) != 1 for q in (2, 3, 5, 17, 257, 65537))  # and generates the group
    assert P - 1 == 2**32 * 3 * 5 * 17 * 257 * 65537


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(field.add, lambda a, b: a + b), (field.sub, lambda a, b: a - b), (field.mul, lambda a, b: a * b)],
)
def test_arithmetic(ours, theirs):
    x, y = words(4000), words(4000)[::-1]
    assert ours(x, y).tolist() == [theirs(a, b) % P for a, b in zip(x.tolist(), y.tolist(), strict=True)]


def test_any_words_are_reduced():
    rng = np.random.default_rng(5)
    high, low = (
        np.where(rng.random(4000) < 0.5, edge, rng.integers(0, 2**64 - 1, 4000, np.uint64, endpoint=True))
        for edge in (np.uint64(2**64 - 1), np.uint64(0))
    )
    assert field.reduce(high, low).tolist() == [
        (a << 64 | b) % P for a, b in zip(high.tolist(), low.tolist(), strict=True)
    ]


def test_the_extension():
    x, y = words(500, 2), words(500, 2)[::-1]
    products = [a * b for a, b in zip(field.elements(x), field.elements(y), strict=True)]
    assert field.elements(field.mul_k(x, y)) == products
    assert products[9] == K(
        (x[9, 0].item() * y[9, 0].item() + 7 * x[9, 1].item() * y[9, 1].item()) % P,
        (x[9, 0].item() * y[9, 1].item() + x[9, 1].item() * y[9, 0].item()) % P,
    )
    assert all(a * a.inverse() == K(1) for a in field.elements(x) if a != K(0))
    assert K(0).inverse() == K(0)
    assert (K(3, 4) - K(5, 6)) + K(5, 6) == K(3, 4)


def test_integers():
    x = np.array([0, 1, -1, 2**62, -(2**62)])
    assert field.values(field.signed(x)).tolist() == x.tolist()
    assert field.signed(x).tolist() == [value % P for value in x.tolist()]


def test_sums():
    x = words(3000, 2)
    assert field.total(x).tolist() == [sum(column) % P for column in x.T.tolist()]


def test_sums_by_place():
    x, places = words(300, 2), np.random.default_rng(1).integers(0, 5, 300)
    expected = [field.total(x[places == place]).tolist() for place in range(8)]
    assert field.total_at(places, x, 8).tolist() == expected


def test_multilinear_extensions():
    table, point = words(16), field.elements(words(4, 2))
    for number in range(16):
        assert field.evaluate(table, field.bits(number, 4)) == K(table[number].item())
    bound = field.evaluate(field.lift(table), point)
    assert field.evaluate(table, point) == bound
    assert field.elements(field.equality(point)) == [field.equal(point, field.bits(number, 4)) for number in range(16)]


def test_codes_are_values_of_polynomials():
    coefficients = words(8, 3)
    code = field.encode(coefficients)
    for leaf, row in enumerate(code.tolist()):
        coset, place = divmod(leaf, 8)
        reversed_place = int(f"{place:03b}"[::-1], 2)
        at = pow(field.generator(5), coset, P) * pow(field.generator(3), reversed_place, P) % P
        for column, value in enumerate(row):
            assert value == sum(c * pow(at, k, P) for k, c in enumerate(coefficients[:, column].tolist())) % P
    assert field.encode(coefficients[:1]).tolist() == [coefficients[0].tolist()] * 4
