"""Runs with a transcript, honest and forged: a small random Llama on short sequences, plain transformers.

A forger here is as able as can be: the transcript claims what an honest run would say (batches, order, losses of its
own choice), all digests fit the states that the forger has, and only what happened between some states differs.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from mitai.errors import TrainError
from mitai.identity import Identity
from mitai.train.state import trainable
from mitai.train.transcript.commitment import Commitment
from mitai.train.transcript.document import Asset, Boundary, Data, Declared, Transcript
from mitai.train.transcript.recorder import Recorder, state_name
from mitai.train.transcript.state import State, state_sha256, weights_sha256
from mitai.train.transcript.verify import Claim, Verdict, verify

KEY = Identity.from_seed(b"t" * 32)
INPUTS = (Asset(capsule="base", manifest_sha256="1" * 64), Asset(capsule="records", manifest_sha256="2" * 64))
WORDS, LENGTH, BATCH = 64, 12, 4


def samples(seed: int, count: int) -> list[dict[str, list[int]]]:
    """Return random sequences of a kind: each repeats a pattern of its own."""
    rng = random.Random(seed)
    patterns = [[rng.randrange(WORDS) for _ in range(6)] * 2 for _ in range(count)]
    return [{"input_ids": each, "labels": each} for each in patterns]


def collate(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}


@dataclass
class Setting:
    """A job: what the trainer is built from."""

    steps: int = 40
    seed: int = 0
    dropout: float = 0.0
    rows: list[dict[str, list[int]]] = field(default_factory=list)
    arguments: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rows = self.rows or samples(self.seed, self.steps * BATCH)

    def build(self) -> Trainer:
        set_seed(7)
        config = LlamaConfig(
            vocab_size=WORDS,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            attention_dropout=self.dropout,
        )
        model = LlamaForCausalLM(config)
        set_seed(self.seed)
        options: dict[str, Any] = {
            "output_dir": "/proc/self",
            "max_steps": self.steps,
            "per_device_train_batch_size": BATCH,
            "per_device_eval_batch_size": BATCH,
            "learning_rate": 3e-3,
            "seed": self.seed,
            "use_cpu": True,
            "report_to": "none",
            "save_strategy": "no",
            "logging_steps": 1,
            "disable_tqdm": True,
            "dataloader_pin_memory": False,
        } | self.arguments
        trainer = Trainer(
            model,
            TrainingArguments(**options),
            data_collator=collate,
            train_dataset=self.rows,
            eval_dataset=self.rows[:8],
        )
        trainer.remove_callback(PrinterCallback)
        return trainer


class Driver(TrainerCallback):
    """Calls an observer as `mitai.train.loop` does."""

    def __init__(self, trainer: Trainer, recorder: Recorder) -> None:
        self._trainer, self._recorder = trainer, recorder

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._recorder.begin(self._trainer, state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any], **_: Any) -> None:
        if "loss" in logs:
            self._recorder.step(state.global_step, (), logs["loss"])


Deed = Callable[[Trainer, dict[str, torch.Tensor]], Any]


@dataclass
class Run:
    """A run that has ended: what it gave, and what its verifier holds."""

    setting: Setting
    transcript: Transcript
    claim: Claim

    def sign(self, **changed: Any) -> bytes:
        return msgspec.structs.replace(self.transcript, **changed).sign(KEY)

    def verify(self, rng: random.Random | None = None, envelope: bytes = b"", **options: Any) -> Verdict:
        found = envelope or self.sign()
        return verify(found, KEY.public, self.claim, self.setting.build, rng=rng, **options)


def train(
    setting: Setting, deed: Deed | None = None, forged: frozenset[int] = frozenset(), segment_steps: int = 0
) -> Run:
    """Train; in the steps of `forged` the forger's `deed` is done instead of a training step on the batch."""
    trainer = setting.build()
    if deed is not None:
        honest = trainer.training_step

        def step(model: Any, inputs: Any, *rest: Any) -> Any:
            return deed(trainer, inputs) if trainer.state.global_step in forged else honest(model, inputs, *rest)

        trainer.training_step = step
    states: dict[str, bytes] = {}
    recorder = Recorder(states.__setitem__, segment_steps=segment_steps)
    trainer.add_callback(Driver(trainer, recorder))
    trainer.train()
    data = Commitment.of(recorder.secret, ("input_ids", "labels"), setting.rows)
    declared = Declared(
        job="job",
        job_sha256="a" * 64,
        method="sft",
        inputs=INPUTS,
        data=Data(columns=data.columns, records=len(setting.rows), root=data.root.hex()),
        seed=setting.seed,
    )
    weights = {name: value.clone() for name, value in trainable(trainer.model).items()}
    claim = Claim("a" * 64, INPUTS, setting.rows, recorder.secret, states, weights)
    return Run(setting, recorder.transcript(declared), claim)


