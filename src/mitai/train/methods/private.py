"""Supervised fine-tuning with differential privacy of every record (DP-SGD), of an adapter or of all weights.

Records and what is learnt from them are those of `sft`. `mitai.train.privacy` has the plan and the randomness; here
gradients are taken record by record (opacus' hooks), clipped, summed and given noise, and transformers' loop takes the
optimizer's step. `docs/spec/training-methods.md`, "Private training", says what is promised and what is not.

Invariants:

- One record changes the sum of a step by at most `clip`: its loss is a function of it alone, and clipping is computed
  with 64-bit numbers. That gradients really are those of single records is tried out on each model before its run.
- Nothing but the noisy sum leaves a step. Losses are not computed for anybody: 0 is reported; the tokens of a step,
  gradients and evaluations are neither.
- No record ends the run, for that would tell what it holds to who made the model, its tokenizer and its template: one
  that can't be prepared is left out, one of which no gradient can be had counts as none.
- No step beyond the plan.

Example:
    >>> trainer(task).train()
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn, cast

import torch
from datasets import Dataset
from opacus.grad_sample.grad_sample_module import GradSampleHooks
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader
from transformers import Trainer
from trl.trainer.sft_trainer import SFTTrainer
from trl.trainer.utils import disable_dropout_in_model

from mitai.errors import TrainError
from mitai.train.methods import sft
from mitai.train.privacy import Plan, Randomness

if TYPE_CHECKING:
    from mitai.train.tables import Private
    from mitai.train.task import Task

_TELLS_NOTHING = ("loss", "learning_rate", "epoch")  # of a log; the loss is 0
_MARGIN = 1 - 1e-6  # what rounding may add to a clipped gradient is taken off before


def trainer(task: Task) -> Trainer:
    """Return the trainer for the task.

    Raises:
        TrainError: The records don't fit, no noise keeps the budget, or the model's gradients are not those of records.
    """
    options, limits = cast("Private", task.job.options), task.job.limits
    rows, steps = limits.rows or 0, limits.steps or 0  # the job file was refused without them
    plan = Plan.of(
        epsilon=options.epsilon,
        delta=options.delta,
        batch=task.job.training.batch,
        rows=rows,
        steps=steps,
        clip=options.clip,
    )
    randomness = Randomness(task.secret, task.job.sha256())
    task = replace(task, train=task.train.filter(_says_something))  # trl goes by the first record
    made = cast("PrivateTrainer", sft.trainer(task, PrivateTrainer, max_steps=steps, max_grad_norm=0.0))
    if made.args.world_size > 1:
        raise TrainError("train.private-alone", "private training runs in one process")
    made.plan, made.randomness, made.chunk = plan, randomness, options.chunk
    made.train_dataset = _known(made.train_dataset, made.model.get_input_embeddings().num_embeddings)
    made.attach()
    return made


class Taken:
    """The records of each step of a plan, as a loader's batches; a step may take none."""

    def __init__(self, plan: Plan, randomness: Randomness, rows: int) -> None:
        self._plan, self._randomness, self._rows = plan, randomness, rows

    def __len__(self) -> int:
        return self._plan.steps

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self._plan.steps):
            yield self._randomness.sample(step, self._rows, self._plan.sample_rate)


