"""A trainer that is watched: which rows each step takes, limits held, cancelled on demand, and states to resume from.

`watched(trainer, watch)` puts a thin layer over any `transformers.Trainer`, trl's included, without changing a number
that it computes. What the layer adds to transformers' loop:

- the rows of each step, in the order in which the loader drew them, and the tokens that they hold;
- a state after a step (`Watch.states`), and the start from such a state instead of from a folder of files.

Invariants:

- A run that starts from a state continues bit for bit as the run that gave it: weights, optimizer, schedule, generators
  of randomness, position in the data, early stopping.
- transformers' own checkpoints are never written or read.
- With a group, what the loader gives and every limit counts all ranks' rows; only the arithmetic is divided.

Example:
    >>> watched(SFTTrainer(…), Watch(job, …)).train()
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, cast

from transformers import Trainer, TrainerCallback

from mitai.errors import TrainError
from mitai.train.job import Job
from mitai.train.state import State, capture, restore, restore_randomness

if TYPE_CHECKING:
    from torch import Tensor

    from mitai.train.group import Group

_RESUMED = "sealed state"  # what transformers is told instead of a folder's path


class Observer(Protocol):
    """What sees a run go by, such as a transcript. Its state travels in the sealed checkpoints.

    `begin` comes once, after the trainer was built and before its first step (after a resumption: with `step` above 0,
    and after `restore`); `step` after every optimizer step; `end` once, and what it returns is added to the output's
    files. A run that is killed and resumed shows each step once to the states that survive.
    """

    def begin(self, trainer: Trainer, step: int) -> None:
        """See the trainer: `.train_dataset` are the prepared rows, `.model` the weights, `.state.max_steps` the end."""
        ...

    def step(self, step: int, samples: tuple[int, ...], loss: float) -> None:
        """See a step: its number from 1 on, the prepared rows that it took, and its loss."""
        ...

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs, as JSON values."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Take up the state that a checkpoint held."""
        ...

    def end(self, trainer: Trainer) -> dict[str, bytes]:
        """Return files for the output, by name."""
        ...


class States(Protocol):
    """Where states are kept: sealed checkpoints, or a test's memory."""

    def save(self, state: State) -> None:
        """Keep a state."""
        ...

    def newest(self) -> State | None:
        """Return the newest one that is whole and this job's."""
        ...


Report = Callable[[dict[str, float]], None]


@dataclass
class Watch:
    """What is kept beside a trainer while it runs."""

    job: Job
    observers: dict[str, Observer] = field(default_factory=dict)
    states: States | None = None
    report: Report = lambda _: None
    cancelled: Callable[[], bool] = lambda: False
    group: Group | None = None
    resumed: State | None = None
    tokens: int = 0
    samples: tuple[int, ...] = ()
    losses: list[float] = field(default_factory=list)
    evaluations: list[tuple[int, float]] = field(default_factory=list)
    skip: int = 0  # batches that the loader draws and a resumed run does not take
    order: _Order | None = None

    def took(self, batches: list[Any]) -> None:
        """Note the rows and tokens of one step; raise `TrainError` above the job's limit of tokens."""
        if self.order is not None:
            self.order.take(self.skip)
            self.samples = self.order.take(len(batches))
        self.skip = 0
        self.count(
            sum(
                value.numel()
                for batch in batches
                if isinstance(batch, dict)
                for name, value in batch.items()
                if name.endswith("input_ids")
            )
        )

    def count(self, tokens: int) -> None:
        """Add tokens that the run works on; a trainer that makes some itself (GRPO: answers) says so here.

        Raises:
            TrainError: They are more than the job's limit.
        """
        self.tokens += tokens
        limit = self.job.limits.tokens
        if limit is not None and self.tokens > limit:
            raise TrainError("train.tokens-exceeded", f"the job states at most {limit} tokens, and needs more")

    def facts(self) -> dict[str, Any]:
        """Return what a resumed run has to know of the steps before, as JSON values."""
        return {
            "tokens": self.tokens,
            "losses": self.losses,
            "evaluations": self.evaluations,
            "observers": {name: each.state() for name, each in self.observers.items()},
        }

    def take_up(self, facts: dict[str, Any]) -> None:
        """Continue from `facts` of a former run."""
        self.tokens, self.losses = facts["tokens"], list(facts["losses"])
        self.evaluations = [(step, loss) for step, loss in facts["evaluations"]]
        for name, observer in self.observers.items():
            observer.restore(facts["observers"][name])


class _Order:
    """A sampler that remembers what it gave out."""

    def __init__(self, sampler: Any, batch: int) -> None:  # noqa: ANN401 - torch's samplers share no type
        self._sampler, self._batch = sampler, batch
        self._drawn: deque[int] = deque()

    def __iter__(self) -> Iterator[int]:
        self._drawn.clear()
        for index in self._sampler:
            self._drawn.append(int(index))
            yield index

    def __len__(self) -> int:
        return len(self._sampler)

    def set_epoch(self, epoch: int) -> None:
        if hasattr(self._sampler, "set_epoch"):
            self._sampler.set_epoch(epoch)

    def take(self, batches: int) -> tuple[int, ...]:
        """Return the rows of the next so many batches."""
        return tuple(self._drawn.popleft() for _ in range(min(batches * self._batch, len(self._drawn))))


