"""The prover's half of commitments: an array is encoded and hashed, and opened at points (docs/spec/proof.md).

Example:
    >>> array = np.arange(1024, dtype=np.uint64)
    >>> committed = commit(array)
    >>> prover = Prover()
    >>> bind_root(prover, committed.root, 10)
    >>> point = prover.challenges("point", 10)
    >>> claim = Claim(point, field.evaluate(array, point))
    >>> open_claims(prover, committed, [claim])
    >>> verifier = Verifier(prover.proof)
    >>> bind_root(verifier, committed.root, 10)
    >>> verifier.challenges("point", 10) == point
    True
    >>> check_openings(verifier, committed.root, 10, [claim])
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from dataclasses import field as member
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mitai.proof import field, kernels
from mitai.proof.elements import Elements
from mitai.proof.field import ONE, Array, K
from mitai.proof.sumcheck import prove_batch
from mitai.proof.transcript import HASH_BYTES, Prover
from mitai.proof.verify.claims import Claim, bind_claims, powers_sum
from mitai.proof.verify.commitment import LEAF, NODE, Shape
from mitai.proof.verify.hiding import HidingShape
from mitai.proof.verify.soundness import LOG_BLOWUP, QUERIES

Progress = Callable[[int, int], object]  # how much is done, and of how much

KEPT_LOG = 23  # of elements whose code stays in memory: 256 MiB
WORK_ELEMENTS = 1 << 25  # of code at a time
HASHED_ROWS = 8  # at least together, as they are a block of SHA-256
INNER_LOG, LOG_STEP = 6, 12  # see `encoded_at`


class Code(Protocol):
    """A code (groups of rows, leaves, rows of a group): an array, or something of which columns can be read."""

    def __getitem__(self, key: tuple[slice, Sequence[int]], /) -> Array:
        """Return columns of some groups."""


@dataclass(frozen=True)
class Commitment:
    """A root, and what its prover keeps.

    Attributes:
        root: what the verifier gets.
        elements: the 2^log elements of F.
        levels: hashes of the tree, from the leaves up to the root.
        code: the encoded columns (groups of rows, leaves, rows of a group), or None: they are computed again when they
            are asked for.
    """

    root: bytes
    elements: Elements = member(repr=False)
    levels: list[NDArray[np.uint8]] = member(repr=False)
    code: Code | None = member(repr=False, default=None)

    @property
    def log(self) -> int:
        """The log of the array's size."""
        return self.elements.log

    def again(self) -> bytes:
        """Return the root, computed again from the elements."""
        return commit(self.elements, lambda _: None).root

    def columns(self, places: Sequence[int]) -> Array:
        """Return the encoded columns at some places, (places, rows)."""
        return columns_of(self.code, self.elements, self.elements.shape, places)


def commit(
    array: Array | Elements, keep: Callable[[Array], object] | None = None, say: Progress = lambda *_: None
) -> Commitment:
    """Commit to an array of 2^n elements of F, some rows after the other.

    Args:
        array: The elements.
        keep: Gets the code of each group of rows (`code_shape`), in order; a small one is kept in memory by default.
        say: Told how many groups are done, and of how many.
    """
    elements = array if isinstance(array, Elements) else Elements(array)
    hashes, code = encoded(elements, elements.shape, None, keep, say)
    levels = tree_over(hashes)
    return Commitment(levels[-1].tobytes(), elements, levels, code)


def encoded(
    elements: Elements,
    shape: Shape | HidingShape,
    more: Array | None,
    keep: Callable[[Array], object] | None,
    say: Progress,
) -> tuple[NDArray[np.uint8], Array | None]:
    """Encode all rows, with coefficients that follow those of each if there are some; see `commit`.

    Returns:
        The hashes of encoded columns (leaves, 32), and the code if it is small and nobody keeps it.
    """
    groups, leaves, width = code_shape(shape)
    hashes = kernels.Hashes(LEAF, leaves) if groups > 1 else None
    kept = None
    for group in range(groups):
        first, last = group * width, (group + 1) * width
        following = None if more is None else more[:, first:last]
        code = kernels.encode(elements.rows(first, last), following, leaves >> LOG_BLOWUP)
        if keep:
            keep(code)
        if hashes:
            hashes.update(code.astype("<u8", copy=False).view(np.uint8))
        elif not keep and elements.log <= KEPT_LOG:
            kept = code[None]
        say(group + 1, groups)
    return hashes.digests() if hashes else column_hashes(code), kept


def code_shape(shape: Shape | HidingShape) -> tuple[int, int, int]:
    """Return a code's shape: groups of rows that are encoded together, leaves, rows of a group."""
    width = 1 << shape.rows
    while width > HASHED_ROWS and width << shape.leaves > WORK_ELEMENTS:
        width //= 2
    return (1 << shape.rows) // width, 1 << shape.leaves, width


