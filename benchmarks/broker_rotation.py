"""How long a rotation of the broker's root key holds releases up, with 10,000 capsules.

A client releases one key after another while the root key is rotated; the row is the longest time between two answers.
`all_s` is the whole rotation, `usual_s` the median time between answers meanwhile. On SQLite, and on
PostgreSQL where `MITAI_POSTGRES_URL` names an empty database.

Rows: `broker-rotation-pause-s`, `broker-rotation-pause-postgresql-s`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import statistics
import tempfile
import threading
import time
from itertools import pairwise
from pathlib import Path

import structlog

from benchmarks.broker import Setup
from benchmarks.harness import row
from mitai.attest.sim import SimPlatform, installed_workload
from mitai.broker.keys import Keys
from mitai.broker.release_client import Release

CAPSULES = int(os.environ.get("MITAI_BENCH_CAPSULES", "10000"))
ROTATIONS = 3


def measure(name: str, url: str | None) -> None:
    """Rotate a few times under a client's releases, and print the row."""
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        sim = SimPlatform.create(folder / "sim")
        setup = Setup(folder, sim, CAPSULES, url)
        keys = Keys(setup.broker, sim.attester(installed_workload("broker")), setup.broker.trusted.policy)
        pauses, times, usual = zip(*(_one(setup, keys) for _ in range(ROTATIONS)), strict=True)
        setup.broker.close()
    more = {"all_s": round(statistics.median(times), 3), "usual_s": round(statistics.median(usual), 5)}
    row(name, pauses, "s", capsules=CAPSULES, **more)


def _one(setup: Setup, keys: Keys) -> tuple[float, float, float]:
    """Return the longest time between two answers during one rotation, that of the rotation, and the usual one."""
    answered: list[float] = []
    stop = threading.Event()

    async def releases() -> None:
        while not stop.is_set():
            request = Release(
                setup.broker.challenge(), setup.workload.evidence, purpose="inference", capsules=(setup.asked[0],)
            )
            await setup.broker.release(request.body)
            answered.append(time.perf_counter())

    thread = threading.Thread(target=lambda: asyncio.run(releases()))
    thread.start()
    time.sleep(1.0)
    start = time.perf_counter()
    keys.rotate()
    taken = time.perf_counter() - start
    time.sleep(0.5)
    stop.set()
    thread.join()
    gaps = [later - before for before, later in pairwise(answered)]
    return max(gaps), taken, statistics.median(gaps)


def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    measure("broker-rotation-pause-s", None)
    if url := os.environ.get("MITAI_POSTGRES_URL"):
        measure("broker-rotation-pause-postgresql-s", url)


if __name__ == "__main__":
    main()
