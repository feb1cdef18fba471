"""The kernels of secure computation in numpy and torch alone, for machines without `mitai-native`.

They are also the reference that the compiled paths are tested against, bit by bit. Secret values select nothing here:
no branch, address or length depends on them. What each function computes is described in `mitai.mpc.kernels`.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Ring = NDArray[np.uint64]
Word = TypeVar("Word", bound=np.unsignedinteger)
ROWS = 1 << 12  # elements that are looked up at a time, to bound memory


def matmul(a: NDArray[Word], b: NDArray[Word]) -> NDArray[Word]:
    """Multiply matrices through torch's products of signed integers, which wrap around."""
    import torch

    signed = np.dtype(f"i{a.dtype.itemsize}")
    factors = (torch.from_numpy(np.require(x, requirements=["C", "A", "W"]).view(signed)) for x in (a, b))
    product: NDArray[Word] = torch.matmul(*factors).numpy().view(a.dtype)
    return product


def to_planes(x: Ring, bits: int) -> Ring:
    """Transpose bits by numpy's packing."""
    padded = np.zeros(-(-x.size // 64) * 64, np.uint64)
    padded[: x.size] = x
    each = np.unpackbits(padded.view(np.uint8).reshape(-1, 8), axis=1, count=bits, bitorder="little")
    packed = np.packbits(np.ascontiguousarray(each.T), axis=1, bitorder="little")
    return np.ascontiguousarray(packed).view(np.uint64)


def from_planes(planes: Ring, n: int) -> Ring:
    """Transpose bits back."""
    each = np.unpackbits(planes.view(np.uint8), axis=1, count=n, bitorder="little")
    packed = np.zeros((n, 8), np.uint8)
    packed[:, : -(-len(planes) // 8)] = np.packbits(each.T, axis=1, bitorder="little")
    return packed.view(np.uint64).reshape(n)


def one_hot(r: Ring, bits: int) -> Ring:
    """Set one bit for each element, by comparing it with every word's number."""
    words = np.arange(max(1, (1 << bits) // 64), dtype=np.uint64)
    hit = (r[:, None] >> np.uint64(6)) == words
    vectors: Ring = hit.astype(np.uint64) << (r[:, None] & np.uint64(63))
    return vectors


def lookup(onehot: Ring, offsets: Ring, table: NDArray[Word]) -> NDArray[Word]:
    """Add up (XOR) all entries of the table under masks."""
    n, size = len(onehot), table.size
    turned = table[(np.arange(size)[:, None] - np.arange(size)) % size]  # [c, j] = table[c - j]
    result = np.empty(n, table.dtype)
    for start in range(0, n, ROWS):
        rows = slice(start, min(n, start + ROWS))
        hot = np.unpackbits(onehot[rows].view(np.uint8), axis=1, count=size, bitorder="little")
        masks = np.zeros((), table.dtype) - hot.astype(table.dtype)
        np.bitwise_xor.reduce(masks & turned[offsets[rows]], axis=1, out=result[rows])
    return result


def bits_to_ring(public: Ring, shares: Ring, *, constant: bool) -> Ring:
    """Add up shares of bits, times their places."""
    places = np.arange(shares.shape[1], dtype=np.uint64)
    flipped = (public[:, None] >> places) & np.uint64(1)
    own = (shares ^ (np.uint64(0) - flipped)) + flipped  # the share, or its negative where the public bit is 1
    if constant:
        own += flipped
    total: Ring = np.add.reduce(own << places, axis=1, dtype=np.uint64)
    return total


def bit_shares(r: Ring, other: Ring) -> Ring:
    """Subtract the other share from each bit."""
    return ((r[:, None] >> np.arange(other.shape[1], dtype=np.uint64)) & np.uint64(1)) - other
