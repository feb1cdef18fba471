"""The memorisation test: a model has just fitted the samples of the steps behind it better than other samples.

After Choi, Shavit and Duvenaud, section 4: a sample's *memorisation* over some steps is the fall of its loss. Samples
that were trained on fall further than others of the same kind; if as many of the claimed samples as of the others lie
below the others' median, the claimed samples were not trained on. Forward passes only.

Invariants:

- The samples are drawn by the verifier after the transcript was signed; the others are claimed samples of
  neighbouring blocks, so that they are of the same kind.
- A result says where to look (`sampling`): it accuses nobody by itself.

Example:
    >>> Block(0, 10, own=(0.4, 0.3), others=(0.0, 0.1)).below_median
    0.0
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

import torch

from mitai.train.transcript.replay import Row, States
from mitai.train.transcript.state import restore_weights

if TYPE_CHECKING:
    from transformers import Trainer

SAMPLES = 2  # of each block


@dataclass(frozen=True)
class Block:
    """Some segments in a row: how far the losses of its own samples and of others fell over them."""

    first: int  # boundary at which it starts
    last: int
    own: tuple[float, ...]
    others: tuple[float, ...]

    @property
    def below_median(self) -> float:
        """Share of its samples that fell less than the others' median: near 0 if trained on, near 0.5 if not."""
        middle = median(self.others)
        return fmean(fall < middle for fall in self.own)

    @property
    def gain(self) -> float:
        """How much further its own samples fell than the others."""
        return fmean(self.own) - fmean(self.others)


def blocks(trainer: Trainer, states: States, rows: Sequence[Sequence[Row]], count: int) -> tuple[Block, ...]:
    """Measure `count` blocks of about equal length; none where segments have no rows with labels.

    Args:
        trainer: After `Replay.run`; its weights are overwritten.
        states: The kept states.
        rows: Of each segment, some of its samples.
        count: How many blocks.
    """
    count = min(count, len(rows))
    edges = [index * len(rows) // count for index in range(count + 1)]
    samples = [_spread([row for segment in rows[a:b] for row in segment]) for a, b in pairwise(edges)]
    if count < 2 or not all(samples):
        return ()
    losses: dict[tuple[int, int], list[float]] = {}  # at an edge, of the samples of a block
    for edge in range(count + 1):
        restore_weights(states(edges[edge]), trainer)
        wanted = (
            {edge - 1, edge, edge + 1} if edge < count else {edge - 2, edge - 1}
        )  # behind, ahead, and one to compare
        losses |= {(edge, block): _losses(trainer, samples[block]) for block in wanted & set(range(count))}
    found = []
    for block in range(count):
        other = block + 1 if block + 1 < count else block - 1
        own, others = (_falls(losses[block, each], losses[block + 1, each]) for each in (block, other))
        if own and others:
            found.append(Block(edges[block], edges[block + 1], own, others))
    return tuple(found)


def _spread(rows: list[Row]) -> list[Row]:
    """Return some rows from all over a block."""
    return [rows[index * len(rows) // SAMPLES] for index in range(SAMPLES)] if len(rows) > SAMPLES else rows


def _falls(before: Sequence[float], after: Sequence[float]) -> tuple[float, ...]:
    return tuple(b - a for b, a in zip(before, after, strict=True) if math.isfinite(b) and math.isfinite(a))


def _losses(trainer: Trainer, rows: Sequence[Row]) -> list[float]:
    live: Any = trainer
    model = live.model.eval()
    with torch.no_grad():
        return [float(model(**{name: value.to(model.device) for name, value in row.items()}).loss) for row in rows]
