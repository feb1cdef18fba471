"""Secret arrays, and what an engine does with them: the interface that models are written against.

An engine is one party's end of a protocol (`docs/spec/mpc.md`); all parties run the same program, each on its shares.
What is here is the same for all protocols: sums, changes of shape and products with public integers are local, on each
part of a share by itself. Everything else is the engine's.

Invariants:

- The program, its shapes and the order of operations depend on nothing secret: every party, and the dealer, who has no
  data at all, walk through the same operations.
- A secret's `fraction` says how many bits of it are fraction. Operands of a sum have the same; products add them, and
  are cut back to the engine's own fraction.
- A secret tells nothing of itself: no `repr` of shares, no truth value, no comparison but `Engine.less`.

Example:
    >>> from mitai.mpc.clear import ClearEngine
    >>> engine = ClearEngine()
    >>> x = engine.input("client", (2,), np.array([1.5, -2.0]))
    >>> engine.reveal(x * x + x)
    array([3.75, 2.  ])
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from types import EllipsisType

import numpy as np

from mitai.errors import MpcError
from mitai.mpc.ring import FRACTION_BITS, WINDOW_BITS, Real, Ring, encode
from mitai.mpc.spline import Octaves, Spline

Shape = tuple[int, ...]
Place = int | slice | None | EllipsisType
Index = Place | tuple[Place, ...]


class Secret:
    """An array that no single party knows, as one party holds it: one or more `parts` of the array's shape."""

    __slots__ = ("engine", "fraction", "parts")

    def __init__(self, engine: Engine, parts: tuple[Ring, ...], fraction: int) -> None:
        self.engine = engine
        self.parts = parts
        self.fraction = fraction

    @property
    def shape(self) -> Shape:
        """The array's shape."""
        return self.parts[0].shape

    @property
    def size(self) -> int:
        """The number of elements."""
        return self.parts[0].size

    def __repr__(self) -> str:
        return f"Secret(shape={self.shape}, fraction={self.fraction})"

    def __bool__(self) -> bool:
        raise TypeError("a secret has no truth value: use Engine.less and Engine.select")

    def map(self, function: Callable[[Ring], Ring], fraction: int | None = None) -> Secret:
        """Apply a function that is linear over the ring (a change of shape, a sum …) to every part."""
        return Secret(self.engine, tuple(map(function, self.parts)), self.fraction if fraction is None else fraction)

    # --- shapes ---

    def reshape(self, *shape: int) -> Secret:
        """As numpy's."""
        return self.map(lambda part: part.reshape(shape))

    def transpose(self, *axes: int) -> Secret:
        """As numpy's, with axes in full."""
        return self.map(lambda part: part.transpose(axes))

    def swap(self) -> Secret:
        """Return it with its last two axes exchanged."""
        return self.map(lambda part: part.swapaxes(-1, -2))

    def broadcast_to(self, shape: Shape) -> Secret:
        """As numpy's."""
        return self.map(lambda part: np.broadcast_to(part, shape))

    def __getitem__(self, index: Index) -> Secret:
        return self.map(lambda part: part[index])

    def sum(self, axis: int, *, keepdims: bool = False) -> Secret:
        """As numpy's."""
        return self.map(lambda part: part.sum(axis, dtype=np.uint64, keepdims=keepdims))

    # --- arithmetic ---

    def __neg__(self) -> Secret:
        return self.map(np.negative)

    def __add__(self, other: Secret | Real | float) -> Secret:
        if not isinstance(other, Secret):
            return self.engine.add_public(self, encode(other, self.fraction))
        if other.fraction != self.fraction:
            raise ValueError(f"a sum of secrets with {self.fraction} and {other.fraction} bits of fraction")
        parts = tuple(a + b for a, b in zip(self.parts, other.parts, strict=False))  # a masked one becomes ordinary
        return Secret(self.engine, parts, self.fraction)

    def __sub__(self, other: Secret | Real | float) -> Secret:
        return self + (-other)

    def __radd__(self, other: Real | float) -> Secret:
        return self + other

    def __rsub__(self, other: Real | float) -> Secret:
        return -self + other

    def __mul__(self, other: Secret | Real | float) -> Secret:
        return self.engine.multiply(self, other) if isinstance(other, Secret) else self.engine.scale(self, other)

    def __rmul__(self, other: Real | float) -> Secret:
        return self * other

    def __matmul__(self, other: Secret) -> Secret:
        return self.engine.matmul(self, other)

    def times(self, factors: int | Ring) -> Secret:
        """Multiply by public integers; the fraction stays as it is."""
        return self.map(lambda part: part * np.uint64(factors) if isinstance(factors, int) else part * factors)


class Weight:
    """A secret matrix [in, out] that is prepared once for many products; each engine has its own kind."""

    shape: tuple[int, int]


