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
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from mitai.mpc import portable

try:
    from mitai_native import kernels as native
except ImportError:
    PATHS: tuple[str, ...] = ("python",)
else:
    PATHS = (*native.paths(), "python")

Ring = NDArray[np.uint64]
Planes = NDArray[np.uint8]
Turns = NDArray[np.uint32]
Real = NDArray[np.float64]
Word = TypeVar("Word", bound=np.unsignedinteger)

PATH = os.environ.get("MITAI_MPC_KERNELS") or PATHS[0]
if PATH not in PATHS:
    raise ValueError(f"MITAI_MPC_KERNELS: {PATH} is not one of {', '.join(PATHS)}")

ZEROS = memoryview(bytes(1 << 19))
MAX_TABLE_BITS = 8


@dataclass(frozen=True)
class Packed(Generic[Word]):
    """A matrix in the order in which a path's product reads it, for a right factor that is used again and again."""

    words: NDArray[Word] = field(repr=False)
    shape: tuple[int, int]
    path: str


def pack(b: NDArray[Word]) -> Packed[Word]:
    """Arrange a matrix (inner, columns), once, as the right factor of many products."""
    if b.ndim != 2 or b.dtype not in (np.uint64, np.uint32):
        raise ValueError("a matrix of uint64 or uint32 can be packed")
    inner, columns = b.shape
    if PATH == "python":
        return Packed(np.ascontiguousarray(b), (inner, columns), PATH)
    size = native.packed_words(PATH, b.itemsize, inner, columns)
    words = np.empty(size + 64 // b.itemsize, b.dtype)
    start = -words.ctypes.data % 64 // b.itemsize
    words = words[start : start + size]
    native.pack(PATH, _strided(b, right=True), words)
    return Packed(words, (inner, columns), PATH)


def matmul(
    a: NDArray[Word], b: NDArray[Word] | Packed[Word], out: NDArray[Word] | None = None, *, threads: int = 1
) -> NDArray[Word]:
    """Multiply matrices modulo 2^64 or 2^32.

    Args:
        a: (…, rows, inner) of `uint64` or `uint32`.
        b: (…, inner, columns) of the same type, or such a matrix packed. Leading dimensions broadcast.
        out: where to write the product, (…, rows, columns), C-ordered, in memory of its own.
        threads: how many threads may work on it.
    """
    right = b.words if isinstance(b, Packed) else b
    if a.dtype != right.dtype or a.dtype not in (np.uint64, np.uint32):
        raise ValueError("the factors must both be uint64, or both uint32")
    if a.ndim < 2 or len(b.shape) < 2 or a.shape[-1] != b.shape[-2]:
        raise ValueError(f"no product of shapes {a.shape} and {b.shape}")
    lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2]) if len(b.shape) > 2 else a.shape[:-2]
    shape = (*lead, a.shape[-2], b.shape[-1])
    if out is None:
        out = np.empty(shape, a.dtype)
    elif out.shape != shape or out.dtype != a.dtype or not out.flags.carray:
        raise ValueError(f"a product of shape {shape} and type {a.dtype} doesn't fit into `out`")
    elif np.may_share_memory(out, a) or np.may_share_memory(out, right):
        raise ValueError("`out` is a part of a factor")
    if a.shape[-1] == 0:
        out.fill(0)
    elif out.size:
        _multiply(a, b, out, threads)
    return out


def _multiply(a: NDArray[Word], b: NDArray[Word] | Packed[Word], out: NDArray[Word], threads: int) -> None:
    """Write the product of factors that fit and are not empty."""
    if len(b.shape) == 2:  # one right factor for all of a stack: its rows are those of one matrix
        a = a.reshape(-1, a.shape[-1])
        out = out.reshape(-1, out.shape[-1])
    if isinstance(b, Packed):
        if b.path != "python":
            return native.matmul_packed(b.path, _strided(a), b.words, b.shape[1], out, threads)
        b = b.words
    if PATH == "python":
        out[...] = portable.matmul(a, b)
        return None
    left, right = (
        x if out.ndim == 2 else np.broadcast_to(x, (*out.shape[:-2], *x.shape[-2:]))
        for x in (_strided(a), _strided(b, right=True))
    )
    return native.matmul(PATH, left, right, out, threads)


def _strided(x: NDArray[Word], *, right: bool = False) -> NDArray[Word]:
    """Return a factor with adjacent words in its rows (or columns, on the right), and whole words in between."""
    size = x.itemsize
    adjacent = x.strides[-1] == size or (right and x.strides[-2] == size)
    fits = adjacent and x.flags.aligned and not any(step % size for step in x.strides)
    return x if fits else np.require(x, requirements=["C", "A"])


