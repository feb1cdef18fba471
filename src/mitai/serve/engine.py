"""The seam between the OpenAI API and whatever runs a model: a few methods and a few frozen values.

Invariants:

- A request holds token ids and bounded parameters; whoever builds one has validated it against `Engine.info`.
- `generate` yields text that is whole Unicode characters and never part of a stop string.
- Closing the iterator of `generate` frees the request's place in the batch before the next step.
- Nothing is shared between requests: there is no prefix cache, so that no timing tells one client about another.

Example:
    >>> async def answer(engine: Engine) -> str:
    ...     prompt = engine.chat_prompt([{"role": "user", "content": "Who are you?"}])
    ...     request = GenerationRequest([prompt], Sampling(max_tokens=64))
    ...     return "".join([step.text async for step in engine.generate(request)])
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Literal, Protocol

import msgspec

from mitai.errors import ServeError
from mitai.serve.fingerprints import Choice

FinishReason = Literal["stop", "length"]


class ModelInfo(msgspec.Struct, frozen=True):
    """What an engine serves.

    Attributes:
        name: The model's name in the API.
        context_length: Tokens of prompt and answer together.
        vocabulary: Number of token ids.
        has_chat_template: Whether `chat_prompt` works.
        architecture: The model class, such as `LlamaForCausalLM`.
        dtype: The type of the weights, such as `bfloat16`.
        temperature: What the model's own generation config asks for; used where a request says nothing.
        top_p: As `temperature`.
        adapters: Names in the API under which the model answers with an adapter.
        about: What else clients are told of it.
    """

    name: str
    context_length: int
    vocabulary: int
    has_chat_template: bool
    architecture: str
    dtype: str
    temperature: float = 1.0
    top_p: float = 1.0
    adapters: tuple[str, ...] = ()
    about: Mapping[str, object] = {}


class Sampling(msgspec.Struct, frozen=True):
    """How the next token is chosen.

    Attributes:
        max_tokens: Tokens to generate at most, per choice.
        temperature: 0 takes the likeliest token.
        top_p: Keeps the smallest set of tokens whose probabilities reach this sum.
        seed: Makes the choice repeatable; `None` draws a fresh one.
        stop: Strings that end the answer; they are not part of it.
        logprobs: How many alternatives to report per token; `None` reports no log probabilities.
        frequency_penalty: Subtracted from a token's logit once per time it was generated.
        presence_penalty: Subtracted from the logit of every token that was generated.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0


class GenerationRequest(msgspec.Struct, frozen=True):
    """Prompts and how to continue each of them `n` times; choice `p × n + i` is the i-th answer to prompt `p`.

    `adapter` is one of `ModelInfo.adapters`, or empty for the model itself; `id` is the answer's, as clients see it.
    """

    prompts: Sequence[Sequence[int]]
    sampling: Sampling
    n: int = 1
    adapter: str = ""
    id: str = ""


class TokenLogprob(msgspec.Struct, frozen=True):
    """A token with its log probability before temperature and penalties, and the likeliest alternatives."""

    token: str
    raw: bytes
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


class Step(msgspec.Struct, frozen=True):
    """What one step of the engine added to one choice.

    Attributes:
        choice: Which of the choices.
        text: New text; empty while a character or a possible stop string is incomplete.
        tokens: Tokens generated so far for this choice.
        finish: Why the choice ended, on its last step.
        logprobs: One entry per token whose text is in `text`, where the request asked for them.
        prints: On the choice's last step its tokens and fingerprints, where the engine takes them.
    """

    choice: int
    text: str
    tokens: int
    finish: FinishReason | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    prints: Choice | None = None


class Engine(Protocol):
    """Something that runs one language model."""

    @property
    def info(self) -> ModelInfo:
        """What is served."""
        ...

    def tokenize(self, text: str) -> list[int]:
        """Return the token ids of a plain prompt."""
        ...

    def chat_prompt(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Return the token ids of a conversation in the model's own template, ready for the answer.

        Raises:
            ServeError: The model has no template, or the template refuses this conversation.
        """
        ...

    def generate(self, request: GenerationRequest) -> AsyncGenerator[Step, None]:
        """Continue a prompt; steps of all choices come interleaved, each choice's last one with its `finish`."""
        ...

    async def embed(self, prompts: Sequence[Sequence[int]], adapter: str = "") -> list[list[float]]:
        """Return one unit vector per prompt: the mean of the last hidden states, L2-normalised."""
        ...

    def close(self, reason: ServeError | None = None) -> None:
        """Stop; requests in progress end with `reason`, or with `serve.engine-closed`."""
        ...
