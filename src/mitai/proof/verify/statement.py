"""What a proof is about: a program, a model's root, public inputs and results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field as member

import numpy as np

from mitai.errors import ProofError
from mitai.proof.equations import Known, Plan
from mitai.proof.operation import Ints
from mitai.proof.operations import Argmax, Constant, Input
from mitai.proof.program import Program
from mitai.proof.transcript import HASH_BYTES
from mitai.proof.verify.hiding import MAX_USES

HIDDEN_USES = {"hint": 1, "input": 2, "result": 2}  # what is kept is opened again when it is given


@dataclass(frozen=True)
class Statement:
    """What is claimed: that a model gave these results for these inputs.

    Attributes:
        program: Says which computation.
        weights: Root of the commitment to all weights, in the program's order; None if it has none.
        inputs: The public inputs, by name.
        outputs: The public results, by name.
        choices: Results of `Argmax` operations, by the operation's number.
        given: Root of the commitment to all inputs that are not public, in the program's order; None if it has none.
        kept: Root of the commitment to all results that are not public, likewise.
        uses: 0: the proof is a succinct one, which hides nothing. Else it is masked, and all commitments are hiding
            ones; that to weights serves so many proofs (docs/spec/proof-zk.md).

    Raises:
        ProofError: `proof.statement-invalid`: there are no such uses.
    """

    program: Program
    weights: bytes | None
    inputs: Mapping[str, Ints]
    outputs: Mapping[str, Ints]
    choices: Mapping[int, Ints] = member(default_factory=dict)
    given: bytes | None = None
    kept: bytes | None = None
    uses: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.uses <= MAX_USES:
            raise ProofError("proof.statement-invalid", f"a commitment serves 1 to {MAX_USES} proofs, or hides nothing")

    def uses_of(self, source: str) -> int:
        """Return how often a hiding commitment may be opened."""
        return uses_of(source, self.uses)


def uses_of(source: str, uses: int) -> int:
    """Return how often a hiding commitment may be opened, where that to weights may be opened so often."""
    return uses if source == "weight" else HIDDEN_USES[source]


def known_arrays(statement: Statement, plan: Plan) -> dict[int, Ints]:
    """Return all public arrays but masks by node; refuse a statement that does not fit its program."""
    program = statement.program
    private = {name for name, entry in program.inputs.items() if not entry.public}
    told = {output.name for output in program.outputs if output.public}
    argmaxes = {number for number, operation in enumerate(program.operations) if isinstance(operation, Argmax)}
    for given, wanted, what in (
        (statement.inputs, set(program.inputs) - private, "public inputs"),
        (statement.outputs, told, "public results"),
        (statement.choices, argmaxes, "choices"),
    ):
        if set(given) != wanted:
            raise ProofError("proof.statement-invalid", f"the statement has other {what} than its program")
    for root, needed in (
        (statement.weights, bool(program.weights)),
        (statement.given, bool(private)),
        (statement.kept, len(told) < len(program.outputs)),
    ):
        if (root is not None) != needed or (root is not None and len(root) != HASH_BYTES):
            raise ProofError("proof.statement-invalid", "the statement has a root too many, too few, or a wrong one")
    for output in program.outputs:
        if output.public:
            _fitting(statement.outputs[output.name], program, output.operand)
    known = {}
    for number, node in enumerate(plan.nodes):
        if isinstance(node, Known) and node.role == "result":
            known[number] = _public(statement, node)
    return known


def _public(statement: Statement, node: Known) -> Ints:
    operation = statement.program.operations[node.operation]
    if isinstance(operation, Constant):
        return operation.execute()
    if isinstance(operation, Input):
        return _fitting(statement.inputs[operation.name], statement.program, node.operation)
    return _fitting(statement.choices[node.operation], statement.program, node.operation)


def _fitting(array: Ints, program: Program, operation: int) -> Ints:
    value = program.values[operation]
    if array.shape != value.shape or array.dtype.kind != "i" or array.min() < value.low or array.max() > value.high:
        raise ProofError("proof.statement-invalid", "a public array has another shape or range than its program says")
    return array.astype(np.int64, copy=False)
