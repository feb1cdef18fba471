"""Memory for megabytes: freed memory is kept, and the block of one chunk is used for the next.

glibc hands freed blocks of more than 128 KiB back to the kernel and faults them in again, zeroed, page by page. Where a
megabyte is sealed in 50 µs that costs several times more than the cipher (`benchmarks/LOG.md`). A server calls
`keep_freed_memory` once, when it starts; elsewhere than on glibc it does nothing.
"""

from __future__ import annotations

import ctypes
import threading
from typing import Final

_M_TRIM_THRESHOLD: Final = -1  # malloc.h
_M_MMAP_THRESHOLD: Final = -3
_KEPT_BYTES: Final = 256 << 20
_MAPPED_BYTES: Final = 32 << 20  # the largest that glibc accepts on 64-bit machines
_BLOCK_BYTES: Final = 512 << 10  # more is taken anew each time


def keep_freed_memory() -> None:
    """Let this process keep up to 256 MiB of freed memory, and take blocks below 32 MiB from it."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
    mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)


class Scratch:
    """A block of memory that is used again once nobody looks at it: a new one would be filled with zeros first.

    For plaintext only within one message: what is left over in a block must not reach another's.
    """

    def __init__(self) -> None:
        self._block = bytearray(1)

    def take(self, size: int) -> memoryview:
        """Return `size` bytes of which nobody else has a view; what they hold has no meaning."""
        if size > _BLOCK_BYTES:
            return memoryview(bytearray(size))
        block = self._block
        try:
            block.pop()  # refused while there is a view
            block.append(0)
        except BufferError:
            block = bytearray()
        if len(block) < size:
            block = self._block = bytearray(size)
        return memoryview(block)[:size]


_thread: Final = threading.local()


def ciphertext_scratch() -> Scratch:
    """Return this thread's block for ciphertext, which one message after another may use: it holds nothing secret."""
    try:
        scratch: Scratch = _thread.ciphertext
    except AttributeError:
        scratch = _thread.ciphertext = Scratch()
    return scratch
