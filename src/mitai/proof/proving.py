"""The prover: a program is run, and its results are proven (docs/spec/proof-statement.md).

Goes the same way as the verifier (`verify.walk.Walk`) and says at each step what the verifier hears there.

Example:
    >>> weights = commit_weights(program, arrays)
    >>> proof = prove(program, {"tokens": tokens}, weights)
    >>> verify(proof.statement, proof.messages) > 100
    True
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from mitai.errors import ProofError
from mitai.proof import field, kernels
from mitai.proof.arrays import Arrays
from mitai.proof.claims import prove_claims
from mitai.proof.commitment import Commitment, commit, open_claims
from mitai.proof.elements import Elements, placed
from mitai.proof.equations import (
    Joined,
    Known,
    Zero,
)
from mitai.proof.field import Array, K, Point
from mitai.proof.hiding import HidingCommitment, commit_hiding
from mitai.proof.lookups import Column, count, prove_lookups
from mitai.proof.lowering import lower
from mitai.proof.masked import MaskedProver
from mitai.proof.operation import Ints
from mitai.proof.operations import Argmax
from mitai.proof.program import Program, Run
from mitai.proof.sumcheck import prove_product
from mitai.proof.transcript import Prover
from mitai.proof.verify.claims import Claim
from mitai.proof.verify.layout import Layout
from mitai.proof.verify.lookups import logs
from mitai.proof.verify.points import Axes, padded
from mitai.proof.verify.sizes import Sizes
from mitai.proof.verify.statement import HIDDEN_USES, Statement
from mitai.proof.verify.walk import Factor, Walk

AnyCommitment = Commitment | HidingCommitment


@dataclass(frozen=True)
class Weights:
    """A model's weights, and the commitment to all of them: its root is the model's identity.

    Attributes:
        arrays: By name.
        commitment: None of a program that has no weights.
        uses: How many proofs may hide these weights, and all that is not public; 0 if proofs are succinct ones.
    """

    arrays: Mapping[str, Ints]
    commitment: AnyCommitment | None
    uses: int = 0

    @property
    def root(self) -> bytes | None:
        """The root; None of a program that has no weights."""
        return self.commitment.root if self.commitment else None

    @property
    def left(self) -> int | None:
        """How many more proofs hide them; None where that is not counted, as proofs are succinct ones."""
        return self.commitment.left if isinstance(self.commitment, HidingCommitment) else None


def commit_weights(program: Program, arrays: Mapping[str, Ints], uses: int = 0) -> Weights:
    """Commit to weights, once for all proofs of programs that have the same ones in the same order.

    Args:
        program: One of them.
        arrays: The weights by name.
        uses: How many proofs there may be, which hide weights and numbers; 0 for any number of succinct ones.
    """
    return Weights(arrays, commit_arrays([arrays[name] for name in program.weights], uses), uses)


def commit_arrays(arrays: Sequence[Ints], uses: int = 0) -> AnyCommitment | None:
    """Commit to arrays together, the largest first; None if there are none. With `uses`, they are hidden."""
    return _commit(placed(arrays, Layout.of([array.shape for array in arrays])), uses) if arrays else None


def _commit(elements: Elements, uses: int) -> AnyCommitment:
    return commit_hiding(elements, uses) if uses else commit(elements)


@dataclass(frozen=True)
class Proof:
    """What is proven, the proof, and the commitment to results that are not public, for a later program's inputs."""

    statement: Statement
    messages: bytes
    kept: AnyCommitment | None
    run: Run


def prove(
    program: Program,
    inputs: Mapping[str, Ints],
    weights: Weights,
    given: AnyCommitment | None = None,
    wanted: Mapping[str, Ints] | None = None,
) -> Proof:
    """Run a program, and prove what came out; where weights are hidden, the proof hides all that is not public.

    Args:
        program: Which.
        inputs: All inputs by name, those that are not public, too.
        weights: The model's.
        given: The commitment to inputs that are not public, such as an earlier proof's `kept`; made here by default.
        wanted: Results that have to come out, by name; none by default.

    Raises:
        ProofError: Inputs do not fit, or numbers leave their range, or `proof.answer-differs`: other results come out;
            nothing is proven then, and no use of what hides weights is spent. `proof.uses-spent`. Before anything is
            computed, `proof.too-few-bits` or `proof.statement-invalid`: the program is too large.
    """
    for commitment in (weights.commitment, given):
        if isinstance(commitment, HidingCommitment):
            commitment.require_left()
    Sizes.of(lower(program), weights.uses)
    run = program.run(inputs, weights.arrays)
    if any(not np.array_equal(run.outputs[name], array) for name, array in (wanted or {}).items()):
        raise ProofError("proof.answer-differs", "the model gives another answer, so this one can't be proven")
    private = [inputs[name] for name, entry in program.inputs.items() if not entry.public]
    results = [run.outputs[output.name] for output in program.outputs if not output.public]
    commitments = {
        "weight": weights.commitment,
        "input": given or commit_arrays(private, HIDDEN_USES["input"] if weights.uses else 0),
        "result": commit_arrays(results, HIDDEN_USES["result"] if weights.uses else 0),
    }
    held = {source: one for source, one in commitments.items() if one is not None}
    if any(isinstance(one, HidingCommitment) != bool(weights.uses) for one in held.values()):
        raise ProofError("proof.statement-invalid", "one commitment hides what is in it, and another one does not")
    roots = {source: one.root for source, one in held.items()}
    statement = Statement(
        program,
        roots.get("weight"),
        {name: array for name, array in inputs.items() if program.inputs[name].public},
        {output.name: run.outputs[output.name] for output in program.outputs if output.public},
        {n: run.arrays[n] for n, operation in enumerate(program.operations) if isinstance(operation, Argmax)},
        roots.get("input"),
        roots.get("result"),
        weights.uses,
    )
    prover = MaskedProver(statement) if weights.uses else Prover()
    _Proving(statement, prover, run, held).run()
    prover.finish()
    return Proof(statement, prover.proof, commitments["result"], run)


