"""Masked messages, as their verifier hears them (docs/spec/proof-zk.md, "Masked messages").

The prover adds a pad to every element of K that it says, and has committed to all pads before. What a message means is
then a `Hidden` number: the verifier computes with it as with any other, but sees only which affine form in the pads
comes out. What has to be zero is collected; one last argument shows all of it.

- The verifier's steps are those of the succinct mode, line by line: `Hidden` is a `K`.
- A hidden number has no value here: comparing, hashing, binding or encoding one is an error of the program.
- Only messages are multiplied with each other; their product is that of two pads and an affine form.

Example:
    >>> transcript = MaskedVerifier(proof)
    >>> a, b, c = transcript.receive_elements("factors", 3)
    >>> transcript.require_zero(K(3) * a * b - c, error)  # collected
    >>> transcript.finish()  # hears the last argument
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable

from mitai.errors import ProofError
from mitai.proof import field
from mitai.proof.field import NON_RESIDUE, ONE, ZERO, K, P
from mitai.proof.transcript import Transcript, Verifier
from mitai.proof.verify import soundness
from mitai.proof.verify.hiding import Equation, Opening, check_hidden, receive_pads

MINUS = ZERO - ONE
COUNT_BYTES = 8


class Hidden(K):
    """An element of K that the verifier does not see: a node of its equations.

    The parts `a` and `b` of other elements are not there: whoever asks for them gets an `AttributeError`.
    """

    __slots__ = ("equations", "node")

    def __init__(self, equations: Equations, node: int) -> None:
        self.equations, self.node = equations, node

    def __add__(self, other: K) -> K:
        """Return the sum."""
        if isinstance(other, Hidden):
            return self.equations.affine(ZERO, (ONE, self), (ONE, other))
        return self.equations.affine(other, (ONE, self))

    __radd__ = __add__

    def __sub__(self, other: K) -> K:
        """Return the difference."""
        if isinstance(other, Hidden):
            return self.equations.affine(ZERO, (ONE, self), (MINUS, other))
        return self.equations.affine(ZERO - other, (ONE, self))

    def __rsub__(self, other: K) -> K:
        """Return the difference of a number that is not hidden and this."""
        return self.equations.affine(other, (MINUS, self))

    def __mul__(self, other: K) -> K:
        """Return the product; of two hidden numbers only if they are messages."""
        if isinstance(other, Hidden):
            return self.equations.product(self, other)
        return self.equations.affine(ZERO, (other, self))

    __rmul__ = __mul__

    def __eq__(self, other: object) -> bool:
        """Refuse: nobody knows."""
        raise TypeError("hidden numbers can't be compared")

    def __hash__(self) -> int:
        """Refuse, as for equality."""
        raise TypeError("hidden numbers have no hash")

    def __repr__(self) -> str:
        """Return no number."""
        return f"Hidden({self.node})"


class Equations:
    """What has to hold, in numbers that are hidden: nodes, each a constant and terms in nodes before it.

    Kept as plain words, as there are many: Python's collector of garbage has nothing to look at.

    Attributes:
        zeros: Nodes that have to be zero.
    """

    def __init__(self) -> None:
        self.zeros: list[int] = []
        self._constants = array("Q")  # a, b
        self._terms = array("Q")  # a and b of the coefficient, node
        self._ends = array("Q")  # of each node's terms
        self._messages: dict[int, int] = {}  # numbers by node
        self._products: dict[int, tuple[int, int]] = {}  # numbers of messages by node
        self._openings: dict[int, Callable[[K], Opening]] = {}  # by place in `zeros`

    def affine(self, constant: K, *terms: tuple[K, Hidden]) -> Hidden:
        """Return constant + Σ coefficient · node."""
        self._constants.extend((constant.a, constant.b))
        for factor, before in terms:
            self._terms.extend((factor.a, factor.b, before.node))
        self._ends.append(len(self._terms))
        return Hidden(self, len(self._ends) - 1)

    def message(self, said: K) -> Hidden:
        """Return what a message means: what was said, less the next pad."""
        heard = self.affine(said)
        self._messages[heard.node] = len(self._messages)
        return heard

    def product(self, one: Hidden, other: Hidden) -> Hidden:
        """Return (s − p)(t − q) = s (t − q) + t (s − p) − s t + p q, for messages s and t with pads p and q."""
        if one.node not in self._messages or other.node not in self._messages:
            raise TypeError("only messages can be multiplied while they are hidden")
        s, t = (K(*self._constants[2 * each.node : 2 * each.node + 2]) for each in (one, other))
        out = self.affine(ZERO - s * t, (s, other), (t, one))
        self._products[out.node] = self._messages[one.node], self._messages[other.node]
        return out

    def require_opened(self, value: K, opening: Callable[[K], Opening]) -> None:
        """Collect that a number is what a commitment has: its opening, times a factor."""
        self._openings[len(self.zeros)] = opening
        self.zeros.append((value if isinstance(value, Hidden) else self.affine(value)).node)

    @property
    def messages(self) -> int:
        """How many messages there were."""
        return len(self._messages)

    def combined(self, by: K) -> tuple[Equation, list[Opening]]:
        """Return the sum of all equations, each times a power of `by`: what it says of pads and of commitments."""
        openings, power = [], ONE
        a, b = ([0] * len(self._ends) for _ in range(2))  # what each node counts
        for place, node in enumerate(self.zeros):
            a[node], b[node] = a[node] + power.a, b[node] + power.b
            if place in self._openings:
                openings.append(self._openings[place](ZERO - power))
            power = power * by
        first = second = 0
        constants, terms, ends = self._constants.tolist(), self._terms.tolist(), [0, *self._ends.tolist()]
        for node in reversed(range(len(a))):
            x, y = a[node], b[node] = a[node] % P, b[node] % P
            c, d = constants[2 * node : 2 * node + 2]
            first -= x * c + NON_RESIDUE * y * d
            second -= x * d + y * c
            for at in range(ends[node], ends[node + 1], 3):
                c, d, before = terms[at : at + 3]
                a[before] += x * c + NON_RESIDUE * y * d
                b[before] += x * d + y * c
        linear = field.array(K(-a[node] % P, -b[node] % P) for node in self._messages)
        factors = field.array(K(a[node], b[node]) for node in self._products)
        return Equation(linear, list(self._products.values()), factors, K(first % P, second % P)), openings


class MaskedTranscript(Transcript):
    """What both sides of masked messages share."""

    def bind_mode(self, uses: int) -> None:
        """Take in that messages are masked, and how often commitments to weights are used."""
        self.bind("masked", uses.to_bytes(8, "little"))

    def bind_claim(self, _value: K, point: Iterable[K]) -> None:
        """Take in a claim's point alone: its value follows from messages and challenges, which are bound."""
        self.bind_elements("claim", *point)


