"""How a benchmark measures and speaks.

A row is one JSON line on standard output, nothing else is printed there:
`{"name", "value", "unit", "peer", "peer_value", "ratio", "runs", "spread"}`; `ratio` is value / peer_value. Both sides
run interleaved (ours, peer, ours, peer …) so that a drift of the machine's speed hits both; figures are medians;
`spread` is (max - min) / median of ours.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

OUT = Path(__file__).parent / "out"


def progress(text: str) -> None:
    """Say something to the person who waits."""
    print(text, file=sys.stderr, flush=True)


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that one call of `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def milliseconds(work: Callable[[], object], calls: int = 10) -> Callable[[], float]:
    """Return a measure: the mean processor time of a few calls of `work`, in milliseconds.

    What computes on one core and waits for nothing is measured so, as a neighbour on the core does not count.
    """

    def measure() -> float:
        start = time.process_time()
        for _ in range(calls):
            work()
        return (time.process_time() - start) * 1000 / calls

    return measure


def interleave(runs: int, *measures: Callable[[], float], warmup: int = 1) -> list[list[float]]:
    """Call the measures in turn, `runs` times after `warmup` rounds; return the samples of each."""
    samples: list[list[float]] = [[] for _ in measures]
    for turn in range(warmup + runs):
        for measure, collected in zip(measures, samples, strict=True):
            sample = measure()
            if turn >= warmup:
                collected.append(sample)
    return samples


def spread(samples: Sequence[float]) -> float:
    """Return (max - min) / median."""
    median = statistics.median(samples)
    return (max(samples) - min(samples)) / median if median else 0.0


def row(
    name: str,
    samples: Sequence[float],
    unit: str,
    *,
    peer: str | None = None,
    peer_samples: Sequence[float] | None = None,
    **more: object,
) -> None:
    """Print one row from the samples of ours and, where there is one, of the peer."""
    value = statistics.median(samples)
    peer_value = statistics.median(peer_samples) if peer_samples else None
    fields: dict[str, object] = {
        "name": name,
        "value": _rounded(value),
        "unit": unit,
        "peer": peer,
        "peer_value": _rounded(peer_value) if peer_value is not None else None,
        "ratio": _rounded(value / peer_value) if peer_value else None,
        "runs": len(samples),
        "spread": _rounded(spread(samples)),
        **more,
    }
    print(json.dumps(fields), flush=True)


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
