"""How near an integer program comes to its model in floating point.

Example:
    >>> accuracy([(tokens, exact_logits, logits)])
    Accuracy(places=640, agreement=0.997, perplexity=10.99, exact_perplexity=10.98, deviation=0.04)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mitai.proof.graph import Real


@dataclass(frozen=True)
class Accuracy:
    """A comparison.

    Attributes:
        places: How many were compared.
        agreement: At what share of them the same token is the likeliest.
        perplexity: Of the integer program, on the tokens that follow.
        exact_perplexity: Of the model.
        deviation: The largest difference of two logits.
    """

    places: int
    agreement: float
    perplexity: float
    exact_perplexity: float
    deviation: float


def accuracy(samples: Iterable[tuple[Sequence[int], Real, Real]]) -> Accuracy:
    """Compare logits.

    Args:
        samples: Tokens [n], the model's logits [n, vocabulary], and those of the program.
    """
    same, deviation = 0, 0.0
    surprises: list[Real] = []
    places = 0
    for tokens, exact, found in samples:
        places += len(tokens)
        same += int((exact.argmax(-1) == found.argmax(-1)).sum())
        deviation = max(deviation, float(np.abs(exact - found).max()))
        surprises.append(np.stack([_surprise(logits, tokens) for logits in (found, exact)]))
    ours, theirs = np.exp(np.concatenate(surprises, 1).mean(1))
    return Accuracy(places, same / places, float(ours), float(theirs), deviation)


def _surprise(logits: Real, tokens: Sequence[int]) -> Real:
    """Return -log of the probability of each token but the first."""
    shifted = logits - logits.max(-1, keepdims=True)
    chances = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return np.asarray(-chances[np.arange(len(tokens) - 1), np.asarray(tokens[1:])], np.float64)
