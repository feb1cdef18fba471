"""The layout in which a log is published, and how a reader proves things from it without trusting the publisher.

Follows C2SP tlog-tiles: `checkpoint`, `tile/L/N[.p/W]` (hashes) and `tile/entries/N[.p/W]` (entries, each with its
length before it as a uint16).

Invariants:

- A resource has one path; any other spelling is not found.
- `TileReader` hands out only hashes that lead up to the checkpoint's root, whoever served them.
- A bundle is exactly as many entries as its width says; trailing bytes are refused.

Example:
    >>> tile_path(0, 1234067)
    'tile/0/x001/x234/067'
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

from mitai.errors import LedgerError, ParseError
from mitai.ledger.note import Checkpoint
from mitai.ledger.proof import Proof, consistency_proof, inclusion_proof
from mitai.ledger.tree import (
    HASH_BYTES,
    TILE_WIDTH,
    ReadTile,
    leaf_hash,
    perfect_root,
    range_hash,
    tile_width,
)

Fetch = Callable[[str], bytes | None]  # a path to its bytes; None when there is no such resource

ENTRIES = -1  # stands for the level of entry bundles
MAX_ENTRY_BYTES = 0xFFFF
MAX_BUNDLE_BYTES = TILE_WIDTH * (2 + MAX_ENTRY_BYTES)

_PATH = re.compile(
    r"tile/(?P<level>entries|0|[1-9][0-9]?)/(?P<index>(?:x[0-9]{3}/){0,6}[0-9]{3})(?:\.p/(?P<width>[1-9][0-9]{0,2}))?"
)


def tile_path(level: int, index: int, width: int = TILE_WIDTH) -> str:
    """Return the path of a tile, or of an entry bundle for level `ENTRIES`."""
    groups = [f"{index % 1000:03}"]
    while index := index // 1000:
        groups.append(f"x{index % 1000:03}")
    suffix = "" if width == TILE_WIDTH else f".p/{width}"
    return f"tile/{'entries' if level == ENTRIES else level}/{'/'.join(reversed(groups))}{suffix}"


def parse_tile_path(path: str) -> tuple[int, int, int] | None:
    """Return (level, index, width) of a tile's path, or None for anything but its one spelling."""
    match = _PATH.fullmatch(path)
    if not match:
        return None
    level = ENTRIES if match["level"] == "entries" else int(match["level"])
    index = int(match["index"].replace("x", "").replace("/", ""))
    width = int(match["width"] or TILE_WIDTH)
    return (
        (level, index, width)
        if level <= 63 and width <= TILE_WIDTH and tile_path(level, index, width) == path
        else None
    )


def encode_bundle(entries: Sequence[bytes]) -> bytes:
    """Return an entry bundle."""
    return b"".join([len(entry).to_bytes(2) + entry for entry in entries])


def decode_bundle(data: bytes, width: int) -> list[bytes]:
    """Return the `width` entries of a bundle; raise `ParseError` unless there are exactly that many."""
    entries: list[bytes] = []
    at = 0
    for _ in range(width):
        start = at + 2
        at = start + int.from_bytes(data[at:start])
        if at > len(data) or start > len(data):
            raise ParseError(
                "ledger.bundle-malformed", f"an entry bundle ends before its entry {len(entries)} of {width}"
            )
        entries.append(data[start:at])
    if at != len(data):
        raise ParseError("ledger.bundle-malformed", f"an entry bundle goes on after its {width} entries")
    return entries


