"""Compiled modules: taken only where they were made from the sources that are there; both forms pass the same tests."""

from __future__ import annotations

import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from types import ModuleType

import pytest

from mitai.channel import bhttp, compiled, frames, hpke, memory, ohttp, padding

TESTS = Path(__file__).parents[2]
SOURCE = b"answer = 42\n"


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Compiled from the one source that is in `tmp_path`."""
    (tmp_path / "ohttp.py").write_bytes(SOURCE)
    package = ModuleType("mitai_channel")
    package.__file__ = "/somewhere/mitai_channel/__init__.py"
    package.SOURCES = {"ohttp.py": sha256(SOURCE).hexdigest()}
    monkeypatch.setitem(sys.modules, "mitai_channel", package)
    monkeypatch.delenv("MITAI_CHANNEL", raising=False)
    return tmp_path


def test_modules_made_from_these_sources_are_taken(made):
    assert compiled.folder(made) == "/somewhere/mitai_channel"


def test_an_edited_source_runs_as_it_is_written(made):
    (made / "ohttp.py").write_bytes(SOURCE + b"#")
    assert compiled.folder(made) is None


def test_they_can_be_left_out(made, monkeypatch):
    monkeypatch.setenv("MITAI_CHANNEL", "python")
    assert compiled.folder(made) is None


def test_nothing_is_needed(made, monkeypatch):
    monkeypatch.setitem(sys.modules, "mitai_channel", None)
    assert compiled.folder(made) is None


def test_all_are_compiled_or_none():
    kinds = {Path(module.__file__).suffix for module in (bhttp, frames, hpke, memory, ohttp, padding)}
    assert kinds == {".py" if compiled.FOLDER is None else ".so"}


@pytest.mark.skipif(compiled.FOLDER is None, reason="mitai-channel is not installed, or older than these sources")
def test_the_sources_pass_what_the_compiled_modules_pass():
    """This run tests the compiled modules; here their sources give the same bytes and the same refusals."""
    names = [
        "vectors/test_channel_vectors.py",
        *(f"unit/channel/test_channel_{n}.py" for n in ("bhttp", "hpke", "ohttp")),
    ]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(str(TESTS / name) for name in names)]
    run = subprocess.run(
        command, env={**os.environ, "MITAI_CHANNEL": "python"}, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout[-2000:]


def test_hkdf_comes_with_the_compiled_modules_where_libcrypto_is(monkeypatch):
    derive = compiled.derive or object()
    native = ModuleType("mitai_channel.hkdf")
    native.derive = derive
    monkeypatch.setitem(sys.modules, "mitai_channel.hkdf", native)
    monkeypatch.setitem(sys.modules, "mitai_channel", ModuleType("mitai_channel"))
    monkeypatch.setattr(compiled, "FOLDER", "/somewhere/mitai_channel")
    assert compiled._hkdf() is derive
    monkeypatch.setitem(sys.modules, "mitai_channel.hkdf", None)
    assert compiled._hkdf() is None
    monkeypatch.setattr(compiled, "FOLDER", None)
    assert compiled._hkdf() is None
