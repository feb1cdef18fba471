"""Group relative policy optimisation (Shao et al. 2024, arXiv:2402.03300) towards verifiable rewards.

Records have `prompt` and the columns that the job's rewards read. For each prompt the model gives several answers;
those that score above their group's mean become more likely. Answers are generated in this process, by transformers,
from the job's seed; one set of answers serves one step, so a run can stop and resume after each.

Invariants:

- Rewards are measured code (`mitai.train.rewards`), or a data owner's program, which only ever runs in the sandbox: a
  fresh one for every step, so that nothing carries over, and pinned by the digest that the broker was told.
- A program that raises an exception scores 0; one that takes too long, or says what is no number, ends the run.

Example:
    >>> trainer(task).train()
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from mitai.errors import TrainError
from mitai.train.methods.records import require, use_template
from mitai.train.rewards import AnyReward, Code
from mitai.train.sandbox import Limits, ProgramError, Sandbox

if TYPE_CHECKING:
    from transformers import Trainer

    from mitai.train.loop import Watch
    from mitai.train.tables import Grpo
    from mitai.train.task import Task

Scores = Callable[[Sequence[str], Sequence[dict[str, Any]]], list[float]]
MAX_PROGRAM_BYTES = 1 << 20
_TAKEN = {"completion", "completion_ids", "completions", "environment", "image", "images", "log_extra", "log_metric"}
_TAKEN |= {"prompts", "tools", "trainer_state"}  # what trl calls rewards with, or reads from records itself
PROGRAM_LIMITS = Limits(wall_s=60.0, cpu_s=60)  # for all answers of a step


def trainer(task: Task) -> Trainer:
    """Return trl's trainer for the task; raise `TrainError` when the records don't fit the settings."""
    options = cast("Grpo", task.job.options)
    use_template(task, options.template, conversations=require(task, "prompt"))
    kept = _kept(task, options)
    fits = partial(_fits, task.tokenizer, task.job.training.max_length - options.max_answer)
    arguments = task.arguments(
        GRPOConfig,
        num_generations=options.generations,
        max_completion_length=options.max_answer,
        temperature=options.temperature,
        top_p=options.top_p,
        beta=options.beta,
        epsilon=options.clip,
        loss_type=options.loss,
        scale_rewards=options.scale,
        reward_weights=[reward.weight for reward in options.rewards],
        num_iterations=1,
        steps_per_generation=task.job.training.accumulation,
        log_completions=False,
    )
    functions: list[Any] = [_function(task, reward, number) for number, reward in enumerate(options.rewards, 1)]
    return Answering(
        model=task.model,
        reward_funcs=functions,
        args=arguments,
        train_dataset=task.train.select_columns(kept).filter(fits),
        eval_dataset=task.evaluation and task.evaluation.select_columns(kept).filter(fits),
        processing_class=task.tokenizer,
        peft_config=task.peft_config(),
    )


class Answering(GRPOTrainer):
    """trl's trainer, with the tokens of prompts and answers counted."""

    mitai: Watch | None = None  # set by `mitai.train.loop.watched`

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        made: dict[str, Any] = super()._generate_and_score_completions(inputs)
        if self.mitai is not None and cast("Any", self.model).training:
            self.mitai.count(int(made["prompt_mask"].sum() + made["completion_mask"].sum()))
        return made


def _fits(tokenizer: Any, limit: int, row: dict[str, Any]) -> bool:  # noqa: ANN401 - transformers' types are loose
    """Whether a prompt leaves room for an answer; those that don't are left out."""
    prompt = row["prompt"]
    if not isinstance(prompt, str):
        prompt = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
    return len(tokenizer(prompt, add_special_tokens=False)["input_ids"]) <= limit


def _kept(task: Task, options: Grpo) -> list[str]:
    """Return the columns that trl gets: the prompt, and what rewards read; a program reads all.

    Raises:
        TrainError: The records lack one, or one has a name that trl uses itself.
    """
    wanted = {"prompt"}.union(*(reward.columns() for reward in options.rewards))
    if any(isinstance(reward, Code) for reward in options.rewards):
        wanted.update(task.train.column_names)
    for data in (task.train, task.evaluation):
        if data is not None and not wanted <= set(data.column_names):
            raise TrainError(
                "train.columns-unfit",
                f"prompt and rewards are {len(wanted)} columns, and the records lack one of them",
                hint="name them in limits.columns, and with `column` in the reward",
            )
    if wanted & _TAKEN:
        raise TrainError(
            "train.columns-unfit", f"rewards can't read columns of these names: {', '.join(sorted(_TAKEN))}"
        )
    return sorted(wanted)


def _function(task: Task, reward: AnyReward, number: int) -> Callable[..., list[float]]:
    """Return a reward as trl calls it: all answers of a step, and the records' columns as lists."""
    scores = _sandboxed(_program(task, reward)) if isinstance(reward, Code) else _measured(reward)
    columns = [name for name in task.train.column_names if isinstance(reward, Code) or name in reward.columns()]

    def function(prompts: list[Any], completions: list[Any], **given: Any) -> list[float]:  # noqa: ANN401
        values = given | {"prompt": prompts}
        rows = [{name: values[name][at] for name in columns} for at in range(len(completions))]
        return scores([_text(completion) for completion in completions], rows)

    function.__name__ = f"{number}_{type(reward).__name__.lower()}"  # a metric's name: rewards/1_exact/mean
    return function


def _text(completion: Any) -> str:  # noqa: ANN401 - a text, or a list of one message
    return completion if isinstance(completion, str) else str(completion[0]["content"])


def _measured(reward: AnyReward) -> Scores:
    return lambda answers, rows: [reward.score(answer, row) for answer, row in zip(answers, rows, strict=True)]


def _program(task: Task, reward: Code) -> str:
    """Return the source of a reward that came with a data capsule, if it is the one that the job states."""
    source = task.sources[reward.capsule]
    if reward.file not in source.names() or source.size(reward.file) > MAX_PROGRAM_BYTES:
        raise _program_unfit(f"the capsule has no such file of at most {MAX_PROGRAM_BYTES} bytes")
    content = source.read(reward.file)
    if hashlib.sha256(content).hexdigest() != reward.sha256:
        raise _program_unfit("its digest is not the one that the job states")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise _program_unfit("it is no text") from None


def _program_unfit(why: str) -> TrainError:
    return TrainError("train.reward-program-unfit", f"the reward's program can't be used: {why}")


def _sandboxed(program: str) -> Scores:
    def scores(answers: Sequence[str], rows: Sequence[dict[str, Any]]) -> list[float]:
        with Sandbox(program, PROGRAM_LIMITS) as box:
            return [_asked(box, answer, row) for answer, row in zip(answers, rows, strict=True)]

    return scores


def _asked(box: Sandbox, answer: str, row: dict[str, Any]) -> float:
    try:
        said = box.call("reward", answer, row)
    except ProgramError as error:
        if error.reason == "raised":
            return 0.0
        raise
    if isinstance(said, bool) or not isinstance(said, (int, float)) or not math.isfinite(said):
        raise TrainError("train.reward-not-a-number", "the reward's program answered with something that is no number")
    return min(1.0, max(0.0, float(said)))
