"""The log over each of its stores: the same tree, no lost entries, no second history."""

import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
from sqlalchemy import create_engine, event

from mitai.errors import LedgerError
from mitai.identity import Identity
from mitai.ledger import sql
from mitai.ledger.log import Log
from mitai.ledger.note import COSIGNATURE, Note, cosign, parse_note, sign_checkpoint, verify_checkpoint, vkey
from mitai.ledger.store import FolderStore, MemoryStore
from mitai.ledger.tiles import TileReader, folder_reader
from mitai.ledger.tree import leaf_hash
from mitai.ledger.verify import verify_log

SIGNER = Identity.from_seed(b"l" * 32)
BATCHES = (1, 1, 253, 1, 1, 0, 255, 256, 600, 3)


def database(path):
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 30})

    @event.listens_for(engine, "connect")
    def wal(connection, _):
        connection.execute("PRAGMA journal_mode=WAL")

    sql.metadata.create_all(engine)
    return engine


def entries(start, count):
    return [b"entry %d" % index for index in range(start, start + count)]


class CommittingLog(Log):
    """A log whose every append is a transaction."""

    def __init__(self, store, signer, origin, connection):
        super().__init__(store, signer, origin)
        self.connection = connection

    def append(self, data):
        indices = super().append(data)
        self.connection.commit()
        return indices


@pytest.fixture(params=["memory", "folder", "sql"])
def log(request, tmp_path):
    if request.param == "memory":
        yield Log(MemoryStore(), SIGNER, "log.example")
    elif request.param == "folder":
        with FolderStore(tmp_path / "log") as store:
            yield Log(store, SIGNER, "log.example")
    else:
        engine = database(tmp_path / "log.db")
        with engine.connect() as connection:
            yield CommittingLog(sql.SqlStore(connection), SIGNER, "log.example", connection)
        engine.dispose()


def filled(log):
    size = 0
    for count in BATCHES:
        assert log.append(entries(size, count)) == range(size, size + count)
        size += count
    return size


def test_all_stores_grow_the_same_tree(log):
    size = filled(log)
    reference = Log(MemoryStore(), SIGNER, "log.example")
    reference.append(entries(0, size))
    assert log.size == size
    for at in (0, 1, 255, 256, 257, 511, size):
        assert log.root(at) == reference.root(at)
    assert log.checkpoint() == reference.checkpoint()
    for index in (0, 254, 255, 256, size - 1):
        assert log.entry(index) == b"entry %d" % index
        assert log.inclusion_proof(index) == reference.inclusion_proof(index)
        assert log.consistency_proof(index) == reference.consistency_proof(index)
    assert verify_log(log.resource, log.vkey).checkpoint.size == size


def test_bounds(log):
    filled(log)
    for call in (
        lambda: log.entry(log.size),
        lambda: log.entry(-1),
        lambda: log.root(log.size + 1),
        lambda: log.root(-1),
        lambda: log.inclusion_proof(0, log.size + 1),
        lambda: log.inclusion_proof(log.size),
        lambda: log.consistency_proof(0, log.size + 1),
    ):
        with pytest.raises(LedgerError, match=r"ledger\.index-out-of-range"):
            call()
    size = log.size
    with pytest.raises(LedgerError, match=r"ledger\.entry-too-large"):
        log.append([b"fine", b"x" * 65536])
    assert log.size == size
    assert log.append([b"x" * 65535, b""]) == range(size, size + 2)
    assert log.entry(size) == b"x" * 65535
    assert log.entry(size + 1) == b""


def test_a_cosigned_checkpoint_is_published_and_served_while_it_is_current(log):
    log.append([b"a", b"b"])
    note = parse_note(log.checkpoint())
    witness = Identity.from_seed(b"w" * 32)
    cosigned = Note(note.text, (*note.signatures, cosign(note.text, "w.example", witness, 1))).encode()
    log.publish(cosigned)
    assert log.checkpoint() == log.resource("checkpoint") == cosigned
    log.append([b"c"])
    fresh = log.checkpoint()
    assert verify_checkpoint(fresh, log.vkey).size == 3
    with pytest.raises(LedgerError, match=r"witnesses-missing"):
        verify_checkpoint(fresh, log.vkey, [vkey("w.example", witness.public, kind=COSIGNATURE)], 1)


def test_a_checkpoint_of_another_history_is_not_published(log):
    log.append([b"a", b"b"])
    for size, root in ((2, bytes(32)), (3, bytes(32)), (1, log.root(1))):
        with pytest.raises(LedgerError, match=r"ledger\.checkpoint-invalid"):
            log.publish(sign_checkpoint("log.example", size, root, SIGNER))
    with pytest.raises(LedgerError, match=r"ledger\.checkpoint-unsigned"):
        log.publish(sign_checkpoint("log.example", 2, log.root(), Identity.generate()))


# ---------------------------------------------------------------- the folder