class Engine(ABC):
    """One party's end of a protocol."""

    fraction = FRACTION_BITS
    window = WINDOW_BITS

    # --- in and out ---

    @abstractmethod
    def input(self, owner: str, shape: Shape, values: Real | None = None, fraction: int | None = None) -> Secret:
        """Share an array of real numbers; the party that has it gives `values`, the others None.

        Args:
            owner: Whose it is: `client` or `model`.
            shape: Its shape, which is public.
            values: What is shared, where this end is the owner's.
            fraction: Bits of fraction; the engine's when not given. 0 for integers.
        """

    @abstractmethod
    def reveal(self, x: Secret) -> Real:
        """Open an array to all parties that compute; zeros at a dealer."""

    @abstractmethod
    def constant(self, values: Real | float, shape: Shape | None = None, fraction: int | None = None) -> Secret:
        """Return public numbers as a secret, to be used beside others."""

    @abstractmethod
    def add_public(self, x: Secret, values: Ring) -> Secret:
        """Add public ring elements, of the secret's fraction."""

    # --- products; results are cut back to the engine's fraction unless they have no more than that ---

    @abstractmethod
    def truncate(self, x: Secret, fraction: int | None = None) -> Secret:
        """Cut the fraction down, to the engine's when none is given; off by less than 2 units of the last place.

        The result, with its fraction, has to lie within the engine's window; then no large error can happen.
        """

    def truncate_all(self, *secrets: Secret) -> tuple[Secret, ...]:
        """Cut several secrets, of any fractions above the engine's, down to that, at the price of one round."""
        return tuple(map(self.truncate, secrets))

    @abstractmethod
    def multiply(self, x: Secret, y: Secret) -> Secret:
        """Multiply element by element, with numpy's broadcasting."""

    @abstractmethod
    def matmul(self, x: Secret, y: Secret) -> Secret:
        """Multiply matrices: the last two axes, the axes before equal."""

    def masked(self, x: Secret) -> Secret:
        """Open a secret as a factor once, for all products that it, parts of it, and what they are put into will be in.

        What comes back is the same secret, to be sliced, reshaped, and put together with others of its kind, in this
        run and in later ones. Beside an ordinary one it is ordinary. For keys and values that are kept.
        """
        return x

    @abstractmethod
    def weight(self, w: Secret) -> Weight:
        """Prepare a matrix [in, out] for `linear`."""

    def tied(self, w: Secret, fold: int = 1) -> tuple[Weight, Weight]:
        """Prepare a matrix and its transpose: a table of embeddings that is the head, too, and is kept once.

        Args:
            w: The matrix [in, out].
            fold: How many of its rows are beside one another in the first result, [in / fold, fold · out].
        """
        rows, columns = w.shape
        return self.weight(w.reshape(rows // fold, fold * columns)), self.weight(w.swap())

    @abstractmethod
    def linear(self, x: Secret, w: Weight, bias: Secret | None = None) -> Secret:
        """Return x [..., in] times the weight, plus a bias that broadcasts to [..., out]."""

    def scale(self, x: Secret, factor: Real | float) -> Secret:
        """Multiply by public real numbers."""
        values = encode(factor, self.fraction)
        return self.truncate(x.map(lambda part: part * values, x.fraction + self.fraction), x.fraction)

    # --- what is not linear ---

    @abstractmethod
    def less(self, x: Secret, y: Secret | float) -> Secret:
        """Return 1 where x < y and 0 elsewhere, with no fraction. The difference has to lie within the window."""

    def select(self, bit: Secret, x: Secret, y: Secret) -> Secret:
        """Return x where the bit is 1 and y where it is 0."""
        return y + self.multiply(bit, x - y)

    @abstractmethod
    def spline(self, x: Secret, table: Spline, within: tuple[float, float] | None = None) -> Secret:
        """Return a function of each element; x has the engine's fraction.

        Args:
            x: Anything within the window, or within a range that is known.
            table: The function.
            within: That range, both ends included. A narrow one can save a round.
        """

    @abstractmethod
    def octaves(self, x: Secret, table: Octaves) -> Secret:
        """Return a power of each element, with the table's fraction, to a relative error of about 2^-16.

        x may have any fraction. It has to be below 2^table.high, and 2^table.low at least 2^-28 of that.
        """

    @abstractmethod
    def upper(self, x: Secret) -> Secret:
        """Return a number that is at least the maximum of the last axis (kept, of length 1), and above it by at most 4.

        x lies from -382 up to 128, and what is below -128 counts as that.
        """

    def gumbel(self, shape: Shape) -> Secret:
        """Return random numbers of the standard Gumbel distribution that nobody who computes knows or chooses.

        The index of the largest of log(w_i) plus such numbers has the probability w_i / sum(w).

        Raises:
            MpcError: `mpc.no-noise`: this setting has nobody who could draw them.
        """
        raise MpcError("mpc.no-noise", f"this setting can't draw {shape} random numbers: use temperature 0")


def concatenate(secrets: Sequence[Secret], axis: int) -> Secret:
    """As numpy's, for secrets of one engine and fraction."""
    first = secrets[0]
    if any(secret.fraction != first.fraction for secret in secrets):
        raise ValueError("secrets with different fractions can't be put together")
    parts = zip(*(secret.parts for secret in secrets), strict=False)  # masked ones become ordinary beside others
    return Secret(first.engine, tuple(np.concatenate(part, axis) for part in parts), first.fraction)
