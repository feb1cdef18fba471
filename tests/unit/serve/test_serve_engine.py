"""The engine: what it generates, alone and in company."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest
import torch
from serve_models import make_model
from transformers import AutoModelForCausalLM

from mitai.capsule import FolderSource
from mitai.errors import ServeError
from mitai.serve.engine import GenerationRequest, Sampling
from mitai.serve.transformers_engine import EngineOptions, TransformersEngine


def open_engine(folder, **options):
    return TransformersEngine.load(FolderSource(folder), options=EngineOptions(threads=1, **options))


async def run(engine, prompt, n=1, **sampling):
    request = GenerationRequest([prompt], Sampling(**{"max_tokens": 12, "temperature": 0.0, **sampling}), n)
    steps = [step async for step in engine.generate(request)]
    return ["".join(step.text for step in steps if step.choice == choice) for choice in range(n)], steps


def reference(folder):
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def expected(model, prompt, count):
    """Greedy continuation by plain transformers, one forward pass over everything per token."""
    tokens = list(prompt)
    with torch.inference_mode():
        for _ in range(count):
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
            if tokens[-1] == 0:
                break
    return tokens[len(prompt) :]


async def check_crowd(folder, *, packed, sizes=range(1, 9), **options):
    """Many requests at once, prompts in chunks, some waiting for a place: each gets what it would get alone."""
    engine, model = open_engine(folder, step_tokens=8, max_sequences=5, **options), reference(folder)
    try:
        assert engine._packed is packed
        prompts = [engine.tokenize("the quick brown fox 密态" * size)[: 3 + 7 * size] for size in sizes]
        answers = await asyncio.gather(
            *(run(engine, prompt, max_tokens=4 + at * 2) for at, prompt in enumerate(prompts))
        )
        for at, (prompt, (texts, steps)) in enumerate(zip(prompts, answers, strict=True)):
            want = expected(model, prompt, 4 + at * 2)
            assert steps[-1].tokens == len(want)
            assert texts[0] == engine.tokenizer.decode([t for t in want if t]).rstrip("\ufffd")
        engine._inbox.put(None)  # one more turn
        for _ in range(100):
            if not (engine._answering or engine._reading):
                break
            await asyncio.sleep(0.01)
        assert [*engine._answering, *engine._reading, *engine._waiting] == []
    finally:
        engine.close()


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2"])
async def test_a_crowd_gets_what_each_gets_alone(model_folders, kind):
    await check_crowd(model_folders[kind], packed=True)


async def test_a_small_cache_makes_requests_wait_and_changes_nothing(llama_folder):
    await check_crowd(llama_folder, packed=True, cache_bytes=64 * 1024)


async def test_ids_for_which_the_tokenizer_has_no_token_are_no_text(tmp_path):
    """Tables of embeddings are often larger than the vocabulary; random weights choose such ids too."""
    engine = open_engine(make_model(tmp_path / "padded", "qwen2", vocab_size=4096))
    try:
        (text,), steps = await run(engine, engine.tokenize("hello"), max_tokens=40, temperature=1.0, seed=5, logprobs=1)
        known = engine.tokenizer.get_vocab_size()
        assert engine.info.vocabulary == 4096 > known
        assert steps[-1].tokens == 40
        assert len(text) < 40
    finally:
        engine.close()


async def test_a_sliding_window(tmp_path):
    folder = make_model(tmp_path / "mistral", "mistral")  # sees 9 tokens; the prompts are longer
    await check_crowd(folder, packed=True)


@pytest.mark.parametrize("kind", ["bloom", "gemma2"])
async def test_other_architectures_run_one_by_one(tmp_path, kind):
    await check_crowd(make_model(tmp_path / kind, kind), packed=False, sizes=range(1, 4))


async def test_a_long_prompt_does_not_stall_an_answer(engine):
    long_prompt = engine.tokenize("the lazy dog " * 60)[:400]  # 13 passes of 32 tokens
    first = GenerationRequest([engine.tokenize("hello")], Sampling(max_tokens=60, temperature=1.0, seed=3))
    order = []

    async def note(request, name):
        async for _ in engine.generate(request):
            order.append(name)  # noqa: PERF401 - the order among several is what counts

    async def later():
        await asyncio.sleep(0.02)
        await note(GenerationRequest([long_prompt], Sampling(max_tokens=1)), "long")

    order.append("start")
    await asyncio.gather(note(first, "short"), later())
    assert order.index("long") > 10  # the short answer went on meanwhile


async def test_a_seed_repeats_in_any_company(engine):
    prompt = engine.tokenize("the quick")
    settings = {"temperature": 1.0, "seed": 11, "max_tokens": 30}
    alone, _ = await run(engine, prompt, n=3, **settings)
    crowd = [run(engine, engine.tokenize("dog" * size), temperature=1.0, max_tokens=20) for size in range(1, 7)]
    together = await asyncio.gather(run(engine, prompt, n=3, **settings), *crowd)
    assert together[0][0] == alone
    assert len(set(alone)) == 3  # choices of one request differ
    other, _ = await run(engine, prompt, temperature=1.0, seed=12, max_tokens=30)
    assert other[0] != alone[0]


async def test_without_a_seed_answers_differ(engine):
    prompt = engine.tokenize("the quick")
    answers = await asyncio.gather(*(run(engine, prompt, temperature=1.0, max_tokens=30) for _ in range(3)))
    assert len({texts[0] for texts, _ in answers}) == 3


async def test_leaving_frees_the_place(llama_folder):
    engine = open_engine(llama_folder, max_sequences=1)
    try:
        request = GenerationRequest([engine.tokenize("hello")], Sampling(max_tokens=500, temperature=0.0))
        async with aclosing(engine.generate(request)) as steps:
            async for _ in steps:
                break
            waiting = asyncio.create_task(run(engine, engine.tokenize("dog"), max_tokens=2))
            await asyncio.sleep(0.05)
            assert not waiting.done()  # the only place is taken
        texts, _ = await asyncio.wait_for(waiting, 5)
        assert len(texts) == 1
    finally:
        engine.close()


async def test_several_prompts_and_choices(engine):
    prompts = [engine.tokenize("hello"), engine.tokenize("the lazy dog")]
    request = GenerationRequest(prompts, Sampling(max_tokens=5, temperature=0.0), 2)
    steps = [step async for step in engine.generate(request)]
    texts = ["".join(step.text for step in steps if step.choice == choice) for choice in range(4)]
    for at, prompt in enumerate(prompts):
        alone, _ = await run(engine, prompt, max_tokens=5)
        assert texts[2 * at] == texts[2 * at + 1] == alone[0]


async def test_the_context_length_ends_an_answer(llama_folder):
    engine = open_engine(llama_folder, max_context=24)
    try:
        prompt = engine.tokenize("the quick brown fox jumps")[:20]
        _, steps = await run(engine, prompt, temperature=1.0, seed=5, max_tokens=500)
        assert steps[-1].finish == "length"
        assert len(prompt) + steps[-1].tokens <= 25  # the last token needs no place in the context
        with pytest.raises(ServeError, match="1 to 24 fit"):
            await run(engine, list(range(1, 26)))
    finally:
        engine.close()


async def test_stop_strings(engine):
    prompt = engine.tokenize("the quick brown")
    (text,), _ = await run(engine, prompt, max_tokens=40, temperature=1.0, seed=9)
    stop = text[5:8]
    assert stop
    (cut,), steps = await run(engine, prompt, max_tokens=40, temperature=1.0, seed=9, stop=(stop,))
    assert cut == text[: text.index(stop)]
    assert steps[-1].finish == "stop"


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
async def test_log_probabilities_are_the_models(model_folders, kind):
    engine, model = open_engine(model_folders[kind]), reference(model_folders[kind])
    try:
        prompt = engine.tokenize("hello world 你好")
        _, steps = await run(engine, prompt, max_tokens=6, logprobs=4)
        reported = [each for step in steps for each in step.logprobs]
        tokens = expected(model, prompt, 6)
        with torch.inference_mode():
            logits = model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
        reference_logprobs = logits.log_softmax(dim=-1)
        assert len(reported) == len([token for token in tokens if token])
        for each, token, row in zip(reported, tokens, reference_logprobs, strict=False):
            assert each.token == engine.tokenizer.decode([token], skip_special_tokens=False)
            assert each.logprob == pytest.approx(float(row[token]), abs=1e-4)
            assert [other.logprob for other in each.top] == pytest.approx(row.topk(4).values.tolist(), abs=1e-4)
    finally:
        engine.close()


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
async def test_embeddings_are_normalised_means(model_folders, kind):
    engine, model = open_engine(model_folders[kind]), reference(model_folders[kind])
    try:
        prompts = [engine.tokenize("hello"), engine.tokenize("机密计算保护模型")]
        for prompt, vector in zip(prompts, await engine.embed(prompts), strict=True):
            with torch.inference_mode():
                hidden = model.base_model(torch.tensor([prompt])).last_hidden_state[0].mean(dim=0)
            assert vector == pytest.approx((hidden / hidden.norm()).tolist(), abs=1e-5)
    finally:
        engine.close()


async def test_a_frequency_penalty_ends_repetition(engine):
    prompt = engine.tokenize("the the the the")
    (plain,), _ = await run(engine, prompt, max_tokens=40)
    _, steps = await run(engine, prompt, max_tokens=40, frequency_penalty=2.0, presence_penalty=2.0, logprobs=0)
    tokens = [each.token for step in steps for each in step.logprobs]
    assert plain
    assert len(set(tokens)) > len(tokens) / 2


async def test_bad_prompts_and_a_closed_engine(llama_folder):
    engine = open_engine(llama_folder)
    for prompt in ([], [10**6], [-1]):
        with pytest.raises(ServeError):
            await run(engine, prompt)
        with pytest.raises(ServeError):
            await engine.embed([prompt])
    request = GenerationRequest([engine.tokenize("hello")], Sampling(max_tokens=400, temperature=1.0))

    async def close_meanwhile():
        async for _ in engine.generate(request):
            await asyncio.to_thread(engine.close)

    with pytest.raises(ServeError, match="unloaded"):
        await close_meanwhile()
    with pytest.raises(ServeError, match="unloaded"):
        await run(engine, [1])
    engine.close()


async def test_a_failing_step_fails_its_requests_and_not_the_engine(llama_folder, monkeypatch, capsys):
    engine = open_engine(llama_folder)
    try:
        with monkeypatch.context() as broken:
            broken.setattr(engine, "_choose", lambda *_: (_ for _ in ()).throw(RuntimeError("the prompt was hello")))
            with pytest.raises(ServeError) as caught:
                await run(engine, engine.tokenize("hello"))
        assert caught.value.code == "serve.engine-failed"
        assert "hello" not in str(caught.value) + capsys.readouterr().out
        assert (await run(engine, engine.tokenize("hello"), max_tokens=2))[1][-1].tokens == 2
    finally:
        engine.close()
