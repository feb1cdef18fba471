"""What a model is asked: instructions, examples and the record's prompt, as text or as a conversation.

As in lm-evaluation-harness: an example is its prompt, a space and its target; examples are apart by an empty line.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from mitai.errors import TrainError
from mitai.train.evaluate.scoring import Scorer
from mitai.train.evaluate.tasks import ExactMatch, MultipleChoice, Record, Task, fill

BETWEEN = "\n\n"


class Prompter:
    """Makes the prompts of one task.

    Args:
        task: The task.
        scorer: The model, for its chat template.
        examples: The records that shots are drawn from; each task draws its own, once, by `seed`.
        seed: The evaluation's seed.
    """

    def __init__(self, task: Task, scorer: Scorer, examples: Sequence[Record], seed: int) -> None:
        drawn = random.Random(f"{seed}:{task.name}").sample(range(len(examples)), task.shots)
        self._task, self._scorer = task, scorer
        self._shots = [(fill(task.prompt, examples[at]), target(task, examples[at])) for at in drawn]
        self.gap = "" if task.chat else " "  # between a prompt and what follows it
        if task.chat and not scorer.chat(self._turns("?")):
            raise TrainError("train.no-chat-template", f"the model's chat template refuses the turns of {task.name!r}")

    def __call__(self, record: Record) -> str:
        """Return the whole prompt of a record."""
        task, prompt = self._task, fill(self._task.prompt, record)
        if task.chat:
            return self._scorer.chat(self._turns(prompt))
        return task.instructions + "".join(f"{asked} {answer}{BETWEEN}" for asked, answer in self._shots) + prompt

    def _turns(self, prompt: str) -> list[dict[str, str]]:
        turns = [{"role": "system", "content": self._task.instructions}] if self._task.instructions else []
        for asked, answer in self._shots:
            turns += [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
        return [*turns, {"role": "user", "content": prompt}]


def target(task: Task, record: Record) -> str:
    """Return the right answer as an example shows it."""
    if isinstance(task, ExactMatch):
        return fill(task.target, record)
    if isinstance(task, MultipleChoice):
        right = gold(task, record)
        return fill(task.choices[right], record) if right >= 0 else ""
    return ""


def gold(task: MultipleChoice, record: Record) -> int:
    """Return the number of the right choice; -1 where the record names none, so that no choice is right."""
    value = record.get(task.gold)
    choices = [fill(choice, record) for choice in task.choices]
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(choices):
        return value
    if isinstance(value, str) and choices.count(value) == 1:
        return choices.index(value)
    return -1
