"""Look-ups (docs/spec/proof.md, "Look-ups"): all entries of some columns are entries of a public table.

- Columns and multiplicities are committed to, and bound, before the first call here.
- What is returned are claims on columns and multiplicities; who does not show them has shown nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from mitai.errors import ProofError
from mitai.proof import field
from mitai.proof.field import ONE, ZERO, K, P, Point
from mitai.proof.transcript import Transcript, Verifier
from mitai.proof.verify import soundness
from mitai.proof.verify.claims import Claim, places, powers_sum
from mitai.proof.verify.sumcheck import check_rounds

MAX_TABLE = 1 << 16
MAX_LOG = 34


class Table:
    """A public table: for each x of an interval the entry (x, f(x), g(x) …), of some functions or of none.

    The last entry is repeated up to a power of two.

    Args:
        numbers: the interval, one number after the other; at most 2^16.
        functions: the values of each function, as many integers of at most 2^62 in magnitude.

    Attributes:
        components: the residues of x and of each function's values, 2^log of each.
    """

    def __init__(self, numbers: NDArray[np.int64], *functions: NDArray[np.int64]) -> None:
        self.size = numbers.size
        if not 0 < self.size <= MAX_TABLE or any(each.shape != (self.size,) for each in (numbers, *functions)):
            raise ProofError("proof.statement-invalid", f"a table has 1 to {MAX_TABLE} entries")
        if (np.diff(numbers) != 1).any():
            raise ProofError("proof.statement-invalid", "a table is over an interval of integers")
        self.lo, self.log = int(numbers[0]), (self.size - 1).bit_length()
        padding = (0, (1 << self.log) - self.size)
        self.components = tuple(field.signed(np.pad(each, padding, "edge")) for each in (numbers, *functions))

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 over all residues, little-endian, one component after the other."""
        return sha256(b"".join(component.astype("<u8").tobytes() for component in self.components)).digest()

    def evaluate(self, point: Point) -> list[K]:
        """Return the multilinear extension of each component."""
        out = [field.evaluate(component, point) for component in self.components[1:]]
        if self.size < 1 << self.log:
            return [field.evaluate(self.components[0], point), *out]
        return [K(self.lo % P) + powers_sum(K(2), point[::-1]), *out]  # x is lo and bits, which are coordinates


def logs(shape: Sequence[int]) -> list[int]:
    """Return the bits of each axis of an array that is padded to powers of two."""
    if any(size < 1 for size in shape):
        raise ProofError("proof.statement-invalid", "an axis has no elements")
    return [(size - 1).bit_length() for size in shape]


def inside(shape: Sequence[int], point: Point) -> K:
    """Return the multilinear extension of the function that is 1 within a shape and 0 in its padding."""
    out, at = ONE, 0
    for size, log in zip(shape, logs(shape), strict=True):
        out = out * _below(size, point[at : at + log])
        at += log
    return out


def _below(size: int, point: Point) -> K:
    """Return the multilinear extension of x < size, for size up to 2^len(point)."""
    if size == 1 << len(point):
        return ONE
    out = ZERO  # equal numbers are not below
    for place, coordinate in enumerate(reversed(point)):
        out = coordinate * out + (ONE - coordinate) if size >> place & 1 else (ONE - coordinate) * out
    return out


def bind_statement(transcript: Transcript, shapes: Sequence[Sequence[int]], table: Table) -> tuple[list[int], int]:
    """Bind shapes and table; return where columns are placed, and the log of the size of the whole."""
    offsets, log = places([sum(logs(shape)) for shape in shapes])
    if not shapes or log > MAX_LOG:
        raise ProofError("proof.statement-invalid", f"there are 1 to 2^{MAX_LOG} look-ups")
    transcript.bind("table", table.digest)
    for shape in shapes:
        transcript.bind("column", b"".join(size.to_bytes(8, "little") for size in shape))
    return offsets, log


def check_lookups(
    transcript: Verifier, shapes: Sequence[Sequence[int]], table: Table, work: int = 0
) -> tuple[list[list[Claim]], Claim]:
    """Check that all entries of columns are in a table.

    Args:
        transcript: where the messages come from; columns and multiplicities were bound.
        shapes: the true shape of each column; each has as many arrays as the table has components.
        table: the table.
        work: how many bits of it come before the challenges.

    Returns:
        For each column a claim for each component, as an array of its own (offset 0); then the claim on multiplicities.
    """
    offsets, log = bind_statement(transcript, shapes, table)
    width = len(table.components)
    transcript.work(work)
    alpha, beta = transcript.challenges("look-ups", 2)
    transcript.error += soundness.lookups(log, table.log, width) / (1 << work)

    top, bottom, point, p, q = check_fractions(transcript, log)
    said = transcript.receive_elements("columns", len(shapes) * width)
    columns = [said[i : i + width] for i in range(0, len(said), width)]
    claims = []
    for shape, offset, components in zip(shapes, offsets, columns, strict=True):
        bits = sum(logs(shape))
        prefix, own = point[: log - bits], point[log - bits :]
        chosen = field.equal(field.bits(offset >> bits, log - bits), prefix)
        p = p - chosen * inside(shape, own)
        q = q + chosen * powers_sum(beta, components)
        claims.append([Claim(own, component) for component in components])
    for zero in (p, q - alpha):
        error = ProofError("proof.lookup-refuted", "columns are not what was looked up", step="columns")
        transcript.require_zero(zero, error)

    table_top, table_bottom, point, p, q = check_fractions(transcript, table.log)
    error = ProofError("proof.lookup-refuted", "the table is not the one that was looked up in", step="table")
    transcript.require_zero(q - (alpha - powers_sum(beta, table.evaluate(point))), error)
    error = ProofError("proof.lookup-refuted", "an entry of a column is not in the table", step="sums")
    transcript.require_zero(top * table_bottom - table_top * bottom, error)
    transcript.require_not_zero(bottom, error)
    transcript.require_not_zero(table_bottom, error)
    return claims, Claim(point, p)


def check_fractions(transcript: Verifier, log: int) -> tuple[K, K, list[K], K, K]:
    """Check a sum of 2^log fractions.

    Returns:
        Numerator and denominator of the sum, then a point, and what the extensions of numerators and denominators must
        have there for that to be the sum.
    """
    top, bottom = p, q = transcript.receive_elements("sum", 2)
    point: list[K] = []
    for layer in range(log):
        by = transcript.challenge("layer")
        left, value = check_rounds(transcript, p + by * q, point)
        p0, p1, q0, q1 = transcript.receive_elements("halves", 4)
        error = ProofError("proof.fractions-refuted", "fractions do not add up", step=f"layer {layer}")
        transcript.require_zero(p0 * q1 + q0 * p1 + by * (q0 * q1) - value, error)
        half = transcript.challenge("half")
        point = [half, *left]
        p, q = p0 + half * (p1 - p0), q0 + half * (q1 - q0)
        transcript.error += soundness.joined(2) + soundness.joined(2)  # by, half
    return top, bottom, point, p, q
