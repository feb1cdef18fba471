"""Capsules against raw AES-256-GCM and against age (`pyrage`), on 0.99 GB of random bf16 in the shape of Qwen2-0.5B.

Rows:

- `capsule-seal`, `capsule-open`: megabytes per second of processor time, one worker, the whole pipeline: read the file
  (on a memory file system where there is one), encrypt, write objects, sign; or read objects, decrypt and authenticate
  into fresh memory. Peer: AES-256-GCM alone, in chunks of the same 16 KiB, memory to memory, measured the same way.
- `capsule-seal-digests`, `capsule-open-digests`: the same with SHA-256 of the ciphertext in the manifest.
- `capsule-open-pyrage`: megabytes per second by the clock on the wall, all processors. Peer: `pyrage.decrypt` of the
  same bytes, in memory.

`rss_mb` is how much the process grew at its peak over one run, without the destination of `open` (the plaintext).
"""

from __future__ import annotations

import json
import mmap
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pyrage
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from benchmarks.harness import interleave, progress, row
from mitai.capsule import CapsuleSource, FolderStore, Sealed, open_capsule, seal
from mitai.identity import Identity

RUNS = 5
CHUNK = 16 << 10
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
    """AES-256-GCM alone: 16 KiB chunks, memory to memory, both sides already touched."""

    def __init__(self, path: Path) -> None:
        self._cipher = AESGCM(os.urandom(32))
        with path.open("rb") as file:
            self._plain = memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
        self.chunks = len(self._plain) // CHUNK
        self._sealed = memoryview(bytearray(self.chunks * (CHUNK + 16)))
        self._scratch = bytearray(CHUNK)
        self.encrypt()

    def encrypt(self) -> None:
        step = CHUNK + 16
        for index in range(self.chunks):
            self._cipher.encrypt_into(
                index.to_bytes(12, "big"),
                self._plain[index * CHUNK : (index + 1) * CHUNK],
                None,
                self._sealed[index * step : (index + 1) * step],
            )

    def decrypt(self) -> None:
        step = CHUNK + 16
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
        self._owner = Identity.generate()
        self._sealed = self.seal()

    def clear(self) -> None:
        shutil.rmtree(self._dest, ignore_errors=True)

    def seal(self) -> Sealed:
        self._sealed = seal(self._source, self._dest, owner=self._owner, name="bench", digests=self._digests, workers=1)
        return self._sealed

    def opened(self) -> CapsuleSource:
        return open_capsule(
            FolderStore(self._dest), self._sealed.envelope, self._sealed.data_key, owner=self._owner.public
        )

    def open(self, workers: int) -> None:
        source = self.opened()
        size = source.size(NAME)
        with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
            memory.madvise(mmap.MADV_HUGEPAGE)
            with memoryview(memory) as buffer:
                source.read_file_into(NAME, buffer, workers=workers)


def cpu(work: Callable[[], object], before: Callable[[], object] = lambda: None) -> float:
    """Return the seconds of processor time that `work` takes, all threads, after `before`, which isn't measured."""
    before()
    start = time.process_time()
    work()
    return time.process_time() - start


def growth_mb(work: Callable[[], object], before: Callable[[], object] = lambda: None) -> float:
    """Return by how many megabytes the resident memory grows at its peak while `work` runs, after `before`."""
    before()
    process = psutil.Process()
    before = peak = process.memory_info().rss
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return (peak - before) / 1e6


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
        raw = Raw(path)
        for digests in (False, True):
            ours = Ours(folder, digests=digests)
            suffix = "-digests" if digests else ""
            seals, raws = interleave(RUNS, lambda ours=ours: cpu(ours.seal, ours.clear), lambda: cpu(raw.encrypt))
            compare(f"capsule-seal{suffix}", size_mb, seals, raws, rss_mb=growth_mb(ours.seal, ours.clear))
            opens, raws = interleave(RUNS, lambda ours=ours: cpu(lambda: ours.open(1)), lambda: cpu(raw.decrypt))
            extra = growth_mb(lambda ours=ours: ours.open(1)) - size_mb
            compare(f"capsule-open{suffix}", size_mb, opens, raws, rss_mb=extra)
            if not digests:
                plain = ours
        against_age(path, size_mb, plain)


def compare(name: str, size_mb: float, ours: list[float], raws: list[float], **more: float) -> None:
    row(
        name,
        [size_mb / seconds for seconds in ours],
        "MB/s per core",
        peer="AES-256-GCM alone, 16 KiB chunks, in memory",
        peer_samples=[size_mb / seconds for seconds in raws],
        **{key: round(value, 1) for key, value in more.items()},
    )


def against_age(path: Path, size_mb: float, ours: Ours) -> None:
    key = pyrage.x25519.Identity.generate()
    encrypted = pyrage.encrypt(path.read_bytes(), [key.to_public()])

    def wall(work: Callable[[], object]) -> float:
        start = time.perf_counter()
        work()
        return size_mb / (time.perf_counter() - start)

    workers = len(os.sched_getaffinity(0))
    mine, theirs = interleave(
        RUNS, lambda: wall(lambda: ours.open(workers)), lambda: wall(lambda: pyrage.decrypt(encrypted, [key]))
    )
    row("capsule-open-pyrage", mine, "MB/s", peer="pyrage.decrypt, in memory", peer_samples=theirs, workers=workers)


if __name__ == "__main__":
    main()