# What forgers do, each in a run of its own; `forged` are the steps that they touch.


def swapped(hidden: list[dict[str, list[int]]]) -> Deed:
    """Train on other data than is claimed."""
    other = collate(hidden[:BATCH])

    def deed(trainer: Trainer, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return type(trainer).training_step(trainer, trainer.model, other)

    return deed


def added(hidden: list[dict[str, list[int]]]) -> Deed:
    """Train on the claimed data, and on hidden data in the same steps."""
    other = collate(hidden[:2])

    def deed(trainer: Trainer, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        both = {name: torch.cat([inputs[name], other[name]]) for name in other}
        return type(trainer).training_step(trainer, trainer.model, both)

    return deed


def skipped(trainer: Trainer, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Claim a step that was not made, with the loss that it would have had."""
    with torch.no_grad():
        return trainer.model(**inputs).loss


def reordered(rows: list[dict[str, list[int]]], rng: random.Random) -> Deed:
    """Train on claimed rows, but not on those of this step."""

    def deed(trainer: Trainer, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return type(trainer).training_step(trainer, trainer.model, collate(rng.sample(rows, BATCH)))

    return deed


def forged_state(
    run: Run,
    segment: int,
    *,
    size: float = 0.0,
    random_part: bool = False,
    seed: int = 0,
    change: Callable[[State], State] = lambda state: state,
) -> Run:
    """Let a segment end with other weights, or other random numbers; where it is the last, publish those weights."""
    old = run.transcript.segments[segment]
    state = State.decode(run.claim.states[state_name(old.end.step)])
    noise = torch.Generator().manual_seed(seed)
    weights = {n: v + size * torch.randn(v.shape, generator=noise) * v.std() for n, v in state.weights.items()}
    generators = {n: v.roll(1) if n == "torch" and random_part else v for n, v in state.random.items()}
    forged = change(State(weights, state.optimizer, generators))
    weights, data = forged.weights, forged.encode()
    end = Boundary(step=old.end.step, weights_sha256=weights_sha256(weights), state_sha256=state_sha256(data))
    segments = list(run.transcript.segments)
    segments[segment] = msgspec.structs.replace(old, end=end)
    claim = dataclasses.replace(run.claim, states={**run.claim.states, state_name(old.end.step): data})
    if segment == len(segments) - 1:
        claim = dataclasses.replace(claim, published=weights)
    return Run(run.setting, msgspec.structs.replace(run.transcript, segments=tuple(segments)), claim)


def with_losses_invented(run: Run, forged: frozenset[int]) -> Run:
    """Claim losses a hundredth lower than they were."""
    segments = tuple(
        msgspec.structs.replace(segment, loss=(segment.loss or 0.0) * 0.99) if index in forged else segment
        for index, segment in enumerate(run.transcript.segments)
    )
    return Run(run.setting, msgspec.structs.replace(run.transcript, segments=segments), run.claim)


def of_another_job(run: Run) -> Run:
    """Present the transcript of a run with another seed as this job's."""
    return Run(dataclasses.replace(run.setting, seed=run.setting.seed + 1), run.transcript, run.claim)


FORGERIES = ("swapped", "added", "skipped", "reordered", "weights replaced", "losses invented", "another job")


def forge(kind: str, seed: int, *, steps: int = 200, share: float = 0.1, scattered: bool = False) -> Run:
    """Return a run in which a forger touched a share of the steps: a row of them, or ones drawn all over the run."""
    rng = random.Random(seed)
    count = max(1, round(share * steps))
    first = rng.randrange(steps - count + 1)
    forged = frozenset(rng.sample(range(steps), count) if scattered else range(first, first + count))
    setting = Setting(steps=steps, seed=seed)
    hidden = samples(seed + 1_000_000, BATCH)
    deeds = {"swapped": swapped(hidden), "added": added(hidden), "skipped": skipped}
    if kind in deeds:
        return train(setting, deeds[kind], forged)
    if kind == "reordered":
        return train(setting, reordered(setting.rows, rng), forged)
    honest = train(setting)
    if kind == "weights replaced":
        return forged_state(honest, steps - 1, size=0.01, seed=seed)
    return with_losses_invented(honest, forged) if kind == "losses invented" else of_another_job(honest)


def caught(run: Run, seed: int) -> str:
    """Return the step of the check that refused the run; empty where none did."""
    try:
        run.verify(random.Random(seed))
    except TrainError as error:
        return error.step or "?"
    return ""
