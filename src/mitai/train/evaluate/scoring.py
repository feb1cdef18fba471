"""A causal language model as an evaluation uses it: log-likelihoods and generated text, batched and deterministic.

Follows lm-evaluation-harness (`lm_eval/models/huggingface.py`, `lm_eval/api/model.py`), so that numbers compare.

Invariants:

- The same requests in the same order give the same batches, and so the same numbers on the same machine.
- Sampling draws from a generator of its own seed; the process's generators are left as they were.
- The model's own generation settings (temperatures, penalties) are not used; only its end tokens are.
- Control marks within a turn of a conversation are text: a judged answer can't speak as its judge.
- No record ends the job: the host sees whether a job fails, and must not learn from that what a record holds, not even
  where the model was made to tell it. What can't be scored counts as unlikely as can be.

Example:
    >>> scorer = Scorer(loaded.model, loaded.tokenizer, batch=8)  # doctest: +SKIP
    >>> scorer.loglikelihoods([("2 + 2 =", " 4")])[0].greedy  # doctest: +SKIP
    True
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
from transformers import GenerationConfig

from mitai.errors import TrainError
from mitai.serve.marks import Marks

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

T = TypeVar("T")
_LEAST = -1e9  # what a log-likelihood that is no number, or not finite, counts as


class Likelihood(NamedTuple):
    """Of a continuation: the natural log of its probability, whether greedy decoding gives it, and its tokens."""

    total: float
    greedy: bool
    tokens: int


class Sampling(NamedTuple):
    """How to draw tokens; a temperature of 0 takes the likeliest."""

    max_tokens: int
    until: tuple[str, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


class Scorer:
    """Scores and generates with one model.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        batch: How many sequences go through the model together.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, batch: int = 8) -> None:
        self._model: Any = model  # transformers types its models loosely
        self._model.train(mode=False)
        self._tokenizer, self._marks, self._batch = tokenizer, Marks(tokenizer), batch
        embeddings: Any = model.get_input_embeddings()
        self._vocabulary = int(embeddings.weight.shape[0])
        self._max_length: int = getattr(model.config, "max_position_embeddings", None) or 2048
        start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        if start is None:
            raise TrainError("train.tokenizer-unfit", "the model's tokenizer has neither a first nor a last token")
        self._start: int = start

    def chat(self, messages: list[dict[str, str]]) -> str:
        """Return a conversation as the model's chat template writes it, up to where the assistant begins.

        It is empty where the template refuses the conversation.
        """
        if not self._tokenizer.chat_template:
            raise TrainError("train.no-chat-template", "a task has chat = true, and the model has no chat template")
        cut = [self._marks.cut(message) for message in messages]
        try:
            return str(self._tokenizer.apply_chat_template(cut, tokenize=False, add_generation_prompt=True))
        except Exception:  # noqa: BLE001 - a template may raise anything
            return ""

    def loglikelihoods(self, requests: Sequence[tuple[str, str]]) -> list[Likelihood]:
        """Score each continuation after its context; spaces at the end of a context count to the continuation."""
        return self._score([self._pair(*request) for request in requests])

    def rolling(self, texts: Sequence[str]) -> list[Likelihood]:
        """Score whole texts, in windows of the model's length that do not overlap in what they predict."""
        windows = [self._windows(self._tokens(text)) for text in texts]
        scored = iter(self._score([window for each in windows for window in each]))
        return [_together([next(scored) for _ in each]) for each in windows]

    def generate(self, prompts: Sequence[str], sampling: Sampling) -> list[str]:
        """Continue each prompt up to an end token, a stop text or so many tokens; stop texts are cut off."""
        room = self._max_length - sampling.max_tokens
        if room < 1:
            raise TrainError("train.task-unfit", f"max_tokens is above the model's length of {self._max_length}")
        tokens = [(self._tokens(prompt) or [self._start])[-room:] for prompt in prompts]
        answers = [""] * len(tokens)
        with torch.random.fork_rng():
            torch.manual_seed(sampling.seed)
            for places in self._batches([len(each) for each in tokens]):
                given = self._contained(places, lambda some: self._continue([tokens[at] for at in some], sampling))
                for place, text in given:
                    answers[place] = text
        return answers

    def _tokens(self, text: str) -> list[int]:
        """Return the tokens of a text; none where the tokenizer refuses it, or has tokens that the model has not."""
        try:
            tokens = self._marks.encode(text)
        except Exception:  # noqa: BLE001 - tokenizers raises bare Exception
            return []
        return tokens if all(token < self._vocabulary for token in tokens) else []

    def _pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        spaces = len(context) - len(context.rstrip())
        if spaces:
            context, continuation = context[:-spaces], context[-spaces:] + continuation
        before = self._tokens(context)
        after = self._tokens(context + continuation)[len(before) :]
        return before or [self._start], after

    def _windows(self, tokens: list[int]) -> list[tuple[list[int], list[int]]]:
        """Return (context, predicted) of each window; the first begins after the start token alone."""
        length = self._max_length
        windows = [([self._start], tokens[:length])]
        for begin in range(length, len(tokens), length):
            end = min(begin + length, len(tokens))
            windows.append((tokens[max(end - length - 1, 0) : begin], tokens[begin:end]))
        return windows

    def _batches(self, lengths: list[int]) -> Iterator[list[int]]:
        """Yield the places of each batch, longest sequences first: what does not fit fails at once."""
        order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
        for begin in range(0, len(order), self._batch):
            yield order[begin : begin + self._batch]

    def _score(self, pairs: list[tuple[list[int], list[int]]]) -> list[Likelihood]:
        """Score (context, continuation) pairs; one without tokens, or above the model's length, is not tried."""
        found = [Likelihood(_LEAST, greedy=False, tokens=len(after)) for _, after in pairs]
        fits = [at for at, (_, after) in enumerate(pairs) if 0 < len(after) <= self._max_length]
        for batch in self._batches([sum(map(len, pairs[at])) for at in fits]):
            places = [fits[at] for at in batch]
            for place, likelihood in self._contained(
                places, lambda some: self._likelihoods([pairs[at] for at in some])
            ):
                found[place] = likelihood
        return found

    def _contained(self, places: list[int], work: Callable[[list[int]], list[T]]) -> Iterator[tuple[int, T]]:
        """Yield what `work` gives for each place; where it fails, for each alone, and nothing for those that fail."""
        try:
            yield from zip(places, work(places), strict=True)
        except torch.OutOfMemoryError:
            raise
        except Exception:  # noqa: BLE001 - a stranger's model may raise anything
            if len(places) > 1:
                for place in places:
                    yield from self._contained([place], work)

    @torch.inference_mode()
    def _likelihoods(self, pairs: list[tuple[list[int], list[int]]]) -> list[Likelihood]:
        inputs = [(before + after)[-(self._max_length + 1) :][:-1] for before, after in pairs]
        longest = max(map(len, inputs))
        ids = torch.tensor([each + [0] * (longest - len(each)) for each in inputs], device=self._model.device)
        mask = torch.tensor([[1] * len(each) + [0] * (longest - len(each)) for each in inputs], device=ids.device)
        logits = self._model(input_ids=ids, attention_mask=mask).logits  # (batch, longest, vocabulary)
        return [
            _likelihood(logits[row, len(each) - len(after) : len(each)], torch.tensor(after, device=ids.device))
            for row, (each, (_, after)) in enumerate(zip(inputs, pairs, strict=True))
        ]

    @torch.inference_mode()
    def _continue(self, prompts: list[list[int]], sampling: Sampling) -> list[str]:
        longest = max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(each)) + each for each in prompts], device=self._model.device)
        mask = torch.tensor([[0] * (longest - len(each)) + [1] * len(each) for each in prompts], device=ids.device)
        output = self._model.generate(input_ids=ids, attention_mask=mask, generation_config=self._settings(sampling))
        return [self._text(row[longest:].tolist(), sampling.until) for row in output]

    def _settings(self, sampling: Sampling) -> Any:  # noqa: ANN401 - transformers has no types for it
        own = getattr(self._model.generation_config, "eos_token_id", None)
        ends = own if own is not None else self._tokenizer.eos_token_id
        drawn: dict[str, Any] = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
        config: Any = GenerationConfig
        return config(
            max_new_tokens=sampling.max_tokens,
            do_sample=sampling.temperature > 0,
            remove_invalid_values=True,
            eos_token_id=ends,
            pad_token_id=ends[0] if isinstance(ends, list) else ends if ends is not None else 0,
            **(drawn if sampling.temperature > 0 else {}),
        )

    def _text(self, tokens: list[int], until: tuple[str, ...]) -> str:
        text = str(self._tokenizer.decode(tokens, skip_special_tokens=True))
        return text[: min((at for stop in until if (at := text.find(stop)) >= 0), default=len(text))]


def _likelihood(logits: torch.Tensor, tokens: torch.Tensor) -> Likelihood:
    """Return the likelihood of `tokens` (length,) under `logits` (length, vocabulary)."""
    logs = torch.log_softmax(logits.float(), dim=-1)
    total = logs.gather(-1, tokens[:, None]).double().sum().nan_to_num(_LEAST).clamp(min=_LEAST)
    return Likelihood(total.item(), bool((logs.argmax(dim=-1) == tokens).all()), len(tokens))


def _together(parts: list[Likelihood]) -> Likelihood:
    return Likelihood(
        sum(part.total for part in parts), all(part.greedy for part in parts), sum(part.tokens for part in parts)
    )
