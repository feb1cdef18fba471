"""Look-ups: entries of the table pass, others do not, whatever the prover says."""

import numpy as np
import pytest

from mitai.errors import ProofError
from mitai.proof import field
from mitai.proof.field import K
from mitai.proof.lookups import Column, count, prove_fractions, prove_lookups
from mitai.proof.transcript import Prover, Verifier
from mitai.proof.verify.lookups import MAX_TABLE, Table, check_fractions, check_lookups, inside, logs
from proof_rig import Recorder

RNG = np.random.default_rng(6)
NUMBERS = np.arange(-5, 6)
TABLE = Table(NUMBERS, NUMBERS**2)
SHAPES = [(3, 5), (2,), (1,), (4, 1, 3)]


def columns(table=TABLE):
    xs = [RNG.integers(-5, 6, shape) for shape in SHAPES]
    return [Column((x, x**2)[: len(table.components)], shape) for x, shape in zip(xs, SHAPES, strict=True)]


@pytest.mark.parametrize("table", [TABLE, Table(NUMBERS), Table(NUMBERS, NUMBERS**2, NUMBERS**3), Table(np.arange(1))])
def test_true_lookups(table):
    width = len(table.components)
    some = [RNG.integers(-5, 6, shape) if table.log else np.zeros(shape, np.int64) for shape in SHAPES]
    of = [Column(tuple(x**k for k in range(1, width + 1)), shape) for x, shape in zip(some, SHAPES, strict=True)]
    counts = count(of, table)
    assert counts.sum() == sum(x.size for x in some)
    prover = Prover()
    expected = prove_lookups(prover, of, table, counts)
    verifier = Verifier(prover.proof)
    claims, of_counts = check_lookups(verifier, SHAPES, table)
    verifier.finish()
    assert (claims, of_counts) == expected
    assert field.evaluate(counts, of_counts.point) == of_counts.value
    for column, each in zip(of, claims, strict=True):
        assert [field.evaluate(array, claim.point) for array, claim in zip(column.arrays, each, strict=True)] == [
            claim.value for claim in each
        ]


def test_whatever_is_changed_is_refused():
    of = columns()
    prover = Recorder()
    claims = prove_lookups(prover, of, TABLE, count(of, TABLE))
    codes = set()
    for at in range(0, len(prover.proof), 8):
        changed = bytearray(prover.proof)
        changed[at] ^= 1
        try:
            said = check_lookups(Verifier(bytes(changed)), SHAPES, TABLE)
        except ProofError as error:
            codes.add(error.code)
        else:  # not refused here: then what is claimed of columns or counts is false
            assert said != claims
            assert not all(map(holds, of, said[0]))
    assert codes == {"proof.fractions-refuted", "proof.lookup-refuted"}


def holds(column, claims):
    return all(field.evaluate(array, one.point) == one.value for array, one in zip(column.arrays, claims, strict=True))


@pytest.mark.parametrize("place", [(0, 0), (2, 4)])
def test_an_entry_that_is_not_in_the_table(place):
    of = columns()
    counts = count(of, TABLE)
    x = of[0].components[0]
    for wrong in (x**2 + 1, np.where(x == x[place], 7, x**2)):
        y = x**2
        y[place] = wrong[place]
        false = [Column((x, y), SHAPES[0]), *of[1:]]
        with pytest.raises(ProofError) as caught:
            count(false, TABLE)
        assert caught.value.code == "proof.not-in-table"
        prover = Prover()
        prove_lookups(prover, false, TABLE, counts)
        with pytest.raises(ProofError, match="not in the table"):
            check_lookups(Verifier(prover.proof), SHAPES, TABLE)


def test_counts_count():
    of = columns()
    counts = count(of, TABLE)
    for place in range(len(counts)):
        counts[place] += np.uint64(1)
        prover = Prover()
        prove_lookups(prover, of, TABLE, counts)
        with pytest.raises(ProofError, match="not in the table"):
            check_lookups(Verifier(prover.proof), SHAPES, TABLE)
        counts[place] -= np.uint64(1)


