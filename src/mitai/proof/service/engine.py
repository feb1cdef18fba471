"""The engine behind a service's OpenAI API: integers answer, and each answer is kept and signed before its end is told.

Follows `docs/spec/proof-service.md`.

Invariants:

- An answer whose `finish_reason` a client has seen is on the disk, with its receipt, and its proof is asked for where
  that was promised: all of it, or there is no end.
- Answers are made in threads of their own, so many at once; a client that leaves frees its thread with the next token.
- What is proven is what was told: tokens that came after a stop string are dropped.
- The root of an answer's trace is in its receipt, unless that is switched off, or the model's weights are hidden.

Example:
    >>> app = create_app(lambda: engine, engine.limits, check=engine.check)
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

import anyio.to_thread
import msgspec

from mitai.errors import ProofError, ServeError
from mitai.identity import Identity
from mitai.mpc.text import end_tokens, read_tokenizer
from mitai.proof.answer import generate
from mitai.proof.audit.trace import trace_root
from mitai.proof.card import MAX_TOKENS
from mitai.proof.prepared import Prepared
from mitai.proof.sampling import Agreed, Sampling
from mitai.proof.service.config import ServiceConfig
from mitai.proof.service.receipts import Promise, Said, Terms, made
from mitai.proof.service.store import Store
from mitai.serve.api import Limits
from mitai.serve.engine import GenerationRequest, ModelInfo, Step
from mitai.serve.engine import Sampling as Wish
from mitai.serve.prompts import Prompts
from mitai.serve.schema import RequestError, unsupported
from mitai.serve.text import Telling

_MAX_BODY_BYTES = 1 << 20


@dataclass(frozen=True)
class Asked:
    """What a request asks for, of its answer's proof.

    Attributes:
        promise: When it comes.
        session: Where it is for a sample.
        drawn: Commitment to the service's seed, and the client's nonce, where the answer is to be drawn.
    """

    promise: Promise = "on-demand"
    session: str = ""
    drawn: tuple[str, bytes] | None = None


ASKED: Final[ContextVar[Asked]] = ContextVar("asked")  # set while a request is answered


class ProvenEngine:
    """A prepared model; a `mitai.serve.engine.Engine`.

    Args:
        config: Of the service.
        store: Where answers are kept.
        key: Signs receipts.

    Raises:
        MitaiError: The folder is no prepared model, or has no tokenizer.
    """

    def __init__(self, config: ServiceConfig, store: Store, key: Identity) -> None:
        folder = Path(config.prepared)
        self._prepared, self._store, self._key = Prepared.open(folder), store, key
        tokenizer = read_tokenizer(folder)
        self._prompts, self._ends = Prompts(tokenizer, config.name), end_tokens(folder, tokenizer)
        self._threads = ThreadPoolExecutor(config.answers, "answer")
        self._roots = ThreadPoolExecutor(config.answers, "root")  # an answer that is made does not wait for new ones
        card = self._prepared.card
        self._audited = not config.unaudited and not card.uses
        self.limits = Limits(
            max_body_bytes=_MAX_BODY_BYTES,
            max_requests=config.answers + config.waiting,
            max_choices=1,
            max_prompt_tokens=config.prompt_tokens,
            max_answer_tokens=config.answer_tokens,
        )
        self._info = ModelInfo(
            name=config.name,
            context_length=min(MAX_TOKENS, config.prompt_tokens + config.answer_tokens, *_positions(card.config)),
            vocabulary=card.model.vocabulary,
            has_chat_template=self._prompts.has_template,
            architecture=type(card.model).__name__,
            dtype="integers",
            temperature=0.0,
            about={"identity": card.identity, "key": key.public.raw},
        )

    @property
    def prepared(self) -> Prepared:
        """The model."""
        return self._prepared

    @property
    def info(self) -> ModelInfo:
        """What is served."""
        return self._info

    def tokenize(self, text: str) -> list[int]:
        """Return the token ids of a plain prompt; see `Engine.tokenize`."""
        return self._prompts.text(text)

    def chat_prompt(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Return the token ids of a conversation in the model's template; see `Engine.chat_prompt`."""
        return self._prompts.chat(messages)

    def check(self, request: GenerationRequest) -> None:
        """Raise `RequestError` for what is not proven here, or where no proof can be promised now."""
        wish, asked = request.sampling, ASKED.get()
        refused = ("top_p", "logprobs", "frequency_penalty", "presence_penalty", *(["seed"] if asked.drawn else []))
        for field in refused:
            if getattr(wish, field) != getattr(Wish(1), field):
                raise unsupported(field, "it is not part of what is proven")
        if (asked.drawn is None) != (wish.temperature == 0) or not _thousandths(wish.temperature).is_integer():
            raise unsupported("temperature", "0 is; from 0.001 to 2 with a seed and a nonce, by the header mitai-draw")
        if asked.session:
            self._store.sample(asked.session)
        elif asked.promise == "follows":
            self._store.require_place()

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Step, None]:
        """Answer, and keep what was answered before its end is told; see `Engine.generate`."""
        [prompt], asked, wish, started = request.prompts, ASKED.get(), request.sampling, datetime.now(UTC)
        agreed = sampling = None
        if asked.drawn is not None:
            agreed = Agreed(round(_thousandths(wish.temperature)), asked.drawn[1], asked.drawn[0])
            seed = await anyio.to_thread.run_sync(self._store.spend, asked.drawn[0])
            sampling = Sampling(temperature=agreed.temperature, seed=seed, nonce=asked.drawn[1])
        said = Said(request.id, prompt, answer := [], agreed)
        telling = Telling(self._prompts.tokenizer, wish)
        async with aclosing(self._tokens(list(prompt), wish.max_tokens, sampling)) as tokens:
            async for token in tokens:
                answer.append(token)
                step = telling.step(token, end=token in self._ends)
                if step.finish is not None:
                    root = await self._root(said, sampling) if self._audited else None
                    await anyio.to_thread.run_sync(self._keep, said, asked, sampling, started, root)
                yield step
                if step.finish is not None:
                    return

    async def embed(self, prompts: Sequence[Sequence[int]], adapter: str = "") -> list[list[float]]:  # noqa: ARG002
        """Refuse: answers are proven."""
        raise RequestError("serve.no-route", "a service of answers with a proof gives no embeddings", status=404)

    def close(self, reason: ServeError | None = None) -> None:  # noqa: ARG002
        """Take no further answers."""
        for pool in (self._threads, self._roots):
            pool.shutdown(wait=False, cancel_futures=True)

    async def _root(self, said: Said, sampling: Sampling | None) -> bytes:
        """Return the root over an answer's trace."""
        root = partial(trace_root, self._prepared, said.prompt, said.answer, said.salt, sampling)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._roots, root)
        except ProofError as error:
            raise _refused(error) from None

    def _keep(self, said: Said, asked: Asked, sampling: Sampling | None, started: datetime, root: bytes | None) -> None:
        sample = self._store.sample(asked.session) if asked.session else None
        terms = Terms(self._info.name, self._prepared.card.identity, asked.promise, sample)
        receipt = made(said, terms, _time(started), _time(datetime.now(UTC)), root)
        self._store.add(said, receipt.sign(self._key), asked.promise, asked.session, sampling)

    async def _tokens(self, prompt: list[int], count: int, sampling: Sampling | None) -> AsyncGenerator[int, None]:
        """Yield one token after the other, from a thread that ends when this is closed."""
        loop, left = asyncio.get_running_loop(), threading.Event()
        told: asyncio.Queue[int | None] = asyncio.Queue()

        def tell(token: int | None) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody listens any more
                loop.call_soon_threadsafe(told.put_nowait, token)

        def emit(token: int) -> bool:
            tell(token)
            return token not in self._ends and not left.is_set()

        def answer() -> None:
            try:
                if not left.is_set():
                    generate(self._prepared, prompt, count, emit, sampling)
            finally:
                tell(None)

        work = loop.run_in_executor(self._threads, answer)
        try:
            while (token := await told.get()) is not None:
                yield token
            await work
        except ProofError as error:
            raise _refused(error) from None
        finally:
            left.set()
            work.cancel()


class _Positions(msgspec.Struct):
    n_positions: int | None = None
    max_position_embeddings: int | None = None


def _positions(config: str) -> list[int]:
    """Return how many tokens a model was made for, where its configuration says so."""
    found = msgspec.json.decode(config, type=_Positions)
    return [number for number in (found.n_positions, found.max_position_embeddings) if number is not None]


def _refused(error: ProofError) -> RequestError:
    return RequestError(error.code, error.message, status=400, hint=error.hint)


def _thousandths(temperature: float) -> float:
    return round(temperature * 1000, 6)


def _time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
