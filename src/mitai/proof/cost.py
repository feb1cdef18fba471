"""How much a proof of a program has to work on, before anything is computed.

Example:
    >>> cost(graph.program())
    Cost(weights=583, inputs=2000, hints=43000, padded=71680, lookups=44500, zeros=0, macs=270000, products=0)
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from mitai.proof.equations import Matrices, Product
from mitai.proof.lowering import lower
from mitai.proof.operation import Shape
from mitai.proof.program import Program


@dataclass(frozen=True)
class Cost:
    """Counts of numbers.

    Attributes:
        weights: Committed to once for all proofs.
        inputs: Committed to as inputs, by an earlier proof as a rule.
        hints: Committed to for this proof.
        padded: Hints and inputs with all axes padded to powers of two.
        lookups: In tables and ranges.
        zeros: In rows that are shown to have a zero.
        macs: Multiplications in products of matrices.
        products: Element-wise multiplications.
    """

    weights: int
    inputs: int
    hints: int
    padded: int
    lookups: int
    zeros: int
    macs: int
    products: int


def cost(program: Program) -> Cost:
    """Count what a program's equations have."""
    plan = lower(program)
    committed = {
        source: [plan.shape(node) for node in plan.committed(source)] for source in ("weight", "input", "hint")
    }
    return Cost(
        weights=_total(committed["weight"]),
        inputs=_total(committed["input"]),
        hints=_total(committed["hint"]),
        padded=_total(map(_padded, committed["input"] + committed["hint"])),
        lookups=_total(plan.shape(column.nodes[0]) for column in plan.listed),
        zeros=_total(plan.shape(zero.node) for zero in plan.zeros),
        macs=sum(math.prod(node.shape) * plan.shape(node.a)[-1] for node in plan.nodes if isinstance(node, Matrices)),
        products=_total(node.shape for node in plan.nodes if isinstance(node, Product)),
    )


def _total(shapes: Iterable[Shape]) -> int:
    return sum(map(math.prod, shapes))


def _padded(shape: Shape) -> Shape:
    return tuple(1 << (n - 1).bit_length() for n in shape)
