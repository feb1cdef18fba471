"""Programs of one's own, and sums without a dealer: results, what a party sees, and where it ends."""

from __future__ import annotations

import doctest
import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mitai.errors import MpcError
from mitai.mpc import program
from mitai.mpc.additive import AdditiveEngine
from mitai.mpc.clear import ClearEngine
from mitai.mpc.link import pair
from mitai.mpc.program import Party, less, maximum, mean, minimum, run, total, where

FRIENDS = ("alice", "bob", "carol")


def among_friends(program, **own):
    """Run a program by parties who add up without a dealer; return what each returns."""
    links = {name: {} for name in own}
    for one, other in itertools.combinations(own, 2):
        links[one][other], links[other][one] = pair(10)
    with ThreadPoolExecutor(len(own)) as pool:
        results = [pool.submit(program, Party(AdditiveEngine(name, links[name]), {name: own[name]})) for name in own]
    return [result.result() for result in results]


def summed(party):
    return party.reveal(total([party.secret(friend, (2,)) for friend in FRIENDS]))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(st.integers(-(2**40), 2**40), min_size=2, max_size=2), min_size=3, max_size=3))
def test_sums_are_exact(numbers):
    expected = np.sum(numbers, axis=0)
    for found in among_friends(summed, **dict(zip(FRIENDS, numbers, strict=True))):
        assert (found == expected).all()


def test_public_numbers_are_added_once():
    def play(party):
        x = party.secret("bob")
        return party.reveal_number(2.5 - x + party.engine.constant(1.0, (1,)) + x.times(3))

    assert among_friends(play, alice=0, bob=4.0, carol=0) == [11.5] * 3


def test_products_need_a_dealer():
    with pytest.raises(MpcError) as caught:
        among_friends(lambda party: party.secret("alice") * party.secret("bob"), alice=1, bob=2)
    assert caught.value.code == "mpc.needs-dealer"


def test_what_two_friends_see_is_uniform_whatever_the_third_has():
    """The shares that leave a party, as one long row of bits: as many ones as zeros, for each bit, up to chance."""
    n = 4000
    for number in (0.0, 123456.0):
        (to_bob, bob), (to_carol, carol) = pair(), pair()
        AdditiveEngine("alice", {"bob": to_bob, "carol": to_carol}).input("alice", (n,), np.full(n, number))
        for link in (bob, carol):
            bits = np.unpackbits(np.frombuffer(link.receive(8 * n), np.uint8).reshape(n, 8), axis=1)
            assert np.abs(bits.mean(0) - 0.5).max() < 8 * 0.5 / n**0.5  # eight standard deviations


def test_all_that_is_sent_adds_up_to_the_number_only_with_the_share_that_stays():
    (to_bob, bob), (to_carol, carol) = pair(), pair()
    own = AdditiveEngine("alice", {"bob": to_bob, "carol": to_carol}).input("alice", (1,), np.float64(5), fraction=0)
    sent = [int(np.frombuffer(link.receive(8), np.uint64)[0]) for link in (bob, carol)]
    assert (sum(sent) + int(own.parts[0][0])) % 2**64 == 5


@pytest.mark.parametrize("given", [[1.0], 5.0, [1.0, float("nan")], [0.0, float("inf")]])
def test_an_owner_gives_finite_numbers_of_the_shape(given):
    party = Party(ClearEngine(), {"alice": given})
    with pytest.raises(ValueError, match="alice"):
        party.secret("alice", (2,))


def test_a_party_is_not_shown_with_its_numbers():
    assert "52000" not in repr(Party(ClearEngine(), {"alice": 52000}))


NUMBERS = np.random.default_rng(1).uniform(-100, 100, (4, 7))


@pytest.mark.parametrize(
    ("function", "expected", "tolerance"),
    [(maximum, np.max, 1e-3), (minimum, np.min, 1e-3), (mean, np.mean, 1e-2)],
)
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_functions_of_many_numbers(function, expected, tolerance, axis):
    found = run(lambda party: party.reveal(function(party.secret("x", NUMBERS.shape), axis)), x=NUMBERS)
    assert np.abs(found - expected(NUMBERS, axis=axis)).max() < tolerance


def test_choosing():
    def program(party):
        x = party.secret("x", NUMBERS.shape)
        return party.reveal(where(less(x, 10.0), x, x.times(2)))

    assert np.abs(run(program, x=NUMBERS) - np.where(NUMBERS < 10, NUMBERS, 2 * NUMBERS)).max() < 1e-3


def test_the_example():
    assert doctest.testmod(program).failed == 0
