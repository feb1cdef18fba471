"""Masked messages, as their prover says them (docs/spec/proof-zk.md, "Masked messages").

- The prover goes the same way as in the succinct mode; every element of K that it says has a pad of its own.
- It commits to all pads before its first message. How many it will need it finds out by going the way without numbers.
- What is left to show follows from what was said: the prover hears itself as its verifier will.

Example:
    >>> prover = MaskedProver(statement)
    >>> ...  # the walk
    >>> prover.finish()
    >>> verify(statement, prover.proof)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from mitai.errors import ProofError
from mitai.proof import field
from mitai.proof.commitment import fold_claims
from mitai.proof.equations import Known
from mitai.proof.field import ZERO, Array, K, Point
from mitai.proof.hiding import HidingCommitment, commit_pads, prove_hidden
from mitai.proof.transcript import Prover, Verifier
from mitai.proof.verify.claims import Claim
from mitai.proof.verify.masked import COUNT_BYTES, Equations, MaskedTranscript, MaskedVerifier
from mitai.proof.verify.points import Axes
from mitai.proof.verify.program import MaskedChecking, hear
from mitai.proof.verify.statement import Statement


class MaskedProver(MaskedTranscript, Prover):
    """A prover of masked messages.

    Args:
        statement: What is proven.
    """

    def __init__(self, statement: Statement) -> None:
        super().__init__()
        self._statement = statement
        self._opened: list[HidingCommitment] = []
        self._spoken: list[K] = []
        self._drawn: list[K] = []
        count = _messages(statement)
        self.bind_mode(statement.uses)
        self.send_bytes("count", count.to_bytes(COUNT_BYTES, "little"))
        self._pads = commit_pads(self, count)
        self._unused = iter(field.elements(self._pads.values))

    def send_elements(self, label: str, *elements: K) -> None:
        """Say single elements of K, each plus a pad."""
        masked = [one + next(self._unused) for one in elements]
        self._spoken += masked
        super().send_elements(label, *masked)

    def challenges(self, label: str, count: int) -> list[K]:
        """Draw elements of K."""
        drawn = super().challenges(label, count)
        self._drawn += drawn
        return drawn

    def show_later(self, commitment: HidingCommitment, claims: Sequence[Claim], work: int) -> None:
        """Show true claims as far as rows go; what is left is shown at the end."""
        fold_claims(self, commitment.elements, claims, work)
        self._opened.append(commitment)

    def finish(self) -> None:
        """Show all that the verifier will have collected.

        Raises:
            ProofError: `proof.uses-spent`.
        """
        heard = _Heard(self._spoken, self._drawn)
        hear(self._statement, heard)
        equation, openings = heard.equations.combined(self.challenge("equations"))
        shown = [(own, replace(one, root=own.root)) for own, one in zip(self._opened, openings, strict=True)]
        prove_hidden(self, self._pads, equation, shown)


class _Heard(MaskedVerifier):
    """The verifier as it will be when it has heard these messages and drawn these challenges."""

    def __init__(self, said: Iterable[K], drawn: Iterable[K]) -> None:
        Verifier.__init__(self, b"")
        self.equations = Equations()
        self._said, self._drawn = iter(said), iter(drawn)

    def receive_elements(self, _label: str, count: int) -> list[K]:
        return [self.equations.message(next(self._said)) for _ in range(count)]

    def receive_bytes(self, _label: str, size: int) -> bytes:
        return bytes(size)

    def challenges(self, _label: str, count: int) -> list[K]:
        return [next(self._drawn) for _ in range(count)]

    def work(self, _bits: int) -> None:
        """Nothing: it was done."""

    def _step(self, _kind: int, _label: str, _data: bytes | memoryview) -> None:
        """Nothing: all is known that will be drawn."""


class _Counting(_Heard):
    """One that hears nothing but zeros, and counts them."""

    def __init__(self) -> None:
        super().__init__([], [])
        self.count = 0

    def receive_elements(self, _label: str, count: int) -> list[K]:
        self.count += count
        return [ZERO] * count

    def challenges(self, _label: str, count: int) -> list[K]:
        return [ZERO] * count

    def weighted(self, *_terms: tuple[K, K]) -> K:
        return ZERO

    def require_zero(self, value: K, error: ProofError) -> None:
        """Nothing: these are no numbers of a proof."""


class _Steps(MaskedChecking):
    """The verifier's steps, without what it computes of public arrays."""

    def compare(self, node: Known, axes: Axes, value: K) -> None:
        pass

    def compare_table(self, table: Array, point: Point, value: K) -> None:
        pass


def _messages(statement: Statement) -> int:
    """Return how many elements of K a proof says."""
    counting = _Counting()
    _Steps(statement, counting).run()
    return counting.count
