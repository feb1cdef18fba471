"""Fingerprints of activations: who has the same weights can check with which ones an answer was computed.

A scheme of the kind of TOPLOC (Ong et al., "TOPLOC: A Locality Sensitive Hashing Scheme for Trustless Verifiable
Inference", 2025); `docs/spec/fingerprint.md` has format, comparison and thresholds. Of each block of up to 32 tokens,
the 128 largest numbers of the last hidden states (those that each token was chosen from) are kept as a polynomial
modulo 65521 through the points (place, number as bfloat16). The largest numbers survive rounding and other orders of
summation; who computes them again evaluates the polynomial at its own places, and other weights, prompts or
precisions give other numbers there.

Invariants:

- A file has one encoding, begins with random bytes, and is bounded; its digest says nothing without them.
- The verifier's places are its own; nothing of the file but the polynomial and the answer's tokens is believed.
- What is allowed follows from the precision that was promised, never from the file.

Example:
    >>> rows = np.arange(512, dtype=np.uint16).reshape(2, 256)  # two tokens, bits of bfloat16
    >>> compare(encode(rows), rows)
    Likeness(far=0.0, distance=0.0)
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from mitai.errors import ParseError, ServeError
from mitai.ledger.assurance import Fingerprint

LABEL: Final = "mitai fingerprints v1"
BLOCK_TOKENS = 32
TOP_K = 128
PRIME = 65521  # the largest below 2^16: all numbers of bfloat16 but some that are none
MAX_FILE_BYTES = 16 << 20
_LEAST_MODULUS = 1 << 15
_FAR = 128  # steps of bfloat16: a factor of two

Bits = NDArray[np.uint16]
Numbers = NDArray[np.int64]


class Choice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One answer: its tokens, and one fingerprint for each 32 of them."""

    tokens: Annotated[tuple[Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)], ...], msgspec.Meta(min_length=1)]
    blocks: tuple[bytes, ...]

    def __post_init__(self) -> None:
        if len(self.blocks) != -(-len(self.tokens) // BLOCK_TOKENS):
            raise ValueError("there is one fingerprint for each block of tokens")


class Fingerprints(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The fingerprints of all choices of one answer."""

    v: Literal["mitai fingerprints v1"] = LABEL
    blind: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    choices: Annotated[tuple[Choice, ...], msgspec.Meta(min_length=1, max_length=1024)]

    @classmethod
    def of(cls, choices: Sequence[Choice]) -> Fingerprints:
        """Return fingerprints with random bytes of their own."""
        return cls(blind=secrets.token_bytes(32), choices=tuple(choices))

    def encode(self) -> bytes:
        """Return the file."""
        return msgspec.msgpack.encode(self)

    @staticmethod
    def decode(data: bytes) -> Fingerprints:
        """Parse a file; raise `ParseError` on anything but its one encoding, or above 16 MiB."""
        try:
            if len(data) > MAX_FILE_BYTES:
                raise ValueError("too large")
            fingerprints = msgspec.msgpack.decode(data, type=Fingerprints)
            if fingerprints.encode() != data:
                raise ValueError("another encoding")
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise ParseError(
                "serve.fingerprints-malformed", "these bytes are no fingerprints of this version"
            ) from error
        return fingerprints


def assurance(file: bytes) -> Fingerprint:
    """Return what a receipt says of a file."""
    return Fingerprint(digest=sha256(file).hexdigest(), block_tokens=BLOCK_TOKENS, top_k=TOP_K)


# ---------------------------------------------------------------------- one block


def encode(rows: Bits) -> bytes:
    """Return the fingerprint of a block: a modulus and the polynomial's coefficients, 2 bytes each.

    Args:
        rows: (tokens, hidden), bits of bfloat16.
    """
    places = largest(rows)
    modulus = _modulus(places)
    numbers = np.minimum(rows.reshape(-1)[places], PRIME - 1).astype(np.int64)
    return np.array([modulus, *_interpolate(places % modulus, numbers)], dtype="<u2").tobytes()


def largest(rows: Bits) -> Numbers:
    """Return the places of the largest magnitudes, the first of equals before others: up to 128."""
    magnitudes = (rows.reshape(-1) & 0x7FFF).astype(np.int64)
    keys = (magnitudes << 32) - np.arange(len(magnitudes))
    count = min(TOP_K, len(keys))
    return np.argpartition(keys, len(keys) - count)[len(keys) - count :]


@dataclass(frozen=True)
class Likeness:
    """How far two computations of one block are from each other.

    Attributes:
        far: Share of the verifier's largest numbers that the fingerprint has not, or with another sign or magnitude.
        distance: Mean distance of the others, in steps of bfloat16.
    """

    far: float
    distance: float


def compare(fingerprint: bytes, rows: Bits) -> Likeness:
    """Compare a fingerprint with the hidden states that the verifier has computed.

    Args:
        fingerprint: What the service says.
        rows: (tokens, hidden), bits of bfloat16.

    Raises:
        ParseError: The fingerprint does not have the form of one of so many numbers.
    """
    places = largest(rows)
    if len(fingerprint) != 2 * (1 + len(places)):
        raise ParseError("serve.fingerprints-malformed", "a fingerprint has another length than its block demands")
    said: Numbers = np.frombuffer(fingerprint, dtype="<u2").astype(np.int64)
    if not _LEAST_MODULUS < said[0] <= PRIME or said[1:].max() >= PRIME:
        raise ParseError("serve.fingerprints-malformed", "a fingerprint is no polynomial modulo its prime")
    found = _evaluate(said[1:], places % said[0])
    distances = np.abs(_ordinal(found) - _ordinal(rows.reshape(-1)[places].astype(np.int64)))
    near = distances[distances < _FAR]
    return Likeness(1 - len(near) / len(places), float(near.mean()) if len(near) else float(_FAR))


def _ordinal(bits: Numbers) -> Numbers:
    """Return numbers of which neighbours are neighbours in bfloat16, across exponents and signs."""
    magnitude = bits & 0x7FFF
    return np.where(bits & 0x8000, -magnitude, magnitude)


def _modulus(places: Numbers) -> int:
    """Return the largest modulus up to the prime that keeps all places apart."""
    for modulus in range(PRIME, _LEAST_MODULUS, -1):
        if len(np.unique(places % modulus)) == len(places):
            return modulus
    raise ServeError("serve.fingerprint-impossible", "no modulus keeps the places of a block apart")


def _interpolate(x: Numbers, y: Numbers) -> Numbers:
    """Return the coefficients, lowest first, of the polynomial through (x, y) modulo the prime (Lagrange)."""
    count = len(x)
    whole = np.zeros(count + 1, dtype=np.int64)  # the product of all X - x_i, lowest first
    whole[0] = 1
    for degree, root in enumerate((PRIME - x).tolist()):
        upper = whole[: degree + 1].copy()
        whole[: degree + 1] *= root
        whole[1 : degree + 2] += upper
        whole %= PRIME
    parts = np.empty((count, count), dtype=np.int64)  # row k: coefficient k of whole / (X - x_i), for each i
    parts[-1] = 1
    for k in range(count - 2, -1, -1):
        parts[k] = (whole[k + 1] + x * parts[k + 1]) % PRIME
    slopes = _horner(parts, x)
    coefficients: Numbers = (parts * (y * _inverse(slopes) % PRIME) % PRIME).sum(axis=1) % PRIME
    return coefficients


def _evaluate(coefficients: Numbers, x: Numbers) -> Numbers:
    return _horner(coefficients[:, None], x)


def _horner(coefficients: Numbers, x: Numbers) -> Numbers:
    """Evaluate polynomials (degree, points or 1) at points."""
    value = np.zeros_like(x)
    for row in coefficients[::-1]:
        value = (value * x + row) % PRIME
    return value


def _inverse(value: Numbers) -> Numbers:
    """Return value^(p - 2) modulo the prime."""
    result = np.ones_like(value)
    for bit in f"{PRIME - 2:b}":
        result = result * result % PRIME
        if bit == "1":
            result = result * value % PRIME
    return result


# ---------------------------------------------------------------------- an answer


@dataclass(frozen=True)
class Allowed:
    """How far honest computations of a precision may be from each other; measured, see `docs/spec/fingerprint.md`."""

    far: float
    distance: float


ALLOWED: Final = {
    "float32": Allowed(far=0.03, distance=0.05),
    "bfloat16": Allowed(far=0.1, distance=2.0),
}


def check_blocks(choice: Choice, rows: Bits, allowed: Allowed) -> list[Likeness]:
    """Compare all blocks of one answer.

    Args:
        choice: What the service says.
        rows: (tokens of the answer, hidden): the verifier's hidden states that each token was chosen from.
        allowed: By the precision that was promised.

    Raises:
        ServeError: A block is too far away (`serve.fingerprint-differs`).
        ParseError: A fingerprint is malformed.
    """
    found = []
    for number, fingerprint in enumerate(choice.blocks):
        at = number * BLOCK_TOKENS
        likeness = compare(fingerprint, rows[at : at + BLOCK_TOKENS])
        if likeness.far > allowed.far or likeness.distance > allowed.distance:
            raise ServeError(
                "serve.fingerprint-differs",
                f"block {number}: {likeness.far:.1%} of its numbers are others (allowed {allowed.far:.1%}), the rest"
                f" {likeness.distance:.3f} steps away (allowed {allowed.distance:g})",
                hint="another model, prompt, answer or precision than was promised",
                step="fingerprint",
            )
        found.append(likeness)
    return found
