"""The ledger with 1,000,000 entries: appending to it, and proving that an entry is in it.

Rows: `ledger-append-ms` and `ledger-proof-ms` in a SQLite file, as the broker keeps it, and `-folder` beside them for
the log in a folder. An append is one transaction of 64 entries, the size of the broker's group commit; the value is per
entry. The peer of an append stores the same entries in a plain SQLite table, in the same transactions. The peer of a
proof reads the same tiles (or files) and computes nothing.

`floor_ms` is what physics asks of an append, measured in the same rounds: SHA-256 of a leaf and a node for each entry,
and one write with `fsync`.
"""

from __future__ import annotations

import hashlib
import os
import random
import sqlite3
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from sqlalchemy import Engine, create_engine, event

from benchmarks.harness import interleave, progress, row, timed
from mitai.identity import Identity
from mitai.ledger.entry import ReceiptEntry
from mitai.ledger.log import Log
from mitai.ledger.note import verify_checkpoint
from mitai.ledger.proof import verify_inclusion
from mitai.ledger.sql import SqlStore, metadata
from mitai.ledger.store import FolderStore
from mitai.ledger.tiles import tile_path
from mitai.ledger.tree import leaf_hash, tile_width

ENTRIES = 1_000_000
BATCH = 64
APPENDS = 40  # a sample
PROOFS = 200  # a sample
RUNS = 7
SIGNER = Identity.generate()
PRAGMAS = ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL")

Fill = Callable[[list[bytes]], object]


def main() -> None:
    """Measure all rows."""
    with tempfile.TemporaryDirectory(prefix="mitai-ledger-") as name:
        folder = Path(name)
        engine = database(folder / "log.db")
        plain = sqlite3.connect(folder / "plain.db", isolation_level=None)
        for pragma in PRAGMAS:
            plain.execute(pragma)
        plain.execute("CREATE TABLE entries (position INTEGER PRIMARY KEY, data BLOB NOT NULL)")
        with FolderStore(folder / "log") as store:
            log = Log(store, SIGNER, "log.example")
            fills: list[Fill] = [lambda data: in_sql(engine, data), log.append, lambda data: in_plain(plain, data)]
            for title, fill in zip(("SQLite log", "folder log", "plain table"), fills, strict=True):
                progress(f"{title}: {ENTRIES:,} entries")
                for start in range(0, ENTRIES, 8192):
                    fill(entries(start, min(8192, ENTRIES - start)))
            appends(fills, folder)
            proofs(engine, log, folder)
        plain.close()
        engine.dispose()


