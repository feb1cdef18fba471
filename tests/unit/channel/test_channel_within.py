"""The time limit of a send: nothing where nothing waits, and all of asyncio's rules where something does."""

from __future__ import annotations

import asyncio

import pytest

from mitai.channel.asgi import _Within


async def test_what_does_not_wait_just_happens():
    done = []

    async def work():
        done.append(1)

    await _Within(work(), 0.0)
    assert done == [1]


async def test_what_waits_for_a_while_goes_on():
    steps = []

    async def work():
        for step in range(3):
            await asyncio.sleep(0.001)
            steps.append(step)

    await _Within(work(), 1.0)
    assert steps == [0, 1, 2]


@pytest.mark.parametrize("before", [0, 1])
async def test_what_waits_too_long_is_cancelled_and_can_clean_up(before):
    cleaned = []

    async def work():
        for _ in range(before):
            await asyncio.sleep(0)
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            cleaned.append(1)

    with pytest.raises(TimeoutError):
        await _Within(work(), 0.01)
    assert cleaned == [1]


async def test_errors_pass():
    async def work(wait):
        if wait:
            await asyncio.sleep(0)
        raise OSError("lost")

    for wait in (False, True):
        with pytest.raises(OSError, match="lost"):
            await _Within(work(wait), 1.0)


async def test_a_cancellation_from_outside_is_no_timeout():
    async def work():
        await asyncio.sleep(60)

    async def outer():
        await _Within(work(), 60.0)

    task = asyncio.create_task(outer())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
