"""Reward modelling: a model with one number as its output learns which of two answers is preferred.

Records have `chosen` and `rejected`, and `prompt` where the two are answers to it; the loss is Bradley and Terry's
(Ouyang et al. 2022, arXiv:2203.02155, section 3.5). The causal model's head is replaced by one output for the last
token, `score`, drawn from the job's seed. The output is a sequence classifier of one label, or with `[lora]` an adapter
that holds the head.

Example:
    >>> trainer(task).train()
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import AutoModelForSequenceClassification
from trl.trainer.reward_config import RewardConfig
from trl.trainer.reward_trainer import RewardTrainer

from mitai.errors import TrainError
from mitai.train.methods.records import require, use_template

if TYPE_CHECKING:
    from transformers import PreTrainedModel, Trainer

    from mitai.train.tables import Reward
    from mitai.train.task import Task


def trainer(task: Task) -> Trainer:
    """Return trl's trainer for the task; raise `TrainError` when the records don't fit the settings."""
    options = cast("Reward", task.job.options)
    prompted = ("prompt",) if "prompt" in task.train.column_names else ()
    use_template(task, options.template, conversations=require(task, *prompted, "chosen", "rejected"))
    adapter = task.peft_config()
    if adapter is not None:
        adapter.task_type = "SEQ_CLS"  # by which peft trains and keeps `score` too
    return RewardTrainer(
        model=with_score(task.model),
        args=task.arguments(
            RewardConfig,
            max_length=task.job.training.max_length,
            center_rewards_coefficient=options.centre or None,
        ),
        train_dataset=task.train,
        eval_dataset=task.evaluation,
        processing_class=task.tokenizer,
        peft_config=adapter,
    )


def with_score(model: PreTrainedModel) -> PreTrainedModel:
    """Return a sequence classifier of one label over the same body; no weight of it is copied.

    Raises:
        TrainError: The architecture has none, or calls its head otherwise.
    """
    config = copy.deepcopy(model.config)
    config.num_labels = 1
    classes: Any = AutoModelForSequenceClassification._model_mapping
    if type(config) not in classes:
        raise _unfit()
    with torch.device("meta"):
        made = classes[type(config)](config)
    head = getattr(made, "score", None)
    if type(head) is not torch.nn.Linear or made.base_model_prefix != model.base_model_prefix:
        raise _unfit()
    setattr(made, made.base_model_prefix, model.base_model)
    head.to_empty(device=model.device)
    torch.nn.init.normal_(head.weight, std=getattr(config, "initializer_range", 0.02))
    made.score = head.to(model.dtype)
    made.config.architectures = [type(made).__name__]
    trained: PreTrainedModel = made.train()
    return trained


def _unfit() -> TrainError:
    return TrainError("train.no-score", "a reward model can't be made of this architecture: it has no head `score`")