def appends(fills: list[Fill], folder: Path) -> None:
    progress("appending")
    peer = "plain SQLite table, same entries and transactions"
    for name, batch, count in (("", BATCH, APPENDS), ("-single", 1, APPENDS // 4)):
        with (folder / "floor").open("wb") as file:
            steps = [*fills, lambda data, file=file: floor(file, data)]
            sql, in_folder, plain, least = interleave(RUNS, *(sample(step, batch, count) for step in steps))
        more = {"entries": ENTRIES, "batch": batch, "floor_ms": float(f"{statistics.median(least):.3g}")}
        row(f"ledger-append{name}-ms", sql, "ms", peer=peer, peer_samples=plain, **more)
        row(f"ledger-append{name}-folder-ms", in_folder, "ms", peer=peer, peer_samples=plain, **more)


def sample(fill: Fill, batch: int, count: int) -> Callable[[], float]:
    """Return a measure of the milliseconds for each entry of `count` appends."""
    batches = [entries(ENTRIES + number * batch, batch) for number in range(count)]
    return lambda: timed(lambda: [fill(data) for data in batches]) * 1e3 / (count * batch)


def floor(file: BinaryIO, data: list[bytes]) -> None:
    """Hash a leaf and a node for each entry, then write and sync once."""
    for entry in data:
        leaf = hashlib.sha256(b"\x00" + entry).digest()
        hashlib.sha256(b"\x01" + leaf + leaf).digest()
    file.write(b"".join(data))
    file.flush()
    os.fsync(file.fileno())


def proofs(engine: Engine, log: Log, folder: Path) -> None:
    progress("proving")
    choose = random.Random(6962)
    raw = sqlite3.connect(folder / "log.db")
    with engine.connect() as connection:
        stored = Log(SqlStore(connection), SIGNER, "log.example")
        size = stored.size
        indices = [choose.randrange(size) for _ in range(PROOFS)]
        tiles = [needed(stored, index) for index in indices]
        paths = [
            [str(log.store.folder / tile_path(*key, tile_width(*key, log.size))) for key in keys] for keys in tiles
        ]
        root, leaves = stored.root(), [leaf_hash(stored.entry(index)) for index in indices]
        made: list[tuple[bytes, ...]] = []

        def prove(target: Log) -> float:
            made.clear()
            return timed(lambda: made.extend(target.inclusion_proof(index, size) for index in indices)) * 1e3 / PROOFS

        def select() -> float:
            query = "SELECT hashes FROM ledger_tiles WHERE level=? AND position=?"
            return timed(lambda: [raw.execute(query, key).fetchone() for keys in tiles for key in keys]) * 1e3 / PROOFS

        def read() -> float:
            return timed(lambda: [Path(path).read_bytes() for group in paths for path in group]) * 1e3 / PROOFS

        sql, selected = interleave(RUNS, lambda: prove(stored), select)
        for leaf, index, proof in zip(leaves, indices, made, strict=True):
            verify_inclusion(leaf, index, size, proof, root)
        longest = max(map(len, made))
        assert longest == (size - 1).bit_length(), "RFC 6962: ceil(log2(size)) hashes"
        in_folder, opened = interleave(RUNS, lambda: prove(log), read)
        check = interleave(
            RUNS,
            lambda: (
                timed(
                    lambda: [
                        verify_inclusion(leaf, index, size, proof, root)
                        for leaf, index, proof in zip(leaves, indices, made, strict=True)
                    ]
                )
                * 1e3
                / PROOFS
            ),
        )[0]
        assert verify_checkpoint(log.checkpoint(), log.vkey).size == log.size
    more = {"entries": size, "proof_hashes": longest, "proof_bytes": longest * 32}
    row("ledger-proof-ms", sql, "ms", peer="plain SELECT of the same tiles", peer_samples=selected, **more)
    row("ledger-proof-folder-ms", in_folder, "ms", peer="reading the same files", peer_samples=opened, **more)
    row("ledger-verify-ms", check, "ms", **more)
    raw.close()


def needed(log: Log, index: int) -> list[tuple[int, int]]:
    """Return the tiles that a proof of that entry reads."""
    seen: dict[tuple[int, int], None] = {}
    read = log.store.tile

    def watched(level: int, position: int) -> bytes:
        seen[level, position] = None
        return read(level, position)

    log.store.tile = watched
    log.inclusion_proof(index)
    del log.store.tile
    return list(seen)


def entries(start: int, count: int) -> list[bytes]:
    """Return entries as the broker writes them for receipts."""
    template = ReceiptEntry(time="2026-01-02T03:04:05Z", exchange="x" * 12, receipt_sha256="0" * 64).encode()
    return [template.replace(b"x" * 12, b"%012d" % number) for number in range(start, start + count)]


def database(path: Path) -> Engine:
    """Open a SQLite file with the settings that survive a power cut."""
    engine = create_engine(f"sqlite:///{path}")

    @event.listens_for(engine, "connect")
    def durable(connection: sqlite3.Connection, _: object) -> None:
        for pragma in PRAGMAS:
            connection.execute(pragma)

    metadata.create_all(engine)
    return engine


def in_sql(engine: Engine, data: list[bytes]) -> None:
    with engine.begin() as connection:
        Log(SqlStore(connection), SIGNER, "log.example").append(data)


def in_plain(plain: sqlite3.Connection, data: list[bytes]) -> None:
    plain.execute("BEGIN IMMEDIATE")
    plain.executemany("INSERT INTO entries (data) VALUES (?)", [(entry,) for entry in data])
    plain.execute("COMMIT")


if __name__ == "__main__":
    main()
