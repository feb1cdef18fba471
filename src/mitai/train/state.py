"""The whole state of a running trainer, as tensors and JSON values: nothing in it is code.

Invariants:

- Every floating-point number comes back exactly: tensors as their bytes, others as JSON numbers that Python reads back
  as the same value.
- What does not fit (another model, another optimizer) is refused before anything was changed.

Example:
    >>> state = capture(trainer, {})
    >>> restore(trainer, State.decode(state.encode()))
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from mitai.errors import TrainError

VERSION = 1


@dataclass(frozen=True)
class State:
    """A trainer after `step` steps: tensors by name, and JSON values."""

    step: int
    tensors: dict[str, Tensor] = field(repr=False)
    facts: dict[str, Any] = field(repr=False)

    def encode(self) -> bytes:
        """Return the state as one safetensors file, its facts in the header."""
        facts = json.dumps({"v": VERSION, "step": self.step, "facts": self.facts}, allow_nan=True)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors.items()}
        return save(tensors, {"mitai": facts})

    @staticmethod
    def decode(data: bytes | memoryview) -> State:
        """Read what `encode` gave; the bytes are authentic, so anything else is another version's."""
        try:
            length = int.from_bytes(data[:8], "little")
            told = json.loads(json.loads(bytes(data[8 : 8 + length]))["__metadata__"]["mitai"])
            if told["v"] != VERSION:
                raise ValueError(told["v"])
            return State(told["step"], load(bytes(data)), told["facts"])
        except Exception as error:  # safetensors raises its own kinds
            raise TrainError("train.checkpoint-format", "a checkpoint is of another version of the code") from error


def trainable(model: torch.nn.Module) -> dict[str, Tensor]:
    """Return what training changes: parameters that take gradients, and persistent buffers; shared ones once."""
    frozen = {name for name, parameter in model.named_parameters(remove_duplicate=False) if not parameter.requires_grad}
    found: dict[str, Tensor] = {}
    seen: set[tuple[int, torch.Size]] = set()
    for name, tensor in model.state_dict().items():
        place = tensor.data_ptr(), tensor.shape
        if name not in frozen and place not in seen:
            found[name] = tensor
            seen.add(place)
    return found


def capture(trainer: Any, watch: dict[str, Any]) -> State:  # noqa: ANN401 - a Trainer; its parts are Optional in its types
    """Return the state after the step that has just ended; `watch` is kept beside it.

    The tensors are the live ones: encode the state before the next step.
    """
    tensors = {f"weights/{name}": tensor for name, tensor in trainable(trainer.model).items()}
    groups, optimizer = _optimizer_facts(trainer, tensors)
    best = _best(trainer)
    if best is not None:
        tensors |= {f"best/{name}": tensor for name, tensor in best.weights.items()}
    own = trainer.extra_state() if hasattr(trainer, "extra_state") else None
    facts = {
        "epoch": trainer.state.epoch,
        "groups": groups,
        "optimizer": optimizer,
        "scheduler": trainer.lr_scheduler.state_dict(),
        "randomness": _randomness(tensors),
        "best": None if best is None else [best.best, best.waited],
        "trainer": own,
        "watch": watch,
    }
    return State(trainer.state.global_step, tensors, facts)


def _optimizer_facts(
    trainer: Any,  # noqa: ANN401 - see `capture`
    tensors: dict[str, Tensor],
) -> tuple[list[Any], dict[str, dict[str, Any]]]:
    """Put the optimizer's tensors among `tensors`; return its groups and the values that are no tensors."""
    whole = trainer.optimizer.state_dict()
    plain: dict[str, dict[str, Any]] = {}
    for number, values in whole["state"].items():
        plain[str(number)] = {name: value for name, value in values.items() if not isinstance(value, Tensor)}
        tensors |= {f"optimizer/{number}/{name}": value for name, value in values.items() if isinstance(value, Tensor)}
    return whole["param_groups"], plain


def _randomness(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Put the generators' states among `tensors`; return what of them is plain."""
    _, keys, position, has_gauss, gauss = np.random.get_state()
    tensors["randomness/torch"] = torch.get_rng_state()
    tensors["randomness/numpy"] = torch.from_numpy(np.asarray(keys, dtype=np.int64))
    for index in range(torch.cuda.device_count()):
        tensors[f"randomness/cuda/{index}"] = torch.cuda.get_rng_state(index)
    return {"numpy": [position, has_gauss, gauss], "python": random.getstate()}


def restore_randomness(state: State) -> None:
    """Set Python's, numpy's and torch's global generators."""
    plain, tensors = state.facts["randomness"], state.tensors
    version, numbers, gauss = plain["python"]
    random.setstate((version, tuple(numbers), gauss))
    keys = tensors["randomness/numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, *plain["numpy"]))
    torch.set_rng_state(tensors["randomness/torch"])
    for index in range(torch.cuda.device_count()):
        torch.cuda.set_rng_state(tensors[f"randomness/cuda/{index}"], index)


def restore(trainer: Any, state: State) -> None:  # noqa: ANN401 - see `capture`
    """Set weights, optimizer, schedule and early stopping of a trainer that is ready for its first step.

    Raises:
        TrainError: The state is that of another model or optimizer.
    """
    weights = trainable(trainer.model)
    saved = _under(state, "weights/")
    if {name: tensor.shape for name, tensor in weights.items()} != {name: each.shape for name, each in saved.items()}:
        raise TrainError("train.checkpoint-unfit", "a checkpoint holds the weights of another model")
    with torch.no_grad():
        for name, tensor in weights.items():
            tensor.copy_(saved[name])
    values: dict[int, dict[str, Any]] = {int(number): dict(plain) for number, plain in state.facts["optimizer"].items()}
    for name, tensor in _under(state, "optimizer/").items():
        number, field_name = name.split("/", 1)
        values[int(number)][field_name] = tensor
    trainer.optimizer.load_state_dict({"state": values, "param_groups": state.facts["groups"]})
    trainer.lr_scheduler.load_state_dict(state.facts["scheduler"])
    best = _best(trainer)
    if best is not None:
        best.best, best.waited = state.facts["best"]
        best.weights = _under(state, "best/")
    if hasattr(trainer, "restore_extra_state"):
        trainer.restore_extra_state(state.facts["trainer"])


def _under(state: State, prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.tensors.items() if name.startswith(prefix)}


def _best(trainer: Any) -> Any:  # noqa: ANN401 - `loop.BestWeights`, which imports this module
    return next((each for each in trainer.callback_handler.callbacks if type(each).__name__ == "BestWeights"), None)
