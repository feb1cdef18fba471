"""What methods ask of records: their columns, and a chat template where there are conversations.

Example:
    >>> require(task, "prompt", "chosen", "rejected")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mitai.errors import TrainError

if TYPE_CHECKING:
    from mitai.train.task import Task

# The common ChatML form, with the assistant's words marked for `loss = "assistant"`.
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def require(task: Task, *columns: str) -> bool:
    """Refuse records that lack one of `columns`, or have text in one and messages in another.

    Returns:
        Whether they are conversations.

    Raises:
        TrainError: `train.columns-unfit`.
    """
    conversations = False
    for data in (task.train, task.evaluation):
        if data is None:
            continue
        if not set(columns) <= set(data.column_names):
            raise _unfit(task, columns, "lack a column")
        kinds = {type(data[0][name]) for name in columns}
        if kinds not in ({str}, {list}):
            raise _unfit(task, columns, "have other than text, or messages, in all of them")
        conversations = kinds == {list}
    return conversations


def use_template(task: Task, template: str, *, conversations: bool) -> None:
    """Set the chat template that the job chose; refuse conversations without one."""
    if template == "chatml":
        task.tokenizer.chat_template = CHATML
    if conversations and not task.tokenizer.chat_template:
        table = task.job.job.method
        raise TrainError(
            "train.no-chat-template",
            "the model has no chat template",
            hint=f'choose one: [{table}] template = "chatml"',
        )


def _unfit(task: Task, columns: tuple[str, ...], what: str) -> TrainError:
    return TrainError(
        "train.columns-unfit",
        f"records for {task.job.job.method} have {', '.join(columns)}; these {what}",
        hint="choose the columns with limits.columns; docs/spec/training-methods.md lists those of each method",
    )
