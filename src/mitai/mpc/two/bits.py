"""Bits that two parties share by XOR, packed into planes, and sums of products of them in one round.

Follows `docs/spec/mpc.md`, "Bits". A plane holds one bit of each of n elements, eight in a byte, least significant
first. A sum of products is a list of terms, each a tuple of the numbers of the planes that are multiplied.

All bits that are multiplied are opened under random masks. A product of masked bits is a polynomial in the masks with
public coefficients, and the dealer has shared all products of masks that occur in it, so a product of five bits takes
one round as one of two does.

Example:
    >>> subsets([(0, 1), (0, 2, 3)])
    [(0, 1), (0, 2), (0, 3), (2, 3), (0, 2, 3)]
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from mitai.mpc import kernels
from mitai.mpc.kernels import Sums, Word
from mitai.mpc.two.blank import blank
from mitai.mpc.two.core import Two

Planes = NDArray[np.uint8]
Term = tuple[int, ...]


def pack(bits: NDArray[np.uint8] | NDArray[np.bool_]) -> Planes:
    """Pack bits [..., n] into planes [..., ceil(n / 8)]."""
    return np.packbits(bits, axis=-1, bitorder="little")


def unpack(planes: Planes, n: int) -> NDArray[np.uint8]:
    """Return the bits [..., n] of planes."""
    return np.unpackbits(planes, axis=-1, count=n, bitorder="little")


def subsets(terms: Sequence[Term]) -> list[Term]:
    """Return all products of at least two factors that occur when these terms are multiplied out."""
    found = {part for term in terms for part in subsets_of(term, 2)}
    return sorted(found, key=lambda part: (len(part), part))


def subsets_of(term: Term, least: int) -> Iterator[Term]:
    """Return all products of at least so many of a term's factors."""
    return itertools.chain.from_iterable(itertools.combinations(term, size) for size in range(least, len(term) + 1))


def add_products(engine: Two, planes: Planes, sums: Sequence[Sequence[Term]]) -> Planes:
    """Return sums of products of shared bits, a plane each.

    One round; a bit for each plane and element, and as many from the dealer as `subsets` has.

    Args:
        engine: This side.
        planes: [k, bytes], shared.
        sums: The terms of each sum; numbers of planes, ascending, in each term.
    """
    masks = engine.pads.random(planes.shape, np.uint8)
    wanted, products, shares = _multiplied_out(tuple(map(tuple, sums)), len(planes))
    given = engine.pads.given(
        (wanted, planes.shape[1]), np.uint8, lambda: kernels.sum_products(masks[0] ^ masks[1], products), xor=True
    )
    if engine.offline:
        return blank((len(sums), planes.shape[1]), np.uint8)
    (opened,) = engine.open_xor(planes ^ masks[0])
    return kernels.sum_products(np.concatenate([opened, masks[0], given]), shares[engine.role])


@functools.lru_cache(maxsize=256)
def _multiplied_out(sums: tuple[tuple[Term, ...], ...], k: int) -> tuple[int, Sums, tuple[Sums, Sums]]:
    """Return how many products of masks sums of k planes need, these products, and both parties' own sums.

    A party's planes are k opened ones, its shares of k masks, and its shares of the products. What is public is added
    by party 0 alone.
    """
    wanted = subsets([term for terms in sums for term in terms])
    share = {(j,): k + j for j in range(k)} | {part: 2 * k + place for place, part in enumerate(wanted)}
    shared = [
        [(*sorted({*term} - {*part}), share[part]) for term in terms for part in subsets_of(term, 1)] for terms in sums
    ]
    public = [[*terms, *more] for terms, more in zip(sums, shared, strict=True)]
    return len(wanted), Sums.of([part] for part in wanted), (Sums.of(public), Sums.of(shared))


def to_ring(engine: Two, planes: Planes, n: int, dtype: type[Word]) -> NDArray[Word]:
    """Return additive shares, modulo the type's size, of the bits [..., n]; one round, a bit each."""
    masks = engine.pads.random(planes.shape, np.uint8)
    given = engine.pads.given((*planes.shape[:-1], n), dtype, lambda: unpack(masks[0] ^ masks[1], n).astype(dtype))
    if engine.offline:
        return blank((*planes.shape[:-1], n), dtype)
    (opened,) = engine.open_xor(planes ^ masks[0])
    return flip(unpack(opened, n).astype(dtype), given, first=engine.role == 0)


def flip(public: NDArray[Word], share: NDArray[Word], *, first: bool) -> NDArray[Word]:
    """Return a share of m XOR b from a public bit m and a share of the bit b, elements of a ring."""
    flipped: NDArray[Word] = (share ^ np.negative(public)) + public  # the share, or its negative where m is 1
    return flipped + public if first else flipped
