"""From what each record gave to a number with an interval.

Every number is a ratio of two sums over records, and sometimes a function of that ratio: an accuracy is right answers
per record, a perplexity is exp(- log-likelihood per word). Follows lm-evaluation-harness (`lm_eval/api/metrics.py`).

- pass@k is the unbiased estimator of Chen et al., "Evaluating Large Language Models Trained on Code", section 2.1.
- Intervals are percentile bootstrap intervals of 95 % over records, drawn with a fixed seed.

Example:
    >>> pass_at_k(samples=5, passed=2, k=1)
    0.4
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Series:
    """What each record adds to a number: `values` (records,) over `weights` (records,).

    A record of weight 0 does not count for this number.
    """

    metric: str
    values: Floats = field(repr=False)
    weights: Floats = field(repr=False)
    form: Literal["mean", "exp", "bits"] = "mean"

    @staticmethod
    def mean(metric: str, values: list[float]) -> Series:
        """Return the plain average over records."""
        return Series(metric, np.array(values, dtype=np.float64), np.ones(len(values)))

    def number(self, rows: Mask | NDArray[np.int64]) -> float:
        """Return the number over some records."""
        ratio = float(self.values[rows].sum() / self.weights[rows].sum())
        if self.form == "mean":
            return ratio
        return math.exp(min(-ratio, 700.0)) if self.form == "exp" else -ratio / math.log(2)

    def interval(self, rows: Mask, resamples: int, seed: int) -> tuple[float, float]:
        """Return the 2.5th and the 97.5th percentile of the number over records drawn with replacement."""
        places = np.flatnonzero(rows & (self.weights > 0))
        draw = np.random.default_rng(seed)
        drawn = [self.number(places[draw.integers(len(places), size=len(places))]) for _ in range(resamples)]
        low, high = np.percentile(drawn, (2.5, 97.5))
        return float(low), float(high)


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """Return 1 - C(samples - passed, k) / C(samples, k): the chance that one of k samples passes."""
    return 1.0 - math.comb(samples - passed, k) / math.comb(samples, k)
