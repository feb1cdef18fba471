"""Stores: the same objects in a folder, in memory, and behind fsspec."""

from __future__ import annotations

import fsspec
import pytest

from mitai.capsule import FolderSource, FolderStore, FsspecStore, MemoryStore, open_capsule, verify_objects
from mitai.errors import CapsuleError


@pytest.fixture(params=["folder", "memory", "fsspec-file", "fsspec-memory"])
def store(request, capsule):
    if request.param == "folder":
        return FolderStore(capsule.folder)
    if request.param == "memory":
        return capsule.store()
    if request.param == "fsspec-file":
        return FsspecStore(f"file://{capsule.folder}")
    system = fsspec.filesystem("memory")
    for name, content in capsule.store().objects.items():
        system.pipe_file(f"/capsules/one/{name}", content)
    return FsspecStore("memory://capsules/one/")


def test_every_store_opens(store, capsule, contents):
    source = open_capsule(store, capsule.sealed.envelope, capsule.sealed.data_key, owner=capsule.owner.public)
    for name, content in contents.items():
        assert source.read(name) == content
    verify_objects(store, capsule.sealed.envelope, capsule.owner.public, names=store.names())


def test_what_is_not_there(store):
    for work in (lambda: store.size("0" * 32), lambda: store.read_into("0" * 32, 0, memoryview(bytearray(1)))):
        with pytest.raises(CapsuleError) as caught:
            work()
        assert caught.value.code == "capsule.object-missing"


@pytest.mark.parametrize("name", ["", "manifest.json", "../" + "0" * 32, "0" * 32 + "\n", "A" * 32, "0" * 31 + "/"])
def test_names_that_are_no_objects(store, name):
    for work in (lambda: store.size(name), lambda: store.read_into(name, 0, memoryview(bytearray(1)))):
        with pytest.raises(CapsuleError) as caught:
            work()
        assert caught.value.code == "capsule.object-name-invalid"


def test_what_a_driver_raises_becomes_our_error(monkeypatch):
    store = FsspecStore("memory://nothing")

    def fail(*_, **__):
        raise RuntimeError("secret detail")

    monkeypatch.setattr(store._system, "cat_file", fail)
    monkeypatch.setattr(store._system, "size", fail)
    monkeypatch.setattr(store._system, "ls", fail)
    for work in (
        lambda: store.size("0" * 32),
        lambda: store.read_into("0" * 32, 0, memoryview(bytearray(1))),
        store.names,
    ):
        with pytest.raises(CapsuleError) as caught:
            work()
        assert caught.value.code == "capsule.store-failed"
        assert "secret" not in str(caught.value)


def test_an_unknown_url(monkeypatch):
    with pytest.raises(CapsuleError) as caught:
        FsspecStore("nosuch://x")
    assert caught.value.code == "capsule.store-failed"


def test_memory_store_starts_empty():
    assert MemoryStore().names() == ()


def test_folder_source_is_the_same_interface(capsule, contents):
    source = FolderSource(capsule.plain)
    assert source.names() == tuple(sorted(contents)) == capsule.open().names()
    for name, content in contents.items():
        assert source.size(name) == len(content)
        assert source.read(name) == content
    buffer = bytearray(7)
    source.read_into("model.safetensors", 1000, memoryview(buffer))
    assert buffer == contents["model.safetensors"][1000:1007]
    for offset, length in ((-1, 1), (0, 24), (24, 0)):
        with pytest.raises(CapsuleError) as caught:
            source.read_into("config.json", offset, memoryview(bytearray(length)))
        assert caught.value.code == "capsule.range-invalid"


def test_a_folder_that_cannot_be_listed_is_refused(tmp_path, monkeypatch):
    import os

    (tmp_path / "closed").mkdir()
    scan = os.scandir

    def closed(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(CapsuleError) as caught:
        FolderSource(tmp_path)
    assert caught.value.code == "capsule.source-unreadable"


def test_a_plain_file_that_became_shorter(tmp_path):
    (tmp_path / "file").write_bytes(b"12345")
    source = FolderSource(tmp_path)
    (tmp_path / "file").write_bytes(b"123")
    with pytest.raises(CapsuleError) as caught:
        source.read("file")
    assert caught.value.code == "capsule.source-changed"
