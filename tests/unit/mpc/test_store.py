"""Tapes at rest: what was written is read once, and never again, wherever the process is killed."""

from __future__ import annotations

import os
import secrets
import signal
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mitai.errors import MpcError
from mitai.identity import Identity
from mitai.mpc import store as module
from mitai.mpc.link import pair
from mitai.mpc.store import CHUNK_BYTES, Store, lasting_key

KEY = secrets.token_bytes(32)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "tapes", KEY, 0)


def make(store, tapes, program="p"):
    with store.batch() as batch:
        for number, data in tapes.items():
            sink = batch.tape(program, number)
            for start in range(0, len(data), 300_007):
                sink.write(data[start : start + 300_007])


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES + 5])
def test_what_is_written_is_read(store, size):
    data = os.urandom(size)
    make(store, {3: data})
    with store.take("p", 3) as tape:
        assert tape.read(size // 3) + tape.read(size) + tape.read(1) == data


def test_a_tape_is_there_once(store):
    make(store, {0: b"a", 1: b"b"})
    assert store.numbers("p") == [0, 1]
    store.take("p", 0).close()
    assert store.numbers("p") == [1]
    with pytest.raises(MpcError) as caught:
        store.take("p", 0)
    assert caught.value.code == "mpc.tape-missing"


def test_of_two_who_take_a_tape_one_gets_it(store, monkeypatch):
    """The other one has opened the file, too, when its name goes."""
    make(store, {0: b"a"})
    taken = []
    unlink = Path.unlink

    def slower(path):
        monkeypatch.undo()
        with store.take("p", 0) as tape:
            taken.append(tape.read(1))
        unlink(path)

    monkeypatch.setattr(Path, "unlink", slower)
    with pytest.raises(MpcError) as caught:
        store.take("p", 0)
    assert caught.value.code == "mpc.tape-missing"
    assert taken == [b"a"]


def test_programs_have_tapes_of_their_own(store):
    make(store, {0: b"a"}, "one")
    make(store, {0: b"b"}, "other")
    with store.take("other", 0) as tape:
        assert tape.read(2) == b"b"
    assert (store.numbers("one"), store.numbers("other")) == ([0], [])


def test_nothing_of_a_tape_is_on_the_disk_in_the_clear(store, tmp_path):
    make(store, {0: b"randomness" * 1000})
    (path,) = (tmp_path / "tapes").iterdir()
    assert b"randomness" not in path.read_bytes()
    assert path.parent.stat().st_mode & 0o77 == 0


def test_a_batch_that_fails_leaves_nothing(store, tmp_path):
    def fail():
        with store.batch() as batch:
            batch.tape("p", 0).write(b"a")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert list((tmp_path / "tapes").iterdir()) == []


def test_an_unfinished_batch_is_removed_by_the_next_process(store, tmp_path):
    (tmp_path / "tapes" / "x.part").write_bytes(b"half")
    again = Store(tmp_path / "tapes", KEY, 0)
    assert list((tmp_path / "tapes").iterdir()) == []
    make(again, {0: b"a"})
    again.clear()
    assert again.numbers("p") == []


def test_a_number_is_made_once(store):
    make(store, {0: b"a"})
    with pytest.raises(MpcError) as caught:
        make(store, {0: b"b"})
    assert caught.value.code == "mpc.tape-exists"
    with store.take("p", 0) as tape:
        assert tape.read(1) == b"a"


def test_a_full_store_takes_no_more(tmp_path):
    store = Store(tmp_path / "tapes", KEY, 0, limit_bytes=CHUNK_BYTES)
    make(store, {0: bytes(CHUNK_BYTES // 2)})
    with pytest.raises(MpcError) as caught:
        make(store, {1: bytes(CHUNK_BYTES)})
    assert caught.value.code == "mpc.store-full"
    assert store.numbers("p") == [0]
    assert store.used_bytes() < CHUNK_BYTES


@pytest.mark.parametrize("kind", ["key", "role", "program", "number"])
def test_a_tape_of_another_place_does_not_open(tmp_path, kind):
    make(Store(tmp_path / "a", KEY, 0), {0: b"data"})
    (path,) = (tmp_path / "a").iterdir()
    other = Store(tmp_path / "b", bytes(32) if kind == "key" else KEY, int(kind == "role"))
    program, number = "q" if kind == "program" else "p", int(kind == "number")
    path.rename(other._path(program, number))
    with pytest.raises(MpcError) as caught, other.take(program, number) as tape:
        tape.read(4)
    assert caught.value.code == "mpc.tape-damaged"


def test_no_byte_may_change(tmp_path):
    store = Store(tmp_path / "tapes", KEY, 0)
    make(store, {0: b"some data"})
    (path,) = (tmp_path / "tapes").iterdir()
    sealed = path.read_bytes()
    for at in range(len(sealed)):
        path.write_bytes(sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :])
        with pytest.raises(MpcError), store.take("p", 0) as tape:
            tape.read(100)


@pytest.mark.parametrize("keep", [0, 10, 40, 60, CHUNK_BYTES + 66, -1, -16])
def test_no_part_may_be_missing(tmp_path, keep):
    store = Store(tmp_path / "tapes", KEY, 0)
    make(store, {0: bytes(2 * CHUNK_BYTES)})
    (path,) = (tmp_path / "tapes").iterdir()
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(MpcError) as caught, store.take("p", 0) as tape:
        tape.read(3 * CHUNK_BYTES)
    assert caught.value.code == "mpc.tape-damaged"


def test_a_lasting_key_is_the_identitys():
    identity = Identity.generate()
    assert lasting_key(identity) == lasting_key(Identity.from_seed(identity.seed()))
    assert lasting_key(identity) != lasting_key(Identity.generate())
    assert lasting_key(identity) != identity.seed()


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([1, 2, 3], [1, 2, 3], 1),
        ([1, 2, 3], [3, 4], 3),
        ([2, 4, 6], [1, 3, 6], 6),
        ([1, 2], [3, 4], None),
        ([], [1], None),
        ([], [], None),
    ],
)
def test_parties_agree_on_the_lowest_tape_that_both_have(tmp_path, first, second, expected):
    stores = [Store(tmp_path / str(role), KEY, role) for role in (0, 1)]
    for store, numbers in zip(stores, (first, second), strict=True):
        make(store, dict.fromkeys(numbers, b"x"))
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda store, link: store.common("p", link), stores, pair()))
    assert found == [expected] * 2
    if expected is not None:
        assert [store.numbers("p")[0] for store in stores] == [expected] * 2


