"""Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290) and IPO (Azar et al. 2023, arXiv:2310.12036).

Records have `prompt`, `chosen` and `rejected`, texts or messages. The reference is what the run began from: with
`[lora]` the base with its adapter off, with an adapter that is continued a frozen copy of it, else a copy of the model.

Example:
    >>> trainer(task).train()
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, cast

from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from mitai.train.methods.records import require, use_template

if TYPE_CHECKING:
    from transformers import Trainer

    from mitai.train.tables import Dpo
    from mitai.train.task import Task


def trainer(task: Task) -> Trainer:
    """Return trl's trainer for the task; raise `TrainError` when the records don't fit the settings."""
    options = cast("Dpo", task.job.options)
    use_template(task, options.template, conversations=require(task, "prompt", "chosen", "rejected"))
    adapter = task.peft_config()
    whole = adapter is None and task.job.job.adapter is None
    return DPOTrainer(
        model=task.model,
        ref_model=copy.deepcopy(task.model) if whole else None,
        args=task.arguments(
            DPOConfig,
            beta=options.beta,
            loss_type=[options.loss],
            label_smoothing=options.label_smoothing,
            max_length=task.job.training.max_length,
        ),
        train_dataset=task.train,
        eval_dataset=task.evaluation,
        processing_class=task.tokenizer,
        peft_config=adapter,
    )
