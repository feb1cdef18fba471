"""An answer computed again: prompt and answer are read by the same weights in one pass, and compared.

Reading is much cheaper than generating. Two things come out of it: the hidden states, which fingerprints are compared
with (`mitai.serve.fingerprints`), and the logits, which say whether each token is the one that the request asked for.
`docs/spec/fingerprint.md`, "Computing again", has the rules.

Invariants:

- The prompt is the verifier's own: it comes from the request that was kept, through the verifier's tokenizer.
- What may differ is bounded by the precision that was promised: two right computations differ by rounding alone.
- An answer that ends where no rule of its request ends it is refused.

Example:
    >>> rerun = Rerun(load(FolderSource(Path("models/tiny-llama"))))
    >>> asked = rerun.asked(b'{"model":"tiny","messages":[{"role":"user","content":"Hi"}],"temperature":0}')
    >>> check_tokens(rerun.read(asked.prompts[0], tokens), tokens, asked.sampling, tolerance=0.01).margin
    0.0
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp

import msgspec
import torch

from mitai.errors import ServeError
from mitai.serve.engine import Sampling
from mitai.serve.fingerprints import Bits
from mitai.serve.inspection import LastHidden, describe, end_tokens
from mitai.serve.loading import LoadedModel
from mitai.serve.prompts import Prompts
from mitai.serve.sampling import Sampler
from mitai.serve.schema import Base, ChatRequest, CompletionRequest, parse, texts_or_tokens

MAX_CHOICES = 1024
_MOST_OFF = 60.0  # e to this is more than any probability's inverse that double precision tells from zero
TOLERANCE = {"float32": 0.01, "bfloat16": 0.5}
"""By how much logits of two right computations may differ."""


class _Kind(msgspec.Struct):
    messages: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


@dataclass(frozen=True)
class Asked:
    """A request as the engine sees it."""

    prompts: Sequence[Sequence[int]]
    sampling: Sampling
    n: int


@dataclass(frozen=True)
class Reading:
    """What the verifier computed: for each token of an answer the states and logits that it was chosen from."""

    hidden: Bits  # (tokens, hidden)
    logits: torch.Tensor  # (tokens, vocabulary), float32


@dataclass(frozen=True)
class Compared:
    """What came of comparing tokens.

    Attributes:
        equal: Tokens that are the verifier's own choice.
        margin: Of the others, the largest difference of logits that explains one; 0 where there is none.
        drawn: Tokens that were drawn without a seed: of these only that they are possible is known.
    """

    equal: int
    margin: float
    drawn: int


class Rerun:
    """A model that reads answers again.

    Args:
        loaded: The weights that were promised.
        dtype: The precision that was promised; by default that of the weights.
    """

    def __init__(self, loaded: LoadedModel, dtype: torch.dtype | None = None) -> None:
        loaded.model.to(dtype=dtype or loaded.model.dtype)  # type: ignore[call-arg,unused-ignore]
        self._model = loaded.model
        self._hidden = LastHidden(self._model)
        self.info = describe(loaded, "model", None)
        self._prompts, self.ends = Prompts(loaded.tokenizer, "model"), end_tokens(loaded)

    @property
    def precision(self) -> str:
        """The precision's name, a key of `ALLOWED` and `TOLERANCE`."""
        return str(self._model.dtype).removeprefix("torch.")

    def asked(self, body: bytes) -> Asked:
        """Return what the body of a request to the OpenAI API asks of this model.

        Raises:
            ServeError: It is no request that the API takes.
        """
        if parse(_Kind, body).messages is not msgspec.UNSET:
            chat = parse(ChatRequest, body)
            wanted: Base = chat
            prompts = [self._prompts.chat([message.plain(at) for at, message in enumerate(chat.messages)])]
        else:
            wanted = completion = parse(CompletionRequest, body)
            given = texts_or_tokens(completion.prompt, "prompt", MAX_CHOICES)
            prompts = [self._prompts.text(each) if isinstance(each, str) else each for each in given]
        wanted.refuse_unsupported()
        room = self.info.context_length - max(map(len, prompts))
        return Asked(prompts, wanted.sampling(self.info, room), wanted.n or 1)

    def tokens(self, text: str, finish: str) -> list[int]:
        """Return the tokens of an answer as the tokenizer cuts its text, with the one that ends answers."""
        end = [min(self.ends)] if finish == "stop" and self.ends else []
        return self._prompts.text(text) + end

    def text(self, tokens: Sequence[int]) -> str:
        """Return the text of an answer's tokens."""
        return str(self._prompts.tokenizer.decode(list(tokens), skip_special_tokens=True))

    def read(self, prompt: Sequence[int], tokens: Sequence[int]) -> Reading:
        """Read a prompt and its answer in one pass.

        Raises:
            ServeError: They don't fit the model (`serve.prompt-length`, `serve.token-unknown`).
        """
        whole = [*prompt, *tokens]
        if not prompt or not tokens or len(whole) - 1 > self.info.context_length:
            raise ServeError("serve.prompt-length", f"1 to {self.info.context_length} tokens fit into this model")
        if min(whole) < 0 or max(whole) >= self.info.vocabulary:
            raise ServeError("serve.token-unknown", "a token id is not in the model's vocabulary")
        with torch.inference_mode():
            logits = self._model(
                input_ids=torch.tensor([whole[:-1]]), use_cache=False, logits_to_keep=len(tokens)
            ).logits[0]
        return Reading(self._hidden.take()[-len(tokens) :], logits.float())


