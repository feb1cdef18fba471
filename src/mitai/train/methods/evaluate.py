"""Evaluation as a method of the job file: numbers about a model on sealed records, and nothing else.

It trains nothing; the worker signs what it returns and seals it as a capsule of kind `report`, which belongs to the
owners of model and data alike (`docs/spec/evaluation.md`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from mitai.errors import TrainError
from mitai.train.evaluate.measure import Models
from mitai.train.evaluate.report import MEASURED_NAME
from mitai.train.evaluate.run import evaluate as run_tasks
from mitai.train.evaluate.scoring import Scorer
from mitai.train.evaluate.tasks import Evaluate
from mitai.train.task import Task


def evaluate(task: Task) -> dict[str, bytes]:
    """Run the tasks of a job; return the unsigned results as the one file `MEASURED_NAME`."""
    plan, judge = cast("Evaluate", task.job.options), None
    if task.evaluation is not None:
        raise TrainError("train.job-malformed", "an evaluation measures all of job.data: [evaluation] is for training")
    if plan.judge:
        loaded = task.loaded("judge")
        judge = Scorer(loaded.model, loaded.tokenizer, plan.batch)
    models = Models(Scorer(task.model, task.tokenizer, plan.batch), judge)
    records = cast("list[Mapping[str, object]]", task.train.to_list())
    return {MEASURED_NAME: run_tasks(plan, records, models).encode()}
