"""Checking products with matrices that one does not have, by a secret vector (docs/spec/audit.md, "Products").

C = A W holds, but for a chance of p^-2, if C r = A (W r) for a random r over K that whoever said C does not know
(Freivalds 1977; for neural networks Tramèr and Boneh 2019). W r is made once; a check never sees W.

- Over K a vector is two independent ones over F: what is wrong in F passes one of them with a chance of 1 / p.
- Integers of at most 2^62 in magnitude are equal if they are so modulo p.

Example:
    >>> r = vector(5)
    >>> of_w = projected(w, 1, r)  # w (3, 5)
    >>> np.array_equal(applied(a @ w, r), product(a, of_w))  # a (2, 3)
    True
"""

from __future__ import annotations

import math
import secrets

import numpy as np

from mitai.proof import field, kernels
from mitai.proof.field import Array, P
from mitai.proof.operation import Ints

BLOCK = 1 << 22  # numbers that are made elements of F at a time


def vector(length: int) -> Array:
    """Draw a secret vector over K, (length, 2)."""
    words = np.empty(0, np.uint64)
    while len(words) < 2 * length:
        drawn = np.frombuffer(secrets.token_bytes(16 * length), "<u8").astype(np.uint64)
        words = np.concatenate([words, drawn[drawn < np.uint64(P)]])
    return words[: 2 * length].reshape(length, 2).copy()


def projected(weight: Ints, axis: int, r: Array) -> Array:
    """Return a weight times the beginning of r along an axis, over K: its other axes in their order, and 2."""
    if axis == weight.ndim - 1:
        return applied(weight, r)
    before, n, after = weight.shape[:axis], weight.shape[axis], weight.shape[axis + 1 :]
    whole = weight.reshape(math.prod(before), n, -1)
    out, step = np.zeros((len(whole), whole.shape[2], 2), np.uint64), max(1, BLOCK // whole.shape[2])
    for total, matrix in zip(out, whole, strict=True):
        for at in range(0, n, step):
            part = kernels.contract(kernels.residues(matrix[None, at : at + step]), r[at : min(at + step, n)])
            total[...] = field.add(total, part[0])
    return out.reshape(*before, *after, 2)


def applied(result: Ints, r: Array) -> Array:
    """Return an array (…, m) times the beginning of r along its last axis, over K (…, 2)."""
    m = result.shape[-1]
    rows, step = result.reshape(-1, m), max(1, BLOCK // m)
    out = np.empty((len(rows), 2), np.uint64)
    for at in range(0, len(rows), step):
        out[at : at + step] = kernels.contract(kernels.residues(rows[at : at + step])[:, :, None], r[:m])[:, 0]
    return out.reshape(*result.shape[:-1], 2)


def product(a: Ints, projection: Array, sums: tuple[int, ...] = ()) -> Array:
    """Return A (W r) for a (…, n, k) and W r (…, k, 2), broadcast, added up over some axes that stay: (…, n, 2)."""
    batch = np.broadcast_shapes(a.shape[:-2], projection.shape[:-2])
    left = np.broadcast_to(a, (*batch, *a.shape[-2:]))
    right = np.broadcast_to(projection, (*batch, *projection.shape[-2:]))
    out = np.empty((*batch, a.shape[-2], 2), np.uint64)
    for index in np.ndindex(*batch):
        numbers = kernels.residues(left[index])
        out[index] = kernels.contract(numbers[:, :, None], np.ascontiguousarray(right[index]))[:, 0]
    for axis in sums:
        out = np.expand_dims(field.total(out, axis), axis)
    return out


def bits(products: int, audits: int) -> float:
    """Return the security of so many audits with one vector, each of so many products: −log2 of the error.

    A false product passes with a chance of p^-2 as long as none has passed; what a prover learns from its rejected
    trials is that they were none of the few vectors that would have let them pass. So it is at most the sum over all.
    """
    return 2 * math.log2(P) - math.log2(products * audits)
