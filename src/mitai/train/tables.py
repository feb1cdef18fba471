"""The tables of a job file that belong to one method, and what all tables are made of; `docs/spec/training-methods.md`.

Invariants:

- Every number has bounds; what is unknown is refused.

Example:
    >>> msgspec.convert({"teacher": "large-model"}, Distill).temperature
    1.0
"""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import msgspec
from msgspec import Meta

from mitai.train.rewards import AnyReward, Code

if TYPE_CHECKING:
    from mitai.train.job import Job

CapsuleId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}\Z")]
Column = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}\Z")]
Count = Annotated[int, Meta(ge=1, le=2**53)]
Natural = Annotated[int, Meta(ge=0, le=2**53)]
Small = Annotated[int, Meta(ge=1, le=65536)]
Rate = Annotated[float, Meta(gt=0.0, le=1.0)]
Share = Annotated[float, Meta(ge=0.0, lt=1.0)]


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table of the job file: frozen, and nothing unknown in it."""


class Input(NamedTuple):
    """A capsule that a job opens: what it is to the job, its id, and the kind that its manifest must name."""

    role: str
    capsule: str
    kind: str

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of manifests that are one: data sets go by two names, and what a job made is one of two."""
        return {"data": ("data", "dataset"), "output": ("adapter", "model")}.get(self.kind, (self.kind,))


MAX_RANKS = 64


class Distributed(Table, frozen=True):
    """`[distributed]`: how many workers train together; `docs/spec/distributed.md`."""

    workers: Annotated[int, Meta(ge=2, le=MAX_RANKS)]


class Sft(Table, frozen=True):
    """`[sft]`: supervised fine-tuning, and with a column `text` continued pre-training."""

    loss: Literal["auto", "all", "completion", "assistant"] = "auto"
    packing: bool = False
    template: Literal["model", "chatml"] = "model"


class Dpo(Table, frozen=True):
    """`[dpo]`: direct preference optimisation."""

    beta: Annotated[float, Meta(gt=0.0, le=100.0)] = 0.1
    loss: Literal["sigmoid", "ipo"] = "sigmoid"
    label_smoothing: Annotated[float, Meta(ge=0.0, lt=0.5)] = 0.0
    template: Literal["model", "chatml"] = "model"

    def unfit(self, _: Job) -> str | None:
        """Say what does not go together."""
        return "label_smoothing is for the sigmoid loss" if self.label_smoothing and self.loss == "ipo" else None


class Grpo(Table, frozen=True):
    """`[grpo]`: group relative policy optimisation towards verifiable rewards."""

    rewards: Annotated[tuple[AnyReward, ...], Meta(min_length=1, max_length=8)]
    generations: Annotated[int, Meta(ge=2, le=256)] = 8
    max_answer: Annotated[int, Meta(ge=1, le=1 << 16)] = 256
    temperature: Annotated[float, Meta(gt=0.0, le=10.0)] = 1.0
    top_p: Rate = 1.0
    beta: Annotated[float, Meta(ge=0.0, le=100.0)] = 0.0
    clip: Annotated[float, Meta(gt=0.0, lt=1.0)] = 0.2
    loss: Literal["grpo", "dr_grpo", "dapo", "bnpo"] = "dapo"
    scale: Literal["group", "batch", "none"] = "group"
    template: Literal["model", "chatml"] = "model"

    def declared(self) -> dict[str, str]:
        """Return the digest of the reward's program, so that policies can pin it."""
        programs = [reward.sha256 for reward in self.rewards if isinstance(reward, Code)]
        return {"reward_code": programs[0]} if programs else {}

    def unfit(self, job: Job) -> str | None:
        """Say what does not go together."""
        programs = [reward for reward in self.rewards if isinstance(reward, Code)]
        if len(programs) > 1 or any(each.capsule not in job.job.data for each in programs):
            return "may have one program as a reward, out of job.data"
        if job.training.batch * job.training.accumulation % self.generations:
            return "generations must divide training.batch x training.accumulation"
        if job.evaluation and job.training.batch % self.generations:
            return "generations must divide training.batch where there is an [evaluation]"
        if job.early_stopping:
            return "goes without [early_stopping], which goes by a loss that says nothing here"
        if self.max_answer >= job.training.max_length:
            return "max_answer must be below training.max_length, which holds the prompt too"
        if self.beta and not (job.lora or job.job.adapter):
            return "beta needs [lora] or an adapter: the reference is the model with the adapter off"
        return None


