"""Training: sealed against plaintext, and what checkpoints cost.

Rows: `train-sft-time` (processor time of a LoRA SFT by mitai, from sealed inputs to a sealed adapter, to the same run
by trl alone, from a plain folder to a plain folder; both from after the imports), `train-sft-rss` (the two processes'
peak memory), `train-checkpoint` (processor time of a step of a full SFT with a sealed checkpoint every 50 steps, to one
without). Each run of a pair is a process of its own with one thread, and `equal_losses` says that every loss of both is
the same to the last bit. Ours is the process that a worker starts: it has no network and reads ciphertext by way of
this one.

A plot of the loss curves is in `benchmarks/out/train-loss.png`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import OUT, interleave, progress, row

STEPS = 100
WORDS = ("patient", "dose", "heart", "rate", "high", "low", "normal", "fever", "cough", "daily", "tablet", "after")
JOB = f"""
[job]
name = "benchmark"
method = "sft"
model = "MODEL"
data = ["DATA"]
seed = 7
[limits]
steps = {STEPS}
[training]
epochs = 50
batch = 4
max_length = 128
learning_rate = 1e-3
[checkpoints]
every_steps = 50
"""
IMPORTED = "import mitai.train.run, mitai.train.methods.sft; main()"  # a child imports them after its first word
LORA = "[lora]\nrank = 8\nalpha = 16\n"


@dataclass
class Measured:
    """One process: processor seconds after its imports, peak memory in bytes, losses."""

    cpu_s: float
    rss_bytes: float
    losses: list[float]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", choices=["sft", "checkpoint"])
    parser.add_argument("--child", choices=["trl", "checkpoint"])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--every", type=int, default=0)
    options = parser.parse_args()
    if options.child == "trl":
        plain_sft(options.folder)
    elif options.child == "checkpoint":
        checkpointed(options.folder, options.every)
    else:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "records.jsonl").write_text("\n".join(json.dumps(each) for each in records()))
            if options.only != "checkpoint":
                sft(Path(folder), options.runs)
            if options.only != "sft":
                checkpoints(Path(folder), options.runs)


def records() -> list[dict[str, object]]:
    chance = random.Random(1)
    return [
        {
            "messages": [
                {"role": "user", "content": " ".join(chance.choices(WORDS, k=12))},
                {"role": "assistant", "content": " ".join(chance.choices(WORDS, k=24))},
            ]
        }
        for _ in range(400)
    ]


def sft(folder: Path, runs: int) -> None:
    from mitai import demo_model
    from mitai.capsule import MemorySource, open_manifest, seal
    from mitai.identity import Identity

    owner = Identity.generate()
    data = MemorySource({"records.jsonl": (folder / "records.jsonl").read_bytes()})
    sealed = {
        "MODEL": seal(demo_model.path(), folder / "model", owner=owner, name="model"),
        "DATA": seal(data, folder / "data", owner=owner, name="data", kind="data"),
    }
    assert open_manifest(sealed["DATA"].envelope, owner=owner.public).kind == "data"
    ours: list[Measured] = []
    theirs: list[Measured] = []

    def measure_ours() -> float:
        ours.append(sealed_sft(folder, sealed, owner))
        return ours[-1].cpu_s

    def measure_theirs() -> float:
        theirs.append(child("trl", folder))
        return theirs[-1].cpu_s

    progress(f"SFT of {STEPS} steps, sealed and plain, {runs} times each after one to warm up")
    times = interleave(runs, measure_ours, measure_theirs)
    equal = all(each.losses == theirs[0].losses and len(each.losses) == STEPS for each in ours + theirs)
    assert equal, "the losses differ"
    row("train-sft-time", times[0], "s", peer="trl", peer_samples=times[1], equal_losses=equal, steps=STEPS)
    rss = [[each.rss_bytes / 1e6 for each in side[1:]] for side in (ours, theirs)]
    row("train-sft-rss", rss[0], "MB", peer="trl", peer_samples=rss[1])
    plot(ours[-1].losses, theirs[-1].losses)


def sealed_sft(folder: Path, sealed: dict[str, object], owner: object) -> Measured:
    """Play the worker for one job: start its process, hand it keys and ciphertext, measure it."""
    from mitai.capsule import FolderStore
    from mitai.identity import Identity
    from mitai.train import worker
    from mitai.train.relay import TO_WORKER, Answer, Done, Failed, Numbers, OpenedInput, Order, Read, Relay, Size, Step

    job = JOB + LORA
    for name, each in sealed.items():
        job = job.replace(f'"{name}"', f'"{each.capsule_id}"')
    stores = {sealed[name].capsule_id: FolderStore(folder / name.lower()) for name in sealed}
    inputs = tuple(
        OpenedInput(each.capsule_id, each.data_key, each.envelope, each.manifest_sha256, owner.public.raw)
        for each in sealed.values()
    )
    ours, theirs = Relay.pair()
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-I", "-c", worker._BOOT.replace("main()", IMPORTED), json.dumps(sys.path)],
                stdin=theirs.fileno(),
                env=worker._environment(1),
            )
        relay = Relay(ours)
        seed = Identity.generate().seed()
        relay.send(Order(job, inputs, seed, (), f"{scratch}/checkpoints", f"{scratch}/output", 1))
        losses: list[float] = []
        began = 0.0
        while message := relay.receive(TO_WORKER):
            match message:
                case Step("open"):
                    began = spent(process.pid)
                case Numbers(values):
                    losses.append(values["loss"])
                case Size(capsule, name):
                    relay.send(Answer(stores[capsule].size(name)))
                case Read(capsule, name, offset, length):
                    buffer = bytearray(length)
                    got = stores[capsule].read_into(name, offset, memoryview(buffer))
                    relay.send(Answer(got, bytes(buffer[:got])))
                case Failed():
                    raise message.error()
                case Done():
                    relay.send(Answer())
                case Step():
                    pass
                case _:
                    relay.send(Answer(data=bytes(32)))
        relay.close()
        return ended(process, began, losses)


def child(kind: str, folder: Path, every: int = 0) -> Measured:
    """Run this module for one measure; it says when its imports are done, and at the end its losses."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.train",
        "--child",
        kind,
        "--folder",
        str(folder),
        "--every",
        str(every),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    log = folder / f"{kind}.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=sink, env=environment, cwd=Path(__file__).parents[1]
        )
    assert process.stdout is not None
    ready = process.stdout.readline()
    began = spent(process.pid) if ready else 0.0
    lines = process.stdout.readlines()
    if not lines:
        raise SystemExit(f"{kind} ended with {process.wait()}:\n{log.read_text(errors='replace')[-2000:]}")
    return ended(process, began, json.loads(lines[-1]))


