"""The prover's half of hiding commitments and of the last argument (docs/spec/proof-zk.md, "Last argument").

- Random numbers come from the operating system; each mask is drawn where it is used, and used once.
- A commitment can be opened `uses` times, and pads once: then `ProofError`. Whoever keeps a commitment on a disk has
  to count its uses there, before anything of a proof leaves (`HidingCommitment.spent`).

Example:
    >>> prover = Prover()
    >>> pads = commit_pads(prover, 3)
    >>> [x, y, z] = [one + pad for one, pad in zip(hidden, field.elements(pads.values))]  # what is said
    >>> equation = Equation(linear, [(0, 1)], field.array([ONE]), constant)
    >>> prove_hidden(prover, pads, equation, [(commitment, opening)])
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from dataclasses import field as member

import numpy as np
from numpy.typing import NDArray

from mitai.errors import ProofError
from mitai.proof import field, kernels
from mitai.proof.commitment import (
    Code,
    Progress,
    column_hashes,
    columns_of,
    encoded,
    send_paths,
    tree_over,
)
from mitai.proof.elements import Elements
from mitai.proof.field import Array, P, Point
from mitai.proof.transcript import Prover
from mitai.proof.verify.hiding import (
    SALTED,
    Equation,
    HidingShape,
    Opening,
    bind_equation,
    draw,
    inner,
    most_work,
    polynomials,
)
from mitai.proof.verify.soundness import HIDING_QUERIES


@dataclass(frozen=True)
class Leaves:
    """A tree over encoded columns, each with a salt.

    Attributes:
        salts: One for each leaf (leaves, 32).
        levels: Hashes of the tree, from the leaves up to the root.
    """

    salts: NDArray[np.uint8] = member(repr=False)
    levels: list[NDArray[np.uint8]] = member(repr=False)

    @staticmethod
    def over(hashes: NDArray[np.uint8]) -> Leaves:
        """Make a tree over hashes of columns (leaves, 32)."""
        salts = np.frombuffer(os.urandom(hashes.size), np.uint8).reshape(hashes.shape)
        return Leaves(salts, tree_over(_salted(hashes, salts)))

    @property
    def root(self) -> bytes:
        """The commitment."""
        return self.levels[-1].tobytes()

    def show(self, transcript: Prover, places: Sequence[int], columns: Array) -> None:
        """Say the columns at some places.

        Raises:
            ProofError: `proof.prepared-damaged`: these are others than were committed to, which may hide nothing.
        """
        if not np.array_equal(_salted(column_hashes(columns), self.salts[places]), self.levels[0][places]):
            raise ProofError(
                "proof.prepared-damaged", "the files of what is hidden do not belong together", hint="prepare it again"
            )
        transcript.send("columns", columns)
        transcript.send_bytes("salts", self.salts[places].tobytes())
        send_paths(transcript, self.levels, places)


@dataclass(frozen=True)
class Coded:
    """A matrix in memory, encoded and committed to.

    Attributes:
        matrix: Coefficients (positions, rows).
        margin: Random ones that follow (margin, rows).
        code: Encoded columns (leaves, rows).
        leaves: The tree.
    """

    matrix: Array = member(repr=False)
    margin: Array = member(repr=False)
    code: Array = member(repr=False)
    leaves: Leaves = member(repr=False)

    @staticmethod
    def of(matrix: Array, shape: HidingShape, margin: int) -> Coded:
        """Draw what follows, encode and commit."""
        more = uniform(margin, matrix.shape[1])
        code = kernels.encode(matrix, more, shape.size)
        return Coded(matrix, more, code, Leaves.over(column_hashes(code)))

    def show(self, transcript: Prover, places: Sequence[int]) -> None:
        """Say the columns at some places."""
        self.leaves.show(transcript, places, self.code[places])


@dataclass
class HidingCommitment:
    """What its prover keeps of a hiding commitment to 2^log elements of F.

    Attributes:
        elements: The elements, as the matrix that is encoded.
        margin: The random coefficients of each row (margin, rows).
        leaves: The tree.
        uses: How often it may be opened.
        code: The encoded columns (groups of rows, leaves, rows of a group), or None: they are computed again when they
            are asked for.
        spent: How often it was opened.
    """

    elements: Elements = member(repr=False)
    margin: Array = member(repr=False)
    leaves: Leaves = member(repr=False)
    uses: int
    code: Code | None = member(repr=False, default=None)
    spent: int = 0

    @property
    def root(self) -> bytes:
        """What the verifier gets."""
        return self.leaves.root

    @property
    def log(self) -> int:
        """The log of the array's size."""
        return self.elements.log

    @property
    def shape(self) -> HidingShape:
        """The matrix's shape."""
        return HidingShape.of(self.log, self.uses)

    def again(self) -> bytes:
        """Return the root, computed again from elements, margin and salts."""
        hashes, _ = encoded(self.elements, self.shape, self.margin, lambda _: None, lambda *_: None)
        return tree_over(_salted(hashes, self.leaves.salts))[-1].tobytes()

    @property
    def left(self) -> int:
        """How often it may still be opened."""
        return self.uses - self.spent

    def require_left(self) -> None:
        """Refuse before any work what `spend` would refuse after it.

        Raises:
            ProofError: `proof.uses-spent`.
        """
        _counted(self.uses - self.left, self.uses)

    def spend(self) -> None:
        """Count a use.

        Raises:
            ProofError: `proof.uses-spent`.
        """
        self.spent = _counted(self.spent, self.uses)

    def folded(self, point: Point) -> Array:
        """Return the combination of the rows' polynomials at a point (coefficients, 2)."""
        weights = kernels.equality(point)
        return np.concatenate([self.elements.combined(weights), _folded(self.margin, weights)])

    def show(self, transcript: Prover, places: Sequence[int]) -> None:
        """Say the columns at some places."""
        columns = columns_of(self.code, self.elements, self.shape, places, self.margin)
        self.leaves.show(transcript, places, columns)


