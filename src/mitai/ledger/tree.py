"""The Merkle tree of RFC 6962, kept as tiles of 256 hashes.

Follows RFC 6962 section 2.1 (leaf and node hashes) and C2SP tlog-tiles ("Merkle Tree"): hash `i` of tile `n` at level
`l` is the root of the perfect subtree over the entries `[(256n + i) * 256**l, (256n + i + 1) * 256**l)`.

Invariants:

- A leaf and a node never share a preimage: their first bytes differ (0x00, 0x01).
- A tile holds 1 to 256 hashes; only full tiles are hashed into the level above.
- Every function is pure; tiles come from a function `(level, index) -> bytes`.

Example:
    >>> tiles = extend(0, [leaf_hash(b"a"), leaf_hash(b"b")], lambda level, index: b"")
    >>> range_hash(lambda level, index: tiles[level, index], 0, 2) == node_hash(leaf_hash(b"a"), leaf_hash(b"b"))
    True
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import sha256

from mitai.errors import LedgerError

HASH_BYTES = 32
TILE_WIDTH = 256
TILE_BYTES = TILE_WIDTH * HASH_BYTES
EMPTY_ROOT = sha256(b"").digest()
MAX_SIZE = 1 << 62  # far above any log, far below where tile levels would pass 63

Tile = tuple[int, int]  # (level, index)
ReadTile = Callable[[int, int], bytes]  # what is stored of that tile: 0 to 256 hashes


def leaf_hash(entry: bytes) -> bytes:
    """Return SHA-256(0x00 ‖ entry)."""
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return SHA-256(0x01 ‖ left ‖ right)."""
    return sha256(b"\x01" + left + right).digest()


def perfect_root(hashes: bytes) -> bytes:
    """Return the root over 2**k concatenated hashes."""
    while len(hashes) > HASH_BYTES:
        hashes = b"".join(
            [
                sha256(b"\x01" + hashes[at : at + 2 * HASH_BYTES]).digest()
                for at in range(0, len(hashes), 2 * HASH_BYTES)
            ]
        )
    return hashes


def tile_width(level: int, index: int, size: int) -> int:
    """Return how many hashes that tile has in a tree of `size` entries: 0 to 256."""
    return max(0, min(TILE_WIDTH, (size >> (8 * level)) - index * TILE_WIDTH))


def extend(size: int, leaves: Iterable[bytes], read: ReadTile) -> dict[Tile, bytes]:
    """Return every tile, as it will be, that changes when leaf hashes are appended to a tree of `size` entries."""
    changed: dict[Tile, bytes] = {}
    level, fresh = 0, b"".join(leaves)
    while fresh:
        index, width = divmod(size, TILE_WIDTH)
        row = (_hashes(read, level, index, 0, width) if width else b"") + fresh
        blocks = [row[at : at + TILE_BYTES] for at in range(0, len(row), TILE_BYTES)]
        changed.update(((level, index + offset), block) for offset, block in enumerate(blocks))
        fresh = b"".join([perfect_root(block) for block in blocks if len(block) == TILE_BYTES])
        level, size = level + 1, index
    return changed


def range_hash(read: ReadTile, start: int, end: int) -> bytes:
    """Return MTH(D[start:end]); `start` is a multiple of the smallest power of two that is not below `end - start`.

    These are the ranges that RFC 6962 cuts a tree into: perfect subtrees, and the ragged one at its right edge.
    """
    if start == end:
        return EMPTY_ROOT
    subtrees = []
    while start < end:
        height = (end - start).bit_length() - 1
        subtrees.append(_subtree(read, height, start >> height))
        start += 1 << height
    root = subtrees.pop()
    while subtrees:
        root = node_hash(subtrees.pop(), root)
    return root


def _subtree(read: ReadTile, height: int, index: int) -> bytes:
    """Return the root of the perfect subtree over `[index << height, (index + 1) << height)`."""
    level, height = divmod(height, 8)
    tile, position = divmod(index << height, TILE_WIDTH)
    return perfect_root(_hashes(read, level, tile, position, position + (1 << height)))


def _hashes(read: ReadTile, level: int, index: int, start: int, end: int) -> bytes:
    hashes = read(level, index)[start * HASH_BYTES : end * HASH_BYTES]
    if len(hashes) != (end - start) * HASH_BYTES:
        raise LedgerError(
            "ledger.tile-missing", f"tile {index} of level {level} is missing or shorter than the log says"
        )
    return hashes
