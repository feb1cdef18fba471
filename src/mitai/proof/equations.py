"""A program as equations between arrays: what is committed to, what is public, what follows, and what is checked.

Follows `docs/spec/proof-statement.md`. There are few kinds of equations, with a sub-protocol for each; `lower` says
which of them make up a program.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mitai.proof.operation import Shape
from mitai.proof.program import Program


@dataclass(frozen=True)
class Node:
    """An array; `operands` are the numbers of nodes before it."""

    shape: Shape

    @property
    def operands(self) -> tuple[int, ...]:
        """What it is computed from."""
        return ()


@dataclass(frozen=True)
class Known(Node):
    """Public: the result of an operation, or a mask that follows from an `Argmax`'s result."""

    operation: int
    role: str = "result"  # `chosen`: 1 at the place of the largest; `before`: 1 at all places before it


@dataclass(frozen=True)
class Committed(Node):
    """Behind a root: a weight, an input that is not public, or what the prover says of an operation."""

    source: str  # `weight`, `input` or `hint`
    operation: int
    role: str = "result"


@dataclass(frozen=True)
class Combination(Node):
    """(constant + Σ coefficient · term) / 2^shift, exactly; terms are broadcast."""

    terms: tuple[tuple[int, int], ...]
    constant: int = 0
    shift: int = 0

    @property
    def operands(self) -> tuple[int, ...]:
        """The terms."""
        return tuple(node for node, _ in self.terms)


@dataclass(frozen=True)
class _Two(Node):
    a: int
    b: int

    @property
    def operands(self) -> tuple[int, ...]:
        return (self.a, self.b)


@dataclass(frozen=True)
class Product(_Two):
    """Element by element, broadcast."""


@dataclass(frozen=True)
class Matrices(_Two):
    """Products of matrices, broadcast over the axes before the last two."""


@dataclass(frozen=True)
class _One(Node):
    a: int

    @property
    def operands(self) -> tuple[int, ...]:
        return (self.a,)


@dataclass(frozen=True)
class Total(_One):
    """The sum along an axis, which stays with length one."""

    axis: int


@dataclass(frozen=True)
class Permuted(_One):
    """Axes in another order."""

    axes: tuple[int, ...]


@dataclass(frozen=True)
class Same(_One):
    """More or fewer axes of length one."""


@dataclass(frozen=True)
class Taken(_One):
    """Entries along an axis at public indices: those of node `indices`, whose axes stand in the place of that axis."""

    indices: int
    axis: int


@dataclass(frozen=True)
class Joined(Node):
    """Arrays after one another along an axis."""

    parts: tuple[int, ...]
    axis: int

    @property
    def operands(self) -> tuple[int, ...]:
        """The parts."""
        return self.parts


@dataclass(frozen=True)
class Listed:
    """All entries of some nodes of one shape are together in a table.

    Attributes:
        nodes: One, or two for pairs.
        table: The node with the table, beside 0, 1, 2 … ; or how many bits a number has that is looked up alone.
        bits: See `table`.
    """

    nodes: tuple[int, ...]
    table: int | None
    bits: int = 0


@dataclass(frozen=True)
class Zero:
    """In each row of a node along an axis is a zero."""

    node: int
    axis: int


@dataclass
class Plan:
    """Nodes in the order of computation, what is checked of them, and which node is an operation's result."""

    program: Program
    nodes: list[Node] = field(default_factory=list)
    listed: list[Listed] = field(default_factory=list)
    zeros: list[Zero] = field(default_factory=list)
    results: list[int] = field(default_factory=list)
    limbs: dict[int, int] = field(default_factory=dict)  # which node a limb is of

    def add(self, node: Node) -> int:
        """Append a node; return its number."""
        self.nodes.append(node)
        return len(self.nodes) - 1

    def shape(self, node: int) -> Shape:
        """Return a node's shape."""
        return self.nodes[node].shape

    def committed(self, source: str) -> list[int]:
        """Return the committed nodes of a source, in order."""
        return [
            number for number, node in enumerate(self.nodes) if isinstance(node, Committed) and node.source == source
        ]
