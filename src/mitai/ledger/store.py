"""Stores without a database: in memory, and a folder that any static web server can publish.

Follows C2SP tlog-tiles for the folder's layout. `mitai.ledger.sql` has the store inside a database transaction.

Invariants of `FolderStore`:

- The checkpoint is the commit: it is renamed into place after everything that it covers has reached the disk.
- A crash at any moment leaves the previous log or the new one; files that no checkpoint covers are written again.
- One process writes (a lock on `.lock`); readers need no lock: what a checkpoint covers is never changed.

Example:
    >>> store = MemoryStore()
    >>> store.size()
    0
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Self

from mitai.errors import LedgerError
from mitai.ledger.note import parse_checkpoint, parse_note
from mitai.ledger.tiles import (
    ENTRIES,
    Fetch,
    encode_bundle,
    folder_reader,
    read_bundle,
    read_tile,
    tile_path,
)
from mitai.ledger.tree import HASH_BYTES, TILE_WIDTH, Tile, tile_width


class MemoryStore:
    """A log that lives as long as the process."""

    def __init__(self) -> None:
        self._entries: list[bytes] = []
        self._tiles: dict[Tile, bytes] = {}
        self._checkpoint: bytes | None = None

    def size(self) -> int:
        """See `Store`."""
        return len(self._entries)

    def tile(self, level: int, index: int) -> bytes:
        """See `Store`."""
        return self._tiles.get((level, index), b"")

    def entries(self, start: int, end: int) -> list[bytes]:
        """See `Store`."""
        return self._entries[start:end]

    def reserve(self, count: int) -> int:
        """See `Store`."""
        del count
        return len(self._entries)

    def append(
        self, start: int, entries: Sequence[bytes], tiles: Mapping[Tile, bytes], sign: Callable[[], bytes]
    ) -> None:
        """See `Store`."""
        del sign
        self._tiles.update(tiles)
        self._entries[start:] = entries

    def checkpoint(self) -> bytes | None:
        """See `Store`."""
        return self._checkpoint

    def publish(self, checkpoint: bytes) -> None:
        """See `Store`."""
        self._checkpoint = checkpoint


class FolderStore:
    """A log in a folder, in the layout in which it is served.

    Every append is one checkpoint and a few `fsync`s: append in batches.

    Raises:
        LedgerError: Another process writes here (`ledger.locked`).
    """

    def __init__(self, folder: Path) -> None:
        import fcntl  # POSIX only; readers elsewhere need none of this class

        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._synced: set[PurePath] = set()  # folders whose own entry is known to be on disk
        self._interrupted = False
        self._read: Fetch = folder_reader(folder)
        self._lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise LedgerError("ledger.locked", f"another process writes the log in {folder}") from error
        published = self.checkpoint()
        self._size = parse_checkpoint(parse_note(published).text).size if published else 0

    def close(self) -> None:
        """Let another process write."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def size(self) -> int:
        """See `Store`."""
        return self._size

    def tile(self, level: int, index: int) -> bytes:
        """See `Store`."""
        width = tile_width(level, index, self._size)
        return read_tile(self._read, level, index, width) if width else b""

    def entries(self, start: int, end: int) -> list[bytes]:
        """See `Store`."""
        found: list[bytes] = []
        for index in range(start // TILE_WIDTH, -(-end // TILE_WIDTH)):
            found += read_bundle(self._read, index, tile_width(0, index, self._size))
        return found[start % TILE_WIDTH :][: end - start]

    def reserve(self, count: int) -> int:
        """See `Store`; refuse after an append that failed, because it may have been published."""
        del count
        if self._interrupted:
            raise LedgerError(
                "ledger.interrupted",
                "an append failed half-way",
                hint="open the folder again: its checkpoint says where the log ends",
            )
        return self._size

    def append(
        self, start: int, entries: Sequence[bytes], tiles: Mapping[Tile, bytes], sign: Callable[[], bytes]
    ) -> None:
        """See `Store`; durable on return."""
        self._interrupted = True
        first = start - start % TILE_WIDTH
        pending = [*self.entries(first, start), *entries]
        files = {tile_path(*key, len(data) // HASH_BYTES): data for key, data in tiles.items()}
        for at in range(0, len(pending), TILE_WIDTH):
            block = pending[at : at + TILE_WIDTH]
            files[tile_path(ENTRIES, (first + at) // TILE_WIDTH, len(block))] = encode_bundle(block)
        for path, data in files.items():
            self._write(path, data)
        folders = {folder for path in files for folder in PurePath(path).parents[:-1]}
        for folder in {PurePath(path).parent for path in files} | {new.parent for new in folders - self._synced}:
            _sync(self.folder / folder)
        self._synced |= folders
        self._put_checkpoint(sign())
        self._size = start + len(entries)
        self._interrupted = False
        self._drop_partials(files)

    def checkpoint(self) -> bytes | None:
        """See `Store`."""
        return self._read("checkpoint")

    def publish(self, checkpoint: bytes) -> None:
        """See `Store`; of the log as it is, because the checkpoint says where the log ends."""
        if parse_checkpoint(parse_note(checkpoint).text).size != self._size:
            raise LedgerError("ledger.checkpoint-invalid", f"the log has {self._size} entries, not the checkpoint's")
        self._put_checkpoint(checkpoint)

    def _put_checkpoint(self, checkpoint: bytes) -> None:
        self._write("checkpoint", checkpoint)
        _sync(self.folder)

    def _write(self, name: str, data: bytes) -> None:
        """Put a file in place, all of it or none; its folder is not yet synced."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(path.name + ".new")
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)

    def _drop_partials(self, paths: Mapping[str, bytes]) -> None:
        """Remove the partial versions of tiles that are full now, as C2SP tlog-tiles allows."""
        for path in paths:
            partials = self.folder / f"{path}.p"
            if partials.is_dir():
                for file in partials.iterdir():
                    file.unlink()
                partials.rmdir()
                self._synced.discard(PurePath(f"{path}.p"))


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
