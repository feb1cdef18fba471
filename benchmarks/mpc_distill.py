"""What MPCFormer's approximations cost in accuracy, before and after our trainer has distilled the model for them.

Row: `mpc-distillation`, the largest gap between the full and the distilled model over the tasks, in points (percent of
the held-out texts); `tasks` has the table: the accuracy of the full model, of the same weights with Quad and 2Quad, and
after distillation (a job with the method `approximate`); with it, on how many held-out texts `mitai.mpc` answers as
torch does: the reference engine on all of them, the two parties' protocol on some.

The full models are BERTs of 4 layers and width 128 that learn each task here, from nothing. The tasks are made by a
grammar, after two of GLUE: `sentiment` (SST-2: one text; negation; what follows "but" decides) and `entailment` (MNLI:
two texts, three classes; kinds of things, opposites). Test texts do not occur among those for training; distillation
sees these without labels. All is seeded.

`python -m benchmarks.mpc_distill --only sentiment --texts 4` is the quick one.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness import progress, row

if TYPE_CHECKING:
    from transformers import BertForSequenceClassification, PreTrainedTokenizerFast

    from mitai.capsule import MemorySource
    from mitai.mpc.engine import Engine

    Answers = Callable[[slice, Engine], list[int]]

Example = tuple[str, str, int]  # two texts, the second may be empty, and the class

TEST = 1000
LENGTH = 32
STEPS = 1000
DISTILLED_STEPS, LAYERS = 400, 0.7
BATCH = 32

# --- tasks ---

GOOD = ["lovely", "brilliant", "charming", "clever", "warm", "funny", "fresh", "moving", "superb", "bright"]
BAD = ["dull", "awful", "clumsy", "boring", "cold", "stale", "shallow", "noisy", "dreadful", "bleak"]
NOUNS = ["film", "story", "cast", "plot", "music", "dialogue", "ending", "camera", "script", "hero"]
PLACES = ("in the garden", "at the station", "near the river", "after lunch", "last winter", "in the office")
KINDS = {
    "animal": ["dog", "cat", "horse", "cow"],
    "person": ["doctor", "farmer", "singer", "pilot"],
    "vehicle": ["car", "truck", "bus", "bicycle"],
}
OPPOSITES = [("big", "small"), ("old", "young"), ("clean", "dirty"), ("slow", "fast"), ("rich", "poor")]
DOING = [("sleeps", "wakes"), ("arrives", "leaves"), ("stops", "moves"), ("wins", "loses"), ("rises", "falls")]


def sentiment(chance: random.Random) -> Example:
    """Several clauses; each is turned by "not"; after "but" the last decides, else the majority does."""
    clauses, values = [], []
    for _ in range(chance.choice((1, 3))):
        good, negated = chance.random() < 0.5, chance.random() < 0.4
        word = chance.choice(GOOD if good else BAD)
        clauses.append(
            f"the {chance.choice(NOUNS)} is {'not ' * negated}{chance.choice(('', 'very ', 'rather '))}{word}"
        )
        values.append(good != negated)
    if len(clauses) == 3 and chance.random() < 0.5:
        return f"{clauses[0]} and {clauses[1]} but {clauses[2]}", "", int(values[2])
    return " and ".join(clauses), "", int(2 * sum(values) > len(values))


def entailment(chance: random.Random) -> Example:
    """0: it follows; 1: it contradicts; 2: it may or may not be so."""
    kind = chance.choice(list(KINDS))
    named = chance.choice((thing := chance.choice(KINDS[kind]), kind))
    pair, doing = chance.choice(OPPOSITES), chance.choice(DOING)
    size, does, label = chance.randrange(2), chance.randrange(2), chance.randrange(3)
    premise = f"the {pair[size]} {thing} {doing[does]}{chance.choice(('', *(' ' + place for place in PLACES)))}"
    if label == 2:
        other = chance.choice(chance.choice([each for each in OPPOSITES if each != pair]))
        return premise, f"the {other} {named} {doing[does]}", 2
    turned = label * chance.choice((1, 2))  # neither, what it is like, or what it does
    return premise, f"the {pair[size ^ (turned == 1)]} {named} {doing[does ^ (turned == 2)]}", label


TASKS: dict[str, tuple[Callable[[random.Random], Example], int, int, float]] = {
    "sentiment": (sentiment, 6000, 2, 0.02),
    "entailment": (entailment, 3000, 3, 0.06),
}  # texts for training, classes, and the deviation of weights: with these a BERT learns it in few steps


def examples(make: Callable[[random.Random], Example], count: int) -> tuple[list[Example], list[Example]]:
    """Return examples for training and others for the test; no text is in both."""
    chance = random.Random(0)
    found = list(dict.fromkeys(make(chance) for _ in range(4 * (count + TEST))))[: count + TEST]
    assert len(found) == count + TEST
    return found[TEST:], found[:TEST]


# --- the full model ---


def tokenizer() -> PreTrainedTokenizerFast:
    """Return one with a word a token, as BERT's otherwise."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = {
        word
        for make, count, *_ in TASKS.values()
        for a, b, _ in examples(make, count)[0]
        for word in f"{a} {b}".split()
    }
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *sorted(words)])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", ends)
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]")


