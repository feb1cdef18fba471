"""Padding: buckets, their cost, and comments that no reader sees."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai._streaming import SSEDecoder

from mitai.channel.padding import event_comment, padded_size


@given(st.integers(0, 1 << 40))
def test_a_padded_size_is_a_bucket_and_costs_little(size):
    padded = padded_size(size)
    assert padded >= size
    assert padded <= max(1024, size * 1.12)
    assert padded_size(padded) == padded


SIZES = [(0, 1024), (1024, 1024), (1025, 1088), (5000, 5120), (1 << 20, 1 << 20), ((1 << 20) + 1, 1081344)]


@pytest.mark.parametrize(("size", "padded"), SIZES)
def test_buckets(size, padded):
    assert padded_size(size) == padded


def test_few_buckets_remain():
    assert len({padded_size(size) for size in range(100_000)}) < 120


@given(st.integers(0, 5000))
def test_a_comment_fills_a_piece_to_its_bucket(size):
    total = size + len(event_comment(size))
    assert total in {512 << i for i in range(6)}


@given(st.integers(0, 2000))
def test_a_comment_is_no_event(size):
    decoder = SSEDecoder()
    stream = b"data: before\n\n" + event_comment(size) + b"data: after\n\n"
    events = list(decoder.iter_bytes(iter([stream])))
    assert [event.data for event in events] == ["before", "after"]
