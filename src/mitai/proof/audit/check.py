"""The auditor's half: which steps to ask for, and whether each follows from those that it takes (docs/spec/audit.md).

- A challenge is drawn by the auditor, after it has the root.
- The stream is read step by step; no more of it is in memory than what later steps of the challenge take.
- How much is read follows from program and challenge, never from the stream.
- Whether the prover is to blame is known at the end only: if the stream is not what is behind the root, it is not.

Example:
    >>> auditor = Auditor(committed, key)
    >>> challenge = draw(auditor.plan, 20)
    >>> auditor.check(challenge, stream)
    Report(steps=134, checked=20, caught=0.149…, bits=107.5, size_bytes=1883412)
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from hashlib import sha256
from math import comb
from typing import BinaryIO

import numpy as np

from mitai.errors import ProofError
from mitai.proof.answer import claimed
from mitai.proof.audit import freivalds, tree
from mitai.proof.audit.files import MAGIC, Challenge, Committed, asked, root_of
from mitai.proof.audit.key import AuditKey, Keyed
from mitai.proof.audit.numbers import PIECE, numbers, width
from mitai.proof.audit.plan import Plan, Product
from mitai.proof.operation import Ints
from mitai.proof.operations import Input, Weight
from mitai.proof.sampling import Agreed
from mitai.proof.verify.soundness import LEAST_BITS, too_few
from mitai.proof.verify.statement import Statement

AUDITS = 1 << 16  # with one key, for which `bits` holds


@dataclass(frozen=True)
class Report:
    """What an audit that found nothing wrong says.

    Attributes:
        steps: How many the answer's trace has.
        checked: How many of them were checked.
        caught: How likely a single false step would have been among them.
        bits: Of security, against all that is not left to that.
        size_bytes: Of the stream.
    """

    steps: int
    checked: int
    caught: float
    bits: float
    size_bytes: int


class Auditor:
    """An audit of one answer.

    Args:
        committed: The answer, with the root that its server signed.
        key: Of the model that it has to be of.
        agreed: How it was to be drawn; None if its tokens have to be the likeliest.

    Raises:
        ProofError: The answer is of another model, or was chosen otherwise, or the key is not for it.
    """

    def __init__(self, committed: Committed, key: AuditKey, agreed: Agreed | None = None) -> None:
        self.claim = claimed(committed.unproven, key.model, agreed)
        self.plan = Plan.of(self.claim.program)
        self._keyed = Keyed(key, self.plan)
        self._committed = committed

    def check(self, challenge: Challenge | None, stream: BinaryIO, least_bits: int = LEAST_BITS) -> Report:
        """Check what a prover sent, for a challenge or for none, which is of all steps.

        1. The challenge is of this answer's steps, and of no more than the key has bits of security for.
        2. Of each step that is shown, the numbers are in their range; the last ones are the answer.
        3. Each step of the challenge follows from those that it takes.
        4. The hashes that are left lead to the root, and nothing follows.

        Raises:
            ProofError: `proof.trace-malformed`: the stream ends too early, or too late. `proof.trace-refuted`: it is
                not what is behind the root. `proof.step-refuted`, `proof.weights-refuted`: what is behind the root is
                false; `step` says where. `proof.too-few-bits`.
        """
        # 1. the challenge
        places = asked(challenge, len(self.plan.steps))
        products = sum(self.plan.steps[place] in self.plan.products for place in places)
        bits = freivalds.bits(max(products, 1), AUDITS)
        if bits < least_bits:
            raise too_few(least_bits)
        heard = _Stream(stream)
        if heard.read(len(MAGIC)) != MAGIC:
            raise ProofError("proof.trace-malformed", "this is no trace", step="stream")
        # 2. and 3. the steps
        steps = _Steps(self.claim, self.plan, self._keyed, places)
        leaves = {place: steps.hear(place, heard) for place in sorted(self.plan.shown(places))}
        # 4. the root
        top = tree.climb(leaves, len(self.plan.steps), heard.hashes())
        heard.finish()
        if root_of(self.claim, self._committed.salt, top) != self._committed.root:
            raise ProofError("proof.trace-refuted", "the trace is not the one behind the root", step="root")
        if steps.failure:
            raise steps.failure
        total, checked = len(self.plan.steps), len(places)
        return Report(total, checked, float(caught(total, checked)), bits, heard.size)


def plan_of(committed: Committed, model: str) -> Plan:
    """Return the steps of an answer of the model of this identity, however it was drawn.

    Raises:
        ProofError: `proof.model-differs`: it is another model's.
    """
    agreed = Agreed(committed.sampling.temperature) if committed.sampling else None
    return Plan.of(claimed(committed.unproven, model, agreed).program)


def draw(plan: Plan, count: int) -> Challenge:
    """Draw a challenge of so many steps, or of all if there are no more."""
    places = range(len(plan.steps))
    return Challenge(steps=tuple(sorted(secrets.SystemRandom().sample(places, min(count, len(places))))))


def caught(steps: int, checked: int, false: int = 1) -> Fraction:
    """Return how likely at least one of the false steps is among those that are checked."""
    return 1 - Fraction(comb(steps - false, checked), comb(steps, checked))


class _Stream:
    """Bytes of a stranger, as many as are asked for and no more."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.size = 0

    def read(self, size: int) -> bytes:
        parts, left = list[bytes](), size
        while left:
            part = self._stream.read(left)
            if not part:
                raise ProofError("proof.trace-malformed", "the stream ends too early", step="stream")
            parts.append(part)
            left -= len(part)
        self.size += size
        return b"".join(parts)

    def hashes(self) -> Iterator[bytes]:
        while True:
            yield self.read(tree.HASH_BYTES)

    def finish(self) -> None:
        if self._stream.read(1):
            raise ProofError("proof.trace-malformed", "the stream goes on after its end", step="stream")


