"""Proofs: the parts of a prover on one core, beside the field multiplications that they can't do without.

Rows, in group `proof`; processor time throughout, one thread, random data:

- `proof-field-ns`: a multiplication in F with an addition, on data in the cache, beside the same in numpy. `paths` has
  all paths of this CPU.
- `proof-matmul-ns`: a claim on a product (32, 1024) x (1024, 4096), for each element of both factors.
- `proof-lookup-ns`: each of 2^20 look-ups in a table of 2^16.
- `proof-claims-ns`: two claims on 2^22 elements become one, for each element.
- `proof-commit-ns`: an element of 2^22 that are committed to; beside it code and hashes, at the speed measured here.
- `proof-open-ns`: an element of these, in an opening.
- `proof-check-ms`: what the verifier has to do for look-ups and opening; `bytes` is how long both proofs are.

A `ratio` is to the field multiplications (and hashes) of the arithmetic, at `proof-field-ns` for each: what is above 1
are additions, memory, and Python between the kernels.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from benchmarks.harness import interleave, progress, row
from mitai.proof import field, kernels
from mitai.proof.claims import prove_claims
from mitai.proof.commitment import commit, open_claims
from mitai.proof.field import K, P
from mitai.proof.lookups import Column, count, prove_lookups
from mitai.proof.sumcheck import prove_matmul
from mitai.proof.transcript import Prover, Verifier
from mitai.proof.verify.claims import Claim
from mitai.proof.verify.commitment import Shape, check_openings
from mitai.proof.verify.lookups import Table, check_lookups

RUNS = 5
LOG = 22  # of committed elements
LOOKUPS = 20
RNG = np.random.default_rng(7)
POINT = [K(int(a), int(b)) for a, b in RNG.integers(0, P, (LOG, 2), np.uint64)]

# Multiplications in F. A product in K is 3 of them, one of K by F is 2. A look-up: adding up fractions is 8, the sums
# of all rounds 18, folding four tables 12, mixing numerators and denominators 3, weights 1.5. A claim's element: the
# first round is 4 for the sums and 5 for the folds of half of the elements, all others 6 and 6 for as many in all, and
# both claims' weights 3 and 3 (and a quarter of each more, for the smaller one).
LOOKUP_MULS = 8 + 18 + 12 + 3 + 1.5
CLAIMS_MULS = 0.5 * 9 + 0.5 * 12 + 6 * 1.25
HASHED_BYTES = 4 * 8  # of an element, in leaves


def main() -> None:
    """Measure all rows."""
    kernels.THREADS = 1
    progress(f"path: {kernels.PATH} of {', '.join(kernels.PATHS)}")
    mul = statistics.median(multiplications())
    products(mul)
    proof, shapes, table = lookups(mul)
    commitments(mul, proof, shapes, table)


def words(*shape: int) -> np.ndarray:
    return RNG.integers(0, P, shape, np.uint64)


def nanoseconds(work: Callable[[], object], n: float, calls: int = 1) -> Callable[[], float]:
    """Return a measure: processor time for each of n elements."""

    def measure() -> float:
        start = time.thread_time()
        for _ in range(calls):
            work()
        return (time.thread_time() - start) * 1e9 / n / calls

    return measure


@contextmanager
def path(name: str) -> Iterator[None]:
    before, kernels.PATH = kernels.PATH, name
    try:
        yield
    finally:
        kernels.PATH = before


def on(name: str, measure: Callable[[], float]) -> Callable[[], float]:
    def measured() -> float:
        with path(name):
            return measure()

    return measured


def beside(
    name: str, samples: list[float], floor: float, peer: str = "its field multiplications", **more: object
) -> None:
    row(name, samples, "ns", peer=peer, peer_samples=[floor], path=kernels.PATH, **more)


def multiplications() -> list[float]:
    x, weights = words(64, 1024, 1), words(1024, 2)
    work = nanoseconds(lambda: kernels.contract(x, weights), 2 * x.size, 20)
    names = [name for name in kernels.PATHS if name not in ("amx-emulated", "python")] + ["python"]
    samples = interleave(RUNS, *(on(name, work) for name in names))
    paths = {name: round(statistics.median(each), 3) for name, each in zip(names, samples, strict=True)}
    best = samples[names.index(kernels.PATH)]
    row("proof-field-ns", best, "ns", peer="numpy", peer_samples=samples[-1], path=kernels.PATH, paths=paths)
    return best


def products(mul: float) -> None:
    a, b = words(1, 32, 1024), words(1, 1024, 4096)
    work = lambda: prove_matmul(Prover(), a, b, K(1), batch=[], row=POINT[:5], column=POINT[:12])  # noqa: E731
    [samples] = interleave(RUNS, nanoseconds(work, a.size + b.size))
    beside("proof-matmul-ns", samples, 2 * mul)


def lookups(mul: float) -> tuple[bytes, list[tuple[int, ...]], Table]:
    n = 1 << LOOKUPS
    table = Table(np.arange(1 << 16))
    column = Column((RNG.integers(0, 1 << 16, n),), (n,))
    counts = count([column], table)
    [samples] = interleave(RUNS, nanoseconds(lambda: prove_lookups(Prover(), [column], table, counts), n))
    beside("proof-lookup-ns", samples, LOOKUP_MULS * (1 + (1 << 16) / n) * mul)
    prover = Prover()
    prove_lookups(prover, [column], table, counts)
    return prover.proof, [column.shape], table


def commitments(mul: float, proof: bytes, shapes: list[tuple[int, ...]], table: Table) -> None:
    array = words(1 << LOG)
    claims = [Claim(POINT, K(1)), Claim(POINT[2:], K(1), 1 << (LOG - 2))]
    committed = commit(array)
    prover = Prover()
    claim = Claim(POINT, field.evaluate(array, POINT))
    open_claims(prover, committed, [claim])
    data = np.zeros((1 << 12, 8 << Shape.of(LOG).rows), np.uint8)
    joining, committing, opening, hashing, checking = interleave(
        RUNS,
        nanoseconds(lambda: prove_claims(Prover(), array, claims), array.size),
        nanoseconds(lambda: commit(array), array.size),
        nanoseconds(lambda: open_claims(Prover(), committed, [claim]), array.size),
        nanoseconds(lambda: kernels.hashes(b"\0", data), data.size),
        lambda: checks(proof, shapes, table, prover.proof, committed.root, claim),
    )
    butterflies = 4 * (Shape.of(LOG).positions / 2 + 1)  # with one more product, for the coset
    floor = butterflies * mul + HASHED_BYTES * statistics.median(hashing)
    beside("proof-claims-ns", joining, CLAIMS_MULS * mul)
    beside("proof-commit-ns", committing, floor, "its field multiplications and hashes")
    beside("proof-open-ns", opening, 2 * mul)
    row("proof-check-ms", checking, "ms", bytes=len(proof) + len(prover.proof))


def checks(
    proof: bytes, shapes: list[tuple[int, ...]], table: Table, opened: bytes, root: bytes, claim: Claim
) -> float:
    """Return the milliseconds of the verifier."""
    start = time.thread_time()
    check_lookups(Verifier(proof), shapes, table)
    check_openings(Verifier(opened), root, LOG, [claim])
    return (time.thread_time() - start) * 1000


if __name__ == "__main__":
    main()
