"""The memory setting: it may be made anywhere, and changes nothing but where memory comes from."""

from __future__ import annotations

import ctypes

from mitai.channel.memory import keep_freed_memory


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
