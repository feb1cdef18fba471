"""One job from its opened inputs to the files of its output, in memory; nothing is read or written elsewhere.

Invariants:

- The same job on the same inputs gives the same weights, bit for bit (same machine, same number of threads), resumed
  or not.
- What the job states under `[limits]`, and its epochs, hold: a run that would go beyond ends with an error.
- An output holds weights, configuration and numbers; no row of the data.

Example:
    >>> outcome = run(job, {"base": FolderSource(demo_model.path()), "records": source})
    >>> sorted(outcome.files)
    ['adapter_config.json', 'adapter_model.safetensors', 'metrics.json']
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import msgspec

from mitai.capsule.sources import FileSource
from mitai.errors import MitaiError, TrainError
from mitai.train.quiet import calm, quiet

quiet()

import torch  # noqa: E402 - after `quiet`, which decides what these do on import
from datasets import Dataset  # noqa: E402
from transformers import PrinterCallback, Trainer, set_seed  # noqa: E402

from mitai.serve.loading import LoadedModel  # noqa: E402
from mitai.train import weights  # noqa: E402
from mitai.train.approximation import load  # noqa: E402
from mitai.train.data import MAX_ROWS, Records, read  # noqa: E402
from mitai.train.group import Group, SharedStates, require_divisible  # noqa: E402
from mitai.train.job import Job  # noqa: E402
from mitai.train.loop import BestWeights, Observer, Report, States, Watch, watched  # noqa: E402
from mitai.train.methods import METHODS  # noqa: E402
from mitai.train.outcome import Outcome  # noqa: E402
from mitai.train.state import trainable  # noqa: E402
from mitai.train.task import Task  # noqa: E402

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def run(
    job: Job,
    sources: Mapping[str, FileSource],
    *,
    secret: bytes = b"",
    observers: Mapping[str, Observer] | None = None,
    states: States | None = None,
    report: Report = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
    group: Group | None = None,
) -> Outcome:
    """Run a job.

    Args:
        job: What to do.
        sources: The opened inputs by capsule id.
        secret: At least 32 bytes that nobody outside of the TEE knows, others at every start; what a method
            hides with noise, it hides with this. Without it, such a method refuses.
        observers: What sees the run go by, by a name that its states are kept under.
        states: Where to keep states, and to begin from; without it, the run can't be resumed.
        report: Called with the numbers of every step.
        cancelled: Asked before every step.
        group: The ranks that do this job together.

    Raises:
        MitaiError: An input is not what it should be, a limit is passed, or the run was cancelled.
    """
    if (group.size if group else 1) != (job.distributed.workers if job.distributed else 1):
        raise TrainError("train.ranks", "the job asks for another number of workers than there are")
    states = SharedStates(group, states) if group else states
    with calm():
        return _run(job, sources, secret, Watch(job, dict(observers or {}), states, report, cancelled, group))


def _run(job: Job, sources: Mapping[str, FileSource], secret: bytes, watch: Watch) -> Outcome:
    if watch.observers and METHODS[job.job.method].private:
        raise TrainError("train.not-observed", "a private job has no transcript: it would tell what the noise hides")
    method = METHODS[job.job.method].load()
    set_seed(job.job.seed)
    task, rows = _task(job, sources, secret)
    if hasattr(method, "evaluate"):
        files = method.evaluate(task)
        return Outcome("report", files, {"rows": rows}, _named(files))
    trainer = watched(_built(partial(method.trainer, task)), watch)
    best = _prepare(trainer, job)
    _hold_to_steps(trainer, job)
    if watch.group:
        require_divisible(trainer)
    watch.resumed = watch.states.newest() if watch.states else None
    files = _trained(trainer, watch, best)
    metrics = {
        "steps": trainer.state.global_step,
        "rows": rows,
        "tokens": watch.tokens,
        "losses": watch.losses,
        "evaluations": watch.evaluations,
    }
    files |= {"metrics.json": msgspec.json.format(msgspec.json.encode(metrics))}
    kind, made = weights.files(trainer.model, sources[job.inputs()[0].capsule])
    return Outcome(kind, made | files, metrics, _named(files))


def _named(files: Mapping[str, bytes]) -> tuple[str, ...]:
    """Return the documents among the files: what lineage names by digests."""
    return tuple(sorted(name for name in files if "/" not in name and name.endswith(".json")))


def prepared(job: Job, sources: Mapping[str, FileSource]) -> Trainer:
    """Return a job's trainer as `run` has it before the first step: for who re-executes a run, within `calm()`."""
    method = METHODS[job.job.method].load()
    set_seed(job.job.seed)
    task, _ = _task(job, sources, b"")
    trainer = _built(partial(method.trainer, task))
    _prepare(trainer, job)
    _hold_to_steps(trainer, job)
    return trainer


def training_rows(job: Job, sources: Mapping[str, FileSource]) -> Records:
    """Return the records that a job trains on."""
    return _rows(job, _by_role(job, sources, "data", "evaluation"))[0]


