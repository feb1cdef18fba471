"""Paths, bundles, and a reader that believes nobody."""

import pytest

from mitai.errors import LedgerError, ParseError
from mitai.identity import Identity
from mitai.ledger.log import Log
from mitai.ledger.note import Checkpoint, verify_checkpoint
from mitai.ledger.proof import verify_consistency, verify_inclusion
from mitai.ledger.store import MemoryStore
from mitai.ledger.tiles import (
    ENTRIES,
    TileReader,
    decode_bundle,
    encode_bundle,
    folder_reader,
    parse_tile_path,
    tile_path,
)
from mitai.ledger.tree import leaf_hash

SIZE = 70_000


@pytest.fixture(scope="module")
def log():
    log = Log(MemoryStore(), Identity.from_seed(b"l" * 32), "log.example")
    log.append([b"entry %d" % index for index in range(SIZE)])
    return log


@pytest.fixture(scope="module")
def checkpoint(log):
    return verify_checkpoint(log.checkpoint(), log.vkey)


@pytest.mark.parametrize(
    ("level", "index", "width", "path"),
    [
        (0, 0, 256, "tile/0/000"),
        (0, 1234067, 256, "tile/0/x001/x234/067"),
        (2, 999, 1, "tile/2/999.p/1"),
        (63, 1000, 255, "tile/63/x001/000.p/255"),
        (ENTRIES, 1000000, 256, "tile/entries/x001/x000/000"),
    ],
)
def test_paths(level, index, width, path):
    assert tile_path(level, index, width) == path
    assert parse_tile_path(path) == (level, index, width)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "checkpoint",
        "tile/0/0",
        "tile/00/000",
        "tile/64/000",
        "tile/-1/000",
        "tile/0/x000/000",  # one spelling only
        "tile/0/001/000",
        "tile/0/x001/x000",
        "tile/0/000.p/0",
        "tile/0/000.p/256",
        "tile/0/000.p/999",
        "tile/0/000.p/01",
        "tile/0/000/",
        "/tile/0/000",
        "tile/0/../0/000",
        "tile/0/000\n",
        "tile/0/٠٠٠",  # digits, but not ASCII ones
        "tile/Entries/000",
        "tile/0/" + "x001/" * 7 + "000",
    ],
)
def test_other_spellings_are_no_paths(path):
    assert parse_tile_path(path) is None


def test_bundles():
    entries = [b"", b"a", b"b" * 65535]
    data = encode_bundle(entries)
    assert decode_bundle(data, 3) == entries
    assert decode_bundle(b"", 0) == []
    for cut in (0, 1, 2, 3, 4, 5, len(data) - 1):
        with pytest.raises(ParseError, match=r"ledger\.bundle-malformed"):
            decode_bundle(data[:cut], 3)
    for width in (2, 4):
        with pytest.raises(ParseError, match=r"ledger\.bundle-malformed"):
            decode_bundle(data, width)
    with pytest.raises(ParseError, match=r"ledger\.bundle-malformed"):
        decode_bundle(data + b"\0", 3)


def test_a_reader_gives_the_logs_own_proofs(log, checkpoint):
    reader = TileReader(log.resource, checkpoint)
    for index, size in [(0, 1), (0, SIZE), (255, 256), (256, 257), (65535, 65536), (SIZE - 1, SIZE), (12345, 54321)]:
        proof = reader.inclusion_proof(index, size)
        assert proof == log.inclusion_proof(index, size)
        verify_inclusion(leaf_hash(reader.entry(index)), index, size, proof, reader.root(size))
        proof = reader.consistency_proof(index, size)
        assert proof == log.consistency_proof(index, size)
        verify_consistency(index, size, proof, reader.root(index), reader.root(size))
    assert reader.inclusion_proof(5) == log.inclusion_proof(5)
    assert reader.consistency_proof(5) == log.consistency_proof(5)
    assert reader.entry(69_999) == b"entry 69999"
    perfect = TileReader(
        log.resource, Checkpoint("log.example", 65_536, log.root(65_536))
    )  # no partial tile but the top
    assert perfect.inclusion_proof(700) == log.inclusion_proof(700, 65_536)
    for call in (
        lambda: reader.entry(SIZE),
        lambda: reader.entry(-1),
        lambda: reader.root(SIZE + 1),
        lambda: reader.root(-1),
        lambda: reader.inclusion_proof(0, SIZE + 1),
        lambda: reader.consistency_proof(0, SIZE + 1),
    ):
        with pytest.raises(LedgerError, match=r"ledger\.index-out-of-range"):
            call()


