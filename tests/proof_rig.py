"""A small statement with all arguments of `mitai.proof`: y = T[x] and C = x yᵀ for committed x and y, public C."""

from __future__ import annotations

import numpy as np

from mitai.proof import field
from mitai.proof.claims import prove_claims
from mitai.proof.commitment import Commitment, commit, open_claims
from mitai.proof.field import K
from mitai.proof.lookups import Column, count, prove_lookups
from mitai.proof.sumcheck import prove_matmul
from mitai.proof.transcript import Prover, Transcript, Verifier
from mitai.proof.verify.claims import Claim, check_claims, places
from mitai.proof.verify.commitment import bind_root, check_openings
from mitai.proof.verify.lookups import Table, check_lookups
from mitai.proof.verify.sumcheck import check_matmul

SHAPE = (3, 5)
NUMBERS = np.arange(-8, 9)
SQUARES = Table(NUMBERS, NUMBERS**2)
OFFSETS, LOG = places([5, 5, 5])  # x, y, counts


class Recorder(Prover):
    """A prover that remembers where each message is, and says some otherwise."""

    def __init__(self, change: int | None = None) -> None:
        super().__init__()
        self.messages: list[tuple[str, int, int]] = []  # label, start, end
        self.change = change

    def send_bytes(self, label, data):
        if len(self.messages) == self.change:
            data = bytes([data[0] ^ 1]) + data[1:]
        start = self.messages[-1][2] if self.messages else 0
        self.messages.append((label, start, start + len(data)))
        super().send_bytes(label, data)


def begin(transcript: Transcript, root: bytes, product: np.ndarray) -> tuple[list[K], K]:
    """Bind the statement; return a random point of C, and C there."""
    bind_root(transcript, root, LOG)
    transcript.bind("product", product.astype("<i8").tobytes())
    padded = np.pad(field.signed(product), (0, 1)).reshape(-1)  # 3 by 3, in 4 by 4
    point = transcript.challenges("product", 4)
    return point, field.evaluate(padded, point)


def prove(x: np.ndarray, y: np.ndarray, product: np.ndarray, prover: Prover) -> Commitment:
    """Prove it, or try to."""
    column = Column((x, y), SHAPE)
    counts = count([column], SQUARES) if (y == x**2).all() else count([Column((x, x**2), SHAPE)], SQUARES)
    whole = np.zeros(1 << LOG, np.uint64)
    for offset, array in zip(OFFSETS, (*column.arrays, counts), strict=True):
        whole[offset : offset + len(array)] = array
    committed = commit(whole)
    point, value = begin(prover, committed.root, product)
    a, b = (array.reshape(1, 4, 8) for array in column.arrays)
    of_a, of_b = prove_matmul(prover, a, b.transpose(0, 2, 1), value, batch=[], row=point[:2], column=point[2:])
    of_columns, of_counts = prove_lookups(prover, [column], SQUARES, counts)
    left = prove_claims(prover, whole, _claims(of_a, of_b, of_columns, of_counts))
    open_claims(prover, committed, [left])
    return committed


def verify(proof: bytes, root: bytes, product: np.ndarray, table: Table = SQUARES) -> Verifier:
    """Check it; return the verifier at the end."""
    verifier = Verifier(proof)
    point, value = begin(verifier, root, product)
    of_a, of_b = check_matmul(verifier, value, batch=[], row=point[:2], column=point[2:], inner=3)
    of_columns, of_counts = check_lookups(verifier, [SHAPE], table)
    left = check_claims(verifier, LOG, _claims(of_a, of_b, of_columns, of_counts))
    check_openings(verifier, root, LOG, [left])
    verifier.finish()
    return verifier


def _claims(of_a, of_b, of_columns, of_counts) -> list[Claim]:
    point, value = of_b
    [of_x] = of_columns
    return [
        Claim(*of_a, OFFSETS[0]),
        Claim([*point[3:], *point[:3]], value, OFFSETS[1]),  # of y, transposed
        *(Claim(claim.point, claim.value, offset) for claim, offset in zip(of_x, OFFSETS, strict=False)),
        Claim(of_counts.point, of_counts.value, OFFSETS[2]),
    ]


def example() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return true x, y, C."""
    x = np.random.default_rng(7).integers(-8, 9, SHAPE)
    return x, x**2, x @ (x**2).T