class _Watching:
    """The layer: it comes before the trainer's own class."""

    mitai: Watch

    def get_train_dataloader(self) -> Any:  # noqa: ANN401 - transformers' type is loose
        loader = cast("Any", super()).get_train_dataloader()
        batches: Any = getattr(loader, "batch_sampler", None)
        if hasattr(batches, "sampler") and isinstance(getattr(batches, "batch_size", None), int):
            self.mitai.order = batches.sampler = _Order(batches.sampler, batches.batch_size)
        return loader

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[Any], Any]:  # noqa: ANN401
        batches, items = cast("Any", super()).get_batch_samples(*args, **kwargs)
        self.mitai.took(batches)
        group = self.mitai.group
        if group is None:
            return batches, items
        if items is None:
            raise TrainError("train.not-divisible", "the loss of this model is no sum over tokens")
        return [group.part(batch) for batch in batches], items

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
        loss: Tensor = cast("Any", super()).training_step(*args, **kwargs)
        if group := self.mitai.group:
            trainer = cast("Any", self)
            group.add(loss)
            if trainer.accelerator.sync_gradients:  # the last batch of a step
                group.add_gradients(trainer.model)
        return loss

    def _save_checkpoint(self, model: Any, trial: Any) -> None:  # noqa: ANN401, ARG002
        trainer = cast("Trainer", self)
        if self.mitai.states is not None and not trainer.control.should_training_stop:
            self.mitai.states.save(capture(trainer, self.mitai.facts()))

    def _inner_training_loop(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        if self.mitai.resumed is not None:
            kwargs["resume_from_checkpoint"] = _RESUMED
        return cast("Any", super())._inner_training_loop(*args, **kwargs)

    def _init_training_state(
        self, max_steps: int, steps_per_epoch: int, epochs: int, _resumed: object, trial: object
    ) -> tuple[int, int]:
        cast("Any", super())._init_training_state(max_steps, steps_per_epoch, epochs, None, trial)
        state = self.mitai.resumed
        if state is None:
            return 0, 0
        trainer = cast("Trainer", self)
        trainer.state.global_step = state.step
        trainer.state.epoch = state.facts["epoch"]
        self.mitai.skip = state.step % steps_per_epoch * trainer.args.gradient_accumulation_steps
        return state.step // steps_per_epoch, self.mitai.skip

    def _load_optimizer_and_scheduler(self, _resumed: object) -> None:
        if self.mitai.resumed is not None:
            restore(cast("Trainer", self), self.mitai.resumed)

    def _load_scaler(self, _resumed: object) -> None:
        """There is none: no job trains in half precision with a scaled loss."""

    def _load_rng_state(self, _resumed: object) -> None:
        if self.mitai.resumed is not None:
            restore_randomness(self.mitai.resumed)


class Keeper(TrainerCallback):
    """Says when a state is kept, passes numbers on, and ends a run that was cancelled."""

    def __init__(self, trainer: Trainer, watch: Watch, every_steps: int) -> None:
        self._trainer, self._watch, self._every = trainer, watch, every_steps

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ANN401, ARG002
        """Take up what the former run knew; the observers see the beginning."""
        if self._watch.resumed is not None:
            self._watch.take_up(self._watch.resumed.facts["watch"])
        for observer in self._watch.observers.values():
            observer.begin(self._trainer, state.global_step)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ANN401, ARG002
        """Stop here when the host or a lease says so."""
        if self._watch.cancelled():
            raise TrainError("train.cancelled", f"the job was cancelled after step {state.global_step}")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ANN401, ARG002
        """Ask for a state at every so many steps."""
        if self._every and state.global_step % self._every == 0 and state.global_step < state.max_steps:
            control.should_save = True

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ANN401, ARG002
        """Note a step's loss, and tell observers and host."""
        watch, logs = self._watch, kwargs["logs"]
        if "loss" in logs:
            watch.losses.append(float(logs["loss"]))
            for observer in watch.observers.values():
                observer.step(state.global_step, watch.samples, watch.losses[-1])
        if "eval_loss" in logs:
            watch.evaluations.append((state.global_step, float(logs["eval_loss"])))
        if "loss" in logs or "eval_loss" in logs:
            told = {"step": state.global_step, "steps": state.max_steps, "tokens": watch.tokens}
            silent = getattr(self._trainer, "silent", False)
            watch.report(told if silent else told | numbers(logs))


_UNTOLD = ("runtime", "per_second", "num_tokens", "flos")  # timings, and what is counted here anyway


def numbers(logs: dict[str, Any]) -> dict[str, float]:
    """Return what a trainer logs as plain numbers; names come from code, never from data."""
    return {
        name: float(value)
        for name, value in logs.items()
        if isinstance(value, (int, float))
        and math.isfinite(value)  # others are no JSON
        and len(name) <= 64
        and not name.endswith(_UNTOLD)
    }


class BestWeights(TrainerCallback):
    """Early stopping that keeps the best weights in memory, and its own state in checkpoints."""

    def __init__(self, patience: int, min_delta: float) -> None:
        self._patience, self._min_delta = patience, min_delta
        self.best = float("inf")
        self.waited = 0
        self.weights: dict[str, Tensor] = {}

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ANN401, ARG002
        """Keep the weights when they are the best so far; stop when none were for so long."""
        from mitai.train.state import trainable

        loss = float(kwargs["metrics"]["eval_loss"])
        if loss < self.best - self._min_delta:
            self.best, self.waited = loss, 0
            self.weights = {name: tensor.detach().clone() for name, tensor in trainable(kwargs["model"]).items()}
            return
        self.waited += 1
        if self.waited >= self._patience:
            control.should_training_stop = True


def watched(trainer: Trainer, watch: Watch) -> Trainer:
    """Put the layer over a trainer; its class, and with it `isinstance`, stays what it was."""
    own = type(trainer)
    trainer.__class__ = type(own.__name__, (_Watching, own), {"__module__": own.__module__})
    cast("Any", trainer).mitai = watch
    every = watch.job.checkpoints.every_steps if watch.states is not None else 0
    multiple = getattr(trainer, "steps_between_states", 1)
    trainer.add_callback(Keeper(trainer, watch, -(-every // multiple) * multiple))
    return trainer
