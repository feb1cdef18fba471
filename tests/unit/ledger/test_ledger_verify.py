"""The check of a whole published log names the first thing that does not hold."""

import pytest

from mitai.errors import LedgerError, ParseError
from mitai.identity import Identity
from mitai.ledger.log import Log
from mitai.ledger.note import (
    COSIGNATURE,
    Checkpoint,
    Note,
    cosign,
    parse_note,
    sign_checkpoint,
    verify_checkpoint,
    vkey,
)
from mitai.ledger.store import MemoryStore
from mitai.ledger.verify import verify_log

SIGNER = Identity.from_seed(b"l" * 32)
SIZE = 66_000  # three levels of tiles


def grown(*, size=SIZE, changed=None):
    log = Log(MemoryStore(), SIGNER, "log.example")
    log.append([b"entry %d" % index if index != changed else b"other" for index in range(size)])
    return log


@pytest.fixture(scope="module")
def log():
    return grown()


def altered(log, path, data):
    return lambda asked: data if asked == path else log.resource(asked)


def test_a_log_that_holds(log):
    seen = []
    report = verify_log(log.resource, log.vkey, visit=lambda index, entry: seen.append((index, entry)))
    assert report.checkpoint == verify_checkpoint(log.checkpoint(), log.vkey)
    assert report.entries_bytes == sum(len(entry) for _, entry in seen)
    assert seen[65_999] == (65_999, b"entry 65999")
    assert len(seen) == SIZE


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 512, 65_536])
def test_sizes_around_tile_borders(size):
    log = grown(size=size)
    known = [
        verify_checkpoint(sign_checkpoint("log.example", at, log.root(at), SIGNER), log.vkey)
        for at in {0, size // 2, size}
    ]
    assert verify_log(log.resource, log.vkey, remembered=known).checkpoint.size == size


@pytest.mark.parametrize("index", [0, 255, 256, 65_535, 65_536, SIZE - 1])
def test_the_first_changed_entry_is_named(log, index):
    other = grown(changed=index)
    bundle = f"tile/entries/{index // 256:03}" + (".p/208" if index >= 65_792 else "")
    fetch = altered(log, bundle, other.resource(bundle))
    with pytest.raises(LedgerError, match=rf"entry {index} .*ledger\.entry-invalid"):
        verify_log(fetch, log.vkey)


def test_entries_and_tiles_changed_together_do_not_lead_to_the_signed_root(log):
    other = grown(changed=300)
    forged = lambda path: log.resource(path) if path == "checkpoint" else other.resource(path)  # noqa: E731
    with pytest.raises(LedgerError, match=r"ledger\.root-invalid"):
        verify_log(forged, log.vkey)
    lower = lambda path: other.resource(path) if path.endswith("001") else log.resource(path)  # noqa: E731
    with pytest.raises(LedgerError, match=r"tile 0 of level 1 .*ledger\.tile-invalid"):
        verify_log(lower, log.vkey)


@pytest.mark.parametrize("path", ["tile/0/257.p/208", "tile/1/000", "tile/1/001.p/1", "tile/2/000.p/1"])
def test_changed_and_missing_tiles_are_found(log, path):
    data = bytearray(log.resource(path))
    data[-1] ^= 1
    with pytest.raises(LedgerError, match=r"ledger\.(tile|entry)-invalid"):
        verify_log(altered(log, path, bytes(data)), log.vkey)
    with pytest.raises(LedgerError, match=r"ledger\.tile-missing"):
        verify_log(altered(log, path, None), log.vkey)
    with pytest.raises(LedgerError, match=r"ledger\.tile-invalid"):
        verify_log(altered(log, path, bytes(data[:-32])), log.vkey)


@pytest.mark.parametrize("path", ["tile/entries/000", "tile/entries/257.p/208"])
def test_truncated_and_missing_bundles_are_found(log, path):
    data = log.resource(path)
    for wrong in (data[:-1], data[:1], b"", data + b"\0"):
        with pytest.raises(ParseError, match=r"ledger\.bundle-malformed"):
            verify_log(altered(log, path, wrong), log.vkey)
    with pytest.raises(LedgerError, match=r"ledger\.tile-missing"):
        verify_log(altered(log, path, None), log.vkey)


def test_the_checkpoint_is_needed_and_checked(log):
    with pytest.raises(LedgerError, match=r"ledger\.checkpoint-missing"):
        verify_log(altered(log, "checkpoint", None), log.vkey)
    with pytest.raises(LedgerError, match=r"ledger\.checkpoint-unsigned"):
        verify_log(log.resource, vkey("log.example", Identity.generate().public))
    witness = Identity.from_seed(b"w" * 32)
    with pytest.raises(LedgerError, match=r"ledger\.witnesses-missing"):
        verify_log(log.resource, log.vkey, witnesses=[vkey("w", witness.public, kind=COSIGNATURE)], threshold=1)


def test_a_cosigned_log():
    log = grown(size=3)
    note, witness = parse_note(log.checkpoint()), Identity.from_seed(b"w" * 32)
    log.publish(Note(note.text, (*note.signatures, cosign(note.text, "w", witness, 9))).encode())
    report = verify_log(log.resource, log.vkey, witnesses=[vkey("w", witness.public, kind=COSIGNATURE)], threshold=1)
    assert report.checkpoint.cosignatures[0].time_s == 9


def test_what_is_remembered_must_still_be_there(log):
    early = Checkpoint("log.example", 300, log.root(300))
    assert verify_log(log.resource, log.vkey, remembered=[early]).checkpoint.size == SIZE
    with pytest.raises(LedgerError, match=r"first 300 entries .*ledger\.root-invalid"):
        verify_log(log.resource, log.vkey, remembered=[Checkpoint("log.example", 300, log.root(301))])
    with pytest.raises(LedgerError, match=r"ledger\.rolled-back"):
        verify_log(log.resource, log.vkey, remembered=[Checkpoint("log.example", SIZE + 1, bytes(32))])
    with pytest.raises(LedgerError, match=r"ledger\.origin-mismatch"):
        verify_log(log.resource, log.vkey, remembered=[Checkpoint("other.example", 1, log.root(1))])


def test_a_split_view_shows_up_against_what_another_saw(log):
    """Two readers are shown two histories, each signed: comparing checkpoints is what finds it."""
    fork = grown(changed=65_990)
    mine = verify_log(log.resource, log.vkey).checkpoint
    theirs = verify_log(fork.resource, fork.vkey).checkpoint
    assert mine.size == theirs.size
    with pytest.raises(LedgerError, match=r"ledger\.root-invalid"):
        verify_log(log.resource, log.vkey, remembered=[theirs])


def test_a_visitor_may_refuse_an_entry(log):
    def visit(index, entry):
        if index == 300:
            raise ParseError("ledger.entry-malformed", "not one of ours")

    with pytest.raises(ParseError, match="not one of ours"):
        verify_log(log.resource, log.vkey, visit=visit)
