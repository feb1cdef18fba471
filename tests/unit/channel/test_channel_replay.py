"""Replay refusal: the window, the memory, and clocks that jump."""

from __future__ import annotations

import gc

import pytest

from mitai.channel.keys import KeyRing
from mitai.channel.replay import ReplayCache, format_date, parse_date
from mitai.errors import ChannelError, ReplayError


def refused(kind, code, call, *args, **kwargs):
    with pytest.raises(kind) as caught:
        call(*args, **kwargs)
    assert caught.value.code == code


def test_dates():
    assert format_date(784111777.9) == b"Sun, 06 Nov 1994 08:49:37 GMT"
    assert parse_date(b"Sun, 06 Nov 1994 08:49:37 GMT") == 784111777
    assert parse_date(format_date(1.8e9)) == 1.8e9


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"Sun, 06 Nov 1994 08:49:37",
        b"Sun, 06 Nov 1994 08:49:37 GMT ",
        b"Sun, 32 Nov 1994 08:49:37 GMT",
        b"Sun, 06 Nov 0000 08:49:37 GMT",
        b"Sun, 06 Nov 1994 24:49:37 GMT",
        b"Sunday, 06-Nov-94 08:49:37 GMT",
        b"1994-11-06T08:49:37Z",
        b"\xff",
    ],
)
def test_improper_dates(value):
    refused(ReplayError, "channel.date", parse_date, value)


def test_once_only():
    cache = ReplayCache(window_s=120)
    cache.admit(b"one", date_s=1000, now=1000)
    cache.admit(b"two", date_s=1000, now=1000)
    for now in (1000, 1060, 1120):
        refused(ReplayError, "channel.replayed", cache.admit, b"one", date_s=1000, now=now)


@pytest.mark.parametrize("offset", [-121, 121])
def test_outside_of_the_window(offset):
    refused(ReplayError, "channel.date", ReplayCache(120).admit, b"e", date_s=1000 + offset, now=1000)


@pytest.mark.parametrize("offset", [-120, 0, 120])
def test_never_twice_however_long_one_waits(offset):
    cache = ReplayCache(window_s=120)
    cache.admit(b"e", date_s=1000 + offset, now=1000)
    for later in range(600):
        with pytest.raises(ReplayError):
            cache.admit(b"e", date_s=1000 + offset, now=1000 + later)


def test_a_clock_that_jumps_forth_and_back_opens_no_second_chance():
    cache = ReplayCache(window_s=120)
    cache.admit(b"e", date_s=1000, now=1000)
    cache.admit(b"far", date_s=9000, now=9000)  # forgets what is old
    refused(ReplayError, "channel.date", cache.admit, b"e", date_s=1000, now=1000)


def test_a_full_memory_refuses_instead_of_forgetting():
    cache = ReplayCache(window_s=120, capacity=2)
    cache.admit(b"1", date_s=1000, now=1000)
    cache.admit(b"2", date_s=1000, now=1000)
    refused(ChannelError, "channel.replay-cache-full", cache.admit, b"3", date_s=1000, now=1000)
    refused(ReplayError, "channel.replayed", cache.admit, b"1", date_s=1000, now=1000)
    cache.admit(b"3", date_s=1241, now=1241)  # the window passed


def test_undated_requests_are_remembered_as_long_as_their_key():
    cache = ReplayCache(capacity=2)
    ring = KeyRing.generate(grace_s=0)
    key = ring.live()[0]
    cache.admit_for_life(key, b"1")
    refused(ReplayError, "channel.replayed", cache.admit_for_life, key, b"1")
    cache.admit_for_life(key, b"2")
    refused(ChannelError, "channel.replay-cache-full", cache.admit_for_life, key, b"3")
    ring.rotate()
    cache.admit_for_life(ring.live()[0], b"1")  # another key, another sealed request
    assert len(cache._seen_by_key) == 2
    del key
    ring.live()
    gc.collect()
    assert len(cache._seen_by_key) == 1
