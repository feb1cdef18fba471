"""Proofs: how time grows with models and tokens, up to 0.5 billion parameters, and what 7 billion would take.

Rows, in group `proof`; random weights with the true shapes, in files and without their code (docs/proof.md), each shape
in a process of its own, the shape of Qwen2-0.5B where 8 GB of memory and 12 GB of disk are free:

- `proof-slowdown-SHAPE-TOKENS`: processor time of a proof to that of the same integers without one (`plain_cpu_s`).
- `proof-growth-power`: the exponent of parameters in k · parameters^a · tokens^b, by least squares of logarithms;
  `tokens` is b, `residuals` what each point is off, in percent.
- `proof-growth-linear`: nanoseconds for each of the weights in a + b · weights + c · look-ups, by least squares of
  relative errors; both count what is worked on: with padding to powers of two.
- `proof-projection-7b-TOKENS`: seconds of processor time that this line has for Llama-2's 7 billion parameters. It was
  not run. It assumes that time stays a straight line 16 times beyond the largest model here, that files are read as
  quickly as they are computed with, and that memory is there for the look-ups: `lookup_gb`, at 80 bytes each, as here.

The plot is `benchmarks/out/proof-growth.png`. Published figures that it shows, on other machines and of other proofs:

- zkLLM (Sun, Li, Zhang 2024, arXiv 2404.16109): 13 billion parameters "in under 15 minutes" on an A100, sequences of
  2048 tokens, zero-knowledge, interactive. So many tokens of 7 billion parameters are more than 2^34 look-ups here.
- DeepProve (github.com/Lagrange-Labs/deep-prove, README as read in November 2026): GPT-2 with 512 tokens in 7.6 minutes
  on 24 cores with 504 GB.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from shutil import disk_usage
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import OUT, progress, row
from benchmarks.proof_models import (
    LLAMA,
    QWEN05B,
    Everywhere,
    Made,
    forget_peak,
    free_gb,
    out_folder,
    peak_mb,
    prepared,
)
from mitai.mpc.models.config import LlamaConfig
from mitai.proof.graph import Graph
from mitai.proof.lowering import lower
from mitai.proof.models.llama import Llama
from mitai.proof.operation import Ints
from mitai.proof.program import Program
from mitai.proof.proving import prove
from mitai.proof.verify.claims import places
from mitai.proof.verify.layout import Layout
from mitai.proof.verify.lookups import logs
from mitai.proof.verify.program import verify

T = TypeVar("T")
Line = NDArray[np.float64]

LOOKUP_BYTES = 80
PARAMETERS_7B = 6.74e9
SMALL = 2e8  # parameters of models that are proven twice
QWEN_FREE_GB, QWEN_DISK_GB = 8, 12


def llama(
    hidden: int, layers: int, inner: int, vocabulary: int = 32000, *, head: int = 64, tied: bool = True
) -> LlamaConfig:
    return LlamaConfig(
        model_type="llama",
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=hidden // head,
        vocab_size=vocabulary,
        tie_word_embeddings=tied,
    )


SHAPES = {
    "llama1m": (llama(128, 4, 352, 4096), (8, 16, 32, 64)),
    "llama15m": (LLAMA, (8, 16, 32, 64)),
    "llama42m": (llama(512, 8, 1376), (8, 16, 32, 64)),
    "llama110m": (llama(768, 12, 2048), (8, 16, 32, 64)),
    "qwen05b": (QWEN05B, (8, 16)),
}
LLAMA7B = llama(4096, 32, 11008, head=128, tied=False)
PROJECTED = (8, 32, 512)
PUBLISHED = {"zkLLM 13B, 2048 tokens, A100": (13e9, 900.0), "DeepProve GPT-2, 512 tokens, 24 cores": (124e6, 456.0)}


def main() -> None:
    """Measure all shapes, fit, project and draw."""
    found: list[dict[str, float]] = []
    for name in SHAPES:
        if name == "qwen05b" and (free_gb() < QWEN_FREE_GB or disk_usage(out_folder()).free < QWEN_DISK_GB << 30):
            progress(f"{name} is left out: it takes {QWEN_FREE_GB} GB of memory and {QWEN_DISK_GB} GB of disk")
            continue
        command = [sys.executable, "-m", __spec__.name, name]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        print(done.stdout, end="", flush=True)
        found += map(json.loads, done.stdout.splitlines())
    power(found)
    line = linear(found)
    projected = [(tokens, project(line, tokens)) for tokens in PROJECTED]
    draw(found, projected, OUT / "proof-growth.png")


def shape(name: str) -> None:
    """Print a shape's rows."""
    config, counts = SHAPES[name]
    model = Llama(config)
    with tempfile.TemporaryDirectory(dir=out_folder()) as folder:
        made = prepared(model, max(counts), Path(folder), code=False)
        for tokens in counts:
            program = model.write(Graph(made.reaches), tokens, keep=False).program()
            one(f"proof-slowdown-{name}-{tokens}", program, made.inputs["tokens"][:tokens], made)


