"""Goes through a claimed run once more: checks what entered it, and re-executes the segments that were drawn.

`docs/spec/transcript.md`, "Checking". The trainer's own loop runs over the claimed data, so that order, batches,
learning rates and accumulation are the job's. A segment that wasn't drawn is passed by without computing; a drawn one
starts from the state that the transcript names.

Invariants:

- A re-executed segment starts from the state with the claimed digest, and its end is compared with the claimed end.
- Every batch of the run is compared, also those of segments that are not re-executed.

Example:
    >>> Replay(trainer, transcript, secret, states, drawn=(3, 17)).run().distances  # doctest: +SKIP
    {3: 0.0, 17: 0.0}
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import torch
from transformers import PrinterCallback, TrainerCallback

from mitai.errors import MitaiError, TrainError
from mitai.train.transcript.document import Transcript
from mitai.train.transcript.recorder import NO_BATCH, batch_mac, mean, state_name
from mitai.train.transcript.state import State, capture, distance, restore, state_sha256

if TYPE_CHECKING:
    from transformers import Trainer

Row = dict[str, torch.Tensor]


class States:
    """The states that were kept, each checked against the transcript when it is read."""

    def __init__(self, transcript: Transcript, files: Mapping[str, bytes]) -> None:
        self._boundaries, self._files = transcript.boundaries, files

    def data(self, index: int) -> bytes:
        """Return the bytes of the state at a boundary; raise `TrainError` where they are missing or others."""
        boundary = self._boundaries[index]
        data = self._files.get(state_name(boundary.step))
        if data is None or state_sha256(data) != boundary.state_sha256:
            raise TrainError(
                "train.transcript-states",
                f"the state after step {boundary.step} is missing, or not the one that the transcript names",
                step="states",
            )
        return data

    def __call__(self, index: int) -> State:
        """Return the state at a boundary."""
        return State.decode(self.data(index))


class Replay(TrainerCallback):
    """One pass over a run."""

    def __init__(
        self,
        trainer: Trainer,
        transcript: Transcript,
        secret: bytes,
        states: States,
        *,
        drawn: Collection[int],
        tolerance: float = 0.0,
        rows: int = 0,
        rng: random.Random | None = None,
        whole: bool = True,
    ) -> None:
        """Prepare the pass.

        Args:
            trainer: As the job describes it, over the claimed data, before `train()`.
            transcript: What is claimed.
            secret: The run's.
            states: The kept states.
            drawn: The segments to re-execute, counted from 0.
            tolerance: The distance up to which an end counts as the claimed one; 0: bit-equal.
            rows: How many rows of each segment to keep for the memorisation test.
            rng: Chooses those rows.
            whole: Go on to the end of the run, and not only to the last drawn segment.
        """
        self._trainer: Any = trainer
        self._transcript, self._secret, self._states = transcript, secret, states
        self._drawn, self._tolerance = frozenset(drawn), tolerance
        self._rows_wanted, self._rng = rows, rng or random.SystemRandom()
        self._at = {boundary.step: index for index, boundary in enumerate(transcript.boundaries)}
        self._segment, self._mac = 0, NO_BATCH
        self._segments = len(transcript.segments) if whole else max(drawn, default=0) + 1
        self._losses: list[float] = []
        self._step_loss = 0.0
        self.distances: dict[int, float] = {}
        self.rows: list[list[Row]] = [[] for _ in transcript.segments]

    def run(self) -> Replay:
        """Make the pass; raise `TrainError` where something differs from the transcript."""
        live = self._trainer
        self._training_step = live.training_step
        live.training_step, live.evaluate = self._step, self._evaluate
        live.floating_point_ops = lambda _inputs: 0  # a statistic that takes longer than a step passed by
        live.args.logging_strategy = live.args.save_strategy = "no"
        self._clip = live.args.max_grad_norm
        live.remove_callback(PrinterCallback)
        live.add_callback(self)
        try:
            live.train()
        except MitaiError:
            raise
        except Exception as error:  # noqa: BLE001 - what a forged state makes of a trainer may say anything
            raise self._refused("segment", f"the re-execution stopped with a {type(error).__name__}") from None
        if self._segment != self._segments:
            raise self._refused("steps", "the job has fewer steps than the transcript")
        return self

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ANN401, ARG002
        """Compare the beginning with the claimed start, all of it."""
        if state_sha256(capture(self._trainer).encode()) != self._transcript.start.state_sha256:
            raise self._refused("start", "the run did not start from the base model, seed and settings of this job")
        self._enter(0)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ANN401, ARG002
        """Leave a segment where the transcript says that it ended, and enter the next."""
        self._losses.append(self._step_loss)
        self._step_loss = 0.0
        index = self._at.get(state.global_step)
        if index is None:
            return
        self._leave(self._transcript.segments[index - 1].loss)
        if index == self._segments:
            control.should_training_stop = True
        else:
            self._enter(index)

    def _enter(self, index: int) -> None:
        self._segment, self._mac, self._losses = index, NO_BATCH, []
        self._trainer.args.max_grad_norm = self._clip if index in self._drawn else 0
        if index in self._drawn:
            restore(self._states(index), self._trainer)

    def _leave(self, claimed_loss: float | None) -> None:
        index, segment = self._segment, self._transcript.segments[self._segment]
        if self._mac.hex() != segment.batches_mac:
            raise self._refused("order", f"segment {index} did not read these data in the order that the job gives")
        if index in self._drawn:
            self._compare(index, claimed_loss)
        self._segment = index + 1

    def _compare(self, index: int, claimed_loss: float | None) -> None:
        start, claimed, mine = self._states(index), self._states(index + 1), capture(self._trainer)
        if claimed.random.keys() != mine.random.keys() or any(
            not torch.equal(mine.random[name], value) for name, value in claimed.random.items()
        ):
            raise self._refused("segment", f"segment {index} used other random numbers than it should have")
        if {n: v.shape for n, v in claimed.weights.items()} != {n: v.shape for n, v in mine.weights.items()} or {
            n: v.shape for n, v in claimed.optimizer.items()
        } != {n: v.shape for n, v in mine.optimizer.items()}:
            raise self._refused("segment", f"segment {index} ended with other tensors than it should have")
        optimizer = {name: start.optimizer.get(name, value * 0) for name, value in mine.optimizer.items()}
        far = max(
            distance(mine.weights, claimed.weights, start.weights),
            distance(mine.optimizer, claimed.optimizer, optimizer),
        )
        same = mine.encode() == self._states.data(index + 1)
        self.distances[index] = 0.0 if same else far
        if not same and not far <= self._tolerance:  # not a number is refused as well
            raise self._refused(
                "segment", f"segment {index}, re-executed, does not end where the transcript says (distance {far:.3g})"
            )
        loss = mean(self._losses)
        close = loss == claimed_loss or (
            self._tolerance > 0
            and loss is not None
            and claimed_loss is not None
            and math.isclose(loss, claimed_loss, rel_tol=self._tolerance)
        )
        if not close:
            raise self._refused("loss", f"segment {index} has another loss than the transcript says")

    def _step(self, model: torch.nn.Module, inputs: Any, *args: Any, **options: Any) -> torch.Tensor:  # noqa: ANN401
        self._mac = batch_mac(self._secret, self._mac, inputs)
        self._keep_rows(inputs)
        if self._segment not in self._drawn:
            return torch.zeros((), device=self._trainer.args.device)
        loss: torch.Tensor = self._training_step(model, inputs, *args, **options)
        self._step_loss += float(loss.detach())
        return loss

    def _keep_rows(self, inputs: Any) -> None:  # noqa: ANN401 - whatever a collator makes
        """Keep some rows of the segment, drawn within a batch; only where a row is a sample with labels."""
        kept = self.rows[self._segment]
        if not isinstance(inputs, Mapping) or "labels" not in inputs or len(kept) >= self._rows_wanted:
            return
        tensors = {name: value for name, value in inputs.items() if isinstance(value, torch.Tensor) and value.dim() > 1}
        count = len(tensors["labels"])
        if all(len(value) == count for value in tensors.values()):
            chosen = self._rng.sample(range(count), min(count, self._rows_wanted - len(kept)))
            kept += [{name: value[row : row + 1] for name, value in tensors.items()} for row in chosen]

    def _evaluate(self, *_: Any, **__: Any) -> dict[str, float]:  # noqa: ANN401
        """Draw what an evaluation's loader draws of the random generator, and evaluate nothing."""
        next(iter(self._trainer.get_eval_dataloader()), None)
        self._trainer.control.should_evaluate = False
        return {}

    @staticmethod
    def _refused(step: str, message: str) -> TrainError:
        return TrainError(
            "train.transcript-refused",
            message,
            step=step,
            hint="the weights do not follow from these data in this way, or other software made them",
        )
