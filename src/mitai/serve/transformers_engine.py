"""The default engine: any Hugging Face causal language model, on transformers, with continuous batching.

One thread owns the model. Each turn of its loop is one forward pass that holds the next token of every answering
sequence and chunks of the prompts that wait: requests join and leave between passes, and a long prompt does not stall
the others (`mitai.serve.batch`). Architectures whose attention doesn't go through transformers' interface
(state-space layers, ALiBi …) run one sequence after the other within a turn.

Invariants:

- A request's sequences leave the batch in the turn after their last token, after the consumer closes, or when the
  engine closes.
- Memory for keys and values is bounded: a sequence starts only when its prompt and its longest answer fit beside the
  others.
- Nothing of one request is reused for another.
- Embeddings are the mean over the last hidden states of all tokens, L2-normalised.

Example:
    >>> engine = TransformersEngine.load(FolderSource(Path("models/tiny-llama")), name="tiny")
    >>> request = GenerationRequest([engine.tokenize("Once")], Sampling(max_tokens=16, temperature=0))
    >>> [step.text async for step in engine.generate(request)]
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import structlog
import torch
from transformers import DynamicCache

from mitai.capsule.sources import FileSource
from mitai.errors import ServeError
from mitai.serve import batch
from mitai.serve.adapters import parts_of, put_on, selected
from mitai.serve.engine import GenerationRequest, ModelInfo, Step, TokenLogprob
from mitai.serve.inspection import LastHidden, bytes_per_token, describe, end_tokens, pack, try_packed
from mitai.serve.loading import LoadedModel, load
from mitai.serve.prompts import Prompts
from mitai.serve.sampling import sample
from mitai.serve.sequences import EmbeddingJob, Running, deliver
from mitai.serve.sequences import Sequence as _Sequence

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class EngineOptions:
    """Limits of the engine.

    Attributes:
        max_sequences: Sequences that answer at once; more wait.
        step_tokens: Tokens in one forward pass, answering ones and prompt chunks together.
        max_context: Upper bound on the context length; `None` takes the model's own.
        cache_bytes: Memory for keys and values; `None` takes a quarter of the machine's.
        threads: Of torch; `None` leaves its default.
        fingerprints: Take fingerprints of the activations of each answer (`mitai.serve.fingerprints`).
    """

    max_sequences: int = 32
    step_tokens: int = 256
    max_context: int | None = None
    cache_bytes: int | None = None
    threads: int | None = None
    fingerprints: bool = False


class TransformersEngine:
    """A loaded model and the thread that runs it."""

    @staticmethod
    def load(
        source: FileSource,
        *,
        name: str = "model",
        options: EngineOptions | None = None,
        progress: Callable[[int, int], None] | None = None,
        weights: Future[dict[str, memoryview]] | None = None,
        adapters: Mapping[str, FileSource] | None = None,
    ) -> TransformersEngine:
        """Load a folder and adapters of it, sealed or plain, and start.

        See `mitai.serve.loading.load` and `mitai.serve.adapters.put_on` for the errors.
        """
        loaded = load(source, progress=progress, weights=weights)
        put_on(loaded.model, adapters or {})
        return TransformersEngine(loaded, name=name, options=options, adapters=tuple(adapters or ()))

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        name: str,
        options: EngineOptions | None = None,
        adapters: tuple[str, ...] = (),
    ) -> None:
        self._options = options or EngineOptions()
        self._model, self._prompts = loaded.model, Prompts(loaded.tokenizer, name)
        self.tokenizer = self._prompts.tokenizer
        self._info = describe(loaded, name, self._options.max_context, adapters)
        self._ends = end_tokens(loaded)
        self._inbox: queue.SimpleQueue[Running | EmbeddingJob | None] = queue.SimpleQueue()
        self._cache = batch.KeyValueCache()
        self._answering: list[_Sequence] = []
        self._reading: list[_Sequence] = []
        self._waiting: list[_Sequence] = []
        self._embeddings: list[EmbeddingJob] = []
        self._closing, self._closed = False, _closed()
        self._hidden = LastHidden(loaded.model) if self._options.fingerprints else None
        self._packed = pack(loaded.model)
        if self._packed and adapters:
            try_packed(loaded.model, adapters)
        if self._hidden is not None and not self._packed:
            raise ServeError("serve.fingerprints-unsupported", "this architecture runs one sequence after the other")
        self._token_bytes = bytes_per_token(loaded.model)
        self._cache_bytes = self._options.cache_bytes or _quarter_of_memory()
        self._thread = threading.Thread(target=self._run, name="mitai-engine", daemon=True)
        self._thread.start()
        atexit.register(self.close)  # a thread inside torch must not outlive the interpreter

    # ------------------------------------------------------------------ the seam

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

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Step, None]:
        """Continue a prompt; see `Engine.generate`."""
        for prompt in request.prompts:
            self._check(prompt)
        running = Running(request, self.tokenizer, self._info.context_length, fingerprints=self._options.fingerprints)
        self._inbox.put(running)
        left = len(running.sequences)
        try:
            while left:
                step = await running.steps.get()
                if isinstance(step, ServeError):
                    raise step
                left -= step.finish is not None
                yield step
        finally:
            running.cancelled = True

    async def embed(self, prompts: Sequence[Sequence[int]], adapter: str = "") -> list[list[float]]:
        """Return one unit vector per prompt; see `Engine.embed`."""
        for prompt in prompts:
            self._check(prompt)
        loop = asyncio.get_running_loop()
        work = EmbeddingJob([list(prompt) for prompt in prompts], adapter, loop, loop.create_future())
        self._inbox.put(work)
        return await work.result

    def close(self, reason: ServeError | None = None) -> None:
        """Stop the thread; what is in progress ends with an error; see `Engine.close`."""
        self._closed = reason or self._closed
        self._closing = True
        atexit.unregister(self.close)
        self._inbox.put(None)
        self._thread.join()

    def _check(self, prompt: Sequence[int]) -> None:
        if self._closing:
            raise self._closed
        if not prompt or len(prompt) > self._info.context_length:
            raise ServeError(
                "serve.prompt-length", f"a prompt of {len(prompt)} tokens; 1 to {self._info.context_length} fit"
            )
        if min(prompt) < 0 or max(prompt) >= self._info.vocabulary:
            raise ServeError("serve.token-unknown", "a token id is not in the model's vocabulary")

    # ------------------------------------------------------------------ the thread

    def _run(self) -> None:
        if self._options.threads:
            torch.set_num_threads(self._options.threads)
        with torch.inference_mode():
            while not self._closing:
                try:
                    self._turn()
                except Exception as error:  # noqa: BLE001 - the engine outlives any request; content never reaches the log
                    log.error("engine step failed", kind=type(error).__name__)
                    self._drop_all(
                        ServeError("serve.engine-failed", "the engine failed while it worked on this request")
                    )
        self._drop_all(self._closed)

    def _turn(self) -> None:
        """Take what arrived, let go of what left, run one forward pass, hand out the tokens."""
        busy = bool(self._answering or self._reading or self._waiting or self._embeddings)
        self._take_inbox(wait=not busy)
        self._release()
        self._admit()
        if self._embeddings:
            self._embed_one()
        if not (self._answering or self._reading):
            return
        ready, logits = self._forward_packed() if self._packed else self._forward_each()
        if ready:
            self._choose(ready, logits)

    def _take_inbox(self, *, wait: bool) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                item = self._inbox.get(block=wait)
                wait = False
                if isinstance(item, Running):
                    self._waiting += item.sequences
                elif isinstance(item, EmbeddingJob):
                    self._embeddings.append(item)

    def _release(self) -> None:
        """Free the rows of sequences that ended or whose consumer left."""
        self._waiting = [sequence for sequence in self._waiting if not sequence.owner.cancelled]
        rows = [*self._answering, *self._reading]
        leaving = [row for row, sequence in enumerate(rows) if sequence.leaving]
        for row in reversed(leaving):
            self._remove(row)
        if not (self._answering or self._reading):
            self._cache.clear()

    def _remove(self, row: int) -> None:
        """Take a row out: the last answering row fills its hole, prompts being read close up behind."""
        answering = len(self._answering)
        if row < answering:
            last = self._answering.pop()
            if row < answering - 1:
                self._cache.move(answering - 1, row, last.length)
                self._answering[row] = last
            row = answering - 1
        else:
            self._reading.pop(row - answering)
        for target, sequence in enumerate(self._reading[row - len(self._answering) :], start=row):
            if sequence.length:
                self._cache.move(target + 1, target, sequence.length)

    def _admit(self) -> None:
        """Start waiting sequences while rows and memory last; the first one always may start."""
        running = [*self._answering, *self._reading]
        longest = max((sequence.longest for sequence in running), default=0)
        while self._waiting and len(running) < self._options.max_sequences:
            longest = max(longest, self._waiting[0].longest)
            if running and batch.KeyValueCache.room(len(running) + 1, longest) * self._token_bytes > self._cache_bytes:
                return
            sequence = self._waiting.pop(0)
            running.append(sequence)
            self._reading.append(sequence)

    def _forward_packed(self) -> tuple[list[_Sequence], torch.Tensor]:
        """Run one pass over all answering tokens and as much of the waiting prompts as fits."""
        answering = len(self._answering)
        tokens = [sequence.pending[0] for sequence in self._answering]
        positions = [sequence.length for sequence in self._answering]
        step = batch.PackedStep(self._cache, list(positions), self._segments())
        last = list(range(answering))
        for segment, sequence in zip(step.segments, self._reading, strict=False):
            tokens += sequence.pending[: segment.count]
            positions += range(segment.past, segment.past + segment.count)
            if segment.count == len(sequence.pending):
                last.append(segment.start + segment.count - 1)
        owners = [(sequence.adapter, 1) for sequence in self._answering]
        owners += [(each.adapter, segment.count) for segment, each in zip(step.segments, self._reading, strict=False)]
        with selected(parts_of(owners), len(tokens)):
            logits = self._logits(step, tokens, positions, last)
        for sequence in self._answering:
            sequence.length += 1
        finished = [
            sequence
            for sequence, segment in zip(self._reading, step.segments, strict=False)
            if sequence.read(segment.count)
        ]
        # prompts are read in order, so the finished ones are the first rows behind the answering ones
        self._reading = self._reading[len(finished) :]
        self._answering += finished
        return list(self._answering) if answering or finished else [], logits

    def _segments(self) -> list[batch.Segment]:
        start = len(self._answering)
        room = max(self._options.step_tokens - start, 1)
        segments = []
        for row, sequence in enumerate(self._reading, start=start):
            count = min(len(sequence.pending), room)
            if not count:
                break
            segments.append(batch.Segment(row, start, count, sequence.length))
            start, room = start + count, room - count
        return segments

    def _logits(self, step: batch.PackedStep, tokens: list[int], positions: list[int], last: list[int]) -> torch.Tensor:
        batch.CURRENT.step = step
        try:
            output = self._model(
                input_ids=torch.tensor([tokens]),
                position_ids=torch.tensor([positions]),
                use_cache=False,
                logits_to_keep=torch.tensor(last, dtype=torch.long),
            )
        finally:
            batch.CURRENT.step = None
        logits: torch.Tensor = output.logits[0]
        return logits

    def _forward_each(self) -> tuple[list[_Sequence], torch.Tensor]:
        """Run each sequence alone, with transformers' own cache; at most one prompt chunk in a turn."""
        rows = []
        for sequence in self._answering:
            rows.append(self._forward_own(sequence, sequence.pending))
            sequence.length += 1
        if self._reading:
            sequence = self._reading[0]
            chunk = sequence.pending[: self._options.step_tokens]
            row = self._forward_own(sequence, chunk)
            if sequence.read(len(chunk)):
                self._answering.append(self._reading.pop(0))
                rows.append(row)
        return list(self._answering), torch.stack(rows) if rows else torch.empty(0)

    def _forward_own(self, sequence: _Sequence, tokens: list[int]) -> torch.Tensor:
        if sequence.own_cache is None:
            sequence.own_cache = DynamicCache(config=self._model.config)
        with selected(parts_of([(sequence.adapter, len(tokens))])):
            output = self._model(input_ids=torch.tensor([tokens]), past_key_values=sequence.own_cache, use_cache=True)
        logits: torch.Tensor = output.logits[0, -1]
        return logits

    def _choose(self, ready: list[_Sequence], logits: torch.Tensor) -> None:
        """Sample a token for every ready sequence and hand the steps to their event loops, one call per loop."""
        asked = [row for row, sequence in enumerate(ready) if sequence.sampling.logprobs is not None]
        logprobs = dict(zip(asked, logits[asked].float().log_softmax(dim=-1), strict=True)) if asked else {}
        tokens = sample(logits, [sequence.sampler for sequence in ready])
        if self._hidden is not None:
            for sequence, token, row in zip(ready, tokens, self._hidden.take(), strict=True):
                if sequence.printer is not None:
                    sequence.printer.add(token, row)
        steps = []
        for row, (sequence, token) in enumerate(zip(ready, tokens, strict=True)):
            logprob = self._logprob(token, logprobs[row], sequence.sampling.logprobs or 0) if row in logprobs else None
            steps.append((sequence.owner, sequence.step(token, logprob, end=token in self._ends)))
        deliver(steps)

    def _logprob(self, token: int, row: torch.Tensor, top: int) -> TokenLogprob:
        best = row.topk(top) if top else None
        pairs = zip(best.values.tolist(), best.indices.tolist(), strict=True) if best else ()
        return self._named(token, float(row[token]), tuple(self._named(index, value) for value, index in pairs))

    def _named(self, token: int, logprob: float, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
        text = self.tokenizer.decode([token], skip_special_tokens=False)
        return TokenLogprob(text, text.encode(), logprob, top)

    def _embed_one(self) -> None:
        """Embed one prompt of the first waiting job: answering sequences go on between prompts."""
        job = self._embeddings[0]
        if not job.complete:
            with selected(parts_of([(job.adapter, len(job.prompts[0]))])):
                job.vectors.append(self._embedding(job.prompts[len(job.vectors)]))
        if job.complete:
            self._embeddings.pop(0)
            job.resolve()

    def _embedding(self, prompt: list[int]) -> list[float]:
        tokens = torch.tensor([prompt])
        if self._packed:
            batch.CURRENT.step = batch.PackedStep(batch.KeyValueCache(), [], [batch.Segment(0, 0, len(prompt), 0)])
        try:
            output = self._model.base_model(
                input_ids=tokens,
                use_cache=False,
                **({"position_ids": torch.arange(len(prompt))[None]} if self._packed else {}),
            )
        finally:
            batch.CURRENT.step = None
        mean = output.last_hidden_state[0].float().mean(dim=0)
        vector: list[float] = torch.nn.functional.normalize(mean, dim=0).tolist()
        return vector

    def _drop_all(self, error: ServeError) -> None:
        self._take_inbox(wait=False)
        owners = {sequence.owner for sequence in (*self._answering, *self._reading, *self._waiting)}
        self._answering, self._reading, self._waiting = [], [], []
        self._cache.clear()
        for owner in owners:
            owner.fail(error)
        jobs, self._embeddings = self._embeddings, []
        for job in jobs:
            job.fail(error)


def _closed() -> ServeError:
    return ServeError("serve.engine-closed", "the model is being unloaded", hint="try again shortly")


def _quarter_of_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4
