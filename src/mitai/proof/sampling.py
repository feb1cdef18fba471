"""Sampling that can be proven: tokens drawn with a randomness that neither side chose.

Follows `docs/spec/proof-answer.md`, "Sampling". The largest of logits + temperature · noise is a draw from the softmax
of logits / temperature if the noise has Gumbel's distribution. The noise is public: everybody computes it from a
server's seed and a client's nonce, to the last bit.

- The server says the commitment to a fresh seed before it sees prompt and nonce, and the seed with the answer. One seed
  is for one answer: from the second one on a client could choose its nonce for the draw that it likes.
- Whoever checks an answer says which temperature, nonce and commitment were agreed on.

Example:
    >>> seed = secrets.token_bytes(SEED_BYTES)
    >>> promised = commitment(seed)  # to the client, which then sends its prompt and nonce
    >>> noise = Sampling(temperature=800, seed=seed, nonce=nonce).noise(card.identity, prompt, vocabulary=50257)
    >>> noise.rows(0, 2).shape
    (2, 50257)
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec
import numpy as np

from mitai.errors import ProofError
from mitai.mpc import reproducible
from mitai.proof.operation import Ints

SEED_LABEL = b"mitai proof seed v1\0"
SAMPLING_LABEL = b"mitai proof sampling v1\0"
NOISE_LABEL = b"mitai proof noise v1\0"
SEED_BYTES = 32
MOST_TEMPERATURE = 2000  # in thousandths, like all temperatures here
NOISE_FRACTION = 20
NOISE_BITS = 28  # no noise is above 36.8, times 2
MOST_NOISE = 1 << 25
_WORD_BYTES = 8
_CUT = np.uint64(12)  # 52 bits are left, so that odd multiples of 2^-53 are floating-point numbers

Temperature = Annotated[int, msgspec.Meta(ge=1, le=MOST_TEMPERATURE)]
Bytes32 = Annotated[bytes, msgspec.Meta(min_length=SEED_BYTES, max_length=SEED_BYTES)]


def commitment(seed: bytes) -> str:
    """Return what a server says of its seed before it sees a prompt, in hex."""
    return hashlib.sha256(SEED_LABEL + seed).hexdigest()


class Sampling(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How an answer was drawn.

    Attributes:
        temperature: In thousandths.
        seed: The server's, that it was committed to; a secret until the answer is there.
        nonce: The client's, that it chose after it had the commitment.
    """

    temperature: Temperature
    seed: Bytes32
    nonce: Bytes32

    def __repr__(self) -> str:
        """Return it without the seed."""
        return f"Sampling(temperature={self.temperature})"

    def noise(self, model: str, prompt: Sequence[int], vocabulary: int) -> Noise:
        """Return the noise for an answer to a prompt, by a model of this identity."""
        parts = (
            bytes.fromhex(model),
            self.temperature.to_bytes(_WORD_BYTES, "little"),
            self.seed,
            self.nonce,
            *(token.to_bytes(_WORD_BYTES, "little") for token in prompt),
        )
        return Noise(hashlib.sha256(SAMPLING_LABEL + b"".join(parts)).digest(), self.temperature, vocabulary)


@dataclass(frozen=True)
class Agreed:
    """What a client knows of how its answer was to be drawn.

    Attributes:
        temperature: In thousandths.
        nonce: Its own; None if somebody else's answer is checked.
        commitment: The server's, from before the prompt was sent; None as above.
    """

    temperature: int
    nonce: bytes | None = None
    commitment: str | None = None

    def require(self, sampling: Sampling) -> None:
        """Refuse an answer that was drawn otherwise.

        Raises:
            ProofError: `proof.sampling-differs`.
        """
        for what, found, wanted in (
            ("temperature", sampling.temperature, self.temperature),
            ("nonce", sampling.nonce, self.nonce),
            ("commitment to the seed", commitment(sampling.seed), self.commitment),
        ):
            if wanted is not None and found != wanted:
                raise differs(f"the answer was drawn with another {what} than agreed")


def differs(message: str) -> ProofError:
    """Return the error of an answer that was chosen in another way than agreed."""
    return ProofError(
        "proof.sampling-differs",
        message,
        step="sampling",
        hint="give the temperature, nonce and commitment that you and the server agreed on",
    )


@dataclass(frozen=True, repr=False)
class Noise:
    """Noise for each place of an answer and each token, as integers with `NOISE_FRACTION` bits of fraction."""

    key: bytes
    temperature: int
    vocabulary: int

    def rows(self, start: int, end: int) -> Ints:
        """Return the noise for these places of the answer, [end − start, vocabulary].

        Raises:
            ProofError: `proof.statement-invalid`: these are more numbers than anybody should have to make.
        """
        if (end - start) * self.vocabulary > MOST_NOISE:
            raise ProofError("proof.statement-invalid", "the answer is too long to be drawn, for so many tokens")
        return np.stack([self._row(place) for place in range(start, end)])

    def _row(self, place: int) -> Ints:
        stream = hashlib.shake_256(NOISE_LABEL + self.key + place.to_bytes(_WORD_BYTES, "little"))
        words = np.frombuffer(stream.digest(_WORD_BYTES * self.vocabulary), "<u8") >> _CUT
        uniform = (2 * words + 1).astype(np.float64) * 2.0**-53
        gumbel = -reproducible.log(-reproducible.log(uniform))
        whole: Ints = np.rint(gumbel * (self.temperature * 2**NOISE_FRACTION / 1000)).astype(np.int64)
        return whole
