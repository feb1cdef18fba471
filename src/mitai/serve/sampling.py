"""Choosing the next token of many sequences at once.

Each sequence draws one uniform number per token from its own generator and inverts the cumulative distribution at it,
so that a seed gives the same answer whoever shares the batch (as far as the model's logits are the same: a different
batch size may round differently).

Invariants:

- Temperature 0 draws nothing and takes the likeliest token.
- `top_p` keeps the smallest set whose probabilities reach it, never less than one token.
- Log probabilities reported are those of the model, before temperature and penalties.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch

from mitai.serve.engine import Sampling

NUCLEUS = 1024  # candidates that are sorted first; wider nuclei sort the whole row


class Sampler:
    """The state of one sequence's sampling: its generator and what it has generated."""

    def __init__(self, sampling: Sampling, choice: int) -> None:
        self.sampling = sampling
        # Not secret: OpenAI's `seed` asks for repeatable draws. Choices of one request differ.
        self.random = random.Random() if sampling.seed is None else random.Random(f"{sampling.seed}/{choice}")
        self.counts: dict[int, int] = {}
        self.penalised = bool(sampling.frequency_penalty or sampling.presence_penalty)

    def chosen(self, token: int) -> None:
        """Remember a generated token, where a penalty needs it."""
        if self.penalised:
            self.counts[token] = self.counts.get(token, 0) + 1

    def penalise(self, logits: torch.Tensor) -> None:
        """Lower the logits (vocabulary) of what was generated before, in place."""
        if not self.counts:
            return
        tokens = torch.tensor(list(self.counts))
        times = torch.tensor(list(self.counts.values()), dtype=logits.dtype)
        logits[tokens] -= times * self.sampling.frequency_penalty + self.sampling.presence_penalty


def sample(logits: torch.Tensor, samplers: Sequence[Sampler]) -> list[int]:
    """Choose one token per row.

    Args:
        logits: (rows, vocabulary); changed in place where penalties apply.
        samplers: One per row.
    """
    for row, sampler in enumerate(samplers):
        if sampler.penalised:
            sampler.penalise(logits[row])
    tokens: list[int] = logits.argmax(dim=-1).tolist()
    drawn = [row for row, sampler in enumerate(samplers) if sampler.sampling.temperature > 0]
    if drawn:
        for row, token in zip(drawn, _draw(logits[drawn], [samplers[row] for row in drawn]), strict=True):
            tokens[row] = token
    return tokens


def _draw(logits: torch.Tensor, samplers: list[Sampler]) -> list[int]:
    temperature = torch.tensor([[sampler.sampling.temperature] for sampler in samplers])
    top_p = torch.tensor([[sampler.sampling.top_p] for sampler in samplers])
    uniform = torch.tensor([[sampler.random.random()] for sampler in samplers])
    # float32; a tiny temperature must not overflow: shift by the maximum before the division
    scaled = logits.float()
    scaled = (scaled - scaled.amax(dim=-1, keepdim=True)) / temperature
    probabilities = scaled.softmax(dim=-1)
    if bool((top_p >= 1).all()):
        return _invert(probabilities, uniform).tolist()
    return _draw_nucleus(probabilities, top_p, uniform)


def _draw_nucleus(probabilities: torch.Tensor, top_p: torch.Tensor, uniform: torch.Tensor) -> list[int]:
    """Draw within the smallest sets that reach `top_p`; sort `NUCLEUS` candidates, all where those don't reach it."""
    best, order = probabilities.topk(min(NUCLEUS, probabilities.shape[-1]), dim=-1)
    short = best.sum(dim=-1, keepdim=True) < top_p.clamp(max=1 - 1e-6)
    if bool(short.any()):
        best, order = probabilities.sort(dim=-1, descending=True)
    before = best.cumsum(dim=-1) - best  # what the likelier ones sum to
    kept = best.masked_fill((before >= top_p) & (before > 0), 0.0)
    return order.gather(1, _invert(kept, uniform)[:, None])[:, 0].tolist()


def _invert(weights: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Return per row the first index whose cumulative weight exceeds `uniform` of the total."""
    cumulative = weights.cumsum(dim=-1)
    target = uniform * cumulative[:, -1:]
    index = torch.searchsorted(cumulative, target, right=True)[:, 0]
    # rounding may step past the end: the last index of positive weight
    last = weights.shape[-1] - 1 - (weights.flip(-1) > 0).int().argmax(dim=-1)
    return torch.minimum(index, last)