class MaskedVerifier(MaskedTranscript, Verifier):
    """A verifier of masked messages.

    Attributes:
        equations: What has to hold if the prover did not deceive.
    """

    def __init__(self, proof: bytes, uses: int) -> None:
        super().__init__(proof)
        self.equations = Equations()
        self.bind_mode(uses)
        self._count = int.from_bytes(self.receive_bytes("count", COUNT_BYTES), "little")
        self._pads = receive_pads(self, self._count)

    def receive_elements(self, label: str, count: int) -> list[K]:
        """Hear elements of K, each with a pad."""
        return [self.equations.message(said) for said in super().receive_elements(label, count)]

    def weighted(self, *terms: tuple[K, K]) -> K:
        """Return the sum of factors times numbers, as one node."""
        hidden = [(factor, number) for factor, number in terms if isinstance(number, Hidden)]
        if len(hidden) == len(terms):
            return self.equations.affine(ZERO, *hidden)
        known = super().weighted(*(term for term in terms if not isinstance(term[1], Hidden)))
        return self.equations.affine(known, *hidden)

    def require_zero(self, value: K, error: ProofError) -> None:
        """Collect what is hidden; refuse the rest at once."""
        if isinstance(value, Hidden):
            self.equations.zeros.append(value.node)
        else:
            super().require_zero(value, error)

    def require_not_zero(self, value: K, error: ProofError) -> None:
        """Nothing: it is asked for where zero is no likelier than the error that was added already."""

    def finish(self) -> None:
        """Hear that all equations hold, and the end of the proof."""
        if self._count != self.equations.messages:
            raise ProofError("proof.malformed", "there are other messages than pads for them", step="pads")
        self.error += soundness.joined(max(len(self.equations.zeros), 1))
        equation, openings = self.equations.combined(self.challenge("equations"))
        check_hidden(self, self._pads, equation, openings)
        super().finish()