class PrivateTrainer(SFTTrainer):
    """trl's trainer for the records, with DP-SGD's step."""

    model: Any
    train_dataset: Any
    plan: Plan
    randomness: Randomness
    chunk: int

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the batches of the plan; a batch is a list of records, under a name that nothing counts."""
        batches = Taken(self.plan, self.randomness, len(self.train_dataset))
        return DataLoader(self.train_dataset, batch_sampler=batches, collate_fn=_kept)

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: object = None) -> Tensor:  # noqa: ANN401, ARG002
        """Put a step's noisy mean gradient where the optimizer takes it from; return 0."""
        step, plan, records = self.state.global_step, self.plan, inputs["records"]
        if step >= plan.steps:
            raise TrainError("train.plan-exceeded", f"the plan ends after {plan.steps} steps")
        parameters = _trained(model)
        sums = [torch.zeros_like(each, dtype=torch.float64) for each in parameters]
        for at in range(0, len(records), self.chunk):
            for found in self._gradients(records[at : at + self.chunk]):
                for total, part in zip(sums, clipped_sum(found, plan.clip), strict=True):
                    total.add_(part)
        hidden = _digest(sums)
        for number, (parameter, total) in enumerate(zip(parameters, sums, strict=True)):
            noise = torch.from_numpy(self.randomness.noise(step, hidden, number, total.numel())).view_as(total)
            noisy = total + plan.clip * plan.noise_multiplier * noise.to(total.device)
            parameter.grad = (noisy / plan.batch).to(parameter.dtype)
        return torch.zeros((), device=self.args.device)

    def _prepare_dataset(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:  # noqa: ANN401
        """Return the records as tokens; what can't be prepared is left out."""
        prepare = cast("Any", super())._prepare_dataset

        def alone(row: int) -> list[dict[str, Any]]:
            try:
                return list(prepare(dataset.select([row]), *args, **kwargs))
            except Exception:  # noqa: BLE001 - a stranger's template or tokenizer may raise anything
                return []

        try:
            made: Dataset = prepare(dataset, *args, **kwargs)
        except Exception:  # noqa: BLE001 - see above
            kept = [each for row in range(len(dataset)) for each in alone(row)]
            made = Dataset.from_dict({name: [each[name] for each in kept] for name in ("input_ids", "labels")})
        return made

    def _gradients(self, records: Sequence[dict[str, Any]]) -> Iterator[list[Tensor]]:
        """Yield the gradients of records together, or each alone where one of them fails; of that one, none."""
        try:
            yield self.gradients(records)
        except Exception:  # noqa: BLE001 - a stranger's model may raise anything
            self._forget()
            if len(records) > 1:
                for record in records:
                    yield from self._gradients([record])

    def _forget(self) -> None:
        """Drop what opacus' hooks have kept of a pass that was not finished."""
        for module in self.model.modules():
            module.__dict__.pop("activations", None)
            module.__dict__.pop("max_batch_len", None)
        for parameter in _trained(self.model):
            parameter.grad = parameter.grad_sample = None  # type: ignore[attr-defined]
            parameter._forward_counter = 0  # type: ignore[attr-defined]
            parameter.__dict__.pop("_current_grad_sample", None)

    def gradients(self, records: Sequence[dict[str, Any]]) -> list[Tensor]:
        """Return each record's gradient for each trained parameter, (records, *parameter) each.

        Raises:
            TrainError: opacus finds none for a parameter, or not one for each record.
        """
        found: list[Tensor] = []
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Full backward hook is firing")  # of embeddings: as opacus means it
            cast("Any", self._losses(records).sum()).backward()
        parameter: Any  # opacus adds an attribute
        for parameter in _trained(self.model):
            sample = parameter.grad_sample
            if not isinstance(sample, Tensor) or sample.shape != (len(records), *parameter.shape):
                raise _unfit()
            found.append(sample)
            parameter.grad = parameter.grad_sample = None
        return found

    def _losses(self, records: Sequence[dict[str, Any]]) -> Tensor:
        """Return each record's mean loss over its own tokens."""
        collate: Any = self.data_collator
        batch = self._prepare_inputs(collate(list(records)))
        labels = batch.pop("labels")[:, 1:]
        logits = self.model(**batch, use_cache=False).logits[:, :-1]
        each = functional.cross_entropy(logits.transpose(1, 2), labels, ignore_index=-100, reduction="none")
        return each.sum(1) / (labels != -100).sum(1).clamp(min=1)

    def attach(self) -> None:
        """Attach opacus' hooks to the model, and try them with two invented records.

        Raises:
            TrainError: Taken together these have other gradients than each alone, without the hooks: one depends on
                the other, or the hooks miss a part of the architecture.
        """
        disable_dropout_in_model(self.model.train())  # noise there is enough
        size = self.model.get_input_embeddings().num_embeddings
        longest = cast("int", cast("Any", self.args).max_length)  # so that a model for shorter ones is refused here
        invented = ([(7 * at + 3) % size for at in range(count)] for count in (longest, 5))
        records = [{"input_ids": tokens, "labels": tokens} for tokens in invented]
        parameters = _trained(self.model)
        alone = [torch.autograd.grad(self._losses([each]).sum(), parameters, allow_unused=True) for each in records]
        try:
            GradSampleHooks(self.model, loss_reduction="sum")
            found = self.gradients(records)
        except Exception:  # noqa: BLE001 - opacus stumbles in many ways over what it does not know
            raise _unfit() from None
        for number, together in enumerate(found):
            for record, expected in enumerate(each[number] for each in alone):
                if expected is None or (together[record] - expected).abs().max() > 1e-2 * expected.abs().max():
                    raise _unfit()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Pass on what tells nothing of the records."""
        Trainer.log(self, {name: value for name, value in logs.items() if name in _TELLS_NOTHING}, start_time)

    def floating_point_ops(self, inputs: object) -> int:  # noqa: ARG002
        """Return 0: it would be a count of the records' tokens."""
        return 0

    def evaluate(self, *_: object, **__: object) -> NoReturn:
        """Refuse: a loss is a function of records, without noise."""
        raise TrainError("train.private-evaluation", "a private run evaluates nothing")


def clipped_sum(gradients: Sequence[Tensor], clip: float) -> list[Tensor]:
    """Return the sum over records of their gradients, each of length at most `clip`; in 64 bits.

    A record of which the gradient is not finite counts as none.
    """
    wide = [each.double() for each in gradients]
    lengths = torch.stack([each.flatten(1).square().sum(1) for each in wide]).sum(0).sqrt()  # (records,)
    factors = (clip * _MARGIN / lengths).clamp(max=1.0)  # of a zero gradient: infinite, so 1
    finite = lengths.isfinite()
    return [torch.einsum("n,n...->...", factors[finite], each[finite]) for each in wide]


def _trained(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _says_something(row: dict[str, Any]) -> bool:
    return all(value != [] for value in row.values())


def _known(dataset: Dataset, size: int) -> Dataset:
    """Return the records of which the model knows all tokens.

    Where none is left, one that has no gradient: an end of the run would tell that there was no other.
    """
    known: Dataset = dataset.filter(lambda row: 0 <= min(row["input_ids"]) <= max(row["input_ids"]) < size)
    return known if len(known) else Dataset.from_dict({"input_ids": [[0, 0]], "labels": [[-100, -100]]})


def _kept(records: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    return {"records": records}


def _digest(tensors: Sequence[Tensor]) -> bytes:
    whole = hashlib.sha256()
    for tensor in tensors:
        whole.update(tensor.cpu().numpy().data)
    return whole.digest()


def _unfit() -> TrainError:
    return TrainError(
        "train.gradients-mixed",
        "the gradients of single records can't be had from this model",
        hint="train with [lora]; a mixture of experts can't be trained in private",
    )
