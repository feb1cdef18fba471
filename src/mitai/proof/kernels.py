"""What a prover spends its time on: sums, folds and codes over the field F and its extension K; hashes.

Arrays are those of `mitai.proof.field`; a "table" is an array of 2^n elements of F (2^n,) or of K (2^n, 2). Each
function has compiled implementations for a CPU's widest units (`mitai-native`), and one in numpy. `PATH` names the one
in use; `MITAI_PROOF_KERNELS` sets another.

- All paths give the same bits, with any number of `THREADS`.
- Arguments are checked as far as memory is concerned; what does not fit together is a `ValueError`.
- The compiled paths release Python's lock.

Example:
    >>> table = np.arange(4, dtype=np.uint64)
    >>> fold(table, field.K(5)).tolist()
    [[10, 0], [11, 0]]
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from mitai.proof import field
from mitai.proof.field import Array, K, P, Point

try:
    from mitai_native import kernels as native
except ImportError:
    PATHS: tuple[str, ...] = ("python",)
else:  # an older build knows nothing of proofs
    PATHS = (*(native.paths() if hasattr(native, "sha256_more") else ()), "python")

PATH = os.environ.get("MITAI_PROOF_KERNELS") or PATHS[0]
if PATH not in PATHS:
    raise ValueError(f"MITAI_PROOF_KERNELS: {PATH} is not one of {', '.join(PATHS)}")
THREADS = os.cpu_count() or 1

_SHA256 = (
    0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19,
)  # fmt: skip

Pair = tuple[Array, Array]


def equality(point: Point) -> Array:
    """Return eq(point, x) for all x, (2^n, 2)."""
    if PATH == "python":
        return field.equality(point)
    out = np.empty((1 << len(point), 2), np.uint64)
    out[0] = 1, 0
    native.field_equality(PATH, field.array(point), out, THREADS)
    return out


def fold(table: Array, by: K, *, own: bool = False) -> Array:
    """Bind the first variable of a table: lower half + by · (upper − lower half), (2^(n − 1), 2).

    The result may take the place of a table of K that is the caller's `own`.
    """
    _check(table)
    lower, upper = _halves(table)
    factor = field.array([by])
    if PATH != "python":
        out = lower if own and _takes(lower, len(lower)) else np.empty((len(lower), 2), np.uint64)
        native.field_fold(PATH, _plain(table), factor, out, THREADS)
        return out
    if table.ndim == 1:
        return field.add(field.lift(lower), field.scale(factor, field.sub(upper, lower)))
    return field.add(lower, field.mul_k(factor, field.sub(upper, lower)))


def half_sums(pairs: Sequence[Pair], weights: Array | None, *, upper: bool) -> tuple[K, K]:
    """Return Σ_x w(x) Σ_j a_j b_j over one half of the tables, and Σ_x w(x) Σ_j (difference of a_j's halves) (… b_j's).

    Args:
        pairs: tables a_j and b_j, all of 2^n elements.
        weights: (2^(n − 1), 2), or None for weights of 1.
        upper: whether the first sum is over the upper half, else over the lower one.
    """
    tables = [table for pair in pairs for table in pair]
    _check(*tables)
    if weights is not None and weights.shape != (len(tables[0]) // 2, 2):
        raise ValueError(f"weights {weights.shape} for halves of {len(tables[0])} elements")
    if PATH != "python":
        partial = np.zeros((THREADS, 4), np.uint64)
        weighted = None if weights is None else _plain(weights)
        native.field_half_sums(PATH, [_plain(table) for table in tables], weighted, upper, partial, THREADS)
        a, b, c, d = (int(sum(column)) for column in partial.T.tolist())
        return K(a % P, b % P), K(c % P, d % P)
    first = second = np.zeros((len(tables[0]) // 2, 2), np.uint64)
    for one, other in pairs:
        (a0, a1), (b0, b1) = _halves(one), _halves(other)
        first = field.add(first, _product(a1, b1) if upper else _product(a0, b0))
        second = field.add(second, _product(field.sub(a1, a0), field.sub(b1, b0)))
    sums = (field.total(x if weights is None else field.mul_k(x, weights)) for x in (first, second))
    known, square = field.elements(np.stack(list(sums)))
    return known, square


def halves_sum(weights: Array) -> Array:
    """Return the sum of both halves of a table: of weights eq(z, x), those without their first variable."""
    _check(weights)
    lower, upper = _halves(_plain(weights))
    if PATH == "python":
        return field.add(lower, upper)
    out = np.empty_like(lower)
    native.field_add(PATH, lower.reshape(-1), upper.reshape(-1), out.reshape(-1), THREADS)
    return out


def add_multiple(table: Array, by: K, other: Array, out: Array | None = None) -> Array:
    """Return table + by · other, in K; `out` may be one of them, where that is of K."""
    if len(table) != len(other) or (out is not None and not _takes(out, len(table))):
        raise ValueError(f"{len(table)} and {len(other)} elements don't fit together, or into `out`")
    if out is None:
        out = np.empty((len(table), 2), np.uint64)
    if PATH == "python":
        out[...] = field.add(_lifted(table), field.mul_k(field.array([by]), _lifted(other)))
    else:
        native.field_add_multiple(PATH, _plain(table), field.array([by]), _plain(other), out, THREADS)
    return out


def add_fractions(p: Array, q: Array) -> Pair:
    """Return p_0 / q_0 + p_1 / q_1 for the halves of tables: p_0 q_1 + p_1 q_0 and q_0 q_1, in K."""
    _check(p, q)
    if PATH == "python":
        (p0, p1), (q0, q1) = _halves(p), _halves(q)
        return field.add(_product(p0, q1), _product(p1, q0)), _product(q0, q1)
    top, bottom = np.empty((2, len(q) // 2, 2), np.uint64)
    native.field_add_fractions(PATH, _plain(p), _plain(q), top, bottom, THREADS)
    return top, bottom


def combine(constant: K, factors: Sequence[K], arrays: Sequence[Array], out: Array | None = None) -> Array:
    """Return constant + Σ_i factors_i · arrays_i in K, (n, 2), for arrays of n elements of F."""
    if out is None:
        out = np.empty((len(arrays[0]), 2), np.uint64)
    if len(factors) != len(arrays) or any(x.shape != out.shape[:1] for x in arrays) or not _takes(out, len(out)):
        raise ValueError("arrays of F of one length, and a factor for each")
    if PATH == "python":
        out[...] = field.array([constant])
        for factor, x in zip(factors, arrays, strict=True):
            out[...] = field.add(out, field.scale(field.array([factor]), x))
    else:
        first, each = field.array([constant]), field.array(factors)
        native.field_combine(PATH, first, each, [_plain(x) for x in arrays], out, THREADS)
    return out


def contract(x: Array, weights: Array) -> Array:
    """Return Σ_i weights_i x[a, i, b] in K, (a, b, 2), for x of F (a, n, b) or K (a, n, b, 2), and weights (n, 2)."""
    if x.ndim == 4 and x.shape[3] == 2:
        a, n, b, _ = x.shape
        parts = contract(x.reshape(a, n, 2 * b), weights).reshape(a, b, 2, 2)
        first, second = (np.ascontiguousarray(parts[:, :, part]).reshape(-1, 2) for part in range(2))
        return add_multiple(first, K(0, 1), second, first).reshape(a, b, 2)
    if x.ndim != 3 or weights.shape != (x.shape[1], 2):
        raise ValueError(f"{x.shape} has no middle axis for weights {weights.shape}")
    if PATH == "python":
        return np.stack([field.total(field.mul(x, weights[:, part, None]), axis=1) for part in range(2)], axis=-1)
    out = np.zeros((x.shape[0], x.shape[2], 2), np.uint64)
    native.field_contract(PATH, _plain(x), _plain(weights), out, THREADS)
    return out


def encode(x: Array, more: Array | None = None, size: int | None = None) -> Array:
    """Return the code of a matrix's rows: (n, rows) of F to (4 · size, rows), as `field.encode`; 2^k rows.

    Args:
        x: Coefficients of each row's polynomial.
        more: The coefficients that follow, (m, rows).
        size: A power of two; n, if it is not said.
    """
    size = len(x) if size is None else size
    if x.ndim != 2 or any(one < 1 or one & (one - 1) for one in (size, x.shape[1])):
        raise ValueError(f"2^k rows can be encoded to four times a power of two places, not {x.shape} to {size}")
    if more is not None and more.shape[1:] != x.shape[1:]:
        raise ValueError(f"{more.shape} are no coefficients that follow those of {x.shape}")
    if PATH == "python":
        return field.encode(x if more is None else np.concatenate([x, more]), size)
    out = np.empty((4 * size, x.shape[1]), np.uint64)
    log, count = size.bit_length() - 1, len(x) + (0 if more is None else len(more))
    tables, rest = (_shifts(log, count), _twiddles(log)), None if more is None else _plain(more)
    native.field_encode(PATH, _plain(x), *tables, field.generator(2), out, THREADS, rest)
    return out


@lru_cache(maxsize=4)
def _shifts(log: int, count: int) -> Array:
    """Return the powers by which so many coefficients are multiplied for each of the four cosets of a code."""
    return np.stack([field.power(pow(field.generator(log + 2), s, P), count)[:count] for s in range(4)])


@lru_cache(maxsize=4)
def _twiddles(log: int) -> Array:
    """Return w^2k, w^k and w^3k for each step of radix 4, from the largest down."""
    steps = [np.zeros(0, np.uint64)]
    for size in range(log, 1, -2):
        group = field.power(field.generator(size), 1 << size)
        k = np.arange(1 << size - 2)
        steps.append(np.stack([group[2 * k], group[k], group[3 * k]], axis=-1).reshape(-1))
    return np.concatenate(steps)


def hashes(prefix: bytes, messages: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return SHA-256(prefix ‖ message) for messages (n, length), as (n, 32); the prefix is one byte."""
    if messages.ndim != 2 or messages.dtype != np.uint8 or len(prefix) != 1:
        raise ValueError("messages (n, length) of bytes, and a prefix of one byte")
    if PATH == "python":
        digests = b"".join([sha256(prefix + message.tobytes()).digest() for message in messages])
        return np.frombuffer(digests, np.uint8).reshape(-1, 32)
    out = np.empty((len(messages), 32), np.uint8)
    native.sha256(PATH, prefix[0], np.require(messages, np.uint8, ["C"]), out, THREADS)
    return out


