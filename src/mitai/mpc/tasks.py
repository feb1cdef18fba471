"""What three processes and their clients compute together: a model that is loaded once, and programs for answers.

Follows `docs/spec/mpc-links.md`, "Parties" and "Clients". A `Task` is one program: one kind of answer, of lengths that
are public and always the same, so that one plan and one kind of tape serve all its runs. An `Offer` is a model and the
tasks that its parties do with it. A `Question` is what a client says in the clear: which task, and how to choose.

Example:
    >>> offer = Offer(shares_id, config_sha256, "exact", model.load, (short, long))
    >>> question = Question(long, Sampling(temperature=0.7))
    >>> shares = [split(array) for array in Walk().answer(offer, question, prompt)]
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from mitai import __version__
from mitai.errors import MpcError
from mitai.mpc.engine import Engine, Secret, Shape
from mitai.mpc.link import Link
from mitai.mpc.models.arrays import Arrays
from mitai.mpc.ring import Real, Ring
from mitai.mpc.sampling import Kind, Sampling
from mitai.mpc.settings import SETTINGS, Setting
from mitai.mpc.two.core import Program
from mitai.mpc.two.engine import Owner

L = TypeVar("L")
L_contra = TypeVar("L_contra", contravariant=True)
Emit = Callable[[Secret], None]
_LABEL = b"mitai mpc task v2\0"
_QUESTION = struct.Struct("<16sdd")
QUESTION_BYTES = _QUESTION.size
GREEDY = Sampling()


class Task(Protocol[L_contra]):
    """One kind of answer.

    Attributes:
        name: Says all that a side has to know beside model and code: what is done, lengths, counts.
        kind: How tokens are chosen; `greedy` where none are.
    """

    name: str
    kind: Kind

    def answer(self, engine: Engine, loaded: L_contra, client: Arrays, emit: Emit, sampling: Sampling) -> None:
        """Compute one answer; `emit` what the client gets to know, and nobody else.

        What is drawn must not depend on `sampling` beyond its kind.
        """


def program_id(name: str) -> bytes:
    """Return the 16 bytes by which a task is named on links and at rest."""
    return hashlib.sha256(name.encode()).digest()[:16]


@dataclass(frozen=True)
class Offer(Generic[L]):
    """What parties serve.

    Attributes:
        shares_id: Which cut of the model the parties have.
        config_sha256: Of the model's `config.json`, in hex.
        approximation: What stands in for functions of the model: `exact`: nothing.
        load: Takes the model from its owner, once for all tasks.
        tasks: What is done with it; tapes of the first one are always kept ready.
        setting: For which the model was cut.
    """

    shares_id: bytes
    config_sha256: str
    approximation: str
    load: Callable[[Engine], L] = field(repr=False)
    tasks: tuple[Task[L], ...]
    setting: Setting = SETTINGS["2+1"]

    def __post_init__(self) -> None:
        if not self.tasks or len({task.name for task in self.tasks}) < len(self.tasks):
            raise ValueError("an offer is at least one task, and no two of one name")

    def find(self, program: bytes) -> Task[L] | None:
        """Return the task of an id (`program_id`)."""
        return next((task for task in self.tasks if program_id(task.name) == program), None)

    def question(self, data: bytes) -> Question[L]:
        """Read what a client asks.

        Raises:
            MpcError: `mpc.not-offered`: there is no such task here, or it does not choose like this.
        """
        program, temperature, top_p = _QUESTION.unpack(data)
        if (task := self.find(program)) is None:
            raise not_offered()
        try:
            return Question(task, Sampling(temperature, top_p))
        except ValueError:
            raise not_offered() from None


@dataclass(frozen=True)
class Question(Generic[L]):
    """What a client says in the clear, and to both parties alike.

    Raises:
        ValueError: The task chooses in another way.
    """

    task: Task[L]
    sampling: Sampling = GREEDY

    def __post_init__(self) -> None:
        if self.sampling.kind != self.task.kind:
            raise ValueError(f"a task that is {self.task.kind} can't be {self.sampling.kind}")

    def encode(self) -> bytes:
        """Return it as it is on a link."""
        return _QUESTION.pack(program_id(self.task.name), self.sampling.temperature, self.sampling.top_p)

    def program(self, loaded: L, emit: Emit) -> Program[None]:
        """Return the program of the answer, at a side that has no client."""
        return partial(_answer, self, loaded, emit)


def any_question(task: Task[L]) -> Question[L]:
    """Return a question for a task: what one walks through to plan and to deal, as all of them draw the same."""
    return Question(task, Sampling.of(task.kind))


def _answer(question: Question[L], loaded: L, emit: Emit, engine: Engine) -> None:
    question.task.answer(engine, loaded, Arrays(engine, "client"), emit, question.sampling)


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

    def answer(
        self, offer: Offer[L], question: Question[L], values: Iterable[NDArray[np.generic]] | None = None
    ) -> list[Ring]:
        """Walk through one answer; return the arrays of a client who has these values."""

        def program(engine: Engine) -> None:
            client = Arrays(engine, "client", values)
            loaded, emit = offer.load(engine), lambda x: self.emitted.append((x.shape, x.fraction))
            question.task.answer(engine, loaded, client, emit, question.sampling)
            client.end()

        return self.inputs(program).get("client", [])


def agree(link: Link, offer: Offer[Any], tasks: Iterable[Task[Any]] = ()) -> None:
    """Compare with the other end which model, which version, which setting, and which tasks it is about.

    Raises:
        MpcError: `mpc.tasks-differ`.
    """
    about = f"{__version__} {offer.setting.name} {offer.config_sha256} {offer.approximation}"
    said = "\n".join([about, *(task.name for task in tasks)])
    own = hashlib.sha256(_LABEL + offer.shares_id + said.encode()).digest()
    link.send(own)
    if not hmac.compare_digest(bytes(link.receive(len(own))), own):
        raise MpcError(
            "mpc.tasks-differ",
            "the other side has another model, or computes something else with it",
            hint="take the folders of one `mitai mpc split`, the same lengths in all configurations, and one version",
        )


def not_offered() -> MpcError:
    """Return the error for a question that nobody here answers."""
    return MpcError(
        "mpc.not-offered",
        "the parties do not offer an answer like this",
        hint="see prompt_tokens, new_tokens and sampling in their party.toml",
    )
