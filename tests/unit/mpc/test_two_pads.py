"""Randomness: what the three sides draw fits together, is drawn once, and can't be read wrongly."""

import io

import numpy as np
import pytest

from mitai.errors import MpcError
from mitai.mpc import kernels
from mitai.mpc.link import pair
from mitai.mpc.two.batch import CHUNK, Outgoing, pieces
from mitai.mpc.two.blank import Blank, blank
from mitai.mpc.two.pads import AHEAD, DealerPads, MaskedWeight, PlanPads, Stream, TapePads

KEYS = bytes(range(16)), bytes(range(16, 32))
TYPES = (np.uint8, np.uint16, np.uint32, np.uint64)


def draws(pads, seen):
    """A protocol that draws something of every kind and width, and odd lengths."""
    for number, dtype in enumerate(TYPES):
        shape = (3, 5, 7)[: number % 3 + 1]
        values = np.arange(np.prod(shape)).reshape(shape).astype(dtype) * dtype(37)
        seen.append(pads.random(shape, dtype))
        seen.append((pads.given(shape, dtype, lambda values=values: values), values))
        seen.append((pads.given(shape, dtype, lambda values=values: values, xor=True), values))
    pads.product(2, MaskedWeight((3, 4), 16))
    seen.append(pads.random((3,), np.uint64))


def sides():
    plan, seen = PlanPads(), [[], [], [], []]
    draws(plan, seen[3])
    corrections = io.BytesIO()
    draws(DealerPads(KEYS, corrections), seen[2])
    assert len(corrections.getvalue()) == plan.plan().corrections
    for role, data in enumerate((b"", corrections.getvalue())):
        pads = TapePads(role, KEYS[role], np.arange(8, dtype=np.uint64), io.BytesIO(data))
        draws(pads, seen[role])
        pads.end()
    return seen


def test_halves_fit_together():
    first, second, dealer, planned = sides()
    for mine, its, both, blanks in zip(first, second, dealer, planned, strict=True):
        assert mine[0].shape == its[0].shape == both[0].shape == blanks[0].shape
        if len(mine) == 1:
            assert (mine[0] == both[0]).all()
            assert (its[0] == both[1]).all()
    for mine, its in list(zip(first, second, strict=True))[1:-1:3]:
        assert (mine[0] + its[0] == mine[1]).all()
    for mine, its in list(zip(first, second, strict=True))[2:-1:3]:
        assert (mine[0] ^ its[0] == mine[1]).all()


def test_no_word_is_given_twice():
    stream, whole = Stream(KEYS[0], 3), kernels.prg(KEYS[0], 3, 0, 12)
    assert (stream.take((5,), np.uint8) == whole.view(np.uint8)[:5]).all()
    assert (stream.take((1, 3), np.uint32) == whole.view(np.uint32)[2:5]).all()
    stream.skip(4)
    assert (stream.take((5,), np.uint64) == whole[7:12]).all()


def test_words_are_the_streams_however_they_are_drawn():
    stream, whole, at = Stream(KEYS[0], 3), kernels.prg(KEYS[0], 3, 0, 4 * AHEAD), 0
    for n, skipped in ((AHEAD - 1, 0), (1, 0), (0, 5), (7, AHEAD - 9), (AHEAD, 0), (3, 1)):
        assert (stream.take((n,), np.uint64) == whole[at : at + n]).all()
        stream.skip(skipped)
        at += n + skipped


def test_plans_tell_programs_apart():
    def digest(*steps):
        pads = PlanPads()
        for step in steps:
            step(pads)
        return pads.plan().digest

    weight = MaskedWeight((3, 4), 16)
    programs = [
        (),
        (lambda pads: pads.random((2,), np.uint64),),
        (lambda pads: pads.random((2,), np.uint32),),
        (lambda pads: pads.random((1, 2), np.uint64),),
        (lambda pads: pads.given((2,), np.uint64, list),),
        (lambda pads: pads.given((2,), np.uint64, list, xor=True),),
        (lambda pads: pads.product(2, weight),),
        (lambda pads: pads.product(1, weight),),
        (lambda pads: pads.random((1,), np.uint64), lambda pads: pads.random((1,), np.uint64)),
    ]
    assert len({digest(*steps) for steps in programs}) == len(programs)
    assert digest(*programs[1]) == digest(*programs[1])


def test_a_dealer_gives_only_what_was_asked_for():
    for wrong in (np.zeros(3, np.uint64), np.zeros(2, np.uint32), np.zeros((1, 2), np.uint64), np.zeros(2)):
        with pytest.raises(ValueError, match="made where"):
            DealerPads(KEYS, io.BytesIO()).given((2,), np.uint64, lambda wrong=wrong: wrong)


def test_tapes_of_another_length():
    def pads(role, products=0, corrections=0):
        return TapePads(role, KEYS[0], np.zeros(products, np.uint64), io.BytesIO(bytes(corrections)))

    for short in (0, 8, 15):
        with pytest.raises(MpcError, match=r"ends before") as caught:
            pads(1, corrections=short).given((2,), np.uint64, list)
        assert caught.value.code == "mpc.tape-damaged"
    with pytest.raises(MpcError, match="fewer products"):
        pads(0, products=7).product(2, MaskedWeight((3, 4), 16))
    for left in (pads(0, products=1), pads(1, corrections=1)):
        with pytest.raises(MpcError, match="goes on"):
            left.end()


@pytest.mark.parametrize("sizes", [(), (0,), (1,), (CHUNK,), (CHUNK - 1, 1), (5, 3 * CHUNK, 7), (CHUNK // 2,) * 5])
def test_what_is_given_travels_in_pieces_of_a_known_size(sizes):
    one, other = pair()
    outgoing, sent = Outgoing(one), b""
    for number, size in enumerate(sizes):
        sent += bytes([number + 1]) * size
        outgoing.write(memoryview(bytes([number + 1]) * size))
    outgoing.flush()
    assert b"".join(other.receive(size) for size in pieces(len(sent))) == sent


def test_blanks_take_no_memory_and_keep_shapes():
    x = blank((3, 1, 4))
    one = np.ones((2, 1), np.uint64)
    for result, shape in (
        (x + one, (3, 2, 4)),
        (one * x, (3, 2, 4)),
        (-x, (3, 1, 4)),
        (x >> np.uint64(3), (3, 1, 4)),
        (x.sum(0), (1, 4)),
        (x.sum(-1, dtype=np.uint64, keepdims=True), (3, 1, 1)),
        (np.add.reduce(x, axis=(0, 2)), (1,)),
        (np.add.reduce(x, axis=None), ()),
        (x.reshape(-1, 2), (6, 2)),
        (x.transpose(2, 0, 1), (4, 3, 1)),
        (x[1:, 0], (2, 4)),
        (np.concatenate([x, np.ones((3, 5, 4), np.uint64)], 1), (3, 6, 4)),
        (np.broadcast_to(x, (3, 9, 4)), (3, 9, 4)),
    ):
        assert isinstance(result, Blank)
        assert result.shape == shape
        assert set(result.strides) <= {0}
    for refused in (lambda: x[:, 0] @ one, lambda: np.add.accumulate(x), lambda: x[0] + x[0].reshape(2, 2)):
        with pytest.raises((TypeError, ValueError)):
            refused()
