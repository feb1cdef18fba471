"""What of a program's run is committed to, and what each of it has to follow from (docs/spec/audit.md, "Steps").

Prover and auditor derive the same plan from the program alone.

- A *step* is a result that is committed to. What is no step is computed from steps, inputs and constants.
- Whoever has no weights can't compute products with them: all of these are steps.
- If every step follows from those that it takes, the program gave this answer: there is nothing else to check.

Example:
    >>> plan = Plan.of(card.program(prompt=12, answer=8))
    >>> len(plan.steps), plan.name(plan.steps[0]), plan.takes[plan.steps[5]]
    (134, 'gather.3', (4, 9))
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from mitai.errors import ProofError
from mitai.proof.operation import Value
from mitai.proof.operations import Gather, Linear, MatMul, Permute, Rescale, Sum, Weight
from mitai.proof.program import Program

MATRIX_AXES = 2  # of an operand, which products of matrices are over
MAX_PLAIN = 1 << 22  # numbers of a weight that an auditor gets as it is: biases and gains

Orders = dict[int, tuple[str, tuple[int, ...]]]
Users = dict[int, list[int]]


@dataclass(frozen=True)
class Product:
    """A step that is a product with a weight: of matrices, or rows of a table.

    Attributes:
        number: Its operation.
        operand: What it is multiplied with; of rows, their indices.
        weight: The weight's name.
        axis: Which of the weight's axes the result has last.
        order: The other axes of the weight, in the order in which they are in the product.
        sums: Axes of the products of matrices that are added up.
        rows: Whether it takes rows of a table.
    """

    number: int
    operand: int
    weight: str
    axis: int
    order: tuple[int, ...]
    sums: tuple[int, ...] = ()
    rows: bool = False


@dataclass(frozen=True)
class Plan:
    """The steps of a program.

    Attributes:
        program: Which.
        steps: Numbers of the operations whose results are committed to, in order.
        products: Of the steps that are products with weights.
        takes: For each step the earlier steps that it has to follow from.
        plain: Names of the weights that are used otherwise; an auditor has to know them.
    """

    program: Program
    steps: tuple[int, ...]
    products: dict[int, Product]
    takes: dict[int, tuple[int, ...]]
    plain: tuple[str, ...]

    @staticmethod
    def of(program: Program) -> Plan:
        """Return a program's steps.

        Raises:
            ProofError: `proof.audit-unsupported`: a large weight is used in another way than in products.
        """
        orders = _orders(program)
        users = _users(program)
        products = _products(program, orders, users)
        steps = {output.operand for output in program.outputs} | products.keys()
        for number, operation in enumerate(program.operations):
            if isinstance(operation, Rescale) or (isinstance(operation, Linear) and len(users[number]) > 1):
                steps.add(number)
        multiplied = {product.number for product in products.values()}
        plain = {name for number, (name, _) in orders.items() if not set(users[number]) <= multiplied | orders.keys()}
        weights = program.weights
        if any(math.prod(weights[name].shape) > MAX_PLAIN for name in plain):
            raise ProofError("proof.audit-unsupported", "a large weight is used in another way than in products")
        names = tuple(name for name in weights if name in plain)
        return Plan(program, tuple(sorted(steps)), products, _taken(program, steps, products), names)

    def value(self, step: int) -> Value:
        """Return what is known of a step."""
        return self.program.values[step]

    def name(self, step: int) -> str:
        """Return what a step is called in errors: its operation, and its number in the program."""
        return f"{type(self.program.operations[step]).__name__.lower()}.{step}"

    def shown(self, places: Iterable[int]) -> set[int]:
        """Return the places of these steps, and of those that they take."""
        asked = {self.steps[place] for place in places}
        return {self.places[step] for step in asked.union(*(self.takes[step] for step in asked))}

    @cached_property
    def places(self) -> dict[int, int]:
        """The place of each step among all."""
        return {step: place for place, step in enumerate(self.steps)}


def _orders(program: Program) -> Orders:
    """Return for each operation that is a weight, or one with axes in another order: which, and which order."""
    orders: Orders = {}
    for number, operation in enumerate(program.operations):
        if isinstance(operation, Weight):
            orders[number] = operation.name, tuple(range(len(operation.shape)))
        elif isinstance(operation, Permute) and operation.a in orders:
            name, order = orders[operation.a]
            orders[number] = name, tuple(order[axis] for axis in operation.axes)
    return orders


def _products(program: Program, orders: Orders, users: Users) -> dict[int, Product]:
    """Return the products with weights, by the operation that ends each."""
    products: dict[int, Product] = {}
    for number, operation in enumerate(program.operations):
        if isinstance(operation, MatMul) and operation.b in orders and operation.a not in orders:
            name, order = orders[operation.b]
            end, sums = _summed(program, users, number)
            products[end] = Product(number, operation.a, name, order[-1], order[:-1], sums)
        elif isinstance(operation, Gather) and operation.a in orders and operation.axis == 0:
            name, order = orders[operation.a]
            if len(order) == MATRIX_AXES:
                products[number] = Product(number, operation.indices, name, order[1], order[:1], rows=True)
    return products


def _users(program: Program) -> Users:
    """Return for each operation those that take its result; an output is one that is not there."""
    users: Users = {number: [] for number in range(len(program.operations))}
    for number, operation in enumerate(program.operations):
        for operand in set(operation.operands):
            users[operand].append(number)
    for output in program.outputs:
        users[output.operand].append(len(program.operations))
    return users


def _summed(program: Program, users: Users, number: int) -> tuple[int, tuple[int, ...]]:
    """Return where sums over a product's axes before the matrices end, if nothing else takes the product; and which."""
    sums: list[int] = []
    batch = len(program.values[number].shape) - MATRIX_AXES
    while len(users[number]) == 1 and users[number][0] < len(program.operations):
        following = program.operations[users[number][0]]
        if not isinstance(following, Sum) or following.axis >= batch:
            break
        sums.append(following.axis)
        number = users[number][0]
    return number, tuple(sums)


def _taken(program: Program, steps: set[int], products: dict[int, Product]) -> dict[int, tuple[int, ...]]:
    """Return for each step the steps from which it is computed."""
    reached: dict[int, frozenset[int]] = {}  # of what is no step
    takes: dict[int, tuple[int, ...]] = {}
    for number, operation in enumerate(program.operations):
        sources = (products[number].operand,) if number in products else operation.operands
        found = frozenset[int]().union(*({one} if one in steps else reached[one] for one in sources))
        if number in steps:
            takes[number] = tuple(sorted(found))
        reached[number] = found
    return takes
