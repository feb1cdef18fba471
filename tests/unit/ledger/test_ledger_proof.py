"""RFC 6962 and 9162: known answers, and every wrong size, length and hash."""

import json
from pathlib import Path

import pytest

from mitai.errors import LedgerError
from mitai.ledger.proof import consistency_proof, inclusion_proof, verify_consistency, verify_inclusion
from mitai.ledger.tree import EMPTY_ROOT, extend, leaf_hash, perfect_root, range_hash, tile_width

VECTORS = json.loads((Path(__file__).parents[2] / "vectors/ledger/rfc6962.json").read_text())
LEAVES = [leaf_hash(bytes.fromhex(leaf)) for leaf in VECTORS["leaves"]]
ROOTS = [bytes.fromhex(root) for root in VECTORS["roots"]]
TILES = extend(0, LEAVES, lambda level, index: b"")


def mth(start, end):
    return range_hash(lambda level, index: TILES.get((level, index), b""), start, end)


def hashes(proof):
    return tuple(bytes.fromhex(value) for value in proof)


@pytest.mark.parametrize("size", range(9))
def test_reference_roots(size):
    assert mth(0, size) == ROOTS[size]


@pytest.mark.parametrize("case", VECTORS["inclusion"], ids=str)
def test_reference_inclusion_proofs(case):
    proof = hashes(case["proof"])
    assert inclusion_proof(mth, case["index"], case["size"]) == proof
    verify_inclusion(LEAVES[case["index"]], case["index"], case["size"], proof, ROOTS[case["size"]])


@pytest.mark.parametrize("case", VECTORS["consistency"], ids=str)
def test_reference_consistency_proofs(case):
    proof = hashes(case["proof"])
    assert consistency_proof(mth, case["old"], case["new"]) == proof
    verify_consistency(case["old"], case["new"], proof, ROOTS[case["old"]], ROOTS[case["new"]])


@pytest.mark.parametrize("index", range(8))
def test_any_other_index_size_or_length_is_refused(index):
    proof = inclusion_proof(mth, index, 8)
    root = ROOTS[8]
    verify_inclusion(LEAVES[index], index, 8, proof, root)
    for other in set(range(-1, 10)) - {index}:
        with pytest.raises(LedgerError):
            verify_inclusion(LEAVES[index], other, 8, proof, root)
    for size in set(range(-1, 70)) - {8, *_same_shape(index)}:
        with pytest.raises(LedgerError):
            verify_inclusion(LEAVES[index], index, size, proof, root)
    for wrong in (proof[:-1], proof[1:], (*proof, root), (root, *proof), (*proof[:-1], proof[-1][:-1]), proof[::-1]):
        with pytest.raises(LedgerError):
            verify_inclusion(LEAVES[index], index, 8, wrong, root)


def _same_shape(index):
    """Sizes at which that entry's path has the same shape: the size itself is bound by the signed checkpoint alone."""
    path = [bool(index >> bit & 1) for bit in range(3)]
    return [size for size in range(index + 1, 70) if _shape(index, size) == path]


def _shape(index, size):
    """For each hash of the path, from the leaf: does the sibling stand to the left?"""
    sides, start, end = [], 0, size
    while end - start > 1:
        middle = start + (1 << (end - start - 1).bit_length() - 1)
        sides.append(index >= middle)
        start, end = (middle, end) if index >= middle else (start, middle)
    return sides[::-1]


@pytest.mark.parametrize(("old", "new"), [(old, new) for new in range(9) for old in range(new + 1)])
def test_consistency_holds_for_its_own_sizes_and_roots_only(old, new):
    proof = consistency_proof(mth, old, new)
    verify_consistency(old, new, proof, ROOTS[old], ROOTS[new])
    for other_new in range(9):
        for other_old in range(other_new + 1):
            if consistency_proof(mth, other_old, other_new) != proof:
                with pytest.raises(LedgerError, match=r"ledger\.consistency-invalid"):
                    verify_consistency(other_old, other_new, proof, ROOTS[other_old], ROOTS[other_new])
    wrong_proofs = [(*proof, ROOTS[8]), (ROOTS[8], *proof), *([proof[:-1], proof[1:]] if proof else [])]
    for wrong in wrong_proofs:
        with pytest.raises(LedgerError, match=r"ledger\.consistency-invalid"):
            verify_consistency(old, new, wrong, ROOTS[old], ROOTS[new])
    with pytest.raises(LedgerError, match=r"ledger\.consistency-invalid"):
        verify_consistency(old, new, proof, LEAVES[7], ROOTS[new])
    if old:
        with pytest.raises(LedgerError, match=r"ledger\.consistency-invalid"):
            verify_consistency(old, new, proof, ROOTS[old], LEAVES[7])


def test_same_size_needs_the_same_root_and_an_empty_tree_the_empty_root():
    with pytest.raises(LedgerError, match=r"consistency-invalid"):
        verify_consistency(3, 3, (), ROOTS[3], ROOTS[4])
    with pytest.raises(LedgerError, match=r"consistency-invalid"):
        verify_consistency(0, 3, (), ROOTS[1], ROOTS[3])
    with pytest.raises(LedgerError, match=r"consistency-invalid"):
        verify_consistency(0, 0, (), ROOTS[1], ROOTS[1])
    verify_consistency(0, 0, (), EMPTY_ROOT, EMPTY_ROOT)


def test_absurd_sizes_and_proofs_are_refused_at_once():
    with pytest.raises(LedgerError, match=r"index-out-of-range"):
        verify_inclusion(LEAVES[0], 0, 1 << 63, (), LEAVES[0])
    with pytest.raises(LedgerError, match=r"index-out-of-range"):
        verify_consistency(1, 1 << 63, (), LEAVES[0], LEAVES[0])
    with pytest.raises(LedgerError, match=r"proof-malformed"):
        verify_inclusion(LEAVES[0], 0, 1 << 62, (LEAVES[0],) * 64, LEAVES[0])
    with pytest.raises(LedgerError, match=r"proof-malformed"):
        verify_inclusion(b"", 0, 1, (), LEAVES[0])
    with pytest.raises(LedgerError, match=r"index-out-of-range"):
        inclusion_proof(mth, 8, 8)
    with pytest.raises(LedgerError, match=r"index-out-of-range"):
        consistency_proof(mth, 9, 8)


def test_missing_tiles_are_named():
    with pytest.raises(LedgerError, match=r"ledger\.tile-missing"):
        range_hash(lambda level, index: b"", 0, 3)
    with pytest.raises(LedgerError, match=r"ledger\.tile-missing"):
        extend(3, [LEAVES[0]], lambda level, index: b"")


def test_tile_widths_of_the_specifications_example():
    size = 70_000  # C2SP tlog-tiles, "Partial Tiles"
    assert [tile_width(0, index, size) for index in (0, 272, 273, 274)] == [256, 256, 112, 0]
    assert [tile_width(1, index, size) for index in (0, 1, 2)] == [256, 17, 0]
    assert [tile_width(2, index, size) for index in (0, 1)] == [1, 0]
    assert tile_width(3, 0, size) == 0
    tiles = extend(0, [LEAVES[0]] * size, lambda level, index: b"")
    assert {key: len(data) // 32 for key, data in tiles.items()} == {
        (level, index): tile_width(level, index, size)
        for level in range(3)
        for index in range((size >> 8 * (level + 1)) + 1)
    }
    assert tiles[1, 0][:32] == perfect_root(LEAVES[0] * 256)
