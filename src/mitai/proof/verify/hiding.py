"""The last argument of a proof that hides: one equation of committed numbers (docs/spec/proof-zk.md, "Last argument").

The prover has committed to random numbers, *pads*, and to arrays, all of them hiding. It shows one equation

    Σ_j linear_j · pad_j  +  Σ factor · pad_left · pad_right  +  Σ_k Σ_c weights_k,c · u_k,c  =  constant

where u_k is the combination of the k-th array's rows at a point of challenges, and nothing beyond that.

- Whatever is sent is masked, but for what the equation itself says.
- Work and length follow from the number of pads and products and from the arrays' sizes alone.
- The equation is bound before anything is drawn here; pads and arrays were bound before the equation was known.

Example:
    >>> root = receive_pads(verifier, 1000)
    >>> ...  # messages plus pads; challenges
    >>> check_hidden(verifier, root, Equation(linear, [(4, 5)], factors, K(7)), [Opening(weights, 20, 64, point, q)])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from mitai.errors import ProofError
from mitai.proof import field
from mitai.proof.field import ONE, Array, K, Point
from mitai.proof.transcript import HASH_BYTES, Transcript, Verifier
from mitai.proof.verify import soundness
from mitai.proof.verify.commitment import MAX_LOG, check_paths, leaf_hashes
from mitai.proof.verify.soundness import HIDING_QUERIES, LOG_BLOWUP

SALTED = b"\x02"  # first byte of what is hashed to a leaf
MAX_USES = 1 << 12


@dataclass(frozen=True)
class HidingShape:
    """How 2^(positions + rows) elements are a matrix whose rows are encoded with random coefficients at their ends.

    Attributes:
        positions: The log of the number of elements in a row.
        rows: The log of the number of rows.
        margin: How many random coefficients each row has: no more places may ever be shown.
        leaves: The log of the number of encoded columns.
    """

    positions: int
    rows: int
    margin: int
    leaves: int

    @classmethod
    def of(cls, log: int, uses: int = 1, *, multiplied: bool = False) -> HidingShape:
        """Return the shape of 2^log elements that can be opened so often; of rows whose products are words, too."""
        if not 0 <= log <= MAX_LOG or not 1 <= uses <= MAX_USES:
            raise ProofError(
                "proof.statement-invalid",
                f"arrays of up to 2^{MAX_LOG} elements can be hidden, for up to {MAX_USES} uses",
            )
        margin = uses * HIDING_QUERIES
        rows = max(0, min((log - 6) // 2, log - (-(-2 * margin // 3) - 1).bit_length()))
        degree = ((1 << log - rows) + margin) << multiplied
        return cls(log - rows, rows, margin, (-(-16 * degree // 5) - 1).bit_length())

    @classmethod
    def of_pads(cls, count: int) -> HidingShape:
        """Return the shape of so many pads: elements of K, so that a row of it is two that are encoded."""
        return cls.of(max(count - 1, 0).bit_length(), multiplied=True)

    @property
    def coefficients(self) -> int:
        """The number of coefficients of an encoded row."""
        return (1 << self.positions) + self.margin

    @property
    def size(self) -> int:
        """A fourth of the number of encoded columns."""
        return 1 << self.leaves - LOG_BLOWUP

    def factor_rows(self, products: int) -> int:
        """Return how many rows of this length the left factors of products have, and the right ones again."""
        return 1 << (max(-(-products >> self.positions), 1) - 1).bit_length()


@dataclass(frozen=True)
class Equation:
    """Σ linear_j · pad_j + Σ factor · pad_left · pad_right + what the openings add = constant.

    Attributes:
        linear: For each pad, (pads, 2).
        products: The left and the right pad of each.
        factors: What each product counts, (products, 2).
        constant: The right side.
    """

    linear: Array
    products: Sequence[tuple[int, int]]
    factors: Array
    constant: K


@dataclass(frozen=True)
class Opening:
    """What a committed array adds to the equation: Σ_c weights_c · u_c for u_c = Σ_r eq(point, r) · array(c, r).

    Attributes:
        root: The commitment.
        log: The log of the array's size.
        uses: How often it may be opened.
        point: A challenge for each bit of a row's number.
        weights: (2^positions, 2).
        work: How many bits of it come before what its error depends on.
    """

    root: bytes
    log: int
    uses: int
    point: Point
    weights: Array
    work: int = 0

    @property
    def shape(self) -> HidingShape:
        """The matrix's shape."""
        return HidingShape.of(self.log, self.uses)


