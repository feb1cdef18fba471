"""Generating token by token, each by a program of its own over the keys and values that the one before kept.

Example:
    >>> answer = Generation(model, reaches, weights)
    >>> [answer.step(prompt)] + [answer.step() for _ in range(3)]
    [17, 4, 250, 2]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mitai.proof.graph import Graph, Reaches
from mitai.proof.models.decoder import Decoder
from mitai.proof.operation import Ints
from mitai.proof.program import Program, Run


@dataclass(frozen=True)
class Step:
    """One step: a program, what went into it, and what it computed, as a proof needs it."""

    program: Program
    inputs: Mapping[str, Ints]
    run: Run

    @property
    def token(self) -> int:
        """The next token."""
        return int(self.run.outputs["token"][0])


class Generation:
    """An answer in the making: the likeliest token after the other.

    Args:
        model: Which writes the programs.
        reaches: Its calibration.
        weights: Its weights, as the programs take them.
    """

    def __init__(self, model: Decoder, reaches: Reaches, weights: Mapping[str, Ints]) -> None:
        self._model, self._reaches, self._weights = model, reaches, weights
        self._cache: dict[str, Ints] = {}
        self.length = 0

    def step(self, tokens: Sequence[int], noise: Ints | None = None) -> Step:
        """Go on by these tokens, after all before; with noise [1, vocabulary] the next one is drawn."""
        drawn = {} if noise is None else {"noise": noise}
        program = self._model.write(Graph(self._reaches), len(tokens), self.length, drawn=bool(drawn)).program()
        inputs = {"tokens": np.array(tokens, np.int64), **self._cache, **drawn}
        run = program.run(inputs, self._weights)
        self._cache = {"cache": run.outputs["cache"]}
        self.length += len(tokens)
        return Step(program, inputs, run)
