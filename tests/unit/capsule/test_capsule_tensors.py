"""Safetensors: strict headers, views without copies, memory that goes back."""

from __future__ import annotations

import gc
import json
import weakref

import pytest

from mitai.capsule import FolderSource, FolderStore, iter_shards, open_capsule, seal, tensors
from mitai.capsule.tensors import DTYPE_BYTES, parse_header, parse_shard
from mitai.errors import ParseError
from mitai.identity import Identity


def shard(entries, data: bytes = b"", *, length: int | None = None) -> memoryview:
    header = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    size = len(header) if length is None else length
    return memoryview(size.to_bytes(8, "little") + header + data)


def tensor(dtype="U8", shape=(4,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def refused(buffer):
    with pytest.raises(ParseError) as caught:
        parse_shard("x", buffer)
    assert caught.value.code == "capsule.safetensors-malformed"


def test_views_in_the_order_of_the_data():
    entries = {
        "__metadata__": {"format": "pt"},
        "b": tensor("BF16", (2, 3), (4, 16)),
        "a": tensor(),
        "scalar": tensor("F32", (), (16, 20)),
        "empty": tensor("I64", (0, 7), (20, 20)),
    }
    parsed = parse_shard("x", shard(entries, bytes(range(20))))
    assert parsed.metadata == {"format": "pt"}
    assert [(t.name, t.dtype, t.shape, bytes(t.data)) for t in parsed.tensors] == [
        ("a", "U8", (4,), bytes(range(4))),
        ("b", "BF16", (2, 3), bytes(range(4, 16))),
        ("scalar", "F32", (), bytes(range(16, 20))),
        ("empty", "I64", (0, 7), b""),
    ]
    assert "memory" not in repr(parsed)
    assert "\\x" not in repr(parsed)


def test_no_tensors_and_padding():
    assert parse_shard("x", shard(b"{}")).tensors == ()
    assert parse_shard("x", shard(b"{}      ")).tensors == ()


@pytest.mark.parametrize("dtype", sorted(DTYPE_BYTES))
def test_every_type(dtype):
    size = 3 * DTYPE_BYTES[dtype]
    assert parse_header(json.dumps({"t": tensor(dtype, (3,), (0, size))}).encode(), size)[1]["t"].dtype == dtype
    refused(shard({"t": tensor(dtype, (3,), (0, size + 1))}, bytes(size + 1)))


@pytest.mark.parametrize(
    "buffer",
    [
        memoryview(b""),
        memoryview(b"\0" * 7),
        memoryview(b"\0" * 8),
        memoryview(b"\xff" * 8 + b"{}"),
        shard(b"{}", length=3),
        shard(b"{}", length=1),
        shard(b" {}"),
        shard(b"[]"),
        shard(b"{"),
        shard(b"{}x"),
        shard(b"\xff\xfe"),
        shard(b"{" + b'"a":' * 3),
        shard(b'{"a":' * 200_000),
        shard({"t": 1}),
        shard({"t": {}}),
        shard({"t": {**tensor(), "more": 1}}, bytes(4)),
        shard({"__metadata__": {"a": 1}}),
        shard({"__metadata__": []}),
        shard({"t": tensor("F4")}, bytes(4)),
        shard({"t": tensor("u8")}, bytes(4)),
        shard({"t": tensor(shape=(5,))}, bytes(4)),
        shard({"t": tensor(shape=(-4,))}, bytes(4)),
        shard({"t": tensor(shape=(2.0, 2))}, bytes(4)),
        shard({"t": tensor(shape=(1,) * 65, offsets=(0, 1))}, bytes(1)),
        shard({"t": tensor(shape=(1 << 62, 1 << 62))}, bytes(4)),
        shard({"t": tensor(shape=(1 << 70,))}, bytes(4)),
        shard({"t": tensor(offsets=(0, 5))}, bytes(4)),
        shard({"t": tensor(offsets=(-4, 0))}, bytes(4)),
        shard({"t": tensor(offsets=(4, 0))}, bytes(4)),
        shard({"t": tensor(offsets=(1, 5))}, bytes(5)),
        shard({"t": tensor(offsets=(0, 4, 8))}, bytes(4)),
        shard({"t": tensor()}, bytes(3)),
        shard({"t": tensor()}, bytes(5)),
        shard({"t": tensor(), "u": tensor(offsets=(0, 4))}, bytes(4)),
        shard({"t": tensor(), "u": tensor(offsets=(3, 7))}, bytes(7)),
        shard({"t": tensor(), "u": tensor(offsets=(5, 9))}, bytes(9)),
    ],
)
def test_malformed(buffer):
    refused(buffer)


def test_a_header_above_the_limit(monkeypatch):
    monkeypatch.setattr(tensors, "MAX_HEADER_BYTES", 1)
    refused(shard(b"{}"))


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "plain"
    folder.mkdir()
    for number in (2, 1):
        data = bytes([number]) * 4096
        entries = {f"w{number}": tensor(shape=(64, 64), offsets=(0, 4096))}
        (folder / f"model-{number}.safetensors").write_bytes(shard(entries, data))
    (folder / "config.json").write_bytes(b"{}")
    return folder


def test_shards_of_a_plain_and_of_a_sealed_folder(model, tmp_path):
    owner = Identity.generate()
    sealed = seal(model, tmp_path / "sealed", owner=owner, name="n")
    opened = open_capsule(FolderStore(tmp_path / "sealed"), sealed.envelope, sealed.data_key, owner=owner.public)
    for source in (FolderSource(model), opened):
        found = [(s.name, t.name, t.shape, bytes(t.data)) for s in iter_shards(source) for t in s.tensors]
        assert found == [
            ("model-1.safetensors", "w1", (64, 64), b"\1" * 4096),
            ("model-2.safetensors", "w2", (64, 64), b"\2" * 4096),
        ]
        assert [s.name for s in iter_shards(source, ["model-2.safetensors"])] == ["model-2.safetensors"]


def test_a_file_shorter_than_a_header(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"")
    with pytest.raises(ParseError):
        list(iter_shards(FolderSource(tmp_path)))


def test_one_shard_in_memory_at_a_time(model, monkeypatch):
    import mmap

    alive = weakref.WeakSet()

    class Memory(mmap.mmap):
        pass

    def anonymous(size):
        memory = Memory(-1, size)
        alive.add(memory)
        return memory

    monkeypatch.setattr(tensors, "anonymous", anonymous)
    shards = iter_shards(FolderSource(model))
    first = next(shards)
    view = first.tensors[0].data
    del first
    gc.collect()
    assert len(alive) == 1
    del view
    gc.collect()
    assert len(alive) == 0
    assert next(shards).name == "model-2.safetensors"
    assert len(alive) <= 1
