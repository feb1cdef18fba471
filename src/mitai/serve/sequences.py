"""Requests on their way through an engine: who waits for what, on which event loop, and how far it has come.

An engine's thread owns these; `deliver`, `Running.fail` and the methods of `EmbeddingJob` are how it reaches the event
loops of those who wait.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from mitai.errors import ServeError
from mitai.serve.engine import GenerationRequest, Step, TokenLogprob
from mitai.serve.printing import Printer
from mitai.serve.sampling import Sampler
from mitai.serve.text import Telling

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import DynamicCache


class Running:
    """A request: its sequences, and the queue of who waits for its steps."""

    def __init__(
        self, request: GenerationRequest, tokenizer: Tokenizer, context_length: int, *, fingerprints: bool = False
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.steps: asyncio.Queue[Step | ServeError] = asyncio.Queue()
        self.cancelled = False
        self.sequences = [
            Sequence(self, request, choice, tokenizer, context_length, Printer() if fingerprints else None)
            for choice in range(len(request.prompts) * request.n)
        ]

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop of who waits."""
        return self._loop

    def fail(self, error: ServeError) -> None:
        """End the request with an error."""
        _call(self._loop, self.steps.put_nowait, error)


class Sequence:
    """One choice of one request.

    Attributes:
        pending: Tokens that the model has not seen yet; one, once it answers.
        length: Tokens in the cache.
        longest: What it can grow to.
        printer: What collects its fingerprints, where they are taken.
        own_cache: Of architectures that cannot be packed.
        done: Whether its last step was made.
    """

    def __init__(  # noqa: PLR0917 - made in one place
        self,
        owner: Running,
        request: GenerationRequest,
        choice: int,
        tokenizer: Tokenizer,
        context_length: int,
        printer: Printer | None = None,
    ) -> None:
        prompt = request.prompts[choice // request.n]
        self.owner, self.sampling, self.adapter = owner, request.sampling, request.adapter
        self._context_length = context_length
        self.pending = list(prompt)
        self.length = 0
        self.longest = min(len(prompt) + request.sampling.max_tokens, context_length)
        self.sampler = Sampler(request.sampling, choice % request.n)
        self._telling = Telling(tokenizer, request.sampling, choice)
        self.printer = printer
        self.own_cache: DynamicCache | None = None
        self.done = False

    @property
    def leaving(self) -> bool:
        """Whether its place is to be freed."""
        return self.done or self.owner.cancelled

    def read(self, count: int) -> bool:
        """Count `count` tokens of the prompt as read; tell whether it is complete."""
        self.length += count
        self.pending = self.pending[count:]
        return not self.pending

    def step(self, token: int, logprob: TokenLogprob | None, *, end: bool) -> Step:
        """Take the next token; `end` says that it is one that ends answers. Return what is to be told."""
        self.pending = [token]
        self.sampler.chosen(token)
        told = self._telling.step(token, logprob, end=end, full=self.length + 1 > self._context_length)
        self.done = told.finish is not None
        if self.printer is not None and self.done:
            told = msgspec.structs.replace(told, prints=self.printer.choice())
        return told


@dataclass
class EmbeddingJob:
    """Prompts to embed with an adapter or none, and the future that waits for the vectors."""

    prompts: list[list[int]]
    adapter: str
    loop: asyncio.AbstractEventLoop
    result: asyncio.Future[list[list[float]]]
    vectors: list[list[float]] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do."""
        return self.result.cancelled() or len(self.vectors) == len(self.prompts)

    def resolve(self) -> None:
        """Hand the vectors over."""
        _call(self.loop, self._settle, None)

    def fail(self, error: ServeError) -> None:
        """End the job with an error."""
        _call(self.loop, self._settle, error)

    def _settle(self, error: ServeError | None) -> None:
        if self.result.done():  # who waited has left
            return
        if error is not None:
            self.result.set_exception(error)
        else:
            self.result.set_result(self.vectors)


def deliver(steps: Iterable[tuple[Running, Step]]) -> None:
    """Hand steps to those who wait, with one call into each event loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Running, Step]]] = {}
    for running, step in steps:
        by_loop.setdefault(running.loop, []).append((running, step))
    for loop, together in by_loop.items():
        _call(loop, _put_all, together)


def _put_all(steps: list[tuple[Running, Step]]) -> None:
    for running, step in steps:
        running.steps.put_nowait(step)


def _call(loop: asyncio.AbstractEventLoop, function: Callable[..., object], *arguments: object) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(function, *arguments)
