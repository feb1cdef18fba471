"""The identity by which proofs name what a job made: `[proof]` of a job file (docs/spec/training.md).

- It is computed where the model was made, before it is sealed, from memory: whoever prepares the model later, with
  `mitai proof prepare` as it is, gets the same.
- That a model can have one is found out before the training.

Example:
    >>> identity(outcome.files)
    '5f1c…'
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mitai.errors import TrainError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mitai.capsule import FileSource

BYPRODUCT = "proof-identity"  # in lineage


def require_provable(model: FileSource) -> None:
    """Refuse a model whose answers are not proven.

    Raises:
        TrainError: `train.not-provable`.
    """
    from mitai.errors import MitaiError
    from mitai.proof.card import decoder

    try:
        decoder(model.read("config.json"))
    except MitaiError as error:
        raise TrainError("train.not-provable", f"[proof] is not for this model: {error.message}") from None


def identity(files: Mapping[str, bytes]) -> str:
    """Return the identity of a whole model.

    Raises:
        MitaiError: Its tokenizer or its tensors are not usable.
    """
    from mitai.capsule import MemorySource
    from mitai.mpc.text import Text
    from mitai.proof.prepared import card_of
    from mitai.proof.texts import calibration
    from mitai.serve.prompts import load_tokenizer

    words = Text(load_tokenizer(MemorySource(files)), ())
    return card_of(files, calibration(words)).identity
