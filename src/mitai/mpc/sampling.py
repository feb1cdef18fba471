"""Choosing the next token without anybody seeing logits or choice (`docs/spec/mpc.md`, "Sampling").

The choice is a row of bits with a single one. It goes back into the model as it is, and its index, a local sum, to the
client alone.

Invariants:

- Exactly one bit is set, also where logits are equal (the first of the largest wins).
- What is drawn depends on the kind of a choice alone: a tape serves any temperature and any top_p of its kind.
- The noise that makes a choice random comes from where correlated randomness comes from: parties don't know it, and who
  makes it sees neither logits nor choice.

Example:
    >>> from mitai.mpc.clear import ClearEngine
    >>> logits = ClearEngine().constant(np.array([[0.5, 3.0, -1.0]]))
    >>> logits.engine.reveal(index(choose(logits, Sampling())))
    array([1.])
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mitai.mpc.engine import Secret, concatenate
from mitai.mpc.nonlinear import exp_table, read

FANS = (32, 16, 8, 4)
COMPARISONS = 100_000  # in one level of a tournament, at most, where a smaller fan-in can help
Kind = Literal["greedy", "sampled", "nucleus"]
LOWEST = -4096.0  # what never wins
MASS_GAIN = 4  # exp is computed times 2^this for sums over a vocabulary
NUCLEUS_STEPS = (4.0, 1.0, 0.25, 0.0625)  # each level of the search looks at four thresholds


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen; public.

    Attributes:
        temperature: Logits are divided by it; 0: the likeliest token, always.
        top_p: Only the likeliest tokens that together have this probability (to within 1 %, and 1/16 of a logit).
    """

    temperature: float = 0.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not (self.temperature == 0 or 0.05 <= self.temperature <= 20) or not 0 < self.top_p <= 1:
            raise ValueError("a temperature is 0 or from 0.05 to 20, and top_p above 0 and at most 1")

    @property
    def kind(self) -> Kind:
        """What has to be drawn for it: nothing, noise, or noise and a search for the likeliest."""
        if self.temperature == 0:
            return "greedy"
        return "sampled" if self.top_p == 1 else "nucleus"

    @staticmethod
    def of(kind: Kind) -> Sampling:
        """Return one of a kind."""
        return {"greedy": Sampling(), "sampled": Sampling(1.0), "nucleus": Sampling(1.0, 0.9)}[kind]


def choose(logits: Secret, sampling: Sampling) -> Secret:
    """Return for logits [batch, vocabulary], of magnitude below 128 times the temperature, bits with a single one."""
    engine = logits.engine
    if sampling.kind == "greedy":
        return argmax(logits)
    logits = engine.scale(logits, 1 / sampling.temperature)  # also by 1: the kind alone says what is drawn
    noisy = logits + engine.gumbel(logits.shape)
    if sampling.kind == "nucleus":
        noisy = engine.multiply(nucleus(logits, sampling.top_p), noisy - LOWEST) + LOWEST
    return argmax(noisy)


def index(chosen: Secret) -> Secret:
    """Return [batch], the number of the bit that is set."""
    return chosen.times(np.arange(chosen.shape[-1], dtype=np.uint64)).sum(-1)


def argmax(x: Secret) -> Secret:
    """Return for x [batch, n], within ±4096, bits that are 1 at the first of the largest numbers.

    A tournament: in a group everybody is compared with everybody at once, and the winners go on.
    """
    batch, n = x.shape
    winners, grouped = _level(x)
    if grouped.shape[1] > 1:
        winners = x.engine.multiply(winners, argmax(_best(winners, grouped)).reshape(batch, -1, 1))
    return winners.reshape(batch, -1)[:, :n]


def largest(x: Secret) -> Secret:
    """Return for x [batch, n], within ±4096, the largest numbers [batch, 1]."""
    best = _best(*_level(x))
    return best if best.shape[1] == 1 else largest(best)


def nucleus(logits: Secret, mass: float) -> Secret:
    """Return bits of the largest logits that together have at least this share of the probability."""
    engine = logits.engine
    batch, n = logits.shape
    below = logits - largest(logits)  # what is below -16 is out
    powers = engine.spline(below, exp_table(MASS_GAIN)).reshape(batch, 1, n)
    wide = below.reshape(batch, n, 1).broadcast_to((batch, n, 4))
    threshold = engine.constant(0.0, (batch, 1))
    total = None
    for step in NUCLEUS_STEPS:
        levels = threshold.broadcast_to((batch, 4)) - np.array([step, 2 * step, 3 * step, 4 * step])
        above = 1 - engine.less(wide, levels.reshape(batch, 1, 4).broadcast_to((batch, n, 4)))
        sums = engine.matmul(powers, above).reshape(batch, 4)
        if total is None:
            total = sums[:, 3:]  # all that is above -16
        missing = read(sums.times(1 << 10) - total.times(round(mass * 2**10)), sums.fraction + 10)
        short = engine.less(engine.truncate(missing, engine.fraction - 7), 0.0)[:, :3]
        threshold = threshold - read(
            short.sum(1, keepdims=True).times(round(step * 2**engine.fraction)), engine.fraction
        )
    lowest = (threshold - NUCLEUS_STEPS[-1]).broadcast_to((batch, n))
    return 1 - engine.less(below, lowest)


def _fan(n: int) -> int:
    return n if n <= 2 * FANS[0] else next((fan for fan in FANS if n * (fan - 1) // 2 <= COMPARISONS), FANS[-1])


def _level(x: Secret) -> tuple[Secret, Secret]:
    """Return x [batch, n] in groups [batch, groups, fan], after the bits of their winners."""
    batch, n = x.shape
    fan = _fan(n)
    groups = -(-n // fan)
    padding = x.engine.constant(LOWEST, (batch, groups * fan - n))
    grouped = concatenate((x, padding), 1).reshape(batch, groups, fan)
    return _winners(grouped), grouped


def _best(winners: Secret, grouped: Secret) -> Secret:
    return grouped.engine.multiply(winners, grouped).sum(-1)


def _winners(x: Secret) -> Secret:
    """Return for x [batch, groups, fan] bits that are 1 at the first of each group's largest."""
    fan = x.shape[-1]
    if fan == 1:
        return x.engine.constant(1.0, x.shape, fraction=0)
    pairs = np.array(list(itertools.combinations(range(fan), 2)))
    later = x.engine.less(x.map(lambda part: part[..., pairs[:, 0]]), x.map(lambda part: part[..., pairs[:, 1]]))
    number = np.zeros((fan, fan), np.int64)
    number[pairs[:, 0], pairs[:, 1]] = number[pairs[:, 1], pairs[:, 0]] = np.arange(len(pairs))
    others = ~np.eye(fan, dtype=bool)
    first = (np.arange(fan)[:, None] < np.arange(fan)[None, :])[others].reshape(fan, fan - 1)
    against = number[others].reshape(fan, fan - 1)
    won = later.map(lambda part: part[..., against]).times(np.where(first, -1, 1).astype(np.int64).view(np.uint64))
    wins = (won + first.astype(np.float64)).sum(-1)
    return 1 - x.engine.less(wins, fan - 1.0)
