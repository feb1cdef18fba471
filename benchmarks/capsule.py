"""Capsules against raw AES-256-GCM and against age (`pyrage`), on 0.99 GB of random bf16 in the shape of Qwen2-0.5B.

Rows:

- `capsule-seal`, `capsule-open`: megabytes per second of processor time, one worker, the whole pipeline: read the file
  (on a memory file system where there is one), encrypt, write objects, sign; or read objects, decrypt and authenticate
  into memory. Peer: AES-256-GCM alone in the capsule's own chunks of 1 MiB, memory to memory, measured the same way.
  Both find their memory touched before. `raw_16kib` is AES-256-GCM alone in records of 16 KiB (those of TLS).
- `capsule-seal-digests`, `capsule-open-digests`: the same with SHA-256 of the ciphertext in the manifest.
- `capsule-open-pyrage`: megabytes per second by the clock on the wall, all processors. Peer: `pyrage.decrypt` of the
  same bytes, in pieces of 16 MiB, so that its results too lie in memory that was touched before: what fresh memory
  costs varies widely from run to run on virtual machines; `fresh_memory` is ours into such.

`rss_mb` is how much a new process grew at its peak in one run, without the destination of `open` (the plaintext).
"""

from __future__ import annotations

import json
import mmap
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pyrage
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from benchmarks.harness import interleave, progress, row
from mitai.capsule import CapsuleSource, FolderStore, Sealed, open_capsule, seal
from mitai.capsule.directio import anonymous
from mitai.channel.memory import keep_freed_memory
from mitai.identity import Identity

RUNS = 5
RECORD, CHUNK, PIECE = 16 << 10, 1 << 20, 16 << 20
NAME = "model.safetensors"
HIDDEN, INTERMEDIATE, LAYERS, KV, VOCABULARY = 896, 4864, 24, 128, 151_936  # Qwen2-0.5B; embeddings are tied


def shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the tensors of Qwen2-0.5B."""
    yield "model.embed_tokens.weight", (VOCABULARY, HIDDEN)
    yield "model.norm.weight", (HIDDEN,)
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        for name, rows in (("q", HIDDEN), ("k", KV), ("v", KV)):
            yield f"{prefix}.self_attn.{name}_proj.weight", (rows, HIDDEN)
            yield f"{prefix}.self_attn.{name}_proj.bias", (rows,)
        yield f"{prefix}.self_attn.o_proj.weight", (HIDDEN, HIDDEN)
        yield f"{prefix}.mlp.gate_proj.weight", (INTERMEDIATE, HIDDEN)
        yield f"{prefix}.mlp.up_proj.weight", (INTERMEDIATE, HIDDEN)
        yield f"{prefix}.mlp.down_proj.weight", (HIDDEN, INTERMEDIATE)
        yield f"{prefix}.input_layernorm.weight", (HIDDEN,)
        yield f"{prefix}.post_attention_layernorm.weight", (HIDDEN,)


def write_model(path: Path) -> int:
    """Write a safetensors file of random bf16; return its size."""
    entries: dict[str, object] = {}
    end = 0
    for name, shape in shapes():
        start, end = end, end + 2 * (shape[0] * (shape[1] if len(shape) > 1 else 1))
        entries[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    header = json.dumps(entries).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for position in range(0, end, 1 << 20):
            file.write(os.urandom(min(1 << 20, end - position)))
    return path.stat().st_size


class Raw:
    """AES-256-GCM alone, memory to memory, both sides already touched."""

    def __init__(self, path: Path, chunk: int) -> None:
        self._chunk = chunk
        self._cipher = AESGCM(os.urandom(32))
        with path.open("rb") as file:
            self._plain = memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
        self.chunks = len(self._plain) // chunk
        self._sealed = memoryview(bytearray(self.chunks * (chunk + 16)))
        self._scratch = bytearray(chunk)
        self.encrypt()

    def encrypt(self) -> None:
        step = self._chunk + 16
        for index in range(self.chunks):
            self._cipher.encrypt_into(
                index.to_bytes(12, "big"),
                self._plain[index * self._chunk : (index + 1) * self._chunk],
                None,
                self._sealed[index * step : (index + 1) * step],
            )

    def decrypt(self) -> None:
        step = self._chunk + 16
        for index in range(self.chunks):
            self._cipher.decrypt_into(
                index.to_bytes(12, "big"), self._sealed[index * step : (index + 1) * step], None, self._scratch
            )


class Ours:
    """Seal and open through the public interface."""

    def __init__(self, folder: Path, *, digests: bool) -> None:
        self._source = folder / "plain"
        self._dest = folder / f"sealed-{digests}"
        self._digests = digests
        self._seed = Identity.generate().seed()  # an identity does not travel to another process, its seed does
        self.clear()
        self._sealed = self.seal()

    def clear(self) -> None:
        shutil.rmtree(self._dest, ignore_errors=True)

    def seal(self) -> Sealed:
        self._sealed = seal(
            self._source,
            self._dest,
            owner=Identity.from_seed(self._seed),
            name="bench",
            digests=self._digests,
            workers=1,
        )
        return self._sealed

    def seal_again(self) -> None:
        """Seal in another process; what this one knows of the capsule stays as it is."""
        elsewhere = self._dest.with_name("elsewhere")
        owner = Identity.from_seed(self._seed)
        seal(self._source, elsewhere, owner=owner, name="bench", digests=self._digests, workers=1)
        shutil.rmtree(elsewhere)

    def opened(self) -> CapsuleSource:
        return open_capsule(
            FolderStore(self._dest),
            self._sealed.envelope,
            self._sealed.data_key,
            owner=Identity.from_seed(self._seed).public,
        )

    def open_into(self, buffer: memoryview, workers: int = 1) -> None:
        self.opened().read_file_into(NAME, buffer, workers=workers)

    def open(self, workers: int) -> None:
        size = self.opened().size(NAME)
        with anonymous(size) as memory, memoryview(memory) as buffer:
            self.opened().read_file_into(NAME, buffer[:size], workers=workers)


def cpu(work: Callable[[], object], before: Callable[[], object] = lambda: None) -> float:
    """Return the seconds of processor time that `work` takes, all threads, after `before`, which isn't measured."""
    before()
    start = time.process_time()
    work()
    return time.process_time() - start


