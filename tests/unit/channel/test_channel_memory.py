"""Memory: the setting may be made anywhere; a block is used again only once nobody looks at it."""

from __future__ import annotations

import ctypes
from threading import Thread

from mitai.channel.memory import Scratch, ciphertext_scratch, keep_freed_memory


def test_it_may_be_called_again():
    keep_freed_memory()
    keep_freed_memory()
    assert len(bytearray(64 << 20)) == 64 << 20


def test_elsewhere_than_on_glibc_it_does_nothing(monkeypatch):
    def no_library(name):
        raise OSError("no such library")

    monkeypatch.setattr(ctypes, "CDLL", no_library)
    keep_freed_memory()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    keep_freed_memory()


def test_a_block_is_used_again_once_nobody_looks_at_it():
    scratch = Scratch()
    scratch.take(8)[:] = b"leftover"
    for _ in range(2):
        assert scratch.take(4) == b"left"


def test_a_block_that_is_looked_at_is_left_alone():
    scratch = Scratch()
    first = scratch.take(8)
    first[:] = b"observed"
    part = first[2:4]
    del first
    for size in (8, 4, 16, 0):
        other = scratch.take(size)
        assert bytes(other) == bytes(size)
        other[:] = b"x" * size
        assert part == b"se"


def test_sizes():
    scratch = Scratch()
    for size in (0, 1, 0, 100, 7, 1000, 1 << 20, 5):
        assert len(scratch.take(size)) == size


def test_each_thread_has_its_block_for_ciphertext():
    blocks = [ciphertext_scratch(), ciphertext_scratch()]
    thread = Thread(target=lambda: blocks.append(ciphertext_scratch()))
    thread.start()
    thread.join()
    assert blocks[0] is blocks[1] is not blocks[2]