def receive_pads(transcript: Verifier, count: int) -> bytes:
    """Hear the root of the commitment to pads, before anything is said that they hide."""
    transcript.bind("pads", count.to_bytes(8, "little"))
    return transcript.receive_bytes("pads", HASH_BYTES)


def check_hidden(transcript: Verifier, pads: bytes, equation: Equation, openings: Sequence[Opening]) -> None:
    """Check an equation about pads behind a root, and arrays behind other ones.

    1. The prover commits to both factors of each product, and to masks; it says what the masks add to the sum.
    2. Challenges: β joins the equation with those of the factors, δ multiplies all that is masked.
    3. The prover says for each commitment mask + δ · combination of its rows, and mask + δ · polynomial of the sum.
    4. These add up to the constant.
    5. They are encoded, and compared with columns of the commitments.
    """
    count = len(equation.linear)
    shape = HidingShape.of_pads(count)
    bind_equation(transcript, equation, openings)
    # 1. what is fixed
    factors = transcript.receive_bytes("products", HASH_BYTES)
    masks = [transcript.receive_bytes("mask", HASH_BYTES) for _ in range(1 + len(openings))]
    [masked_sum] = field.elements(transcript.receive_k("sum", 1))
    # 2. what is drawn
    transcript.work(most_work(openings))
    beta, delta, fold = draw(transcript, shape, equation)
    # 3. what is masked
    folded = transcript.receive_k("combination", shape.coefficients)
    polynomial = transcript.receive_k("polynomial", 2 * shape.coefficients - 1)
    combinations = [transcript.receive_k("combination", opening.shape.coefficients) for opening in openings]
    # 4. the sum
    total = field.elements(polynomial)[(1 << shape.positions) - 1]
    for opening, one in zip(openings, combinations, strict=True):
        total = total + inner(opening.weights, one[: len(opening.weights)])
    if total != masked_sum + delta * equation.constant:
        raise ProofError("proof.hidden-refuted", "hidden numbers do not satisfy the verifier's equations", step="sum")
    # 5. the columns
    rows = shape.factor_rows(len(equation.products))
    places = transcript.places("columns", HIDING_QUERIES, shape.leaves)
    committed = np.concatenate(
        [
            _columns(transcript, pads, shape, places, 2 << shape.rows),
            _columns(transcript, factors, shape, places, 4 * rows),
        ],
        axis=1,
    )
    mask = _columns(transcript, masks[0], shape, places, 4)
    weights = field.equality(fold)[: committed.shape[1]]
    _compare(mask[:, :2], delta, _fold(weights, committed), field.encode(folded, shape.size)[places])
    words = committed.reshape(len(places), -1, 2)
    by = field.encode(polynomials(equation, shape, beta), shape.size)[places]
    sums = field.total(field.mul_k(by, words), axis=1)
    x, y = words[:, -2 * rows : -rows], words[:, -rows:]
    sums = field.add(sums, field.total(field.mul_k(x, y), axis=1))
    _compare(mask[:, 2:], delta, sums, field.encode(polynomial, shape.size)[places])
    joined = (rows << shape.positions) + len(equation.products)
    transcript.error += soundness.hidden(shape.coefficients, shape.leaves, fold_bits(shape, equation), joined)
    for opening, root, combination in zip(openings, masks[1:], combinations, strict=True):
        _check_opening(transcript, opening, root, delta, combination)


def bind_equation(transcript: Transcript, equation: Equation, openings: Sequence[Opening]) -> None:
    """Bind what is to be shown, before anything of the last argument."""
    pads = np.array(equation.products, np.uint64).reshape(-1, 2)
    if (pads >= len(equation.linear)).any() or equation.factors.shape != pads.shape:
        raise ProofError("proof.statement-invalid", "products are of pads that there are not, or without factors")
    for label, words in (("equation", equation.linear), ("products", pads), ("factors", equation.factors)):
        transcript.bind(label, words.astype("<u8").tobytes())
    transcript.bind_elements("constant", equation.constant)
    for opening in openings:
        shape = opening.shape
        if len(opening.point) != shape.rows or opening.weights.shape != (1 << shape.positions, 2):
            raise ProofError("proof.statement-invalid", "an opening does not fit the size of its array")
        transcript.bind("opening", bytes([opening.log]) + opening.uses.to_bytes(8, "little") + opening.root)
        transcript.bind_elements("point", *opening.point)
        transcript.bind("weights", opening.weights.astype("<u8").tobytes())


