"""Proofs that a program gave its public results: `verify` (docs/spec/proof-statement.md).

The order of steps is in `walk`; this is what the verifier does at each of them.

Example:
    >>> security = verify(statement, proof)
    >>> security > 100  # or it would have been refused
    True
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from mitai.proof import field
from mitai.proof.equations import Joined, Known, Zero
from mitai.proof.field import Array, K, Point
from mitai.proof.transcript import HASH_BYTES, Verifier
from mitai.proof.verify import soundness
from mitai.proof.verify.claims import Claim, check_claims
from mitai.proof.verify.commitment import check_fold, check_openings, functional
from mitai.proof.verify.hiding import HidingShape, Opening
from mitai.proof.verify.lookups import check_lookups
from mitai.proof.verify.masked import MaskedVerifier
from mitai.proof.verify.points import Axes, mask_value, public_value
from mitai.proof.verify.soundness import LEAST_BITS, too_few
from mitai.proof.verify.statement import Statement
from mitai.proof.verify.sumcheck import check_product
from mitai.proof.verify.walk import Factor, Walk


def verify(statement: Statement, proof: bytes, least_bits: int = LEAST_BITS) -> float:
    """Check a proof; return b, if a false statement is accepted with a probability of 2^−b at most for each hash.

    Raises:
        ProofError: The first thing that does not hold; `proof.too-few-bits`: there are fewer than the least.
    """
    verifier = MaskedVerifier(proof, statement.uses) if statement.uses else Verifier(proof)
    hear(statement, verifier)
    verifier.finish()
    if verifier.error * (1 << least_bits) > 1:
        raise too_few(least_bits)
    return soundness.bits(verifier.error)


def hear(statement: Statement, verifier: Verifier) -> None:
    """Go all the way with a verifier, but for what is left to its end."""
    walk = MaskedChecking if isinstance(verifier, MaskedVerifier) else _Checking
    walk(statement, verifier).run()


class _Checking(Walk):
    """The verifier."""

    transcript: Verifier

    def add_error(self, error: Fraction) -> None:
        self.transcript.error += error

    def hints_root(self) -> bytes:
        self._hints = self.transcript.receive_bytes("hints", HASH_BYTES)
        return self._hints

    def lookups(self, nodes: Sequence[tuple[int, ...]], table: int) -> tuple[list[list[Claim]], Claim]:
        shapes = [self.plan.shape(first) for first, *_ in nodes]
        key = self.tables[table]
        return check_lookups(self.transcript, shapes, self.table(*key), self.sizes.before_lookups[key])

    def halves(self, _zero: Zero, _layer: int, point: Point, value: K) -> tuple[list[K], K, K]:
        return check_product(self.transcript, value, list(point))

    def said(self, asked: Sequence[tuple[int, Axes]]) -> list[K]:
        return self.transcript.receive_elements("values", len(asked))

    def shares(self, node: Joined, _rest: tuple[Axes, Axes], _weights: Array, _starts: Sequence[int]) -> list[K]:
        return self.transcript.receive_elements("shares", len(node.parts))

    def join(self, _number: int, claims: Sequence[Claim]) -> Claim:
        return check_claims(self.transcript, len(claims[0].point), claims)

    def product(self, _a: Factor | Array, _b: Factor, value: K, weights: Sequence[K | None]) -> tuple[list[K], K, K]:
        return check_product(self.transcript, value, weights)

    def blocks(self, _source: str, asked: Sequence[Claim]) -> list[K]:
        return self.transcript.receive_elements("blocks", len(asked))

    def compare(self, node: Known, axes: Axes, value: K) -> None:
        array = self.known[self.plan.results[node.operation]]
        if node.role == "result":
            own = public_value(array, axes)
        else:
            own = mask_value(array, axes, node.shape[-1], before=node.role == "before")
        self.require_zero(value - own, "public")

    def compare_table(self, table: Array, point: Point, value: K) -> None:
        self.require_zero(value - field.evaluate(table, point), "public")

    def opened(self, source: str, claims: Sequence[Claim], log: int) -> None:
        check_openings(self.transcript, self.root(source), log, claims, self.sizes.before_openings[source])

    def root(self, source: str) -> bytes:
        return self._hints if source == "hint" else self.roots[source]


class MaskedChecking(_Checking):
    """The verifier of masked messages."""

    transcript: MaskedVerifier

    def opened(self, source: str, claims: Sequence[Claim], log: int) -> None:
        """Check claims as far as rows go; the rest is an equation."""
        uses, work = self.statement.uses_of(source), self.sizes.before_openings[source]
        positions = HidingShape.of(log, uses).positions
        rows, left, factors = check_fold(self.transcript, log, positions, claims, work)

        def times(by: K) -> Opening:
            weights = functional(claims, [by * factor for factor in factors], log, positions)
            return Opening(self.root(source), log, uses, rows, weights, work)

        self.transcript.equations.require_opened(left, times)