class Reward(Table, frozen=True):
    """`[reward]`: a reward model."""

    centre: Annotated[float, Meta(ge=0.0, le=10.0)] = 0.0
    template: Literal["model", "chatml"] = "model"

    def unfit(self, job: Job) -> str | None:
        """Say what does not go together."""
        return "can't continue an adapter: its head is new" if job.job.adapter else None


class Distill(Sft, frozen=True, kw_only=True):
    """`[distill]`: the settings of `[sft]`, and a teacher."""

    teacher: CapsuleId
    divergence: Literal["forward", "reverse"] = "forward"
    temperature: Annotated[float, Meta(gt=0.0, le=100.0)] = 1.0
    hard: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0

    def inputs(self) -> tuple[Input, ...]:
        """Return the teacher."""
        return (Input("teacher", self.teacher, "model"),)


class Approximate(Table, frozen=True):
    """`[approximate]`: a model that does without GELU and softmax, for secure computation."""

    layers: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.7

    def unfit(self, job: Job) -> str | None:
        """Say what does not go together."""
        training = job.training
        if job.lora or job.job.adapter:
            return "trains all weights: it goes without [lora] and job.adapter"
        if training.gradient_checkpointing or training.precision != "float32":
            return "goes without gradient_checkpointing and bfloat16"
        if job.early_stopping:
            return "goes without [early_stopping]: what is evaluated is learnt last"
        return None


class Private(Sft, frozen=True, kw_only=True):
    """`[private]`: the settings of `[sft]`, with differential privacy of every record."""

    epsilon: Annotated[float, Meta(gt=0.0, le=20.0)]
    delta: Annotated[float, Meta(ge=1e-12, lt=0.1)]
    clip: Annotated[float, Meta(gt=0.0, le=1e6)] = 1.0
    chunk: Small = 8

    def declared(self) -> dict[str, str]:
        """Return the budget in millionths of epsilon and billionths of delta, both rounded up, and the chunk."""
        told = {"epsilon_micros": _rounded_up(self.epsilon, 6), "delta_nanos": _rounded_up(self.delta, 9)}
        return told | {"chunk": str(self.chunk)}

    def unfit(self, job: Job) -> str | None:
        """Say what would make the promise untrue."""
        training, limits = job.training, job.limits
        if limits.rows is None or limits.steps is None:
            return "needs limits.rows and limits.steps: the noise is computed from them before any record is seen"
        if training.batch > limits.rows:
            return "takes training.batch of limits.rows records in a step on average, and not more than all"
        if training.epochs != -(-limits.steps * training.batch // limits.rows):
            return "needs training.epochs = limits.steps x training.batch / limits.rows, rounded up"
        if job.evaluation or limits.tokens is not None:
            return "goes without [evaluation] and limits.tokens: what they tell of the records has no noise"
        if self.packing or training.accumulation != 1 or training.gradient_checkpointing:
            return "goes without packing, accumulation and gradient_checkpointing; chunk bounds the memory of a step"
        if training.precision != "float32" or (job.lora and (job.lora.dropout or job.lora.quantised)):
            return "goes without bfloat16, lora.dropout and lora.quantised"
        return None


class Audit(Table, frozen=True, kw_only=True):
    """`[audit]`: whether a job's output follows from the inputs that are named beside it."""

    output: CapsuleId
    share: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.1

    def inputs(self) -> tuple[Input, ...]:
        """Return the output that is audited."""
        return (Input("output", self.output, "output"),)


def _rounded_up(value: float, digits: int) -> str:
    return str(int(Decimal(repr(value)).scaleb(digits).to_integral_value(ROUND_CEILING)))