def check_end(tokens: Sequence[int], ends: frozenset[int], sampling: Sampling, finish: str) -> None:
    """Raise `ServeError` where an answer ends too early, or goes on behind its end.

    Args:
        tokens: The answer's.
        ends: Those that end answers.
        sampling: What was asked for.
        finish: The reason that the service gave: `stop` or `length`.
    """
    stopped = finish == "stop" and (tokens[-1] in ends or bool(sampling.stop))
    cut = finish == "length" and len(tokens) == sampling.max_tokens
    if not (stopped or cut) or len(tokens) > sampling.max_tokens or any(token in ends for token in tokens[:-1]):
        raise ServeError("serve.answer-cut", "the answer does not end where its request says", step="end")


def check_tokens(
    reading: Reading, tokens: Sequence[int], sampling: Sampling, tolerance: float, choice: int = 0
) -> Compared:
    """Check that each token is the one that the request asks for, but for rounding.

    1. Temperature 0: the likeliest token, or one whose logit is at most `tolerance` below it.
    2. With a seed: the token that the seed's number draws, or one that it would draw with logits that differ so much.
    3. Without a seed: a token that can be drawn at all.

    Raises:
        ServeError: A token is none of these (`serve.token-differs`).
    """
    sampler = Sampler(sampling, choice)
    equal, margin, drawn = 0, 0.0, 0
    for at, token in enumerate(tokens):
        row = reading.logits[at].clone()
        sampler.penalise(row)
        if not row.max().isfinite():
            short = float("inf")
        elif sampling.temperature == 0:
            short = float(row.max() - row[token])
        elif sampling.seed is not None:
            short = _short_of(row, token, sampling, sampler.random.random(), tolerance)
        else:
            drawn += 1
            short = 0.0 if _interval(row, token, sampling, tolerance)[1] > 0 else float("inf")
        if short > tolerance:
            raise ServeError(
                "serve.token-differs",
                f"token {at} is not the one that these weights give, nor one that rounding explains ({tolerance:g})",
                hint="another model, prompt or seed than was promised",
                step="tokens",
            )
        equal += short == 0
        margin = max(margin, short)
        sampler.chosen(token)
    return Compared(equal - drawn, margin, drawn)


def _short_of(row: torch.Tensor, token: int, sampling: Sampling, uniform: float, tolerance: float) -> float:
    """Return 0 where the number draws the token, `tolerance` where it would with rounding, else infinity."""
    for slack in (0.0, tolerance):
        low, high = _interval(row, token, sampling, slack)
        if low <= uniform <= high:
            return slack
    return float("inf")


def _interval(row: torch.Tensor, token: int, sampling: Sampling, slack: float) -> tuple[float, float]:
    """Return between which numbers of 0 to 1 a token is drawn when logits may be off by `slack`; (1, 0): never.

    Tokens are drawn in the vocabulary's order; within a nucleus (`top_p` below 1) the likeliest come first, and a token
    may change places with those whose logits are as near.
    """
    weights = ((row - row.max()).double() / sampling.temperature).softmax(dim=-1)
    own, off = float(weights[token]), min(2 * slack / sampling.temperature, _MOST_OFF)
    if sampling.top_p >= 1:
        low = float(weights[:token].sum())
        high, kept = low + own, 1.0
    else:
        best = weights.sort(descending=True).values
        low, high = float(best[best > own * exp(off)].sum()), float(best[best >= own * exp(-off)].sum())
        before = best.cumsum(0) - best
        kept = float(best[(before < sampling.top_p) | (before <= 0)].sum())
    low, high = _moved(low, -off), _moved(high, off)
    if low >= sampling.top_p:
        return 1.0, 0.0
    return low / _moved(kept, off), high / max(sampling.top_p, _moved(kept, -off))


def _moved(probability: float, by: float) -> float:
    """Return what a probability becomes when its logarithm moves against that of its complement."""
    odds = probability * exp(by)
    return odds / (odds + max(1 - probability, 0.0))
