"""Supervised fine-tuning and continued pre-training, by trl's `SFTTrainer`.

What is learnt follows from the records: with `messages` or `prompt` and `completion` conversations and answers, with
`text` plain text (continued pre-training). With `[lora]` an adapter is trained, without it all weights.

`loss` says which tokens count: `completion` those of the completion, `assistant` those of the assistant's turns (the
chat template must mark them), `all` every one; `auto` is `completion` where there are prompts, else `all`.

Example:
    >>> trainer(task).train()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from trl import SFTConfig, SFTTrainer

from mitai.errors import TrainError
from mitai.train.job import Sft

if TYPE_CHECKING:
    from transformers import Trainer

    from mitai.train.task import Task

# The common ChatML form, with the assistant's words marked for `loss = "assistant"`.
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def trainer(task: Task) -> Trainer:
    """Return trl's trainer for the task; raise `TrainError` when the records don't fit the settings."""
    options = cast("Sft", task.job.options)
    columns = set(task.train.column_names)
    if not ({"text"} <= columns or {"messages"} <= columns or {"prompt", "completion"} <= columns):
        raise TrainError(
            "train.columns-unfit",
            "records for sft have text, messages, or prompt and completion",
            hint="choose the columns with limits.columns",
        )
    if options.template == "chatml":
        task.tokenizer.chat_template = CHATML
    if "text" not in columns and "messages" in columns and not task.tokenizer.chat_template:
        raise TrainError(
            "train.no-chat-template", "the model has no chat template", hint='choose one: [sft] template = "chatml"'
        )
    completion = {"auto": None, "completion": True}.get(options.loss, False)
    arguments = task.arguments(
        SFTConfig,
        max_length=task.job.training.max_length,
        packing=options.packing,
        packing_strategy="wrapped",
        eval_packing=False,
        completion_only_loss=completion,
        assistant_only_loss=options.loss == "assistant",
    )
    return SFTTrainer(
        model=task.model,
        args=arguments,
        train_dataset=task.train,
        eval_dataset=task.evaluation,
        processing_class=task.tokenizer,
        peft_config=task.peft_config(),
    )
