"""Approximation: a model learns from itself to do without GELU and softmax (MPCFormer, Li et al., ICLR 2023).

The student begins with the model's own weights and computes Quad and 2Quad instead, which secure computation gets for
few bytes; the teacher is the model as it came. Records have `text`, and `pair` for classifiers of two texts; labels are
not needed. First it learns layer by layer: the embeddings, each layer's states and its attention, by their squared
errors. Then the answers: the divergence of both distributions. `layers` is the first part's share of the steps.

The model is a language model or a sequence classifier; the output's configuration says `mpc_approx`, by which
`mitai.mpc` computes it.

Example:
    >>> trainer(task).train()
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, cast

import torch
from datasets import Dataset
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import Trainer, TrainingArguments

from mitai.errors import TrainError
from mitai.train.approximation import approximate
from mitai.train.methods.records import require

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from mitai.train.tables import Approximate
    from mitai.train.task import Task


def trainer(task: Task) -> Trainer:
    """Return the trainer for the task; raise `TrainError` when the records or the model don't fit."""
    if getattr(task.model.config, "mpc_approx", "exact") != "exact":
        raise TrainError("train.approximated", "this model has approximations already: its exact form is the teacher")
    teacher: Any = copy.deepcopy(task.model)
    teacher.eval().requires_grad_(requires_grad=False)
    teacher.set_attn_implementation("eager")  # which gives attention
    made = Approximator(
        model=approximate(task.model),
        args=task.arguments(TrainingArguments, remove_unused_columns=False),
        train_dataset=_tokens(task, task.train),
        eval_dataset=None if task.evaluation is None else _tokens(task, task.evaluation),
        data_collator=_padded,
    )
    made.teacher = teacher.to(made.args.device)
    made.layers = cast("Approximate", task.job.options).layers
    return made


class Approximator(Trainer):
    """transformers' trainer with the two losses of a student that has its teacher's shape."""

    loss_is_scaled_for_ga: Any = False
    model: Any
    teacher: PreTrainedModel
    layers: float

    def compute_loss(
        self,
        model: Any,  # noqa: ANN401 - transformers' types are loose
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: object = None,  # noqa: ARG002
    ) -> Any:  # noqa: ANN401
        """Return the loss of a batch: of the layers while it is their turn; of the answers then, and in evaluations."""
        by_layers = self.model.training and self.state.global_step < round(self.layers * self.state.max_steps)
        given: dict[str, Any] = inputs | dict.fromkeys(("output_hidden_states", "output_attentions"), by_layers)
        outputs = model(**given)
        with torch.no_grad():
            taught = self.teacher(**given)
        loss = (layer_loss if by_layers else answer_loss)(outputs, taught, inputs["attention_mask"].bool())
        return (loss, outputs) if return_outputs else loss

    def prediction_step(self, model: Any, inputs: Any, *_: object, **__: object) -> Any:  # noqa: ANN401 - transformers'
        """Return the loss of a batch of held-out rows, which have no labels."""
        with torch.no_grad():
            return self.compute_loss(model, self._prepare_inputs(inputs)).detach(), None, None


def layer_loss(student: Any, teacher: Any, counts: Tensor) -> Tensor:  # noqa: ANN401 - outputs of any family
    """Return the squared errors of embeddings and states (their means) and of attention (mean of the places' sums).

    Args:
        student: Outputs with `hidden_states` [batch, n, width] and `attentions` [batch, heads, n, n].
        teacher: The same, of as many layers.
        counts: [batch, n], which places are no padding.
    """
    states = zip(student.hidden_states, teacher.hidden_states, strict=True)
    attention = zip(student.attentions, teacher.attentions, strict=True)
    loss = sum(functional.mse_loss(ours[counts], theirs[counts]) for ours, theirs in states)
    for ours, theirs in attention:
        loss = loss + (ours - theirs).square().sum(-1).transpose(1, 2)[counts].mean()
    return cast("Tensor", loss)


def answer_loss(student: Any, teacher: Any, counts: Tensor) -> Tensor:  # noqa: ANN401 - see `layer_loss`
    """Return KL(teacher, student) over the classes, or over the tokens at each place that counts."""
    of_places = student.logits.dim() == 3  # [batch, n, vocabulary]; a classifier's are [batch, classes]
    ours, theirs = (each.logits[counts] if of_places else each.logits for each in (student, teacher))
    ours, theirs = (functional.log_softmax(each.float(), dim=-1) for each in (ours, theirs))
    return functional.kl_div(ours, theirs, reduction="batchmean", log_target=True)


def _tokens(task: Task, data: Dataset) -> Dataset:
    """Return the rows' tokens, without rows that have none."""
    columns = [name for name in ("text", "pair") if name == "text" or name in data.column_names]
    if require(task, *columns):
        raise TrainError("train.columns-unfit", "records for approximate have text, and no messages")
    texts = [list(data[name]) for name in columns]
    tokens = task.tokenizer(
        *texts,
        truncation=True,
        max_length=task.job.training.max_length,
        return_token_type_ids=hasattr(task.model.config, "type_vocab_size"),
    )
    rows = [dict(zip(tokens, row, strict=True)) for row in zip(*tokens.values(), strict=True)]
    return Dataset.from_list([row for row in rows if row["input_ids"]])


def _padded(rows: list[dict[str, list[int]]]) -> dict[str, Tensor]:
    return {name: pad_sequence([torch.tensor(row[name]) for row in rows], batch_first=True) for name in rows[0]}