class _Proving(Walk):
    """The prover's part of each step."""

    transcript: Prover

    def __init__(
        self,
        statement: Statement,
        transcript: Prover,
        run: Run,
        commitments: Mapping[str, AnyCommitment],
    ) -> None:
        super().__init__(statement, transcript)
        self._commitments = dict(commitments)
        self._arrays = Arrays(self.plan, run, self.known)
        self._columns = [
            [
                Column([self._arrays.ints(node) for node in entry.nodes], self.plan.shape(entry.nodes[0]))
                for entry in group
            ]
            for group in (
                [entry for entry in self.plan.listed if (entry.table, entry.bits) == key] for key in self.tables
            )
        ]
        self._counts = [
            count(columns, self.table(*key)) for columns, key in zip(self._columns, self.tables, strict=True)
        ]
        hints = [self._arrays.ints(node) for node in self.plan.committed("hint")]
        whole = placed([*hints, *(one.view(np.int64) for one in self._counts)], self.sizes.layouts["hint"])
        self._commitments["hint"] = _commit(whole, HIDDEN_USES["hint"] if statement.uses else 0)
        self._trees: dict[Zero, list[Array]] = {}

    def add_error(self, error: Fraction) -> None:
        """Added up by the verifier."""

    def hints_root(self) -> bytes:
        root = self._commitments["hint"].root
        self.transcript.send_bytes("hints", root)
        return root

    def lookups(self, _nodes: Sequence[tuple[int, ...]], table: int) -> tuple[list[list[Claim]], Claim]:
        columns, self._columns[table] = self._columns[table], []
        key, counts = self.tables[table], self._counts[table]
        return prove_lookups(self.transcript, columns, self.table(*key), counts, self.sizes.before_lookups[key])

    def halves(self, zero: Zero, layer: int, point: Point, value: K) -> tuple[list[K], K, K]:
        if zero not in self._trees:
            self._trees[zero] = self._tree(zero)
        whole = self._trees[zero][layer]
        low, high = (np.ascontiguousarray(whole[:, half]).reshape(-1) for half in range(2))
        return prove_product(self.transcript, low, high, value, list(point))

    def _tree(self, zero: Zero) -> list[Array]:
        """Return the layers of products along an axis, (rows, 2, rest): the last one has the numbers themselves."""
        array = np.moveaxis(self._arrays.ints(zero.node), zero.axis, -1)
        size = array.shape[-1]
        flat_rows = padded(array).reshape(-1, 1 << logs([size])[0]).copy()
        flat_rows[:, size:] = 1
        layers = []
        while flat_rows.shape[1] > 1:
            layers.append(flat_rows.reshape(len(flat_rows), 2, -1))
            flat_rows = field.mul(layers[-1][:, 0], layers[-1][:, 1])
        return layers[::-1]

    def said(self, asked: Sequence[tuple[int, Axes]]) -> list[K]:
        values = [self._arrays.value(node, axes) for node, axes in asked]
        self.transcript.send_elements("values", *values)
        return values

    def shares(self, node: Joined, rest: tuple[Axes, Axes], weights: Array, starts: Sequence[int]) -> list[K]:
        shares = []
        for part, start, end in zip(node.parts, starts, starts[1:], strict=False):
            factor = Factor(part, self.plan.shape(part), "axis", (*rest[0], (), *rest[1]), (node.axis,))
            table = self._factor(factor)[: end - start]
            [share] = field.elements(field.total(field.mul_k(table, weights[start:end]))[None])
            shares.append(share)
        self.transcript.send_elements("shares", *shares)
        return shares

    def join(self, number: int, claims: Sequence[Claim]) -> Claim:
        return prove_claims(self.transcript, self._arrays.residues(number), claims)

    def product(self, a: Factor | Array, b: Factor, value: K, weights: Sequence[K | None]) -> tuple[list[K], K, K]:
        left = self._factor(a) if isinstance(a, Factor) else a
        return prove_product(self.transcript, left, self._factor(b), value, weights)

    def _factor(self, factor: Factor) -> Array:
        """Return the table of a factor."""
        if factor.kind == "elements":
            return self._arrays.spread(factor.node, factor.shape)
        shape = self.plan.shape(factor.node)
        missing = len(factor.axes) - len(shape)
        kept = {axis - missing for axis in factor.kept}
        if factor.kind != "axis":
            kept.add(len(shape) - (1 if factor.kind == "left" else 2))
        axes = dict(enumerate(factor.axes[missing:]))
        weights = {
            axis: kernels.equality(axes[axis] if size > 1 else ())
            for axis, size in enumerate(shape)
            if axis not in kept
        }
        return self._arrays.summed(factor.node, weights)

    def blocks(self, source: str, asked: Sequence[Claim]) -> list[K]:
        elements = self._commitments[source].elements
        values = [elements.evaluate(one.offset, one.point) for one in asked]
        self.transcript.send_elements("blocks", *values)
        return values

    def compare(self, node: Known, axes: Axes, value: K) -> None:
        """Public: the verifier compares."""

    def compare_table(self, table: Array, point: Point, value: K) -> None:
        """The same."""

    def opened(self, source: str, claims: Sequence[Claim], _log: int) -> None:
        commitment, work = self._commitments[source], self.sizes.before_openings[source]
        if isinstance(commitment, HidingCommitment) and isinstance(self.transcript, MaskedProver):
            self.transcript.show_later(commitment, claims, work)
        elif isinstance(commitment, Commitment):
            open_claims(self.transcript, commitment, claims, work)
