"""Blocks cover each array once, and their values add up to the array's."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitai.proof import field
from mitai.proof.field import ZERO, K
from mitai.proof.verify.layout import Layout
from mitai.proof.verify.points import by_axis, padded

SHAPES = st.lists(st.lists(st.integers(1, 13), min_size=1, max_size=3).map(tuple), min_size=1, max_size=4)


@given(SHAPES)
def test_each_number_has_one_place(shapes: list[tuple[int, ...]]) -> None:
    layout = Layout.of(shapes)
    taken = np.zeros(1 << layout.log, int)
    for shape, blocks in zip(shapes, layout.blocks, strict=True):
        covered = np.zeros(shape, int)
        for block in blocks:
            assert block.offset % (1 << block.log) == 0
            taken[block.offset : block.offset + (1 << block.log)] += 1
            covered[block.within] += 1
        assert (covered == 1).all()
    assert taken.max() == 1
    assert taken.sum() == sum(map(prod, shapes))


@pytest.mark.parametrize("shape", [(1,), (8,), (13,), (3, 5), (6, 1, 7)])
def test_blocks_add_up(shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(3)
    array = random.integers(-99, 99, shape)
    whole = padded(array)
    point = [K(int(one), int(other)) for one, other in random.integers(1, 2**60, (len(whole).bit_length() - 1, 2))]
    axes = by_axis(point, shape)
    total = ZERO
    for block in Layout.of([shape]).blocks[0]:
        weight, own = block.part(axes)
        part = array[block.within]
        total = total + weight * field.evaluate(field.signed(part).reshape(-1), own)
    assert total == field.evaluate(whole, point)
