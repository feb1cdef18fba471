"""What fingerprints of activations cost, and how far honest computations and others are from each other.

Cost: the shape of SmolLM2-135M in bfloat16, random weights; two engines in one process, one takes fingerprints; the
same prompts, the runs interleaved. Margins: the demo model, its weights moved a little so that they use all digits of
float32; 40 tokens to each of four questions, so blocks of 32 and of 8 tokens.

Rows: `fingerprint-serve` (eight answers at a time, of 64 tokens; `alone_ratio` is one at a time; `share` the processor
time of collecting the same numbers by itself, of all that the bare engine takes; `block_ms` that of one fingerprint),
`fingerprint-check` (reading an answer again against generating it; `ratio` is the verifier's share), and for each
promised precision `fingerprint-float32` and `fingerprint-bfloat16`: the largest distance of an honest computation, in
steps of bfloat16, against what is allowed (`ratio`), with the `far` share, the least and largest distances of those
that are not honest, and the share of their answers that is refused.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.harness import interleave, progress, row

if TYPE_CHECKING:
    import torch

    from mitai.serve.fingerprints import Choice, Likeness
    from mitai.serve.loading import LoadedModel
    from mitai.serve.rerun import Rerun
    from mitai.serve.transformers_engine import TransformersEngine

RUNS = 5
TOKENS = 64
DEMO_TOKENS = 40
TOGETHER = 8
QUESTIONS = ("Who are you?", "What is a TEE?", "How does a mitai receipt work?", "How long is a year?")
Answered = list[tuple[list[int], "Choice"]]
Change = Callable[["torch.Tensor"], "torch.Tensor"]


def answers(engine: TransformersEngine, prompts: Sequence[list[int]], tokens: int, temperature: float) -> Answered:
    """Return prompts with their answers' tokens and fingerprints."""
    from mitai.serve.engine import GenerationRequest, Sampling

    sampling = Sampling(max_tokens=tokens, temperature=temperature, seed=7)

    async def one(prompt: list[int]) -> tuple[list[int], Choice]:
        *_, last = [step async for step in engine.generate(GenerationRequest([prompt], sampling))]
        return prompt, last.prints  # type: ignore[return-value]

    async def together() -> Answered:
        return list(await asyncio.gather(*map(one, prompts)))

    return asyncio.run(together())


def cost() -> None:
    """Measure both engines."""
    from benchmarks.models import smollm_135m
    from mitai.capsule import FolderSource
    from mitai.serve.fingerprints import encode
    from mitai.serve.loading import load
    from mitai.serve.printing import Printer
    from mitai.serve.rerun import Rerun
    from mitai.serve.transformers_engine import EngineOptions, TransformersEngine

    with tempfile.TemporaryDirectory() as name:
        progress("making a random model …")
        smollm_135m(Path(name) / "model")
        source = FolderSource(Path(name) / "model")
        engines = [
            TransformersEngine.load(source, options=EngineOptions(fingerprints=taken)) for taken in (True, False)
        ]
        rerun = Rerun(load(source))
    prompt = engines[0].tokenize("The quick brown fox")

    def seconds(engine: TransformersEngine, together: int) -> float:
        began = time.process_time()
        answers(engine, [prompt] * together, TOKENS, 1.0)
        return time.process_time() - began

    try:
        ours, bare = interleave(RUNS, *(lambda engine=engine: seconds(engine, TOGETHER) for engine in engines))  # type: ignore[misc]
        alone = interleave(RUNS, *(lambda engine=engine: seconds(engine, 1) for engine in engines))  # type: ignore[misc]
        choice = answers(engines[0], [prompt], TOKENS, 1.0)[0][1]
    finally:
        for engine in engines:
            engine.close()

    def read() -> float:
        began = time.process_time()
        rerun.read(prompt, choice.tokens)
        return time.process_time() - began

    (reading,) = interleave(RUNS, read)
    hidden = rerun.read(prompt, choice.tokens).hidden

    def collect() -> float:
        began = time.process_time()
        for _ in range(TOGETHER):
            printer = Printer()
            for token, states in zip(choice.tokens, hidden, strict=True):
                printer.add(token, states)
            printer.choice()
        return time.process_time() - began

    def encode_one() -> float:
        began = time.process_time()
        encode(hidden[:32])
        return time.process_time() - began

    collecting, encoding = interleave(RUNS * 3, collect, encode_one)
    row(
        "fingerprint-serve",
        ours,
        "CPU-s",
        peer="the same engine without",
        peer_samples=bare,
        alone_ratio=round(statistics.median(alone[0]) / statistics.median(alone[1]), 4),
        share=round(statistics.median(collecting) / statistics.median(bare), 5),
        block_ms=round(statistics.median(encoding) * 1e3, 3),
        bytes_per_block=len(choice.blocks[0]),
    )
    row("fingerprint-check", reading, "CPU-s", peer="generating it", peer_samples=alone[1], tokens=TOKENS)


