"""Direct I/O: the same bytes past the page cache, through it, and where a file system refuses halfway."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import random
import secrets
import subprocess
import sys
import textwrap

import pytest

from mitai.capsule import FolderStore, open_capsule, seal
from mitai.capsule import directio as direct
from mitai.capsule.segments import SEGMENT_BYTES
from mitai.errors import CapsuleError
from mitai.identity import Identity

O_DIRECT = getattr(os, "O_DIRECT", 0)
CONTENT = os.urandom(3 * direct.BLOCK_BYTES + 100)
needs_direct_io = pytest.mark.skipif(not O_DIRECT, reason="this system has no direct I/O")


def is_direct(descriptor):
    return bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & O_DIRECT)


def refuse_the_flag(monkeypatch):
    """What file systems without direct I/O do."""
    inner = fcntl.fcntl

    def refusing(descriptor, command, argument=0):
        if command == fcntl.F_SETFL and argument & O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return inner(descriptor, command, argument)

    monkeypatch.setattr(fcntl, "fcntl", refusing)


def refuse_each_call(monkeypatch):
    """What file systems with stricter alignment do: the flag is taken, reads and writes are not."""

    def refusing(inner):
        def call(descriptor, *arguments):
            if is_direct(descriptor):
                raise OSError(errno.EINVAL, "Invalid argument")
            return inner(descriptor, *arguments)

        return call

    monkeypatch.setattr(os, "pwrite", refusing(os.pwrite))
    monkeypatch.setattr(os, "preadv", refusing(os.preadv))


def stop_short(monkeypatch):
    """Each call does a little, not even a whole block."""
    write, read = os.pwrite, os.preadv

    def short_write(descriptor, data, position):
        return write(descriptor, data[: 4096 if is_direct(descriptor) else 1000], position)

    def short_read(descriptor, buffers, position):
        return read(descriptor, [buffers[0][: 4096 if is_direct(descriptor) else 1000]], position)

    monkeypatch.setattr(os, "pwrite", short_write)
    monkeypatch.setattr(os, "preadv", short_read)


def without_it(monkeypatch):
    """Another system than Linux."""
    monkeypatch.setattr(direct, "_DIRECT", 0)
    monkeypatch.setattr(direct, "_SYSCALL", None)


def without_cachestat(monkeypatch):
    """Linux before 6.5."""
    monkeypatch.setattr(direct, "_SYSCALL", lambda *_: -1)


def nothing(monkeypatch):
    pass


WAYS = [nothing, refuse_the_flag, refuse_each_call, stop_short, without_it, without_cachestat]


@pytest.fixture
def descriptor(tmp_path):
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


def evict(descriptor):
    os.fsync(descriptor)
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("position", [0, 4096, 4097])
@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 8192, len(CONTENT)])
def test_what_is_written_is_read(descriptor, tmp_path, monkeypatch, way, position, shift, size):
    way(monkeypatch)
    room = memoryview(direct.anonymous(len(CONTENT) + 10))
    data = room[shift : shift + size]
    data[:] = CONTENT[:size]
    direct.write(descriptor, data, position)
    assert not is_direct(descriptor)
    assert (tmp_path / "file").read_bytes() == (bytes(position) + CONTENT[:size] if size else b"")
    for prepare in (evict, lambda _: (tmp_path / "file").read_bytes()):
        prepare(descriptor)
        data[:] = bytes(size)
        assert direct.read_into(descriptor, data, position) == size
        assert data == CONTENT[:size]
    longer = room[: size + 10]
    assert direct.read_into(descriptor, longer, position) == size, "the file ends there"
    assert longer[:size] == CONTENT[:size]
    assert not is_direct(descriptor)


@needs_direct_io
def test_whole_blocks_go_past_the_page_cache_and_what_it_holds_is_used(descriptor, monkeypatch):
    seen = []
    for name in ("pwrite", "preadv"):
        inner = getattr(os, name)

        def call(descriptor, data, position, inner=inner, name=name):
            size = len(data if name == "pwrite" else data[0])
            seen.append((name, is_direct(descriptor), size, position))
            return inner(descriptor, data, position)

        monkeypatch.setattr(os, name, call)
    buffer = memoryview(direct.anonymous(8292))[:8292]
    direct.write(descriptor, buffer, 4096)
    assert seen == [("pwrite", True, 8192, 4096), ("pwrite", False, 100, 12288)]
    for cached in (False, True):
        seen.clear()
        monkeypatch.setattr(direct, "_cached", lambda *_, cached=cached: cached)
        assert direct.read_into(descriptor, buffer, 4096) == 8292
        whole = [("preadv", True, 8192, 4096), ("preadv", False, 100, 12288)]
        assert seen == ([("preadv", False, 8292, 4096)] if cached else whole)


@needs_direct_io
def test_what_the_page_cache_holds_is_seen(descriptor, tmp_path):
    if direct._SYSCALL(direct._CACHESTAT, descriptor, (ctypes.c_uint64 * 2)(), (ctypes.c_uint64 * 5)(), 0):
        pytest.skip("this system has no cachestat(2)")
    (tmp_path / "file").write_bytes(CONTENT)
    assert direct._cached(descriptor, 0, 12288)
    assert direct._cached(descriptor, 4096, 4096)
    assert not direct._cached(descriptor, 8192, 16384), "the file ends before"


@needs_direct_io
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_other_failures_are_raised(descriptor, monkeypatch, number):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    buffer = memoryview(direct.anonymous(4096))
    direct.write(descriptor, buffer, 0)
    monkeypatch.setattr(os, "pwrite", fail)
    monkeypatch.setattr(os, "preadv", fail)
    monkeypatch.setattr(direct, "_cached", lambda *_: False)
    for work in (direct.write, direct.read_into):
        with pytest.raises(OSError, match=os.strerror(number)):
            work(descriptor, buffer, 0)


def test_buffers_are_lent_to_one_at_a_time_and_used_again():
    buffers = direct.Buffers(10)
    with buffers.lend() as one, buffers.lend() as two:
        one[:3] = b"one"
        assert bytes(two[:3]) == bytes(3)
    with buffers.lend() as again:
        assert again is one or again is two
    with pytest.raises(KeyError), buffers.lend():
        raise KeyError
    with buffers.lend() as found:
        assert found is one or found is two


def test_buffers_take_turns():
    buffers, seen = direct.Buffers(10, rotate=3), []
    for _ in range(7):
        with buffers.lend() as buffer:
            seen.append(id(buffer))
    assert [seen.index(buffer) for buffer in seen] == [0, 1, 2, 0, 1, 2, 0]


@pytest.mark.parametrize("size", [0, 1, 4097, (2 << 20) - 1, 2 << 20, (2 << 20) + 1])
def test_memory_is_large_enough_zeroed_and_aligned(size):
    with direct.anonymous(size) as memory:
        assert len(memory) >= size
        assert not any(memory[:size])
        assert ctypes.addressof(ctypes.c_char.from_buffer(memory)) % direct.BLOCK_BYTES == 0


# --- capsules ------------------------------------------------------------------------------------

FILES = {
    "block.bin": os.urandom(2 * 4096 - 56),  # its object has two whole blocks
    "empty": b"",
    "small.json": b"{}",
    "weights.bin": os.urandom(SEGMENT_BYTES + 3 * 4096 + 5),
}


@pytest.fixture
def plain(tmp_path):
    (tmp_path / "plain").mkdir()
    for name, content in FILES.items():
        (tmp_path / "plain" / name).write_bytes(content)
    return tmp_path / "plain"


def test_objects_are_the_same_whichever_way_they_are_written(plain, tmp_path, monkeypatch):
    owner, made = Identity.generate(), []
    for number, way in enumerate(WAYS):
        dest = tmp_path / str(number)
        with monkeypatch.context() as patch:
            numbers = random.Random(1)
            patch.setattr(secrets, "token_bytes", numbers.randbytes)
            patch.setattr(secrets, "token_hex", lambda size, numbers=numbers: numbers.randbytes(size).hex())
            way(patch)
            sealed = seal(plain, dest, owner=owner, name="n", workers=1)
            made.append({name: (dest / name).read_bytes() for name in FolderStore(dest).names()})
            source = open_capsule(FolderStore(dest), sealed.envelope, sealed.data_key, owner=owner.public)
            assert {name: source.read(name) for name in source.names()} == FILES
    assert all(objects == made[0] for objects in made)
    assert sorted(map(len, made[0].values())) == [56, 58, 8192, (16 << 20) + 3 * 4096 + 5 + 56]


def test_an_object_read_from_the_disk_is_the_one_in_the_page_cache(plain, tmp_path):
    owner = Identity.generate()
    sealed = seal(plain, tmp_path / "sealed", owner=owner, name="n")
    source = open_capsule(FolderStore(tmp_path / "sealed"), sealed.envelope, sealed.data_key, owner=owner.public)
    for prepare in (evict, lambda descriptor: os.pread(descriptor, 32 << 20, 0)):
        for name in FolderStore(tmp_path / "sealed").names():
            descriptor = os.open(tmp_path / "sealed" / name, os.O_RDONLY)
            prepare(descriptor)
            os.close(descriptor)
        assert {name: source.read(name) for name in source.names()} == FILES


LIMITED = textwrap.dedent(
    """
    import resource, sys
    from pathlib import Path
    from mitai.capsule import seal
    from mitai.errors import CapsuleError
    from mitai.identity import Identity

    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]), resource.RLIM_INFINITY))
    try:
        seal(Path(sys.argv[1]), Path(sys.argv[2]), owner=Identity.load(Path(sys.argv[3])), name="n", workers=1)
    except CapsuleError as error:
        print(error.code, "|", error.message, "|", error.hint)
    """
)


@pytest.mark.parametrize("limit", [6 << 20, (6 << 20) + 1000, (16 << 20) + 4096])
def test_no_room_in_the_middle_of_a_write_loses_nothing(plain, tmp_path, limit):
    """The kernel itself ends a write halfway, and refuses the rest."""
    owner, dest, key = Identity.generate(), tmp_path / "sealed", tmp_path / "owner.pem"
    owner.save(key)
    arguments = [sys.executable, "-c", LIMITED, plain, dest, key, str(limit)]
    result = subprocess.run(arguments, capture_output=True, timeout=60, check=True, text=True)
    code, message, hint = result.stdout.split(" | ")
    assert (code, message) == ("capsule.io-failed", "sealing stopped: File too large")
    assert "resume" in hint
    assert not (dest / "manifest.json").exists()
    left = {name: (dest / name).read_bytes() for name in FolderStore(dest).names()}
    assert max(map(len, left.values())) == limit
    sealed = seal(plain, dest, owner=owner, name="n")
    source = open_capsule(FolderStore(dest), sealed.envelope, sealed.data_key, owner=owner.public)
    assert {name: source.read(name) for name in source.names()} == FILES
    big = max(left, key=lambda name: len(left[name]))
    kept = (dest / big).read_bytes()[: 16 << 20] == left[big][: 16 << 20]
    assert kept == (limit > 16 << 20), "a whole segment is kept, a part of one is sealed again"
    with pytest.raises(CapsuleError, match=r"capsule\.exists"):
        seal(plain, dest, owner=owner, name="n")


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source"
    path.write_bytes(CONTENT)
    descriptor = os.open(path, os.O_RDONLY)
    yield path, descriptor
    os.close(descriptor)


def leases(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return direct._cached(descriptor, 0, 1, unknown=False) and direct._leased(descriptor)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(("position", "length"), [(0, len(CONTENT)), (5000, 100), (direct.BLOCK_BYTES, 1)])
def test_a_mapped_part_can_not_be_changed_meanwhile(source, position, length):
    path, descriptor = source
    if not leases(path):
        pytest.skip("this file system has no leases, or the system does not tell what it has cached")
    with direct.mapped(descriptor, position, length) as memory:
        assert bytes(memory) == CONTENT[position : position + length]
        with pytest.raises(BlockingIOError):  # who does not say so waits
            os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))


def test_what_can_not_be_mapped_is_left_to_reading(source, monkeypatch):
    path, descriptor = source
    with direct.mapped(descriptor, 0, 0) as memory:
        assert memory is None
    with direct.mapped(descriptor, 0, len(CONTENT) + 1) as memory:  # the file is shorter than it was
        assert memory is None
    with path.open("r+b"), direct.mapped(descriptor, 0, 10) as memory:  # somebody may write
        assert memory is None
    with monkeypatch.context() as other:
        other.setattr(direct.sys, "platform", "darwin")
        with direct.mapped(descriptor, 0, 10) as memory:
            assert memory is None
    monkeypatch.setattr(direct, "_SYSCALL", None)  # nobody tells what is cached
    with direct.mapped(descriptor, 0, 10) as memory:
        assert memory is None
    os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))  # no lease was left behind


def test_a_file_that_ends_after_the_lease_was_taken(source, monkeypatch):
    _, descriptor = source
    monkeypatch.setattr(direct, "_cached", lambda *_, **__: True)
    with direct.mapped(descriptor, 0, len(CONTENT) + 1) as memory:
        assert memory is None


def test_sealing_with_and_without_mapping(plain, tmp_path, monkeypatch):
    owner, key = Identity.generate(), secrets.token_bytes(32)

    def contents(dest):
        done = seal(plain, dest, owner=owner, name="x", data_key=key, workers=2)
        opened = open_capsule(FolderStore(dest), done.envelope, key, owner=owner.public)
        return {name: opened.read(name) for name in opened.names()}

    with_mapping = contents(tmp_path / "mapped")
    monkeypatch.setattr(direct, "_leased", lambda _: False)
    assert contents(tmp_path / "read") == with_mapping
