"""Texts that are read, by BERT: classes of a text or of two, or embeddings.

Follows `docs/spec/mpc-links.md`, "Clients". A run reads `batch` texts at once. The client gets logits, or the mean of
the last states; probabilities and names of classes it makes by itself.

Invariants:

- How long a text is within its length, whether it is one text or two, and how many of a batch are filled up with a
  copy: the client's secrets, all of them.

Example:
    >>> offer = reading(ShareFolder.open(Path("shares/client")), prompt_tokens=(64, 128), batch=1)
    >>> task = fitting_reading(offer, length=80, texts=1)
    >>> (numbers,) = ask(credentials, peers, offer, Question(task), task.values([Tokens((101, 7592, 102))]))
    >>> task.told(numbers[0])
    {'label': 'positive', 'scores': {'negative': 0.02, 'positive': 0.98}}
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mitai.errors import MpcError
from mitai.mpc.engine import Engine
from mitai.mpc.models.arrays import Arrays
from mitai.mpc.models.bert import Bert, BertWeights
from mitai.mpc.models.config import BertConfig, parse_config
from mitai.mpc.ring import Real
from mitai.mpc.sampling import Kind, Sampling
from mitai.mpc.sharing import ShareFolder
from mitai.mpc.tasks import Emit, Offer, not_offered
from mitai.mpc.text import Tokens, check_tokens


class Reading:
    """Texts of which each is read at once; a `mitai.mpc.tasks.Task`.

    Args:
        model: Which.
        length: To how many tokens texts are padded.
        batch: How many texts a run reads, always.
    """

    kind: Kind = "greedy"

    def __init__(self, model: Bert, length: int, batch: int) -> None:
        self.model, self.length, self.batch = model, length, batch
        self.name = f"{'classify' if model.config.labels else 'embed'} {length} {batch}"

    def answer(self, engine: Engine, loaded: BertWeights, client: Arrays, emit: Emit, sampling: Sampling) -> None:
        """See `Task.answer`: logits [batch, labels], or embeddings [batch, width], for the client alone."""
        del engine, sampling
        read = self.model.classify if self.model.config.labels else self.model.embed
        emit(read(loaded, client, batch=self.batch, length=self.length))

    def values(self, texts: Sequence[Tokens]) -> Iterator[NDArray[np.generic]]:
        """Return what a client shares of up to `batch` texts.

        Raises:
            MpcError: `mpc.prompt-empty`; `mpc.no-tokenizer`: these are tokens of another model.
        """
        config = self.model.config
        for text in texts:
            check_tokens(text.ids, config.vocab_size)
            check_tokens(text.types or (0,), config.type_vocab_size)
        filled = [*texts, *[texts[0]] * (self.batch - len(texts))]
        types = [text.types or (0,) * len(text.ids) for text in filled]
        return self.model.prompts([text.ids for text in filled], self.length, types)

    def told(self, numbers: Real) -> dict[str, Any]:
        """Return what one text's numbers say: its class and all classes' scores, or its embedding."""
        config = self.model.config
        if not config.labels:
            return {"embedding": numbers.tolist()}
        names = [(config.id2label or {}).get(str(label), f"LABEL_{label}") for label in range(config.labels)]
        scores = dict(zip(names, _scores(numbers, config).tolist(), strict=True))
        return {"label": names[int(numbers.argmax())], "scores": scores}


def reading(folder: ShareFolder, prompt_tokens: Sequence[int], batch: int) -> Offer[BertWeights]:
    """Return the offer of reading texts of these lengths.

    Args:
        folder: Any side's.
        prompt_tokens: To how many tokens texts are padded.
        batch: How many texts a run reads.

    Raises:
        MpcError: `mpc.model-unsupported`: the model is not for texts as long as this; longer ones are left out.
    """
    config = parse_config(folder.config, BertConfig)
    model, longest = Bert(config), config.max_position_embeddings
    fit = [length for length in prompt_tokens if length <= longest]
    if not fit:
        raise MpcError("mpc.model-unsupported", f"the model has {longest} positions", hint="lower prompt_tokens")
    return folder.offer(model, tuple(Reading(model, length, batch) for length in fit))


def fitting_reading(offer: Offer[Any], length: int, texts: int) -> Reading:
    """Return the task for the shortest texts that takes so many, of which the longest has this length.

    Raises:
        MpcError: `mpc.prompt-too-long`; `mpc.not-offered`: no run reads so many.
    """
    tasks = [task for task in offer.tasks if isinstance(task, Reading) and task.batch >= texts]
    if not tasks:
        raise not_offered()
    fit = [task for task in tasks if task.length >= length]
    if not fit:
        raise MpcError(
            "mpc.prompt-too-long",
            f"the text has {length} tokens, and the parties take {max(task.length for task in tasks)}",
            hint="give a shorter one, or let all sides raise prompt_tokens",
        )
    return min(fit, key=lambda task: task.length)


def _scores(logits: Real, config: BertConfig) -> Real:
    """Return probabilities: of one class among all, of each by itself; or the number itself, of a regression."""
    if config.problem_type == "regression" or config.labels == 1:
        return logits
    if config.problem_type == "multi_label_classification":
        return np.asarray(1 / (1 + np.exp(-logits)))
    powers = np.exp(logits - logits.max())
    return np.asarray(powers / powers.sum())
