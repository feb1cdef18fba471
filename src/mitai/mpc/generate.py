"""Generation with keys, values, logits and tokens in shares throughout (`docs/spec/mpc.md`, "Generation").

Prompts of a batch are padded on the left to one public length; how long each is, is its client's secret. Nobody who
computes sees a token: its row of bits goes back into the model, and shares of its number go to the client, who adds
them up. How many tokens are made is public.

Example:
    >>> weights = model.load(Arrays(engine, "model"))
    >>> client = Arrays(engine, "client")
    >>> for tokens in generate(model, weights, client, batch=1, length=64, tokens=20, sampling=Sampling()):
    ...     send_to_client(tokens.parts)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mitai.mpc.engine import Secret, concatenate
from mitai.mpc.models.arrays import Arrays, embed, look_up, one_hot
from mitai.mpc.models.decoder import Cache, Decoder
from mitai.mpc.sampling import Sampling, choose, index

Weights = TypeVar("Weights")


@dataclass(frozen=True)
class State:
    """Where a generation is: the logits of the next token, the cache, and bits of what is padding."""

    logits: Secret
    cache: Cache
    hidden: Secret


def prompts(
    model: Decoder[Weights], ids: Sequence[Sequence[int]], length: int, tokens: int
) -> Iterator[NDArray[np.generic]]:
    """Yield what a client shares, in the program's order: the prompts' rows, what is padding, positions to come.

    Args:
        model: Which.
        ids: Tokens of each prompt: at least one, and at most `length`.
        length: To what they are padded.
        tokens: How many may be generated.

    Raises:
        ValueError: A prompt is empty or too long.
    """
    sizes = np.array([len(tokens) for tokens in ids])
    if sizes.min() < 1 or sizes.max() > length:
        raise ValueError(f"prompts have 1 to {length} tokens")
    if model.positions and sizes.max() + tokens - 1 > model.positions:
        raise ValueError(f"prompt and answer have at most {model.positions} tokens together")
    places = np.arange(length) - (length - sizes)[:, None]  # negative: padding
    columns = np.zeros((len(ids), length, 2), np.int64)
    for row, prompt in enumerate(ids):
        columns[row, length - len(prompt) :, 0] = prompt
    columns[:, :, 1] = model.vocabulary + np.maximum(places, 0)
    yield from one_hot(columns.reshape(-1, 2)[:, : 2 if model.positions else 1], model.width, model.fold)
    yield (places < 0).astype(np.int64)
    if model.positions:
        for step in range(tokens - 1):
            yield from one_hot((sizes + step)[:, None], model.positions)


def begin(model: Decoder[Weights], weights: Weights, client: Arrays, *, batch: int, length: int) -> State:
    """Take the prompts from their client and compute the logits of the first token."""
    embedded = embed(client, model.table(weights), batch * length, model.fold)
    hidden = client.secret(batch, length, fraction=0)
    step = model.step(weights, embedded.reshape(batch, length, -1), None, hidden)
    return State(step.logits, step.cache, hidden)


def advance(model: Decoder[Weights], weights: Weights, client: Arrays, state: State, chosen: Secret) -> State:
    """Go on by one token [batch, vocabulary], as `choose` gave it."""
    batch, engine = chosen.shape[0], chosen.engine
    high, low = chosen, None
    if model.positions:
        high = concatenate((chosen, client.secret(batch, model.positions, fraction=0)), 1)
    if model.fold > 1:
        rest = engine.constant(0.0, (batch, model.width * model.fold - model.vocabulary), fraction=0)
        square = concatenate((chosen, rest), 1).reshape(batch, model.width, model.fold)
        high, low = square.sum(2), square.sum(1)
    embedded = look_up(high, low, model.table(weights)).reshape(batch, 1, -1)
    step = model.step(weights, embedded, state.cache, state.hidden)
    return State(step.logits, step.cache, state.hidden)


def generate(
    model: Decoder[Weights],
    weights: Weights,
    client: Arrays,
    *,
    batch: int,
    length: int,
    tokens: int,
    sampling: Sampling,
) -> Iterator[Secret]:
    """Yield the numbers of the tokens, [batch] each time; their parts are for the client alone."""
    state = begin(model, weights, client, batch=batch, length=length)
    for left in reversed(range(tokens)):
        chosen = choose(state.logits, sampling)
        yield index(chosen)
        if left:
            state = advance(model, weights, client, state, chosen)
