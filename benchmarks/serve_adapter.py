"""What an adapter costs: tokens per second and first token with LoRA put on, against the bare model in the same engine.

The shape of SmolLM2-135M in bfloat16, random weights; rank 16 on all linear layers of attention and feed-forward.
Two engines in one process, as many threads as there are cores; the same prompts, the runs interleaved.

Row: `serve-adapter` (eight answers at a time, of 32 tokens; `alone_ratio` is one at a time, `idle_ratio` the bare
model's name where an adapter is loaded and not asked for, `first_token_ratio` the time to one answer's first token).
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from benchmarks.harness import interleave, progress, row

if TYPE_CHECKING:
    from mitai.serve.transformers_engine import TransformersEngine

RUNS = 5
RANK = 16
TOKENS = 32
TOGETHER = 8
NAME = "bench:adapter"


def write_adapter(model: Path, folder: Path) -> None:
    """Write a random LoRA adapter for a model folder, as peft would."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    tensors, targets = {}, set()
    for name, layer in AutoModelForCausalLM.from_pretrained(model, dtype="auto").named_modules():
        if isinstance(layer, torch.nn.Linear) and name != "lm_head":
            targets.add(name.rpartition(".")[2])
            prefix = f"base_model.model.{name}"
            tensors[f"{prefix}.lora_A.weight"] = torch.randn(RANK, layer.in_features) * 0.01
            tensors[f"{prefix}.lora_B.weight"] = torch.randn(layer.out_features, RANK) * 0.01
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "target_modules": sorted(targets)}
    (folder / "adapter_config.json").write_bytes(msgspec.json.encode(config))


def rate(engine: TransformersEngine, adapter: str, together: int) -> tuple[float, float]:
    """Return tokens per second of so many answers at a time, and the seconds to the first token."""
    from mitai.serve.engine import GenerationRequest, Sampling

    request = GenerationRequest(
        [engine.tokenize("The quick brown fox")], Sampling(max_tokens=TOKENS, temperature=1.0, seed=7), adapter=adapter
    )

    async def one() -> tuple[int, float]:
        began, first, tokens = time.perf_counter(), 0.0, 0
        async for step in engine.generate(request):
            first, tokens = first or time.perf_counter() - began, step.tokens
        return tokens, first

    async def all_of_them() -> list[tuple[int, float]]:
        return await asyncio.gather(*(one() for _ in range(together)))

    began = time.perf_counter()
    answers = asyncio.run(all_of_them())
    return sum(tokens for tokens, _ in answers) / (time.perf_counter() - began), answers[0][1]


def main() -> None:
    from benchmarks.models import smollm_135m
    from mitai.capsule import FolderSource
    from mitai.serve.transformers_engine import TransformersEngine

    with tempfile.TemporaryDirectory() as name:
        model, adapter = Path(name) / "model", Path(name) / "adapter"
        progress("making a random model and an adapter …")
        smollm_135m(model)
        write_adapter(model, adapter)
        bare = TransformersEngine.load(FolderSource(model), name="bench")
        ours = TransformersEngine.load(FolderSource(model), name="bench", adapters={NAME: FolderSource(adapter)})
        sides = ((bare, ""), (ours, ""), (ours, NAME))
        firsts: dict[int, list[float]] = {0: [], 2: []}

        def alone(side: int) -> float:
            tokens, first = rate(*sides[side], 1)
            firsts.setdefault(side, []).append(first)
            return tokens

        try:
            at_once = interleave(RUNS, *(lambda side=side: rate(*side, TOGETHER)[0] for side in sides))  # type: ignore[misc]
            one_by_one = interleave(RUNS, lambda: alone(0), lambda: alone(1), lambda: alone(2))
        finally:
            bare.close()
            ours.close()

    def ratio(samples: list[float], to: list[float]) -> float:
        return round(statistics.median(samples) / statistics.median(to), 3)

    row(
        "serve-adapter",
        at_once[2],
        "tokens/s",
        peer="the bare model",
        peer_samples=at_once[0],
        rank=RANK,
        alone_ratio=ratio(one_by_one[2], one_by_one[0]),
        idle_ratio=ratio(at_once[1], at_once[0]),
        first_token_ratio=ratio(firsts[2], firsts[0]),
        first_token_ms=round(statistics.median(firsts[2]) * 1e3, 1),
    )


if __name__ == "__main__":
    main()