def columns_of(
    code: Code | None, elements: Elements, shape: Shape | HidingShape, places: Sequence[int], more: Array | None = None
) -> Array:
    """Return the columns of a code at some places, (places, rows), computed again if it was not kept."""
    if code is None:
        return encoded_at(elements, shape, places, more)
    return np.moveaxis(code[:, places], 0, 1).reshape(len(places), -1)


def encoded_at(
    elements: Elements, shape: Shape | HidingShape, places: Sequence[int], more: Array | None = None
) -> Array:
    """Return the columns of a code at some places, (places, rows), from numbers alone.

    Coefficients c · 2^m + d are put together by c first, for all that x^(2^m) can be, and by d at the places alone.
    """
    inner = min(INNER_LOG, shape.positions)
    outer, rows = shape.positions - inner, 1 << shape.rows
    powers = field.lift(np.stack([field.power(_point(place, shape.leaves), 1 << outer) for place in places]))
    found = np.zeros((len(places), rows), np.uint64)
    step = min(max(1 << LOG_STEP >> shape.rows, 1), 1 << outer)
    following = None
    if more is not None:
        following = np.zeros((-(-len(more) >> outer), 1 << outer, rows), np.uint64)
        following.reshape(-1, rows)[: len(more)] = more
    for start in range(0, 1 << outer, step):
        firsts = (((c << outer) + start) * rows for c in range(1 << inner))
        part = np.stack([elements.part(first, first + step * rows) for first in firsts])
        rest = None if following is None else following[:, start : start + step].reshape(-1, step * rows)
        code = kernels.encode(part, rest, 1 << shape.leaves - LOG_BLOWUP - outer).reshape(-1, step, rows)
        weights = powers[:, start : start + step]
        sums = [kernels.contract(code[None, place >> outer], one) for place, one in zip(places, weights, strict=True)]
        found = field.add(found, np.concatenate(sums)[:, :, 0])
    return found


def _point(place: int, leaves: int) -> int:
    """Return where the polynomials are evaluated for one of 2^leaves leaves."""
    bits = leaves - LOG_BLOWUP
    coset, k = place >> bits, place & ((1 << bits) - 1)
    reverse = int(f"{k:0{bits}b}"[::-1], 2) if bits else 0
    return pow(field.generator(leaves), coset + (reverse << LOG_BLOWUP), field.P)


def tree(code: Array) -> list[NDArray[np.uint8]]:
    """Return the hashes of a tree over encoded columns (leaves, rows), from the leaves up to the root, (n, 32) each."""
    return tree_over(column_hashes(code))


def column_hashes(code: Array) -> NDArray[np.uint8]:
    """Return the hashes of encoded columns (leaves, rows), as (leaves, 32)."""
    return kernels.hashes(LEAF, np.ascontiguousarray(code.astype("<u8", copy=False)).view(np.uint8))


def tree_over(leaves: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """Return the levels of a tree over hashes (2^n, 32)."""
    levels = [leaves]
    while len(levels[-1]) > 1:
        levels.append(kernels.hashes(NODE, levels[-1].reshape(-1, 2 * HASH_BYTES)))
    return levels


def open_claims(transcript: Prover, commitment: Commitment, claims: Sequence[Claim], work: int = 0) -> None:
    """Show true claims on the array (`check_openings`)."""
    elements, shape = commitment.elements, commitment.elements.shape
    rows = fold_claims(transcript, elements, claims, work)
    transcript.send("combination", elements.combined(kernels.equality(rows)))
    transcript.work(work)
    places = transcript.places("columns", QUERIES, shape.leaves)
    transcript.send("columns", commitment.columns(places))
    send_paths(transcript, commitment.levels, places)


def fold_claims(transcript: Prover, elements: Elements, claims: Sequence[Claim], work: int = 0) -> list[K]:
    """Show true claims as far as rows go (`check_fold`); return the point at which rows are combined."""
    rows = elements.shape.rows
    bind_claims(transcript, claims)
    gamma = transcript.challenge("claims")
    count = 1 << (len(claims) - 1).bit_length()
    sums, weights = np.zeros((2, 1 << rows, count, 2), np.uint64)
    by, nothing = ONE, np.zeros(1 << rows, np.uint64)
    for i, (claim, own) in enumerate(zip(claims, elements.fold(claims), strict=True)):
        inner = claim.full_point(elements.log)[elements.shape.positions :]
        sums[:, i] = own
        weights[:, i] = kernels.add_multiple(nothing, by, kernels.equality(inner))
        by = by * gamma
    value = powers_sum(gamma, [claim.value for claim in claims])
    return prove_batch(transcript, sums.reshape(-1, 2), weights.reshape(-1, 2), value, rows, work=work)


def send_paths(transcript: Prover, levels: Sequence[NDArray[np.uint8]], places: Sequence[int]) -> None:
    """Say what is missing for the root of a tree, beside its leaves at some places."""
    for level in levels[:-1]:
        missing = sorted({place ^ 1 for place in places} - set(places))
        transcript.send_bytes("path", level[missing].tobytes())
        places = sorted({place >> 1 for place in places})
