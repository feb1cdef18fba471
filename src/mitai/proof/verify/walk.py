"""From public results back to what is committed: the way that prover and verifier go together.

1. What both sides know is bound; the prover commits to its hints.
2. Look-ups, zeros and results become claims on nodes of the plan.
3. Nodes are visited from the last to the first; each turns its claims into claims on what it is computed from.
4. Claims on public arrays are compared; those on committed arrays are opened.

`Walk` says what happens in which order (docs/spec/proof-statement.md); its abstract methods are what a side does for
itself: `program._Checking` is all that the verifier has beside this, `mitai.proof.proving` the prover.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from operator import mul

import numpy as np

from mitai.errors import ProofError
from mitai.proof import field
from mitai.proof.equations import (
    Combination,
    Committed,
    Joined,
    Known,
    Matrices,
    Permuted,
    Product,
    Same,
    Taken,
    Total,
    Zero,
)
from mitai.proof.field import ONE, ZERO, Array, K, P, Point
from mitai.proof.lowering import lower
from mitai.proof.operation import Ints, Shape
from mitai.proof.transcript import Transcript
from mitai.proof.verify import soundness
from mitai.proof.verify.claims import Claim
from mitai.proof.verify.commitment import bind_root
from mitai.proof.verify.lookups import Table, inside, logs
from mitai.proof.verify.points import (
    Axes,
    by_axis,
    flat,
    outer_inside,
    public_value,
    restricted,
    scattered,
)
from mitai.proof.verify.sizes import Sizes
from mitai.proof.verify.statement import Statement, known_arrays


@dataclass(frozen=True)
class Factor:
    """One factor of a sum-check, as the prover makes it from a node.

    Attributes:
        node: Which.
        shape: Of the operation's result, or of the node for `axis`.
        kind: `elements`: broadcast to the shape. `left`, `right`: an operand of matrices, summed over the axes of its
            own with eq at `axes`. `axis`: summed over all axes but one.
        axes: See `kind`.
        kept: Axes that are not summed: shared ones of a batch; the one of `axis`.
    """

    node: int
    shape: Shape
    kind: str
    axes: Axes = ()
    kept: tuple[int, ...] = ()


@dataclass(frozen=True)
class Side:
    """Which axes of a batch of matrices an operand has."""

    lengths: tuple[int, ...]

    @staticmethod
    def of(node: Matrices, shape: Shape) -> Side:
        """Return it for one operand."""
        missing = len(node.shape) - len(shape)
        return Side((*(1 for _ in range(missing)), *shape)[: len(node.shape) - 2])

    def has(self, axis: int) -> bool:
        """Return whether the axis is longer than one here."""
        return self.lengths[axis] > 1


class Walk(ABC):
    """From results to what is committed; the abstract methods are what each side does for itself."""

    def __init__(self, statement: Statement, transcript: Transcript) -> None:
        self.statement, self.transcript = statement, transcript
        self.plan = lower(statement.program)
        self.known = known_arrays(statement, self.plan)
        self.claims: list[list[tuple[Axes, K]]] = [[] for _ in self.plan.nodes]
        self.sizes = Sizes.of(self.plan, statement.uses)
        self.tables = list(self.sizes.before_lookups)
        self.kept_points: list[tuple[Axes, K]] = []

    def table(self, node: int | None, bits: int) -> Table:
        """Return the table of a look-up."""
        if node is None:
            return Table(np.arange(1 << bits))
        table = self.known[node]
        return Table(np.arange(len(table)), table)

    def run(self) -> None:
        """Go all the way."""
        self.bind()
        counted = [self.look_up(index) for index in range(len(self.tables))]
        for zero in self.plan.zeros:
            self.find_zeros(zero)
        self.results()
        for number in reversed(range(len(self.plan.nodes))):
            self.visit(number)
        self.close(counted)

    # --- 1. what is known ---

    def bind(self) -> None:
        """Bind the statement, and the root of the hints, which the prover says."""
        statement, bind = self.statement, self.transcript.bind
        bind("program", statement.program.digest)
        for source, root in self.roots.items():
            bind("source", source.encode())
            bind_root(self.transcript, root, self.sizes.layouts[source].log)
        for number, array in sorted(self.known.items()):
            bind("known", number.to_bytes(8, "little") + _digest(array))
        for name, array in sorted(statement.outputs.items()):
            bind("output", name.encode())
            bind("numbers", _digest(array))
        hints = self.sizes.layouts["hint"]
        if hints.blocks:
            bind_root(self.transcript, self.hints_root(), hints.log)

    @property
    def roots(self) -> dict[str, bytes]:
        """The roots that the statement names, by source."""
        statement = self.statement
        named = {"weight": statement.weights, "input": statement.given, "result": statement.kept}
        return {source: root for source, root in named.items() if root is not None}

    @abstractmethod
    def hints_root(self) -> bytes:
        """Return the root of the commitment to hints and counts."""

    # --- 2. what becomes claims ---

    def look_up(self, index: int) -> Claim:
        """Claims on all that is looked up in one table; return the claim on how often."""
        key = self.tables[index]
        entries = [entry for entry in self.plan.listed if (entry.table, entry.bits) == key]
        columns, counts = self.lookups([entry.nodes for entry in entries], index)
        for entry, claims in zip(entries, columns, strict=True):
            for node, claim in zip(entry.nodes, claims, strict=True):
                self.claims[node].append((by_axis(claim.point, self.plan.shape(node)), claim.value))
        return counts

    def find_zeros(self, zero: Zero) -> None:
        """The product of each row is zero, where padding of the row is 1: a tree of products."""
        shape = self.plan.shape(zero.node)
        bits = logs(shape)
        rows = [log for axis, log in enumerate(bits) if axis != zero.axis]
        row: Point = self.transcript.challenges("rows", sum(rows))
        along: list[K] = []
        self.add_error(soundness.rounds(sum(rows)))
        value = ZERO
        for layer in range(bits[zero.axis]):
            point, low, high = self.halves(zero, layer, [*row, *along], value)
            half = self.transcript.challenge("half")
            row, along = point[: sum(rows)], [half, *point[sum(rows) :]]
            value = low + half * (high - low)
            self.add_error(soundness.joined(2))
        value = value - (ONE - inside((shape[zero.axis],), along))
        axes = list(by_axis(row, [size for axis, size in enumerate(shape) if axis != zero.axis]))
        axes.insert(zero.axis, tuple(along))
        self.claims[zero.node].append((tuple(axes), value))

    def results(self) -> None:
        """Public results have these values; the others are behind their roots."""
        for output in self.plan.program.outputs:
            node = self.plan.results[output.operand]
            bits = logs(self.plan.shape(node))
            point = self.transcript.challenges("result", sum(bits))
            self.add_error(soundness.rounds(sum(bits)))
            axes = by_axis(point, self.plan.shape(node))
            if output.public:
                self.claims[node].append((axes, public_value(self.statement.outputs[output.name], axes)))
            else:
                [value] = self.said([(node, axes)])
                self.claims[node].append((axes, value))
                self.kept_points.append((axes, value))

    # --- 3. nodes ---

    def visit(self, number: int) -> None:
        """Turn the claims on a node into claims on its operands."""
        node, claims = self.plan.nodes[number], self.claims[number]
        if not claims or isinstance(node, Committed):
            return
        if isinstance(node, Known):
            for axes, value in claims:
                self.compare(node, axes, value)
            return
        if len(claims) > 1:
            joined = self.join(number, [Claim(flat(axes), value) for axes, value in claims])
            claims = [(by_axis(joined.point, node.shape), joined.value)]
        [(axes, value)] = claims
        match node:
            case Combination():
                self.combination(node, axes, value)
            case Product():
                self.product_of(node, axes, value)
            case Matrices():
                self.matrices(node, axes, value)
            case Total():
                self.total(node, axes, value)
            case Permuted():
                own = [axes[node.axes.index(axis)] for axis in range(len(axes))]
                self.claims[node.a].append((tuple(own), value))
            case Same():
                self.claims[node.a].append((by_axis(flat(axes), self.plan.shape(node.a)), value))
            case Taken():
                self.taken(node, axes, value)
            case Joined():
                self.joined(node, axes, value)

    def combination(self, node: Combination, axes: Axes, value: K) -> None:
        """The value is that of the terms, which the prover says."""
        asked = [(term, restricted(axes, self.plan.shape(term))) for term, _ in node.terms]
        said = self.said(asked)
        total = K(node.constant % P) * inside(node.shape, flat(axes))
        for (term, own), (_, factor), one in zip(asked, node.terms, said, strict=True):
            spread = outer_inside(node.shape, self.plan.shape(term), axes)
            total = total + K(factor % P) * spread * one
            self.claims[term].append((own, one))
        self.require_zero(total - value * K(1 << node.shift), "combination")

    def product_of(self, node: Product, axes: Axes, value: K) -> None:
        """A sum-check over all elements; a factor that is broadcast is so over the padding, too."""
        a, b = node.a, node.b
        point, value_a, value_b = self.product(
            Factor(a, node.shape, "elements"), Factor(b, node.shape, "elements"), value, list(flat(axes))
        )
        own = by_axis(point, node.shape)
        for operand, one in ((a, value_a), (b, value_b)):
            self.claims[operand].append((restricted(own, self.plan.shape(operand)), one))

    def matrices(self, node: Matrices, axes: Axes, value: K) -> None:
        """A sum-check over the inner axis, and over axes of the batch that both operands have."""
        left, right = Side.of(node, self.plan.shape(node.a)), Side.of(node, self.plan.shape(node.b))
        shared = [axis for axis in range(len(node.shape) - 2) if left.has(axis) and right.has(axis)]
        weights: list[K | None] = [one for axis in shared for one in axes[axis]]
        inner = self.plan.shape(node.a)[-1]
        weights += [None] * logs([inner])[0]
        point, value_a, value_b = self.product(
            Factor(node.a, node.shape, "left", axes, tuple(shared)),
            Factor(node.b, node.shape, "right", axes, tuple(shared)),
            value,
            weights,
        )
        bound = by_axis(point, [*(node.shape[axis] for axis in shared), inner])
        at = dict(zip(shared, bound, strict=False))
        batch = [at.get(axis, axes[axis]) for axis in range(len(node.shape) - 2)]
        for operand, last, one in (
            (node.a, (axes[-2], bound[-1]), value_a),
            (node.b, (bound[-1], axes[-1]), value_b),
        ):
            full = (*batch, *last)
            shape = self.plan.shape(operand)
            self.claims[operand].append((restricted(full, shape), one))

    def total(self, node: Total, axes: Axes, value: K) -> None:
        """The sum along an axis is 2^n times the value in the middle."""
        bits = logs(self.plan.shape(node.a))[node.axis]
        half = K((P + 1) // 2)
        own = (*axes[: node.axis], (half,) * bits, *axes[node.axis + 1 :])
        self.claims[node.a].append((own, value * K(pow((P + 1) // 2, bits, P))))

    def taken(self, node: Taken, axes: Axes, value: K) -> None:
        """A sum-check over the axis, against the public places."""
        shape, indices = self.plan.shape(node.a), self.known[node.indices]
        count = indices.ndim
        where = axes[node.axis : node.axis + count]
        rest = (axes[: node.axis], axes[node.axis + count :])
        weights = scattered(indices, where, shape[node.axis])
        self.along(node.a, node.axis, rest, weights, value)

    def joined(self, node: Joined, axes: Axes, value: K) -> None:
        """The prover says each part's share of the value; each is a sum-check along the axis."""
        rest = (axes[: node.axis], axes[node.axis + 1 :])
        everywhere = field.equality(axes[node.axis])
        starts = np.cumsum([0, *(self.plan.shape(part)[node.axis] for part in node.parts)]).tolist()
        shares = self.shares(node, rest, everywhere, starts)
        self.require_zero(sum(shares, ZERO) - value, "joined")
        for part, start, end, share in zip(node.parts, starts, starts[1:], shares, strict=False):
            size = 1 << logs([end - start])[0]
            weights = np.zeros((size, 2), np.uint64)
            weights[: end - start] = everywhere[start:end]
            self.along(part, node.axis, rest, weights, share)

    def along(self, number: int, axis: int, rest: tuple[Axes, Axes], weights: Array, value: K) -> None:
        """Show Σ_j weights_j ã(rest, j) = value for public weights."""
        factor = Factor(number, self.plan.shape(number), "axis", (*rest[0], (), *rest[1]), (axis,))
        rounds: list[K | None] = [None] * logs([self.plan.shape(number)[axis]])[0]
        point, public, one = self.product(weights, factor, value, rounds)
        self.compare_table(weights, point, public)
        self.claims[number].append(((*rest[0], tuple(point), *rest[1]), one))

    # --- 4. what is committed ---

    def close(self, counted: Sequence[Claim]) -> None:
        """Join claims on what is committed, and open it."""
        for source in ("weight", "input"):
            claims = [self.claims[number] for number in self.plan.committed(source)]
            self.open(source, claims)
        self.open("result", [[one] for one in self.kept_points])
        claims = [self.claims[number] for number in self.plan.committed("hint")]
        self.open("hint", [*claims, *([((tuple(one.point),), one.value)] for one in counted)])

    def open(self, source: str, claims: Sequence[Sequence[tuple[Axes, K]]]) -> None:
        """Open what is behind a root, with some claims on each of its arrays, which are claims on blocks."""
        layout, placed = self.sizes.layouts[source], list[Claim]()
        for blocks, own in zip(layout.blocks, claims, strict=True):
            for axes, value in own:
                weights, parts = zip(*(block.part(axes) for block in blocks), strict=True)
                asked = [Claim(point, ZERO, block.offset) for block, point in zip(blocks, parts, strict=True)]
                said = self.blocks(source, asked) if len(blocks) > 1 else [value]
                self.require_zero(sum(map(mul, weights, said), ZERO) - value, "blocks")
                placed += [Claim(one.point, value, one.offset) for one, value in zip(asked, said, strict=True)]
        if placed:
            self.opened(source, placed, layout.log)

    # --- what each side does ---

    def require_zero(self, value: K, step: str) -> None:
        """Refuse what was said unless this is zero."""
        error = ProofError("proof.equation-refuted", "values that the prover says do not fit together", step=step)
        self.transcript.require_zero(value, error)

    @abstractmethod
    def add_error(self, error: Fraction) -> None:
        """Add to the error, where it is added up."""

    @abstractmethod
    def lookups(self, nodes: Sequence[tuple[int, ...]], table: int) -> tuple[list[list[Claim]], Claim]:
        """Look-ups of nodes in one table."""

    @abstractmethod
    def halves(self, zero: Zero, layer: int, point: Point, value: K) -> tuple[list[K], K, K]:
        """A layer of a tree of products: the sum-check's point, and the values of both halves there."""

    @abstractmethod
    def said(self, asked: Sequence[tuple[int, Axes]]) -> list[K]:
        """Values of nodes at points."""

    @abstractmethod
    def shares(self, node: Joined, rest: tuple[Axes, Axes], weights: Array, starts: Sequence[int]) -> list[K]:
        """Each part's share of the value of joined arrays."""

    @abstractmethod
    def join(self, number: int, claims: Sequence[Claim]) -> Claim:
        """Many claims on a node become one."""

    @abstractmethod
    def product(self, a: Factor | Array, b: Factor, value: K, weights: Sequence[K | None]) -> tuple[list[K], K, K]:
        """A sum-check of two factors."""

    @abstractmethod
    def blocks(self, source: str, asked: Sequence[Claim]) -> list[K]:
        """Values of blocks at points: those of the claims."""

    @abstractmethod
    def compare(self, node: Known, axes: Axes, value: K) -> None:
        """A public array has a value."""

    @abstractmethod
    def compare_table(self, table: Array, point: Point, value: K) -> None:
        """A public table of K has a value."""

    @abstractmethod
    def opened(self, source: str, claims: Sequence[Claim], log: int) -> None:
        """Claims on what is behind a root."""


def _digest(array: Ints) -> bytes:
    return hashlib.sha256(array.astype("<i8").tobytes()).digest()