class _Steps:
    """The steps that are shown, in their order."""

    def __init__(self, claim: Statement, plan: Plan, keyed: Keyed, places: Sequence[int]) -> None:
        self._claim, self._plan, self._keyed = claim, plan, keyed
        self._asked = {plan.steps[place] for place in places}
        self._last = {taken: step for step in sorted(self._asked) for taken in (*plan.takes[step], step)}
        self._results: dict[int, Ints] = {}
        self._computed: dict[int, Ints] = {}  # for the step that is checked
        self.failure: ProofError | None = None

    def hear(self, place: int, stream: _Stream) -> bytes:
        """Read a step and check it, unless something failed before; return its leaf."""
        step = self._plan.steps[place]
        value, hashed = self._plan.value(step), sha256(tree.LEAF)

        def pieces() -> Iterator[bytes]:
            for at in range(0, value.size, PIECE):
                piece = stream.read(min(PIECE, value.size - at) * width(value))
                hashed.update(piece)
                yield piece

        result = numbers(pieces(), value)
        if self.failure is None:
            try:
                self._check(step, result)
            except ProofError as error:
                self.failure = error
                self._results.clear()
        return hashed.digest()

    def _check(self, step: int, result: Ints) -> None:
        value = self._plan.value(step)
        if result.min() < value.low or result.max() > value.high:
            raise self._refuted(step, "has numbers outside of its range")
        if step in self._claim.choices and not np.array_equal(result, self._claim.choices[step]):
            raise self._refuted(step, "is not the answer")
        self._results[step] = result
        if step in self._asked:
            self._follows(step)
        for taken in (*self._plan.takes[step], step):
            if self._last.get(taken) == step:
                del self._results[taken]

    def _follows(self, step: int) -> None:
        """Refuse a step that does not follow from those that it takes."""
        product = self._plan.products.get(step)
        self._computed.clear()
        try:
            if product is None:
                holds = np.array_equal(self._results[step], self._compute(step))
            else:
                holds = self._holds(product, self._results[step], self._value(product.operand))
        except ProofError:
            raise self._refuted(step, "takes numbers that are beyond its range") from None
        if holds:
            return
        if product is None:
            raise self._refuted(step, "does not follow from those before")
        name = self._plan.name(step)
        raise ProofError("proof.weights-refuted", f"step {name} is no product with the model's weights", step=name)

    def _holds(self, product: Product, result: Ints, operand: Ints) -> bool:
        projection = self._keyed.projection(product)
        expected = projection[operand] if product.rows else freivalds.product(operand, projection, product.sums)
        return np.array_equal(freivalds.applied(result, self._keyed.vector), expected)

    def _value(self, number: int) -> Ints:
        """Return an operation's result: a step's as it was shown, all else computed."""
        if number in self._plan.places:
            return self._results[number]
        if number not in self._computed:
            self._computed[number] = self._compute(number)
        return self._computed[number]

    def _compute(self, number: int) -> Ints:
        operation = self._plan.program.operations[number]
        match operation:
            case Input():
                return self._claim.inputs[operation.name]
            case Weight():
                return self._keyed.plain[operation.name]
            case _:
                return operation.execute(*(self._value(operand) for operand in operation.operands))

    def _refuted(self, step: int, what: str) -> ProofError:
        name = self._plan.name(step)
        return ProofError("proof.step-refuted", f"step {name} {what}", step=name)
