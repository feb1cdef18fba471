"""What secure computation spends its time on: products of matrices in a ring, random words, tables, bits.

Integers modulo 2^64 (or 2^32) stand in arrays of `uint64` (`uint32`). Each function has several implementations that
give the same bits: compiled ones for a CPU's widest units (`mitai-native`), and `mitai.mpc.portable` where that is not
installed. `PATH` names the one in use, the best that this CPU has; `MITAI_MPC_KERNELS` sets another.

- No branch, address or running time depends on the values of secret arguments; shapes are public, and so is what is
  called public below.
- Any strides are accepted, and copied where needed. Results are new arrays, C-ordered, unless `out` is given.
- The compiled paths and `prg` release Python's lock.

Example:
    >>> a, b = prg(bytes(16), 0, 0, 6).reshape(2, 3), prg(bytes(16), 1, 0, 6).reshape(3, 2)
    >>> bool((matmul(a, pack(b)) == a @ b).all())
    True
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from mitai.mpc import portable

Ring = NDArray[np.uint64]
Word = TypeVar("Word", bound=np.unsignedinteger)

ZEROS = memoryview(bytes(1 << 18))
MAX_TABLE_BITS = 8


@dataclass(frozen=True)
class Packed(Generic[Word]):
    """A matrix in the order in which the product reads it, for a right factor that is used again and again."""

    matrix: NDArray[Word]
    shape: tuple[int, int]


def pack(b: NDArray[Word]) -> Packed[Word]:
    """Arrange a matrix (rows, columns), once, as the right factor of many products."""
    if b.ndim != 2:
        raise ValueError("a matrix can be packed, no stack of them")
    return Packed(np.ascontiguousarray(b), (b.shape[0], b.shape[1]))


def matmul(
    a: NDArray[Word], b: NDArray[Word] | Packed[Word], out: NDArray[Word] | None = None, *, threads: int = 1
) -> NDArray[Word]:
    """Multiply matrices modulo 2^64 or 2^32.

    Args:
        a: (…, rows, inner) of `uint64` or `uint32`.
        b: (…, inner, columns) of the same type, or such a matrix packed. Leading dimensions broadcast.
        out: where to write the product, (…, rows, columns), C-ordered; no part of a factor.
        threads: how many threads may work on it.
    """
    if isinstance(b, Packed):
        b = b.matrix
    if a.dtype != b.dtype or a.dtype not in (np.uint64, np.uint32):
        raise ValueError("the factors must both be uint64, or both uint32")
    if a.ndim < 2 or b.ndim < 2 or a.shape[-1] != b.shape[-2]:
        raise ValueError(f"no product of shapes {a.shape} and {b.shape}")
    product = portable.matmul(a, b)
    if out is None:
        return product
    out[...] = product
    return out


def prg(key: bytes, stream: int, offset: int, n: int) -> Ring:
    """Return n words of the sequence that a key and a stream's number determine, from the given word on.

    The words are AES-128 in counter mode (NIST SP 800-38A) over zeros, little-endian; the counter block is the stream's
    number and the number of the block, 64 bits each, big-endian. A key's stream must serve one purpose only.
    """
    if len(key) != 16 or not 0 <= stream < 1 << 64 or not 0 <= offset <= offset + n < 1 << 64:
        raise ValueError("a key of 16 bytes, a stream and an offset of 64 bits")
    start = stream.to_bytes(8, "big") + (offset // 2).to_bytes(8, "big")
    cipher = Cipher(algorithms.AES(key), modes.CTR(start)).encryptor()
    cipher.update(bytes(offset % 2 * 8))
    words = np.empty(n, "<u8")
    target = words.data.cast("B")
    for at in range(0, len(target), len(ZEROS)):
        part = target[at : at + len(ZEROS)]
        cipher.update_into(ZEROS[: len(part)], part)
    return words


def to_planes(x: Ring, bits: int) -> Ring:
    """Slice the low bits of n words into planes (bits, ceil(n / 64)): bit k of word i is bit i mod 64 of [k, i // 64].

    Bits that no word fills are 0. `x` is flattened.
    """
    if not 0 < bits <= 64:
        raise ValueError("1 to 64 bits")
    return portable.to_planes(_flat(x), bits)


def from_planes(planes: Ring, n: int) -> Ring:
    """Return the n words whose bits the planes hold; the inverse of `to_planes`."""
    if planes.ndim != 2 or not 0 < len(planes) <= 64 or planes.shape[1] != -(-n // 64):
        raise ValueError(f"no planes of {n} words: {planes.shape}")
    return portable.from_planes(np.ascontiguousarray(planes, np.uint64), n)


def one_hot(r: Ring, bits: int) -> Ring:
    """Return, for each of n indices below 2^bits, a vector of 2^bits bits in which only the one at the index is set.

    A vector is a row of words (n, max(1, 2^bits / 64)); bit j is bit j mod 64 of word j // 64. Indices are secret.
    """
    if not 0 <= bits <= MAX_TABLE_BITS:
        raise ValueError(f"at most {MAX_TABLE_BITS} bits")
    return portable.one_hot(_flat(r), bits)


def lookup(onehot: Ring, offsets: Ring, table: NDArray[Word]) -> NDArray[Word]:
    """Look up shared values in a public table of 2^k entries.

    out[i] is the XOR over all j of bit j of onehot[i] times table[(offsets[i] - j) mod 2^k]. With XOR shares of the
    one-hot vector of a random r, and the public offset c = (x + r) mod 2^k, the results are XOR shares of table[x].
    Every entry is read for every element, whatever the vector holds.

    Args:
        onehot: (n, max(1, 2^k / 64)) as `one_hot` makes it, or shares of it. Secret.
        offsets: n public numbers below 2^k.
        table: 2^k entries, k at most 8, of any unsigned type; a narrow type is faster. Public. Several tables of one
            index go into one, side by side in its bits.
    """
    size = table.size
    if table.ndim != 1 or size & (size - 1) or not 0 < size <= 1 << MAX_TABLE_BITS or table.dtype.kind != "u":
        raise ValueError("a table has 2^k unsigned entries")
    offsets = _flat(offsets)
    if onehot.shape != (offsets.size, max(1, size // 64)) or (offsets.size and int(offsets.max()) >= size):
        raise ValueError("one-hot vectors and offsets don't fit to the table")
    return portable.lookup(np.ascontiguousarray(onehot, np.uint64), offsets, np.ascontiguousarray(table))


def bits_to_ring(public: Ring, shares: Ring, *, constant: bool) -> Ring:
    """Turn XOR-masked bits into additive shares of numbers: one party's part of sum over k of 2^k · (m_k XOR rho_k).

    out[i] = sum over k of 2^k · (m + (1 - 2m) · shares[i, k]) with m = bit k of public[i]; the lone m is added by the
    party with `constant` alone.

    Args:
        public: n words of w bits, opened: the bits XOR random bits.
        shares: (n, w) additive shares of these random bits. Secret.
        constant: whether this is the party that adds public parts.
    """
    public = _flat(public)
    if shares.ndim != 2 or len(shares) != public.size or shares.shape[1] > 64:
        raise ValueError(f"no shares of the bits of {public.size} words: {shares.shape}")
    return portable.bits_to_ring(public, np.ascontiguousarray(shares, np.uint64), constant=constant)


def bit_shares(r: Ring, other: Ring) -> Ring:
    """Return the second shares of the low w bits of n words: [i, k] is bit k of r[i], less other[i, k] of (n, w)."""
    r = _flat(r)
    if other.ndim != 2 or len(other) != r.size or other.shape[1] > 64:
        raise ValueError(f"no shares of the bits of {r.size} words: {other.shape}")
    return portable.bit_shares(r, np.ascontiguousarray(other, np.uint64))


def _flat(x: Ring) -> Ring:
    return np.ascontiguousarray(x, np.uint64).reshape(math.prod(x.shape))
