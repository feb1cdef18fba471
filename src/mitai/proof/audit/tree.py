"""The Merkle tree over a trace's steps: its root, and which hashes prove that some leaves are in it.

- Leaves and nodes never share a preimage: their first bytes differ (0x00, 0x01), as in RFC 6962.
- Leaves that are missing up to a power of two are 32 zero bytes, which everybody knows.
- The hashes of a proof come without places: both sides know which are missing.

Example:
    >>> leaves = [sha256(LEAF + word).digest() for word in (b"a", b"b", b"c")]
    >>> climb({0: leaves[0]}, 3, iter(siblings(leaves, {0}))) == root(leaves)
    True
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256

LEAF, NODE = b"\x00", b"\x01"
HASH_BYTES = 32
EMPTY = bytes(HASH_BYTES)


def climb(known: dict[int, bytes], count: int, proof: Iterator[bytes]) -> bytes:
    """Return the root over `count` leaves, of which some are known; the proof has the others' hashes.

    Raises:
        StopIteration: The proof ends too early.
    """
    log = _log(count)
    known = known | dict.fromkeys(range(count, 1 << log), EMPTY)
    for _ in range(log):
        known |= {place: next(proof) for place in _missing(set(known))}
        known = {place >> 1: _node(known[place], known[place + 1]) for place in known if place % 2 == 0}
    return known[0]


def siblings(leaves: Sequence[bytes], places: set[int]) -> list[bytes]:
    """Return the hashes that `climb` takes to know the root from the leaves at these places."""
    log = _log(len(leaves))
    level = [*leaves, *[EMPTY] * ((1 << log) - len(leaves))]
    known = places | set(range(len(leaves), len(level)))
    proof = []
    while len(level) > 1:
        proof += [level[place] for place in _missing(known)]
        level = [_node(left, right) for left, right in zip(level[::2], level[1::2], strict=True)]
        known = {place >> 1 for place in known}
    return proof


def root(leaves: Sequence[bytes]) -> bytes:
    """Return the root over leaves."""
    return climb(dict(enumerate(leaves)), len(leaves), iter(()))


def _missing(known: set[int]) -> list[int]:
    return sorted({place ^ 1 for place in known} - known)


def _node(left: bytes, right: bytes) -> bytes:
    return sha256(NODE + left + right).digest()


def _log(count: int) -> int:
    return (count - 1).bit_length()
