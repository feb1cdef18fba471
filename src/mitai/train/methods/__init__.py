"""The methods by name; a module is imported only when a job asks for it, for it brings torch along.

A method of training has `trainer(task: Task) -> transformers.Trainer` (`mitai.train.task` says what it may rely on).
An evaluation trains nothing: it has `evaluate(task: Task) -> dict[str, bytes]`, which returns the files of its report.
An audit has `audit(job, sources, manifests, signers) -> dict[str, bytes]`: it looks at capsules as they came. So does
a leaderboard, which has `leaderboard(job, sources, inputs, …)`.
The purpose is what the broker is told, and so what owners' policies allow or not; the kind is that of the output.

Example:
    >>> METHODS["sft"].purpose
    'training'
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Literal, NamedTuple


class Method(NamedTuple):
    """A method's module, and what its jobs are for."""

    module: str
    purpose: Literal["training", "evaluation"] = "training"
    private: bool = False  # its noise hides single records: no transcript, and all records or none
    signed: bool = False  # its output goes with evidence of who signed it
    classifiers: bool = False  # its model may be a sequence classifier

    def load(self) -> ModuleType:
        """Import the method's module."""
        return importlib.import_module(self.module)


METHODS = {
    "sft": Method("mitai.train.methods.sft"),
    "dpo": Method("mitai.train.methods.dpo"),
    "grpo": Method("mitai.train.methods.grpo"),
    "reward": Method("mitai.train.methods.reward"),
    "distill": Method("mitai.train.methods.distill"),
    "approximate": Method("mitai.train.methods.approximate", classifiers=True),
    "private": Method("mitai.train.methods.private", private=True),
    "evaluate": Method("mitai.train.methods.evaluate", "evaluation", signed=True),
    "leaderboard": Method("mitai.train.methods.leaderboard", "evaluation", signed=True),
    "audit": Method("mitai.train.transcript.audit", "evaluation"),
}
