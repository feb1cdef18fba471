"""Train the demo model from scratch: a byte-level BPE tokenizer and a small Llama, on one CPU core.

    python models/demo/train.py        # writes src/mitai/demo_model/model and models/demo/training.json

The loss counts the assistant's tokens only. Master weights are float32, matrix products bfloat16, the saved weights
bfloat16. The result depends on the seed, the versions of torch, tokenizers and transformers, and the processor's
instruction set; with the same of all these it repeats bit by bit.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import hashlib
import itertools
import json
import math
import random
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import data
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

if TYPE_CHECKING:
    from torch import Tensor

OUT = Path(__file__).resolve().parents[2] / "src" / "mitai" / "demo_model" / "model"
START, END, PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
CONTEXT = 1024  # tokens
VOCABULARY = 2560
IGNORED = -100  # a label that the loss skips
DECIDING, DECIDING_WEIGHT = 6, 4.0  # tokens at the start of an answer, and what each of them counts

Sample = tuple[list[int], list[int]]  # token ids, labels


def corpus() -> Iterator[str]:
    """Yield every text of the data files, and the words around them."""
    for lang in data.LANGS:
        for topic in data.topics()[lang].values():
            yield from (topic.answer, topic.more or "", *topic.ask, *topic.terms)
        off = data.off_topic()[lang]
        yield from (off.answer, *off.ask, *off.frames, *off.things)
        words = data.phrases()[lang]
        yield from (words.no_more, words.about_what, *words.more, *words.switch, *words.system_prompts)
        yield from (*words.frames, *words.prefixes, *words.suffixes, *itertools.chain(*words.swaps))
    yield from ["user\n", "assistant\n", "system\n"] * 100


def train_tokenizer() -> PreTrainedTokenizerFast:
    """Train a byte-level BPE in which a Chinese character or a digit never merges with its neighbours."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\p{Han}|\p{N}"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=1,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Return a randomly initialised model."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        model_card="mitai demo model: a small demonstration that recites a few dozen answers; not for real advice",
    )
    return LlamaForCausalLM(config)


def encode(tokenizer: PreTrainedTokenizerFast, messages: list[data.Message]) -> Sample:
    """Return a conversation's tokens, and its labels: the assistant's words and the mark that ends them."""
    ids: list[int] = []
    labels: list[int] = []
    for message in messages:
        head = tokenizer.encode(f"{START}{message['role']}\n")
        body = tokenizer.encode(f"{message['content']}{END}")
        tail = tokenizer.encode("\n")
        ids += head + body + tail
        taught = message["role"] == "assistant"
        labels += [IGNORED] * len(head) + (body if taught else [IGNORED] * len(body)) + [IGNORED] * len(tail)
    return ids[:CONTEXT], labels[:CONTEXT]


def batches(tokenizer: PreTrainedTokenizerFast, rng: random.Random, tokens: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (ids, labels) of shape (batch, seq) and about `tokens` tokens, padded on the right.

    Conversations are drawn in pools that are sorted by length, so that little is padding.
    """
    stream = data.conversations(rng)
    while True:
        pool = sorted((encode(tokenizer, c) for c in itertools.islice(stream, 512)), key=lambda s: len(s[0]))
        groups: list[list[Sample]] = [[]]
        for sample in pool:
            if (len(groups[-1]) + 1) * len(sample[0]) > tokens and groups[-1]:
                groups.append([])
            groups[-1].append(sample)
        rng.shuffle(groups)
        for group in groups:
            width = max(len(ids) for ids, _ in group)
            ids = torch.zeros(len(group), width, dtype=torch.long)  # id 0 is the padding
            labels = torch.full((len(group), width), IGNORED)
            for row, (i, t) in enumerate(group):
                ids[row, : len(i)] = torch.tensor(i)
                labels[row, : len(t)] = torch.tensor(t)
            yield ids, labels


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Warm up over 3 % of the run, then follow a cosine down to 2 % of the peak."""
    warmup = max(1, steps * 3 // 100)
    if step < warmup:
        return peak * step / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


def weighted_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of (batch, seq, vocab) logits; an answer's first words, which decide it, count more."""
    taught = labels != IGNORED
    begins = taught & ~torch.nn.functional.pad(taught, (1, 0))[:, :-1]
    since = torch.arange(labels.shape[1]) - torch.where(begins, torch.arange(labels.shape[1]), 0).cummax(dim=1).values
    weights = torch.where(taught, torch.where(since < DECIDING, DECIDING_WEIGHT, 1.0), 0.0)
    losses = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="none")
    return (losses * weights.flatten()).sum() / weights.sum()


def build_optimizer(model: LlamaForCausalLM, peak: float) -> torch.optim.Optimizer:
    """Return AdamW; norms are not decayed."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.97))


def train(options: argparse.Namespace) -> list[dict[str, float]]:
    """Train, save to `options.out`, and return the log: one row per `options.log_every` steps."""
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(mode=True)
    tokenizer = train_tokenizer()
    model = build_model(tokenizer).train()
    optimizer = build_optimizer(model, options.lr)
    stream = batches(tokenizer, random.Random(options.seed), options.batch_tokens)
    say(f"{sum(p.numel() for p in model.parameters()):,} parameters, {options.steps} steps")
    log: list[dict[str, float]] = []
    begun, losses, tokens = time.monotonic(), [], 0
    for step in range(1, options.steps + 1):
        ids, labels = next(stream)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, options.steps, options.lr)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(input_ids=ids, use_cache=False).logits
        loss = weighted_loss(logits[:, :-1], labels[:, 1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        tokens += ids.numel()
        if step % options.log_every == 0 or step == options.steps:
            elapsed_s, mean = time.monotonic() - begun, sum(losses) / len(losses)
            log.append({"step": step, "loss": round(mean, 5), "tokens": tokens, "elapsed_s": round(elapsed_s, 1)})
            say(f"step {step:5}  loss {mean:.4f}  {step / elapsed_s:.2f} steps/s")
            losses = []
        if step % options.save_every == 0 or step == options.steps:
            save(model, tokenizer, options.out)
    return log


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write the model as an ordinary Hugging Face folder, in bfloat16."""
    rounded = copy.deepcopy(model).to(torch.bfloat16)
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    rounded.generation_config = GenerationConfig(
        do_sample=False, max_new_tokens=256, eos_token_id=end, pad_token_id=pad
    )
    rounded.save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / "chat_template.jinja").unlink(missing_ok=True)  # older loaders look for it in tokenizer_config.json
    config = json.loads((out / "tokenizer_config.json").read_text(encoding="utf-8"))
    config |= {"chat_template": CHAT_TEMPLATE, "tokenizer_class": "PreTrainedTokenizerFast"}
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    for path in out.iterdir():
        path.chmod(0o644)


def report(options: argparse.Namespace, log: list[dict[str, float]]) -> dict[str, object]:
    """Return what this run was: when, with what, its result, and its log."""
    return {
        "model_sha256": hashlib.sha256((options.out / "model.safetensors").read_bytes()).hexdigest(),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "options": {k: v for k, v in vars(options).items() if k not in ("out", "report")},
        "versions": {name: metadata.version(name) for name in ("torch", "transformers", "tokenizers")},
        "log": log,
    }


def say(text: str) -> None:
    """Tell whoever waits how far it is."""
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Parse the options and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--report", type=Path, default=Path(__file__).with_name("training.json"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=2600)
    parser.add_argument("--batch-tokens", type=int, default=1536)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--log-every", type=int, default=50)
    parser.add_argument("--save-every", type=int, default=500)
    options = parser.parse_args()
    written = report(options, train(options))
    options.report.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
