"""What prover and verifier have said so far, and the challenges that follow from it (docs/spec/proof.md, "Transcript").

- Both sides make the same calls in the same order, `send` on one side where `receive` is on the other.
- A proof is the messages and nothing else; the verifier alone decides how long each of them is.
- Every byte of a proof is in the state, before anything is drawn after it.
- Work is of the state as it is then: none of it can be done before, or for another proof.

Example:
    >>> prover = Prover()
    >>> prover.bind("input", b"public")
    >>> prover.send("answer", np.array([42], np.uint64))
    >>> verifier = Verifier(prover.proof)
    >>> verifier.bind("input", b"public")
    >>> int(verifier.receive("answer", 1)[0]), verifier.challenge("x") == prover.challenge("x")
    (42, True)
    >>> verifier.finish()
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from hashlib import sha256, shake_256
from itertools import count as integers

import numpy as np

from mitai.errors import ProofError
from mitai.proof import field
from mitai.proof.field import ZERO, Array, K, P

START = sha256(b"mitai proof transcript v1\x00").digest()
CHALLENGES = b"mitai proof challenges v1\x00"
WORK = b"mitai proof work v1\x00"
INPUT, MESSAGE, CHALLENGE = range(3)
HASH_BYTES = 32
NONCE_BYTES = 8


class Transcript:
    """The state that both sides share."""

    def __init__(self) -> None:
        self._state = START

    def bind(self, label: str, data: bytes) -> None:
        """Take in what both sides know: sizes, digests, roots, public numbers."""
        self._step(INPUT, label, data)

    def bind_elements(self, label: str, *elements: K) -> None:
        """Take in elements of K."""
        self.bind(label, b"".join([part.to_bytes(8, "little") for one in elements for part in (one.a, one.b)]))

    def bind_claim(self, value: K, point: Iterable[K]) -> None:
        """Take in a claim, before anything is drawn that depends on it."""
        self.bind_elements("claim", value, *point)

    def weighted(self, *terms: tuple[K, K]) -> K:
        """Return the sum of factors times numbers that were said."""
        out = ZERO
        for factor, number in terms:
            out = out + factor * number
        return out

    def require_zero(self, value: K, error: ProofError) -> None:
        """Refuse what the prover said unless this is zero."""
        if value != ZERO:
            raise error

    def require_not_zero(self, value: K, error: ProofError) -> None:
        """Refuse what the prover said if this is zero."""
        if value == ZERO:
            raise error

    def challenge(self, label: str) -> K:
        """Draw one element of K."""
        return self.challenges(label, 1)[0]

    def challenges(self, label: str, count: int) -> list[K]:
        """Draw elements of K."""
        data = self._draw(label, count, 32)
        parts = [int.from_bytes(data[at : at + 16], "little") % P for at in range(0, len(data), 16)]
        return [K(a, b) for a, b in zip(parts[::2], parts[1::2], strict=True)]

    def places(self, label: str, count: int, log: int) -> list[int]:
        """Draw `count` numbers below 2^log; return the different ones, in order."""
        data = self._draw(label, count, 8)
        return sorted({int.from_bytes(data[at : at + 8], "little") % (1 << log) for at in range(0, len(data), 8)})

    def _draw(self, label: str, count: int, size: int) -> bytes:
        self._step(CHALLENGE, label, count.to_bytes(8, "little"))
        return shake_256(CHALLENGES + self._state).digest(count * size)

    def _step(self, kind: int, label: str, data: bytes | memoryview) -> None:
        name = label.encode()
        head = self._state + bytes([kind, len(name)]) + name + len(data).to_bytes(8, "little")
        state = sha256(head)
        state.update(data)
        self._state = state.digest()


class Prover(Transcript):
    """The side that speaks."""

    def __init__(self) -> None:
        super().__init__()
        self._said: list[bytes] = []

    @property
    def proof(self) -> bytes:
        """All messages so far."""
        return b"".join(self._said)

    def send(self, label: str, words: Array) -> None:
        """Say elements of F, or of K with a last axis of 2."""
        self.send_bytes(label, words.astype("<u8", copy=False).tobytes())

    def send_elements(self, label: str, *elements: K) -> None:
        """Say single elements of K."""
        self.send(label, field.array(elements))

    def send_bytes(self, label: str, data: bytes) -> None:
        """Say bytes, which are hashes."""
        self._step(MESSAGE, label, data)
        self._said.append(data)

    def work(self, bits: int) -> None:
        """Do so many bits of work, and say its nonce; nothing for none."""
        if bits:
            nonces = (number.to_bytes(NONCE_BYTES, "little") for number in integers())
            self.send_bytes("work", next(nonce for nonce in nonces if worked(self._state, nonce, bits)))

    def finish(self) -> None:
        """End the proof: all is said."""


class Verifier(Transcript):
    """The side that listens, and adds up how likely it is to be deceived.

    Attributes:
        error: the sum of the errors of all checks so far (docs/spec/proof.md, "Soundness").
    """

    def __init__(self, proof: bytes) -> None:
        super().__init__()
        self._proof = memoryview(proof)
        self._at = 0
        self.error = Fraction(0)

    def receive(self, label: str, count: int) -> Array:
        """Hear elements of F (count,)."""
        words = np.frombuffer(self.receive_bytes(label, count * 8), "<u8").astype(np.uint64, copy=False)
        if not field.is_canonical(words):
            raise ProofError("proof.malformed", f"a number of {label!r} is not below the field's size", step=label)
        return words

    def receive_k(self, label: str, count: int) -> Array:
        """Hear elements of K (count, 2)."""
        return self.receive(label, count * 2).reshape(count, 2)

    def receive_elements(self, label: str, count: int) -> list[K]:
        """Hear single elements of K."""
        return field.elements(self.receive_k(label, count))

    def receive_bytes(self, label: str, size: int) -> bytes:
        """Hear bytes, which are hashes."""
        end = self._at + size
        if end > len(self._proof):
            raise ProofError("proof.malformed", f"the proof ends within {label!r}", step=label)
        data = bytes(self._proof[self._at : end])
        self._step(MESSAGE, label, data)
        self._at = end
        return data

    def work(self, bits: int) -> None:
        """Hear that so many bits of work were done; nothing for none."""
        if bits:
            before = self._state
            if not worked(before, self.receive_bytes("work", NONCE_BYTES), bits):
                raise ProofError("proof.work-refuted", "the work before a challenge was not done", step="work")

    def finish(self) -> None:
        """End the proof: nothing may be left over."""
        if self._at != len(self._proof):
            raise ProofError("proof.malformed", f"{len(self._proof) - self._at} bytes follow the proof", step="end")


def worked(state: bytes, nonce: bytes, bits: int) -> bool:
    """Return whether a nonce is so many bits of work on a state: its hash begins with as many zeros."""
    return int.from_bytes(sha256(WORK + state + nonce).digest(), "big") >> 8 * HASH_BYTES - bits == 0