def prg(key: bytes, stream: int, offset: int, n: int) -> Ring:
    """Return n words of the sequence that a key and a stream's number determine, from the given word on.

    The words are AES-128 in counter mode (NIST SP 800-38A) over zeros, little-endian; the counter block is the stream's
    number and the number of the block, 64 bits each, big-endian. A key's stream must serve one purpose only.
    """
    if len(key) != 16 or not 0 <= stream < 1 << 64 or not 0 <= offset <= offset + n < 1 << 64:
        raise ValueError("a key of 16 bytes, a stream and an offset of 64 bits")
    start = stream.to_bytes(8, "big") + (offset // 2).to_bytes(8, "big")
    cipher = Cipher(algorithms.AES(key), modes.CTR(start)).encryptor()
    if offset % 2:
        cipher.update(bytes(8))
    words = np.empty(n, "<u8")
    target = words.data.cast("B")
    for at in range(0, len(target), len(ZEROS)):
        part = target[at : at + len(ZEROS)]
        cipher.update_into(ZEROS[: len(part)], part)
    return words


def one_hot(r: Ring, bits: int) -> Ring:
    """Return, for each of n indices below 2^bits, a vector of 2^bits bits in which only the one at the index is set.

    A vector is a row of words (n, max(1, 2^bits / 64)); bit j is bit j mod 64 of word j // 64. Indices are secret.
    """
    if not 0 <= bits <= MAX_TABLE_BITS:
        raise ValueError(f"at most {MAX_TABLE_BITS} bits")
    r = _flat(r)
    if PATH == "python":
        return portable.one_hot(r, bits)
    vectors = np.empty((r.size, max(1, (1 << bits) // 64)), np.uint64)
    native.one_hot(PATH, r, vectors)
    return vectors


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums of products of planes of bits: a list of terms for each sum, each the numbers of the planes in it.

    `arrays` has them as compiled code reads them: where sums end among terms, where terms end among factors, factors.
    """

    sums: tuple[tuple[tuple[int, ...], ...], ...]
    planes: int
    arrays: tuple[NDArray[np.int32], ...]

    @classmethod
    def of(cls, sums: Iterable[Iterable[Iterable[int]]]) -> Sums:
        """Take any lists of lists of numbers."""
        kept = tuple(tuple(tuple(term) for term in terms) for terms in sums)
        terms = [term for terms in kept for term in terms]
        factors = [factor for term in terms for factor in term]
        if factors and min(factors) < 0:
            raise ValueError("planes are counted from 0")
        ends = (np.cumsum([len(one) for one in several], dtype=np.int32) for several in (kept, terms))
        return cls(kept, max(factors, default=-1) + 1, (*ends, np.array(factors, np.int32)))


def sum_products(planes: Planes, sums: Sums) -> Planes:
    """Return for each sum the XOR over its terms of the AND of their planes (k, bytes); no factors are all ones."""
    if planes.ndim != 2 or len(planes) < sums.planes:
        raise ValueError(f"planes {planes.shape} where {sums.planes} are used")
    planes = np.require(planes, np.uint8, ["C", "A"])
    if PATH == "python":
        return portable.sum_products(planes, sums.sums)
    out = np.empty((len(sums.sums), planes.shape[1]), np.uint8)
    sum_ends, term_ends, factors = sums.arrays
    native.sum_products(PATH, planes, sum_ends, term_ends, factors, out)
    return out


def add_waves(total: Ring, turns: Turns, circle: Real, scale: float, factors: Ring) -> None:
    """Add, for each k from 1 on, the waves of n turns t times factors: cos(k t) to row 2k - 2, sin(k t) to row 2k - 1.

    Waves are rounded to multiples of 1 / scale, and are the same bits on every machine (`mitai.mpc.two.waves`).

    Args:
        total: n words, to which the sums are added.
        turns: n public angles; a whole turn is 2^(2h).
        circle: (2, 2, 2^h): cosines and sines of multiples of 2^h, then of 1; h at most 16.
        scale: At most 2^50.
        factors: (2 · count, n). Secret.
    """
    size = circle.shape[-1]
    if circle.shape != (2, 2, size) or size & (size - 1) or not 0 < size <= 1 << 16 or not 0 < scale <= 2.0**50:
        raise ValueError("a circle has cosines and sines, (2, 2, 2^h)")
    if factors.ndim != 2 or len(factors) % 2 or not total.shape == turns.shape == factors.shape[1:]:
        raise ValueError(f"sums {total.shape} of turns {turns.shape} with factors {factors.shape}")
    if total.dtype != np.uint64 or not total.flags.carray:
        raise ValueError("sums are added to adjacent words of uint64")
    turns, circle = np.require(turns, np.uint32, ["C", "A"]), np.require(circle, np.float64, ["C", "A"])
    if PATH == "python":
        portable.add_waves(total, turns, circle, scale, _plain(factors))
    elif total.size:
        native.add_waves(PATH, turns, circle, scale, _plain(factors), total)


def turn_waves(turns: Turns, a: Real, b: Real) -> Ring:
    """Return all multiples of n angles t, turned and rounded: (2 · count, n) for count coefficients a and b.

    Row 2k - 2 is a[k - 1] cos(k t) - b[k - 1] sin(k t), row 2k - 1 is a[k - 1] sin(k t) + b[k - 1] cos(k t); all of
    magnitude below 2^50. A whole turn is 2^32; turns are secret.
    """
    if turns.ndim != 1 or a.ndim != 1 or a.shape != b.shape:
        raise ValueError("turns in a row, and two coefficients for each multiple")
    turns, a, b = np.require(turns, np.uint32, ["C", "A"]), *(np.require(x, np.float64, ["C", "A"]) for x in (a, b))
    if PATH == "python":
        return portable.turn_waves(turns, a, b)
    made = np.empty((2 * a.size, turns.size), np.uint64)
    native.turn_waves(PATH, turns, a, b, made)
    return made


def _plain(x: Ring) -> Ring:
    return np.require(x, np.uint64, ["C", "A"])


def _flat(x: Ring) -> Ring:
    return _plain(x).reshape(math.prod(x.shape))
