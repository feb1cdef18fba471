"""What it costs to commit to an answer's trace, and to audit it, beside the same integers unaudited.

Rows, in group `proof`; processor time on one core, random weights of the true shape, a prompt of 24 tokens and an
answer of 8, each model in a process of its own; for GPT-2 small and, with `-qwen05b`, for Qwen2 0.5B:

- `audit-commit`: the answer's trace and its root, beside the same program written and run alone. `generate_s` is what
  it took to give the answer token by token before, `trace_mb` what there is to show of it.
- `audit-check`: a check of all steps without weights, beside the program with them; `spot_s` and `spot_mb` are of 16
  of the `steps`. `key_mb` is the auditor's key, made in `key_s`; `rss_mb` the memory of prover and auditor together.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.harness import interleave, row
from benchmarks.proof_models import RNG, Everywhere, memory_mb, random_weight, random_weights
from mitai.proof import kernels
from mitai.proof.answer import generate, statement
from mitai.proof.audit.check import Auditor, draw
from mitai.proof.audit.key import key_of
from mitai.proof.audit.plan import Plan
from mitai.proof.audit.trace import commit, respond
from mitai.proof.card import ModelCard, decoder
from mitai.proof.graph import Graph
from mitai.proof.models.calibration import calibrate, sample
from mitai.proof.prepared import Prepared
from mitai.proof.proving import Weights

RUNS = 5
PROMPT, ANSWER, SPOT = 24, 8, 16
SHALLOW = {"n_layer": 2, "num_hidden_layers": 2}
GROWTH_BITS = 4  # by which the squares of a deep model's layers are larger than those of its second one
CONFIGS: dict[str, dict[str, object]] = {
    "": {"model_type": "gpt2", "n_layer": 12},
    "-qwen05b": {
        "model_type": "qwen2", "vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864,
        "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2, "tie_word_embeddings": True,
    },
}  # fmt: skip


def main() -> None:
    """Measure all rows, each model by itself."""
    one_core = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    for name in CONFIGS:
        subprocess.run([sys.executable, "-m", __spec__.name, f"model{name}"], check=True, env=one_core)


def one(name: str) -> None:
    kernels.THREADS = 1
    model = prepared(CONFIGS[name])
    prompt = RNG.integers(0, model.card.model.vocabulary, PROMPT).tolist()
    start = time.process_time()
    answer = generate(model, prompt, ANSWER, lambda _: True)
    generate_s = time.process_time() - start
    committed = commit(model, prompt, answer)
    claim = statement(committed.unproven, model.card)
    start = time.process_time()
    key = key_of(model.card.identity, Plan.of(claim.program), model.weights.arrays)
    key_s = time.process_time() - start
    auditor = Auditor(committed, key)
    some = draw(auditor.plan, SPOT)
    whole, part = (b"".join(respond(model, committed, challenge)) for challenge in (None, some))

    def plain() -> None:
        program = model.card.program(PROMPT, ANSWER)
        for _ in program.results(claim.inputs, model.weights.arrays):
            pass

    committing, alone = interleave(RUNS, seconds(lambda: commit(model, prompt, answer)), seconds(plain))
    checking, beside, spot = interleave(
        RUNS,
        seconds(lambda: Auditor(committed, key).check(None, io.BytesIO(whole))),
        seconds(plain),
        seconds(lambda: Auditor(committed, key).check(some, io.BytesIO(part))),
    )
    peer = "the program alone"
    facts = {"generate_s": round(generate_s, 2), "trace_mb": round(len(whole) / 1e6, 1)}
    row(f"audit-commit{name}", committing, "s", peer=peer, peer_samples=alone, **facts)
    facts = {
        "spot_s": round(float(np.median(spot)), 3),
        "spot_mb": round(len(part) / 1e6, 2),
        "steps": len(auditor.plan.steps),
        "key_mb": round(len(key.encode()) / 1e6, 1),
        "key_s": round(key_s, 2),
        "rss_mb": round(memory_mb()),
    }
    row(f"audit-check{name}", checking, "s", peer=peer, peer_samples=beside, **facts)


def seconds(work: Callable[[], object]) -> Callable[[], float]:
    """Return a measure of processor time."""

    def measure() -> float:
        start = time.process_time()
        work()
        return time.process_time() - start

    return measure


class Deep(dict[str, int]):
    """Reaches of a model of two layers, for one of more: all later layers are as the second one."""

    def __missing__(self, name: str) -> int:
        self[name] = self["layers.1." + name.split(".", 2)[2]]
        return self[name]


def prepared(config: dict[str, object]) -> Prepared:
    """Return a model of random weights, never all in memory in floating point, which nobody has committed to."""
    model, shallow = decoder(json.dumps(config).encode()), decoder(json.dumps(config | SHALLOW).encode())
    program = shallow.measure(Graph(Everywhere()), 1).program()
    found = calibrate(random_weights(program), [sample(shallow, RNG.integers(0, model.vocabulary, PROMPT).tolist())])
    wider = dict.fromkeys(program.weights, 1) | {name: GROWTH_BITS for name in found if name.endswith(".square")}
    reaches = Deep({name: reach + wider.get(name, 0) for name, reach in found.items()})
    graph = model.measure(Graph(reaches), 1)
    shapes = graph.program().weights
    weights = graph.quantised((name, random_weight(name, weight.shape)) for name, weight in shapes.items())
    card = ModelCard(config=json.dumps(config), reaches=dict(reaches), weights="00" * 32)
    return Prepared(Path(), card, Weights(weights, None))


if __name__ == "__main__":
    one(sys.argv[1].removeprefix("model")) if len(sys.argv) > 1 else main()
