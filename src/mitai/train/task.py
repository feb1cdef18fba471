"""What a method is given: the job, the model in memory, the rows, and settings that are the same for all methods.

A method is a module of `mitai.train.methods` with `trainer(task: Task) -> transformers.Trainer`. It builds trl's (or
its own) trainer from the task and returns it; `mitai.train.run` trains, resumes, evaluates, and takes the weights out.

- Build the arguments with `task.arguments(SFTConfig, …)`: nothing is then downloaded, written, reported or printed.
- Give `task.peft_config()` to the trainer (None: all weights are trained, or the model carries an adapter already).
- Take a second model (a teacher, a judge) with `task.loaded("teacher")`: a role of `Input`s that the options name.
- Take randomness from torch's, numpy's or Python's global generators, or from `task.job.job.seed`: all are in
  checkpoints. A trainer with state of its own beyond weights, optimizer and scheduler has `extra_state() -> dict` (JSON
  values) and `restore_extra_state(dict)`; what it gives is in the checkpoints too.
- A trainer that can't stop between any two steps (GRPO: several steps use one set of answers) has an attribute
  `steps_between_states: int`; checkpoints are then made at its multiples only.
- A trainer whose losses must not leave (differential privacy) has `silent = True`: the host then sees steps only.

Example:
    >>> def trainer(task: Task) -> Trainer:
    ...     return SFTTrainer(task.model, task.arguments(SFTConfig), train_dataset=task.train)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from mitai.errors import TrainError
from mitai.train.job import Job

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import PreTrainedModel, PreTrainedTokenizerFast, TrainingArguments

    from mitai.capsule.sources import FileSource
    from mitai.serve.loading import LoadedModel

A = TypeVar("A", bound="TrainingArguments")
NOWHERE = "/proc/self"  # trainers want a folder that exists; in this one nobody can make a file


@dataclass(frozen=True)
class Task:
    """A job with its inputs in memory.

    Attributes:
        job: The job.
        model: The base model; with `job.adapter`, the adapter is on it and trainable.
        tokenizer: Its tokenizer.
        train: The rows to train on, in the job's columns, in order.
        evaluation: The held-out rows, where the job has some.
        load: Loads the model of a role.
        sources: The opened inputs by capsule id.
        secret: At least 32 bytes that nobody outside of the TEE knows, others at every start.
    """

    job: Job
    model: PreTrainedModel = field(repr=False)
    tokenizer: PreTrainedTokenizerFast = field(repr=False)
    train: Dataset = field(repr=False)
    evaluation: Dataset | None = field(repr=False, default=None)
    load: Callable[[str], LoadedModel] | None = field(repr=False, default=None)
    sources: Mapping[str, FileSource] = field(repr=False, default_factory=dict)
    secret: bytes = field(repr=False, default=b"")

    def arguments(self, kind: type[A], **own: Any) -> A:  # noqa: ANN401 - whatever `kind` takes
        """Return the trainer's arguments: the job's, the method's `own`, and everything that leaks switched off."""
        job, training = self.job, self.job.training
        settings: dict[str, Any] = {
            "output_dir": NOWHERE,
            "seed": job.job.seed,
            "num_train_epochs": training.epochs,
            "per_device_train_batch_size": training.batch,
            "per_device_eval_batch_size": training.batch,
            "gradient_accumulation_steps": training.accumulation,
            "learning_rate": training.learning_rate,
            "lr_scheduler_type": training.schedule,
            "warmup_steps": training.warmup_steps,
            "weight_decay": training.weight_decay,
            "max_grad_norm": training.max_grad_norm,
            "gradient_checkpointing": training.gradient_checkpointing,
            "bf16": training.precision == "bfloat16",
            "use_cpu": not torch.cuda.is_available(),
            "logging_strategy": "steps",
            "logging_steps": 1,
            "logging_nan_inf_filter": False,
            "eval_strategy": "steps" if job.evaluation else "no",
            "eval_steps": job.evaluation.every_steps if job.evaluation else None,
            "save_strategy": "no",  # `mitai.train.run` says when, and writes sealed ones
            "report_to": "none",
            "disable_tqdm": True,
            "push_to_hub": False,
            "dataloader_num_workers": 0,
            "dataloader_pin_memory": False,
        }
        return kind(**(settings | own))

    def peft_config(self) -> LoraConfig | None:
        """Return the adapter that the job asks for; None where all weights are trained or one is there already."""
        lora = self.job.lora
        if lora is None:
            return None
        from peft import LoraConfig

        return LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=list(lora.targets) or "all-linear",
            task_type="CAUSAL_LM",
        )

    def loaded(self, role: str) -> LoadedModel:
        """Load the model capsule that the job names for `role`."""
        if self.load is None:
            raise TrainError("train.role-unknown", f"this job has no {role}")
        return self.load(role)