@dataclass
class Pads:
    """Random elements of K that were committed to, of which each hides one message.

    Attributes:
        count: How many there are.
        coded: The pads, and as many random numbers as fill a matrix (2^positions, 2 · rows).
        spent: How often an equation about them was shown.
    """

    count: int
    coded: Coded = member(repr=False)
    spent: int = 0

    @property
    def values(self) -> Array:
        """The pads (count, 2)."""
        return self.coded.matrix.reshape(-1, 2)[: self.count]


def uniform(*shape: int) -> Array:
    """Return random elements of F."""
    out = np.frombuffer(bytearray(os.urandom(8 * int(np.prod(shape)))), np.uint64)
    while len(again := np.flatnonzero(out >= np.uint64(P))):
        out[again] = np.frombuffer(os.urandom(8 * len(again)), np.uint64)
    return out.reshape(shape)


def commit_hiding(
    array: Array | Elements,
    uses: int = 1,
    keep: Callable[[Array], object] | None = None,
    say: Progress = lambda *_: None,
) -> HidingCommitment:
    """Commit to an array of 2^n elements of F, which is opened at most so often; see `commit`."""
    elements = array if isinstance(array, Elements) else Elements(array)
    shape = HidingShape.of(elements.log, uses)
    elements = elements.cut(shape.positions)
    margin = uniform(shape.margin, 1 << shape.rows)
    hashes, code = encoded(elements, shape, margin, keep, say)
    return HidingCommitment(elements, margin, Leaves.over(hashes), uses, code)


def commit_pads(transcript: Prover, count: int) -> Pads:
    """Draw pads, and say the root of a commitment to them (`receive_pads`)."""
    shape = HidingShape.of_pads(count)
    transcript.bind("pads", count.to_bytes(8, "little"))
    coded = Coded.of(uniform(1 << shape.positions, 2 << shape.rows), shape, shape.margin)
    transcript.send_bytes("pads", coded.leaves.root)
    return Pads(count, coded)