def test_a_folder_is_reopened_where_it_was_left(tmp_path):
    with FolderStore(tmp_path) as store:
        size = filled(Log(store, SIGNER, "log.example"))
    with FolderStore(tmp_path) as store:
        log = Log(store, SIGNER, "log.example")
        assert log.size == size
        log.append(entries(size, 1))
        assert verify_log(folder_reader(tmp_path), log.vkey).checkpoint.size == size + 1
        store.close()
        store.close()  # twice does no harm


def test_a_folders_checkpoint_never_goes_back(tmp_path):
    """It is where the log ends: an older one, however well signed, would make the next append a fork."""
    with FolderStore(tmp_path) as store:
        log = Log(store, SIGNER, "log.example")
        log.append([b"a"])
        older = log.checkpoint()
        log.append([b"b"])
        with pytest.raises(LedgerError, match=r"ledger\.checkpoint-invalid"):
            store.publish(older)
        assert store.checkpoint() == log.checkpoint()


def test_one_process_writes_a_folder(tmp_path):
    with FolderStore(tmp_path), pytest.raises(LedgerError, match=r"ledger\.locked"):
        FolderStore(tmp_path)
    FolderStore(tmp_path).close()


def test_partial_tiles_go_when_the_full_one_is_there(tmp_path):
    with FolderStore(tmp_path) as store:
        log = Log(store, SIGNER, "log.example")
        for count in (100, 100, 100):
            log.append(entries(log.size, count))
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {
        ".lock",
        "checkpoint",
        "tile/0/000",
        "tile/0/001.p/44",
        "tile/1/000.p/1",
        "tile/entries/000",
        "tile/entries/001.p/44",
    }


def test_a_lost_tile_stops_the_log_and_not_silently(tmp_path):
    with FolderStore(tmp_path) as store:
        log = Log(store, SIGNER, "log.example")
        log.append(entries(0, 300))
        (tmp_path / "tile/0/001.p/44").unlink()
        with pytest.raises(LedgerError, match=r"ledger\.tile-missing"):
            log.append([b"x"])
        assert log.size == 300


WRITER = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from mitai.identity import Identity
    from mitai.ledger.log import Log
    from mitai.ledger.store import FolderStore

    log = Log(FolderStore(Path(sys.argv[1])), Identity.from_seed(b"l" * 32), "log.example")
    while True:
        indices = log.append([b"entry %d" % index for index in range(log.size, log.size + 37)])
        print(indices.stop, flush=True)
    """
)


def test_kill_at_any_moment_loses_nothing_that_was_acknowledged(tmp_path):
    acknowledged = 0
    for round_number in range(6):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE)
        for _ in range(3 + 5 * round_number):
            acknowledged = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        acknowledged = max([acknowledged, *map(int, process.stdout.read().split())])
        process.stdout.close()
        process.wait()
        report = verify_log(folder_reader(tmp_path), vkey("log.example", SIGNER.public), visit=_expect)
        assert acknowledged <= report.checkpoint.size <= acknowledged + 37


def _expect(index, entry):
    assert entry == b"entry %d" % index


@pytest.mark.parametrize("step", range(12))
def test_a_crash_between_any_two_steps_leaves_the_old_log_or_the_new(tmp_path, monkeypatch, step):
    """Fail the n-th rename: what was published before must verify, and the next append must succeed."""
    with FolderStore(tmp_path) as store:
        Log(store, SIGNER, "log.example").append(entries(0, 250))
    remaining = step
    rename = Path.replace

    def failing(self, target):
        nonlocal remaining
        if remaining == 0:
            raise OSError("the machine stopped")
        remaining -= 1
        return rename(self, target)

    with FolderStore(tmp_path) as store:
        monkeypatch.setattr(Path, "replace", failing)
        try:
            Log(store, SIGNER, "log.example").append(entries(250, 300))
            written = 550
        except OSError:
            written = 250
        monkeypatch.setattr(Path, "replace", rename)
        if written == 250:
            with pytest.raises(LedgerError, match=r"ledger\.interrupted"):
                Log(store, SIGNER, "log.example").append([b"another"])
    assert written == (250 if step < 8 else 550)  # 4 tiles, 3 bundles, the checkpoint
    log_vkey = vkey("log.example", SIGNER.public)
    assert verify_log(folder_reader(tmp_path), log_vkey).checkpoint.size == written
    with FolderStore(tmp_path) as store:
        Log(store, SIGNER, "log.example").append([b"another"])
    found = []
    verify_log(folder_reader(tmp_path), log_vkey, visit=lambda index, entry: found.append(entry))
    assert found == [*entries(0, written), b"another"]


def test_what_was_published_before_a_failure_is_not_signed_away(tmp_path, monkeypatch):
    """The checkpoint is in place, and then its folder can't be synced: going on from the old size would be a fork."""
    with FolderStore(tmp_path) as store:
        log = Log(store, SIGNER, "log.example")
        log.append([b"a"])
        monkeypatch.setattr(FolderStore, "_put_checkpoint", _publish_and_fail)
        with pytest.raises(OSError, match="disk"):
            log.append([b"b"])
        monkeypatch.undo()
        with pytest.raises(LedgerError, match=r"ledger\.interrupted"):
            log.append([b"c"])
    with FolderStore(tmp_path) as store:
        assert Log(store, SIGNER, "log.example").append([b"c"]) == range(2, 3)


