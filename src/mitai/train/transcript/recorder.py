"""Records a run while a trainer trains: digests of states and batches, losses, and the states themselves.

`docs/spec/transcript.md`, "Recording". A recorder changes nothing of the run: it reads weights, batches and random
generators and draws no number.

Invariants:

- A segment's digest covers every tensor that entered the model in it, in order, under the run's secret.
- A boundary lies right after an optimizer step, before anything else happens: there a replay begins and ends.
- States are handed to `keep` one by one, as bytes, to be sealed; the recorder keeps digests only.

Example:
    >>> recorder = Recorder(states.__setitem__)  # doctest: +SKIP
    >>> run(job, sources, observers={"transcript": recorder})  # doctest: +SKIP
    >>> recorder.transcript(declared).sign(workload_key)  # doctest: +SKIP
"""

from __future__ import annotations

import hmac
import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import msgspec
import rfc8785
import torch

from mitai.errors import TrainError
from mitai.ledger.entry import Time, utc
from mitai.train.state import trainable
from mitai.train.transcript.commitment import SECRET_BYTES, Hash
from mitai.train.transcript.document import MAX_SEGMENTS, Boundary, Declared, Segment, Transcript
from mitai.train.transcript.state import capture, state_sha256, weights_sha256

if TYPE_CHECKING:
    from transformers import Trainer

BATCH_LABEL: Final = b"mitai training batch v1\x00"
NO_BATCH: Final = bytes(32)
SEGMENTS = 200  # aimed at: what is caught depends on how many segments are drawn, not on how long they are
MAX_KEPT_BYTES = 1 << 30  # of all states together, about
PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "numpy")


