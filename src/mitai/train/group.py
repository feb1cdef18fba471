"""The ranks of a job that train together: each takes its rows of a batch, and all take the sum of the gradients.

Follows `docs/spec/distributed.md`, "Steps". Rank 0 leads: it adds up what the others send, in the order of their ranks,
and sends them the sum; so all have the same bits, and the same job on as many ranks gives the same bits again.

Invariants:

- Every rank reads all rows in the order that one worker would take them; rank r of n computes rows r, r+n, r+2n … of
  each batch. The loss of a batch is a sum over its tokens, divided by the tokens of all ranks' rows.
- Ranks whose weights differ (another kind of processor may round otherwise) end the job; no such weights are kept.

Example:
    >>> Group(0, (link,)).add(tensor)
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mitai.errors import TrainError
from mitai.train.links import SealedLink
from mitai.train.state import State

if TYPE_CHECKING:
    from transformers import Trainer

    from mitai.train.loop import States

_IGNORED = -100  # a label that counts for nothing


class Group:
    """This rank, and its links.

    Args:
        rank: This rank.
        links: The leader's: to ranks 1, 2, …; another's: to the leader.
        size: How many ranks there are.
    """

    def __init__(self, rank: int, links: Sequence[SealedLink], size: int) -> None:
        self.rank, self._links, self.size = rank, links, size

    def part(self, batch: Any) -> dict[str, Tensor]:  # noqa: ANN401 - what a collator gives
        """Return this rank's rows of a batch; without one, a row that counts for nothing."""
        rows = {len(value) for value in batch.values() if isinstance(value, Tensor) and value.dim()}
        if len(rows) != 1 or "labels" not in batch or not all(isinstance(each, Tensor) for each in batch.values()):
            raise _undivided("a batch has no rows that could be divided")
        if self.rank < rows.pop():
            return {name: value[self.rank :: self.size].contiguous() for name, value in batch.items()}
        one: dict[str, Tensor] = {name: value[:1].clone() for name, value in batch.items()}
        one["labels"].fill_(_IGNORED)
        return one

    def add(self, tensor: Tensor) -> None:
        """Replace `tensor` by the sum over all ranks."""
        flat = tensor.detach().to("cpu", torch.float32).reshape(-1).contiguous()
        view = _bytes(flat)
        for link in self._links if self.rank == 0 else ():
            for start, part in link.parts(b"add", len(view)):
                numbers = torch.frombuffer(bytearray(part), dtype=torch.float32)
                flat[start // 4 :][: len(numbers)] += numbers
        for link in self._links:
            link.send(b"sum" if self.rank == 0 else b"add", view)
        if self.rank:
            for start, part in self._links[0].parts(b"sum", len(view)):
                view[start : start + len(part)] = part
        tensor.copy_(flat.reshape(tensor.shape))

    def add_gradients(self, model: torch.nn.Module) -> None:
        """Replace every gradient by the sum over all ranks; what no rank's rows used (an expert, say) has none."""
        trained = [each for each in model.parameters() if each.requires_grad]
        used = trained[0].new_tensor([each.grad is not None for each in trained], dtype=torch.float32)
        gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in trained]
        flat = torch.cat([used, *(each.reshape(-1).float() for each in gradients)])
        self.add(flat)
        sums = torch.split(flat[len(used) :], [each.numel() for each in trained])
        for parameter, gradient, count, total in zip(trained, gradients, flat[: len(used)].tolist(), sums, strict=True):
            gradient.copy_(total.reshape(gradient.shape))
            parameter.grad = gradient if count else None

    def share(self, data: bytes) -> bytes:
        """Return the leader's `data`, on every rank."""
        if self.rank:
            size = int.from_bytes(self._links[0].receive(b"size", 8), "big")
            return bytes(self._links[0].receive(b"share", size))
        for link in self._links:
            link.send(b"size", len(data).to_bytes(8, "big"))
            link.send(b"share", data)
        return data

    def agree(self, tensors: Mapping[str, Tensor]) -> None:
        """Return when all ranks have the same tensors; raise `TrainError` when they don't."""
        digest = hashlib.sha256()
        for name, tensor in sorted(tensors.items()):
            digest.update(name.encode() + b"\0")
            digest.update(_bytes(tensor.detach().cpu().reshape(-1).contiguous()))
        own = digest.digest()
        if self.rank:  # the others leave when the leader has heard them all
            self._links[0].send(b"digest", own)
        told = [link.receive(b"digest", len(own)) for link in self._links]
        for link in self._links if self.rank == 0 else ():
            link.send(b"digest", own)
        if any(each != own for each in told):
            raise TrainError(
                "train.ranks-differ",
                "the ranks of the job don't have the same weights",
                hint="use machines with the same processors, the same release and the same number of threads",
            )


class SharedStates:
    """The leader's states, for all ranks: each begins where the leader does, and only the leader keeps any."""

    def __init__(self, group: Group, states: States | None) -> None:
        self._group = group
        self._states = states if group.rank == 0 else None

    def save(self, state: State) -> None:
        """Keep a state that all ranks agree on."""
        self._group.agree(
            {name: each for name, each in state.tensors.items() if name.startswith(("weights/", "optimizer/"))}
        )
        if self._states is not None:
            self._states.save(state)

    def newest(self) -> State | None:
        """Return the leader's newest state."""
        found = self._states.newest() if self._states is not None else None
        shared = self._group.share(found.encode() if found is not None else b"")
        return State.decode(shared) if shared else None


def require_divisible(trainer: Trainer) -> None:
    """Raise `TrainError` for a model whose loss over some rows depends on the other rows, or on chance."""
    model: Any = trainer.model
    dropouts = [each.p for each in model.modules() if isinstance(each, torch.nn.Dropout)]
    dropouts += [value for name, value in model.config.to_dict().items() if "dropout" in name or "pdrop" in name]
    if any(isinstance(each, (int, float)) and each > 0 for each in dropouts):
        raise _undivided("the model has dropout: each rank would drop something else")
    if any(isinstance(each, torch.nn.modules.batchnorm._BatchNorm) for each in model.modules()):
        raise _undivided("the model normalises over a batch")
    if getattr(trainer, "aux_loss_enabled", False):
        raise _undivided("the model has a loss over a whole batch beside that of its tokens")


def _bytes(flat: Tensor) -> memoryview:
    """Return the memory of a flat tensor on the processor."""
    array: Any = flat.view(torch.uint8).numpy()
    return memoryview(array)


def _undivided(why: str) -> TrainError:
    return TrainError(
        "train.not-divisible", f"this job can't be divided among workers: {why}", hint="leave out [distributed]"
    )