def _publish_and_fail(self, checkpoint):
    self._write("checkpoint", checkpoint)
    raise OSError("the disk failed")


def test_readers_see_a_whole_log_while_it_grows(tmp_path):
    fetch, key = folder_reader(tmp_path), vkey("log.example", SIGNER.public)
    failures, sizes, done = [], set(), threading.Event()

    def read():
        remembered = []
        while not done.is_set():
            note = fetch("checkpoint")
            if note is None:
                continue
            try:
                checkpoint = verify_checkpoint(note, key)
                reader = TileReader(fetch, checkpoint)
                assert reader.entry(checkpoint.size - 1) == b"entry %d" % (checkpoint.size - 1)
                assert all(reader.root(old.size) == old.root for old in remembered)
                remembered = [checkpoint]
                sizes.add(checkpoint.size)
            except Exception as error:  # noqa: BLE001 - reported by the test's own thread
                failures.append(error)
                return

    readers = [threading.Thread(target=read) for _ in range(2)]
    with FolderStore(tmp_path) as store:
        log = Log(store, SIGNER, "log.example")
        for reader in readers:
            reader.start()
        for count in (5, 60, 200, 7) * 10:
            log.append(entries(log.size, count))
        done.set()
        for reader in readers:
            reader.join()
    assert not failures
    assert len(sizes) > 1


# ---------------------------------------------------------------- the database


@pytest.fixture
def engine(tmp_path):
    engine = database(tmp_path / "log.db")
    yield engine
    engine.dispose()


def append(engine, *data):
    with engine.begin() as connection:
        return Log(sql.SqlStore(connection), SIGNER, "log.example").append(data)


def test_entries_commit_with_the_callers_transaction_or_not_at_all(engine):
    append(engine, b"a")
    with engine.connect() as connection:
        Log(sql.SqlStore(connection), SIGNER, "log.example").append(entries(0, 300))
        connection.rollback()
    with engine.begin() as connection:
        log = Log(sql.SqlStore(connection), SIGNER, "log.example")
        assert log.size == 1
        assert log.root() == leaf_hash(b"a")
    assert append(engine, b"b") == range(1, 2)
    with engine.begin() as connection:
        log = Log(sql.SqlStore(connection), SIGNER, "log.example")
        assert verify_log(log.resource, log.vkey).checkpoint.size == 2


def test_nothing_uncommitted_is_signed(engine):
    with engine.connect() as connection:
        with connection.begin():
            log = Log(sql.SqlStore(connection), SIGNER, "log.example")
            before = log.checkpoint()
            log.append([b"a"])
            with pytest.raises(LedgerError, match=r"ledger\.uncommitted"):
                log.checkpoint()
            with pytest.raises(LedgerError, match=r"ledger\.uncommitted"):
                Log(sql.SqlStore(connection), SIGNER, "log.example").checkpoint()  # another view, the same transaction
        with connection.begin():
            after = Log(sql.SqlStore(connection), SIGNER, "log.example").checkpoint()
    assert verify_checkpoint(before, log.vkey).size == 0
    assert verify_checkpoint(after, log.vkey).size == 1


def test_a_failed_statement_leaves_no_part_of_an_append(engine):
    append(engine, b"a")
    with engine.begin() as connection:
        connection.execute(sql.ledger_entries.insert(), {"position": 2, "data": b"in the way"})
    with engine.begin() as connection:
        log = Log(sql.SqlStore(connection), SIGNER, "log.example")
        with pytest.raises(Exception, match="UNIQUE"):
            log.append([b"b", b"c"])
        assert log.size == 1  # and the caller goes on to commit
    with engine.begin() as connection:
        log = Log(sql.SqlStore(connection), SIGNER, "log.example")
        assert log.size == 1
        assert verify_log(log.resource, log.vkey).checkpoint.size == 1


def test_writers_queue_up(tmp_path):
    engine = database(tmp_path / "log.db")
    indices, failures = [], []

    def write(number):
        for turn in range(20):
            try:
                indices.extend(append(engine, b"%d/%d" % (number, turn), b"x"))
            except Exception as error:  # noqa: BLE001 - reported by the test's own thread
                failures.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert sorted(indices) == list(range(160))
    with engine.begin() as connection:
        log = Log(sql.SqlStore(connection), SIGNER, "log.example")
        assert verify_log(log.resource, log.vkey).checkpoint.size == 160
    engine.dispose()


def test_postgresql(postgres_url):
    engine = create_engine(postgres_url)
    sql.metadata.create_all(engine)
    failures = []

    def write():
        try:
            for _ in range(10):
                append(engine, *entries(0, 30))
        except Exception as error:  # noqa: BLE001 - reported by the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    with engine.begin() as connection:
        log = Log(sql.SqlStore(connection), SIGNER, "log.example")
        assert verify_log(log.resource, log.vkey).checkpoint.size == 1200
        log.publish(log.checkpoint())
    engine.dispose()