class Hashes:
    """SHA-256 of many messages that come in parts, of 64 bytes or a multiple of them.

    Args:
        prefix: one byte, before each message.
        count: how many messages.
    """

    def __init__(self, prefix: bytes, count: int) -> None:
        self._path, self._length = PATH, len(prefix)
        if PATH == "python":
            self._plain = [sha256(prefix) for _ in range(count)]
        else:  # of each its state, and the byte that is in no block of 64 yet
            self._states = np.tile(np.array([*_SHA256, prefix[0]], np.uint32), (count, 1))

    def update(self, messages: NDArray[np.uint8]) -> None:
        """Go on with a part (count, length)."""
        if messages.ndim != 2 or messages.dtype != np.uint8 or messages.shape[1] < 64 or messages.shape[1] % 64:
            raise ValueError("parts of messages (n, length) of bytes, in blocks of 64")
        self._length += messages.shape[1]
        if self._path == "python":
            for one, message in zip(self._plain, messages, strict=True):
                one.update(message.tobytes())
        elif len(messages) != len(self._states):
            raise ValueError(f"{len(messages)} parts of {len(self._states)} messages")
        else:
            native.sha256_more(self._path, self._states, np.require(messages, np.uint8, ["C"]), THREADS)

    def digests(self) -> NDArray[np.uint8]:
        """End all messages; return (count, 32)."""
        if self._path == "python":
            return np.frombuffer(b"".join(one.digest() for one in self._plain), np.uint8).reshape(-1, 32)
        last = b"\x80" + bytes(54) + (8 * self._length).to_bytes(8, "big") + bytes(1)  # FIPS 180-4, 5.1.1
        self.update(np.broadcast_to(np.frombuffer(last, np.uint8), (len(self._states), 64)))
        return self._states[:, :8].astype(">u4").view(np.uint8)


