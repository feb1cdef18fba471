"""Secure computation: the kernels on one core, each path beside torch and numpy and beside the memory's speed.

Rows, in group `mpc`; processor time throughout, one thread:

- `mpc-kernel-matmul` and `-32`: products (128, 768) x (768, 3072), as in BERT-base, modulo 2^64 and 2^32, packed, in
  GMAC/s, beside torch's `@` of signed integers. `paths` has all paths of this CPU, and numpy.
- `mpc-kernel-matvec`: one row by a packed (4096, 4096), in GB/s beside summing up the same bytes with numpy, which is
  what reading them costs.
- `mpc-kernel-waves`: the sum of 14 waves of a masked number, ns, beside the portable path.
- `mpc-kernel-random`: AES-CTR words, GB/s beside raw `cryptography` in place.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from benchmarks.harness import interleave, progress, row
from mitai.mpc import kernels

RUNS = 7
N = 1 << 16  # elements of what is not a product
RNG = np.random.default_rng(6)


def main() -> None:
    """Measure all rows."""
    torch.set_num_threads(1)
    progress(f"path: {kernels.PATH} of {', '.join(kernels.PATHS)}")
    products("mpc-kernel-matmul", np.uint64)
    products("mpc-kernel-matmul-32", np.uint32)
    rows_of_one()
    waves()
    random_words()


def words(*shape: int, dtype: type[np.unsignedinteger] = np.uint64) -> np.ndarray:
    return RNG.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def rate(amount: float, work: Callable[[], object], calls: int = 1) -> Callable[[], float]:
    """Return a measure: `amount` a second of processor time."""

    def measure() -> float:
        start = time.thread_time()
        for _ in range(calls):
            work()
        return amount * calls / (time.thread_time() - start)

    return measure


def nanoseconds(work: Callable[[], object]) -> Callable[[], float]:
    """Return a measure: the time for each of N elements."""
    return lambda: 1e9 / rate(N, work)()


def on(name: str, measure: Callable[[], float]) -> Callable[[], float]:
    """Return the measure of a path."""

    def measured() -> float:
        with path(name):
            return measure()

    return measured


@contextmanager
def path(name: str) -> Iterator[None]:
    before, kernels.PATH = kernels.PATH, name
    try:
        yield
    finally:
        kernels.PATH = before


def products(name: str, dtype: type[np.unsignedinteger]) -> None:
    a, b = words(128, 768, dtype=dtype), words(768, 3072, dtype=dtype)
    amount = a.size * b.shape[1] / 1e9
    signed = [torch.from_numpy(x.view(f"i{x.itemsize}")) for x in (a, b)]
    names = [one for one in kernels.PATHS if one != "amx-emulated"]
    measures = [rate(amount, lambda: signed[0] @ signed[1])]
    for one in names:
        with path(one):
            packed = kernels.pack(b)
        measures.append(on(one, rate(amount, lambda packed=packed: kernels.matmul(a, packed))))
    peer, *samples = interleave(RUNS, *measures)
    paths = {one: round(statistics.median(each), 2) for one, each in zip(names, samples, strict=True)}
    paths["numpy"] = round(rate(amount / 32, lambda: a[:4] @ b)(), 2)
    best = samples[names.index(kernels.PATH)]
    row(name, best, "GMAC/s", peer="torch's integer @", peer_samples=peer, path=kernels.PATH, paths=paths)


def rows_of_one() -> None:
    a, b = words(1, 4096), words(4096, 4096)
    packed, out = kernels.pack(b), np.empty((1, 4096), np.uint64)
    signed = [torch.from_numpy(x.view(np.int64)) for x in (a, b)]
    works = (
        lambda: kernels.matmul(a, packed, out),
        lambda: np.bitwise_xor.reduce(b, axis=None),
        lambda: signed[0] @ signed[1],
    )
    ours, read, other = interleave(RUNS, *(rate(b.nbytes / 1e9, work) for work in works))
    more = {"path": kernels.PATH, "torch": round(statistics.median(other), 2)}
    row("mpc-kernel-matvec", ours, "GB/s", peer="reading the matrix", peer_samples=read, **more)


def waves() -> None:
    turns, factors, total = words(N, dtype=np.uint32), words(28, N), words(N)
    angle = 2 * np.pi * np.arange(2048) / 2048
    circle = np.stack([np.stack([np.cos(t), np.sin(t)]) for t in (angle, angle / 2048)])
    work = nanoseconds(lambda: kernels.add_waves(total, turns, circle, 2.0**22, factors))
    ours, portable = interleave(RUNS, work, on("python", work))
    row("mpc-kernel-waves", ours, "ns", peer="the portable path", peer_samples=portable, path=kernels.PATH)


def random_words() -> None:
    n = 1 << 20
    buffer = memoryview(np.zeros(n, np.uint64)).cast("B")

    def raw() -> None:
        Cipher(algorithms.AES(bytes(16)), modes.CTR(bytes(16))).encryptor().update_into(buffer, buffer)

    ours, peer = interleave(RUNS, rate(n * 8 / 1e9, lambda: kernels.prg(bytes(16), 0, 0, n)), rate(n * 8 / 1e9, raw))
    row("mpc-kernel-random", ours, "GB/s", peer="cryptography in place", peer_samples=peer)


if __name__ == "__main__":
    main()
