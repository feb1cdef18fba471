"""Read and write large files past the page cache, where the system lets us.

Writing a gigabyte through the page cache costs ten times more processor time than encrypting it: every page is
allocated, filled and written back. With direct I/O (`open(2)`, `O_DIRECT`) the device takes the bytes from our buffer.

Invariants:

- The file's content is the same either way. Whole blocks of 4 KiB go directly, the rest of a file's last one goes
  through the page cache: no block takes both ways in one call.
- A file system that refuses direct I/O (EINVAL), or a system without it, is read and written through the page cache.
- Reading copies: what was read lies in the caller's memory, where nobody changes it any more.
- What the page cache already holds is read from there (as far as Linux tells, since 6.5): no device is faster.
- A descriptor is used by one thread at a time; position and buffer are aligned to 4 KiB, or the page cache is used.

Example:
    >>> write(descriptor, buffer, 0)  # doctest: +SKIP
    >>> read_into(descriptor, buffer, 0) == len(buffer)  # doctest: +SKIP
    True
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import signal
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

BLOCK_BYTES = 4096
HUGE_PAGE_BYTES = 2 << 20
_DIRECT: int = getattr(os, "O_DIRECT", 0)
_SYSCALL = ctypes.CDLL(None).syscall if _DIRECT else None
_CACHESTAT = 451  # the system call's number, on every architecture of Linux; since Linux 6.5


class Buffers:
    """Page-aligned buffers of one size, lent to one thread at a time and used again.

    There are as many as borrowers at once, and up to `rotate` that take turns.
    """

    def __init__(self, size: int, rotate: int = 1) -> None:
        self._size, self._rotate = size, rotate
        self._made = 0
        self._free: deque[memoryview] = deque()

    @contextmanager
    def lend(self) -> Iterator[memoryview]:
        """Lend a buffer; what it holds is left over from whoever had it before."""
        if self._made >= self._rotate and self._free:
            buffer = self._free.popleft()
        else:
            self._made += 1
            buffer = memoryview(anonymous(self._size))
        try:
            yield buffer
        finally:
            self._free.append(buffer)


def anonymous(size: int) -> mmap.mmap:
    """Return zeroed private memory outside of the heap, at least `size` bytes, where it is large in huge pages.

    It goes back to the system when the last view of it is gone.
    """
    large = size >= HUGE_PAGE_BYTES and hasattr(mmap, "MADV_HUGEPAGE")
    unit = HUGE_PAGE_BYTES if large else 1  # Linux aligns memory to huge pages if its size is
    memory = mmap.mmap(-1, max(1, -(-size // unit) * unit), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if large:
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def write(descriptor: int, data: memoryview, position: int) -> None:
    """Write all of `data` at `position`; raise `OSError` when the file system has no room or fails."""
    done, whole = 0, _whole(len(data))
    if whole and _switch(descriptor, on=True):
        done = _write(descriptor, data[:whole], position, refusal=errno.EINVAL)
        _switch(descriptor, on=False)
    _write(descriptor, data[done:], position + done)


def read_into(descriptor: int, buffer: memoryview, position: int) -> int:
    """Fill `buffer` from `position` on; return the bytes read, fewer only at the end of the file."""
    done, whole = 0, _whole(len(buffer))
    if whole and not _cached(descriptor, position, whole) and _switch(descriptor, on=True):
        done = _read(descriptor, buffer[:whole], position, refusal=errno.EINVAL)
        _switch(descriptor, on=False)
    return done + _read(descriptor, buffer[done:], position + done)


@contextmanager
def mapped(descriptor: int, position: int, length: int) -> Iterator[memoryview | None]:
    """Give a part of a file as memory, without a copy; None where it has to be read.

    Mapped memory whose file is cut short, or whose disk fails, would kill this process (SIGBUS). So only what the page
    cache holds is mapped, and a read lease (fcntl(2)) keeps writers waiting until the block ends. The lease is refused
    for files that are open for writing or another user's, and by file systems without leases. Views of the memory must
    be gone when the block ends.
    """
    if not length or not _cached(descriptor, position, length, unknown=False) or not _leased(descriptor):
        yield None
        return
    try:
        if os.fstat(descriptor).st_size < position + length:
            yield None  # the reader says what is wrong
            return
        before = position % mmap.ALLOCATIONGRANULARITY
        flags, start = mmap.MAP_SHARED | mmap.MAP_POPULATE, position - before
        with (
            mmap.mmap(descriptor, before + length, flags=flags, prot=mmap.PROT_READ, offset=start) as memory,
            memoryview(memory) as whole,
            whole[before:] as part,
        ):
            yield part
    finally:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)


def _leased(descriptor: int) -> bool:
    """Take a read lease; tell whether it was given. Whoever wants to write is not to end this process by a signal."""
    if sys.platform != "linux":
        return False
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)  # which is ignored unless somebody asks for it
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError:
        return False
    return True


def _write(descriptor: int, data: memoryview, position: int, refusal: int | None = None) -> int:
    """Write until the end, or until the system refuses with `refusal`; return the bytes written."""
    done = 0
    while done < len(data):
        try:
            done += os.pwrite(descriptor, data[done:], position + done)
        except OSError as error:
            if error.errno != refusal:
                raise
            break
    return done


def _read(descriptor: int, buffer: memoryview, position: int, refusal: int | None = None) -> int:
    """Read until the buffer or the file ends, or the system refuses with `refusal`; return the bytes read."""
    done = 0
    while done < len(buffer):
        try:
            got = os.preadv(descriptor, [buffer[done:]], position + done)
        except OSError as error:
            if error.errno != refusal:
                raise
            break
        if not got:
            break
        done += got
    return done


def _whole(size: int) -> int:
    """Return how many of `size` bytes are whole blocks."""
    return size - size % BLOCK_BYTES


def _cached(descriptor: int, position: int, length: int, *, unknown: bool = True) -> bool:
    """Return whether all of this part of a file lies in the page cache, `unknown` if nobody tells: cachestat(2)."""
    if _SYSCALL is None:
        return unknown
    found = (ctypes.c_uint64 * 5)()  # of pages: cached, dirty, being written, evicted, evicted lately
    if _SYSCALL(_CACHESTAT, descriptor, (ctypes.c_uint64 * 2)(position, length), found, 0):
        return unknown
    return int(found[0]) * mmap.PAGESIZE >= length


def _switch(descriptor: int, *, on: bool) -> bool:
    """Turn direct I/O on or off; return whether the file system does it."""
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | _DIRECT if on else flags & ~_DIRECT)
    except OSError:
        return False
    return bool(_DIRECT)