def prove_hidden(
    transcript: Prover, pads: Pads, equation: Equation, openings: Sequence[tuple[HidingCommitment, Opening]]
) -> None:
    """Show a true equation (`check_hidden`).

    Args:
        transcript: Where messages go, as they are.
        pads: What the equation is about.
        equation: It must hold.
        openings: What arrays add to it.

    Raises:
        ProofError: `proof.uses-spent`.
    """
    pads.spent = _counted(pads.spent, 1)
    for commitment, _ in openings:
        commitment.spend()
    shape = HidingShape.of_pads(pads.count)
    asked = [opening for _, opening in openings]
    bind_equation(transcript, equation, asked)
    # 1. what is fixed
    factors = Coded.of(_factors(pads, equation, shape), shape, shape.margin)
    transcript.send_bytes("products", factors.leaves.root)
    mask = uniform(2 * shape.coefficients - 1, 4)  # two words of the combination, then two of the polynomial
    mask[shape.coefficients :, :2] = 0
    shapes = [shape, *(opening.shape for opening in asked)]
    masks = [Coded.of(mask, shape, 0)]
    masks += [Coded.of(uniform(one.coefficients, 2), one, 0) for one in shapes[1:]]
    for one in masks:
        transcript.send_bytes("mask", one.leaves.root)
    masked_sum = field.elements(mask[:, 2:])[(1 << shape.positions) - 1]
    for one, opening in zip(masks[1:], asked, strict=True):
        masked_sum = masked_sum + inner(opening.weights, one.matrix[: len(opening.weights)])
    transcript.send("sum", field.array([masked_sum]))
    # 2. what is drawn
    transcript.work(most_work(asked))
    beta, delta, fold = draw(transcript, shape, equation)
    # 3. what is masked
    both = (pads.coded, factors)
    rows = [np.concatenate([one.matrix, one.margin]) for one in both]
    folded = _folded(np.concatenate(rows, axis=1), kernels.equality(fold))
    polynomial = _polynomial(polynomials(equation, shape, beta), pads.coded.code, factors.code, shape)
    transcript.send("combination", kernels.add_multiple(mask[: shape.coefficients, :2], delta, folded))
    transcript.send("polynomial", kernels.add_multiple(mask[:, 2:], delta, polynomial))
    for one, (commitment, opening) in zip(masks[1:], openings, strict=True):
        transcript.send("combination", kernels.add_multiple(one.matrix, delta, commitment.folded(opening.point)))
    # 5. the columns
    shown: list[Sequence[Coded | HidingCommitment]] = [both, *((commitment,) for commitment, _ in openings)]
    for own, them, one, work in zip(shapes, shown, masks, [0, *(opening.work for opening in asked)], strict=True):
        transcript.work(work)
        places = transcript.places("columns", HIDING_QUERIES, own.leaves)
        for each in (*them, one):
            each.show(transcript, places)


def _salted(hashes: NDArray[np.uint8], salts: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the hashes of leaves, of their columns' hashes (leaves, 32)."""
    return kernels.hashes(SALTED, np.concatenate([hashes, salts], axis=1))


def _folded(rows: Array, weights: Array) -> Array:
    """Return the weighted sum of a matrix's rows (positions, rows), for as many weights or more."""
    return kernels.contract(rows[:, :, None], weights[: rows.shape[1]])[:, 0]


def _factors(pads: Pads, equation: Equation, shape: HidingShape) -> Array:
    """Return the rows of both factors of each product, the right ones in the order of positions reversed."""
    size, count = 1 << shape.positions, len(equation.products)
    x, y = np.zeros((2, size * shape.factor_rows(count), 2), np.uint64)
    if count:
        left, right = np.array(equation.products, np.int64).T
        x[:count], y[:count] = pads.values[left], field.mul_k(pads.values[right], equation.factors)
    return np.concatenate([x.reshape(size, -1), y.reshape(size, -1)[::-1]], axis=1)


def _polynomial(by: Array, pads: Array, factors: Array, shape: HidingShape) -> Array:
    """Return the polynomial Σ by_r · row_r + Σ X_r · Y_r, from codes of rows (leaves, words)."""
    sums = np.zeros((len(pads), 2), np.uint64)
    rows = 1 << shape.rows
    for own, code in ((by[:, :rows], pads), (by[:, rows:], factors)):
        encoded = kernels.encode(own.reshape(len(own), -1), None, shape.size)
        sums = field.add(sums, _row_products(encoded, code))
    half = factors.shape[1] // 2
    sums = field.add(sums, _row_products(factors[:, :half], factors[:, half:]))
    return interpolate(sums)[: 2 * shape.coefficients - 1]


def _row_products(a: Array, b: Array) -> Array:
    """Return Σ_r a_r b_r in K at each place, for codes (leaves, 2 · rows)."""
    return field.total(field.mul_k(*(one.reshape(len(one), -1, 2) for one in (a, b))), axis=1)


def interpolate(code: Array) -> Array:
    """Return the coefficients of the polynomials that were encoded: the inverse of `field.encode`."""
    length = len(code)
    natural = np.empty_like(code)
    natural[np.concatenate([4 * _reversed(length // 4) + s for s in range(4)])] = code  # by powers of the generator
    sums = field.transform(natural)  # at g^m: Σ_j code_j g^(jm)
    coefficients = sums[_reversed(length)][-np.arange(length) % length]
    return field.mul(coefficients, np.array([pow(length, P - 2, P)], np.uint64))


def _reversed(size: int) -> NDArray[np.int64]:
    """Return numbers below a power of two with their bits reversed."""
    out = np.zeros(1, np.int64)
    while len(out) < size:
        out = np.concatenate([2 * out, 2 * out + 1])
    return out


def _counted(spent: int, uses: int) -> int:
    """Return the number of uses after one more."""
    if spent >= uses:
        raise ProofError(
            "proof.uses-spent",
            "what hides a commitment is used up: one more opening would tell of what is in it",
            hint="commit again",
        )
    return spent + 1
