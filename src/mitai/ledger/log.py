"""The log: entries go in at the end, proofs and signed checkpoints come out.

Joins a `Store` (where tiles and entries lie) with the log's signing key. Follows RFC 6962 section 2.1 for the tree, and
C2SP tlog-checkpoint and tlog-tiles for what is signed and how it is served.

Invariants:

- Only state that a store holds durably is ever signed: a log that signs twice at one size has forked.
- Entries are never changed and never removed.
- The key is the log's own; its name in signatures is the log's origin.

Example:
    >>> from mitai.ledger.store import MemoryStore
    >>> log = Log(MemoryStore(), Identity.generate(), "log.example")
    >>> log.append([b"first", b"second"])
    range(0, 2)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Protocol

from mitai.errors import LedgerError
from mitai.identity import Identity
from mitai.ledger.note import checkpoint_text, parse_note, sign_checkpoint, verify_checkpoint, vkey
from mitai.ledger.proof import Proof, consistency_proof, inclusion_proof
from mitai.ledger.tiles import ENTRIES, MAX_ENTRY_BYTES, encode_bundle, parse_tile_path
from mitai.ledger.tree import HASH_BYTES, TILE_WIDTH, Tile, extend, leaf_hash, range_hash, tile_width


class Store(Protocol):
    """Where a log's entries and hash tiles lie; one writer at a time.

    A store keeps, for every tile, as many hashes as the tree of its size has.
    """

    def size(self) -> int:
        """Return how many entries there are."""

    def tile(self, level: int, index: int) -> bytes:
        """Return the hashes of a tile: 0 to 256 of them."""

    def entries(self, start: int, end: int) -> list[bytes]:
        """Return the entries `[start, end)`, all of which exist."""

    def reserve(self, count: int) -> int:
        """Lock the end of the log for `count` more entries; return the size before."""

    def append(
        self, start: int, entries: Sequence[bytes], tiles: Mapping[Tile, bytes], sign: Callable[[], bytes]
    ) -> None:
        """Write entries and all tiles that change; a store that publishes by itself then calls `sign`."""

    def checkpoint(self) -> bytes | None:
        """Return the published checkpoint, if any; raise `LedgerError` while appended entries are uncommitted."""

    def publish(self, checkpoint: bytes) -> None:
        """Replace the published checkpoint."""


class Log:
    """An append-only log.

    Args:
        store: Where it lies.
        signer: The log's key.
        origin: The log's name, a schema-less URL.
    """

    def __init__(self, store: Store, signer: Identity, origin: str) -> None:
        self.store = store
        self.origin = origin
        self.vkey = vkey(origin, signer.public)
        self._signer = signer

    @property
    def size(self) -> int:
        """How many entries there are."""
        return self.store.size()

    def append(self, entries: Sequence[bytes]) -> range:
        """Append entries (up to 65535 bytes each), all or none; return their indices."""
        if any(len(entry) > MAX_ENTRY_BYTES for entry in entries):
            raise LedgerError("ledger.entry-too-large", f"an entry has at most {MAX_ENTRY_BYTES} bytes")
        if not entries:
            return range(self.size, self.size)
        start = self.store.reserve(len(entries))
        tiles = extend(start, map(leaf_hash, entries), self.store.tile)
        end = start + len(entries)

        def read(level: int, index: int) -> bytes:
            return tiles[level, index] if (level, index) in tiles else self.store.tile(level, index)

        self.store.append(start, entries, tiles, lambda: self._sign(end, range_hash(read, 0, end)))
        return range(start, end)

    def root(self, size: int | None = None) -> bytes:
        """Return the root at `size` (default: now)."""
        size = self._checked(size)
        return self._range()(0, size)

    def checkpoint(self) -> bytes:
        """Return the signed checkpoint of all entries, with the cosignatures that were published for it."""
        published = self.store.checkpoint()
        size = self.size
        root = self.root(size)
        if published is not None and parse_note(published).text == checkpoint_text(self.origin, size, root):
            return published
        return self._sign(size, root)

    def publish(self, checkpoint: bytes) -> None:
        """Publish the checkpoint of the log as it is, such as one that witnesses have cosigned; refuse any other."""
        found = verify_checkpoint(checkpoint, self.vkey)
        if found.size != self.size or found.root != self.root():
            raise LedgerError("ledger.checkpoint-invalid", "this checkpoint is not of the log as it is")
        self.store.publish(checkpoint)

    def inclusion_proof(self, index: int, size: int | None = None) -> Proof:
        """Return the proof that entry `index` is in the tree of `size` entries (default: all)."""
        return inclusion_proof(self._range(), index, self._checked(size))

    def consistency_proof(self, old: int, new: int | None = None) -> Proof:
        """Return the proof that the tree of `new` entries (default: all) extends the tree of `old`."""
        return consistency_proof(self._range(), old, self._checked(new))

    def entry(self, index: int) -> bytes:
        """Return an entry."""
        if not 0 <= index < self.size:
            raise LedgerError("ledger.index-out-of-range", f"the log has no entry {index}")
        return self.store.entries(index, index + 1)[0]

    def resource(self, path: str) -> bytes | None:
        """Return what is served at a tlog-tiles path (`checkpoint`, `tile/…`, no leading slash), or None."""
        if path == "checkpoint":
            return self.checkpoint()
        found = parse_tile_path(path)
        if found is None:
            return None
        level, index, width = found
        if width > tile_width(max(level, 0), index, self.size):
            return None
        if level == ENTRIES:
            return encode_bundle(self.store.entries(index * TILE_WIDTH, index * TILE_WIDTH + width))
        return self.store.tile(level, index)[: width * HASH_BYTES]

    def _checked(self, size: int | None) -> int:
        stored = self.size
        if size is not None and not 0 <= size <= stored:
            raise LedgerError("ledger.index-out-of-range", f"the log has {stored} entries, not {size}")
        return stored if size is None else size

    def _range(self) -> Callable[[int, int], bytes]:
        read = lru_cache(maxsize=None)(self.store.tile)  # one proof asks for a handful of tiles, some of them often
        return lambda start, end: range_hash(read, start, end)

    def _sign(self, size: int, root: bytes) -> bytes:
        return sign_checkpoint(self.origin, size, root, self._signer)
