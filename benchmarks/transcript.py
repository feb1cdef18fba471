"""Training transcripts: what recording and checking cost, and how many forged runs the check refuses.

Rows: `train-transcript` (processor time of checking a run of 200 steps, 10 % of its segments drawn, to that of the
same training without a transcript), `train-transcript-record` (training with a transcript to training without),
`train-transcript-caught-…` (of `--trials` seeded forged runs of 200 steps, how many are refused: with a tenth of the
steps forged in a row, with 15 % all over the run, with a single step). The runs that are timed are LoRA on the demo
model; the forged ones are of a random Llama of 7,000 weights, by the forgers of the tests.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "tests" / "unit" / "train"))

from benchmarks.harness import progress, row

STEPS = 200
MANIFESTS = {"base": "1" * 64, "records": "2" * 64}
JOB = f"""
[job]
name = "benchmark"
method = "sft"
model = "base"
data = ["records"]
[limits]
steps = {STEPS}
[training]
batch = 16
max_length = 96
learning_rate = 1e-3
[lora]
rank = 8
alpha = 16
"""
WORDS = (
    "patient",
    "dose",
    "heart",
    "rate",
    "high",
    "low",
    "normal",
    "fever",
    "cough",
    "daily",
    "tablet",
    "after",
    "meal",
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--only", choices=["cost", "caught"])
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    if options.only != "caught":
        cost()
    if options.only != "cost":
        catch(options.trials)


def cost() -> None:
    """Time a run without and with a transcript, and its check."""
    from train_rig import MemorySource, lines

    from mitai import demo_model
    from mitai.capsule import FolderSource
    from mitai.identity import Identity
    from mitai.train.job import Job
    from mitai.train.run import run
    from mitai.train.transcript.audit import check_output
    from mitai.train.transcript.observer import observers

    rng, key = random.Random(1), Identity.generate()
    records = [{"text": " ".join(rng.choices(WORDS, k=60))} for _ in range(STEPS * 16)]
    sources: dict[str, Any] = {"base": FolderSource(demo_model.path()), "records": lines(records)}
    plain, kept = Job.parse(JOB), Job.parse(JOB + "[transcript]\n")
    made: list[Any] = []

    def record() -> None:
        with tempfile.TemporaryDirectory() as scratch:
            made.append(run(kept, sources, observers=observers(kept, sources, MANIFESTS, key, Path(scratch))))

    run(Job.parse(JOB.replace(str(STEPS), "2")), sources)  # imports, caches
    training = processor_s(lambda: run(plain, sources))
    recording = processor_s(record)
    output = MemorySource(made[0].files)
    verdicts: list[Any] = []
    checking = [
        processor_s(lambda: verdicts.append(check_output(output, sources, MANIFESTS, key.public))) for _ in range(3)
    ]
    verdict = verdicts[0]
    progress(verdict.words)
    row(
        "train-transcript",
        checking,
        "s",
        peer="training",
        peer_samples=[training],
        drawn=verdict.drawn,
        re_executed=verdict.re_executed,
        segments=verdict.segments,
        distance=verdict.distance,
    )
    size = sum(len(data) for name, data in made[0].files.items() if name.startswith("states/"))
    row("train-transcript-record", [recording], "s", peer="training", peer_samples=[training], states_bytes=size)


def catch(trials: int) -> None:
    """Count refused forgeries; honest runs that are refused first."""
    from transcript_rig import FORGERIES, Setting, caught, forge, train

    wrong = sum(bool(caught(train(Setting(steps=STEPS, seed=seed)), seed)) for seed in range(trials))
    row("train-transcript-refused-honest", [wrong], "runs", trials=trials)
    for kind in FORGERIES:
        name = kind.replace(" ", "-")
        count(f"train-transcript-caught-{name}", trials, lambda seed, kind=kind: caught(forge(kind, seed), seed))
    for kind in ("swapped", "added", "skipped", "reordered"):
        for label, share in (("scattered", 0.15), ("single", 1 / STEPS)):
            count(
                f"train-transcript-caught-{kind}-{label}",
                trials,
                lambda seed, kind=kind, share=share: caught(forge(kind, seed, share=share, scattered=True), seed),
            )


def count(name: str, trials: int, trial: Callable[[int], str]) -> None:
    row(name, [sum(bool(trial(seed)) for seed in range(trials))], "runs", trials=trials)


def processor_s(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


if __name__ == "__main__":
    main()