def batch(tokens: PreTrainedTokenizerFast, chosen: Sequence[Example]) -> dict[str, Any]:
    """Return examples as BERT takes them."""
    return dict(tokens.pad([encoded(tokens, each) for each in chosen], return_tensors="pt"))


def encoded(tokens: PreTrainedTokenizerFast, example: Example) -> dict[str, list[int]]:
    """Return an example's tokens, and which of both texts each belongs to."""
    first, second, _ = example
    return dict(tokens(*([first, second] if second else [first]), return_token_type_ids=True))


def taught(
    tokens: PreTrainedTokenizerFast, train: list[Example], labels: int, deviation: float
) -> BertForSequenceClassification:
    """Return a BERT that has learnt a task from nothing."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, set_seed

    set_seed(1)
    config = BertConfig(
        vocab_size=len(tokens), hidden_size=128, num_hidden_layers=4, num_attention_heads=4, intermediate_size=512,
        max_position_embeddings=LENGTH, num_labels=labels, initializer_range=deviation,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, architectures=["BertForSequenceClassification"],
    )  # fmt: skip
    model = BertForSequenceClassification(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-4, total_steps=STEPS, pct_start=0.1)
    for _ in range(STEPS):
        chosen = random.sample(train, BATCH)
        wanted = torch.tensor([label for _, _, label in chosen])
        loss = torch.nn.functional.cross_entropy(model(**batch(tokens, chosen)).logits, wanted)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def answers(model: BertForSequenceClassification, tokens: PreTrainedTokenizerFast, test: list[Example]) -> list[int]:
    """Return a model's classes."""
    import torch

    with torch.inference_mode():
        parts = [test[start : start + 100] for start in range(0, len(test), 100)]
        return [label for part in parts for label in model(**batch(tokens, part)).logits.argmax(-1).tolist()]


# --- distillation, as a job ---

JOB = f"""
[job]
name = "approximate"
method = "approximate"
model = "full"
data = ["texts"]
seed = 7
[limits]
steps = {DISTILLED_STEPS}
[training]
epochs = 50
batch = {BATCH}
max_length = {LENGTH}
learning_rate = 3e-4
warmup_steps = 50
[approximate]
layers = {LAYERS}
"""


def distilled(folder: Path, train: list[Example]) -> MemorySource:
    """Return the folder of the model that our trainer makes of the full one and of texts without labels."""
    from mitai.capsule import FolderSource, MemorySource
    from mitai.train.job import Job
    from mitai.train.run import run

    records = "\n".join(json.dumps({"text": a, "pair": b} if b else {"text": a}) for a, b, _ in train)
    losses: list[float] = []
    sources = {"full": FolderSource(folder), "texts": MemorySource({"texts.jsonl": records.encode()})}
    made = run(Job.parse(JOB), sources, report=lambda numbers: losses.append(numbers["loss"]))
    turn = round(LAYERS * len(losses))
    progress(f"  layers {losses[0]:.3f} → {losses[turn - 1]:.4f}, answers {losses[turn]:.4f} → {losses[-1]:.5f}")
    return MemorySource(made.files)


