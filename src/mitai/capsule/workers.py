"""Run the segments of a job on a few threads, report progress, stop at the first failure.

Threads suffice: encryption, hashing and file reads let go of the interpreter's lock.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

Progress = Callable[[int, int], None]  # (done bytes, total bytes)
MAX_WORKERS = 32


def default_workers() -> int:
    """Return the number of processors that this process may use, at most 32."""
    return min(MAX_WORKERS, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def run_all(jobs: Sequence[Callable[[], int]], workers: int, progress: Progress | None, total: int) -> None:
    """Run every job; each returns the bytes it did.

    The first failure is raised once the running jobs have ended; the rest never start.
    """
    done = 0
    if workers <= 1 or len(jobs) <= 1:
        for job in jobs:
            done += job()
            if progress:
                progress(done, total)
        return
    with ThreadPoolExecutor(min(workers, len(jobs)), "mitai-capsule") as pool:
        futures = [pool.submit(job) for job in jobs]
        try:
            for future in as_completed(futures):
                done += future.result()
                if progress:
                    progress(done, total)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
