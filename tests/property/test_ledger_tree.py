"""The tiled tree against an independent, naive reading of RFC 6962, and every changed bit refused."""

from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mitai.errors import LedgerError, ParseError
from mitai.identity import Identity
from mitai.ledger.log import Log
from mitai.ledger.note import Checkpoint
from mitai.ledger.proof import verify_consistency, verify_inclusion
from mitai.ledger.store import MemoryStore
from mitai.ledger.tiles import TileReader
from mitai.ledger.tree import leaf_hash

SIGNER = Identity.from_seed(b"l" * 32)
ENTRIES = [b"%d" % index for index in range(1200)]


# RFC 6962 section 2.1, word for word
def mth(d):
    n = len(d)
    if n == 0:
        return sha256().digest()
    if n == 1:
        return sha256(b"\x00" + d[0]).digest()
    k = largest_power_of_two_below(n)
    return sha256(b"\x01" + mth(d[:k]) + mth(d[k:])).digest()


def path(m, d):
    n = len(d)
    if n == 1:
        return []
    k = largest_power_of_two_below(n)
    return [*path(m, d[:k]), mth(d[k:])] if m < k else [*path(m - k, d[k:]), mth(d[:k])]


def subproof(m, d, b):
    n = len(d)
    if m == n:
        return [] if b else [mth(d)]
    k = largest_power_of_two_below(n)
    return [*subproof(m, d[:k], b), mth(d[k:])] if m <= k else [*subproof(m - k, d[k:], False), mth(d[:k])]


def largest_power_of_two_below(n):
    k = 1
    while k * 2 < n:
        k *= 2
    return k


def grown(batches):
    log = Log(MemoryStore(), SIGNER, "log.example")
    for count in batches:
        log.append(ENTRIES[log.size : log.size + count])
    return log


FULL = grown([1200])

sizes = st.one_of(st.integers(1, 40), st.sampled_from([255, 256, 257, 511, 512, 513, 1024, 1200]))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 300), max_size=4))
def test_however_it_grew_the_root_is_that_of_the_entries(batches):
    log = grown(batches)
    assert log.root() == mth(ENTRIES[: log.size])


@settings(max_examples=60, deadline=None)
@given(st.data(), sizes)
def test_inclusion_proofs(data, size):
    index = data.draw(st.integers(0, size - 1))
    proof = FULL.inclusion_proof(index, size)
    root = mth(ENTRIES[:size])
    assert list(proof) == path(index, ENTRIES[:size])
    verify_inclusion(leaf_hash(ENTRIES[index]), index, size, proof, root)
    if proof:
        bit = data.draw(st.integers(0, len(proof) * 256 - 1))
        with pytest.raises(LedgerError, match=r"ledger\.inclusion-invalid"):
            verify_inclusion(leaf_hash(ENTRIES[index]), index, size, flipped(proof, bit), root)
    other = data.draw(st.binary(max_size=8).filter(lambda entry: entry != ENTRIES[index]))
    with pytest.raises(LedgerError, match=r"ledger\.inclusion-invalid"):
        verify_inclusion(leaf_hash(other), index, size, proof, root)


@settings(max_examples=60, deadline=None)
@given(st.data(), sizes)
def test_consistency_proofs(data, new):
    old = data.draw(st.integers(1, new))
    proof = FULL.consistency_proof(old, new)
    roots = mth(ENTRIES[:old]), mth(ENTRIES[:new])
    assert list(proof) == subproof(old, ENTRIES[:new], True)
    verify_consistency(old, new, proof, *roots)
    if proof:
        bit = data.draw(st.integers(0, len(proof) * 256 - 1))
        with pytest.raises(LedgerError, match=r"ledger\.consistency-invalid"):
            verify_consistency(old, new, flipped(proof, bit), *roots)


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(1, 1200))
def test_a_reader_over_any_one_changed_bit_gives_the_right_answer_or_none(data, size):
    """Whatever a mirror changes, a proof that comes out is the log's own."""
    index = data.draw(st.integers(0, size - 1))
    asked = []

    def spoiled(resource):
        found = FULL.resource(resource)
        asked.append(resource)
        if found and len(asked) - 1 == victim:
            bit = data.draw(st.integers(0, len(found) * 8 - 1))
            (found,) = flipped((found,), bit)
        return found

    victim = data.draw(st.integers(0, 6))
    try:
        reader = TileReader(spoiled, Checkpoint("log.example", size, FULL.root(size)))
        proof, entry = reader.inclusion_proof(index), reader.entry(index)
    except (LedgerError, ParseError):  # a parse error where a bundle's length was hit
        return
    assert proof == FULL.inclusion_proof(index, size)
    assert entry == ENTRIES[index]


@settings(max_examples=200, deadline=None)
@given(
    st.integers(-2, 1 << 64),
    st.integers(-2, 1 << 64),
    st.lists(st.binary(min_size=31, max_size=33), max_size=66),
    st.binary(min_size=32, max_size=32),
)
def test_arbitrary_proofs_are_refused_and_quickly(first, second, proof, root):
    with pytest.raises(LedgerError):
        verify_inclusion(leaf_hash(b"x"), first, second, proof, root)
    with pytest.raises(LedgerError):
        verify_consistency(first, second, proof, root, leaf_hash(root))


def flipped(proof, bit):
    where, bit = divmod(bit, len(proof[0]) * 8)
    changed = bytearray(proof[where])
    changed[bit // 8] ^= 1 << bit % 8
    return (*proof[:where], bytes(changed), *proof[where + 1 :])