def demo(precision: str, change: Change | None = None, dtype: str = "") -> LoadedModel:
    """Return the demo model with weights that use all digits, changed, in a precision."""
    import torch

    from mitai.capsule import FolderSource
    from mitai.demo_model import path
    from mitai.serve.loading import load

    loaded = load(FolderSource(path()))
    model: torch.nn.Module = loaded.model
    model.to(torch.float32)
    dice = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(1 + (torch.rand(weights.shape, generator=dice) - 0.5) * 2**-7)
        model.to(getattr(torch, precision))
        for weights in model.parameters():
            if change is not None:
                weights.copy_(change(weights.float()))
        model.to(getattr(torch, dtype or precision))
    return loaded


def rounded(bits: int) -> Change:
    """Return what quantises each row of a matrix to so many bits."""

    def change(weights: torch.Tensor) -> torch.Tensor:
        if weights.dim() < 2:
            return weights
        scale = weights.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
        quantised: torch.Tensor = (weights / scale).round() * scale
        return quantised

    return change


def margins(precision: str) -> None:
    """Print how far honest computations and others are, where this precision was promised."""
    import torch

    from mitai.serve.fingerprints import ALLOWED, BLOCK_TOKENS, compare
    from mitai.serve.rerun import Rerun
    from mitai.serve.transformers_engine import EngineOptions, TransformersEngine

    def made(loaded: LoadedModel, step_tokens: int = 256, *, together: bool = True) -> Answered:
        engine = TransformersEngine(
            loaded, name="demo", options=EngineOptions(fingerprints=True, step_tokens=step_tokens, threads=1)
        )
        prompts = [engine.chat_prompt([{"role": "user", "content": question}]) for question in QUESTIONS]
        groups = [prompts] if together else [[prompt] for prompt in prompts]
        try:
            return [answer for group in groups for answer in answers(engine, group, DEMO_TOKENS, 0.0)]
        finally:
            engine.close()

    def seen(rerun: Rerun, found: Answered, prompts: Sequence[list[int]] = ()) -> list[list[Likeness]]:
        """Return for each answer how near its blocks are."""
        near = []
        for at, (prompt, choice) in enumerate(found):
            hidden = rerun.read(prompts[at] if prompts else prompt, choice.tokens).hidden
            starts = range(0, len(choice.tokens), BLOCK_TOKENS)
            blocks = zip(choice.blocks, starts, strict=True)
            near.append([compare(block, hidden[start : start + BLOCK_TOKENS]) for block, start in blocks])
        return near

    def distances(near: list[list[Likeness]]) -> list[float]:
        return [round(block.distance, 4) for blocks in near for block in blocks]

    rerun = Rerun(demo(precision))
    eager = demo(precision)
    eager.model.set_attn_implementation("eager")  # type: ignore[no-untyped-call]
    full = demo(precision, dtype="float32")
    together = made(demo(precision))
    prompts = [prompt for prompt, _ in together]
    honest = {
        "together": seen(rerun, together),
        "alone": seen(rerun, made(demo(precision), together=False)),
        "prompt in pieces": seen(rerun, made(demo(precision), 5)),
        "other attention": seen(Rerun(eager), together),
        "float32 verifier": seen(Rerun(full), together),
    }
    other = {
        "int8 weights": seen(rerun, made(demo(precision, rounded(8)))),
        "int4 weights": seen(rerun, made(demo(precision, rounded(4)))),
        "weights 1 % larger": seen(rerun, made(demo(precision, lambda weights: weights * 1.01))),
        "another prompt": seen(rerun, together, prompts[1:] + prompts[:1]),
        "a token more": seen(rerun, together, [[*prompt[:3], 7, *prompt[3:]] for prompt in prompts]),
    }
    if precision == "float32":
        other["bfloat16 weights"] = seen(
            rerun, made(demo(precision, lambda weights: weights.to(torch.bfloat16).float()))
        )
        other["in bfloat16"] = seen(rerun, made(demo(precision, dtype="bfloat16")))
    allowed = ALLOWED[precision]

    def refused(block: Likeness) -> bool:
        return block.far > allowed.far or block.distance > allowed.distance

    row(
        f"fingerprint-{precision}",
        [max(max(distances(near)) for near in honest.values())],
        "steps",
        peer="allowed",
        peer_samples=[allowed.distance],
        far=round(max(block.far for near in honest.values() for blocks in near for block in blocks), 4),
        far_allowed=allowed.far,
        honest={name: max(distances(near)) for name, near in honest.items()},
        others={name: [min(distances(near)), max(distances(near))] for name, near in other.items()},
        refused={name: statistics.mean(any(map(refused, blocks)) for blocks in near) for name, near in other.items()},
    )


def main() -> None:
    cost()
    for precision in ("float32", "bfloat16"):
        margins(precision)


if __name__ == "__main__":
    main()
