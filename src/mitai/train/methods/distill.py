"""Distillation: the student learns the teacher's whole distribution over the next token (Hinton et al. 2015).

Records are those of `sft`. The loss is, at temperature T and times its square, the divergence of the two distributions
over the tokens that count: `forward` KL(teacher, student) covers all that the teacher would say, `reverse` KL(student,
teacher) keeps to what it would surely say (Gu et al. 2024, arXiv:2306.08543). `hard` mixes in the usual loss.

Both models are inputs of the job, so what is made belongs to the owners of both. Their tokenizers must be the same.

Example:
    >>> trainer(task).train()
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.nn import functional
from trl.trainer.sft_trainer import SFTTrainer

from mitai.errors import TrainError
from mitai.train.methods import sft

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerFast, Trainer

    from mitai.train.tables import Distill
    from mitai.train.task import Task


def trainer(task: Task) -> Trainer:
    """Return the trainer for the task; raise `TrainError` when the records or the models don't fit."""
    teacher = task.loaded("teacher")
    if tokenizer_sha256(teacher.tokenizer) != tokenizer_sha256(task.tokenizer):
        raise TrainError(
            "train.tokenizers-differ",
            "teacher and student do not have the same tokenizer, so their distributions are over different tokens",
            hint="choose a teacher of the student's family",
        )
    made = cast("Distiller", sft.trainer(task, Distiller))
    model: Any = teacher.model
    if task.job.training.precision == "float32":
        model = model.float()
    made.teacher = model.to(made.args.device)
    made.options = cast("Distill", task.job.options)
    return made


class Distiller(SFTTrainer):
    """trl's trainer for the records, with the loss of distillation."""

    loss_is_scaled_for_ga: Any = False
    model: Any
    teacher: PreTrainedModel
    options: Distill

    def compute_loss(
        self,
        model: Any,  # noqa: ANN401 - transformers' types are loose
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: object = None,  # noqa: ARG002
    ) -> Any:  # noqa: ANN401
        """Return the loss of a batch."""
        labels = inputs["labels"][:, 1:]
        given = {name: inputs[name] for name in ("input_ids", "attention_mask") if name in inputs}
        outputs = model(**given, use_cache=False)
        with torch.no_grad():
            taught = self.teacher(**given, use_cache=False).logits
        counts = labels != -100
        width = min(outputs.logits.shape[-1], taught.shape[-1])  # either may be padded beyond the tokenizer's size
        student, teacher = (logits[:, :-1, :width][counts].float() for logits in (outputs.logits, taught))
        soft = divergence(student, teacher, self.options)
        hard = functional.cross_entropy(student, labels[counts])
        mode = "train" if self.model.training else "eval"
        self._metrics[mode]["divergence"].append(soft.item())
        self._metrics[mode]["hard_loss"].append(hard.item())
        loss = (1 - self.options.hard) * soft + self.options.hard * hard
        return (loss, outputs) if return_outputs else loss


def divergence(student: Tensor, teacher: Tensor, options: Distill) -> Tensor:
    """Return the mean divergence of two sets of logits, (tokens, vocabulary) each."""
    heat = options.temperature
    ours, theirs = (functional.log_softmax(logits / heat, dim=-1) for logits in (student, teacher))
    if options.divergence == "reverse":
        ours, theirs = theirs, ours
    return functional.kl_div(ours, theirs, reduction="batchmean", log_target=True) * heat**2


def tokenizer_sha256(tokenizer: PreTrainedTokenizerFast) -> str:
    """Return the digest of all that decides which tokens a text becomes."""
    backend: Any = tokenizer.backend_tokenizer
    return hashlib.sha256(backend.to_str().encode()).hexdigest()