def test_a_copy_of_the_folder_that_is_put_back_is_of_no_use(tmp_path):
    stores = [Store(tmp_path / str(role), KEY, role) for role in (0, 1)]
    for store in stores:
        make(store, {0: b"x", 1: b"y"})
    copy = {path: path.read_bytes() for path in (tmp_path / "0").iterdir()}
    for store in stores:
        store.take("p", 0).close()
    for path, data in copy.items():
        path.write_bytes(data)
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda store, link: store.common("p", link), stores, pair())) == [1, 1]


# -- kill -9 at every step -----------------------------------------------------------------------------------


@pytest.fixture
def quick(tmp_path):
    """A folder where making something durable costs nothing, if there is one: killing needs no power cut."""
    if not Path("/dev/shm").is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


def killed_at(step, work):
    """Run `work` in a child that kills itself before line `step` of the module's lines that it comes to.

    Returns:
        Whether it came to the end before.
    """
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    left = step

    def trace(frame, event, _):
        nonlocal left
        if frame.f_code.co_filename != module.__file__:
            return None
        if event == "line":
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    try:
        sys.settrace(trace)
        work()
        sys.settrace(None)
        os._exit(0)
    finally:
        os._exit(1)


@pytest.mark.slow
def test_no_randomness_is_used_twice_wherever_a_process_is_killed(quick):
    """Tapes are used by processes that are killed one line later each time, two of them in each process."""
    used, tapes, total = quick / "used", quick / "tapes", 400
    make(Store(tapes, KEY, 0), {number: os.urandom(8) for number in range(total)})
    step = done = 0

    def work():
        store = Store(tapes, KEY, 0)
        for path in sorted(tapes.glob("*.tape"))[:2]:
            with store.take("p", int(path.stem[-12:])) as tape:
                data = tape.read(8)  # what follows is the use of it
                with used.open("ab", buffering=0) as file:
                    file.write(data)

    while not done:
        step += 1
        done = killed_at(step, work)
    data = used.read_bytes()
    uses = Counter(data[start : start + 8] for start in range(0, len(data), 8))
    assert len(uses) > 10  # some were killed between their two
    assert set(uses.values()) == {1}
    left = Store(tapes, KEY, 0).numbers("p")
    assert len(uses) < total - len(left) <= 2 * step  # some were lost, none is there twice


@pytest.mark.slow
def test_a_killed_process_leaves_whole_tapes_only(quick):
    step = done = 0
    while not done:
        step += 1
        folder = quick / str(step)
        done = killed_at(step, lambda folder=folder: make(Store(folder, KEY, 0), {0: b"a" * 20, 1: b"b" * 20}))
        store = Store(folder, KEY, 0)
        for number in store.numbers("p"):
            with store.take("p", number) as tape:
                assert tape.read(21) == (b"a", b"b")[number] * 20
    assert step > 30


def test_a_tapes_name_is_gone_for_good_before_a_byte_of_it_is_read(store, monkeypatch):
    make(store, {0: b"a"})
    events = []
    sync, read = os.fsync, module._exactly
    monkeypatch.setattr(os, "fsync", lambda descriptor: (events.append(("sync", store.numbers("p"))), sync(descriptor)))
    monkeypatch.setattr(module, "_exactly", lambda *read_it: (events.append("read"), read(*read_it))[1])
    store.take("p", 0).close()
    assert events == [("sync", []), "read"]
