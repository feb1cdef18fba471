"""Small models that answer with a committed trace, without files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path

import numpy as np

from mitai.proof.answer import generate, statement
from mitai.proof.audit import tree
from mitai.proof.audit.files import MAGIC, Challenge, Committed, asked, root_of
from mitai.proof.audit.key import AuditKey, make_key
from mitai.proof.audit.numbers import numbers, pieces, size
from mitai.proof.audit.plan import Plan
from mitai.proof.audit.trace import commit
from mitai.proof.card import ModelCard, decoder
from mitai.proof.graph import Graph
from mitai.proof.models.calibration import calibrate, quantise, sample
from mitai.proof.operation import Ints, Value
from mitai.proof.operations import Input, Weight
from mitai.proof.prepared import Prepared
from mitai.proof.proving import commit_weights
from mitai.proof.verify.statement import Statement

WORDS = 50
LLAMA = {
    "model_type": "qwen2", "vocab_size": WORDS, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip
GPT2 = {"model_type": "gpt2", "vocab_size": WORDS, "n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 2}
PROMPT = (5, 6, 7)
TOKENS = 3


class _Everywhere(dict[str, int]):
    def __missing__(self, name: str) -> int:
        return 3


@cache
def prepared(family: str = "llama", seed: int = 4) -> Prepared:
    """Return a model of random weights."""
    rng = np.random.default_rng(seed)
    config = json.dumps(LLAMA if family == "llama" else GPT2)
    model = decoder(config.encode())
    shapes = {name: one.shape for name, one in model.write(Graph(_Everywhere()), 1).program().weights.items()}
    arrays = {name: rng.normal(0, 0.4, shape) for name, shape in shapes.items()}
    reaches = calibrate(arrays, [sample(model, list(rng.integers(0, WORDS, 12))) for _ in range(3)])
    weights = commit_weights(model.measure(Graph(reaches), 1).program(), quantise(model, reaches, arrays))
    return Prepared(Path("nowhere"), ModelCard(config=config, reaches=reaches, weights=weights.root.hex()), weights)


@cache
def committed(family: str = "llama") -> Committed:
    """Return an answer of that model, with its trace's root."""
    answer = generate(prepared(family), list(PROMPT), TOKENS, lambda _: True)
    return commit(prepared(family), PROMPT, answer)


def claim(family: str = "llama") -> tuple[Statement, Plan]:
    """Return what is claimed by that, and its steps."""
    claimed = statement(committed(family).unproven, prepared(family).card)
    return claimed, Plan.of(claimed.program)


@cache
def key(family: str = "llama") -> AuditKey:
    """Return an auditor's key for that model."""
    return make_key(prepared(family))


class Liar:
    """A prover that commits to whatever results it likes.

    Args:
        claim: What it claims.
        results: Of its steps, by their numbers.
    """

    def __init__(self, claim: Statement, results: Mapping[int, Ints]) -> None:
        self._plan = Plan.of(claim.program)
        self._bytes = [b"".join(pieces(results[step], self._plan.value(step))) for step in self._plan.steps]
        self._leaves = [sha256(tree.LEAF + data).digest() for data in self._bytes]
        self.root = root_of(claim, bytes(32), tree.root(self._leaves))

    def response(self, challenge: Challenge | None) -> bytes:
        """Answer a challenge."""
        shown = self._plan.shown(asked(challenge, len(self._bytes)))
        parts = [self._bytes[place] for place in sorted(shown)]
        return b"".join([MAGIC, *parts, *tree.siblings(self._leaves, shown)])


def results(claim: Statement, weights: Mapping[str, Ints], wrong: int | None = None) -> dict[int, Ints]:
    """Run a program whose operation `wrong` has one number too much in one place; all later ones go on from there."""
    found: dict[int, Ints] = {}
    for number, operation in enumerate(claim.program.operations):
        if isinstance(operation, Input | Weight):
            found[number] = (claim.inputs if isinstance(operation, Input) else weights)[operation.name]
        else:
            found[number] = operation.execute(*(found[operand] for operand in operation.operands)).astype(np.int64)
        if number == wrong:
            found[number] = changed(found[number], claim.program.values[number])
    return found


def changed(array: Ints, value: Value) -> Ints:
    """Return an array with another number in its last place, within its range."""
    other = array.copy()
    other.reshape(-1)[-1] += 1 if other.reshape(-1)[-1] < value.high else -1
    return other


def trace_of(plan: Plan, data: bytes) -> dict[int, Ints]:
    """Return any bytes as the steps of a trace."""
    found, at = {}, len(MAGIC)
    for step in plan.steps:
        value = plan.value(step)
        part = data[at : at + size(value)].ljust(size(value), b"\0")
        found[step] = numbers([part], value)
        at += len(part)
    return found
