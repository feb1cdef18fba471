"""Inclusion and consistency proofs: made per RFC 6962, checked per RFC 9162.

A proof is a tuple of 32-byte hashes. Making one needs only `mth(start, end)`, the hash of a range of entries
(`tree.range_hash`).

Invariants:

- A checker uses every hash of a proof, as many as the sizes demand: longer, shorter or changed proofs are refused.
- `verify_*` raises `LedgerError`; it never returns a bool.

Example:
    >>> from mitai.ledger.tree import leaf_hash, node_hash
    >>> a, b = leaf_hash(b"a"), leaf_hash(b"b")
    >>> verify_inclusion(a, 0, 2, (b,), node_hash(a, b))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mitai.errors import LedgerError
from mitai.ledger.tree import EMPTY_ROOT, HASH_BYTES, MAX_SIZE, node_hash

Proof = tuple[bytes, ...]
RangeHash = Callable[[int, int], bytes]

MAX_PROOF_HASHES = 63  # C2SP tlog-witness, "add-checkpoint"


def inclusion_proof(mth: RangeHash, index: int, size: int) -> Proof:
    """Return PATH(index, D[0:size]) of RFC 6962 section 2.1.1, from the leaf upwards."""
    if not 0 <= index < size:
        raise LedgerError("ledger.index-out-of-range", f"a tree of {size} entries has no entry {index}")
    path = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append((middle, end))
            end = middle
        else:
            path.append((start, middle))
            start = middle
    return tuple(mth(*sibling) for sibling in reversed(path))


def consistency_proof(mth: RangeHash, old: int, new: int) -> Proof:
    """Return PROOF(old, D[0:new]) of RFC 6962 section 2.1.2; empty when `old` is 0 or `new`."""
    if not 0 <= old <= new:
        raise LedgerError("ledger.index-out-of-range", f"a tree of {new} entries never had {old}")
    if old in (0, new):
        return ()
    path = []
    start, end = 0, new
    while old != end:
        middle = start + _split(end - start)
        if old <= middle:
            path.append((middle, end))
            end = middle
        else:
            path.append((start, middle))
            start = middle
    if start:  # otherwise the old tree is itself a subtree, and its root is known
        path.append((start, end))
    return tuple(mth(*sibling) for sibling in reversed(path))


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Raise `LedgerError` unless the leaf hash `leaf` is entry `index` of the tree of `size` entries with `root`.

    RFC 9162 section 2.1.3.2; the numbers are its steps.
    """
    # 1. the index lies within the tree
    if not 0 <= index < size <= MAX_SIZE:
        raise LedgerError("ledger.index-out-of-range", f"a tree of {size} entries has no entry {index}", step="index")
    _check_hashes(leaf, root, *proof)
    # 2, 3. start at the leaf
    position, last, node = index, size - 1, leaf
    # 4. climb: a left or a lone node takes its sibling from the proof
    for sibling in proof:
        if last == 0:
            raise _refused("inclusion", "the proof is longer than the tree is high")
        if position & 1 or position == last:
            node = node_hash(sibling, node)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            node = node_hash(node, sibling)
        position, last = position >> 1, last >> 1
    # 5. the top was reached, and it is the root
    if last != 0:
        raise _refused("inclusion", "the proof is shorter than the tree is high")
    if node != root:
        raise _refused("inclusion", "the entry is not where the proof says")


def verify_consistency(old: int, new: int, proof: Sequence[bytes], old_root: bytes, new_root: bytes) -> None:
    """Raise `LedgerError` unless the tree of `new` entries only adds to the tree of `old` entries.

    RFC 9162 section 2.1.4.2; the numbers are its steps. Sizes 0 and `old == new` need an empty proof and fitting roots.
    """
    if not 0 <= old <= new <= MAX_SIZE:
        raise LedgerError("ledger.index-out-of-range", f"a tree of {new} entries never had {old}", step="sizes")
    _check_hashes(old_root, new_root, *proof)
    if old in (0, new):
        if (
            proof
            or (old_root != new_root if old == new else old_root != EMPTY_ROOT)
            or (new == 0 and new_root != EMPTY_ROOT)
        ):
            raise _refused("consistency", f"two trees of {old} and {new} entries do not fit together")
        return
    # 1, 2. a perfect old tree is its own first node
    nodes = iter(proof if old & (old - 1) else (old_root, *proof))
    # 3. skip the right-most ones of the old tree's last index
    position, last = old - 1, new - 1
    while position & 1:
        position, last = position >> 1, last >> 1
    # 4, 5. climb both trees at once
    first = next(nodes, None)
    if first is None:
        raise _refused("consistency", "the proof is empty")
    old_node = new_node = first
    for sibling in nodes:
        if last == 0:
            raise _refused("consistency", "the proof is longer than the tree is high")
        if position & 1 or position == last:
            old_node, new_node = node_hash(sibling, old_node), node_hash(sibling, new_node)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            new_node = node_hash(new_node, sibling)
        position, last = position >> 1, last >> 1
    # 6. both tops were reached, and they are the roots
    if last != 0:
        raise _refused("consistency", "the proof is shorter than the tree is high")
    if old_node != old_root or new_node != new_root:
        raise _refused("consistency", f"the tree of {new} entries does not contain the tree of {old}")


def _split(size: int) -> int:
    """Return the largest power of two below `size`."""
    return 1 << (size - 1).bit_length() - 1


def _check_hashes(*hashes: bytes) -> None:
    if len(hashes) > MAX_PROOF_HASHES + 2 or any(len(value) != HASH_BYTES for value in hashes):
        raise LedgerError("ledger.proof-malformed", "a proof is up to 63 hashes of 32 bytes", step="proof")


def _refused(kind: str, why: str) -> LedgerError:
    return LedgerError(
        f"ledger.{kind}-invalid", why, step=kind, hint="the log, the proof or the entry was changed: do not trust it"
    )