def spent(pid: int) -> float:
    """Return the processor seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ended(process: subprocess.Popen[bytes], began: float, losses: list[float]) -> Measured:
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return Measured(usage.ru_utime + usage.ru_stime - began, usage.ru_maxrss * 1024.0, losses)


def plain_sft(folder: Path) -> None:
    """The peer: trl as its documentation has it, with the job's settings."""
    import datasets
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    from mitai import demo_model

    print("ready", flush=True)
    datasets.disable_progress_bars()
    lines = (folder / "records.jsonl").read_text().splitlines()
    arguments = SFTConfig(
        output_dir=tempfile.mkdtemp(dir=folder),
        seed=7,
        max_steps=STEPS,
        num_train_epochs=50,
        per_device_train_batch_size=4,
        max_length=128,
        learning_rate=1e-3,
        lr_scheduler_type="linear",
        logging_steps=1,
        save_steps=50,
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
    )
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(demo_model.path(), dtype="float32"),
        processing_class=AutoTokenizer.from_pretrained(demo_model.path()),
        args=arguments,
        train_dataset=datasets.Dataset.from_list([json.loads(line) for line in lines]),
        peft_config=LoraConfig(
            r=8, lora_alpha=16, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
    )
    trainer.train()
    trainer.save_model(str(folder / "plain-output"))
    print(json.dumps([each["loss"] for each in trainer.state.log_history if "loss" in each]), flush=True)


def checkpoints(folder: Path, runs: int) -> None:
    progress(f"full SFT of {STEPS} steps with and without checkpoints")
    measures = (lambda: child("checkpoint", folder, 50).cpu_s, lambda: child("checkpoint", folder).cpu_s)
    times = interleave(runs, *measures, warmup=0)  # each is a fresh process
    per_step = [[1000 * each / (STEPS + 1) for each in side] for side in times]
    row("train-checkpoint", per_step[0], "ms", peer="no checkpoints", peer_samples=per_step[1])


def checkpointed(folder: Path, every: int) -> None:
    import torch

    from mitai import demo_model
    from mitai.capsule import FolderSource, MemorySource
    from mitai.train.checkpoints import Checkpoints
    from mitai.train.job import Job
    from mitai.train.methods import METHODS
    from mitai.train.run import run

    torch.set_num_threads(1)
    METHODS["sft"].load()  # before the clock starts
    print("ready", flush=True)
    job = Job.parse(JOB.replace(f"steps = {STEPS}", f"steps = {STEPS + 1}"))  # so that two checkpoints are made
    data = MemorySource({"records.jsonl": (folder / "records.jsonl").read_bytes()})
    sources = {"MODEL": FolderSource(demo_model.path()), "DATA": data}
    scratch = Path(tempfile.mkdtemp(dir=folder))
    states = Checkpoints(scratch, lambda _: bytes(32), job.sha256(), {}) if every else None
    outcome = run(job, sources, states=states)
    if states is not None:
        states.wait()
        assert len(list(scratch.iterdir())) == 2
    print(json.dumps(outcome.metrics["losses"]), flush=True)


def plot(ours: list[float], theirs: list[float]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 4), layout="constrained")
    axes.plot(range(1, STEPS + 1), theirs, label="trl, plaintext", linewidth=5, color="#c9d8d2")
    axes.plot(range(1, STEPS + 1), ours, label="mitai, sealed", linewidth=1, color="#2a7f62")
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.set_title("LoRA SFT of the demo model: every loss is the same to the last bit")
    axes.legend()
    OUT.mkdir(exist_ok=True)
    figure.savefig(OUT / "train-loss.png", dpi=130)
    progress(f"plot: {OUT / 'train-loss.png'}")


if __name__ == "__main__":
    start = time.monotonic()
    main()
    progress(f"{time.monotonic() - start:.0f} s")