def one(name: str, program: Program, tokens: Ints, made: Made) -> None:
    inputs = {"tokens": tokens}
    plain = min(spent(lambda: program.run(inputs, made.weights.arrays))[1] for _ in range(3))
    forget_peak()
    proof, cpu_s, wall_s = spent(lambda: prove(program, inputs, made.weights))
    if made.facts["parameters"] < SMALL:
        _, again_s, _ = spent(lambda: prove(program, inputs, made.weights))
        cpu_s = min(cpu_s, again_s)
    memory = {"rss_mb": peak_mb("VmHWM"), "mapped_mb": peak_mb("RssFile")}
    _, verify_s, _ = spent(lambda: verify(proof.statement, proof.messages))
    row(
        name,
        [cpu_s / plain],
        "x",
        peer="the same integers",
        cpu_s=round(cpu_s, 3),
        wall_s=round(wall_s, 3),
        plain_cpu_s=round(plain, 4),
        verify_cpu_s=round(verify_s, 3),
        bytes=len(proof.messages),
        tokens=len(tokens),
        **sizes(program),
        **memory,
        **made.facts,
    )


def spent(work: Callable[[], T]) -> tuple[T, float, float]:
    """Return what work gives, its processor time and its wall."""
    cpu, wall = time.process_time(), time.perf_counter()
    result = work()
    return result, time.process_time() - cpu, time.perf_counter() - wall


def sizes(program: Program) -> dict[str, int]:
    """Return how many weights and look-ups a proof works on, with padding."""
    plan = lower(program)
    by_table: dict[tuple[int | None, int], list[int]] = {}
    for entry in plan.listed:
        by_table.setdefault((entry.table, entry.bits), []).append(sum(logs(plan.shape(entry.nodes[0]))))
    return {
        "weights": 1 << Layout.of([weight.shape for weight in program.weights.values()]).log,
        "lookups": sum(1 << places(columns)[1] for columns in by_table.values()),
    }


def power(found: Sequence[dict[str, float]]) -> None:
    """Fit k · parameters^a · tokens^b."""
    columns = np.array([[1, np.log(one["parameters"]), np.log(one["tokens"])] for one in found])
    time_s = np.array([one["cpu_s"] for one in found])
    (k, a, b), *_ = np.linalg.lstsq(columns, np.log(time_s), rcond=None)
    residuals = np.exp(np.log(time_s) - columns @ [k, a, b]) - 1
    row("proof-growth-power", [a], "", tokens=round(b, 3), seconds=float(f"{np.exp(k):.3g}"), **named(found, residuals))


def linear(found: Sequence[dict[str, float]]) -> Line:
    """Fit a + b · weights + c · look-ups."""
    time_s = np.array([one["cpu_s"] for one in found])
    columns = np.array([[1, one["weights"], one["lookups"]] for one in found])
    line, *_ = np.linalg.lstsq(columns / time_s[:, None], np.ones(len(found)), rcond=None)
    residuals = time_s / (columns @ line) - 1
    start, weight, lookup = line
    more = {"lookup_ns": round(lookup * 1e9, 1), "start_s": round(start, 3)}
    row("proof-growth-linear", [weight * 1e9], "ns", **more, **named(found, residuals))
    return line


def named(found: Sequence[dict[str, float]], residuals: Line) -> dict[str, object]:
    names = [str(one["name"]).removeprefix("proof-slowdown-") for one in found]
    return {"residuals": dict(zip(names, (round(100 * float(one)) for one in residuals), strict=True))}


def project(line: Line, tokens: int) -> float:
    """Print what the line has for 7 billion parameters."""
    size = sizes(Llama(LLAMA7B).write(Graph(Everywhere()), tokens, keep=False).program())
    seconds = float(line @ [1, size["weights"], size["lookups"]])
    row(
        f"proof-projection-7b-{tokens}",
        [seconds],
        "s",
        lookup_gb=round(size["lookups"] * LOOKUP_BYTES / 1e9, 1),
        **size,
    )
    return seconds


def draw(found: Sequence[dict[str, float]], projected: Sequence[tuple[int, float]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 6), layout="constrained")
    for tokens in sorted({int(one["tokens"]) for one in found}):
        some = sorted((one["parameters"], one["cpu_s"]) for one in found if one["tokens"] == tokens)
        axes.plot(*zip(*some, strict=True), marker="o", label=f"{tokens} tokens")
    for tokens, seconds in projected[1:]:
        axes.plot(PARAMETERS_7B, seconds, marker="x", color="gray")
        axes.annotate(f"7B, {tokens} tokens, projected  ", (PARAMETERS_7B, seconds), fontsize=8, ha="right", va="top")
    for name, (parameters, seconds) in PUBLISHED.items():
        axes.plot(parameters, seconds, marker="*", color="#b3362b")
        axes.annotate(f"{name} (wall)  ", (parameters, seconds), fontsize=8, ha="right", va="bottom")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("parameters")
    axes.set_ylabel("processor seconds to prove the next token")
    axes.legend()
    figure.savefig(path, dpi=130)
    progress(f"plot: {path}")


if __name__ == "__main__":
    shape(sys.argv[1]) if len(sys.argv) > 1 else main()