def _by_role(job: Job, sources: Mapping[str, FileSource], *roles: str) -> dict[str, list[FileSource]]:
    by_role: dict[str, list[FileSource]] = {}
    for each in job.inputs():
        if each.role in roles or not roles:
            if each.capsule not in sources:
                raise TrainError("train.input-missing", f"the job's input {each.capsule} is not at hand")
            by_role.setdefault(each.role, []).append(sources[each.capsule])
    return by_role


def _task(job: Job, sources: Mapping[str, FileSource], secret: bytes) -> tuple[Task, int]:
    """Load model and rows; return the task, and how many rows it trains on."""
    by_role = _by_role(job, sources)
    train, held_out = _rows(job, by_role)
    base = load(by_role["model"][0], classifiers=METHODS[job.job.method].classifiers)
    model = _model(job, base, by_role)

    def role(name: str) -> LoadedModel:
        if name not in by_role:
            raise TrainError("train.role-unknown", f"this job has no {name}")
        return load(by_role[name][0])

    evaluation = Dataset.from_list(held_out.plain()) if held_out else None
    rows = Dataset.from_list(train.plain())
    return Task(job, model, base.tokenizer, rows, evaluation, role, sources, secret), len(train)


def _rows(job: Job, by_role: Mapping[str, list[FileSource]]) -> tuple[Records, Records | None]:
    columns, limit = job.limits.columns, job.limits.rows
    if METHODS[job.job.method].private and limit is not None:
        found = read(by_role["data"], columns=columns, rows=limit + 1)
        if len(found) > limit:  # to leave some out would let each decide whether another is in
            raise TrainError("train.too-many-rows", f"there are more than the {limit} records that the job states")
        return found, None
    found = read(by_role["data"], columns=columns, rows=limit)
    if job.evaluation is None:
        return found, None
    if "evaluation" in by_role:
        rows = min(job.evaluation.rows or MAX_ROWS, limit or MAX_ROWS)  # what is declared bounds these too
        return found, read(by_role["evaluation"], columns=columns, rows=rows)
    return found.split(job.evaluation.rows or 0)


def _model(job: Job, base: LoadedModel, by_role: Mapping[str, list[FileSource]]) -> PreTrainedModel:
    """Make trainable what the job trains."""
    model: Any = base.model
    if job.lora and job.lora.quantised:
        model = weights.quantised(model)
    elif job.training.precision == "float32":
        model = model.float()
    if job.job.adapter:
        return weights.with_adapter(model, by_role["adapter"][0])
    if job.lora is None:
        model.requires_grad_(requires_grad=True)
    ready: PreTrainedModel = model.train()
    return ready


def _built(build: Callable[[], Trainer]) -> Trainer:
    try:
        return build()
    except MitaiError:
        raise
    except Exception as error:  # noqa: BLE001 - trl raises plain ValueErrors, which may quote a record
        raise TrainError(
            "train.method-refused",
            f"the method can't start with these records and settings ({type(error).__name__})",
            hint="do the columns fit the method, and the chat template the records?",
        ) from None


def _prepare(trainer: Trainer, job: Job) -> BestWeights | None:
    trainer.remove_callback(PrinterCallback)
    if not len(cast("Dataset", trainer.train_dataset)):
        raise TrainError("train.no-rows", "no row is left after tokenisation", hint="is training.max_length too small?")
    if job.early_stopping is None:
        return None
    best = BestWeights(job.early_stopping.patience, job.early_stopping.min_delta)
    trainer.add_callback(best)
    return best


def _hold_to_steps(trainer: Trainer, job: Job) -> None:
    """Let the run end after the stated steps, or its epochs, whichever comes first."""
    batches = len(trainer.get_train_dataloader())
    steps = job.training.epochs * math.ceil(batches / trainer.args.gradient_accumulation_steps)
    if job.limits.steps is not None and job.limits.steps < steps:
        trainer.args.max_steps = job.limits.steps


def _trained(trainer: Trainer, watch: Watch, best: BestWeights | None) -> dict[str, bytes]:
    """Train to the end; return what observers add to the output."""
    try:
        trainer.train()
    except MitaiError:
        raise
    except Exception as error:  # noqa: BLE001 - what a trainer raises may hold anything
        raise TrainError("train.failed", f"training stopped with a {type(error).__name__}") from None
    if not all(map(math.isfinite, watch.losses)):
        raise TrainError("train.diverged", "a loss is not a number", hint="a smaller training.learning_rate may help")
    if watch.group:
        watch.group.agree(trainable(cast("torch.nn.Module", trainer.model)))
    if best is not None and best.weights:
        with torch.no_grad():
            for name, tensor in trainable(cast("torch.nn.Module", trainer.model)).items():
                tensor.copy_(best.weights[name])
    files: dict[str, bytes] = {}
    for observer in watch.observers.values():
        files |= observer.end(trainer)
    return files