def growth_mb(work: Callable[[], object]) -> float:
    """Return by how many megabytes the peak of resident memory grows while `work` runs in a new process."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as pool:
        return pool.submit(_grown, work).result()


def _grown(work: Callable[[], object]) -> float:
    before = _peak_kb()
    work()
    return (_peak_kb() - before) * 1024 / 1e6


def _peak_kb() -> int:
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])


@contextmanager
def workplace() -> Iterator[Path]:
    """A folder for 4 GB, in memory where there is such a file system with room; removed afterwards."""
    shared = Path("/dev/shm")
    room = shared.is_dir() and shutil.disk_usage(shared).free > 6 << 30
    with tempfile.TemporaryDirectory(prefix="mitai-bench-", dir=shared if room else None) as folder:
        progress(f"capsule: working in {'memory' if room else 'the temporary folder, on disk'}")
        yield Path(folder)


def main() -> None:
    with workplace() as folder:
        (folder / "plain").mkdir()
        path = folder / "plain" / NAME
        size_mb = write_model(path) / 1e6
        progress(f"capsule: a model of {size_mb:.0f} MB")
        against_raw(folder, path, size_mb)
        against_age(folder, path, size_mb)


def against_raw(folder: Path, path: Path, size_mb: float) -> None:
    raw, large = Raw(path, RECORD), Raw(path, CHUNK)
    plain = memoryview(anonymous(path.stat().st_size))[: path.stat().st_size]
    for digests, suffix in ((False, ""), (True, "-digests")):
        ours = Ours(folder, digests=digests)
        seals = interleave(
            RUNS,
            lambda ours=ours: cpu(ours.seal, ours.clear),
            lambda: cpu(raw.encrypt),
            lambda: cpu(large.encrypt),
        )
        compare(f"capsule-seal{suffix}", size_mb, seals, rss_mb=growth_mb(ours.seal_again))
        opens = interleave(
            RUNS,
            lambda ours=ours: cpu(lambda: ours.open_into(plain)),
            lambda: cpu(raw.decrypt),
            lambda: cpu(large.decrypt),
        )
        compare(f"capsule-open{suffix}", size_mb, opens, rss_mb=growth_mb(partial(ours.open, 1)) - size_mb)


def compare(name: str, size_mb: float, samples: list[list[float]], *, rss_mb: float) -> None:
    ours, records, raws = ([size_mb / seconds for seconds in each] for each in samples)
    row(
        name,
        ours,
        "MB/s per core",
        peer="AES-256-GCM alone, chunks of 1 MiB as in the capsule, in memory",
        peer_samples=raws,
        raw_16kib=round(statistics.median(records)),
        ratio_raw_16kib=round(statistics.median(ours) / statistics.median(records), 3),
        rss_mb=round(rss_mb, 1),
    )


def against_age(folder: Path, path: Path, size_mb: float) -> None:
    ours = Ours(folder, digests=False)
    plain = memoryview(anonymous(path.stat().st_size))[: path.stat().st_size]
    key = pyrage.x25519.Identity.generate()
    with path.open("rb") as file:
        pieces = iter(partial(file.read, PIECE), b"")
        encrypted = [pyrage.encrypt(piece, [key.to_public()]) for piece in pieces]
    keep_freed_memory()

    def decrypt() -> None:
        for piece in encrypted:
            pyrage.decrypt(piece, [key])

    def wall(work: Callable[[], object]) -> float:
        start = time.perf_counter()
        work()
        return size_mb / (time.perf_counter() - start)

    workers = len(os.sched_getaffinity(0))
    mine, theirs, fresh = interleave(
        2 * RUNS - 1,
        lambda: wall(lambda: ours.open_into(plain, workers)),
        lambda: wall(decrypt),
        lambda: wall(lambda: ours.open(workers)),
        warmup=2,
    )
    row(
        "capsule-open-pyrage",
        mine,
        "MB/s",
        peer="pyrage.decrypt, memory to memory, pieces of 16 MiB",
        peer_samples=theirs,
        workers=workers,
        fresh_memory=round(statistics.median(fresh)),
        ratio_fresh_memory=round(statistics.median(fresh) / statistics.median(theirs), 2),
    )


if __name__ == "__main__":
    main()
