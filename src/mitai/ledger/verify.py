"""The check of a whole log: every entry, every hash, from the published files alone.

Follows C2SP tlog-tiles. Nothing that the publisher serves is believed: all hashes are computed again from the entries.

Invariants:

- A report is returned only when every entry hashes up to the signed root; the first entry that does not is named.
- Memory does not grow with the log: a bundle and a tile per level are held.

Example:
    >>> verify_log(folder_reader(Path("ledger")), vkey)  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mitai.errors import LedgerError
from mitai.ledger.note import Checkpoint, verify_checkpoint
from mitai.ledger.tiles import Fetch, check_bundle, read_bundle, read_tile
from mitai.ledger.tree import (
    EMPTY_ROOT,
    HASH_BYTES,
    TILE_BYTES,
    TILE_WIDTH,
    leaf_hash,
    perfect_root,
    range_hash,
    tile_width,
)


@dataclass(frozen=True)
class LogReport:
    """A log that holds."""

    checkpoint: Checkpoint
    entries_bytes: int


def verify_log(
    fetch: Fetch,
    vkey: str,
    *,
    witnesses: Sequence[str] = (),
    threshold: int = 0,
    remembered: Sequence[Checkpoint] = (),
    visit: Callable[[int, bytes], object] | None = None,
) -> LogReport:
    """Check a whole published log.

    1. The checkpoint is signed by the log and cosigned by enough witnesses.
    2. It is not older than any remembered checkpoint.
    3. Every entry hashes to its place in its level-0 tile, and `visit(index, entry)` accepts it.
    4. Every tile above is made of the full tiles below it.
    5. The whole leads up to the signed root, and up to each remembered root.

    Args:
        fetch: From a resource's path to its bytes; None where there is none.
        vkey: The log's verifier key.
        witnesses: Verifier keys of trusted witnesses.
        threshold: How many of them must have cosigned.
        remembered: Verified checkpoints of this log, from before.
        visit: Called with every entry in order; raises to refuse one.

    Raises:
        ParseError, LedgerError: The first thing that does not hold.
    """
    # 1. the checkpoint
    note = fetch("checkpoint")
    if note is None:
        raise LedgerError("ledger.checkpoint-missing", "there is no checkpoint", step="checkpoint")
    checkpoint = verify_checkpoint(note, vkey, witnesses, threshold)
    # 2. no rollback
    for known in remembered:
        if known.origin != checkpoint.origin:
            raise LedgerError("ledger.origin-mismatch", "a remembered checkpoint is another log's", step="remembered")
        if known.size > checkpoint.size:
            raise LedgerError(
                "ledger.rolled-back",
                f"a checkpoint of {known.size} entries is known, the log now shows {checkpoint.size}",
                step="remembered",
                hint="the log lost entries or hides them: do not trust it",
            )
    sizes = {known.size for known in (*remembered, checkpoint)}
    # 3, 4, 5. entries, tiles and roots
    roots = {0: EMPTY_ROOT}
    edge = _Edge(fetch)
    size_bytes = 0
    for index in range(-(-checkpoint.size // TILE_WIDTH)):
        width = tile_width(0, index, checkpoint.size)
        entries = read_bundle(fetch, index, width)
        check_bundle(entries, read_tile(fetch, 0, index, width), index)
        for number, entry in enumerate(entries, index * TILE_WIDTH):
            edge.add(leaf_hash(entry))
            if number + 1 in sizes:
                roots[number + 1] = edge.root()
            if visit is not None:
                visit(number, entry)
        size_bytes += sum(map(len, entries))
    edge.finish()
    for known in (*remembered, checkpoint):
        if roots[known.size] != known.root:
            raise LedgerError(
                "ledger.root-invalid", f"the first {known.size} entries do not lead up to the signed root", step="root"
            )
    return LogReport(checkpoint, size_bytes)


class _Edge:
    """The right-most tile of every level, computed anew and compared with what is published."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._rows: list[bytearray] = []
        self._size = 0

    def add(self, leaf: bytes) -> None:
        self._size += 1
        level, fresh = 0, leaf
        while fresh:
            if level == len(self._rows):
                self._rows.append(bytearray())
            row = self._rows[level]
            row += fresh
            fresh = b""
            if len(row) == TILE_BYTES:
                self._compare(level)
                fresh = perfect_root(bytes(row))
                row.clear()
            level += 1

    def finish(self) -> None:
        for level, row in enumerate(self._rows):
            if row:
                self._compare(level)

    def root(self) -> bytes:
        return range_hash(lambda level, _: bytes(self._rows[level]), 0, self._size)

    def _compare(self, level: int) -> None:
        row = self._rows[level]
        index = ((self._size >> 8 * level) - 1) // TILE_WIDTH  # of the last hash of that level
        if row != read_tile(self._fetch, level, index, len(row) // HASH_BYTES):
            raise LedgerError(
                "ledger.tile-invalid", f"tile {index} of level {level} is not made of its entries", step="tiles"
            )
