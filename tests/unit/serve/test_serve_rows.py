"""Rows of the cache: nothing of whoever had one before reaches the next sequence, not even an overflow."""

from __future__ import annotations

import torch

from mitai.serve import batch
from mitai.serve.batch import Segment


class Layer(torch.nn.Module):
    layer_idx = 0


def attend(cache, lengths, segments, count, overflow=None):
    query, key, value = (torch.randn(1, 2, count, 8) for _ in range(3))
    if overflow is not None:
        key[0, :, overflow] = value[0, :, overflow] = float("inf")
    batch.CURRENT.step = batch.PackedStep(cache, lengths, segments)
    try:
        return batch.packed_attention(Layer(), query, key, value, None)[0]
    finally:
        batch.CURRENT.step = None


def test_an_overflow_does_not_outlive_its_sequence():
    cache = batch.KeyValueCache()
    attend(cache, [], [Segment(0, 0, 60, 0)], 60, overflow=50)  # leaves
    attend(cache, [], [Segment(0, 0, 4, 0)], 4)  # the next one, in its row
    attend(cache, [], [Segment(1, 0, 100, 0)], 100)  # a longer one beside it
    assert attend(cache, [4, 100], [], 2).isfinite().all()


def test_nor_does_it_when_a_row_is_moved():
    cache = batch.KeyValueCache()
    attend(cache, [], [Segment(0, 0, 60, 0)], 60, overflow=50)
    attend(cache, [], [Segment(1, 0, 4, 0)], 4)
    attend(cache, [], [Segment(2, 0, 100, 0)], 100)
    cache.move(1, 0, 4)  # row 0 left, row 1 fills its hole
    cache.move(2, 1, 100)
    assert attend(cache, [4, 100], [], 2).isfinite().all()
