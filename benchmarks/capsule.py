"""Capsules against raw AES-256-GCM and against age (`pyrage`), on 0.99 GB of random bf16 in the shape of Qwen2-0.5B.

Everything lies in the temporary folder (`TMPDIR`), which should be on a disk as a model is; the source is in the page
cache, like a file that was just downloaded. Rows:

- `capsule-seal`: megabytes per second of processor time, one worker, the whole pipeline: read the file, encrypt, write
  objects until they are on the disk, sign. Peer: AES-256-GCM alone in the capsule's own chunks of 1 MiB, memory to
  memory, measured the same way. Both find their memory touched before, and in huge pages.
- `capsule-open`: the same for reading objects, decrypting and authenticating into memory. The objects are in the page
  cache; the `disk` figures are without that, as `seal` leaves them.
- `capsule-seal-digests`, `capsule-open-digests`: the same with SHA-256 of the ciphertext in the manifest.
- `capsule-open-pyrage`: megabytes per second by the clock on the wall, all processors, objects in the page cache. Peer:
  `pyrage.decrypt` of the same bytes in memory, in pieces of 16 MiB, so that its results too lie in memory that was
  touched before: what fresh memory costs varies widely from run to run on virtual machines; `fresh_memory` is ours into
  such, `disk` ours with objects that only the disk has.

`wall` is megabytes per second by the clock, `tmpfs` per second of processor time with source and objects on a memory
file system, where pages can't be avoided; `raw_16kib` is AES-256-GCM alone in records of 16 KiB (those of TLS);
`rss_mb` is how much a new process grew at its peak in one run, without the destination of `open` (the plaintext).
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pyrage
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from benchmarks.harness import interleave, progress, row, timed
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
        size = path.stat().st_size
        self.chunks = size // chunk
        self._plain = memoryview(anonymous(size))
        self._sealed = memoryview(anonymous(self.chunks * (chunk + 16)))
        self._scratch = bytearray(chunk)
        with path.open("rb") as file:
            file.readinto(self._plain)
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

    def cache(self) -> None:
        """Have the objects in the page cache, as after a download."""
        for descriptor in self._objects():
            while os.read(descriptor, PIECE):
                pass

    def evict(self) -> None:
        """Have the objects on the disk only, as after sealing."""
        for descriptor in self._objects():
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def _objects(self) -> Iterator[int]:
        for path in self._dest.iterdir():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                yield descriptor
            finally:
                os.close(descriptor)

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


def measured(walls: list[float], work: Callable[[], object], before: Callable[[], object] = lambda: None) -> float:
    """Return the seconds of processor time that `work` takes, all threads, after `before`, which isn't measured.

    The seconds by the clock on the wall are added to `walls`.
    """
    before()
    wall, start = time.perf_counter(), time.process_time()
    work()
    spent = time.process_time() - start
    walls.append(time.perf_counter() - wall)
    return spent


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
def memory_folder(path: Path) -> Iterator[Path | None]:
    """A folder in memory with a copy of the plain model, if there is room for it; removed afterwards."""
    shared = Path("/dev/shm")
    if not shared.is_dir() or shutil.disk_usage(shared).free < 4 << 30:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="mitai-bench-", dir=shared) as folder:
        (Path(folder) / "plain").mkdir()
        shutil.copyfile(path, Path(folder) / "plain" / NAME)
        yield Path(folder)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="mitai-bench-") as name:
        folder = Path(name)
        progress(f"capsule: working in {folder}")
        (folder / "plain").mkdir()
        path = folder / "plain" / NAME
        size_mb = write_model(path) / 1e6
        os.sync()
        progress(f"capsule: a model of {size_mb:.0f} MB")
        with memory_folder(path) as in_memory:
            for digests in (False, True):
                against_raw(folder, in_memory, path, size_mb, digests=digests)
        against_age(folder, path, size_mb)


def against_raw(folder: Path, in_memory: Path | None, path: Path, size_mb: float, *, digests: bool) -> None:
    raw, large = Raw(path, RECORD), Raw(path, CHUNK)
    plain = memoryview(anonymous(path.stat().st_size))[: path.stat().st_size]
    suffix = "-digests" if digests else ""
    ours = Ours(folder, digests=digests)
    there = Ours(in_memory, digests=digests) if in_memory else ours
    walls: dict[str, list[float]] = {"peer": [], "wall": [], "tmpfs": [], "disk": []}
    seals = interleave(
        RUNS,
        lambda: measured(walls["wall"], ours.seal, ours.clear),
        lambda: measured(walls["peer"], raw.encrypt),
        lambda: measured(walls["peer"], large.encrypt),
        lambda: measured(walls["tmpfs"], there.seal, there.clear),
    )
    more = {"wall": rate(size_mb, walls["wall"][-RUNS:]), "rss_mb": growth_mb(ours.seal_again)}
    if in_memory:
        more["tmpfs"] = rate(size_mb, seals[3])
    compare(f"capsule-seal{suffix}", size_mb, seals, more)
    walls["wall"].clear()
    opens = interleave(
        RUNS,
        lambda: measured(walls["wall"], lambda: ours.open_into(plain), ours.cache),
        lambda: measured(walls["peer"], raw.decrypt),
        lambda: measured(walls["peer"], large.decrypt),
        lambda: measured(walls["tmpfs"], lambda: there.open_into(plain)),
        lambda: measured(walls["disk"], lambda: ours.open_into(plain), ours.evict),
    )
    more = {
        "wall": rate(size_mb, walls["wall"][-RUNS:]),
        "disk": rate(size_mb, opens[4]),
        "disk_wall": rate(size_mb, walls["disk"][-RUNS:]),
        "rss_mb": growth_mb(partial(ours.open, 1)) - size_mb,
    }
    if in_memory:
        more["tmpfs"] = rate(size_mb, opens[3])
    compare(f"capsule-open{suffix}", size_mb, opens, more)


def rate(size_mb: float, seconds: Sequence[float]) -> float:
    """Return megabytes per second, by the median."""
    return size_mb / statistics.median(seconds)


def compare(name: str, size_mb: float, samples: list[list[float]], more: dict[str, float]) -> None:
    ours, records, raws = ([size_mb / seconds for seconds in each] for each in samples[:3])
    row(
        name,
        ours,
        "MB/s per core",
        peer="AES-256-GCM alone, chunks of 1 MiB as in the capsule, in memory",
        peer_samples=raws,
        raw_16kib=round(statistics.median(records)),
        ratio_raw_16kib=round(statistics.median(ours) / statistics.median(records), 3),
        **{figure: round(value, 1) for figure, value in more.items()},
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

    def wall(work: Callable[[], object], before: Callable[[], object] = lambda: None) -> float:
        before()
        return size_mb / timed(work)

    workers = len(os.sched_getaffinity(0))
    mine, theirs, fresh, disk = interleave(
        2 * RUNS - 1,
        lambda: wall(lambda: ours.open_into(plain, workers), ours.cache),
        lambda: wall(decrypt),
        lambda: wall(lambda: ours.open(workers), ours.cache),
        lambda: wall(lambda: ours.open_into(plain, workers), ours.evict),
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
        disk=round(statistics.median(disk)),
        ratio_disk=round(statistics.median(disk) / statistics.median(theirs), 2),
    )


if __name__ == "__main__":
    main()
