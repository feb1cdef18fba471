"""Which segments are re-executed, what that proves, and where cheap tests say to look first.

`docs/spec/transcript.md`, "What is caught".

Invariants:

- The drawn segments are one from each of equal strata, by the verifier's own randomness: a forger who touches a share
  `f` of the segments escapes with a probability of at most `(1 - f)**drawn`, whatever the forger knows.
- Cheap tests accuse nobody. They say which further segments to re-execute; the proof is the re-execution.

Example:
    >>> round(caught(0.15, 20), 3)
    0.961
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from statistics import median

from mitai.errors import TrainError
from mitai.train.transcript.document import Transcript
from mitai.train.transcript.state import State, Tensors, apart

NEIGHBOURS = 3


def draw(segments: int, count: int, rng: random.Random) -> tuple[int, ...]:
    """Return `count` of the segments: one of each of as many strata, at random."""
    edges = [index * segments // max(1, count) for index in range(count + 1)]
    return tuple(rng.randrange(edges[index], edges[index + 1]) for index in range(count))


def caught(forged: float, drawn: int) -> float:
    """Return the least probability that one of `drawn` segments is among a share `forged` of forged ones."""
    return float(1 - (1 - forged) ** drawn)


def surely_caught(probability: float, drawn: int) -> float:
    """Return the share of forged segments from which on one is drawn with this probability."""
    return float(1 - (1 - probability) ** (1 / drawn))


def movements(transcript: Transcript, read: Callable[[int], State]) -> list[float]:
    """Return for each segment how unlike its neighbours' the movement of weights and optimizer is.

    Args:
        transcript: What was claimed.
        read: Gives the state at a boundary, checked against the transcript.

    Raises:
        TrainError: The weights have other names or shapes from one state to the next.
    """
    rows: list[tuple[float, ...]] = []
    before = read(0)
    slots = sorted({name.rpartition("/")[2] for name in read(len(transcript.segments)).optimizer} - {"step"})
    for index, segment in enumerate(transcript.segments):
        after = read(index + 1)
        if _shapes(after.weights) != _shapes(before.weights):
            raise TrainError("train.transcript-refused", f"segment {index} ends with other weights", step="states")
        steps = segment.end.step - transcript.boundaries[index].step
        rows.append(tuple(_log(moved / steps) for moved in _moved(before, after, slots)))
        before = after
    return [max(each) for each in zip(*map(outliers, zip(*rows, strict=True)), strict=True)]


def outliers(values: Sequence[float]) -> list[float]:
    """Return how far each value lies from the median of its neighbours, in units of the usual distance."""
    apart_from: list[float] = []
    for index, value in enumerate(values):
        near = [*values[max(0, index - NEIGHBOURS) : index], *values[index + 1 : index + 1 + NEIGHBOURS]]
        apart_from.append(abs(value - median(near)) if near else 0.0)
    usual = max(median(apart_from or [0.0]), 1e-9)
    return [each / usual for each in apart_from]


def _log(length: float) -> float:
    return math.log(length + 1e-30) if math.isfinite(length) else 1e3


def _moved(before: State, after: State, slots: Sequence[str]) -> tuple[float, ...]:
    """Return how far the weights and the tensors of some kinds of the optimizer moved."""
    far = [apart(after.weights, before.weights)]
    for slot in slots:
        ours = {name: value for name, value in after.optimizer.items() if name.endswith(f"/{slot}")}
        theirs = {name: before.optimizer.get(name, value * 0) for name, value in ours.items()}
        far.append(apart(ours, theirs) if _shapes(ours) == _shapes(theirs) else math.inf)
    return tuple(far)


def _shapes(tensors: Tensors) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