def most_work(openings: Sequence[Opening]) -> int:
    """Return how much work comes before the challenges that all openings share."""
    return max((opening.work for opening in openings), default=0)


def draw(transcript: Transcript, shape: HidingShape, equation: Equation) -> tuple[K, K, list[K]]:
    """Draw β, δ and the point at which rows of pads and factors are combined."""
    beta, delta, *fold = transcript.challenges("hidden", 2 + fold_bits(shape, equation))
    return beta, delta, fold


def fold_bits(shape: HidingShape, equation: Equation) -> int:
    """Return the number of coordinates of a row of pads or factors, each of two that are encoded."""
    rows = (2 << shape.rows) + 4 * shape.factor_rows(len(equation.products))
    return (rows - 1).bit_length()


def polynomials(equation: Equation, shape: HidingShape, beta: K) -> Array:
    """Return what each row of K is multiplied with: (2^positions, rows, 2), coefficients of polynomials.

    Rows are those of pads, of left factors X_t = pad_left, and of right ones Y_t = factor · pad_right, which stand in
    the order of positions reversed. X_t is zero where there is no product, so that Y_t does not count there.
    In a product of two polynomials, Σ_c a_c b_c is a coefficient if one of them is reversed: that of
    X^(2^positions − 1).
    """
    size, count = 1 << shape.positions, len(equation.products)
    places = size * shape.factor_rows(count)
    powers, by = [], ONE
    for _ in range(places + count):
        by = by * beta
        powers.append(by)
    x, y = np.zeros((2, places, 2), np.uint64)
    x[:], y[:count] = field.array(powers[:places]), field.array(powers[places:])
    linear = np.zeros((size << shape.rows, 2), np.uint64)
    linear[: len(equation.linear)] = equation.linear
    if count:
        pads = np.array(equation.products, np.int64).T.reshape(-1)
        parts = np.concatenate([x[:count], field.mul_k(y[:count], equation.factors)])
        linear = field.sub(linear, field.total_at(pads, parts, len(linear)))
    own, left, right = (table.reshape(size, -1, 2) for table in (linear, x, y))
    return np.concatenate([own[::-1], left[::-1], right], axis=1)


def inner(a: Array, b: Array) -> K:
    """Return Σ_i a_i b_i of elements of K (n, 2)."""
    return field.elements(field.total(field.mul_k(a, b))[None])[0]


def salted(hashes: Sequence[bytes], salts: bytes) -> list[bytes]:
    """Return the hashes of leaves: of their columns' hashes, each with a salt."""
    own = [salts[at : at + HASH_BYTES] for at in range(0, len(salts), HASH_BYTES)]
    return [sha256(SALTED + one + salt).digest() for one, salt in zip(hashes, own, strict=True)]


def _check_opening(transcript: Verifier, opening: Opening, mask: bytes, delta: K, combination: Array) -> None:
    """Check that mask + δ · combination of an array's rows is what was said."""
    shape = opening.shape
    transcript.work(opening.work)
    places = transcript.places("columns", HIDING_QUERIES, shape.leaves)
    columns = _columns(transcript, opening.root, shape, places, 1 << shape.rows)
    masks = _columns(transcript, mask, shape, places, 2)
    encoded = field.encode(combination, shape.size)[places]
    _compare(masks, delta, _fold(field.equality(opening.point), columns), encoded)
    transcript.error += soundness.hidden_opening(shape.coefficients, shape.leaves, shape.rows) / (1 << opening.work)


def _columns(transcript: Verifier, root: bytes, shape: HidingShape, places: list[int], width: int) -> Array:
    """Hear columns (places, width) of F, and check that they are in a tree."""
    columns = transcript.receive("columns", len(places) * width).reshape(len(places), width)
    salts = transcript.receive_bytes("salts", len(places) * HASH_BYTES)
    leaves = salted(leaf_hashes(columns), salts)
    check_paths(transcript, root, shape.leaves, dict(zip(places, leaves, strict=True)))
    return columns


def _fold(weights: Array, columns: Array) -> Array:
    return field.total(field.scale(weights, columns), axis=1)


def _compare(mask: Array, delta: K, hidden: Array, said: Array) -> None:
    if not np.array_equal(field.add(mask, field.mul_k(hidden, field.array([delta]))), said):
        raise ProofError("proof.column-refuted", "encoded columns are not a part of what was said", step="hidden")