# --- the same answers by secure computation ---


def secure_answers(source: MemorySource, folder: Path, tokens: PreTrainedTokenizerFast, test: list[Example]) -> Answers:
    """Return what `mitai.mpc` answers: a function of which texts are asked about in one batch, and of an engine."""
    from mitai.mpc.models.arrays import Arrays, Tensors
    from mitai.mpc.models.bert import Bert
    from mitai.mpc.models.config import BertConfig, parse_config

    (folder / "model.safetensors").write_bytes(source.read("model.safetensors"))
    config = parse_config(source.read("config.json"), BertConfig)
    assert config.mpc_approx == "mpcformer"
    model = Bert(config)

    def answer(chosen: slice, engine: Engine) -> list[int]:
        rows = [encoded(tokens, each) for each in test[chosen]]
        ids, types = [each["input_ids"] for each in rows], [each["token_type_ids"] for each in rows]
        weights = model.load(Arrays(engine, "model", model.arrays(Tensors(folder))))
        client = Arrays(engine, "client", model.prompts(ids, LENGTH, types))
        logits = model.classify(weights, client, batch=len(rows), length=LENGTH)
        labels: list[int] = engine.reveal(logits).argmax(-1).tolist()
        return labels

    return answer


def measured(name: str, tokens: PreTrainedTokenizerFast, texts: int) -> dict[str, object]:
    """Return one task's line of the table."""
    from mitai.mpc.clear import ClearEngine
    from mitai.mpc.two.local import run
    from mitai.train.approximation import approximate, load

    make, count, labels, deviation = TASKS[name]
    train, test = examples(make, count)
    progress(f"{name}: {len(train)} texts for training, {len(test)} for the test")

    def accuracy(found: list[int]) -> float:
        return percent(found, [label for _, _, label in test])

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        full = taught(tokens, train, labels, deviation)
        full.save_pretrained(folder)
        tokens.save_pretrained(folder)
        before = accuracy(answers(full, tokens, test))
        without = accuracy(answers(approximate(full), tokens, test))
        source = distilled(folder, train)
        student: Any = load(source, classifiers=True).model
        found = answers(student, tokens, test)
        line: dict[str, object] = {"task": name, "full": before, "approximated": without, "distilled": accuracy(found)}
        progress(f"  {line}")
        secure = secure_answers(source, folder, tokens, test)
        parts = [slice(start, start + 100) for start in range(0, len(test), 100)]
        clear = [label for part in parts for label in secure(part, ClearEngine())]
        shared, _ = run(partial(secure, slice(0, texts))).results
    return line | {"fixed_point_equal": percent(clear, found), "protocol_equal": percent(shared, found[:texts])}


def percent(found: Sequence[int], wanted: Sequence[int]) -> float:
    """Return how many are equal, in percent."""
    return round(100 * sum(a == b for a, b in zip(found, wanted, strict=True)) / len(wanted), 2)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", choices=TASKS)
    parser.add_argument("--texts", type=int, default=8, help="so many texts are also classified by two parties")
    options = parser.parse_args()
    import torch
    from transformers.utils.logging import disable_progress_bar

    torch.set_num_threads(1)
    disable_progress_bar()
    tokens = tokenizer()
    lines = []
    for name in [options.only] if options.only else TASKS:
        begun = time.process_time()
        line = measured(name, tokens, options.texts)
        lines.append(line | {"cpu_s": round(time.process_time() - begun)})
    gaps = [float(str(line["full"])) - float(str(line["distilled"])) for line in lines]
    row("mpc-distillation", [max(gaps)], "points", tasks=lines)


if __name__ == "__main__":
    main()