def residues(x: NDArray[np.integer]) -> Array:
    """Return the residues of signed integers of at most 2^62 in magnitude; residues are what they are."""
    if x.dtype == np.uint64:
        return np.ascontiguousarray(x, np.uint64)
    if PATH == "python" or x.dtype != np.int32:
        return field.signed(x.astype(np.int64, copy=False))
    out = np.empty(x.shape, np.uint64)
    native.field_residues(np.require(x, np.int32, ["C", "A"]).reshape(-1), out.reshape(-1), THREADS)
    return out


def evaluate(table: Array, point: Point) -> K:
    """Return the multilinear extension of a table of F at a point."""
    rows = len(point) // 2
    inner = contract(table.reshape(1 << rows, -1, 1), equality(point[rows:]))
    return field.elements(contract(inner[None], equality(point[:rows]))[0])[0]


def _check(*tables: Array) -> None:
    """Refuse tables that have no halves, or of different lengths."""
    size = len(tables[0])
    if size < 2 or size % 2 or any(table.shape not in ((size,), (size, 2)) for table in tables):
        raise ValueError(f"tables {[table.shape for table in tables]} have no halves that fit together")


def _takes(out: Array, size: int) -> bool:
    return out.shape == (size, 2) and out.dtype == np.uint64 and out.flags.carray


def _plain(x: Array) -> Array:
    return x if x.flags.c_contiguous and x.flags.aligned else np.require(x, np.uint64, ["C", "A"])


def _halves(table: Array) -> Pair:
    half = len(table) // 2
    return table[:half], table[half:]


def _lifted(table: Array) -> Array:
    return field.lift(table) if table.ndim == 1 else table


def _product(a: Array, b: Array) -> Array:
    return field.mul_k(_lifted(a), _lifted(b))