def folder_reader(folder: Path) -> Fetch:
    """Return a reader over a published folder; only well-formed resource names are looked up."""

    def fetch(path: str) -> bytes | None:
        if path != "checkpoint" and parse_tile_path(path) is None:
            return None
        try:
            return (folder / path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    return fetch


class TileReader:
    """Proofs and entries of a log out of its published tiles, all authenticated against one checkpoint.

    Args:
        fetch: Where resources come from; not trusted.
        checkpoint: A verified checkpoint (`verify_checkpoint`).

    Raises:
        LedgerError: From every method, when a resource is missing or does not lead up to the checkpoint's root.
    """

    def __init__(self, fetch: Fetch, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self._fetch = fetch
        self._tile = lru_cache(maxsize=64)(self._verified)  # 64 tiles are half a megabyte
        self._edge = self._verified_edge()

    def root(self, size: int) -> bytes:
        """Return the root that the log had at `size`."""
        self._check_size(size)
        return range_hash(self._tile, 0, size)

    def inclusion_proof(self, index: int, size: int | None = None) -> Proof:
        """Return the proof that entry `index` is in the tree of `size` entries (default: the checkpoint's)."""
        size = self.checkpoint.size if size is None else size
        self._check_size(size)
        return inclusion_proof(self._range, index, size)

    def consistency_proof(self, old: int, new: int | None = None) -> Proof:
        """Return the proof that the tree of `new` entries (default: the checkpoint's) extends the tree of `old`."""
        new = self.checkpoint.size if new is None else new
        self._check_size(new)
        return consistency_proof(self._range, old, new)

    def entry(self, index: int) -> bytes:
        """Return an entry."""
        if not 0 <= index < self.checkpoint.size:
            raise LedgerError(
                "ledger.index-out-of-range", f"a tree of {self.checkpoint.size} entries has no entry {index}"
            )
        return self.bundle(index // TILE_WIDTH)[index % TILE_WIDTH]

    def bundle(self, index: int) -> list[bytes]:
        """Return the entries of a bundle, in order; raise `LedgerError` naming the first one that was changed."""
        width = tile_width(0, index, self.checkpoint.size)
        entries = read_bundle(self._fetch, index, width)
        check_bundle(entries, self._tile(0, index), index)
        return entries

    def _range(self, start: int, end: int) -> bytes:
        return range_hash(self._tile, start, end)

    def _check_size(self, size: int) -> None:
        if not 0 <= size <= self.checkpoint.size:
            raise LedgerError("ledger.index-out-of-range", f"the checkpoint covers no tree of {size} entries")

    def _verified_edge(self) -> dict[tuple[int, int], bytes]:
        """Return the partial tiles at the right edge: they alone give the root."""
        size, edge, level = self.checkpoint.size, {}, 0
        while size >> (8 * level):
            index = size >> (8 * (level + 1))
            if width := tile_width(level, index, size):
                edge[level, index] = read_tile(self._fetch, level, index, width)
            level += 1
        if range_hash(_reader(edge), 0, size) != self.checkpoint.root:
            raise LedgerError("ledger.tile-invalid", "the tiles do not lead up to the checkpoint's root", step="root")
        return edge

    def _verified(self, level: int, index: int) -> bytes:
        if (level, index) in self._edge:
            return self._edge[level, index]
        tile = read_tile(self._fetch, level, index, TILE_WIDTH)
        parent, position = divmod(index, TILE_WIDTH)
        expected = self._tile(level + 1, parent)[position * HASH_BYTES : (position + 1) * HASH_BYTES]
        if perfect_root(tile) != expected:
            raise LedgerError("ledger.tile-invalid", f"tile {index} of level {level} was changed", step="tile")
        return tile


def read_tile(fetch: Fetch, level: int, index: int, width: int) -> bytes:
    """Fetch a tile of that width, or the start of the full one where the partial one is gone; not authenticated."""
    data = fetch(tile_path(level, index, width))
    if data is None and width != TILE_WIDTH:
        data = fetch(tile_path(level, index))
        data = None if data is None or len(data) != TILE_WIDTH * HASH_BYTES else data[: width * HASH_BYTES]
    if data is None:
        raise LedgerError("ledger.tile-missing", f"tile {index} of level {level} is not published", step="tile")
    if len(data) != width * HASH_BYTES:
        raise LedgerError("ledger.tile-invalid", f"tile {index} of level {level} has the wrong length", step="tile")
    return data


def read_bundle(fetch: Fetch, index: int, width: int) -> list[bytes]:
    """Fetch `width` entries of a bundle, falling back to the full one as `read_tile` does; not authenticated."""
    data = fetch(tile_path(ENTRIES, index, width))
    if data is not None:
        return decode_bundle(data, width)
    data = fetch(tile_path(ENTRIES, index)) if width != TILE_WIDTH else None
    if data is None:
        raise LedgerError("ledger.tile-missing", f"entry bundle {index} is not published", step="entries")
    return decode_bundle(data, TILE_WIDTH)[:width]


def check_bundle(entries: Sequence[bytes], tile: bytes, index: int) -> None:
    """Raise `LedgerError` naming the first entry of bundle `index` whose hash is not the one in its level-0 tile."""
    for position, entry in enumerate(entries):
        if leaf_hash(entry) != tile[position * HASH_BYTES : (position + 1) * HASH_BYTES]:
            number = index * TILE_WIDTH + position
            raise LedgerError("ledger.entry-invalid", f"entry {number} is not the one that was logged", step="entries")


def _reader(tiles: dict[tuple[int, int], bytes]) -> ReadTile:
    return lambda level, index: tiles.get((level, index), b"")
