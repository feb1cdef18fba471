"""Supervised fine-tuning and continued pre-training, by trl's `SFTTrainer`.

What is learnt follows from the records: with `messages` or `prompt` and `completion` conversations and answers, with
`text` plain text (continued pre-training). With `[lora]` an adapter is trained, without it all weights.

`loss` says which tokens count: `completion` those of the completion, `assistant` those of the assistant's turns (the
chat template must mark them), `all` every one; `auto` is `completion` where there are prompts, else `all`.

Example:
    >>> trainer(task).train()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from mitai.errors import TrainError
from mitai.train.methods.records import require, use_template

if TYPE_CHECKING:
    from transformers import Trainer

    from mitai.train.tables import Sft
    from mitai.train.task import Task

_COLUMNS = (("text",), ("messages",), ("prompt", "completion"))


def trainer(task: Task, kind: type[SFTTrainer] = SFTTrainer, **own: Any) -> Trainer:  # noqa: ANN401 - of transformers
    """Return trl's trainer, or one that stands on it, for the task; `own` are further arguments for it.

    Raises:
        TrainError: The records don't fit the settings.
    """
    options = cast("Sft", task.job.options)
    held = set(task.train.column_names)
    columns = next((each for each in _COLUMNS if held.issuperset(each)), None)
    if columns is None:
        raise TrainError(
            "train.columns-unfit",
            f"records for {task.job.job.method} have text, messages, or prompt and completion",
            hint="choose the columns with limits.columns",
        )
    use_template(task, options.template, conversations=require(task, *columns))
    completion = {"auto": None, "completion": True}.get(options.loss, False)
    arguments = task.arguments(
        SFTConfig,
        max_length=task.job.training.max_length,
        packing=options.packing,
        packing_strategy="wrapped",
        eval_packing=False,
        completion_only_loss=completion,
        assistant_only_loss=options.loss == "assistant",
        **own,
    )
    return kind(
        model=task.model,
        args=arguments,
        train_dataset=task.train,
        eval_dataset=task.evaluation,
        processing_class=task.tokenizer,
        peft_config=task.peft_config(),
    )
