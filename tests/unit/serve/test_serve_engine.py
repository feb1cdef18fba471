"""The engine: what it generates, alone and in company."""

from __future__ import annotations

import asyncio

import pytest
import torch
from transformers import AutoModelForCausalLM

from mitai.capsule import FolderSource
from mitai.serve.engine import GenerationRequest, Sampling
from mitai.serve.transformers_engine import EngineOptions, TransformersEngine


async def run(engine, prompt, n=1, **sampling):
    request = GenerationRequest([prompt], Sampling(**{"max_tokens": 12, "temperature": 0.0, **sampling}), n)
    steps = [step async for step in engine.generate(request)]
    return ["".join(step.text for step in steps if step.choice == choice) for choice in range(n)], steps


def expected(folder, prompt, count):
    """Greedy continuation by plain transformers, one forward pass over everything per token."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokens = list(prompt)
    with torch.inference_mode():
        for _ in range(count):
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
            if tokens[-1] == 0:
                break
    return tokens[len(prompt) :]


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2"])
async def test_a_crowd_gets_what_each_gets_alone(model_folders, kind):
    folder = model_folders[kind]
    options = EngineOptions(threads=1, step_tokens=8, max_sequences=5)  # small: prompts come in chunks, sequences queue
    engine = TransformersEngine.load(FolderSource(folder), options=options)
    try:
        assert engine._packed
        prompts = [engine.tokenize("the quick brown fox 密态" * size)[: 3 + 7 * size] for size in range(1, 9)]
        answers = await asyncio.gather(
            *(run(engine, prompt, max_tokens=4 + at * 2) for at, prompt in enumerate(prompts))
        )
        for at, (prompt, (texts, steps)) in enumerate(zip(prompts, answers, strict=True)):
            want = expected(folder, prompt, 4 + at * 2)
            assert steps[-1].tokens == len(want)
            assert texts[0] == engine.tokenizer.decode([t for t in want if t]).rstrip("\ufffd")
        assert not engine._answering
        assert not engine._reading
    finally:
        engine.close()