def test_another_table_or_shape_is_refused():
    of = columns()
    prover = Prover()
    prove_lookups(prover, of, TABLE, count(of, TABLE))
    for shapes, table in (
        (SHAPES, Table(NUMBERS, NUMBERS**2 + 1)),
        ([(3, 6), *SHAPES[1:]], TABLE),
        (SHAPES[::-1], TABLE),
    ):
        with pytest.raises(ProofError):
            check_lookups(Verifier(prover.proof), shapes, table)


def test_padding_is_not_looked_up():
    """Zeros around a column need not be in the table, and a prover can't hide an entry among them."""
    table = Table(np.array([3, 4]))
    of = [Column((np.array([3, 4, 4]),), (3,))]
    assert count(of, table).tolist() == [1, 2]
    prover = Prover()
    prove_lookups(prover, of, table, count(of, table))
    check_lookups(Verifier(prover.proof), [(3,)], table)
    prover = Prover()
    prove_lookups(prover, of, table, np.array([2, 2], np.uint64))
    with pytest.raises(ProofError):
        check_lookups(Verifier(prover.proof), [(3,)], table)


def test_a_zero_denominator_is_refused():
    """0/0 would be the sum of anything."""

    class Liar(Prover):
        def send_elements(self, label, *elements):
            super().send_elements(label, *(K(0) if label == "sum" else element for element in elements))

    table = Table(np.array([3]))
    prover = Liar()
    prove_lookups(prover, [Column((np.array([3]),), (1,))], table, np.ones(1, np.uint64))
    with pytest.raises(ProofError):
        check_lookups(Verifier(prover.proof), [(1,)], table)


def test_fractions():
    p, q = (RNG.integers(1, 99, 8, np.uint64) for _ in range(2))
    prover = Prover()
    point = prove_fractions(prover, p, lambda: field.lift(q))
    top, bottom, same, of_p, of_q = check_fractions(Verifier(prover.proof), 3)
    assert (same, of_p, of_q) == (point, field.evaluate(p, point), field.evaluate(q, point))
    from fractions import Fraction

    whole = sum(Fraction(int(a), int(b)) for a, b in zip(p, q, strict=True))
    assert top * K(whole.denominator) == bottom * K(whole.numerator)


@pytest.mark.parametrize("shape", [(1,), (2,), (3, 5), (4, 4), (1, 7, 2)])
def test_inside(shape):
    of = Column((np.zeros(shape, np.int64),), shape)
    size = sum(logs(shape))
    point = [K(int(a), int(b)) for a, b in RNG.integers(0, 1 << 62, (size, 2))]
    assert inside(shape, point) == field.evaluate(of.inside, point)


def test_statements_are_bounded():
    for call in (
        lambda: Table(np.arange(MAX_TABLE + 1)),
        lambda: Table(np.arange(0)),
        lambda: Table(np.array([0, 1, 3])),
        lambda: Table(np.array([1, 0])),
        lambda: Table(np.arange(2), np.zeros(3, np.int64)),
        lambda: Table(np.zeros((2, 2), np.int64)),
        lambda: check_lookups(Verifier(b""), [(0,)], TABLE),
        lambda: check_lookups(Verifier(b""), [], TABLE),
        lambda: check_lookups(Verifier(b""), [(1 << 20, 1 << 20)], TABLE),
    ):
        with pytest.raises(ProofError) as caught:
            call()
        assert caught.value.code == "proof.statement-invalid"


@pytest.mark.parametrize("table", [TABLE, Table(np.arange(-7, 9), np.arange(16) ** 3), Table(np.arange(3, 4))])
def test_tables_at_a_point(table):
    point = [K(int(a), int(b)) for a, b in RNG.integers(0, 1 << 62, (table.log, 2))]
    assert table.evaluate(point) == [field.evaluate(component, point) for component in table.components]
