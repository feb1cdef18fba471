"""The state of a training between two steps, as one canonical run of bytes.

`docs/spec/transcript.md`, "State": trainable weights, the optimizer's tensors and the random generators. The learning
rate is not in it: it follows from the settings and the number of the step.

Invariants:

- One state has one encoding. Nothing is unpickled; a reader takes only names, types and shapes that its own trainer
  has, so that bytes of a stranger can't put anything else into a model.
- What can't be said in it (an optimizer with state that is no tensor) is refused when the run begins, never left out.

Example:
    >>> data = capture(trainer).encode()  # doctest: +SKIP
    >>> restore(State.decode(data), trainer)  # doctest: +SKIP
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
import rfc8785
import torch
from torch import Tensor

from mitai.errors import TrainError
from mitai.train.state import trainable

if TYPE_CHECKING:
    from transformers import Trainer

MAGIC: Final = b"mitai training state v1\x00"
STATE_LABEL: Final = b"mitai training state digest v1\x00"
MAX_HEADER_BYTES = 16 << 20
PARTS = ("weights", "optimizer", "random")

_DTYPES = {
    "f64": torch.float64,
    "f32": torch.float32,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "i64": torch.int64,
    "i32": torch.int32,
    "u8": torch.uint8,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_HEADER = msgspec.json.Decoder(dict[str, tuple[tuple[str, str, tuple[int, ...]], ...]])

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class State:
    """A state out of its bytes; tensors are named as the model names its parameters."""

    weights: Tensors = field(repr=False)
    optimizer: Tensors = field(repr=False)  # "PARAMETER/SLOT"
    random: Tensors = field(repr=False)

    def encode(self) -> bytes:
        """Return the canonical bytes."""
        layout: list[tuple[str, str, torch.dtype, torch.Size]] = []
        body = []
        for part in PARTS:
            for name, value in sorted(getattr(self, part).items()):
                tensor = value.detach().cpu().contiguous()
                layout.append((part, name, tensor.dtype, tensor.shape))
                body.append(tensor.reshape(-1).view(torch.uint8).numpy())
        head = _head(tuple(layout))
        return b"".join([MAGIC, len(head).to_bytes(4, "big"), head, *body])

    @staticmethod
    def decode(data: bytes) -> State:
        """Parse a state; raise `TrainError` on anything else. The tensors are copies."""
        start = len(MAGIC) + 4
        head_size = int.from_bytes(data[len(MAGIC) : start], "big")
        if not data.startswith(MAGIC) or len(data) < start + head_size or head_size > MAX_HEADER_BYTES:
            raise _malformed()
        at = start + head_size
        parts: dict[str, Tensors] = {part: {} for part in PARTS}
        for part, name, dtype, shape, size in _layout(data[start:at]):
            end = at + size
            if end > len(data):
                raise _malformed()
            raw = torch.frombuffer(bytearray(data[at:end]), dtype=dtype) if size else torch.empty(0, dtype=dtype)
            parts[part][name] = raw.reshape(shape)
            at = end
        if at != len(data):
            raise _malformed()
        return State(**parts)


@lru_cache(maxsize=8)  # the states of a run have the same one
def _head(layout: tuple[tuple[str, str, torch.dtype, torch.Size], ...]) -> bytes:
    """Return the header of tensors: part, name, type and shape of each, in order."""
    header: dict[str, list[object]] = {part: [] for part in PARTS}
    for part, name, dtype, shape in layout:
        if dtype not in _NAMES:
            raise TrainError("train.transcript-unsupported", f"a training state holds no tensors of {dtype}")
        header[part].append([name, _NAMES[dtype], list(shape)])
    return rfc8785.dumps(msgspec.to_builtins(header))


@lru_cache(maxsize=8)
def _layout(head: bytes) -> tuple[tuple[str, str, torch.dtype, tuple[int, ...], int], ...]:
    """Parse a header: part, name, type, shape and bytes of each tensor, in order."""
    try:
        header = _HEADER.decode(head)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise _malformed() from error
    if len(header) != len(PARTS) or rfc8785.dumps(msgspec.to_builtins(header)) != head:
        raise _malformed()
    layout = []
    for part in PARTS:
        names = [name for name, _, _ in header.get(part, ())]
        if part not in header or names != sorted(set(names)):
            raise _malformed()
        for name, kind, shape in header[part]:
            dtype = _DTYPES.get(kind)
            if dtype is None or len(shape) > 16 or any(not 0 <= side < 1 << 40 for side in shape):
                raise _malformed()
            layout.append((part, name, dtype, shape, math.prod(shape) * dtype.itemsize))
    return tuple(layout)


def state_sha256(data: bytes) -> str:
    """Return the digest of a state's bytes."""
    digest = sha256(STATE_LABEL)
    digest.update(data)
    return digest.hexdigest()


def weights_sha256(weights: Mapping[str, Tensor]) -> str:
    """Return the digest of some named weights."""
    return state_sha256(State(dict(weights), {}, {}).encode())


def capture(trainer: Trainer) -> State:
    """Return the state as it is now: views of the live tensors; encode it before the next step."""
    live: Any = trainer
    tensors = _generators()
    weights: Tensors = trainable(live.model)
    if (extra := getattr(trainer, "extra_state", None)) is not None:  # a trainer with state of its own
        tensors["trainer"] = torch.frombuffer(bytearray(rfc8785.dumps(extra())), dtype=torch.uint8)
    return State(weights, _slots(trainer), tensors)