class Progress(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What a recorder knows between two steps; travels in sealed checkpoints, so that a killed run goes on."""

    secret: Hash
    started: Time
    segment_steps: Annotated[int, msgspec.Meta(ge=0)] = 0  # 0: chosen when the training begins
    start: Boundary | None = None
    segments: list[Segment] = []
    mac: Hash = NO_BATCH
    losses: list[float] = []  # of the steps since the last boundary
    loss: float = 0.0  # of the step that is being made


class Recorder:
    """Watches one run as a `mitai.train.loop.Observer`; `transcript` says afterwards what it saw."""

    def __init__(self, keep: Callable[[str, bytes], None], *, segment_steps: int = 0) -> None:
        """Make a recorder for one run.

        Args:
            keep: Takes each state under its name, to be sealed.
            segment_steps: Steps between two states; 0: so many that there are up to 200 segments, and a GiB of states.
        """
        self._keep, self._trainer = keep, cast("Any", None)
        self._now = Progress(
            secret=secrets.token_bytes(SECRET_BYTES), started=utc(datetime.now(UTC)), segment_steps=segment_steps
        )

    @property
    def secret(self) -> bytes:
        """The run's secret: opens the data's commitment and the batches' digests; to be sealed with the states."""
        return self._now.secret

    def state(self) -> dict[str, Any]:
        """Return what a later recorder needs to go on from here; to be sealed."""
        found: dict[str, Any] = msgspec.to_builtins(self._now)
        return found

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave, in a run that was killed."""
        self._now = msgspec.convert(state, Progress)

    def begin(self, trainer: Trainer, step: int) -> None:
        """Begin to watch, and keep the state from which the run starts."""
        self._trainer = trainer
        self._training_step = self._trainer.training_step
        self._trainer.training_step = self._step
        if step == 0:
            stride = int(getattr(trainer, "steps_between_states", 1))
            weights = sum(each.numel() * each.element_size() for each in trainable(self._trainer.model).values())
            segments = min(SEGMENTS, max(1, MAX_KEPT_BYTES // (3 * weights + 1)))  # with two tensors of the optimizer
            wanted = self._now.segment_steps or math.ceil(trainer.state.max_steps / segments)
            self._now.segment_steps = math.ceil(wanted / stride) * stride
            evaluations = trainer.state.max_steps // trainer.args.eval_steps if trainer.args.eval_steps else 0
            if math.ceil(trainer.state.max_steps / self._now.segment_steps) + evaluations > MAX_SEGMENTS:
                raise TrainError(
                    "train.transcript-unsupported",
                    f"a transcript has at most {MAX_SEGMENTS} segments, and this run would have more",
                    hint="a larger transcript.segment_steps, or fewer evaluations",
                )
            self._now.start = self._boundary(0)

    def step(self, step: int, samples: tuple[int, ...], loss: float) -> None:  # noqa: ARG002 - taken from the steps themselves
        """End a segment where one ends: at its length, before an evaluation (it may end the run), at the last step."""
        now, trainer = self._now, self._trainer
        now.losses.append(now.loss)
        now.loss = 0.0
        if step % now.segment_steps and not trainer.control.should_evaluate and step < trainer.state.max_steps:
            return
        end = self._boundary(step)
        now.segments.append(Segment(batches_mac=now.mac.hex(), loss=mean(now.losses), end=end))
        now.mac, now.losses = NO_BATCH, []

    def transcript(self, declared: Declared) -> Transcript:
        """Return the transcript of the run that has ended; the trainer's weights are those that are given out.

        Raises:
            TrainError: The run did not end at a boundary, or its weights are those of none.
        """
        now, state = self._now, self._trainer.state
        ends = [segment.end for segment in now.segments]
        final = weights_sha256(trainable(self._trainer.model))
        published = [i for i, end in enumerate((now.start, *ends)) if end and end.weights_sha256 == final]
        if now.start is None or not ends or state.global_step != ends[-1].step or not published:
            raise TrainError(
                "train.transcript-incomplete", "the run did not end where the transcript could follow it", step="end"
            )
        return Transcript(
            **msgspec.structs.asdict(declared),
            started=now.started,
            finished=utc(datetime.now(UTC)),
            settings=settings(self._trainer),
            software=software(),
            rows=len(self._trainer.train_dataset),
            passes=int(state.epoch or 0),
            start=now.start,
            segments=tuple(now.segments),
            published=published[-1],
        )

    def _boundary(self, step: int) -> Boundary:
        state = capture(self._trainer)
        data = state.encode()
        self._keep(state_name(step), data)
        return Boundary(step=step, weights_sha256=weights_sha256(state.weights), state_sha256=state_sha256(data))

    def _step(self, model: torch.nn.Module, inputs: Any, *args: Any, **options: Any) -> torch.Tensor:  # noqa: ANN401
        self._now.mac = batch_mac(self._now.secret, self._now.mac, inputs)
        loss: torch.Tensor = self._training_step(model, inputs, *args, **options)
        self._now.loss += float(loss.detach())
        return loss


def mean(losses: Sequence[float]) -> float | None:
    """Return the mean of some losses; None where it is not finite."""
    found = math.fsum(losses) / len(losses) if losses and all(map(math.isfinite, losses)) else math.nan
    return found if math.isfinite(found) else None


def state_name(step: int) -> str:
    """Return the name under which the state after `step` steps is kept."""
    return f"states/{step:09d}.state"


def batch_mac(secret: bytes, before: bytes, inputs: object) -> bytes:
    """Return HMAC-SHA256(secret, label ‖ MAC of the batches before ‖ SHA-256 of this one)."""
    digest = sha256()
    _absorb(digest, inputs)
    return hmac.digest(secret, BATCH_LABEL + before + digest.digest(), sha256)


def settings(trainer: Trainer) -> dict[str, str]:
    """Return the hyperparameters as the trainer has them: what is a number, a truth value or a short text."""
    live: Any = trainer
    found = live.args.to_dict()
    kept = {name: value for name, value in found.items() if isinstance(value, bool | int | float | str)}
    texts = {name: str(value)[:1024] for name, value in sorted(kept.items()) if name not in _NOT_SETTINGS}
    return dict(list(texts.items())[:256])


def software() -> dict[str, str]:
    """Return what a bit-equal re-execution needs to be the same."""
    from mitai import __version__

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else torch.backends.cpu.get_cpu_capability()
    versions = {name: version(name) for name in PACKAGES}
    return {"mitai": __version__, "device": device, "threads": str(torch.get_num_threads()), **versions}


_NOT_SETTINGS = {"output_dir", "logging_dir", "run_name", "hub_token", "hub_model_id", "local_rank"}


def _absorb(digest: Any, value: object) -> None:  # noqa: ANN401 - hashlib's objects have no public type
    """Feed `value` to a digest, unambiguously."""
    if isinstance(value, torch.Tensor):
        data = value.detach().cpu().contiguous()
        digest.update(f"tensor {data.dtype} {list(data.shape)}\x00".encode())
        digest.update(data.reshape(-1).view(torch.uint8).numpy())
    elif isinstance(value, Mapping):
        digest.update(b"map %d\x00" % len(value))
        for name in sorted(value):
            _absorb(digest, name)
            _absorb(digest, value[name])
    elif isinstance(value, list | tuple):
        digest.update(b"list %d\x00" % len(value))
        for each in value:
            _absorb(digest, each)
    elif value is None or isinstance(value, str | int | float | bool):
        text = rfc8785.dumps(value)
        digest.update(b"value %d\x00" % len(text) + text)
    else:
        raise TrainError("train.transcript-unsupported", f"a batch holds {type(value).__name__}, which has no digest")