def test_partial_tiles_may_have_become_full(log, checkpoint):
    early = Checkpoint("log.example", 300, log.root(300))
    gone = dict.fromkeys(("tile/0/001.p/44", "tile/entries/001.p/44"))
    reader = TileReader(lambda path: gone.get(path, log.resource(path)), early)
    assert reader.root(300) == log.root(300)
    assert reader.entry(299) == b"entry 299"
    with pytest.raises(LedgerError, match=r"ledger\.index-out-of-range"):
        reader.entry(300)


def read_everywhere(fetch, checkpoint):
    reader = TileReader(fetch, checkpoint)
    for index in (0, 65_535, SIZE - 1):
        reader.inclusion_proof(index)
        reader.entry(index)
    reader.root(256)


@pytest.mark.parametrize(
    "path",
    ["tile/0/000", "tile/0/255", "tile/0/273.p/112", "tile/1/000", "tile/1/001.p/17", "tile/2/000.p/1"],
)
@pytest.mark.parametrize("spoil", ["flip", "cut", "extend", "missing", "swapped"])
def test_changed_tiles_are_refused(log, checkpoint, path, spoil):
    def fetch(asked):
        data = log.resource(asked)
        if asked != path:
            return data
        changed = bytearray(data)
        changed[len(data) // 2] ^= 1
        swapped = None if data is None else data[32:] + data[:32]
        return {"flip": bytes(changed), "cut": data[:-32], "extend": data + data[:32], "missing": None}.get(
            spoil, swapped
        )

    if spoil == "swapped" and path == "tile/2/000.p/1":
        return  # one hash has one order
    with pytest.raises(LedgerError, match=r"ledger\.tile-(invalid|missing)"):
        read_everywhere(fetch, checkpoint)


def test_a_changed_entry_is_named(log, checkpoint):
    def fetch(path):
        data = log.resource(path)
        return data.replace(b"entry 300", b"entry 3OO") if path == "tile/entries/001" else data

    reader = TileReader(fetch, checkpoint)
    with pytest.raises(LedgerError, match=r"entry 300 .*ledger\.entry-invalid"):
        reader.entry(257)
    with pytest.raises(LedgerError, match=r"ledger\.tile-missing"):
        TileReader(lambda path: None if "entries" in path else log.resource(path), checkpoint).entry(0)


def test_a_forged_checkpoint_does_not_fit_the_tiles(log):
    with pytest.raises(LedgerError, match=r"ledger\.tile-invalid"):
        TileReader(log.resource, Checkpoint("log.example", SIZE, bytes(32)))
    with pytest.raises(LedgerError, match=r"ledger\.tile-missing"):
        TileReader(log.resource, Checkpoint("log.example", SIZE + 1, bytes(32)))


def test_an_empty_log_has_nothing_to_read():
    empty = Log(MemoryStore(), Identity.from_seed(b"l" * 32), "log.example")
    reader = TileReader(empty.resource, verify_checkpoint(empty.checkpoint(), empty.vkey))
    assert reader.root(0) == empty.root()
    assert reader.consistency_proof(0) == ()


def test_the_log_serves_what_exists_and_nothing_else(log):
    assert len(log.resource("tile/0/273.p/112")) == 112 * 32
    assert len(log.resource("tile/0/273.p/7")) == 7 * 32  # of an earlier checkpoint
    assert decode_bundle(log.resource("tile/entries/273.p/2"), 2) == [b"entry 69888", b"entry 69889"]
    for path in (
        "tile/0/273",
        "tile/0/273.p/113",
        "tile/0/274.p/1",
        "tile/entries/274.p/1",
        "tile/3/000.p/1",
        "other",
        "",
    ):
        assert log.resource(path) is None


def test_a_folder_reader_reads_resources_only(tmp_path):
    (tmp_path / "secret").write_bytes(b"x")
    (tmp_path / "checkpoint").write_bytes(b"note")
    (tmp_path / "tile/0").mkdir(parents=True)
    (tmp_path / "tile/0/000").write_bytes(b"hashes")
    fetch = folder_reader(tmp_path)
    assert fetch("checkpoint") == b"note"
    assert fetch("tile/0/000") == b"hashes"
    for path in ("secret", "../secret", "tile/0/001", "tile/0/000.p/3", "tile/0", ".lock"):
        assert fetch(path) is None