def restore(state: State, trainer: Trainer) -> None:
    """Put a state into a trainer and this process's random generators.

    Raises:
        TrainError: The state has other weights, or other kinds of tensors, than this trainer has.
    """
    live: Any = trainer
    restore_weights(state, trainer)
    parameters = {name: each for name, each in live.model.named_parameters() if each.requires_grad}
    grouped: dict[str, Tensors] = {}
    for name, tensor in state.optimizer.items():
        parameter, _, slot = name.rpartition("/")
        if parameter not in parameters or tensor.shape not in (parameters[parameter].shape, torch.Size(())):
            raise _misfit()
        grouped.setdefault(parameter, {})[slot] = tensor
    live.optimizer.state.clear()
    for name, slots in grouped.items():
        weight = parameters[name]
        live.optimizer.state[weight] = {
            slot: tensor.clone() if tensor.dim() == 0 else tensor.to(weight.device, copy=True)
            for slot, tensor in slots.items()
        }
    generators = dict(state.random)
    extra = generators.pop("trainer", None)
    if (extra is None) != (not hasattr(trainer, "restore_extra_state")):
        raise _misfit()
    if extra is not None:
        try:
            live.restore_extra_state(msgspec.json.decode(extra.numpy().tobytes()))
        except (msgspec.MsgspecError, ValueError, KeyError, TypeError) as error:
            raise _misfit() from error
    _set_generators(generators)


def restore_weights(state: State, trainer: Trainer) -> None:
    """Put a state's weights into a trainer's model; raise `TrainError` where they don't fit."""
    live: Any = trainer
    weights: Tensors = trainable(live.model)
    kinds = {name: (weight.shape, weight.dtype) for name, weight in weights.items()}
    if {name: (value.shape, value.dtype) for name, value in state.weights.items()} != kinds:
        raise _misfit()
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(state.weights[name])


def distance(mine: Mapping[str, Tensor], claimed: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> float:
    """Return ‖claimed - mine‖ / ‖mine - start‖: 0 for the same weights, about 1 for unrelated steps."""
    between = apart(claimed, mine)
    return 0.0 if between == 0 else between / max(apart(mine, start), 1e-12)


def apart(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> float:
    """Return ‖left - right‖ over all tensors."""
    if not right:
        return 0.0
    flat = (torch.cat([side[name].reshape(-1).float() for name in right]) for side in (left, right))
    return float(torch.linalg.vector_norm(next(flat) - next(flat), dtype=torch.float64))


def _slots(trainer: Trainer) -> Tensors:
    live: Any = trainer
    names = {id(parameter): name for name, parameter in live.model.named_parameters()}
    slots: Tensors = {}
    for parameter, values in live.optimizer.state.items():
        for slot, value in values.items():
            if id(parameter) not in names or not isinstance(value, Tensor):
                raise TrainError(
                    "train.transcript-unsupported",
                    f"the optimizer keeps {slot!r}, which is no tensor of a trainable weight",
                    hint="take one that keeps tensors only, such as adamw_torch",
                )
            slots[f"{names[id(parameter)]}/{slot}"] = value
    return slots


def _generators() -> Tensors:
    version, words, gauss = random.getstate()
    legacy: Any = np.random.get_state(legacy=True)
    kind, key, position, has_gauss, cached = legacy
    if version != 3 or kind != "MT19937":
        raise TrainError("train.transcript-unsupported", "this Python or NumPy has another random generator")
    tensors = {
        "torch": torch.get_rng_state(),
        "python": torch.tensor(words, dtype=torch.int64),
        "python-gauss": torch.tensor([] if gauss is None else [gauss], dtype=torch.float64),
        "numpy": torch.tensor([*key.tolist(), position, has_gauss], dtype=torch.int64),
        "numpy-gauss": torch.tensor([cached], dtype=torch.float64),
    }
    if torch.cuda.is_available():
        tensors |= {f"cuda-{i}": value for i, value in enumerate(torch.cuda.get_rng_state_all())}
    return tensors


def _set_generators(tensors: Tensors) -> None:
    own = _generators()
    gauss = tensors.get("python-gauss", torch.empty(2))
    if tensors.keys() != own.keys() or gauss.numel() > 1:
        raise _misfit()
    if any(tensors[k].dtype != own[k].dtype or tensors[k].shape != own[k].shape for k in own if k != "python-gauss"):
        raise _misfit()
    numpy_words = tensors["numpy"].tolist()
    try:
        random.setstate((3, tuple(tensors["python"].tolist()), *(gauss.tolist() or [None])))
        np.random.set_state(
            ("MT19937", np.array(numpy_words[:624], np.uint32), *numpy_words[624:], tensors["numpy-gauss"].item())
        )
        torch.set_rng_state(tensors["torch"].clone())
        if torch.cuda.is_available():
            torch.cuda.set_rng_state_all([tensors[f"cuda-{i}"].clone() for i in range(torch.cuda.device_count())])
    except (ValueError, OverflowError, RuntimeError, TypeError) as error:
        raise _misfit() from error


def _malformed() -> TrainError:
    return TrainError("train.state-malformed", "these bytes are no training state of a known version")


def _misfit() -> TrainError:
    return TrainError(
        "train.state-misfit",
        "this training state does not fit the trainer that the job describes",
        hint="it is of another model, method or version of the software",
    )
