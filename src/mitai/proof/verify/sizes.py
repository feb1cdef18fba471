"""Sizes of what a program's proof looks up and opens; how much work comes before that (docs/spec/proof.md, "Work").

- It follows from the statement alone, and of that from the program and whether numbers are hidden.
- What can't be proven with 100 bits is refused here: by the prover before it proves, by the verifier before it listens.

Example:
    >>> sizes = Sizes.of(lower(program), uses=0)
    >>> sizes.before_lookups, sizes.before_openings
    ({(None, 16): 3, (7, 0): 0}, {'weight': 0, 'hint': 0})
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mitai.proof.equations import Plan
from mitai.proof.verify import soundness
from mitai.proof.verify.claims import places
from mitai.proof.verify.commitment import Shape
from mitai.proof.verify.hiding import HidingShape
from mitai.proof.verify.layout import Layout
from mitai.proof.verify.lookups import logs
from mitai.proof.verify.statement import uses_of

TableKey = tuple[int | None, int]  # a node, or how many bits there are


@dataclass(frozen=True)
class Sizes:
    """Sizes and work of a program's proof.

    Attributes:
        layouts: Of what is committed to, by source.
        before_lookups: Bits of work before the challenges of each table, in the tables' order.
        before_openings: Bits of work before each challenge of an opening, by source.
    """

    layouts: Mapping[str, Layout]
    before_lookups: Mapping[TableKey, int]
    before_openings: Mapping[str, int]

    @staticmethod
    def of(plan: Plan, uses: int) -> Sizes:
        """Return them for a program, and how often the commitment to its weights may be opened (`Statement.uses`).

        Raises:
            ProofError: `proof.too-few-bits`; `proof.statement-invalid`: something is too large.
        """
        looked: dict[TableKey, list[int]] = {}
        for entry in plan.listed:
            looked.setdefault((entry.table, entry.bits), []).append(sum(logs(plan.shape(entry.nodes[0]))))
        tables = {key: logs(plan.shape(key[0]))[0] if key[0] is not None else key[1] for key in looked}
        private = [output for output in plan.program.outputs if not output.public]
        shapes = {source: [plan.shape(node) for node in plan.committed(source)] for source in ("weight", "input")}
        shapes["result"] = [plan.shape(plan.results[output.operand]) for output in private]
        shapes["hint"] = [plan.shape(node) for node in plan.committed("hint")]
        shapes["hint"] += [(1 << log,) for log in tables.values()]
        layouts = {source: Layout.of(own) for source, own in shapes.items()}
        errors = [
            soundness.lookups(places(own)[1], tables[key], 1 if key[0] is None else 2) for key, own in looked.items()
        ]
        work = soundness.work(errors, soundness.LOOKUPS)
        opened = {source: layout.log for source, layout in layouts.items() if layout.blocks}
        return Sizes(layouts, dict(zip(looked, work, strict=True)), before_openings(opened, uses))


def before_openings(opened: Mapping[str, int], uses: int) -> dict[str, int]:
    """Return the bits of work before each challenge of openings, of arrays of 2^log elements by source."""
    errors = []
    for source, log in opened.items():
        if uses:
            hiding = HidingShape.of(log, uses_of(source, uses))
            errors.append(soundness.hidden_opening(hiding.coefficients, hiding.leaves, hiding.rows))
        else:
            shape = Shape.of(log)
            errors.append(soundness.opening(shape.positions, shape.rows))
    return dict(zip(opened, soundness.work(errors, soundness.OPENINGS), strict=True))
