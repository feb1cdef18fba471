"""What three processes and their clients compute together: one task, through which every side walks.

Follows `docs/spec/mpc-links.md`, "Parties".

Example:
    >>> walk = Walk()
    >>> shares = [split(values) for values in walk.answer(task, prompt)]
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from mitai import __version__
from mitai.errors import MpcError
from mitai.mpc.engine import Engine, Secret, Shape
from mitai.mpc.link import Link
from mitai.mpc.models.arrays import Arrays
from mitai.mpc.ring import Real, Ring
from mitai.mpc.two.core import Program
from mitai.mpc.two.engine import Owner

L = TypeVar("L")
Emit = Callable[[Secret], None]
_LABEL = b"mitai mpc task v1\0"


class Task(Protocol[L]):
    """What is computed.

    Attributes:
        name: Says all that a side has to know beside the code: model, lengths, counts.
        shares_id: Which cut of the model the parties have.
    """

    name: str
    shares_id: bytes

    def load(self, engine: Engine) -> L:
        """Take the model from its owner, once."""

    def answer(self, engine: Engine, loaded: L, client: Arrays, emit: Emit) -> None:
        """Compute one answer; `emit` what the client gets to know, and nobody else."""


def answering(task: Task[L], loaded: L, emit: Emit) -> Program[None]:
    """Return the program of one answer at a side that has no client."""
    return partial(_answer, task, loaded, emit)


def _answer(task: Task[L], loaded: L, emit: Emit, engine: Engine) -> None:
    task.answer(engine, loaded, Arrays(engine, "client"), emit)


class Walk(Owner):
    """A walk without data: what the model's owner and a client give, and what is emitted.

    Attributes:
        asked: The shapes of what each owner gives, in order.
        emitted: Shape and bits of fraction of what the client gets, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked: dict[str, list[Shape]] = {"model": [], "client": []}
        self.emitted: list[tuple[Shape, int]] = []

    def input(self, owner: str, shape: Shape, values: Real | None = None, fraction: int | None = None) -> Secret:
        """Note the shape; see `Owner.input`."""
        self.asked[owner].append(shape)
        return super().input(owner, shape, values, fraction)

    def answer(self, task: Task[Any], values: Iterable[NDArray[np.generic]] | None = None) -> list[Ring]:
        """Walk through one answer; return the arrays of a client who has these values."""

        def program(engine: Engine) -> None:
            client = Arrays(engine, "client", values)
            task.answer(engine, task.load(engine), client, lambda x: self.emitted.append((x.shape, x.fraction)))
            client.end()

        return self.inputs(program).get("client", [])


def agree(link: Link, task: Task[Any]) -> None:
    """Compare what both ends of a link are about to compute.

    Raises:
        MpcError: `mpc.tasks-differ`.
    """
    own = hashlib.sha256(_LABEL + task.shares_id + f"{__version__} {task.name}".encode()).digest()
    link.send(own)
    if not hmac.compare_digest(bytes(link.receive(len(own))), own):
        raise MpcError(
            "mpc.tasks-differ",
            "the other side has another model, or computes something else with it",
            hint="take the folders of one `mitai mpc split`, the same lengths in all configurations, and one version",
        )
