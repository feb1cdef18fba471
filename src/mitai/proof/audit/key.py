"""An auditor's key: what it takes to check products with a model's weights, without the weights (docs/spec/audit.md).

- It is made from weights that were just found to be those behind the card's root.
- It is a secret from whoever makes traces: with it, false products can be made that pass. Nothing prints it.
- It tells something about the weights: biases and gains as they are, and two linear equations for each row.

Example:
    >>> key = make_key(Prepared.open(Path("prepared")))
    >>> AuditKey.parse(key.encode()).model
    '5f1c…'
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
import numpy as np

from mitai.errors import ParseError, ProofError
from mitai.proof import field
from mitai.proof.audit.freivalds import projected, vector
from mitai.proof.audit.plan import Plan, Product
from mitai.proof.field import Array
from mitai.proof.operation import Ints, signed, wide
from mitai.proof.prepared import Prepared
from mitai.proof.stored import are_committed

MAX_KEY_BYTES = 1 << 31
WORD = 8

Identity = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class AuditKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A secret of one auditor.

    Attributes:
        v: The format.
        model: The identity.
        vector: Secret elements of K.
        projections: For `weight:axis` the weight times the vector along that axis, elements of K.
        plain: Weights that are used otherwise, 8 bytes a number.
    """

    v: Literal["mitai proof audit key v1"] = "mitai proof audit key v1"
    model: Identity
    vector: bytes
    projections: dict[str, bytes]
    plain: dict[str, bytes]

    def __repr__(self) -> str:
        """Return it without secrets."""
        return f"AuditKey(model={self.model!r})"

    def encode(self) -> bytes:
        """Return the one encoding."""
        return msgspec.msgpack.encode(self, order="deterministic")

    @staticmethod
    def parse(data: bytes) -> AuditKey:
        """Read a file.

        Raises:
            ParseError: `proof.audit-key-malformed`.
        """
        code = "proof.audit-key-malformed"
        if len(data) > MAX_KEY_BYTES:
            raise ParseError(code, f"{len(data)} bytes are too many for an auditor's key")
        try:
            read = msgspec.msgpack.decode(data, type=AuditKey)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            raise ParseError(code, "these bytes are no auditor's key") from None
        if read.encode() != data:
            raise ParseError(code, "the key is not in its one encoding")
        return read


class Keyed:
    """A key's arrays, for the program of one answer.

    Raises:
        ProofError: `proof.audit-key-differs`: the key is not for such programs.
    """

    def __init__(self, key: AuditKey, plan: Plan) -> None:
        weights = plan.program.weights
        names = {_name(product): product for product in plan.products.values()}
        if key.projections.keys() != names.keys() or set(key.plain) != set(plan.plain):
            raise _differs()
        self.vector = _elements(key.vector, (vector_length(plan), 2))
        self._projections = {}
        for name, product in names.items():
            shape = [size for axis, size in enumerate(weights[product.weight].shape) if axis != product.axis]
            self._projections[name] = _elements(key.projections[name], (*shape, 2))
        self.plain = {name: _words(key.plain[name], weights[name].shape).view("<i8") for name in plan.plain}
        for name, array in self.plain.items():
            low, high = signed(weights[name].bits)
            if array.min() < low or array.max() > high:
                raise _differs()

    def projection(self, product: Product) -> Array:
        """Return what stands for a product's weight, its axes in the order of the product."""
        own = sorted(product.order)
        axes = [own.index(axis) for axis in product.order]
        return self._projections[_name(product)].transpose(*axes, len(axes))


def make_key(prepared: Prepared) -> AuditKey:
    """Make a key for a model, after checking that the folder's weights are those behind its card's root.

    Raises:
        ProofError: `proof.prepared-damaged`: they are not. `proof.audit-unsupported`: the model's proofs hide its
            weights, of which a key would tell.
    """
    if prepared.card.uses:
        raise ProofError(
            "proof.audit-unsupported",
            "the model is one whose proofs hide its weights, and a key would tell of them",
            hint="prepare it without --zk",
        )
    program = prepared.card.program(1, 1)
    if not are_committed(prepared.weights, program):
        raise ProofError(
            "proof.prepared-damaged", "the weights are not those that the model's card names", hint="prepare it again"
        )
    return key_of(prepared.card.identity, Plan.of(program), prepared.weights.arrays)


def key_of(model: str, plan: Plan, weights: Mapping[str, Ints]) -> AuditKey:
    """Make a key from weights of which the caller knows that they are the model's."""
    secret = vector(vector_length(plan))
    projections = {
        _name(product): _encoded(projected(weights[product.weight], product.axis, secret))
        for product in plan.products.values()
    }
    plain = {name: wide(weights[name]).astype("<i8").tobytes() for name in plan.plain}
    return AuditKey(model=model, vector=_encoded(secret), projections=projections, plain=plain)


def vector_length(plan: Plan) -> int:
    """Return how many elements a key's vector has: each product takes the beginning of it."""
    return max(plan.value(step).shape[-1] for step in plan.products)


def _name(product: Product) -> str:
    return f"{product.weight}:{product.axis}"


def _encoded(elements: Array) -> bytes:
    return elements.astype("<u8").tobytes()


def _elements(data: bytes, shape: tuple[int, ...]) -> Array:
    words = _words(data, shape)
    if not field.is_canonical(words):
        raise _differs()
    return words


def _words(data: bytes, shape: tuple[int, ...]) -> Array:
    if len(data) != WORD * int(np.prod(shape)):
        raise _differs()
    return np.frombuffer(data, "<u8").reshape(shape)


def _differs() -> ProofError:
    return ProofError(
        "proof.audit-key-differs",
        "the key is not for answers of this model",
        step="key",
        hint="mitai proof audit-key makes one",
    )
